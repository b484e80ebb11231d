"""What the clients ask, and whether an answer is right.

Each entry is one request that always has the same answer. The answer that the service gives before
anything is done to it is the one that all later ones must equal.
"""

from __future__ import annotations

import io
import random
import struct
import wave
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import jiwer
import numpy as np
import numpy.typing as npt

from ipc.engines import Json
from tests.support.formats import encode
from tests.support.recordings import spoken
from tests.support.sentences import SENTENCES
from tests.support.service import read_wav

_REFERENCE = (
    "The birch canoe slid on the smooth planks. Glue the sheet to the dark blue background."
)
_SENTENCES = (1, 1, 1, 1, 2, 2, 3, 3, 4, 6, 9)
_WORDS = (1, 1, 2, 2, 3, 4, 6)
"""Lengths of the texts; those in words are for a model with random weights, which does not stop at
the end of the text but where the library cuts it off."""

_HEADER = 44
_UNKNOWN_LENGTH = 0xFFFFFFFF


class WrongAnswer(Exception):  # noqa: N818 - named for what happened
    """The answer is not what it must be; the message says in what."""


@dataclass(slots=True)
class Clone:
    """A text to speak in the voice of a recording."""

    name: str
    text: str
    reference: bytes
    seed: int
    rate: int = 0
    expected: npt.NDArray[np.int16] | None = None

    def form(self, *, stream: bool) -> aiohttp.FormData:
        """The body of the request."""
        fields = {"text": self.text, "seed": str(self.seed), "stream": str(stream).lower()}
        form = aiohttp.FormData(fields)
        form.add_field("reference_audio", io.BytesIO(self.reference), filename="me.wav")
        return form

    def keep(self, body: bytes) -> None:
        """This is the answer to expect."""
        self.rate, pcm = read_wav(body)
        self.expected = np.frombuffer(pcm, "<i2")

    def check_whole(self, headers: Any, body: bytes) -> None:
        """Raises `WrongAnswer`."""
        if headers.get("Content-Length") != str(len(body)):
            raise WrongAnswer(f"{len(body)} bytes, Content-Length {headers.get('Content-Length')}")
        try:
            rate, pcm = read_wav(body)
        except (wave.Error, EOFError, AssertionError) as error:
            raise WrongAnswer(f"not a WAV: {error}") from error
        self._compare(rate, pcm)
        seconds = len(pcm) / 2 / rate
        if abs(float(headers["X-Audio-Duration"]) - seconds) > 0.001:
            raise WrongAnswer(f"{seconds:.3f} s, X-Audio-Duration {headers['X-Audio-Duration']}")

    def check_stream(self, body: bytes) -> None:
        """Raises `WrongAnswer`."""
        try:
            riff, size, kind, rate, data, length = struct.unpack("<4sI4s12xI8x4sI", body[:_HEADER])
        except struct.error as error:
            raise WrongAnswer(f"a stream of {len(body)} bytes") from error
        if (riff, size, kind, data, length) != (
            *(b"RIFF", _UNKNOWN_LENGTH, b"WAVE"),
            *(b"data", _UNKNOWN_LENGTH),
        ):
            raise WrongAnswer(f"the stream's header is {body[:_HEADER]!r}")
        self._compare(rate, body[_HEADER:])

    def _compare(self, rate: int, pcm: bytes) -> None:
        assert self.expected is not None
        if rate != self.rate:
            raise WrongAnswer(f"sample rate {rate} instead of {self.rate}")
        if len(pcm) != 2 * len(self.expected):
            raise WrongAnswer(f"{len(pcm) / 2:g} samples instead of {len(self.expected)}")
        difference = np.abs(np.frombuffer(pcm, "<i2").astype(np.int32) - self.expected)
        if difference.any():
            raise WrongAnswer(
                f"{np.count_nonzero(difference)} samples differ, by up to {difference.max()}, from "
                f"sample {np.argmax(difference > 0)} of {len(difference)} on"
            )


@dataclass(slots=True)
class Transcribe:
    """A recording of known words."""

    name: str
    spoken: str
    recording: bytes
    expected: Json = field(default_factory=dict)

    def form(self) -> aiohttp.FormData:
        """The body of the request."""
        form = aiohttp.FormData()
        form.add_field("file", io.BytesIO(self.recording), filename="recording")
        return form

    def check(self, answer: Json) -> None:
        """Raises `WrongAnswer`. Probabilities are rounded to four digits, and may round apart."""
        if set(answer) != set(self.expected):
            raise WrongAnswer(f"the fields are {sorted(answer)}")
        for name, expected in self.expected.items():
            got = answer[name]
            same = abs(got - expected) <= 2e-4 if isinstance(expected, float) else got == expected
            if not same:
                raise WrongAnswer(f"{name} is {got!r} instead of {expected!r}")


@dataclass(frozen=True, slots=True)
class Catalog:
    """Every request that clients may send."""

    clones: list[Clone]
    transcribes: list[Transcribe]

    def word_error_rate(self) -> float:
        """How far the transcripts to expect are from what is said in the recordings."""
        spoken = [_words(item.spoken) for item in self.transcribes]
        return float(
            jiwer.wer(spoken, [_words(item.expected["text"]) for item in self.transcribes])
        )


def make_catalog(rng: random.Random, *, long_texts: bool) -> Catalog:
    """Texts of one to nine sentences, or of a few words; recordings in all formats and sizes."""
    voices = {name: spoken(_REFERENCE, name) for name in ("slt", "rms", "awb")}
    references = [
        ("slt.wav", voices["slt"]),
        ("rms.flac", encode(voices["rms"], "flac")),
        ("awb.m4a", encode(voices["awb"], "m4a")),
        ("slt-48k.wav", encode(voices["slt"], "48 kHz stereo wav")),
    ]
    lengths = _SENTENCES if long_texts else _WORDS
    clones = []
    for number, length in enumerate(lengths):
        name, reference = references[number % len(references)]
        seed = rng.randrange(2**32)
        if long_texts:
            text = " ".join(rng.sample(SENTENCES, length))
            clones.append(Clone(f"{length} sentences like {name}", text, reference, seed))
        else:
            text = " ".join(rng.choice(SENTENCES).split()[:length])
            clones.append(Clone(f"{length} words like {name}", text, reference, seed))
    transcribes = []
    formats = ("wav", "flac", "mp3", "opus", "ogg", "m4a", "webm", "48 kHz stereo wav")
    for number, container in enumerate(formats):
        voice = list(voices)[number % len(voices)]
        sentence = rng.choice(SENTENCES)
        recording = spoken(sentence, voice)
        if container != "wav":
            recording = encode(recording, container)
        transcribes.append(Transcribe(f"{voice} as {container}", sentence, recording))
    return Catalog(clones, transcribes)


def _words(text: str) -> str:
    return "".join(c for c in text.lower() if c.isalpha() or c in " '").strip()
