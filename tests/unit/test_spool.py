"""Uploads and responses that do not fit in memory, on disks that may be full."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import shutil
import stat
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ipc.errors import ErrorCode, ServiceError
from ipc.operations import Paralinguistics, Recording, Segment
from supervisor.dispatch import spool as spool_module
from supervisor.dispatch.response_buffer import ResponseBuffer, SegmentBuffer
from supervisor.dispatch.spool import Spool
from supervisor.dispatch.upload import Upload


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    spool = Spool(tmp_path, threshold=1000, responses=1000)
    yield spool
    spool.close()
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def no_disk(spool: Spool) -> None:
    """Nothing can be written any more, as when the disk is full."""
    shutil.rmtree(spool.folder)


def files(spool: Spool) -> list[Path]:
    return [path for path in spool.folder.iterdir() if path.name != "lock"]


def test_a_folder_taken_for_abandoned_while_it_was_made_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock = fcntl.flock
    others = iter(["another front starts just now"])

    def flock_late(lock: int, operation: int) -> None:
        if operation == fcntl.LOCK_EX and next(others, None):
            spool_module._remove_abandoned(tmp_path)
        flock(lock, operation)

    monkeypatch.setattr(fcntl, "flock", flock_late)
    spool = Spool(tmp_path, threshold=1000)
    assert (spool.folder / "lock").is_file()
    assert list(tmp_path.iterdir()) == [spool.folder]
    spool_module._remove_abandoned(tmp_path)  # it is in use from now on
    assert list(tmp_path.iterdir()) == [spool.folder]
    spool.close()
    assert next(others, None) is None


async def test_a_small_upload_stays_in_memory(spool: Spool) -> None:
    async with Upload(spool) as upload:
        await upload.write(b"a" * 1000)
        await upload.close()
        assert (upload.path, upload.size) == (None, 1000)
        key = hashlib.sha256(b"a" * 1000).hexdigest()
        assert upload.recording == Recording(key, data=b"a" * 1000)
        assert files(spool) == []


async def test_a_large_upload_is_a_private_file_for_as_long_as_it_is_needed(spool: Spool) -> None:
    async with Upload(spool) as upload:
        for _ in range(5):
            await upload.write(b"ab" * 300)
        await upload.close()
        assert upload.path is not None
        assert files(spool) == [Path(upload.path)]
        assert files(spool)[0].read_bytes() == b"ab" * 1500
        key = hashlib.sha256(b"ab" * 1500).hexdigest()
        assert upload.recording == Recording(key, path=upload.path)
        assert stat.S_IMODE(os.stat(upload.path).st_mode) == 0o600
        assert stat.S_IMODE(os.stat(spool.folder).st_mode) == 0o700
    assert files(spool) == []


async def test_the_beginning_of_an_upload_is_known_however_it_comes(spool: Spool) -> None:
    data = bytes(range(100))
    async with Upload(spool) as upload:
        for byte in data:
            await upload.write(bytes([byte]))
        assert upload.head == data[:64]
        await upload.close()


@pytest.mark.usefixtures("no_disk")
async def test_an_upload_to_a_failing_disk_is_refused_for_now(spool: Spool) -> None:
    async with Upload(spool) as upload:
        with pytest.raises(ServiceError) as refused:
            await upload.write(b"a" * 2000)
    assert refused.value.code is ErrorCode.spool_full
    assert refused.value.retry_after


async def drain(buffer: ResponseBuffer) -> bytes:
    parts = []
    while data := await buffer.read():
        parts.append(data)
    return b"".join(parts)


async def written(*buffers: ResponseBuffer) -> None:
    """Wait until nothing is on its way to the files."""
    for buffer in buffers:
        if buffer._writing is not None:
            await buffer._writing


PIECES = [bytes([number]) * 300 for number in range(20)]


async def test_a_response_that_nobody_reads_goes_to_disk_and_comes_back_in_order(
    spool: Spool,
) -> None:
    buffer = ResponseBuffer(spool)
    for piece in PIECES[:10]:
        buffer.append(piece)
    assert await buffer.read() == PIECES[0]
    for piece in PIECES[10:]:
        buffer.append(piece)
    buffer.finish()
    assert buffer.size == 6000
    assert spool.room == 100
    await written(buffer)
    assert buffer.stored == 6000 - 1200
    assert await drain(buffer) == b"".join(PIECES[1:])
    buffer.close()


async def test_all_responses_share_the_memory_and_give_it_back(spool: Spool) -> None:
    buffers = [ResponseBuffer(spool) for _ in range(4)]
    for buffer in buffers:
        buffer.append(PIECES[1])
    await written(*buffers)
    assert [buffer.stored for buffer in buffers] == [0, 0, 0, 300]
    assert await buffers[0].read() == PIECES[1]
    buffers[1].close()
    assert spool.room == 700
    buffers[2].append(PIECES[2] * 2)
    buffers[2].append(PIECES[3])
    await written(*buffers)
    assert (spool.room, buffers[2].stored) == (100, 300)
    for buffer in buffers:
        buffer.close()
    assert spool.room == 1000


async def test_a_reader_waits_for_what_comes(spool: Spool) -> None:
    buffer = ResponseBuffer(spool)
    reading = asyncio.create_task(drain(buffer))
    await asyncio.sleep(0)
    buffer.append(b"a")
    await asyncio.sleep(0)
    buffer.append(b"b")
    buffer.finish()
    assert await reading == b"ab"
    buffer.close()


async def test_an_error_comes_after_the_bytes(spool: Spool) -> None:
    buffer = ResponseBuffer(spool)
    buffer.append(b"a")
    buffer.finish(ServiceError(ErrorCode.worker_crashed, "gone"))
    assert await buffer.read() == b"a"
    with pytest.raises(ServiceError, match="gone"):
        await buffer.read()
    buffer.close()


async def test_a_response_that_is_made_again_begins_anew_unless_it_has_been_read(
    spool: Spool,
) -> None:
    buffer = ResponseBuffer(spool)
    for piece in PIECES[:6]:
        buffer.append(piece)
    await written(buffer)
    assert (buffer.stored, spool.room) == (900, 100)
    buffer.rewind()
    assert (buffer.size, buffer.stored, spool.room) == (0, 0, 1000)
    for piece in PIECES[10:]:
        buffer.append(piece)
    assert await buffer.read() == PIECES[10]
    buffer.rewind()
    assert buffer.size == 3000
    buffer.finish()
    assert await drain(buffer) == b"".join(PIECES[11:])
    buffer.close()


@pytest.mark.usefixtures("no_disk")
async def test_a_response_survives_a_failing_disk(spool: Spool) -> None:
    buffer = ResponseBuffer(spool)
    for piece in PIECES:
        buffer.append(piece)
    buffer.finish()
    await written(buffer)
    assert spool.room == 1000 - 6000  # all of it is in memory, and no other response may be
    assert await drain(buffer) == b"".join(PIECES)
    buffer.close()


@dataclass
class SlowDisk:
    """A disk that stands still until the test lets it go on."""

    begun: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)


@pytest.fixture
def slow_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowDisk]:
    disk = SlowDisk()
    write_file = ResponseBuffer._write_file

    def write_slowly(buffer: ResponseBuffer, data: bytes, offset: int) -> None:
        disk.begun.set()
        disk.go_on.wait()
        write_file(buffer, data, offset)

    monkeypatch.setattr(ResponseBuffer, "_write_file", write_slowly)
    yield disk
    disk.go_on.set()


async def test_a_disk_that_stands_still_holds_up_neither_loop_nor_reader(
    spool: Spool, slow_disk: SlowDisk
) -> None:
    buffer = ResponseBuffer(spool)
    for piece in PIECES:
        buffer.append(piece)
    buffer.finish()
    await asyncio.to_thread(slow_disk.begun.wait)
    assert await drain(buffer) == b"".join(PIECES)  # while the disk stands still
    slow_disk.go_on.set()
    await written(buffer)
    assert spool.room == 1000
    buffer.close()


async def test_what_a_slow_disk_still_writes_does_not_mix_with_what_comes_anew(
    spool: Spool, slow_disk: SlowDisk
) -> None:
    buffer = ResponseBuffer(spool)
    for piece in PIECES[:10]:
        buffer.append(piece)
    await asyncio.to_thread(slow_disk.begun.wait)
    buffer.rewind()
    for piece in PIECES[10:]:
        buffer.append(piece)
    buffer.finish()
    slow_disk.go_on.set()
    await written(buffer)
    assert buffer.stored == 3000 - 900
    assert await drain(buffer) == b"".join(PIECES[10:])
    buffer.close()


async def test_a_client_that_leaves_while_the_disk_writes_leaves_nothing(
    spool: Spool, slow_disk: SlowDisk
) -> None:
    buffer = ResponseBuffer(spool)
    for piece in PIECES:
        buffer.append(piece)
    await asyncio.to_thread(slow_disk.begun.wait)
    buffer.close()
    assert spool.room == 1000
    slow_disk.go_on.set()
    await written(buffer)
    assert buffer._file is None


# Segments of a transcript


SEGMENTS = [
    Segment(id, float(id), id + 0.5, f"Sentence {id}.", Paralinguistics("en", "NEUTRAL"))
    for id in range(6)
]


async def all_segments(buffer: SegmentBuffer) -> list[Segment]:
    segments = []
    while segment := await buffer.read():
        segments.append(segment)
    return segments


async def test_a_reader_waits_for_segments() -> None:
    buffer = SegmentBuffer()
    reading = asyncio.create_task(all_segments(buffer))
    for segment in SEGMENTS[:3]:
        await asyncio.sleep(0)
        buffer.append(segment)
    assert buffer.size == 3
    buffer.finish()
    assert await reading == SEGMENTS[:3]


async def test_an_error_comes_after_the_segments() -> None:
    buffer = SegmentBuffer()
    buffer.append(SEGMENTS[0])
    buffer.finish(ServiceError(ErrorCode.worker_crashed, "gone"))
    assert await buffer.read() == SEGMENTS[0]
    with pytest.raises(ServiceError, match="gone"):
        await buffer.read()


async def test_segments_that_are_made_again_begin_anew_unless_one_has_been_read() -> None:
    buffer = SegmentBuffer()
    for segment in SEGMENTS[:3]:
        buffer.append(segment)
    buffer.rewind()
    assert buffer.size == 0
    for segment in SEGMENTS[3:]:
        buffer.append(segment)
    assert await buffer.read() == SEGMENTS[3]
    buffer.rewind()
    assert buffer.size == 3
    buffer.finish()
    assert await all_segments(buffer) == SEGMENTS[4:]


async def test_nothing_is_left_of_segments_after_a_client_has_gone() -> None:
    buffer = SegmentBuffer()
    buffer.append(SEGMENTS[0])
    buffer.finish(ServiceError(ErrorCode.worker_crashed, "gone"))
    buffer.close()
    assert await buffer.read() is None


# Clients that leave while a thread is at work


async def test_an_upload_that_ends_in_the_middle_of_a_write_leaves_no_file(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    write_file = Upload._write_file

    def write_slowly(upload: Upload, block: bytearray) -> None:
        begun.set()
        go_on.wait()
        write_file(upload, block)

    monkeypatch.setattr(Upload, "_write_file", write_slowly)

    async def receive() -> None:
        async with Upload(spool) as upload:
            await upload.write(b"a" * 2000)

    receiving = asyncio.create_task(receive())
    await asyncio.to_thread(begun.wait)
    receiving.cancel()
    await asyncio.wait([receiving], timeout=0.01)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await receiving
    await asyncio.get_running_loop().shutdown_default_executor()
    assert files(spool) == []


async def test_a_file_is_removed_although_its_client_leaves_before_its_turn(spool: Spool) -> None:
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(max_workers=1))
    go_on = threading.Event()
    written, done = asyncio.Event(), asyncio.Event()

    async def receive() -> None:
        async with Upload(spool) as upload:
            await upload.write(b"a" * 2000)
            written.set()
            await done.wait()

    receiving = asyncio.create_task(receive())
    await written.wait()
    others = asyncio.get_running_loop().run_in_executor(None, go_on.wait)
    done.set()
    await asyncio.wait([receiving], timeout=0.01)
    receiving.cancel()
    await asyncio.wait([receiving], timeout=0.01)
    go_on.set()
    await others
    with pytest.raises(asyncio.CancelledError):
        await receiving
    assert files(spool) == []
