"""flite: English speech from four small built-in voices, with nothing to download.

Loads in the template, speaks in the workers. Each sentence is one run of the flite program, so that
it gives the same samples whatever was said before.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import textwrap
import threading
import time
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import soundfile
import soxr

from ipc.engines import BuiltinVoice
from ipc.errors import ErrorCode, ServiceError
from ipc.operations import Sampling
from model_procs.audio.pcm import Samples
from model_procs.audio.pitch import median_pitch
from model_procs.engine import Cancelled, EngineConfig
from model_procs.speech.base import SpeechEngine

RATE = 16_000

VOICES = {"kal16": 89.0, "rms": 103.0, "awb": 131.0, "slt": 172.0}
"""flite's general English voices and their median pitch in Hz over ten sentences, each by itself.

The voice kal is kal16 at 8 kHz; awb_time only tells the time.
"""

_SPEAKERS = {
    "slt": "US English, female",
    "rms": "US English, male",
    "awb": "Scottish English, male",
    "kal16": "US English, male, older",
}
"""What each of them is, the default first."""

_DEFAULT = "slt"
_FIXED_PITCH = "rms"
"""This voice's pitch model ignores every pitch setting."""
_MEAN_OVER_MEDIAN = {"kal16": 1.08}
"""flite is told the mean; only this voice's median lies far from it."""

LONGEST_PIECE = 300
"""Characters that flite speaks in one run: some 20 s of sound, made in a tenth of a second."""
_POLL_SECONDS = 0.05
_RUN_SECONDS = 60.0
_SILENCE = 0.005
"""Peak of what flite makes of text that it cannot read: a pause."""

_CLAUSE_END = re.compile(r"(?<=[,;:])\s+")
_LATIN = str.maketrans(
    {"ß": "ss", "æ": "ae", "Æ": "Ae", "œ": "oe", "Œ": "Oe", "ø": "o", "Ø": "O", "ł": "l"}
    | {"Ł": "L", "đ": "d", "Đ": "D", "ð": "d", "Ð": "D", "þ": "th", "Þ": "Th", "ı": "i"}
    | {"‘": "'", "’": "'", "“": '"', "”": '"', "–": "-", "—": " - ", "…": "...", "€": " euros "}
    | {"£": " pounds ", "\N{FRACTION SLASH}": "/", "×": " times ", "°": " degrees "}
)


_SETPRIV = shutil.which("setpriv")
_DYING_WITH_US = [_SETPRIV, "--pdeathsig", "KILL"] if _SETPRIV else []
"""Runs the program so that it does not outlive a worker that is killed (setpriv: util-linux)."""


@dataclass(frozen=True, slots=True)
class FliteVoice:
    """One of `VOICES`, and the median pitch in Hz that it is to speak with."""

    name: str
    pitch_hz: float


