"""Speech while the text is written, by the clients of others and as docs/live.md shows it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import av
import pytest
from elevenlabs import ElevenLabs, VoiceSettings
from elevenlabs.core import ApiError

from tests.support.service import MINIMAL, RunningService, running

pytestmark = pytest.mark.filterwarnings("ignore:ConnectionClosed:DeprecationWarning")
"""How ElevenLabs' client asks why a session has ended."""

KEY = "sesame"
TEXT = ["Hello wor", "ld, how are", " you today?", " I am fine,", " thank you."]


@pytest.fixture(scope="module")
def service() -> Iterator[RunningService]:
    with running({**MINIMAL, "VOICE_ENGINE_API_KEY": KEY}) as service:
        service.wait_ready()
        yield service


def client_of(service: RunningService, key: str = KEY) -> ElevenLabs:
    client = ElevenLabs(base_url=service.url, api_key=key)
    # It insists on TLS, which a proxy has in front of the service.
    client.text_to_speech._ws_base_url = service.url.replace("http", "ws", 1)
    return client


def duration(data: bytes) -> float:
    container: Any
    with av.open(io.BytesIO(data), "r") as container:
        lengths = [frame.samples / frame.sample_rate for frame in container.decode(audio=0)]
    return float(sum(lengths))


def test_elevenlabs_python_speaks_what_a_generator_yields(service: RunningService) -> None:
    convert = client_of(service).text_to_speech.convert_realtime
    sound = b"".join(convert("21m00Tcm4TlvDq8ikWAM", text=iter(TEXT)))
    assert 3 < duration(sound) < 6  # an MP3 of all pieces
    settings = VoiceSettings(stability=0.5, similarity_boost=0.7, speed=1.2)
    faster = convert("slt", text=iter(TEXT), voice_settings=settings, output_format="opus_48000_64")
    assert 3 / 1.2 < duration(b"".join(faster)) < duration(sound)


def test_elevenlabs_python_reports_errors(service: RunningService) -> None:
    with pytest.raises(Exception, match="401"):
        list(client_of(service, "wrong").text_to_speech.convert_realtime("slt", text=iter(TEXT)))
    with pytest.raises(ApiError) as caught:
        list(client_of(service).text_to_speech.convert_realtime("nobody", text=iter(TEXT)))
    assert "there is no voice 'nobody'" in str(caught.value)
