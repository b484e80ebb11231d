"""pocketsphinx: English recognition with the model in its own wheel, nothing to download.

Loads in the template, transcribes in the workers.

The decoder holds Python's lock while it searches. Therefore the speech in a recording is cut in
pauses into short utterances, and each utterance is fed in short pieces. Between two pieces the
worker can answer pings and notice `stop`.

The decoder needs the cepstral mean of an utterance. If it gets the utterance as a whole, it
computes the mean before the search; if it gets pieces, it guesses the mean from earlier sound. So a
first pass with a grammar of one word, which takes very little time, measures the mean over the
recording, and the second pass starts from this mean. No state is kept between requests.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ipc.engines import EngineInfo
from ipc.errors import ErrorCode, ServiceError
from ipc.operations import AUTO_LANGUAGE, NO_LANGUAGE, Transcribe, Transcript
from model_procs.audio.pcm import Samples, pcm16
from model_procs.engine import Cancelled, EngineConfig
from model_procs.listening import vad
from model_procs.listening.base import RATE, TranscriptionEngine
from model_procs.listening.transcript import Piece, TimedWord, merge, spell, tagged

LANGUAGES = (AUTO_LANGUAGE, "en")
UTTERANCE_SECONDS = 8.0
"""The longest utterance. Its last step takes a quarter of a second and cannot be interrupted."""

_PIECE = RATE // 5
_FRAMES_A_SECOND = 100
_FILLERS = "<[+"
"""First characters of the names of noises and silences."""
_VARIANT = re.compile(r"\(\d+\)$")
"""The mark of another pronunciation of a word."""
_MEASURE = "measure"
_ONE_WORD = "#JSGF V1.0; grammar one; public <word> = oh;"


class SphinxEngine(TranscriptionEngine):
    """pocketsphinx behind the Engine protocol."""

    name = "sphinx"

    def __init__(self, config: EngineConfig) -> None:
        self._decoder: Any = None
        self._search = ""

    def load(self) -> None:
        """Load the English model from the pocketsphinx wheel. Raises pocketsphinx's exceptions."""
        from pocketsphinx import Decoder

        vad.load()
        self._decoder = Decoder(loglevel="FATAL", samprate=RATE)
        self._search = self._decoder.current_search()
        self._decoder.add_jsgf_string(_MEASURE, _ONE_WORD)

    def warm_up(self) -> None:
        """Search a second of noise for speech, and then for words."""
        noise = (np.random.default_rng(0).standard_normal(RATE) * 0.1).astype(np.float32)
        utterance, stop = pcm16(noise), threading.Event()
        vad.speech_probabilities(noise)
        self._decode(utterance, self._cepstral_mean([utterance], stop), stop, 0.0)

    def info(self) -> EngineInfo:
        """Languages, and what clients must know."""
        return EngineInfo(
            engine=self.name,
            sample_rate=RATE,
            languages=LANGUAGES,
            notes=(
                "recognizes clear English speech only; with noise or music most words are lost",
                "writes lower-case words without punctuation, and numbers as words; itn has no "
                "effect",
                "segments end at pauses only, because it does not recognize the ends of sentences",
                "recognizes no emotions and gives no probabilities",
            ),
        )

    def recognize(
        self, samples: Samples, options: Transcribe, stop: threading.Event
    ) -> Iterator[Piece | None]:
        """Yield one piece per utterance, without probabilities; silence gives no piece.

        Raises ServiceError (`invalid_option`) for a language hint other than auto and en, and
        Cancelled about 0.3 s after `stop` is set, at most.
        """
        if options.language not in LANGUAGES:
            raise ServiceError(
                ErrorCode.invalid_option,
                f"the engine sphinx recognizes English only, not {options.language!r}; send "
                "language en or auto, or use the engine sensevoice",
            )
        ranges = _utterances(samples, stop)
        utterances = [pcm16(samples[start:end]) for start, end in ranges]
        mean = self._cepstral_mean(utterances, stop)
        for (start, end), utterance in zip(ranges, utterances, strict=True):
            words = self._decode(utterance, mean, stop, start / RATE)
            yield Piece((end - start) / RATE, _raw(spell(words)), words=tuple(words))

    def merge(self, pieces: Sequence[Piece]) -> Transcript:
        """The transcript with SenseVoice's tags; language `NO_LANGUAGE` without speech."""
        transcript = merge(pieces)
        return replace(transcript, raw=_raw(transcript.text))

    def _cepstral_mean(self, utterances: list[bytes], stop: threading.Event) -> str:
        """The mean of the recording's cepstra, in the decoder's text form."""
        decoder = self._decoder
        decoder.reinit_feat()  # resets noise and mean of the last request, at no cost
        decoder.activate_search(_MEASURE)
        total = np.zeros(13)
        frames = 0
        for utterance in utterances:
            if stop.is_set():
                raise Cancelled
            decoder.start_utt()
            decoder.process_raw(utterance, full_utt=True)
            decoder.end_utt()
            values = np.array([float(value) for value in decoder.get_cmn(False).split(",")])
            total += decoder.n_frames() * values
            frames += decoder.n_frames()
        decoder.activate_search(self._search)
        return ",".join(f"{value:.4f}" for value in total / max(frames, 1))

    def _decode(
        self, utterance: bytes, mean: str, stop: threading.Event, offset: float
    ) -> list[TimedWord]:
        """The words of an utterance that begins `offset` seconds after the recording's start."""
        decoder = self._decoder
        decoder.reinit_feat()
        decoder.set_cmn(mean)
        decoder.start_utt()
        try:
            for start in range(0, len(utterance), 2 * _PIECE):
                if stop.is_set():
                    raise Cancelled
                decoder.process_raw(utterance[start : start + 2 * _PIECE])
        finally:
            decoder.end_utt()
        latest = offset + len(utterance) / 2 / RATE  # the last frame may end after the utterance
        return [
            TimedWord(
                _VARIANT.sub("", entry.word),
                offset + entry.start_frame / _FRAMES_A_SECOND,
                min(offset + (entry.end_frame + 1) / _FRAMES_A_SECOND, latest),
            )
            for entry in decoder.seg() or ()
            if entry.word[0] not in _FILLERS
        ]


def _raw(text: str) -> str:
    """`text` with tags; without a text it has no language."""
    return tagged(text, "en" if text else NO_LANGUAGE, itn=False)


def _utterances(samples: Samples, stop: threading.Event) -> list[tuple[int, int]]:
    """Ranges of `samples` to decode one by one: the speech, cut in pauses.

    The decoder hears words in noise, therefore all longer pauses are left out.
    """
    probabilities = vad.speech_probabilities(samples, stop)
    return vad.clips(probabilities, len(samples), UTTERANCE_SECONDS, pause_seconds=0)
