"""Speech that is read sentence by sentence, and replayed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from ipc.operations import SentenceTime, SpokenSentence
from supervisor.dispatch.sentence_buffer import MOST_AUDIO, SentenceBuffer, SpokenAudio
from supervisor.dispatch.spool import Spool


@pytest.fixture
def buffer(tmp_path: Path) -> Iterator[SentenceBuffer]:
    made = SentenceBuffer(Spool(tmp_path, 1024))
    yield made
    made.close()


def sentence(number: int, *, last: bool = False) -> SpokenSentence:
    return SpokenSentence(number, SentenceTime(f"{number}.", number, number + 1.0, 0, 2), last)


async def test_a_sentence_is_read_as_soon_as_it_is_there(buffer: SentenceBuffer) -> None:
    reading = asyncio.ensure_future(buffer.read())
    buffer.append(b"one")
    await asyncio.sleep(0)
    buffer.append(b" one")
    buffer.append(sentence(0))
    assert await reading == SpokenAudio(b"one one", sentence(0))  # nothing came after it
    buffer.append(b"two")
    buffer.append(sentence(1, last=True))
    buffer.finish()
    assert await buffer.read() == SpokenAudio(b"two", sentence(1, last=True))
    assert await buffer.read() is None
    assert buffer.size == len(b"one one" + b"two")


async def test_two_sentences_may_end_at_the_same_byte(buffer: SentenceBuffer) -> None:
    for item in (b"one", sentence(0), sentence(1), b"rest"):
        buffer.append(item)
    buffer.finish()
    assert await buffer.read() == SpokenAudio(b"one", sentence(0))
    assert await buffer.read() == SpokenAudio(b"", sentence(1))
    assert await buffer.read() == SpokenAudio(b"rest", None)
    assert await buffer.read() is None


async def test_a_replay_brings_each_sentence_once(buffer: SentenceBuffer) -> None:
    for item in (b"one", sentence(0), b"tw"):
        buffer.append(item)
    assert await buffer.read() == SpokenAudio(b"one", sentence(0))
    buffer.rewind()  # some has been read: the bytes stay
    assert buffer.size == 5
    for item in (sentence(0), b"o", sentence(1)):
        buffer.append(item)
    buffer.finish()
    assert await buffer.read() == SpokenAudio(b"two", sentence(1))
    assert await buffer.read() is None


async def test_a_replay_of_what_nobody_has_read_starts_anew(buffer: SentenceBuffer) -> None:
    for item in (b"one", sentence(0), b"tw"):
        buffer.append(item)
    buffer.rewind()
    assert buffer.size == 0
    for item in (b"ONE", sentence(0)):
        buffer.append(item)
    buffer.finish()
    assert await buffer.read() == SpokenAudio(b"ONE", sentence(0))
    assert await buffer.read() is None


async def test_a_long_sentence_is_read_in_parts(buffer: SentenceBuffer) -> None:
    """No line is too long for clients, none is empty, and no sample of two bytes is cut."""
    sound = bytes(range(250)) * (2 * MOST_AUDIO // 250) + b"!!"
    for item in (sound[:10], sound[10:], sentence(0), sound[:MOST_AUDIO], sentence(1, last=True)):
        buffer.append(item)
    buffer.finish()
    read = [await buffer.read() for _ in range(4)]
    assert await buffer.read() is None
    assert read == [
        SpokenAudio(sound[:MOST_AUDIO], None),
        SpokenAudio(sound[MOST_AUDIO : 2 * MOST_AUDIO], None),
        SpokenAudio(b"!!", sentence(0)),
        SpokenAudio(sound[:MOST_AUDIO], sentence(1, last=True)),
    ]
    assert MOST_AUDIO % 2 == 0


async def test_an_error_comes_after_the_sentences(buffer: SentenceBuffer) -> None:
    for item in (b"one", sentence(0), b"tw"):
        buffer.append(item)
    buffer.finish(ValueError("broken"))
    assert await buffer.read() == SpokenAudio(b"one", sentence(0))
    with pytest.raises(ValueError, match="broken"):
        await buffer.read()
