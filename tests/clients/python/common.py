"""What the checks of Python clients share.

Each client's file is run by the pytest in .venv-clients (tests/clients/test_python_clients.py). The
address of the service, which has the minimal engines, and its key come in variables.
"""

from __future__ import annotations

import io
import json
import os
import urllib.request
import wave

URL = os.environ["VOICE_ENGINE_URL"]
KEY = os.environ["VOICE_ENGINE_KEY"]
SAID = "Hello world."
"""Short, because it is recognized often, and that is what takes long."""

HEARD = r"(?i)hello world"
"""What is understood of `SAID`, as a regular expression."""

TEXT = "Hello world, how are you today? I am fine, thank you."


def recording(text: str = SAID) -> bytes:
    """A text as a WAV (PCM16, mono, 16 kHz), by a request of no client's library."""
    request = urllib.request.Request(
        f"{URL}/v1/tts",
        json.dumps({"text": text, "voice_id": "slt"}).encode(),
        {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=300) as answer:
        data: bytes = answer.read()
    return data


def samples(wav: bytes) -> bytes:
    """The PCM16 samples of such a WAV."""
    with wave.open(io.BytesIO(wav)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 16_000)
        frames: bytes = file.readframes(file.getnframes())
        return frames


def as_wav(pcm: bytes, rate: int) -> bytes:
    """PCM16 mono samples as a WAV."""
    file = io.BytesIO()
    with wave.open(file, "wb") as wav:
        wav.setnchannels(1)
        wav.setsampwidth(2)
        wav.setframerate(rate)
        wav.writeframes(pcm)
    return file.getvalue()


def seconds(pcm: bytes, rate: int) -> float:
    """How long PCM16 mono samples last."""
    return len(pcm) / 2 / rate
