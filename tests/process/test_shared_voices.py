"""Voices that several fronts share in a bucket: whole whatever happens, and there for all."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import os
import signal
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import aiohttp
import numpy as np
import psutil
import pytest
import soundfile
import structlog

from ipc.errors import ErrorCode, ServiceError
from supervisor.dispatch.spool import Spool
from supervisor.dispatch.upload import Upload
from supervisor.voices.bucket import NEW, Bucket, BucketError, ChangedMeanwhileError, told
from supervisor.voices.folder import Voice
from supervisor.voices.owners import SeenVoices, Viewer
from supervisor.voices.shared_store import SharedVoiceStore
from supervisor.voices.states import (
    NoRecordingError,
    SharedStates,
    encoded_object,
    recording_object,
)
from tests.support.s3 import HurtingProxy, environment_of, make_bucket, s3_server
from tests.support.service import NET, RunningService, running

MB = 1024 * 1024
FIRST, SECOND = b"RIFF....WAVEfirst" * 100, b"RIFF....WAVEsecond"
FORM = "voices-x-1"

Make = Callable[..., SharedVoiceStore]


def key_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def encoded(data: bytes) -> bytes:
    """A file as workers write it."""
    return zlib.crc32(data).to_bytes(8, "big") + data


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    with s3_server() as port:
        yield port


@pytest.fixture
async def proxy(server: int, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[HurtingProxy]:
    async with HurtingProxy(server).running() as proxy:
        for name, value in environment_of(proxy.port).items():
            monkeypatch.setenv(name, value)
        yield proxy


@pytest.fixture
async def url(server: int, proxy: HurtingProxy) -> str:
    """That of an empty folder of a bucket."""
    name = f"voices-{proxy.port}"
    await make_bucket(server, name)
    return f"s3://{name}/some/where"


@pytest.fixture
async def bucket(url: str) -> Bucket:
    return Bucket(url, seconds=NET)


@pytest.fixture
async def make(bucket: Bucket, tmp_path: Path) -> AsyncIterator[Make]:
    """Makes stores, each as on a machine of its own."""
    stores: list[SharedVoiceStore] = []

    def make(
        *, limit: int = MB, max_voices: int = 1000, patience: float = 10.0
    ) -> SharedVoiceStore:
        states = SharedStates(bucket, tmp_path / f"machine-{len(stores)}", limit)
        stores.append(SharedVoiceStore(states, max_voices, period=0.05, gap=0.0, patience=patience))
        return stores[-1]

    yield make
    for store in stores:
        await store.close()


@contextlib.asynccontextmanager
async def uploaded(data: bytes, folder: Path) -> AsyncIterator[Upload]:
    spool = Spool(folder, 1000)
    try:
        async with Upload(spool) as upload:
            await upload.write(data)
            await upload.close()
            yield upload
    finally:
        spool.close()


async def save(
    store: SharedVoiceStore, id: str, data: bytes, folder: Path, name: str | None = None
) -> Voice:
    async with uploaded(data, folder) as upload:
        return await store.save(id, upload, seconds=1.5, name=name)


async def opened(make: Make, count: int = 2) -> list[SharedVoiceStore]:
    stores = [make() for _ in range(count)]
    for store in stores:
        await store.refresh.again()
    return stores


async def contents(bucket: Bucket) -> set[str]:
    """All that is in the bucket."""
    folders = ("voices", "recordings", "encoded", "claims", "deleting")
    return {each.path for folder in folders for each in await bucket.objects(folder)}


async def test_what_one_front_changes_the_others_see(
    make: Make, bucket: Bucket, tmp_path: Path
) -> None:
    one, other = await opened(make)
    saved = await save(one, "anna", FIRST, tmp_path, "Anna")
    assert (one.get("anna"), saved.media_type, other.get("anna")) == (saved, "audio/wav", None)
    await other.look_again()
    assert (other.list(), other.keys, other.count) == ([saved], {key_of(FIRST)}, 1)
    assert await contents(bucket) == {"voices/anna.json", recording_object(key_of(FIRST))}
    async with other.hold(saved.key):
        await other.fetch_recording(saved)
        assert other.recording_path(saved).read_bytes() == FIRST

    assert await other.rename("anna", "Änne")
    assert (await save(one, "anna", SECOND, tmp_path)).name == "anna"  # the last one counts
    await other.look_again()
    assert [(voice.id, voice.key) for voice in other.list()] == [("anna", key_of(SECOND))]
    assert await contents(bucket) == {"voices/anna.json", recording_object(key_of(SECOND))}

    assert await other.delete("anna")
    assert not await one.delete("anna")
    assert not await one.rename("anna", "Anna")
    await one.look_again()
    assert (one.list(), other.list(), await contents(bucket)) == ([], [], set())


async def test_a_recording_goes_with_the_last_voice_that_names_it(
    make: Make, bucket: Bucket, tmp_path: Path
) -> None:
    one, other = await opened(make)
    await save(one, "a", FIRST, tmp_path)
    await save(other, "b", FIRST, tmp_path)
    await bucket.put(encoded_object(FORM, key_of(FIRST)), encoded(b"x"))
    assert await one.delete("a")
    assert {recording_object(key_of(FIRST)), encoded_object(FORM, key_of(FIRST))} < await contents(
        bucket
    )
    assert await one.delete("b")  # which this front has not seen before
    assert await contents(bucket) == set()


async def test_two_fronts_that_register_one_id_leave_one_voice_whole(
    make: Make, bucket: Bucket, tmp_path: Path
) -> None:
    stores = await opened(make, 3)
    recordings = [FIRST, SECOND, FIRST + SECOND]
    for _ in range(3):
        await asyncio.gather(
            *(
                save(store, "anna", data, tmp_path, f"of {key_of(data)}")
                for store, data in zip(stores, recordings, strict=True)
            )
        )
        for store in stores:
            await store.look_again()
        (voice,) = stores[0].list()
        assert voice.name == f"of {voice.key}"
        assert all(store.list() == [voice] for store in stores)
        assert (await bucket.get(recording_object(voice.key), MB) or (b"", ""))[0] in recordings
        await asyncio.gather(*(store.sweep(age=-60.0) for store in stores))
        assert await contents(bucket) == {"voices/anna.json", recording_object(voice.key)}


async def test_the_second_who_registers_an_id_is_asked_whose_it_is(
    make: Make, tmp_path: Path
) -> None:
    one, other = await opened(make)
    viewers = [SeenVoices(one, Viewer("ann", False)), SeenVoices(other, Viewer("bob", False))]

    async def register(seen: SeenVoices, data: bytes) -> Voice:
        async with uploaded(data, tmp_path) as upload:
            return await seen.save("id", upload, seconds=1.0)

    done = await asyncio.gather(
        register(viewers[0], FIRST), register(viewers[1], SECOND), return_exceptions=True
    )
    (saved,) = [each for each in done if isinstance(each, Voice)]
    (refused,) = [each for each in done if isinstance(each, ServiceError)]
    assert refused.code is ErrorCode.conflict
    await one.look_again()
    assert one.list() == [saved]
    assert saved.owner in ("ann", "bob")


async def test_a_recording_that_is_registered_while_it_is_removed_stays(
    make: Make, bucket: Bucket, tmp_path: Path
) -> None:
    one, other = await opened(make)
    key = key_of(FIRST)
    await save(one, "0", FIRST, tmp_path)
    for number in range(8):
        await asyncio.gather(one.delete(str(number)), save(other, str(number + 1), FIRST, tmp_path))
        assert await bucket.head(recording_object(key)) is not None
    assert await contents(bucket) == {"voices/8.json", recording_object(key)}


async def test_who_registers_waits_until_the_recording_is_removed(
    make: Make, bucket: Bucket, proxy: HurtingProxy, tmp_path: Path
) -> None:
    one, other = await opened(make)
    await save(one, "a", FIRST, tmp_path)
    key = key_of(FIRST)
    # When its voice has been deleted, and nobody claims it, the encoded voices are looked for.
    proxy.fault = lambda method, path: "hold" if ("PUT", marker) in proxy.seen else ""
    folder = next(path for method, path in proxy.seen if method == "PUT")
    marker = folder.partition("/claims/")[0] + f"/deleting/{key}"
    deleting = asyncio.create_task(one.delete("a"))
    await asyncio.wait_for(proxy.held.wait(), NET)
    proxy.fault = lambda method, path: ""
    saving = asyncio.create_task(save(other, "b", FIRST, tmp_path))
    await proxy.wait_for("HEAD", marker)
    assert not any(path.endswith("voices/b.json") for _, path in proxy.seen)
    proxy.release.set()
    assert await deleting
    await saving
    assert await bucket.head(recording_object(key)) is not None


async def test_what_dead_fronts_have_left_is_taken_over_and_swept(
    make: Make, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = b'{"deleted": "%s"}' % (b"0" * 32)
    await bucket.put("voices/gone.json", mark)
    await bucket.put("voices/again.json", mark)
    await bucket.put("claims/" + "1" * 64 + "/x", b"")
    await bucket.put(recording_object("1" * 64), b"half a registration")
    await bucket.put(encoded_object(FORM, "2" * 64), b"of nobody")
    await bucket.put(f"deleting/{key_of(FIRST)}", b"")
    monkeypatch.setattr("supervisor.voices.shared_store._REMOVE_SECONDS", 0.0)
    store = make(patience=0.0)
    await store.refresh.again()
    assert (store.list(), store.count, await store.delete("gone")) == ([], 0, False)
    voice = await save(store, "again", FIRST, tmp_path)
    monkeypatch.undo()
    await store.look_again()
    assert store.list() == [voice]
    await store.sweep()  # all of it is too young
    assert len(await contents(bucket)) == 7
    await store.sweep(age=-60.0)
    assert await contents(bucket) == {"voices/again.json", recording_object(voice.key)}


async def test_what_is_no_voice_is_reported_once_and_left_alone(
    make: Make, bucket: Bucket, tmp_path: Path
) -> None:
    await bucket.put("voices/odd.json", b'{"key": "%s"}' % key_of(FIRST).encode())
    await bucket.put("voices/no id.json", b"{}")
    await bucket.put(recording_object(key_of(FIRST)), FIRST)
    store = make(max_voices=1)
    with structlog.testing.capture_logs() as logs:
        await store.refresh.again()
        await store.look_again()
    assert [each["event"] for each in logs] == ["voice_unreadable"]
    with pytest.raises(ServiceError, match="not a valid voice"):
        await save(store, "odd", FIRST, tmp_path)
    assert not await store.delete("odd")
    await store.sweep(age=-60.0)
    assert await bucket.head(recording_object(key_of(FIRST))) is not None
    await save(store, "a", SECOND, tmp_path)
    with pytest.raises(ServiceError, match="the limit is 1"):
        await save(store, "b", SECOND, tmp_path)


# Faults


@pytest.mark.parametrize("fault", ["503", "stall", "cut"])
async def test_without_the_bucket_voices_stay_and_none_is_registered(
    make: Make, url: str, proxy: HurtingProxy, tmp_path: Path, fault: str
) -> None:
    (store,) = await opened(make, 1)
    voice = await save(store, "a", FIRST, tmp_path)
    await store.fetch(voice)
    patient = store.bucket
    store.states.bucket = store.bucket = Bucket(url, seconds=0.2)
    proxy.fault = lambda method, path: fault
    with structlog.testing.capture_logs() as logs:
        await store.look_again()
        await store.look_again()  # returns at once
        with pytest.raises(ServiceError) as refused:
            await save(store, "b", SECOND, tmp_path)
        with pytest.raises(ServiceError):
            await store.delete("a")
        await store.fetch(voice)  # this machine has it
    assert store.list() == [voice]
    assert (refused.value.code, refused.value.retry_after) == (ErrorCode.voices_unavailable, 5.0)
    events = [each["event"] for each in logs]
    assert events.count("shared_voices_unreachable") == 1
    assert "a-secret" not in str(logs)
    assert "AccessKey" not in str(logs)
    proxy.fault = lambda method, path: ""
    proxy.release.set()
    store.states.bucket = store.bucket = patient
    await store.refresh.again()
    assert [each for each in await contents(patient) if "voices/" in each] == ["voices/a.json"]
    assert store.list() == [voice]
    await save(store, "b", SECOND, tmp_path)


async def test_a_change_whose_response_is_lost_is_made_once(
    make: Make, bucket: Bucket, proxy: HurtingProxy, tmp_path: Path
) -> None:
    (store,) = await opened(make, 1)
    lost: set[str] = set()

    def lose_first(method: str, path: str) -> str:
        """The response to the first conditional put of each object."""
        if method == "PUT" and ("/voices/" in path or "/deleting/" in path) and path not in lost:
            lost.add(path)
            return "lost"
        return ""

    proxy.fault = lose_first
    voice = await save(store, "a", FIRST, tmp_path)
    assert (len(lost), store.list()) == (1, [voice])
    lost.clear()
    assert await store.delete("a")
    assert (len(lost), await contents(bucket)) == (2, set())


async def test_a_client_that_goes_away_leaves_a_change_whole(
    make: Make, bucket: Bucket, proxy: HurtingProxy, tmp_path: Path
) -> None:
    (store,) = await opened(make, 1)
    await save(store, "a", FIRST, tmp_path)
    proxy.fault = lambda method, path: "hold" if path.endswith(key_of(SECOND)) else ""
    saving = asyncio.create_task(save(store, "a", SECOND, tmp_path))
    await asyncio.wait_for(proxy.held.wait(), NET)
    saving.cancel()
    proxy.release.set()
    with pytest.raises(asyncio.CancelledError):
        await saving
    assert await contents(bucket) == {"voices/a.json", recording_object(key_of(SECOND))}


async def test_a_start_without_the_bucket_ends_soon_and_makes_up_for_it_later(
    make: Make, proxy: HurtingProxy, tmp_path: Path
) -> None:
    (first,) = await opened(make, 1)
    voice = await save(first, "a", FIRST, tmp_path)
    proxy.fault = lambda method, path: "503"
    store = make()
    await store.open()
    for asked in (store.look_again(), save(store, "b", SECOND, tmp_path)):
        with pytest.raises(ServiceError) as refused:
            await asked
        assert refused.value.code is ErrorCode.voices_unavailable
    proxy.done.clear()
    proxy.fault = lambda method, path: ""
    running = asyncio.create_task(store.run())
    await proxy.wait_for("GET", "voices/a.json")  # without being asked
    await store.refresh.again()
    running.cancel()
    assert store.list() == [voice]


async def test_a_flood_of_unknown_voices_is_one_listing(make: Make, proxy: HurtingProxy) -> None:
    (store,) = await opened(make, 1)
    before = len(proxy.seen)
    await asyncio.gather(*(store.look_again() for _ in range(100)))
    assert len(proxy.seen) - before <= 2


def test_errors_tell_nothing_of_the_request() -> None:
    text = (
        "Generic S3 error: Error performing GET http://user:pass@host/b/x in 2ms, after 2 retries "
        "- Server returned non-2xx status code: 403 Forbidden: <Error><AWSAccessKeyId>KEY</Error>\n"
        "Debug source: secret"
    )
    assert told(text) == "Server returned non-2xx status code: 403 Forbidden"
    assert told("error at https://user:pass@host/x") == "error at the server"


# The copies on a machine


@pytest.fixture
async def states(bucket: Bucket, tmp_path: Path) -> SharedStates:
    states = SharedStates(bucket, tmp_path / "copies", 10 * MB)
    (states.encoded / FORM).mkdir(parents=True)  # as a worker makes it
    return states


def local(states: SharedStates, data: bytes) -> Path:
    return states.encoded / FORM / f"{key_of(data)}.voice"


async def test_an_encoded_voice_is_made_once(
    states: SharedStates, bucket: Bucket, proxy: HurtingProxy, tmp_path: Path
) -> None:
    key = key_of(FIRST)
    await bucket.put(recording_object(key), FIRST)
    await asyncio.gather(*(states.fetch(key) for _ in range(5)))  # there is none yet
    assert states.recording(key).read_bytes() == FIRST
    assert sum(path.endswith(recording_object(key)) for _, path in proxy.seen) == 2
    local(states, FIRST).write_bytes(encoded(b"state"))  # by a worker
    await states.offer(key)
    before = len(proxy.seen)
    await states.offer(key)
    await states.fetch(key)
    assert len(proxy.seen) == before

    other = SharedStates(bucket, tmp_path / "other", MB)
    (other.encoded / FORM).mkdir(parents=True)
    await other.fetch(key)
    assert local(other, FIRST).read_bytes() == encoded(b"state")
    assert not other.recording(key).exists()


async def test_what_comes_from_the_bucket_is_checked(states: SharedStates, bucket: Bucket) -> None:
    key = key_of(FIRST)
    await bucket.put(encoded_object(FORM, key), b"12345678damaged")
    with pytest.raises(NoRecordingError):
        await states.fetch(key)
    await bucket.put(recording_object(key), SECOND)
    with pytest.raises(NoRecordingError):
        await states.fetch(key)
    assert not [path for path in states.folder.rglob("*") if path.is_file()]
    await bucket.put(recording_object(key), FIRST)
    await states.fetch(key)
    assert states.recording(key).read_bytes() == FIRST
    local(states, FIRST).write_bytes(encoded(b"made again"))
    await states.offer(key)
    found = await bucket.get(encoded_object(FORM, key), MB)
    assert found is not None
    assert found[0] == encoded(b"made again")


async def test_what_a_worker_cannot_use_is_made_again(states: SharedStates, bucket: Bucket) -> None:
    key = key_of(FIRST)
    await bucket.put(recording_object(key), FIRST)
    await bucket.put(encoded_object(FORM, key), encoded(b"of another program"))
    await states.fetch(key)
    assert not states.recording(key).exists()
    local(states, FIRST).unlink()  # as a worker does with what it cannot read
    await states.fetch(key)
    assert states.recording(key).read_bytes() == FIRST
    local(states, FIRST).write_bytes(encoded(b"made again"))
    await states.offer(key)
    found = await bucket.get(encoded_object(FORM, key), MB)
    assert found is not None
    assert found[0] == encoded(b"made again")


async def test_copies_are_bounded_and_those_in_use_stay(bucket: Bucket, tmp_path: Path) -> None:
    states = SharedStates(bucket, tmp_path / "copies", MB)
    long_ago = time.time() - 1000
    keys = []
    for number in range(4):
        data = FIRST + bytes([number])
        keys.append(key_of(data))
        await bucket.put(recording_object(keys[-1]), data)
        await states.fetch(keys[-1])
        os.utime(states.recording(keys[-1]), (long_ago + number, long_ago + number))
    await bucket.put(recording_object(key_of(SECOND)), SECOND)
    states.limit = len(FIRST)
    with states.hold(keys[1]):
        await states.fetch(key_of(SECOND))
    left = {path.name for path in states.recording("x").parent.iterdir()}
    assert left == {keys[1], key_of(SECOND)}
    await bucket.delete(recording_object(keys[1]))
    await states.tidy()
    assert {path.name for path in states.recording("x").parent.iterdir()} == {key_of(SECOND)}


async def test_a_slow_bucket_does_not_hold_up_others(bucket: Bucket, proxy: HurtingProxy) -> None:
    proxy.fault = lambda method, path: "hold"
    asking = asyncio.create_task(bucket.get("voices/x.json", MB))
    await asyncio.wait_for(proxy.held.wait(), NET)  # so the loop runs while the request waits
    proxy.release.set()
    assert await asking is None


async def test_conditions_of_puts(bucket: Bucket) -> None:
    tag = await bucket.put("voices/x.json", b"1", only=NEW)
    for only in (NEW, '"another"'):
        with pytest.raises(ChangedMeanwhileError):
            await bucket.put("voices/x.json", b"2", only=only)
    with pytest.raises(ChangedMeanwhileError):
        await bucket.put("voices/none.json", b"2", only=tag)
    await bucket.put("voices/x.json", b"3", only=tag)
    assert (await bucket.get("voices/x.json", MB) or (b"",))[0] == b"3"
    assert (await bucket.get("voices/x.json", 0) or (b"x",))[0] == b""
    with pytest.raises(BucketError):
        await Bucket("s3://there-is-none").put("x", b"")


# Real fronts


def speech(pitch: float) -> bytes:
    times = np.arange(16_000) / 16_000
    file = io.BytesIO()
    soundfile.write(file, 0.3 * np.sin(2 * np.pi * pitch * times), 16_000, format="WAV")
    return file.getvalue()


async def register(front: RunningService, voice_id: str, data: bytes) -> int:
    form = aiohttp.FormData({"voice_id": voice_id})
    form.add_field("audio", io.BytesIO(data), filename="a")
    async with (
        aiohttp.ClientSession(front.url) as client,
        client.post("/v1/voices/register", data=form) as response,
    ):
        await response.read()
        return response.status


async def speak(front: RunningService, voice_id: str) -> tuple[int, str | None]:
    order = {"text": "Hello.", "voice_id": voice_id}
    async with (
        aiohttp.ClientSession(front.url) as client,
        client.post("/v1/tts", json=order) as response,
    ):
        await response.read()
        return response.status, response.headers.get("X-Voice-Cache")


async def test_a_voice_registered_at_one_front_speaks_at_the_other(
    proxy: HurtingProxy, url: str, bucket: Bucket
) -> None:
    settings = {
        **environment_of(proxy.port),
        "VOICES_URL": url,
        "VOICE_ENGINE_TTS_ENGINE": "tests.support.voice_engines:TellingFlite",
    }
    with contextlib.ExitStack() as stack:

        def start() -> RunningService:
            return stack.enter_context(running(settings))

        one, other = await asyncio.gather(asyncio.to_thread(start), asyncio.to_thread(start))
        await asyncio.gather(*(asyncio.to_thread(front.wait_ready) for front in (one, other)))
        data = speech(120.0)
        key = key_of(data)
        assert await register(one, "anna", data) == 200
        await proxy.wait_for("PUT", f"{key}.voice")  # in the background
        assert await speak(other, "anna") == (200, "hit")  # encoded at the first front alone
        assert ("GET", f"/{url[5:]}/{recording_object(key)}") not in proxy.seen

        async with (
            aiohttp.ClientSession(other.url) as client,
            client.get("/v1/voices/anna/audio") as response,
        ):
            assert (response.status, await response.read()) == (200, data)

        # What cannot be offered is made of the recording, and offered by the one who has made it.
        proxy.fault = lambda method, path: "503" if "/encoded/" in path else ""
        carl = speech(180.0)
        assert await register(one, "carl", carl) == 200
        await asyncio.to_thread(one.wait_for, "shared_voice_not_offered")
        proxy.done.clear()
        proxy.fault = lambda method, path: ""
        assert await speak(other, "carl") == (200, "miss")
        await proxy.wait_for("PUT", f"{key_of(carl)}.voice")

        proxy.fault = lambda method, path: "503"
        assert (await speak(other, "anna"))[0] == 200
        assert await register(other, "ben", speech(200.0)) == 503
        proxy.fault = lambda method, path: ""

        for voice_id in ("anna", "carl"):
            async with (
                aiohttp.ClientSession(other.url) as client,
                client.delete(f"/v1/voices/{voice_id}") as response,
            ):
                assert response.status == 200
            assert (await speak(other, voice_id))[0] == 404
        while (await speak(one, "anna"))[0] != 404:  # within a second
            pass
        (worker,) = one.children(model="tts")
        known = psutil.Process(worker["pid"]).environ()
        assert [name for name in known if name.startswith("AWS_")] == []
        assert await bucket.objects("recordings") == await bucket.objects("encoded") == []

        # A front dies just before the voice is written.
        proxy.fault = lambda method, path: (
            "hold" if method == "PUT" and path.endswith("voices/ben.json") else ""
        )
        registering = asyncio.create_task(register(one, "ben", speech(250.0)))
        await asyncio.wait_for(proxy.held.wait(), NET)
        one.process.send_signal(signal.SIGKILL)
        with pytest.raises(aiohttp.ClientError):
            await registering
        proxy.fault = lambda method, path: ""
        assert (await speak(other, "ben"))[0] == 404
        assert await bucket.objects("voices") == []
        assert await register(other, "ben", speech(250.0)) == 200
        assert (await speak(other, "ben"))[0] == 200
