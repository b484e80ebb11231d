"""What all speech engines share: voices, splitting into sentences, encoding of the sound.

Runs in workers.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ipc.engines import BuiltinVoice, EngineInfo, Json
from ipc.errors import ErrorCode, ServiceError
from ipc.messages import WorkerOptions
from ipc.operations import (
    MAX_SEED,
    REFERENCE_SECONDS,
    AnyOperation,
    EncodeVoice,
    Recording,
    Sampling,
    SentenceTime,
    Speak,
    SpeechResult,
    SpokenSentence,
    Voice,
    VoiceResult,
)
from ipc.voice_mix import parse_mix
from model_procs.audio.channels import audible_seconds
from model_procs.audio.decode import decode
from model_procs.audio.joined import joined, sources
from model_procs.audio.pcm import Samples
from model_procs.engine import Cancelled, Output, no_operation
from model_procs.listening import vad
from model_procs.speech.alignment import Alignment, Piece
from model_procs.speech.encode import Encoder
from model_procs.speech.finish import Finish
from model_procs.speech.normalize.speech import Sentence, spoken_sentences
from model_procs.speech.voice_cache import VoiceCache

T = TypeVar("T")

SHORTEST_VOICE_SECONDS = 0.1
"""With less sound in it, a recording has no voice: not even a syllable fits."""
_SILENCE = 0.0005
"""The root mean square, at 66 dB below full scale, of what microphones record in silence."""
_OPTIONS = ("temperature", "decode_steps", "eos_threshold", "noise_clamp", "cfg_guidance")
"""The fields of `Sampling` that only some engines have."""

_SILENCE_SECONDS = 0.3
"""What is sent for a text without words to clients that take no error for it."""


class SpeechEngine:
    """Base of text-to-speech engines: speaks a text in a voice, encodes a recording as a voice."""

    name: str
    """The engine's name, as in the table of engines."""

    sample_rate: int
    reference_rate: int
    approximation: str | None = None
    """What clients must know when the engine cannot clone a voice exactly."""
    no_cloning: str | None = None
    """Why the weights cannot clone a voice, and what to do; None if they can."""
    voice_format: str | None = None
    """Everything that an encoded voice depends on besides its recording; part of its file name.

    None means that encoded voices cannot be kept.
    """
    options: tuple[str, ...] = ()
    """The fields of `Sampling` that the engine has, besides the seed."""
    obeyed_tags: frozenset[str] = frozenset()
    """Tags in a text that the engine supports, such as "laugh"; others are removed before."""
    language: str = "en"
    """The language of texts whose request names none, as a code."""
    default_voice: str | None = None
    """The built-in voice for requests without a voice."""
    own_speeds: tuple[float, float] | None = None
    """The slowest and the fastest speech that the engine makes itself; see `speak_sentences`.

    None: it has one speed. Another speed of a request is made by a filter.
    """
    mixes: bool = False
    """Whether it speaks mixes of its voices: see `mix_voices`."""
    _voices: VoiceCache | None = None

    @cached_property
    def _encoding(self) -> set[str]:
        """The keys of recordings whose voices are being encoded."""
        return set()

    def notes(self) -> list[str]:
        """What clients must know about the engine."""
        return []

    def facts(self) -> Json:
        """Facts about the engine: number of parameters, version of the weights."""
        return {}

    def chosen(self) -> Json:
        """The options that loading has chosen by measuring, see `EngineInfo`."""
        return {}

    def builtin_voices(self) -> list[BuiltinVoice]:
        """The voices that need no recording."""
        return []

    def load_builtin_voice(self, name: str) -> Any:
        """One of `builtin_voices`, in the form that `encode_voice` returns."""
        raise NotImplementedError

    def mix_voices(self, mix: tuple[tuple[str, float], ...]) -> Any:
        """A mix of some of `builtin_voices`, with shares that add up to 1."""
        raise NotImplementedError

    def encode_voice(self, reference: Samples) -> Any:
        """The voice in `reference` (mono at `reference_rate`), in the engine's own form."""
        raise NotImplementedError

    def export_voice(self, voice: Any) -> bytes:
        """An encoded voice as bytes; required with a `voice_format`."""
        raise NotImplementedError

    def import_voice(self, data: memoryview) -> Any:
        """The voice that `export_voice` wrote as `data`; if possible without copying it.

        It may raise any exception, but must not execute code from `data`.
        """
        raise NotImplementedError

    def check_text(self, text: str) -> None:
        """Raise `ServiceError` for a text that the engine cannot read."""

    def language_of(self, speak: Speak, voice: Any) -> str:
        """The language in which to read the text: that of the request, or the engine's.

        Raises `ServiceError` for one that it cannot speak.
        """
        return speak.language or self.language

    def beside(self, work: Callable[[], T]) -> Generator[None, None, T]:
        """Run `work`, which takes long; an engine with other requests lets them go on meanwhile."""
        yield from ()
        return work()

    def synthesize(
        self, text: str, voice: Any, sampling: Sampling, stop: threading.Event
    ) -> Iterator[Samples | None]:
        """Speak one sentence: yields mono pieces at `sample_rate`, each as soon as it exists.

        The same arguments give the same samples, to the last bit, on every worker: a replay leaves
        out what has been sent. None means that the next piece needs a step of the batch
        (`BatchEngine`); `stop` tells which request it is for. `voice` must not change, because
        later requests may use it.
        """
        raise NotImplementedError

    def speak_sentences(
        self, sentences: Iterator[Sentence], voice: Any, speak: Speak, stop: threading.Event
    ) -> Iterator[Piece | None]:
        """Speak `sentences` in order; each begins with a piece, perhaps one without sound.

        `speak` has the language in which they are read, and a speed within `own_speeds`. What
        `synthesize` says of samples and of None holds here too.
        """
        for number, sentence in enumerate(sentences):
            yield Piece(number, sentence)
            # Each sentence has its own seed, so it does not depend on the length of those before.
            sampling = replace(speak.sampling, seed=(speak.sampling.seed + number) % MAX_SEED)
            for samples in self.synthesize(sentence.text, voice, sampling, stop):
                yield None if samples is None else Piece(number, sentence, samples)

    def info(self) -> EngineInfo:
        """Facts for clients and for /health."""
        return EngineInfo(
            engine=self.name,
            sample_rate=self.sample_rate,
            notes=tuple(self.notes()),
            voices=tuple(self.builtin_voices()),
            default_voice=self.default_voice,
            voice_format=self.voice_format,
            options=self.options,
            approximation=self.approximation,
            no_cloning=self.no_cloning,
            mixes=self.mixes,
            facts=self.facts(),
            chosen=self.chosen(),
        )

    def keep_voices(self, options: WorkerOptions) -> None:
        """Start to keep encoded voices, and load often used ones. In the worker, before READY."""
        size = options.voice_cache_bytes
        folder, registered_folder = (
            None if path is None else Path(path)
            for path in (options.voice_cache_dir, options.voice_dir)
        )
        if self.voice_format is None or not (size or registered_folder):
            return
        self._voices = VoiceCache(
            self,
            self.voice_format,
            folder=folder if size else None,
            disk_bytes=size,
            memory_bytes=options.voice_cache_memory_bytes if size else 0,
            named_folder=registered_folder,
            other_engines=options.other_engines,
        )
        self._voices.load_hot()

    def run(self, operation: AnyOperation, stop: threading.Event) -> Output:
        """Speak a text, or encode a voice."""
        match operation:
            case Speak():
                return (yield from self._speak(operation, stop))
            case EncodeVoice():
                return (yield from self._encode_voice(operation, stop))
            case other:
                raise no_operation(self.name, other)

    def _speak(
        self, speak: Speak, stop: threading.Event
    ) -> Generator[bytes | SpokenSentence | None, None, SpeechResult]:
        """Find the voice, speak, and yield encoded sound.

        With `streamed` the bytes come while they are generated, and headers leave the length open;
        with `alignment` each sentence comes after its bytes.
        """
        self._check_options(speak.sampling)
        own = 1.0 if self.own_speeds is None else float(np.clip(speak.speed, *self.own_speeds))
        tempo = speak.speed / own
        encoder = Encoder(
            speak.response_format,
            self.sample_rate,
            speak.sample_rate,
            tempo,
            bit_rate=speak.bit_rate,
            streamed=speak.streamed,
        )
        self.check_text(speak.text)
        voice, known = yield from self._find_voice(speak.voice)
        alignment = Alignment(self.sample_rate * tempo)
        finish = Finish(speak, self.sample_rate)
        timed = speak.streamed and speak.alignment
        told = number = 0
        heard = -1  # the last sentence with sound
        language = self.language_of(speak, voice)
        sentences = spoken_sentences(
            speak.text, language=language, normalize=speak.normalize, obeyed=self.obeyed_tags
        )
        speak = replace(speak, language=language, speed=own)
        for piece in self.speak_sentences(sentences, voice, speak, stop):
            if stop.is_set():
                raise Cancelled
            if piece is None:
                yield None
                continue
            # The one before; the last sentence must wait for what the codec holds back.
            if piece.number != number and timed and told < len(alignment.sentences):
                yield SpokenSentence(told, alignment.time(told, math.inf))
                told += 1
            number = piece.number
            if len(piece.samples):
                alignment.add(piece)
                samples = finish.feed(piece.samples, begins=piece.number != heard)
                heard, alignment.skipped = piece.number, finish.skipped
                if len(samples) and (data := encoder.feed(samples)):
                    yield data
        if not alignment.sentences and speak.silence:
            silence = np.zeros(int(_SILENCE_SECONDS * self.sample_rate), np.float32)
            if data := encoder.feed(silence):
                yield data
        elif not alignment.sentences:
            raise ServiceError(
                ErrorCode.empty_text,
                "the text has nothing that can be spoken; send at least one word",
            )
        rest = finish.end()
        if len(rest) and (data := encoder.feed(rest)):
            yield data
        yield encoder.finish()
        duration = encoder.samples / encoder.sample_rate
        if timed:
            end = len(speak.text)
            nothing = SentenceTime("", duration, duration, end, end)
            left = told < len(alignment.sentences)
            last = alignment.time(told, duration) if left else nothing
            yield SpokenSentence(told, last, last=True)
        return SpeechResult(
            sample_rate=encoder.sample_rate,
            samples=encoder.samples,
            encode_seconds=encoder.seconds,
            voice_cached=known,
            alignment=alignment.times(duration) if speak.alignment and not timed else None,
            # The filter moves times by up to 0.1 s.
            alignment_exact=speak.alignment and tempo == 1 and alignment.has_words,
        )

    def _encode_voice(
        self, encode: EncodeVoice, stop: threading.Event
    ) -> Generator[None, None, VoiceResult]:
        """Encode the voice of a recording unless it is known, and test that it speaks."""
        self._check_cloning()
        reference = yield from self.beside(lambda: self._decode(encode.recording))
        voice, known = yield from self._voice_of(
            encode.recording, registered=encode.registered, reference=reference
        )
        first: Samples | None = None
        for piece in self.synthesize("Hello.", voice, Sampling(seed=0), stop):
            if stop.is_set():
                raise Cancelled
            if piece is None:
                yield None
            elif len(piece):
                first = piece
                break
        if stop.is_set():
            raise Cancelled
        if first is None or not np.isfinite(first).all():
            raise ServiceError(
                ErrorCode.invalid_audio,
                "the voice in this recording gives no speech; send another recording",
            )
        return VoiceResult(round(len(reference) / self.reference_rate, 3), known)

    def _check_cloning(self) -> None:
        """Raise `ServiceError` if the engine has no encoder of voices."""
        if self.no_cloning is not None:
            raise ServiceError(ErrorCode.cloning_unavailable, self.no_cloning)

    def _check_options(self, sampling: Sampling) -> None:
        """Raise `ServiceError` for an option that the engine does not have."""
        for name in _OPTIONS:
            if getattr(sampling, name) is not None and name not in self.options:
                raise ServiceError(
                    ErrorCode.unknown_option,
                    f"the engine {self.name} has no option {name}; leave it out, or use the engine "
                    "pocket",
                )

    def _find_voice(self, voice: Voice) -> Generator[None, None, tuple[Any, bool]]:
        """The voice that will speak, and whether it was known."""
        if voice.builtin is not None:
            return self._builtin(voice.builtin), True
        recording = voice.recording
        if recording is not None:
            return (yield from self._voice_of(recording, registered=voice.registered))
        if self.default_voice is None:
            raise ServiceError(
                ErrorCode.invalid_request,
                f"the engine {self.name} has no built-in voice here; send a recording of a voice",
            )
        return self._builtin(self.default_voice), True

    def _voice_of(
        self, recording: Recording, *, registered: bool, reference: Samples | None = None
    ) -> Generator[None, None, tuple[Any, bool]]:
        """The voice in a recording, and whether it was kept.

        `reference` is what `_decode` makes of it, where that has been done.
        """
        self._check_cloning()
        key = recording.key
        if self._voices is not None:
            while key in self._encoding:  # by another request
                yield None
            kept = self._voices.get(key, named=registered)
            if kept is not None:
                return kept, True
        if recording.source is None:
            raise ServiceError(
                ErrorCode.not_found, "this voice is no longer cached; send its recording again"
            )
        self._encoding.add(key)
        try:
            samples = reference
            if samples is None:
                samples = yield from self.beside(lambda: self._decode(recording))
            voice = yield from self.beside(lambda: self.encode_voice(samples))
            if self._voices is not None:
                voice = self._voices.put(key, voice, named=registered)
        finally:
            self._encoding.discard(key)
        return voice, False

    def _builtin(self, name: str) -> Any:
        """A built-in voice, or a mix of some."""
        try:
            parts = parse_mix(name) if self.mixes else ((name, 1.0),)
        except ValueError as error:
            raise ServiceError(ErrorCode.invalid_option, str(error)) from None
        known = {voice.id.casefold(): voice.id for voice in self.builtin_voices()}
        for part, _ in parts:
            if part.casefold() not in known:
                raise ServiceError(
                    ErrorCode.not_found,
                    f"the engine {self.name} has no voice {part!r}; it has "
                    f"{', '.join(known.values()) or 'none'}",
                )
        mix = tuple((known[part.casefold()], share) for part, share in parts)
        return self.load_builtin_voice(mix[0][0]) if len(mix) == 1 else self.mix_voices(mix)

    def _decode(self, recording: Recording) -> Samples:
        """The samples of a recording, in the form that `encode_voice` takes.

        Raises `ServiceError` (`empty_audio`) for a recording without a voice: silence, or a click.
        """
        try:
            samples = joined(
                [self._decode_source(source) for source in sources(recording)],
                int(REFERENCE_SECONDS * self.reference_rate),
            )
        except FileNotFoundError:
            raise ServiceError(
                ErrorCode.not_found, "the recording of this voice has been deleted; send another"
            ) from None
        audible = audible_seconds(samples, self.reference_rate, _SILENCE)
        if audible < SHORTEST_VOICE_SECONDS:
            raise ServiceError(
                ErrorCode.empty_audio,
                f"the first {REFERENCE_SECONDS:g} seconds of the recording have {audible:.2f} "
                "seconds of sound, which is no voice; send a recording with a few seconds of "
                "speech",
            )
        return samples

    def _decode_source(self, source: bytes | str) -> Samples:
        """The first samples of a recording, without what is before and after its speech."""
        samples = decode(
            source, rate=self.reference_rate, max_seconds=REFERENCE_SECONDS, truncate=True
        )
        return vad.trimmed(samples, self.reference_rate)
