"""Word times from the best path of a CTC model. Runs in workers; pure.

The path has one token for each frame. A token repeats while it is spoken; blank tokens separate
tokens. As in FunASR's SenseVoice, frame k is the time from 60 k - 30 to 60 k + 30 ms.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Callable, Sequence

from ipc.spacing import spaceless
from model_procs.listening.transcript import TimedWord

QUERIES = 4
"""The first frames of the path, before those of the audio; SenseVoice writes its tags there."""

_FRAME_SECONDS = 0.06
_LEAD_SECONDS = 0.03
_HOLD_FRAMES = 3
"""A token is only a short spike in the path; its sound is assumed to last this much longer."""

_TAG = re.compile(r"\s*<\|[^|<>]*\|>\s*")


def tokens(path: Sequence[int], blank: int = 0) -> list[tuple[int, int, int]]:
    """The tokens of `path` in order: (token, first frame, the frame after the last one)."""
    found = []
    frame = 0
    for token, run in itertools.groupby(path):
        end = frame + sum(1 for _ in run)
        if token != blank:
            found.append((token, frame, end))
        frame = end
    return found


def is_tag(text: str) -> bool:
    """Whether the text of a token is a tag of the model."""
    return _TAG.fullmatch(text) is not None


def align(
    path: Sequence[int],
    spell: Callable[[list[int]], list[str]],
    seconds: float,
    offset: float = 0.0,
    *,
    scores: Sequence[float] = (),
) -> list[TimedWord]:
    """The words of `path`, which begins with `QUERIES` frames of tags.

    `scores` are the logarithms of the probabilities of the tokens in `path`; () if there are none.
    That of a token is its best one.

    `spell` returns the text that each token adds, with a space in front where a word begins. The
    audio is `seconds` long and starts at `offset` seconds in the recording; all times lie within
    it. A word ends where the next one begins, or shortly after its last token.
    """
    found = tokens(path)
    words: list[_Growing] = []
    space = False
    for (_, first, end), text in zip(found, spell([token for token, _, _ in found]), strict=True):
        score = tuple([max(scores[first:end])] if scores else ())
        if is_tag(text):
            space = True
            continue
        space = space or text[:1].isspace()
        if letters := text.strip():
            space = space and not (words and _no_space(words[-1].text, letters))
            if words and not space and words[-1].goes_on(letters):
                words[-1].add(letters, first - QUERIES, end - QUERIES, score)
            else:
                words.append(_Growing(letters, space, first - QUERIES, end - QUERIES, score))
            space = False
        space = space or text[-1:].isspace()
    words = _with_punctuation(words)

    def time(frame: int) -> float:
        return offset + min(max(frame * _FRAME_SECONDS - _LEAD_SECONDS, 0.0), seconds)

    starts = [word.start for word in words] + [len(path)]
    return [
        TimedWord(
            word.text,
            time(word.start),
            time(min(word.end + _HOLD_FRAMES, following)),
            word.space,
            word.scores,
        )
        for word, following in zip(words, starts[1:], strict=True)
    ]


class _Growing:
    """A word that may get more tokens. `start` and `end` are frames; punctuation adds none."""

    def __init__(
        self, text: str, space: bool, start: int, end: int, scores: tuple[float, ...]
    ) -> None:
        self.text = text
        self.space = space
        self.start = start
        self.end = end
        self.scores = scores
        self.silent = _silent(text)

    def goes_on(self, text: str) -> bool:
        """Whether `text`, with no space before it, belongs to this word."""
        if _opens(text):
            return False
        return _silent(text) or not (spaceless(self.text[-1]) or spaceless(text[0]))

    def add(
        self, text: str, start: int, end: int, scores: tuple[float, ...], between: str = ""
    ) -> None:
        self.text += between + text
        self.scores += scores
        if not _silent(text):
            self.start, self.end = (start, end) if self.silent else (self.start, end)
            self.silent = False


def _with_punctuation(words: list[_Growing]) -> list[_Growing]:
    """Merge punctuation into the word before it, opening punctuation into the word after it."""
    joined: list[_Growing] = []
    for word in words:
        if joined and (joined[-1].silent or (word.silent and not _opens(word.text))):
            between = " " if word.space and not _no_space(joined[-1].text, word.text) else ""
            joined[-1].add(word.text, word.start, word.end, word.scores, between)
        else:
            joined.append(word)
    return joined


def _no_space(before: str, after: str) -> bool:
    """Whether the scripts of two words have no spaces; the model sometimes writes one."""
    return spaceless(before[-1]) and spaceless(after[0])


def _opens(text: str) -> bool:
    return unicodedata.category(text[0]) in ("Ps", "Pi")


def _silent(text: str) -> bool:
    return all(unicodedata.category(character)[0] == "P" for character in text)
