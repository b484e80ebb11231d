"""Speech of a text that is still being written, over WebSockets, with the scripted engines.

What the engines are to do is the text, so a sentence of these tests is a script.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import ClientWebSocketResponse as Socket
from aiohttp import WSMsgType

from ipc.wav_header import wav_header
from tests.support.service import Gate, RunningService
from tests.support.service import running as running_service

HEADER = wav_header(24_000, None)
"""What the scripted engine says first in each piece, though it is asked for PCM."""

PIECE = 960
ELEVEN = "/v1/text-to-speech/any"
SEED = {"type": "start", "seed": 7}


def running(settings: dict[str, str]) -> AbstractContextManager[RunningService]:
    engine = {"VOICE_ENGINE_TTS_ENGINE": "tests.support.script_engine:Voiced"}
    return running_service({**engine, **settings})


@pytest.fixture(scope="module")
def service() -> Iterator[RunningService]:
    with running({"VOICE_ENGINE_TTS_WORKERS": "1"}) as service:
        service.wait_ready()
        yield service


@asynccontextmanager
async def opened(service: RunningService, path: str, **options: Any) -> AsyncIterator[Socket]:
    async with (
        aiohttp.ClientSession(service.url) as client,
        client.ws_connect(path, **options) as socket,
    ):
        yield socket


async def send(socket: Socket, *messages: dict[str, Any]) -> None:
    for message in messages:
        await socket.send_json(message)


def text(script: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": script, **more}


async def until(socket: Socket, kind: str) -> tuple[bytes, list[dict[str, Any]]]:
    """The sound, and the other messages, up to one of that type."""
    sound, told = b"", []
    async for message in socket:
        if message.type is WSMsgType.BINARY:
            sound += message.data.replace(HEADER, b"")
        else:
            told.append(message.json())
            if told[-1]["type"] == kind:
                return sound, told
    raise AssertionError(f"no {kind} came; {told}, closed with {socket.close_code}")


async def some(socket: Socket, size: int) -> bytes:
    """So many bytes of sound, or more."""
    sound = b""
    while len(sound) < size:
        message = await socket.receive()
        assert message.type in (WSMsgType.BINARY, WSMsgType.TEXT), (message, socket.close_code)
        sound += message.data.replace(HEADER, b"") if message.type is WSMsgType.BINARY else b""
    return sound


async def rest(socket: Socket) -> list[dict[str, Any]]:
    """The JSON messages up to the end of the session."""
    return [message.json() async for message in socket]


def sound_of(messages: list[dict[str, Any]]) -> bytes:
    sound = b"".join(base64.b64decode(each["audio"]) for each in messages if "audio" in each)
    return sound.replace(HEADER, b"")


async def first_sound(socket: Socket) -> list[dict[str, Any]]:
    """The messages up to the first with sound."""
    told = [await socket.receive_json()]
    while not sound_of(told):
        told.append(await socket.receive_json())
    return told


def chars_of(messages: list[dict[str, Any]]) -> str:
    aligned = [each["alignment"] for each in messages if each.get("alignment")]
    return "".join(char for each in aligned for char in each["chars"])


async def until_idle(service: RunningService) -> None:
    await asyncio.to_thread(
        service.wait_until, lambda health: health["models"]["tts"]["in_flight"] == 0
    )


# Our own session


async def test_a_sentence_is_spoken_while_the_next_is_written(service: RunningService) -> None:
    async with opened(service, "/v1/tts/stream") as socket:
        await send(socket, SEED, text("say 3;\n\n"), text("say"))
        started = await socket.receive_json()
        assert started == {
            "type": "started",
            "engine": "Voiced",
            "format": "pcm",
            "sample_rate": 24_000,
        }
        sound = await some(socket, 3 * PIECE)  # before the second one is complete
        await send(socket, text(" 2"), {"type": "end"})
        more, told = await until(socket, "done")
        assert len(sound + more) == 5 * PIECE
        said = [each for each in told if each["type"] == "sentence"]
        assert "".join(each["text"] for each in said) == "say 3;\n\nsay 2"
        assert said[0]["end"] <= said[1]["start"] < said[1]["end"]
        assert told[-1]["seconds"] == pytest.approx(5 * PIECE / 48_000, abs=0.003)
        assert (await socket.receive()).type is WSMsgType.CLOSE
        assert socket.close_code == 1000


async def test_a_flush_is_told_when_all_before_it_is_spoken(service: RunningService) -> None:
    async with opened(service, "/v1/tts/stream") as socket:
        await send(socket, text("say 1;", flush=True), text("say 2"), {"type": "flush"})
        sound, told = await until(socket, "flushed")
        assert len(sound) == PIECE
        more, told = await until(socket, "flushed")
        assert len(more) == 2 * PIECE
        await send(socket, {"type": "flush"})  # nothing waits
        assert await socket.receive_json() == told[-1]


async def test_text_is_spoken_after_a_while_though_its_sentence_is_open(
    service: RunningService,
) -> None:
    async with opened(service, "/v1/tts/stream") as socket:
        await send(socket, text("say 1; say 1; sa"))
        await some(socket, 2 * PIECE)
        await send(socket, text("y 3"), {"type": "end"})
        sound, _ = await until(socket, "done")
        assert len(sound) == 3 * PIECE


async def test_a_killed_worker_makes_no_seam(service: RunningService, gate: Gate) -> None:
    script = f"say 5; wait {gate}; say 5;\n\n"

    async def spoken(*, kill: bool) -> bytes:
        async with opened(service, "/v1/tts/stream") as socket:
            await send(socket, SEED, text(script, flush=True), text("say 4;\n\n"), {"type": "end"})
            if not kill:
                return (await until(socket, "done"))[0]
            sound = await some(socket, 5 * PIECE)
            (worker,) = await asyncio.to_thread(service.children, model="tts")
            os.kill(worker["pid"], signal.SIGKILL)
            gate.open()
            more, told = await until(socket, "done")
            said = [each["text"] for each in told if each["type"] == "sentence"]
            assert "".join(said) == script + "say 4;\n\n"
            assert not [each for each in told if each["type"] == "error"]
            return sound + more

    hurt = await spoken(kill=True)
    assert len(hurt) == 14 * PIECE
    assert hurt == await spoken(kill=False)  # the gate is open now


async def test_a_barge_in_frees_the_slot(service: RunningService) -> None:
    async with opened(service, "/v1/tts/stream") as socket:
        await send(socket, text("say 4; sleep 600;\n\n"), text("say 9;\n\n"))
        await some(socket, 4 * PIECE)
        await send(socket, {"type": "cancel"})
        sound, told = await until(socket, "cancelled")
        assert sound == b""
        assert told[-1]["characters"] == 0
        assert told[-1]["seconds"] == pytest.approx(4 * 0.02, abs=0.003)
        # The only worker is free, and the next speech is a stream of its own.
        await send(socket, text("say 2;\n\n"), {"type": "end"})
        sound, told = await until(socket, "done")
        assert len(sound) == 2 * PIECE
        assert told[0]["start"] == 0


async def test_a_client_that_goes_frees_the_slot(service: RunningService) -> None:
    async with opened(service, "/v1/tts/stream") as socket:
        await send(socket, text("say 4; sleep 600;\n\n"), {"type": "end"})
        await some(socket, 4 * PIECE)
    await until_idle(service)


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("nonsense", "invalid_request"),
        ("[]", "invalid_request"),
        ("{}", "missing_field"),
        ('{"type": "shout"}', "invalid_option"),
        ('{"type": "text"}', "missing_field"),
        ('{"type": "text", "text": 3}', "invalid_option"),
        ('{"type": "text", "text": "a", "voice": "b"}', "unknown_option"),
        ('{"type": "start", "format": "wav"}', "invalid_option"),
        ('{"type": "start", "voice": "nobody"}', "not_found"),
        ('{"type": "end", "now": true}', "unknown_option"),
        (b"sound", "invalid_request"),
    ],
    ids=str,
)
async def test_a_wrong_message_is_explained(
    service: RunningService, message: str | bytes, code: str
) -> None:
    async with opened(service, "/v1/tts/stream") as socket:
        sender = socket.send_bytes if isinstance(message, bytes) else socket.send_str
        await sender(message)  # type: ignore[arg-type]
        error = await socket.receive_json()
        assert (error["type"], error["code"]) == ("error", code)
        assert error["message"]
        await send(socket, text("say 1"), {"type": "end"})  # the session goes on
        sound, _ = await until(socket, "done")
        assert len(sound) == PIECE


async def test_what_cannot_be_spoken_is_told_and_the_rest_is_spoken(
    service: RunningService,
) -> None:
    async with opened(service, "/v1/tts/stream") as socket:
        await send(socket, text("raise it;", flush=True), text("say 1"), {"type": "end"})
        sound, told = await until(socket, "done")
        (error,) = [each for each in told if each["type"] == "error"]
        assert (error["code"], error["text"]) == ("engine_error", "raise it;")
        assert len(sound) == PIECE


async def test_a_session_needs_an_upgrade(service: RunningService) -> None:
    async with aiohttp.ClientSession(service.url) as client:
        for path in ("/v1/tts/stream", f"{ELEVEN}/stream-input", f"{ELEVEN}/multi-stream-input"):
            async with client.get(path) as response:
                assert response.status == 426
                assert (await response.json())["error"]["code"] == "upgrade_required"


async def test_pages_of_strangers_are_kept_out(service: RunningService) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
        async with opened(service, "/v1/tts/stream", origin="https://elsewhere.example"):
            pass
    assert caught.value.status == 403
    async with opened(service, "/v1/tts/stream", origin=service.url) as socket:
        await send(socket, {"type": "end"})
        await until(socket, "done")


# ElevenLabs' sessions


async def test_eleven_text_comes_in_parts_and_ends(service: RunningService) -> None:
    path = f"{ELEVEN}/stream-input?output_format=pcm_24000&seed=7"
    async with opened(service, path) as socket:
        await send(socket, {"text": " ", "voice_settings": {"speed": 1.0}})
        await send(socket, {"text": "say 3;\n\n"}, {"text": "say "}, {"text": "2"}, {"text": ""})
        told = await rest(socket)
        assert socket.close_code == 1000
    assert told[-1] == {"isFinal": True}
    assert len(sound_of(told)) == 5 * PIECE
    assert chars_of(told) == "say 3;\n\nsay 2 "
    for each in [each["alignment"] for each in told[:-1] if each["alignment"]]:
        assert each["charStartTimesMs"][0] == 0  # times begin anew in each message
        assert len({len(values) for values in each.values()}) == 1


async def test_eleven_a_schedule_waits_for_its_length(service: RunningService, gate: Gate) -> None:
    async with opened(service, f"{ELEVEN}/stream-input?output_format=pcm_24000") as socket:
        config = {"chunk_length_schedule": [50]}
        await send(socket, {"text": " ", "generation_config": config})
        await send(socket, {"text": "print scheduled;\n\n"}, {"text": "say 1;\n\n" + " " * 40})
        await first_sound(socket)
        await send(socket, {"text": "say 2;", "flush": True})
        await send(socket, {"text": ""})
        assert (await rest(socket))[-1] == {"isFinal": True}
    pieces = [each for each in service.events if each.get("line") == "scheduled"]
    assert len(pieces) == 1


async def test_eleven_two_contexts_at_once(gate: Gate) -> None:
    with running({"VOICE_ENGINE_TTS_WORKERS": "2"}) as service:
        service.wait_ready()
        path = f"{ELEVEN}/multi-stream-input?output_format=pcm_24000"
        async with opened(service, path) as socket:
            await send(
                socket,
                {"text": " ", "context_id": "a"},
                {"text": f"say 1; wait {gate}; say 1", "context_id": "a", "flush": True},
                {"text": "say 5 ", "context_id": "b", "flush": True},
                {"context_id": "b", "close_context": True},
            )
            told: list[dict[str, Any]] = []
            while not told or told[-1] != {"isFinal": True, "contextId": "b"}:
                told.append(await socket.receive_json())
            gate.open()
            await send(socket, {"close_socket": True})
            told += await rest(socket)
            assert socket.close_code == 1000
    by_context = {name: [each for each in told if each["contextId"] == name] for name in ("a", "b")}
    assert len(sound_of(by_context["a"])) == 2 * PIECE
    assert len(sound_of(by_context["b"])) == 5 * PIECE
    assert by_context["a"][-1] == {"isFinal": True, "contextId": "a"}


@pytest.mark.parametrize(
    ("auto", "last"),
    [
        ("false", {"text": "say 3; sleep 600;\n\n"}),
        ("true", {"text": "say 3; sleep 600;\n\n", "flush": True}),
    ],
    ids=["not flushed", "auto mode flushes all"],
)
async def test_eleven_a_closed_context_is_silent(
    service: RunningService, auto: str, last: dict[str, Any]
) -> None:
    path = f"{ELEVEN}/multi-stream-input?output_format=pcm_24000&auto_mode={auto}"
    async with opened(service, path) as socket:
        await send(socket, {"context_id": "a", **last})
        await first_sound(socket)
        await send(socket, {"context_id": "a", "close_context": True})
        while "isFinal" not in await socket.receive_json():
            pass
        # Its worker is free for the next context, which may have the same name.
        await send(socket, {"text": "say 2", "context_id": "a", "flush": True})
        await send(socket, {"context_id": "a", "flush": True})
        await send(socket, {"context_id": "a", "close_context": True})
        told = [await socket.receive_json()]
        while "isFinal" not in told[-1]:
            told.append(await socket.receive_json())
        assert len(sound_of(told)) == 2 * PIECE


async def test_eleven_closing_twice_silences_what_was_flushed(service: RunningService) -> None:
    path = f"{ELEVEN}/multi-stream-input?output_format=pcm_24000"
    async with opened(service, path) as socket:
        await send(socket, {"text": "say 2; sleep 600", "context_id": "a"})
        await send(socket, {"flush": True, "context_id": "a"})
        await send(socket, {"context_id": "a", "close_context": True})
        await first_sound(socket)
        await send(socket, {"context_id": "a", "close_context": True})
        while "isFinal" not in await socket.receive_json():
            pass
    await until_idle(service)


async def test_eleven_inactivity_ends_a_text_after_all_is_spoken(service: RunningService) -> None:
    path = f"{ELEVEN}/stream-input?output_format=pcm_24000&inactivity_timeout=0.5"
    async with opened(service, path) as socket:
        await send(socket, {"text": "say 3"})
        told = await rest(socket)
        assert socket.close_code == 1008
    assert len(sound_of(told)) == 3 * PIECE
    assert told[-2] == {"isFinal": True}
    assert told[-1]["error"] == "input_timeout_exceeded"


async def test_eleven_an_empty_text_keeps_a_session_alive(service: RunningService) -> None:
    path = f"{ELEVEN}/multi-stream-input?output_format=pcm_24000&inactivity_timeout=1"
    async with opened(service, path) as socket:
        await send(socket, {"text": " ", "context_id": "a"}, {"text": " ", "context_id": "b"})
        told: list[dict[str, Any]] = []
        while {"isFinal": True, "contextId": "b"} not in told:
            await send(socket, {"text": "", "context_id": "a"}, {"text": ""})
            try:
                async with asyncio.timeout(0.2):
                    told.append(await socket.receive_json())
            except TimeoutError:
                continue
        await send(socket, {"text": "say 1", "context_id": "a", "flush": True})
        assert (await socket.receive_json())["contextId"] == "a"


async def test_eleven_too_many_contexts(service: RunningService) -> None:
    async with opened(service, f"{ELEVEN}/multi-stream-input") as socket:
        for number in range(6):
            await send(socket, {"text": " ", "context_id": str(number)})
        error = await socket.receive_json()
        assert (error["error"], error["contextId"]) == ("overloaded", "5")


async def test_eleven_a_context_fails_alone(service: RunningService) -> None:
    path = f"{ELEVEN}/multi-stream-input?output_format=pcm_24000"
    async with opened(service, path) as socket:
        await send(socket, {"text": "raise it", "context_id": "a", "flush": True})
        while "error" not in (error := await socket.receive_json()):
            pass  # the header
        assert (error["error"], error["contextId"]) == ("engine_error", "a")
        assert await socket.receive_json() == {"isFinal": True, "contextId": "a"}
        await send(socket, {"text": "say 1", "context_id": "b", "flush": True})
        assert (await socket.receive_json())["contextId"] == "b"


@pytest.mark.parametrize("message", ["nonsense", '{"text": 3}', '{"text": "a", "flush": "x"}'])
async def test_eleven_a_wrong_message_ends_the_session(
    service: RunningService, message: str
) -> None:
    async with opened(service, f"{ELEVEN}/stream-input") as socket:
        await socket.send_str(message)
        (error,) = await rest(socket)
        assert error["code"] == socket.close_code == 1008
        assert error["message"]


# Keys, limits, the end


async def test_a_key_may_come_in_the_first_message() -> None:
    limits = {"VOICE_ENGINE_API_KEY": "sesame", "VOICE_ENGINE_MAX_SESSIONS": "1"}
    with running(limits) as service:
        service.wait_ready()
        async with opened(service, "/v1/tts/stream") as socket:
            await send(socket, text("say 1"))
            assert (await socket.receive_json())["code"] == "unauthorized"
            assert (await socket.receive()).type is WSMsgType.CLOSE
            assert socket.close_code == 1008
        async with opened(service, "/v1/tts/stream") as socket:
            await send(socket, {"type": "start", "api_key": "sesame"}, text("say 1"))
            await send(socket, {"type": "end"})
            assert len((await until(socket, "done"))[0]) == PIECE
        for key, code in (("sesame", 1000), ("wrong", 1008)):
            async with opened(service, f"{ELEVEN}/stream-input") as socket:
                await send(socket, {"text": " ", "xi_api_key": key})
                if code == 1000:
                    await send(socket, {"text": "say 1 "}, {"text": ""})
                told = await rest(socket)
                assert socket.close_code == code
                assert ("isFinal" in told[-1]) == (code == 1000)
        for options in ({"headers": {"xi-api-key": "sesame"}}, {}):
            query = "" if options else "?authorization=Bearer%20sesame"
            async with opened(service, f"{ELEVEN}/stream-input{query}", **options) as socket:
                await send(socket, {"text": "say 1 "}, {"text": ""})
                assert (await rest(socket))[-1] == {"isFinal": True}
        protocols = ("voice-engine", "openai-insecure-api-key.sesame")
        async with opened(service, "/v1/tts/stream", protocols=protocols) as socket:
            assert socket.protocol == "voice-engine"
            await send(socket, text("say 1;\n\n"))
            await some(socket, PIECE)
            with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
                async with opened(service, "/v1/tts/stream"):
                    pass
            assert caught.value.status == 503
        assert service.health()["status"] == "ok"


async def test_a_busy_service_is_waited_for(gate: Gate) -> None:
    limits = {"VOICE_ENGINE_TTS_WORKERS": "1", "VOICE_ENGINE_QUEUE_SIZE": "1"}
    more = {"VOICE_ENGINE_CLIENT_SHARE": "1", "VOICE_ENGINE_LOG_LEVEL": "debug"}
    with running(limits | more) as service:
        service.wait_ready()
        async with (
            opened(service, "/v1/tts/stream") as first,
            opened(service, "/v1/tts/stream") as second,
            opened(service, "/v1/tts/stream") as third,
        ):
            await send(first, text(f"say 1; wait {gate};\n\n"), {"type": "end"})
            await some(first, PIECE)
            for socket in (second, third):
                await send(socket, text("say 1"), {"type": "end"})
            await asyncio.to_thread(service.wait_for, "refused", reason="overloaded")
            gate.open()
            for socket in (second, third):
                sound, told = await until(socket, "done")
                assert len(sound) == PIECE
                assert not [each for each in told if each["type"] == "error"]


async def test_what_has_come_is_spoken_before_the_service_stops(gate: Gate) -> None:
    with running({"VOICE_ENGINE_TTS_WORKERS": "2"}) as service:
        service.wait_ready()
        async with (
            opened(service, "/v1/tts/stream") as ours,
            opened(service, f"{ELEVEN}/multi-stream-input?output_format=pcm_24000") as theirs,
        ):
            script = f"say 2; wait {gate}; say 1;\n\n"
            await send(ours, text(script), text("say 4"))
            await send(theirs, {"text": script, "context_id": "a"})
            await send(theirs, {"text": "say 4", "context_id": "a"})
            before = await some(ours, 2 * PIECE)
            told = await first_sound(theirs)
            stopping = asyncio.create_task(asyncio.to_thread(service.stop))
            await asyncio.to_thread(service.wait_for, "stopping")
            gate.open()
            sound = b""
            async for message in ours:
                if message.type is WSMsgType.BINARY:
                    sound += message.data.replace(HEADER, b"")
            told += await rest(theirs)
            assert len(before + sound) == 7 * PIECE
            assert len(sound_of(told)) == 7 * PIECE
            assert (ours.close_code, theirs.close_code) == (1001, 1001)
            assert await stopping == 0


async def test_a_context_is_over_once(service: RunningService) -> None:
    """Also if it failed before it is closed; and a session without any ends at once."""
    async with opened(service, f"{ELEVEN}/multi-stream-input") as socket:
        await send(socket, {"text": "raise it;", "flush": True, "context_id": "a"})
        told = [await socket.receive_json()]
        while "isFinal" not in told[-1]:
            told.append(await socket.receive_json())
        await send(socket, {"context_id": "a", "close_context": True}, {"close_socket": True})
        told += await rest(socket)
    assert [each["isFinal"] for each in told if "isFinal" in each] == [True]
    assert [each["error"] for each in told if "error" in each] == ["engine_error"]


async def test_a_conversation_loses_nothing_while_workers_are_killed() -> None:
    """Sixty turns; each third is interrupted, and each fourth loses its worker in the middle."""
    with running({"VOICE_ENGINE_TTS_WORKERS": "2", "VOICE_ENGINE_MAX_ATTEMPTS": "9"}) as service:
        service.wait_ready()
        path = f"{ELEVEN}/multi-stream-input?output_format=pcm_24000&seed=3"
        async with opened(service, path) as socket:
            for turn in range(60):
                name, barge_in, kill = str(turn), turn % 3 == 2, turn % 4 == 3
                gate = f"{service.folder.name}/gate-{turn}"
                hold = f"wait {gate}; " if kill else ""
                first = f"say 40; {hold}say 10; {'sleep 600;' if barge_in else ''}\n\n"
                for part in (first, "say 50;\n\n"):
                    await send(socket, {"text": part, "context_id": name})
                if not barge_in:
                    await send(socket, {"context_id": name, "flush": True})
                    await send(socket, {"context_id": name, "close_context": True})
                told: list[dict[str, Any]] = []
                killed = closed = False
                while not told or "isFinal" not in told[-1]:
                    told.append(await socket.receive_json())
                    assert "error" not in told[-1]
                    assert told[-1]["contextId"] == name
                    heard = len(sound_of(told))
                    if kill and not killed and heard >= 40 * PIECE:
                        killed = True
                        for worker in await asyncio.to_thread(service.children, model="tts"):
                            os.kill(worker["pid"], signal.SIGKILL)
                        open(gate, "w").close()  # noqa: ASYNC230
                    if barge_in and not closed and heard >= 50 * PIECE:
                        closed = True
                        await send(socket, {"context_id": name, "close_context": True})
                sound = sound_of(told)
                if barge_in:
                    assert len(sound) == 50 * PIECE
                else:
                    assert len(sound) == 100 * PIECE
                    assert chars_of(told) == first + "say 50;\n\n"
        await until_idle(service)
        deaths = json.dumps(service.events).count('"request_lost_worker"')
        assert deaths >= 15
