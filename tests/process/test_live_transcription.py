"""Sessions for transcription, with engines whose every number follows from the sound."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest

from ipc.wav_header import wav_header
from tests.support.live_engines import DEADLY, HOLD, HOLDING, LOUD, dictated
from tests.support.service import ROOT, Gate, RunningService, running

ENGINES = {
    "VOICE_ENGINE_STT_ENGINE": "tests.support.live_engines:Dictation",
    "VOICE_ENGINE_VAD_ENGINE": "tests.support.live_engines:LoudListener",
}
RATE = 16_000
STREAM = "/v1/transcribe/stream"

Message = dict[str, Any]


def sound(*parts: tuple[float, int]) -> bytes:
    """So many seconds of samples of each value: PCM16 at 16 kHz."""
    return b"".join(
        np.full(round(seconds * RATE), value, "<i2").tobytes() for seconds, value in parts
    )


SAID = sound((0.5, 0), (1.0, LOUD), (0.6, 0))
"""An utterance of ten words, and its end."""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    hold = tmp_path_factory.mktemp("held") / "open"
    hold.touch()
    with running({**ENGINES, HOLD: str(hold)}) as service:
        service.wait_ready()
        yield service


class Client:
    """A client of our own protocol."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.told: list[Message] = []
        """What it was told and nobody has waited for."""

    async def start(self, **options: Any) -> None:
        await self.socket.send_json({"type": "start", **options})
        assert (await self.next())["type"] == "started"

    async def say(self, *sounds: bytes) -> None:
        for each in sounds:
            await self.socket.send_bytes(each)

    async def next(self) -> Message:
        message = await self.socket.receive()
        assert message.type is aiohttp.WSMsgType.TEXT, message
        told: Message = json.loads(message.data)
        return told

    async def until(self, type: str) -> Message:
        """The next message of this type."""
        while (message := await self.next())["type"] != type:
            self.told.append(message)
        return message

    async def end(self) -> list[Message]:
        """All that is told until the session is done."""
        await self.socket.send_json({"type": "end"})
        return await self.rest()

    async def rest(self) -> list[Message]:
        """All that is told until the end."""
        told, self.told = self.told, []
        async for message in self.socket:
            told.append(json.loads(message.data))
        return told


@asynccontextmanager
async def session(
    service: RunningService, path: str = STREAM, **kwargs: Any
) -> AsyncIterator[Client]:
    async with (
        aiohttp.ClientSession(service.url) as client,
        client.ws_connect(path, **kwargs) as socket,
    ):
        yield Client(socket)


def of(type: str, told: list[Message]) -> list[Message]:
    return [message for message in told if message["type"] == type]


def texts(told: list[Message]) -> list[str]:
    return [message["text"] for message in of("final", told)]


WORDS = dictated(np.full(RATE, LOUD, np.int16)).text
"""What is heard of a second of speech."""


async def test_a_session_tells_who_speaks_when_and_how(service: RunningService) -> None:
    async with session(service) as client:
        await client.start(words=True)
        await client.say(*(SAID[at : at + 3200] for at in range(0, len(SAID), 3200)))
        told = await client.end()
    (started,), (stopped,) = of("speech_started", told), of("speech_stopped", told)
    (final,) = of("final", told)
    # The speech begins in the 16th window, and ends in the 47th; 9 windows before it are kept.
    assert started == {"type": "speech_started", "utterance": 1, "at": 0.192}
    assert stopped == {"type": "speech_stopped", "utterance": 1, "at": 1.504}
    words = final.pop("words")
    assert [word["word"] for word in words] == WORDS.split()
    assert (words[0]["start"], words[-1]["end"]) == (0.5, 1.5)
    assert final == {
        **{"type": "final", "utterance": 1, "text": WORDS, "start": 0.192, "end": 1.504},
        **{"language": "en", "language_probability": 0.9},
        **{"emotion": "HAPPY", "emotion_probability": 0.75},
        **{"events": ["Speech"], "event_probability": 0.5},
    }
    assert told[-1] == {"type": "done"}
    assert client.socket.close_code == 1000


