"""flite: English speech from four small built-in voices, with nothing to download.

Loads in the template, speaks in the workers. Each sentence is a separate run of the flite program,
so its samples do not depend on earlier sentences.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
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
from anyascii import anyascii

from ipc.engines import BuiltinVoice
from ipc.errors import ErrorCode, ServiceError
from ipc.operations import Sampling
from model_procs.audio.pcm import Samples
from model_procs.audio.pitch import median_pitch
from model_procs.engine import Cancelled, EngineConfig, Needs
from model_procs.listening import vad
from model_procs.speech.base import SpeechEngine
from model_procs.speech.normalize.signs import without_named
from model_procs.speech.normalize.speech import prepare

RATE = 16_000

VOICES = {"kal16": 89.0, "rms": 103.0, "awb": 131.0, "slt": 172.0}
"""flite's general English voices, and the median pitch of each in Hz over ten sentences.

Two voices are left out: kal is kal16 at 8 kHz, and awb_time can only tell the time.
"""

_SPEAKERS = {
    "slt": "US English, female",
    "rms": "US English, male",
    "awb": "Scottish English, male",
    "kal16": "US English, male, older",
}
"""A description of each voice, the default first."""

_DEFAULT = "slt"
_FIXED_PITCH = "rms"
"""This voice's pitch model ignores every pitch setting."""
_MEAN_OVER_MEDIAN = {"kal16": 1.08}
"""flite's setting is the mean pitch; only this voice's median is far from its mean."""

LONGEST_PIECE = 300
"""Most characters of one run of flite: about 20 s of sound, generated in a tenth of a second."""
_POLL_SECONDS = 0.05
_RUN_SECONDS = 60.0
_RUNS_MAX = 5
"""How often the program is run for one piece, if it is killed."""
_SILENCE = 0.005
"""Highest amplitude of a piece that counts as a pause: flite gives one for unreadable text."""

_CLAUSE_END = re.compile(r"(?<=[,;:])\s+")
_LATIN = str.maketrans(
    {"ß": "ss", "æ": "ae", "Æ": "Ae", "œ": "oe", "Œ": "Oe", "ø": "o", "Ø": "O", "ł": "l"}
    | {"Ł": "L", "đ": "d", "Đ": "D", "ð": "d", "Ð": "D", "þ": "th", "Þ": "Th", "ı": "i"}
    | {"‘": "'", "’": "'", "“": '"', "”": '"', "–": "-", "—": " - ", "…": "...", "€": " euros "}
    | {"£": " pounds ", "\N{FRACTION SLASH}": "/", "×": " times ", "°": " degrees "}
)


_SETPRIV = shutil.which("setpriv")
_DYING_WITH_US = [_SETPRIV, "--pdeathsig", "KILL"] if _SETPRIV else []
"""Makes the kernel kill the program when its worker dies (setpriv is in util-linux)."""


@dataclass(frozen=True, slots=True)
class FliteVoice:
    """One of `VOICES`, and the median pitch in Hz at which it speaks."""

    name: str
    pitch_hz: float


