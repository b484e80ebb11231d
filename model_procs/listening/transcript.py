"""Build transcripts: words with times, segments, and the whole.

Runs in workers. An engine recognizes a recording piece by piece; everything here is pure.
"""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ipc.operations import (
    MIN_PROBABILITY,
    NO_LANGUAGE,
    Distribution,
    Paralinguistics,
    Segment,
    Transcript,
    Word,
)
from ipc.spacing import join, seam

LANGUAGES = ("auto", "zh", "en", "yue", "ja", "ko", NO_LANGUAGE)
EMOTIONS = ("HAPPY", "SAD", "ANGRY", "NEUTRAL", "FEARFUL", "DISGUSTED", "SURPRISED", "OTHER")
NO_EMOTION, NO_EVENT = "EMO_UNKNOWN", "Event_UNK"
EVENTS = (
    *("Speech", "BGM", "Applause", "Laughter", "Cry", "Sneeze", "Breath", "Cough", "Sing"),
    *("Speech_Noise", "GBG", NO_EVENT),
)

PAUSE_SECONDS = 0.8
"""A silence of this length between two words always ends a segment."""

LONG_SECONDS = 10.0
"""A longer segment is split at a clause or a short pause, if it has one."""

_SHORT_PAUSE_SECONDS = 0.2
_TAG = re.compile(r"<\|([^|<>]*)\|>")
_LANGUAGE = re.compile(f"[a-z]{{2,3}}|{NO_LANGUAGE}")
_EVENT = re.compile("[A-Z][A-Za-z_]*")
_HALLUCINATION = "The."
"""What SenseVoice writes for noise; its own post-processing removes it too."""

_CLOSING = "[\"'”’»」』)）]*$"
_SENTENCE_END = re.compile(f"[.!?。！？．…]{_CLOSING}")
_CLAUSE_END = re.compile(f"[,;:、，；：–—]{_CLOSING}")
_ABBREVIATION = re.compile(r"\W*(Mr|Mrs|Ms|Dr|Prof|St|[A-HJ-Z])\.$")


@dataclass(frozen=True, slots=True)
class TimedWord:
    """A word with the punctuation after it; `start` and `end` in seconds of the recording.

    - `spaced`: the text has a space before it;
    - `logprobs`: the logarithms of the probabilities of its tokens; () if the model has none.
    """

    text: str
    start: float
    end: float
    spaced: bool = True
    logprobs: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Piece:
    """The model's output for one piece of a recording, and how likely each of its tags is.

    The distributions are exact and complete, or None if the model has none. `words` are the words
    of `text`, in order; `no_speech` is the probability of no speech at all.
    """

    seconds: float
    raw: str
    languages: Distribution | None = None
    emotions: Distribution | None = None
    sounds: Distribution | None = None
    words: tuple[TimedWord, ...] = ()
    no_speech: float | None = None

    @property
    def tags(self) -> list[str]:
        """The tags in `raw`, in order."""
        return _TAG.findall(self.raw)

    @property
    def text(self) -> str:
        """`raw` without tags, with spaces where its scripts have them; "" if it has no letter."""
        text = join(_TAG.sub(" ", self.raw).split())
        return text if _says_something(text) else ""

    @property
    def language(self) -> str:
        """A code of a language; `nospeech` if the model gives none."""
        return next((tag for tag in self.tags if _LANGUAGE.fullmatch(tag)), NO_LANGUAGE)

    @property
    def emotion(self) -> str:
        """One of `EMOTIONS`, or EMO_UNKNOWN."""
        return next((tag for tag in self.tags if tag in EMOTIONS), NO_EMOTION)

    @property
    def events(self) -> list[str]:
        """Speech, BGM, Laughter, Applause and the like, each once.

        Not their ends, such as `/BGM`, nor tags that the model has no use for.
        """
        others = {*EMOTIONS, NO_EVENT}
        return list(
            dict.fromkeys(
                tag
                for tag in self.tags
                if _EVENT.fullmatch(tag) and tag not in others and not tag.startswith("EMO_")
            )
        )

    @property
    def paralinguistics(self) -> Paralinguistics:
        """Its language, emotion and events."""
        return Paralinguistics(
            language=self.language,
            emotion=self.emotion,
            events=tuple(self.events),
            language_probability=_probability(self.languages, self.language),
            emotion_probability=_probability(self.emotions, self.emotion),
            event_probability=_probability(self.sounds, next(iter(self.events), NO_EVENT)),
            language_probabilities=likely(self.languages),
            emotions=likely(self.emotions),
            event_probabilities=likely(self.sounds),
        )

    def segments(self, first_id: int, *, words: bool) -> Iterator[Segment]:
        """The segments of the piece; with `words` also their words.

        Each has the language, emotion and events of the piece. Times are in seconds, rounded to
        milliseconds.
        """
        groups = [group for group in divide(self.words) if _says_something(spell(group))]
        for id, group in enumerate(groups, first_id):
            yield Segment(
                id=id,
                start=round(group[0].start, 3),
                end=round(group[-1].end, 3),
                text=spell(group),
                paralinguistics=self.paralinguistics,
                words=tuple(
                    Word(
                        word.text,
                        round(word.start, 3),
                        round(word.end, 3),
                        _rounded(sum(word.logprobs)) if word.logprobs else None,
                    )
                    for word in group
                )
                if words
                else None,
                avg_logprob=_mean([score for word in group for score in word.logprobs]),
                no_speech=_rounded(self.no_speech),
            )


