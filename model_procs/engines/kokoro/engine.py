"""Kokoro-82M: speech in nine languages from built-in voices and mixes of them, on CPU.

Loads in the template, speaks in the workers, several requests at once. The model is computed by
onnxruntime, prepared by kokoro_onnx; phonemes come from espeak-ng.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np

from ipc.engines import BuiltinVoice, Json
from ipc.errors import ErrorCode, ServiceError
from ipc.operations import Sampling, Speak, Voice
from model_procs.audio.pcm import Samples
from model_procs.engine import EngineConfig
from model_procs.engines.kokoro.jobs import Job, Jobs
from model_procs.engines.kokoro.likenesses import PUBLISHED
from model_procs.engines.kokoro.model import Session, Weights, find_weights
from model_procs.engines.kokoro.phonemes import LANGUAGES, Reader, Reading
from model_procs.engines.kokoro.voices import (
    RATE,
    KokoroVoice,
    Likenesses,
    Mix,
    Voices,
    likeness,
)
from model_procs.speech.alignment import Piece, SpokenWord
from model_procs.speech.base import SpeechEngine
from model_procs.speech.normalize.speech import Sentence, prepare
from model_procs.weights import locate

T = TypeVar("T")

CAPACITY = 4
"""How many requests a worker serves at once, unless the settings say so."""

PARAMETERS = 82_000_000
SLOWEST, FASTEST = 0.5, 2.0
"""The speeds that the library allows."""

SENTENCE_PAUSE, CLAUSE_PAUSE = 0.25, 0.1
"""Seconds of silence between two sentences, and between parts of one, as the library has them."""
LONG_START = 60
"""Of a stream whose first sentence has more phonemes, its first clause is computed alone."""
LONGEST = 200
"""The most phonemes of one run. The model takes 510, which need 740 MB; 200 need 320 MB, and hardly
a sentence has more."""
_SHORTEST_START = 30
"""Fewer phonemes are spoken too fast when they are computed alone."""
_PHONEME_SECONDS = 0.07
"""How long a phoneme lasts, about: to know who will need sound first."""

EARLY = 0.05
"""How many seconds before its time in the model a phoneme is heard. It is where the loudness of ten
sentences fits their vowels and stops best: 0.04 to 0.07 for three voices and three speeds."""
_LATER = 0.1
"""How much a new measurement of speed counts."""
_CLAUSE_END = re.compile(r"[,;:—] ")
_SAMPLE = "Nine people walk along the river."
"""What voices speak to be compared with a recording."""

_INSTALL_JAPANESE = "install a dictionary (340 MB): .venv/bin/pip install -e '.[japanese]'"

_KANA = re.compile(r"[\u3040-\u30ff]")
_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]")
_DEVANAGARI = re.compile(r"[\u0900-\u097f]")


@dataclass(frozen=True, slots=True, eq=False)
class _Run:
    """What one run of the model gave: its sound, and the samples of each phoneme."""

    samples: Samples
    spans: list[tuple[int, int]]


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """A part of a sentence for one run: its phonemes, from `first` on, and the job."""

    first: int
    phonemes: str
    job: Job[_Run]


@dataclass(frozen=True, slots=True, eq=False)
class _Spoken:
    """A sentence that is being spoken."""

    number: int
    sentence: Sentence
    reading: Reading
    parts: tuple[_Part, ...]


class KokoroEngine(SpeechEngine):
    """Kokoro-82M behind the BatchEngine protocol.

    The option `quantize` (default true) prefers the int8 export where there are several.
    """

    name = "kokoro"
    sample_rate = reference_rate = RATE
    approximation = (
        "cloning is approximate: Kokoro cannot clone; it speaks with the built-in voice, or the "
        "mix of two, that is nearest to the reference in pitch and timbre"
    )
    own_speeds = (SLOWEST, FASTEST)
    mixes = True

    def __init__(self, config: EngineConfig) -> None:
        self.capacity = config.capacity or CAPACITY
        self._config = config
        self._quantize = bool(config.options.get("quantize", True))
        self._rtf = 1.0
        self._weights: Weights
        self._session: Session
        self._kokoro: Any = None
        self._catalog: Voices
        self._reader: Reader
        self._jobs: Jobs
        self._likenesses: Likenesses
        self._facts: Json = {}

    @property
    def live(self) -> int:
        """How many streams keep up with real time, as set or as measured."""
        return self._config.live or max(1, int(self._config.threads / self._rtf))

    def load(self) -> None:
        """Load the weights and speak, without the network.

        Raises ServiceError (model_unavailable) with the library's message and how to fix it.
        """
        self._weights = found = find_weights(
            self._config.models_dir, self._config.cache_dir, quantize=self._quantize
        )
        try:
            self._session = Session(found.model)
            from kokoro_onnx import Kokoro

            self._kokoro = Kokoro.from_session(self._session, str(found.voices))
            self._kokoro.voices.close()
            self._catalog = Voices(found.voices)
            self._reader = Reader(self._kokoro.tokenizer.vocab)
            versions = {
                "version": locate.fingerprint(found.model),
                "voices": locate.fingerprint(found.voices),
            }
        except Exception as error:
            raise ServiceError(
                ErrorCode.model_unavailable,
                f"Kokoro cannot be loaded from {found.model} and {found.voices}: "
                f"{type(error).__name__}: {error}",
            ) from error
        self._facts = {
            "parameters": PARAMETERS,
            "quantized": found.quantized,
            **versions,
            "timings": "exact" if self._kokoro.has_timings else "by sentence",
            "weights": "package" if found.packaged else "models folder",
        }
        self.default_voice = self._catalog.default
        self.voice_format = f"kokoro-mix-{versions['voices']}"
        self._jobs = Jobs(self._session.run_options)
        known = PUBLISHED if found.packaged else {}
        self._likenesses = Likenesses(self._catalog.names, known, self._sample)
        prepare("en")
        for _ in range(2):  # the first run is slower, and later ones are measured
            started = time.monotonic()
            sample = self._sample(self._catalog.default)
            self._rtf = (time.monotonic() - started) * RATE / len(sample)
        locate.release_scratch()

    def warm_up(self) -> None:
        """Only start the threads: `load` has spoken, for all forked workers."""
        self._jobs.start_threads(self._config.threads)

    def notes(self) -> list[str]:
        """What clients must know."""
        notes = [self.approximation]
        if self._weights.packaged:
            notes.append(
                "the weights came with packages, which have five voices only; for all of them put "
                "kokoro-v1.0.onnx (or .int8.onnx, .fp16.onnx) and voices-v1.0.bin into "
                f"{locate.weights_folder(self._config.models_dir, self.name)}"
            )
        if not self._reader.reads_kanji:
            notes.append(f"Japanese is read only in kana; for kanji {_INSTALL_JAPANESE}")
        return [
            *notes,
            "Chinese is read without its tones",
            "the seed has no effect: the same text and voice always give the same samples",
        ]

    def facts(self) -> Json:
        """Number of parameters, and `version`, which changes with the weights."""
        return self._facts

    def builtin_voices(self) -> list[BuiltinVoice]:
        """All voices of the file."""
        return self._catalog.described()

    def load_builtin_voice(self, name: str) -> KokoroVoice:
        """A voice alone."""
        return self._catalog.mixed(((name, 1.0),))

    def mix_voices(self, mix: Mix) -> KokoroVoice:
        """The mean of some voices."""
        return self._catalog.mixed(mix)

    def encode_voice(self, reference: Samples) -> KokoroVoice:
        """The voice, or the mix of two, that is nearest to `reference` (24 kHz)."""
        return self._catalog.mixed(self._likenesses.nearest(likeness(reference)))

    def export_voice(self, voice: KokoroVoice) -> bytes:
        """The mix as JSON."""
        return json.dumps(voice.mix).encode()

    def import_voice(self, data: memoryview) -> KokoroVoice:
        """The voice from its JSON. Raises `ValueError`, `TypeError` or `KeyError` for all else."""
        return self._catalog.mixed(
            tuple((str(name), float(share)) for name, share in json.loads(bytes(data)))
        )

    def language_of(self, speak: Speak, voice: KokoroVoice) -> str:
        """The language in which to read: the request's, else that of the script or the voice."""
        language = _language(speak.text, speak.language, voice.language)
        known = sorted({name[:2] for name in LANGUAGES})
        if language not in known:
            raise ServiceError(
                ErrorCode.invalid_option,
                f"Kokoro does not speak {language!r}; choose one of {', '.join(known)}",
            )
        if language == "ja" and _HAN.search(speak.text) and not self._reader.reads_kanji:
            raise ServiceError(
                ErrorCode.invalid_request,
                f"this service cannot read kanji; send kana, or {_INSTALL_JAPANESE}",
            )
        return language

    def step(self) -> None:
        """Wait until something is done."""
        self._jobs.step()

    def wake(self) -> None:
        """End the running step, and the runs of cancelled requests."""
        self._jobs.wake()

    def beside(self, work: Callable[[], T]) -> Generator[None, None, T]:
        """Run `work` in one of the threads."""
        job = self._jobs.add(lambda _: work(), time.monotonic(), threading.Event())
        return (yield from job.wait())

    def synthesize(
        self, text: str, voice: KokoroVoice, sampling: Sampling, stop: threading.Event
    ) -> Iterator[Samples | None]:
        """Speak one sentence."""
        sentence = Sentence(text, 0, len(text), ())
        language = _language(text, None, voice.language)
        speak = Speak(text, Voice(), sampling, language=language)
        for piece in self.speak_sentences(iter([sentence]), voice, speak, stop):
            yield None if piece is None else piece.samples

    def speak_sentences(
        self, sentences: Iterator[Sentence], voice: KokoroVoice, speak: Speak, stop: threading.Event
    ) -> Iterator[Piece | None]:
        """Speak `sentences`; the next ones are computed while one is waited for."""
        stream = _Stream(self, voice, speak, stop)
        waiting: deque[_Spoken] = deque()
        numbered = enumerate(sentences)
        try:
            while True:
                while len(waiting) <= self._config.threads and (new := next(numbered, None)):
                    waiting.append(stream.begin(*new))
                if not waiting:
                    return
                yield from self._pieces(waiting[0], pause=len(waiting) > 1)
                waiting.popleft()
        finally:
            for spoken in waiting:
                for part in spoken.parts:
                    part.job.drop()

    def _pieces(self, spoken: _Spoken, *, pause: bool) -> Iterator[Piece | None]:
        """A sentence; with `pause` a pause is behind it."""
        from kokoro_onnx.chunker import pause_after

        yield Piece(spoken.number, spoken.sentence)
        for part in spoken.parts:
            run = yield from part.job.wait()
            seconds = pause_after(part.phonemes, SENTENCE_PAUSE, CLAUSE_PAUSE)
            if part is spoken.parts[-1]:
                seconds = SENTENCE_PAUSE if pause else 0.0
            silence = np.zeros(int(seconds * RATE), np.float32)
            yield Piece(
                spoken.number,
                spoken.sentence,
                np.concatenate([run.samples, silence]),
                tuple(_words(spoken.reading, part.first, run)),
            )

    def read(self, sentence: Sentence, language: str) -> Reading:
        """The phonemes of a sentence."""
        return self._reader.read(sentence.text, language)

    def add(self, work: Callable[[Any], T], due: float, stop: threading.Event) -> Job[T]:
        """Let some work wait for a thread."""
        return self._jobs.add(work, due, stop)

    def run_model(self, phonemes: str, voice: KokoroVoice, speed: float, options: Any) -> _Run:
        """Run the model once."""
        started = time.monotonic()
        self._session.use(options)
        samples, _, timings = self._kokoro.create_timed(
            phonemes, voice.style, speed, is_phonemes=True, sentence_pause=0, clause_pause=0
        )
        if len(samples):
            rtf = (time.monotonic() - started) * RATE / len(samples)
            self._rtf += _LATER * (rtf - self._rtf)
        edges = [(each.start - EARLY, each.end - EARLY) for each in timings]
        samples = np.asarray(samples, np.float32)
        spans = np.clip(np.rint(np.array(edges).reshape(-1, 2) * RATE), 0, len(samples))
        return _Run(samples, spans.astype(int).tolist())

    def _sample(self, name: str) -> Samples:
        """A voice speaks a sentence, in this thread."""
        reading = self._reader.read(_SAMPLE, "en-us")
        voice = self.load_builtin_voice(name)
        return self.run_model(reading.phonemes, voice, 1.0, self._session.run_options()).samples


