"""When each word was said, from a CTC model's best path. Runs in workers; pure.

The path has one token for each frame: a token stays while it is said, and blanks stand between
tokens. FunASR's SenseVoice calls frame k the time from 60 k - 30 to 60 k + 30 ms; so does this.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Callable, Sequence

from ipc.spacing import spaceless
from model_procs.listening.transcript import TimedWord

QUERIES = 4
"""Frames before the sound's own, in which SenseVoice answers with its tags."""

_FRAME_SECONDS = 0.06
_LEAD_SECONDS = 0.03
_HOLD_FRAMES = 3
"""A token is only a spike in the path: its sound goes on until the next one, but no longer."""

_TAG = re.compile(r"\s*<\|[^|<>]*\|>\s*")


def tokens(path: Sequence[int], blank: int = 0) -> list[tuple[int, int, int]]:
    """What stands in `path`: (token, first frame, the frame after its last), in order."""
    found = []
    frame = 0
    for token, run in itertools.groupby(path):
        end = frame + sum(1 for _ in run)
        if token != blank:
            found.append((token, frame, end))
        frame = end
    return found


def align(
    path: Sequence[int],
    spell: Callable[[list[int]], list[str]],
    seconds: float,
    offset: float = 0.0,
) -> list[TimedWord]:
    """The words of `path`, which begins with the frames of the queries.

    `spell` turns tokens into what each adds to the text, with a blank in front where a word begins.
    Times lie within `seconds` from `offset` on, where the piece has its place in the recording.
    A word ends where the next begins, or a little after its last token.
    """
    found = tokens(path)
    words: list[_Growing] = []
    blank = False
    for (_, first, end), text in zip(found, spell([token for token, _, _ in found]), strict=True):
        if _TAG.fullmatch(text):
            blank = True
            continue
        blank = blank or text[:1].isspace()
        if letters := text.strip():
            if words and not blank and words[-1].goes_on(letters):
                words[-1].add(letters, first - QUERIES, end - QUERIES)
            else:
                words.append(_Growing(letters, blank, first - QUERIES, end - QUERIES))
            blank = False
        blank = blank or text[-1:].isspace()
    words = _with_punctuation(words)

    def time(frame: int) -> float:
        return offset + min(max(frame * _FRAME_SECONDS - _LEAD_SECONDS, 0.0), seconds)

    starts = [word.start for word in words] + [len(path)]
    return [
        TimedWord(
            word.text, time(word.start), time(min(word.end + _HOLD_FRAMES, following)), word.blank
        )
        for word, following in zip(words, starts[1:], strict=True)
    ]


class _Growing:
    """A word that may get more tokens; `start` and `end` are frames. Punctuation takes no time."""

    def __init__(self, text: str, blank: bool, start: int, end: int) -> None:
        self.text = text
        self.blank = blank
        self.start = start
        self.end = end
        self.silent = _silent(text)

    def goes_on(self, text: str) -> bool:
        """Whether `text`, with no blank before it, belongs to this word."""
        if _opens(text):
            return False
        return _silent(text) or not (spaceless(self.text[-1]) or spaceless(text[0]))

    def add(self, text: str, start: int, end: int, between: str = "") -> None:
        self.text += between + text
        if not _silent(text):
            self.start, self.end = (start, end) if self.silent else (self.start, end)
            self.silent = False


def _with_punctuation(words: list[_Growing]) -> list[_Growing]:
    """`words` with those that are only punctuation put to the one before; opening ones behind."""
    joined: list[_Growing] = []
    for word in words:
        if joined and (joined[-1].silent or (word.silent and not _opens(word.text))):
            joined[-1].add(word.text, word.start, word.end, " " if word.blank else "")
        else:
            joined.append(word)
    return joined


def _opens(text: str) -> bool:
    return unicodedata.category(text[0]) in ("Ps", "Pi")


def _silent(text: str) -> bool:
    return all(unicodedata.category(character)[0] == "P" for character in text)