async def test_partial_texts_come_while_somebody_speaks(service: RunningService) -> None:
    async with session(service) as client:
        await client.start()
        partials = []
        for _ in range(4):
            await client.say(sound((0.5, LOUD)))
            partials.append(await client.until("partial"))
        told = await client.end()
    sizes = [len(partial["text"].split()) for partial in partials]
    assert sizes == sorted({*sizes})
    assert all(WORDS.startswith(partial["text"][:20]) for partial in partials)
    assert ["emotion" in partial for partial in partials] == [False, False, True, True]
    assert partials[-1]["emotion"] == "HAPPY"
    assert texts(told) == [f"{WORDS} {WORDS}"]


async def test_without_interim_each_utterance_is_heard_once(service: RunningService) -> None:
    async with session(service) as client:
        await client.start(interim=False, prompt="print heard once")
        await client.say(SAID, SAID)
        told = await client.end()
    assert of("partial", told) == []
    assert texts(told) == [WORDS, WORDS]
    async with session(service) as client:
        await client.start(interim=False, prompt="print all heard")
        await client.say(SAID)
        await client.end()
    await asyncio.to_thread(service.wait_for, "child_output", line="all heard")
    assert [event.get("line") for event in service.events].count("heard once") == 2


async def test_only_what_was_said_before_the_end_is_heard_early(service: RunningService) -> None:
    speech = sound((1.0, LOUD), (0.3, 0), (1.0, LOUD), (0.6, 0))
    async with session(service) as client:
        await client.start(interim=False)
        await client.say(*(speech[at : at + 3200] for at in range(0, len(speech), 3200)))
        assert texts(await client.end()) == [f"{WORDS} {WORDS}"]


async def test_the_client_ends_and_forgets_utterances(service: RunningService) -> None:
    async with session(service) as client:
        await client.start(vad=None)
        await client.say(sound((1.0, LOUD)))
        await client.socket.send_json({"type": "clear"})
        await client.say(sound((0.51, LOUD)))
        await client.socket.send_json({"type": "commit"})
        await client.socket.send_json({"type": "commit"})
        told = await client.end()
    assert texts(told) == ["one two three four five six", ""]
    first, second = of("final", told)
    assert (first["start"], first["end"]) == (1.0, 1.51)
    assert second["language"] == "nospeech"
    assert {message["type"] for message in told} <= {"partial", "final", "done"}


async def test_what_is_too_long_goes_on_as_another_utterance(service: RunningService) -> None:
    speech = sound(*[(0.8, LOUD), (0.096, 0)] * 10)
    async with session(service) as client:
        await client.start(vad={"max_utterance_s": 2}, interim=False)
        await client.say(speech)
        finals = of("final", await client.end())
    assert len(finals) == 5
    assert 80 <= sum(len(final["text"].split()) for final in finals) <= 84  # each rounds up
    ends = [final["end"] for final in finals]
    assert [final["start"] for final in finals[1:]] == ends[:-1]


async def test_long_sound_is_on_disk_and_then_gone(service: RunningService) -> None:
    async with session(service) as client:
        await client.start(vad=None)
        for _ in range(30):
            await client.say(sound((1.0, LOUD)))
        (final,) = of("final", await client.end())
    assert final["text"] == " ".join([WORDS] * 30)
    spools = [
        Path(file.path) for process in service.processes()[:1] for file in process.open_files()
    ]
    assert [path for path in spools if "spool" in path.name] == []


@pytest.mark.parametrize(
    ("format", "rate"), [("pcm16", 8000), ("pcm16", 48_000), ("pcm16", 44_100), ("mulaw", 8000)]
)
async def test_other_formats_say_the_same(service: RunningService, format: str, rate: int) -> None:
    loud = np.full(rate, 20_000, "<i2").tobytes() if format == "pcm16" else b"\x80" * rate
    silent = bytes(2 * rate) if format == "pcm16" else b"\xff" * rate
    async with session(service) as client:
        await client.start(format=format, sample_rate=rate)
        await client.say(silent, loud, silent)
        (final,) = of("final", await client.end())
    assert abs(len(final["text"].split()) - 10) <= 1
    assert (final["start"], final["end"]) == (
        pytest.approx(0.7, abs=0.05),
        pytest.approx(2, abs=0.05),
    )