class _Stream:
    """The sentences of one request, and when its listener will need each."""

    def __init__(
        self, engine: KokoroEngine, voice: KokoroVoice, speak: Speak, stop: threading.Event
    ) -> None:
        self._engine = engine
        self._voice = voice
        self._speak = speak
        self._stop = stop
        self._dialect = speak.language or voice.language
        if self._dialect == "en":
            self._dialect = voice.language if voice.language.startswith("en") else "en-us"
        self._start = time.monotonic()
        self._ahead = 0.0

    def begin(self, number: int, sentence: Sentence) -> _Spoken:
        """Let a sentence wait for threads."""
        reading = self._engine.read(sentence, self._dialect)
        if not any(sound.isalpha() for sound in reading.phonemes):
            return _Spoken(number, sentence, reading, ())
        early = self._speak.streamed and not self._ahead
        parts = tuple(
            _Part(first, phonemes, self._job(phonemes))
            for first, phonemes in _parts(reading.phonemes, early=early)
        )
        return _Spoken(number, sentence, reading, parts)

    def _job(self, phonemes: str) -> Job[_Run]:
        speak = partial(self._engine.run_model, phonemes, self._voice, self._speak.speed)
        # The first sound of a stream goes before all else. Afterwards it needs sound in real time.
        first = self._speak.streamed and not self._ahead
        due = 0.0 if first else self._start + self._ahead
        self._ahead += len(phonemes) * _PHONEME_SECONDS / self._speak.speed
        return self._engine.add(speak, due, self._stop)


