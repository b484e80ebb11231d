"""faster-whisper's model, opened in two steps, clip by clip. Used in templates and workers.

CTranslate2 computes in threads of its own, which no process may have that forks. So the template
has the tokenizer and the filters, and each worker opens the network.

Random numbers come from a generator in each of these threads, which is seeded when it is first
used. For the same request to have the same transcript again, also in another worker, the network is
opened anew before the second request that draws any.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ctranslate2
from faster_whisper.audio import pad_or_trim
from faster_whisper.feature_extractor import FeatureExtractor
from faster_whisper.tokenizer import _LANGUAGE_CODES, Tokenizer
from faster_whisper.transcribe import (
    Segment,
    TranscriptionOptions,
    WhisperModel,
    get_suppressed_tokens,
)
from faster_whisper.utils import get_logger
from tokenizers import Tokenizer as Vocabulary

from model_procs.audio.pcm import Samples

LADDER = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
"""The temperatures that Whisper tries one after the other, until the text is likely enough."""

RESET_TEMPERATURE = 0.5
"""What was recognized at a higher temperature is no context for what follows."""

LEAST_LOGPROB = -1.0
"""A text whose tokens are less likely, on average, is tried again."""

MOST_COMPRESSION = 2.4
"""A text that can be compressed so much repeats itself, and is tried again."""


@dataclass(frozen=True, slots=True)
class Clip:
    """A clip that the encoder has seen: what the decoder needs of it."""

    features: Any
    encoded: Any


class Model(WhisperModel):  # type: ignore[misc]  # the library has no types
    """One Whisper model, for one request at a time."""

    def __init__(self, folder: Path) -> None:
        """Read all but the network, so not with the constructor of the base.

        Raises the libraries' exceptions.
        """
        self.logger = get_logger()
        self.folder = folder
        self.model: Any = None
        self.hf_tokenizer = Vocabulary.from_file(str(folder / "tokenizer.json"))
        self.feature_extractor = FeatureExtractor(**self._get_feature_kwargs(str(folder)))
        self.input_stride = 2
        self.num_samples_per_token = self.feature_extractor.hop_length * self.input_stride
        rate = self.feature_extractor.sampling_rate
        self.frames_per_second = rate // self.feature_extractor.hop_length
        self.tokens_per_second = rate // self.num_samples_per_token
        self.time_precision = 0.02
        self.max_length = 448
        self.languages = _languages(folder)
        self._seed = 0
        self._seeded = self._drawn = False

    def open(self, compute_type: str, threads: int) -> None:
        """Open the network, which starts its threads."""

        def opened() -> Any:
            return ctranslate2.models.Whisper(
                str(self.folder),
                device="cpu",
                compute_type=compute_type,
                intra_threads=threads,
                inter_threads=1,
            )

        self._opened = opened
        self.model = opened()

    def begin(self, seed: int) -> None:
        """A request begins, whose random numbers come from `seed`."""
        self._seed, self._seeded = seed, False

    def _prepare_to_draw(self) -> None:
        """Seed the generator, before the first random number of a request."""
        if self._seeded:
            return
        ctranslate2.set_random_seed(self._seed)
        if self._drawn:
            self.model = None  # its memory goes first
            self.model = self._opened()
        self._seeded = self._drawn = True

    def encode_clip(self, samples: Samples, *, silence: float) -> Clip:
        """Let the encoder see `samples` and `silence` (s) behind it, at most 30 s together.

        The encoder learned from sound of this length. It does as well with less, which takes a
        part of the time, as long as there is enough silence at the end: without it the decoder
        goes on, and repeats or invents text.
        """
        features = self.feature_extractor(samples)
        frames = features.shape[1] + round(silence * self.frames_per_second)
        frames = frames // self.input_stride * self.input_stride
        frames = min(frames, self.feature_extractor.nb_max_frames)
        return Clip(features, self.encode(pad_or_trim(features, frames)))

    def language_probabilities(self, clip: Clip) -> dict[str, float]:
        """How likely each language is, of those that the model knows; the likeliest first."""
        if len(self.languages) == 1:
            return dict.fromkeys(self.languages, 1.0)
        return {
            token[2:-2]: chance for token, chance in self.model.detect_language(clip.encoded)[0]
        }

    def decode_clip(
        self,
        clip: Clip,
        *,
        language: str,
        translate: bool,
        words: bool,
        beams: int,
        context: list[int],
        hotwords: str | None,
        temperatures: Iterable[float],
        on_attempt: Callable[[], None],
    ) -> Iterator[Segment]:
        """The segments of a clip, with times from its start.

        `beams` texts compete. `context` are the tokens before it, behind the `hotwords`.
        `on_attempt` is called before each attempt to decode, and may raise.
        """
        multilingual = len(self.languages) > 1
        task = "translate" if translate else "transcribe"
        if hotwords:  # together as much as the context may be alone, so that the text has room
            context = context[-(self.max_length // 2 - 1 - len(self.tokens(hotwords))) :]
        tokenizer = Tokenizer(self.hf_tokenizer, multilingual, task=task, language=language)
        options = TranscriptionOptions(
            beam_size=beams,
            best_of=beams,
            patience=1,
            length_penalty=1,
            repetition_penalty=1,
            no_repeat_ngram_size=0,
            log_prob_threshold=LEAST_LOGPROB,
            no_speech_threshold=0.6,
            compression_ratio_threshold=MOST_COMPRESSION,
            condition_on_previous_text=True,
            prompt_reset_on_temperature=RESET_TEMPERATURE,
            temperatures=_Attempts(temperatures, on_attempt, self._prepare_to_draw),
            initial_prompt=context,
            prefix=None,
            suppress_blank=True,
            suppress_tokens=get_suppressed_tokens(tokenizer, [-1]),
            without_timestamps=False,
            max_initial_timestamp=1.0,
            word_timestamps=words,
            prepend_punctuations="\"'“¿([{-",
            append_punctuations="\"'.。,，!！?？:：”)]}、",
            multilingual=False,
            max_new_tokens=None,
            clip_timestamps=[0],
            hallucination_silence_threshold=None,
            hotwords=hotwords,
        )
        yield from self.generate_segments(clip.features, tokenizer, options, False, clip.encoded)

    def tokens(self, text: str) -> list[int]:
        """The tokens of `text` as context."""
        found: list[int] = self.hf_tokenizer.encode(
            f" {text.strip()}", add_special_tokens=False
        ).ids
        return found


@dataclass(frozen=True, slots=True)
class _Attempts:
    """Temperatures to decode at, each announced, and each with randomness prepared for."""

    temperatures: Iterable[float]
    on_attempt: Callable[[], None]
    prepare_to_draw: Callable[[], None]

    def __iter__(self) -> Iterator[float]:
        for temperature in self.temperatures:
            self.on_attempt()
            if temperature > 0:
                self.prepare_to_draw()
            yield temperature


def _languages(folder: Path) -> tuple[str, ...]:
    """The codes of the languages that the model in `folder` knows, from the size of its vocabulary.

    Those that know only English have one token less than the first multilingual ones; those that
    know Cantonese have one more.
    """
    names = folder / "vocabulary.json"
    if names.is_file():
        size = len(json.loads(names.read_text("utf-8")))
    else:
        size = (folder / "vocabulary.txt").read_bytes().count(b"\n")
    if size < _MULTILINGUAL:
        return ("en",)
    known = [code for code in _LANGUAGE_CODES if code != "yue" or size > _MULTILINGUAL]
    return tuple(known)


_MULTILINGUAL = 51_865