async def test_hotwords_and_the_language_of_before_reach_the_model(service: RunningService) -> None:
    async with session(service) as client:
        await client.start(hotwords=["Kyutai", "Pocket"], interim=False)
        await client.say(SAID, SAID)
        said = texts(await client.end())
    assert [text.split()[:3] for text in said] == [
        ["Kyutai", "Pocket", "after-None"],
        ["Kyutai", "Pocket", "after-en"],
    ]


@pytest.mark.parametrize(
    ("messages", "code", "complaint"),
    [
        ([b"sound"], "invalid_request", "send {.type.: .start.} first"),
        (["{"], "invalid_request", "cannot be read"),
        (['{"type": "speak"}'], "invalid_option", "type"),
        (['{"type": "start", "formt": "pcm16"}'], "unknown_option", "formt"),
        (['{"type": "start", "format": "mp3"}'], "invalid_option", "format"),
        (['{"type": "start", "sample_rate": 4000}'], "invalid_option", "sample_rate"),
        (['{"type": "start", "vad": {"threshold": 2}}'], "invalid_option", "threshold"),
        (['{"type": "start", "hotwords": ["?"]}'], "invalid_option", "has no letter"),
        (['{"type": "start", "language": "fr"}'], "invalid_option", "does not know .* 'fr'"),
        (['{"type": "start"}', '{"type": "start"}'], "invalid_request", "begun already"),
        (['{"type": "start"}', '{"type": "end", "x": 1}'], "unknown_option", "x"),
        (['{"type": "start", "format": "webm"}', bytes(9)], "invalid_audio", "no WebM"),
    ],
)
async def test_what_cannot_be_obeyed_ends_the_session_with_a_reason(
    service: RunningService, messages: list[str | bytes], code: str, complaint: str
) -> None:
    async with session(service) as client:
        for message in messages:
            send = client.socket.send_str if isinstance(message, str) else client.socket.send_bytes
            await send(message)  # type: ignore[arg-type]
        (error,) = of("error", await client.rest())
    assert error["code"] == code
    assert re.search(complaint, error["message"])
    assert client.socket.close_code in (1008, 1011)


async def test_a_failed_utterance_ends_no_session(service: RunningService) -> None:
    async with session(service) as client:
        await client.start(interim=False, prompt="raise oops")
        await client.say(SAID)
        told = await client.end()
    (error,) = of("error", told)
    assert (error["code"], error["utterance"]) == ("engine_error", 1)
    assert told[-1] == {"type": "done"}