class FliteEngine(SpeechEngine):
    """The flite program behind the Engine protocol."""

    name = "flite"
    sample_rate = RATE
    reference_rate = RATE
    approximation = (
        "cloning is approximate: flite uses the nearest of its four built-in voices and matches "
        "only the pitch of the reference"
    )

    voice_format = "flite"
    default_voice = _DEFAULT

    def __init__(self, config: EngineConfig) -> None:
        self._program: str | None = None

    @property
    def needs(self) -> Needs:
        """It is a program, started by another one (see `_DYING_WITH_US`)."""
        return Needs(programs=("flite", "setpriv"))

    def load(self) -> None:
        """Find the program and its voices. Raises ServiceError (model_unavailable) without them."""
        vad.load()
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
        prepare(self.language)

    def warm_up(self) -> None:
        """Speak one word, in the worker."""
        self._say("Hello.", FliteVoice(_DEFAULT, VOICES[_DEFAULT]), threading.Event())

    def notes(self) -> list[str]:
        """What clients must know."""
        return [
            self.approximation,
            "speaks English only, written in Latin letters",
            "the seed has no effect: the same text and reference always give the same samples",
        ]

    def builtin_voices(self) -> list[BuiltinVoice]:
        """flite's four voices."""
        return [
            BuiltinVoice(name, f"{name} ({speaker})", "en") for name, speaker in _SPEAKERS.items()
        ]

    def load_builtin_voice(self, name: str) -> FliteVoice:
        """A voice at its own pitch."""
        return FliteVoice(name, VOICES[name])

    def encode_voice(self, reference: Samples) -> FliteVoice:
        """The voice nearest in pitch to `reference` (16 kHz); slt if the reference has no pitch."""
        pitch = median_pitch(reference, RATE)
        if pitch is None:
            return FliteVoice(_DEFAULT, VOICES[_DEFAULT])
        name = min(VOICES, key=lambda voice: abs(math.log(pitch / VOICES[voice])))
        return FliteVoice(name, pitch)

    def export_voice(self, voice: FliteVoice) -> bytes:
        """The voice as JSON."""
        return json.dumps({"name": voice.name, "pitch_hz": voice.pitch_hz}).encode()

    def import_voice(self, data: memoryview) -> FliteVoice:
        """The voice from its JSON. Raises `ValueError` or `KeyError` for anything else."""
        fields = json.loads(bytes(data))
        voice = FliteVoice(str(fields["name"]), float(fields["pitch_hz"]))
        if voice.name not in VOICES:
            raise ValueError(f"flite has no voice {voice.name}")
        return voice

    def check_text(self, text: str) -> None:
        """Raises ServiceError (`invalid_request`) for a text mainly in letters that flite lacks."""
        plain = _without_accents(without_named(text))
        foreign = [c for c in plain if c.isalpha() and not c.isascii()]
        if len(foreign) > sum(c.isalnum() and c.isascii() for c in plain):
            raise ServiceError(
                ErrorCode.invalid_request,
                f"the engine flite speaks English only and cannot read {foreign[0]!r}; send text "
                "in Latin letters",
            )

    def synthesize(
        self,
        text: str,
        voice: FliteVoice,
        sampling: Sampling,
        stop: threading.Event,
    ) -> Iterator[Samples]:
        """Speak `text`; yields nothing for a text that cannot be pronounced."""
        for piece in pieces(latin(text)):
            samples = self._say(piece, voice, stop)
            if len(samples) and np.abs(samples).max() > _SILENCE:
                yield samples

    def _say(self, text: str, voice: FliteVoice, stop: threading.Event) -> Samples:
        """Run the program once: the text goes in through a pipe, the WAV comes out in memory."""
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
            # Slower speech that is played faster has the old tempo and a new pitch.
            samples = soxr.resample(samples, rate * stretch, RATE)
        return np.asarray(samples, np.float32)

    def _run(self, arguments: list[str], text: str, output: int, stop: threading.Event) -> None:
        for _ in range(_RUNS_MAX):
            status, errors = self._run_once(arguments, text, output, stop)
            if status == 0:
                return
            if status != -signal.SIGKILL:
                break
            os.ftruncate(output, 0)  # somebody has killed it, which says nothing about the text
        raise ServiceError(
            ErrorCode.engine_error, f"flite failed with status {status}: {errors[-500:]}"
        )

    def _run_once(
        self, arguments: list[str], text: str, output: int, stop: threading.Event
    ) -> tuple[int, str]:
        """The exit status of the program, and what it wrote to stderr."""
        deadline = time.monotonic() + _RUN_SECONDS
        # Not by a pipe: `communicate` sends no more after it has once waited for too long.
        with open(os.memfd_create("text"), "w+b") as given:
            given.write(text.encode("ascii"))
            given.seek(0)
            process = subprocess.Popen(
                [
                    *_DYING_WITH_US,
                    str(self._program),
                    *arguments,
                    "-f",
                    "/dev/stdin",
                    "-o",
                    f"/dev/fd/{output}",
                ],
                stdin=given,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=[output],
            )
        with process:
            try:
                while True:
                    try:
                        _, errors = process.communicate(timeout=_POLL_SECONDS)
                        break
                    except subprocess.TimeoutExpired:
                        pass
                    if stop.is_set():
                        raise Cancelled
                    if time.monotonic() > deadline:
                        raise ServiceError(
                            ErrorCode.engine_error,
                            f"flite did not finish a sentence within {_RUN_SECONDS:.0f} s",
                        )
            except BaseException:
                process.kill()
                raise
        return process.returncode, errors.decode(errors="replace").strip()


def latin(text: str) -> str:
    """`text` in ASCII: without accents and emoji, with common signs spelled out.

    Letters and digits of other scripts become the nearest Latin ones ("мир" is "mir"), because
    flite would leave them out without a word.
    """
    plain = _without_accents(text)
    kept = ((anyascii(c) if c.isalnum() else " ") if not c.isascii() else c for c in plain)
    return "".join(c if c.isprintable() or c == "\n" else " " for c in "".join(kept))


def _without_accents(text: str) -> str:
    plain = unicodedata.normalize("NFKD", text.translate(_LATIN)).translate(_LATIN)
    return "".join(c for c in plain if not unicodedata.combining(c))


def pieces(sentence: str) -> Iterator[str]:
    """A sentence, split at clauses or words if it is long; only whitespace is lost."""
    clauses = [sentence] if len(sentence) <= LONGEST_PIECE else _CLAUSE_END.split(sentence)
    for clause in clauses:
        yield from textwrap.wrap(clause, LONGEST_PIECE, break_on_hyphens=False)
