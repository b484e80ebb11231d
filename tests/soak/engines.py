"""Real engines that misbehave when they are told to. They run in children of the service.

The chaos writes an order into the folder that the variable `ORDERS` names. A request looks there at
a random point of its work. Renaming the file is atomic, so exactly one request, on one worker,
takes an order and obeys it; when that costs the worker its life, the replay runs undisturbed.

    leak MB     keep that much memory for ever
    hang        never come back, holding the interpreter's lock, so that no ping is answered
    crash       die as if by a fault of the machine code
    garbage     write nonsense to the pipe of replies
"""

from __future__ import annotations

import ctypes
import os
import random
import signal
import sys
import threading
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from ipc.engines import Kind
from ipc.operations import AnyOperation, EncodeVoice, Segment, Speak, Transcribe, Transcript
from model_procs.audio.pcm import Samples
from model_procs.engine import Needs, Output
from model_procs.engines.flite import FliteEngine
from model_procs.engines.kokoro.engine import KokoroEngine
from model_procs.engines.pocket.engine import PocketEngine
from model_procs.engines.sensevoice.engine import SenseVoiceEngine
from model_procs.engines.sphinx import SphinxEngine
from model_procs.engines.whisper.engine import WhisperEngine
from model_procs.listening.base import TranscriptionEngine
from model_procs.speech.alignment import Piece as Spoken
from model_procs.speech.base import SpeechEngine
from model_procs.speech.normalize.speech import Sentence
from tests.support.script_engine import write_to_pipes

ORDERS = "VOICE_SOAK_ORDERS"
"""The environment variable with the folder of the orders."""

_CHANCE = 0.4
"""Of looking at each point of a request but the last, where it always looks."""

_leaked: list[bytearray] = []


def order_file(folder: Path, model: str) -> Path:
    """Where an order for `model` waits to be taken."""
    return folder / f"{model}.order"


def taken_files(folder: Path, model: str) -> list[Path]:
    """Orders that were taken; the suffix of each is the pid of its worker."""
    return list(folder.glob(f"{model}.taken.*"))


def _take(model: str) -> str | None:
    folder = Path(os.environ[ORDERS])
    taken = folder / f"{model}.taken.{os.getpid()}"
    waiting = order_file(folder, model)
    try:
        order = waiting.read_text()  # first: whoever gave the order removes what was taken
        waiting.rename(taken)
    except FileNotFoundError:
        return None
    return order


def _obey(order: str) -> None:
    sys.stderr.write(f"soak: {order}\n")
    sys.stderr.flush()
    command, _, argument = order.partition(" ")
    match command:
        case "leak":
            _leaked.append(bytearray(b"\1") * (int(argument) * 1024 * 1024))
        case "hang":
            ctypes.PyDLL(None).pause()
        case "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "garbage":
            write_to_pipes(b"\xff" * 64)


class _Moments:
    """The points of one request at which it looks for an order; its seed decides which."""

    def __init__(self, model: str, operation: AnyOperation) -> None:
        self._model = model
        match operation:
            case Speak():
                seed: int | str = operation.sampling.seed
            case EncodeVoice() | Transcribe():
                seed = operation.recording.key
        self._random = random.Random(seed)

    def pass_by(self, chance: float = _CHANCE) -> None:
        """A point of the request: look for an order, perhaps."""
        if self._random.random() < chance and (order := _take(self._model)) is not None:
            _obey(order)


_moments: WeakKeyDictionary[threading.Event, _Moments] = WeakKeyDictionary()
"""Of the requests that are being served, by their stop events; a warm-up has none."""


class _ChaoticSpeech(SpeechEngine):
    """Looks before decoding, after each piece of speech, and before the answer is complete."""

    @property
    def needs(self) -> Needs:
        """What flite needs, and the orders: they are files."""
        return Needs(("flite", "setpriv"), (Path(os.environ[ORDERS]),))

    def run(self, operation: AnyOperation, stop: threading.Event) -> Output:
        moments = _moments[stop] = _Moments(Kind.TTS, operation)
        moments.pass_by()
        result = yield from super().run(operation, stop)
        moments.pass_by(1.0)
        return result

    def speak_sentences(
        self, sentences: Iterator[Sentence], voice: Any, speak: Speak, stop: threading.Event
    ) -> Generator[Spoken | None, None, None]:
        pieces = super().speak_sentences(sentences, voice, speak, stop)
        moments = _moments.get(stop)
        try:
            for piece in pieces:
                yield piece
                if piece is not None and moments is not None:
                    moments.pass_by()
        finally:
            if isinstance(pieces, Generator):
                pieces.close()


class _ChaoticRecognition(TranscriptionEngine):
    """Looks before decoding, around the inference, and before the answer is complete."""

    @property
    def needs(self) -> Needs:
        """The orders: they are files."""
        return Needs(writable=(Path(os.environ[ORDERS]),))

    def run(self, operation: AnyOperation, stop: threading.Event) -> Output:
        moments = _moments[stop] = _Moments(Kind.STT, operation)
        moments.pass_by()
        result = yield from super().run(operation, stop)
        moments.pass_by(1.0)
        return result

    def transcribe(
        self, samples: Samples, options: Transcribe, stop: threading.Event
    ) -> Generator[Segment | None, None, Transcript]:
        if (moments := _moments.get(stop)) is not None:
            moments.pass_by()
        return (yield from super().transcribe(samples, options, stop))


class ChaoticFlite(_ChaoticSpeech, FliteEngine):
    """flite, as told."""


class ChaoticKokoro(_ChaoticSpeech, KokoroEngine):
    """Kokoro, as told."""


class ChaoticPocket(_ChaoticSpeech, PocketEngine):
    """Pocket TTS, as told."""


class ChaoticSphinx(_ChaoticRecognition, SphinxEngine):
    """pocketsphinx, as told."""


class ChaoticSenseVoice(_ChaoticRecognition, SenseVoiceEngine):
    """SenseVoiceSmall, as told."""


class ChaoticWhisper(_ChaoticRecognition, WhisperEngine):
    """Whisper, as told."""