async def test_a_killed_listener_costs_nothing(service: RunningService) -> None:
    async with session(service) as client:
        await client.start()
        await client.say(SAID[: len(SAID) // 2 + 1])
        await client.until("speech_started")
        (worker,) = service.children(model="vad")
        os.kill(worker["pid"], signal.SIGKILL)
        await client.say(SAID[len(SAID) // 2 + 1 :])
        told = await client.end()
    assert texts(told) == [WORDS]
    assert of("final", told)[0]["end"] == 1.504


async def test_a_killed_recognizer_costs_no_text_and_repeats_none(
    service: RunningService, gate: Gate
) -> None:
    async with session(service) as client:
        await client.start(interim=False, prompt=f"print dying; wait {gate}")
        await client.say(SAID)
        await asyncio.to_thread(service.wait_for, "child_output", line="dying")
        (worker,) = service.children(model="stt")
        os.kill(worker["pid"], signal.SIGKILL)
        gate.open()
        assert texts(await client.end()) == [WORDS]


async def test_deadly_sound_ends_only_its_own_session(service: RunningService) -> None:
    async with session(service) as other, session(service) as client:
        await other.start()
        await client.start()
        await client.say(sound((0.2, DEADLY)))
        (error,) = of("error", await client.rest())
        await other.say(SAID)
        assert texts(await other.end()) == [WORDS]
    assert error["code"] == "worker_crashed"


async def test_idle_sessions_hold_no_slot_and_no_model(gate: Gate) -> None:
    idle = {"VOICE_ENGINE_IDLE_UNLOAD": "0.3", "VOICE_ENGINE_PING_INTERVAL": "0.1"}
    with running({**ENGINES, **idle, "VOICE_ENGINE_CLIENT_SHARE": "1"}) as service:
        service.wait_ready()
        async with session(service) as first, session(service) as second:
            await first.start()
            await second.start()
            await asyncio.to_thread(service.wait_for, "unloaded", model="vad")
            await asyncio.to_thread(service.wait_for, "unloaded", model="stt")
            health = service.health()
            assert health["sessions"]["transcription"] == 2
            assert [child["model"] for child in health["children"]] == []
            await second.say(SAID)
            assert texts(await second.end()) == [WORDS]
            before = service.health()["memory"]["front_rss_mb"]
            async with AsyncExitStack() as stack:
                for _ in range(100):
                    client = await stack.enter_async_context(session(service))
                    await client.start()
                health = service.health()
                assert health["sessions"]["transcription"] >= 101
                assert health["memory"]["front_rss_mb"] - before < 20
                # The newest may still be having the model loaded that finds its speech.
                await asyncio.to_thread(
                    service.wait_until,
                    lambda health: not any(child["in_flight"] for child in health["children"]),
                )


async def test_a_client_that_is_too_fast_waits(tmp_path: Path) -> None:
    gate = Gate(tmp_path / "open")
    with running({**ENGINES, HOLD: str(gate)}) as service:
        service.wait_ready()
        async with session(service) as client:
            await client.start(sample_rate=48_000, vad=None, interim=False)
            await client.say(sound((1.0, HOLDING)))
            piece = sound((8.0, LOUD))
            sending = asyncio.create_task(client.say(*[piece] * 40))
            before = service.health()["memory"]["front_rss_mb"]
            await asyncio.to_thread(service.wait_until, lambda _: _stuck(client.socket))
            assert not sending.done()
            assert service.health()["memory"]["front_rss_mb"] - before < 6
            gate.open()
            await sending
            (final,) = of("final", await client.end())
            assert final["end"] == pytest.approx((1 + 40 * 8) / 3, abs=0.01)


def _stuck(socket: aiohttp.ClientWebSocketResponse) -> bool:
    """Whether what the client sends stays with it."""
    transport = socket._conn.transport if socket._conn else None
    return transport is not None and transport.get_write_buffer_size() > 0


async def test_a_shutdown_finishes_what_was_said(gate: Gate) -> None:
    with running(ENGINES) as service:
        service.wait_ready()
        async with session(service) as client:
            await client.start()
            await client.say(sound((1.0, LOUD)))
            await client.until("speech_started")
            service.process.send_signal(signal.SIGTERM)
            told = await client.rest()
        assert texts(told) == [WORDS]
        assert told[-1] == {"type": "done"}
        assert client.socket.close_code == 1001


async def test_live_transcription_may_be_off() -> None:
    with running({**ENGINES, "VOICE_ENGINE_VAD_ENGINE": "off"}) as service:
        service.wait_ready()
        async with session(service) as client:
            await client.start()
            (error,) = of("error", await client.rest())
        assert error["code"] == "model_unavailable"
        assert "VOICE_ENGINE_VAD_ENGINE" in error["message"]


async def test_a_key_may_come_in_the_first_message() -> None:
    with running({**ENGINES, "VOICE_ENGINE_API_KEY": "secret"}) as service:
        service.wait_ready()
        for key, code in ((None, "unauthorized"), ("wrong", "unauthorized"), ("secret", None)):
            async with session(service) as client:
                await client.socket.send_json({"type": "start", "api_key": key})
                first = await client.next()
                assert first.get("code") == code


@pytest.mark.parametrize("source", ["file", "pipe"])
def test_the_command_prints_a_line_for_each_utterance(
    service: RunningService, tmp_path: Path, source: str
) -> None:
    recording = wav_header(RATE, None) + SAID + SAID
    (tmp_path / "said.wav").write_bytes(recording)
    call = [sys.executable, "-m", "supervisor.cli", "--url", service.url, "listen"]
    ran = subprocess.run(
        [*call, str(tmp_path / "said.wav") if source == "file" else "-"],
        input=recording if source == "pipe" else None,
        capture_output=True,
        check=True,
        cwd=ROOT,
    )
    assert ran.stdout.decode().splitlines() == [WORDS, WORDS]
    assert ran.stderr == b""
    bad = subprocess.run([*call, __file__], check=False, capture_output=True, cwd=ROOT)
    assert bad.returncode == 1
    assert b"begins like none of WebM, Ogg and WAV" in bad.stderr


# OpenAI's protocol


REALTIME = "/v1/realtime?intent=transcription"


async def append(client: Client, *sounds: bytes) -> None:
    for each in sounds:
        audio = base64.b64encode(each).decode()
        await client.socket.send_json({"type": "input_audio_buffer.append", "audio": audio})


def at_24k(seconds: float, value: int) -> bytes:
    return np.full(round(seconds * 24_000), value, "<i2").tobytes()


async def test_openai_ends_turns_by_silence(service: RunningService) -> None:
    async with session(service, REALTIME) as client:
        created = await client.next()
        assert created["session"]["type"] == "transcription"
        sound_format = created["session"]["audio"]["input"]["format"]
        assert sound_format == {"type": "audio/pcm", "rate": 24_000}
        await append(client, at_24k(0.5, 0), at_24k(1, 20_000), at_24k(0.6, 0))
        done = await client.until("conversation.item.input_audio_transcription.completed")
        told = client.told
    item = done["item_id"]
    assert [each["type"] for each in told if "transcription.delta" not in each["type"]] == [
        "input_audio_buffer.speech_started",
        "input_audio_buffer.speech_stopped",
        "input_audio_buffer.committed",
        "conversation.item.added",
        "conversation.item.done",
    ]
    assert {each.get("item_id") or each["item"]["id"] for each in told} == {item}
    deltas = of("conversation.item.input_audio_transcription.delta", told)
    assert "".join(each["delta"] for each in deltas) == done["transcript"]
    assert done["transcript"].split()[:9] == WORDS.split()[:9]
    assert (done["emotion"], done["language"]) == ("HAPPY", "en")
    assert done["usage"]["type"] == "duration"


@pytest.mark.parametrize("beta", [False, True])
async def test_openai_lets_the_client_end_turns(service: RunningService, beta: bool) -> None:
    transcription = {"model": "whisper-1", "language": "en"}
    if beta:
        update: Message = {
            "type": "transcription_session.update",
            "session": {
                "input_audio_format": "g711_ulaw",
                "input_audio_transcription": transcription,
                "turn_detection": None,
            },
        }
    else:
        given = {
            "format": {"type": "audio/pcmu"},
            "transcription": transcription,
            "turn_detection": None,
        }
        update = {
            "type": "session.update",
            "session": {"type": "transcription", "audio": {"input": given}},
        }
    async with session(service, REALTIME) as client:
        await client.next()
        await client.socket.send_json(update)
        updated = await client.next()
        assert updated["type"] == update["type"] + "d"
        shown = updated["session"] if beta else updated["session"]["audio"]["input"]
        assert shown["turn_detection"] is None
        await append(client, b"\x80" * 8000)
        await client.socket.send_json({"type": "input_audio_buffer.clear"})
        assert (await client.next())["type"] == "input_audio_buffer.cleared"
        await append(client, b"\x80" * 4000)
        await client.socket.send_json({"type": "input_audio_buffer.commit"})
        done = await client.until("conversation.item.input_audio_transcription.completed")
    assert done["transcript"].split()[:5] == WORDS.split()[:5]
    names = [each["type"] for each in client.told]
    assert ("conversation.item.created" in names) is beta
    assert "input_audio_buffer.speech_started" not in names


async def test_openai_tells_errors_and_goes_on(service: RunningService) -> None:
    async with session(service, REALTIME) as client:
        await client.next()
        for message, complaint in (
            ("{", "cannot be read"),
            ('{"type": "response.create", "event_id": "e1"}', "has no event 'response.create'"),
            ('{"type": "input_audio_buffer.append", "audio": "?"}', "not valid base64"),
            ('{"type": "session.update", "session": {"type": "realtime"}}', "use transcription"),
        ):
            await client.socket.send_str(message)
            error = await client.next()
            assert error["type"] == "error"
            assert complaint in error["error"]["message"]
        await append(client, at_24k(0.5, 20_000), at_24k(0.6, 0))
        await client.until("conversation.item.input_audio_transcription.completed")
        update = {"type": "session.update", "session": {"input_audio_format": "g711_ulaw"}}
        await client.socket.send_json(update)
        assert "cannot change" in (await client.next())["error"]["message"]


@pytest.mark.parametrize("query", ["intent=conversation", "model=gpt-realtime"])
async def test_openai_sessions_are_for_transcription_only(
    service: RunningService, query: str
) -> None:
    async with session(service, f"/v1/realtime?{query}") as client:
        (error,) = of("error", await client.rest())
    assert "intent=transcription" in error["error"]["message"]
    assert client.socket.close_code == 1008


# ElevenLabs' protocol


async def chunk(client: Client, sound: bytes, **fields: Any) -> None:
    audio = base64.b64encode(sound).decode()
    message = {"message_type": "input_audio_chunk", "audio_base_64": audio, **fields}
    await client.socket.send_json(message)


async def eleven(client: Client, kind: str) -> Message:
    """The next message of this kind."""
    while (message := await client.next())["message_type"] != kind:
        client.told.append(message)
    return message


async def test_elevenlabs_commits(service: RunningService) -> None:
    query = "model_id=scribe_v2_realtime&include_timestamps=true&language_code=eng"
    async with session(service, f"/v1/speech-to-text/realtime?{query}") as client:
        started = await eleven(client, "session_started")
        assert started["config"]["sample_rate"] == 16_000
        await chunk(client, sound((1.0, LOUD)), sample_rate=16_000)
        await chunk(client, b"", commit=True)
        committed = await eleven(client, "committed_transcript")
        timed = await eleven(client, "committed_transcript_with_timestamps")
        await chunk(client, b"", commit=True)
        assert (await eleven(client, "committed_transcript"))["text"] == ""
        await chunk(client, b"", sample_rate=8000)
        assert "pcm_16000" in (await eleven(client, "invalid_request"))["error"]
    assert committed["text"] == timed["text"] == WORDS
    assert committed["emotion"] == "HAPPY"
    assert timed["language_code"] == "eng"
    words = [word for word in timed["words"] if word["type"] == "word"]
    assert [word["text"] for word in words] == WORDS.split()
    assert (words[0]["start"], words[-1]["end"]) == (0.0, 1.0)


async def test_elevenlabs_ends_turns_by_silence(service: RunningService) -> None:
    query = "audio_format=ulaw_8000&commit_strategy=vad&vad_silence_threshold_secs=0.4"
    async with session(service, f"/v1/speech-to-text/realtime?{query}") as client:
        await eleven(client, "session_started")
        await chunk(client, b"\x80" * 8000 + b"\xff" * 4000)
        committed = await eleven(client, "committed_transcript")
        await chunk(client, b"\x80" * 8000 + b"\xff" * 4000)
        again = await eleven(client, "committed_transcript")
    assert committed["text"].split()[:9] == again["text"].split()[:9] == WORDS.split()[:9]