class FliteEngine(SpeechEngine):
    """The flite program behind the Engine protocol."""

    name = "flite"
    sample_rate = RATE
    reference_rate = RATE
    approximation = (
        "cloning is approximate: flite speaks with the nearest of its four built-in voices, "
        "matched to the reference in pitch only"
    )

    voice_format = "flite"
    default_voice = _DEFAULT

    def __init__(self, config: EngineConfig) -> None:
        self._program: str | None = None

    def load(self) -> None:
        """Find the program and its voices. Raises ServiceError (model_unavailable) without them."""
        self._program = shutil.which("flite")
        if self._program is None:
            raise ServiceError(
                ErrorCode.model_unavailable,
                "the program flite is not installed; run `apt-get install flite`",
            )
        listing = subprocess.run(
            [self._program, "-lv"], stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
        missing = set(VOICES) - set(listing.stdout.decode(errors="replace").split())
        if missing:
            raise ServiceError(
                ErrorCode.model_unavailable,
                f"{self._program} lacks the voices {', '.join(sorted(missing))}; "
                "run `apt-get install flite`",
            )

    def warm_up(self) -> None:
        """Speak one word."""
        self._say("Hello.", FliteVoice(_DEFAULT, VOICES[_DEFAULT]), threading.Event())

    def notes(self) -> list[str]:
        """What clients must know."""
        return [
            self.approximation,
            "speaks English, in Latin letters",
            "the same text and reference give the same samples with every seed",
        ]

    def builtin_voices(self) -> list[BuiltinVoice]:
        """flite's four."""
        return [
            BuiltinVoice(name, f"{name} ({speaker})", "en") for name, speaker in _SPEAKERS.items()
        ]

    def load_builtin_voice(self, name: str) -> FliteVoice:
        """A voice with the pitch that it has by itself."""
        return FliteVoice(name, VOICES[name])

    def encode_voice(self, reference: Samples) -> FliteVoice:
        """The voice nearest in pitch to `reference` (16 kHz); slt as it is for an unvoiced one."""
        pitch = median_pitch(reference, RATE)
        if pitch is None:
            return FliteVoice(_DEFAULT, VOICES[_DEFAULT])
        name = min(VOICES, key=lambda voice: abs(math.log(pitch / VOICES[voice])))
        return FliteVoice(name, pitch)

    def export_voice(self, voice: FliteVoice) -> bytes:
        """The voice as JSON."""
        return json.dumps({"name": voice.name, "pitch_hz": voice.pitch_hz}).encode()

    def import_voice(self, data: memoryview) -> FliteVoice:
        """The voice from its JSON. Raises `ValueError` or `KeyError` when that is none."""
        fields = json.loads(bytes(data))
        voice = FliteVoice(str(fields["name"]), float(fields["pitch_hz"]))
        if voice.name not in VOICES:
            raise ValueError(f"flite has no voice {voice.name}")
        return voice

    def check_text(self, text: str) -> None:
        """Raises ServiceError (`invalid_request`) for letters that flite cannot read."""
        latin(text)

    def synthesize(
        self,
        text: str,
        voice: FliteVoice,
        sampling: Sampling,
        stop: threading.Event,
        *,
        exact: bool = False,
    ) -> Iterator[Samples]:
        """Speak `text`; nothing for text without anything to pronounce.

        Raises ServiceError as `check_text` does.
        """
        for piece in pieces(latin(text)):
            samples = self._say(piece, voice, stop)
            if len(samples) and np.abs(samples).max() > _SILENCE:
                yield samples

    def _say(self, text: str, voice: FliteVoice, stop: threading.Event) -> Samples:
        """Run the program once. The text goes in by a pipe and the WAV comes out in memory."""
        stretch = 1.0
        if voice.name == _FIXED_PITCH:
            stretch = voice.pitch_hz / VOICES[voice.name]
            setting = f"duration_stretch={stretch:.4f}"
        else:
            mean = voice.pitch_hz * _MEAN_OVER_MEDIAN.get(voice.name, 1.0)
            setting = f"int_f0_target_mean={mean:.2f}"
        with open(os.memfd_create("flite"), "w+b") as wav:
            self._run(["-voice", voice.name, "--setf", setting], text, wav.fileno(), stop)
            samples, rate = soundfile.read(wav, dtype="float32")
        if rate != RATE or stretch != 1.0:
            # Slower speech played faster has the tempo that it had, and another pitch.
            samples = soxr.resample(samples, rate * stretch, RATE)
        return np.asarray(samples, np.float32)

    def _run(self, arguments: list[str], text: str, output: int, stop: threading.Event) -> None:
        deadline = time.monotonic() + _RUN_SECONDS
        unsent: bytes | None = text.encode("ascii")
        with subprocess.Popen(
            [
                *_DYING_WITH_US,
                str(self._program),
                *arguments,
                "-f",
                "/dev/stdin",
                "-o",
                f"/dev/fd/{output}",
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=[output],
        ) as process:
            try:
                while True:
                    try:
                        _, errors = process.communicate(unsent, timeout=_POLL_SECONDS)
                        break
                    except subprocess.TimeoutExpired:
                        unsent = None
                    if stop.is_set():
                        raise Cancelled
                    if time.monotonic() > deadline:
                        raise ServiceError(
                            ErrorCode.engine_error,
                            f"flite has not finished a sentence in {_RUN_SECONDS:.0f} s",
                        )
            except BaseException:
                process.kill()
                raise
        if process.returncode:
            raise ServiceError(
                ErrorCode.engine_error,
                f"flite failed with status {process.returncode}: "
                f"{errors.decode(errors='replace').strip()[-500:]}",
            )


def latin(text: str) -> str:
    """`text` in ASCII: accents dropped, common signs spelled out, pictures left out.

    Raises ServiceError (`invalid_request`) for letters and digits of other scripts: flite would
    leave them out without a word.
    """
    plain = unicodedata.normalize("NFKD", text.translate(_LATIN)).translate(_LATIN)
    for character in plain:
        if ord(character) > 0x7F and character.isalnum():
            raise ServiceError(
                ErrorCode.invalid_request,
                f"the engine flite speaks English only and cannot read {character!r}; send text in "
                "Latin letters",
            )
    kept = (c if c.isascii() else " " for c in plain if not unicodedata.combining(c))
    return "".join(c if c.isprintable() or c == "\n" else " " for c in kept)


def pieces(sentence: str) -> Iterator[str]:
    """A sentence, cut at clauses or words when it is long; only blanks get lost."""
    clauses = [sentence] if len(sentence) <= LONGEST_PIECE else _CLAUSE_END.split(sentence)
    for clause in clauses:
        yield from textwrap.wrap(clause, LONGEST_PIECE, break_on_hyphens=False)
