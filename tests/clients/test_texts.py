"""Texts as users send them, over HTTP: formatted, without words, with odd characters."""

from __future__ import annotations

import base64
import io
import itertools
import json
import wave
from collections.abc import Iterator
from typing import Any, get_args

import aiohttp
import av
import pytest

from ipc.formats import FORMATS, OutputFormat
from tests.support.service import MINIMAL, RunningService, running

FORMATTED = "**5 %** of `snake_case`"
AS_WORDS = "Five percent of snake case."


@pytest.fixture(scope="module")
def service() -> Iterator[RunningService]:
    with running(MINIMAL) as service:
        service.wait_ready()
        yield service


async def post(
    service: RunningService, path: str, body: dict[str, Any] | bytes
) -> tuple[int, bytes]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    async with (
        aiohttp.ClientSession(service.url) as client,
        client.post(path, data=data, headers=headers) as response,
    ):
        return response.status, await response.read()


FAMILIES: dict[str, tuple[str, dict[str, Any], str, dict[str, Any]]] = {
    # path, fields, name of the text, what turns the normalization off
    "native": ("/v1/tts", {}, "text", {"text_normalization": "off"}),
    "openai": (
        "/v1/audio/speech",
        {"model": "tts-1", "voice": "slt", "response_format": "wav"},
        "input",
        {"text_normalization": "off"},
    ),
    "elevenlabs": (
        "/v1/text-to-speech/slt?output_format=pcm_16000",
        {},
        "text",
        {"apply_text_normalization": "off"},
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
async def test_a_formatted_text_is_read_unless_the_client_wants_it_otherwise(
    service: RunningService, family: str
) -> None:
    path, fields, name, off = FAMILIES[family]
    auto, words, as_written = [
        await post(service, path, {**fields, name: text, **options})
        for text, options in ((FORMATTED, {}), (AS_WORDS, {}), (FORMATTED, off))
    ]
    assert auto[0] == words[0] == as_written[0] == 200
    assert auto == words != as_written


@pytest.mark.parametrize("family", FAMILIES)
async def test_the_language_of_the_text_decides_on_its_words(
    service: RunningService, family: str
) -> None:
    path, fields, name, _ = FAMILIES[family]
    language = "language_code" if family == "elevenlabs" else "language"
    german = await post(service, path, {**fields, name: "5 km", language: "de-DE"})
    assert german == await post(service, path, {**fields, name: "Fünf Kilometer."})
    english = await post(service, path, {**fields, name: "5 km"})
    assert english == await post(service, path, {**fields, name: "Five kilometers."})


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/tts", {"text": "Hi.", "text_normalization": "on"}),
        (
            "/v1/audio/speech",
            {"model": "m", "voice": "slt", "input": "Hi.", "text_normalization": "no"},
        ),
        ("/v1/text-to-speech/slt", {"text": "Hi.", "apply_text_normalization": "x"}),
    ],
)
async def test_an_unknown_value_is_refused(
    service: RunningService, path: str, body: dict[str, Any]
) -> None:
    status, answer = await post(service, path, body)
    assert (status, json.loads(answer)["error"]["code"]) == (400, "invalid_option")


WORDLESS = ["...", "🎉", " \n", "[laughs]", "\ud83d"]


@pytest.mark.parametrize("text", WORDLESS)
async def test_a_text_without_words_is_a_short_silence_for_clients_of_others(
    service: RunningService, text: str
) -> None:
    body = {"model": "tts-1", "voice": "slt", "input": text, "response_format": "wav"}
    status, answer = await post(service, "/v1/audio/speech", body)
    assert status == 200
    with wave.open(io.BytesIO(answer)) as sound:
        samples = sound.readframes(100_000)
        assert 0.1 < len(samples) / 2 / sound.getframerate() < 1
    assert not any(samples)
    status, answer = await post(service, "/v1/tts", {"text": text})
    assert (status, json.loads(answer)["error"]["code"]) == (400, "empty_text")


