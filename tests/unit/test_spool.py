"""Uploads and answers that do not fit in memory, on disks that may be full."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ipc.errors import ErrorCode, ServiceError
from supervisor.dispatch.response_buffer import Answer
from supervisor.dispatch.spool import Spool
from supervisor.dispatch.upload import Upload


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    spool = Spool(tmp_path, threshold=1000, answers=1000)
    yield spool
    spool.close()
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def no_disk(spool: Spool) -> None:
    """Nothing can be written any more, as when the disk is full."""
    shutil.rmtree(spool.folder)


def files(spool: Spool) -> list[Path]:
    return [path for path in spool.folder.iterdir() if path.name != "lock"]


async def test_a_small_upload_stays_in_memory(spool: Spool) -> None:
    async with Upload(spool) as upload:
        await upload.write(b"a" * 1000)
        await upload.close()
        assert (upload.data, upload.path, upload.size) == (b"a" * 1000, None, 1000)
        assert files(spool) == []


async def test_a_large_upload_is_a_private_file_for_as_long_as_it_is_needed(spool: Spool) -> None:
    async with Upload(spool) as upload:
        for _ in range(5):
            await upload.write(b"ab" * 300)
        await upload.close()
        assert upload.data is None
        assert upload.path is not None
        assert files(spool) == [Path(upload.path)]
        assert files(spool)[0].read_bytes() == b"ab" * 1500
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


async def drain(answer: Answer) -> bytes:
    parts = []
    while data := await answer.read():
        parts.append(data)
    return b"".join(parts)


PIECES = [bytes([number]) * 300 for number in range(20)]


async def test_an_answer_that_nobody_reads_goes_to_disk_and_comes_back_in_order(
    spool: Spool,
) -> None:
    answer = Answer(spool)
    for piece in PIECES[:10]:
        answer.append(piece)
    assert await answer.read() == PIECES[0]
    for piece in PIECES[10:]:
        answer.append(piece)
    answer.finish()
    assert answer.size == 6000
    assert spool.room == 100
    assert answer.stored == 6000 - 1200
    assert await drain(answer) == b"".join(PIECES[1:])
    answer.close()


async def test_all_answers_share_the_memory_and_give_it_back(spool: Spool) -> None:
    answers = [Answer(spool) for _ in range(4)]
    for answer in answers:
        answer.append(PIECES[1])
    assert [answer.stored for answer in answers] == [0, 0, 0, 300]
    assert await answers[0].read() == PIECES[1]
    answers[1].close()
    assert spool.room == 700
    answers[2].append(PIECES[2] * 2)
    answers[2].append(PIECES[3])
    assert (spool.room, answers[2].stored) == (100, 300)
    for answer in answers:
        answer.close()
    assert spool.room == 1000


async def test_a_reader_waits_for_what_comes(spool: Spool) -> None:
    answer = Answer(spool)
    reading = asyncio.create_task(drain(answer))
    await asyncio.sleep(0)
    answer.append(b"a")
    await asyncio.sleep(0)
    answer.append(b"b")
    answer.finish()
    assert await reading == b"ab"
    answer.close()


async def test_an_error_comes_after_the_bytes(spool: Spool) -> None:
    answer = Answer(spool)
    answer.append(b"a")
    answer.finish(ServiceError(ErrorCode.worker_crashed, "gone"))
    assert await answer.read() == b"a"
    with pytest.raises(ServiceError, match="gone"):
        await answer.read()
    answer.close()


async def test_an_answer_that_is_made_again_begins_anew_unless_it_has_been_read(
    spool: Spool,
) -> None:
    answer = Answer(spool)
    for piece in PIECES[:6]:
        answer.append(piece)
    assert (answer.stored, spool.room) == (900, 100)
    answer.rewind()
    assert (answer.size, answer.stored, spool.room) == (0, 0, 1000)
    for piece in PIECES[10:]:
        answer.append(piece)
    assert await answer.read() == PIECES[10]
    answer.rewind()
    assert answer.size == 3000
    answer.finish()
    assert await drain(answer) == b"".join(PIECES[11:])
    answer.close()


@pytest.mark.usefixtures("no_disk")
async def test_an_answer_survives_a_failing_disk(spool: Spool) -> None:
    answer = Answer(spool)
    for piece in PIECES:
        answer.append(piece)
    answer.finish()
    assert await drain(answer) == b"".join(PIECES)
    answer.close()


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