def merge(pieces: Sequence[Piece]) -> Transcript:
    """The transcript of a recording from its pieces, without segments.

    The language is the one with the most seconds, and so is the emotion; pieces without a language
    or an emotion do not count, unless no piece has one. A distribution is the mean of those of the
    pieces that count, weighted by their seconds; for events all pieces count. It is None if the
    model has none.
    """
    language, languages = _vote(
        [(piece.language, piece.languages, piece.seconds) for piece in pieces], NO_LANGUAGE
    )
    emotion, emotions = _vote(
        [(piece.emotion, piece.emotions, piece.seconds) for piece in pieces], NO_EMOTION
    )
    sounds = _mean_distribution([(piece.sounds, piece.seconds) for piece in pieces])
    return Transcript(
        text=join(piece.text for piece in pieces),
        raw="".join(piece.raw for piece in pieces),
        duration=sum(piece.seconds for piece in pieces),
        paralinguistics=Paralinguistics(
            language=language,
            emotion=emotion,
            events=tuple(dict.fromkeys(event for piece in pieces for event in piece.events)),
            language_probability=_probability(languages, language),
            emotion_probability=_probability(emotions, emotion),
            language_probabilities=likely(languages),
            emotions=likely(emotions),
            event_probabilities=likely(sounds),
        ),
    )


def likely(distribution: Distribution | None) -> Distribution | None:
    """What of `distribution` is sent: the likeliest tag first, rounded, none below the minimum."""
    if distribution is None:
        return None
    kept = sorted(distribution.items(), key=lambda item: (-item[1], item[0]))
    return {tag: round(value, 4) for tag, value in kept if value >= MIN_PROBABILITY}


def tagged(text: str, language: str, *, itn: bool) -> str:
    """`text` with SenseVoice's tags, for engines that recognize no emotions and no sound events."""
    event = "Speech" if text else NO_EVENT
    return f"<|{language}|><|{NO_EMOTION}|><|{event}|><|{'withitn' if itn else 'woitn'}|>{text}"


def spell(words: Sequence[TimedWord]) -> str:
    """The text of `words`."""
    return "".join((" " if word.spaced else "") + word.text for word in words).strip()


def divide(words: Sequence[TimedWord]) -> list[list[TimedWord]]:
    """Split `words` at ends of sentences and long pauses; long groups also at clauses.

    It splits only where `join` restores the text exactly.
    """
    groups: list[list[TimedWord]] = []
    group: list[TimedWord] = []
    for word, following in itertools.zip_longest(words, words[1:]):
        group.append(word)
        if following is None or (
            _may_part(word, following)
            and (_ends_sentence(word, following) or following.start - word.end >= PAUSE_SECONDS)
        ):
            groups += _shorten(group)
            group = []
    return groups


def _shorten(group: list[TimedWord]) -> list[list[TimedWord]]:
    """Split `group` near its middle, and its parts again, until they are short enough.

    A part without a place to split stays as it is.
    """
    start, end = group[0].start, group[-1].end
    if end - start <= LONG_SECONDS:
        return [group]
    cuts = [
        index
        for index, (word, following) in enumerate(itertools.pairwise(group), 1)
        if _may_part(word, following)
        and (_CLAUSE_END.search(word.text) or following.start - word.end >= _SHORT_PAUSE_SECONDS)
    ]
    if not cuts:
        return [group]
    middle = (start + end) / 2
    cut = min(cuts, key=lambda index: abs(group[index - 1].end - middle))
    return _shorten(group[:cut]) + _shorten(group[cut:])


def _may_part(word: TimedWord, following: TimedWord) -> bool:
    return following.spaced == bool(seam(word.text, following.text))


def _ends_sentence(word: TimedWord, following: TimedWord) -> bool:
    return (
        bool(_SENTENCE_END.search(word.text))
        and not _ABBREVIATION.match(word.text)
        and not following.text[0].islower()
    )


_Tagged = tuple[str, Distribution | None, float]
"""A piece's tag, how likely each tag is, and the seconds of the piece."""


def _vote(pieces: list[_Tagged], nothing: str) -> tuple[str, Distribution | None]:
    """The tag with the most seconds, and the mean distribution of the pieces that count.

    Those with the tag `nothing` count only if there are no others.
    """
    counting = [piece for piece in pieces if piece[0] != nothing] or pieces
    times: dict[str, float] = defaultdict(float)
    for tag, _, seconds in counting:
        times[tag] += seconds
    winner = max(times, key=times.__getitem__) if times else nothing
    return winner, _mean_distribution([(known, seconds) for _, known, seconds in counting])


def _mean_distribution(
    pieces: Sequence[tuple[Distribution | None, float]],
) -> Distribution | None:
    """The mean of distributions, weighted by seconds; None if one is not known or there are none.

    Pieces that all last no time count the same.
    """
    total = sum(seconds for _, seconds in pieces)
    mean: Distribution = defaultdict(float)
    for known, seconds in pieces:
        if known is None:
            return None
        for tag, value in known.items():
            mean[tag] += value * (seconds / total if total else 1 / len(pieces))
    return dict(mean) or None


def _probability(distribution: Distribution | None, tag: str) -> float | None:
    return None if distribution is None else _rounded(distribution.get(tag))


def _says_something(text: str) -> bool:
    """Whether `text` has a letter or a digit, and is not what the model writes for noise."""
    return text != _HALLUCINATION and any(character.isalnum() for character in text)


def _rounded(probability: float | None) -> float | None:
    return None if probability is None else round(probability, 4)


def _mean(values: Sequence[float]) -> float | None:
    return _rounded(sum(values) / len(values)) if values else None
