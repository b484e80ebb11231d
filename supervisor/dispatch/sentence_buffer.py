"""A buffer for speech that is read sentence by sentence. Runs in the front.

A worker appends bytes, and after the last bytes of a sentence the sentence. It is a `Sink`.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from ipc.operations import SpokenSentence
from supervisor.dispatch.response_buffer import ResponseBuffer
from supervisor.dispatch.spool import Spool

MOST_AUDIO = 36_000
"""The most bytes that are read at once: clients refuse long lines (aiohttp those over 128 KB).

In base64, and with the times of the longest sentence, they are still below that. It is an even
number, so that no sample of PCM is cut.
"""


@dataclass(frozen=True, slots=True)
class SpokenAudio:
    """Bytes, and the sentence that ends with them; None: it goes on."""

    audio: bytes
    sentence: SpokenSentence | None


class SentenceBuffer:
    """Bytes in a `ResponseBuffer`, with an empty piece at the end of each sentence.

    A worker that replays a stream leaves out the bytes that are here already, but sends every
    sentence: those that are here already are known by their number.

    With `at_once` what has come is read before its sentence is complete.
    """

    def __init__(self, spool: Spool, *, at_once: bool = False) -> None:
        self._at_once = at_once
        self._bytes = ResponseBuffer(spool)
        self._sentences: deque[SpokenSentence] = deque()
        """Those whose end has not been read."""
        self._count = 0
        self._begun = False
        self._left = bytearray()
        """Bytes that have been taken from the buffer, but not read."""

    @property
    def size(self) -> int:
        """How many bytes have been appended so far."""
        return self._bytes.size

    def append(self, item: bytes | SpokenSentence) -> None:
        """Add the next bytes, or the sentence that ends with them."""
        if isinstance(item, bytes):
            if item:
                self._bytes.append(item)
        elif item.number == self._count:
            self._count += 1
            self._sentences.append(item)
            self._bytes.append(b"")

    def rewind(self) -> None:
        """Drop everything, unless some has been read: the stream starts again from its start."""
        self._bytes.rewind()
        if not self._begun:
            self._sentences.clear()
            self._count = 0

    def finish(self, error: BaseException | None = None) -> None:
        """End the stream; with an `error`, the reader gets it at the end."""
        self._bytes.finish(error)

    async def read(self) -> SpokenAudio | None:
        """The next sentence, or the next part of it; None at the end.

        Raises what `finish` was given.
        """
        while len(self._left) <= MOST_AUDIO and not (self._at_once and self._left):
            data = await self._bytes.read()
            if not data:
                return self._end_of_sentence()
            self._begun = True
            self._left += data
        audio = bytes(self._left[:MOST_AUDIO])
        del self._left[:MOST_AUDIO]
        return SpokenAudio(audio, None)

    def _end_of_sentence(self) -> SpokenAudio | None:
        audio = bytes(self._left)
        self._left.clear()
        if self._sentences:
            self._begun = True
            return SpokenAudio(audio, self._sentences.popleft())
        return SpokenAudio(audio, None) if audio else None

    def close(self) -> None:
        """Drop what was not read."""
        self._bytes.close()
        self._sentences.clear()