@pytest.mark.parametrize("name", [name for name, each in FORMATS.items() if each.everywhere])
async def test_the_silence_has_every_format_of_openai(service: RunningService, name: str) -> None:
    body = {"model": "tts-1", "voice": "slt", "input": "...", "response_format": name}
    status, answer = await post(service, "/v1/audio/speech", body)
    assert status == 200
    assert_sound(answer, name)
    status, answer = await post(service, "/v1/audio/speech", body | {"stream_format": "sse"})
    assert status == 200
    events = [json.loads(line[5:]) for line in answer.split(b"\n") if line.startswith(b"data:")]
    assert [event["type"] for event in events][-1] == "speech.audio.done"
    sound = b"".join(base64.b64decode(event["audio"]) for event in events[:-1])
    assert_sound(sound, name)


@pytest.mark.parametrize("end", ["", "/stream"])
async def test_the_silence_has_every_format_of_elevenlabs(
    service: RunningService, end: str
) -> None:
    for name in get_args(OutputFormat):
        path = f"/v1/text-to-speech/slt{end}?output_format={name}"
        status, answer = await post(service, path, {"text": "..."})
        assert status == 200, name
        assert_sound(answer, name.partition("_")[0])


def assert_sound(data: bytes, codec: str) -> None:
    """There are 0.1 to 1 s of sound in it."""
    if codec in ("pcm", "ulaw", "alaw"):
        assert 0 < len(data) < 100_000
        return
    with av.open(io.BytesIO(data), "r") as container:
        frames = [frame for frame in container.decode(audio=0) if isinstance(frame, av.AudioFrame)]
    assert 0.1 < sum(frame.samples / frame.sample_rate for frame in frames) < 1


async def test_the_silence_has_times(service: RunningService) -> None:
    path = "/v1/text-to-speech/slt/with-timestamps?output_format=pcm_16000"
    status, answer = await post(service, path, {"text": "... 🎉"})
    assert status == 200
    timed = json.loads(answer)
    seconds = len(base64.b64decode(timed["audio_base64"])) / 2 / 16_000
    assert timed["alignment"]["characters"] == list("... 🎉")
    assert timed["alignment"]["character_end_times_seconds"][-1] == pytest.approx(seconds, abs=0.01)
    assert timed["normalized_alignment"]["characters"] == []


async def test_times_are_those_of_the_text_that_was_sent(service: RunningService) -> None:
    text = "# Costs\n\nIt is **$5** [laughs] a day.\n\nThe *end* 🎉"
    path = "/v1/text-to-speech/slt/with-timestamps?output_format=pcm_16000"
    status, answer = await post(service, path, {"text": text})
    assert status == 200
    timed = json.loads(answer)
    own, spoken = timed["alignment"], timed["normalized_alignment"]
    assert "".join(own["characters"]) == text
    assert "".join(spoken["characters"]) == "Costs. It is five dollars a day. The end."
    for word in ("Costs", "It is", "The"):
        assert (
            own["character_start_times_seconds"][text.index(word)]
            == spoken["character_start_times_seconds"]["".join(spoken["characters"]).index(word)]
        )
    for times in (own, spoken):
        assert all(
            first <= second
            for first, second in itertools.pairwise(times["character_start_times_seconds"])
        )


@pytest.mark.parametrize(
    ("sent", "alike"),
    [
        (rb"Hello \ud83d there.", rb"Hello there."),
        (rb"Hello \ude00\ud83d there.", rb"Hello there."),
        (rb"Hello \ud83d\ude00 there.", rb"Hello there."),
        (rb"Hello \u00ad\u200bthere \\ud83d.", rb"Hello there ud eighty-three d."),
        ("Hello\u2028there мир.".encode(), b"Hello, there mir."),
    ],
)
async def test_an_odd_character_is_no_error(
    service: RunningService, sent: bytes, alike: bytes
) -> None:
    status, sound = await post(service, "/v1/tts", b'{"text":"%b"}' % sent)
    assert status == 200
    assert (status, sound) == await post(service, "/v1/tts", b'{"text":"%b"}' % alike)


async def test_many_digits_are_spoken_one_by_one(service: RunningService) -> None:
    status, sound = await post(service, "/v1/tts", {"text": "9" * 100})
    assert status == 200
    with wave.open(io.BytesIO(sound)) as spoken:
        assert 20 < spoken.getnframes() / spoken.getframerate() < 100