def _parts(phonemes: str, *, early: bool) -> Iterator[tuple[int, str]]:
    """The parts of a sentence that are computed one by one, and where each begins.

    With `early` the first is short, if there is a place to breathe.
    """
    from kokoro_onnx.chunker import split_phonemes

    place = 0
    if early and len(phonemes) > LONG_START:
        for mark in _CLAUSE_END.finditer(phonemes, _SHORTEST_START):
            if len(phonemes) - mark.end() >= _SHORTEST_START:
                yield 0, phonemes[: mark.start() + 1]
                place = mark.end()
            break
    for part in split_phonemes(phonemes[place:], LONGEST):
        yield place, part
        place += len(part) + 1


def _words(reading: Reading, first: int, run: _Run) -> Iterator[SpokenWord]:
    """The words that begin in a run, whose first phoneme is number `first`."""
    for word in reading.words:
        start, last = word.first - first, word.last - first - 1
        if 0 <= start < len(run.spans):
            end = run.spans[min(last, len(run.spans) - 1)][1]
            yield SpokenWord(word.start, word.end, run.spans[start][0], end)


def _language(text: str, wanted: str | None, of_voice: str) -> str:
    """The code of the language in which to read `text`, with a voice of a language."""
    if wanted is not None:
        return wanted
    if _KANA.search(text):
        return "ja"
    if _HAN.search(text):
        return of_voice if of_voice in ("ja", "zh") else "zh"
    if _DEVANAGARI.search(text):
        return "hi"
    # Latin letters: these voices speak English too.
    return "en" if of_voice in ("ja", "zh", "hi") else of_voice[:2]
