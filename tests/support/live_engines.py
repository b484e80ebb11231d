"""Engines for live transcription whose every number follows from the sound. Run in children.

Speech is what is loud. Its transcript has a word for each tenth of a second of it.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import numpy.typing as npt

from ipc.engines import EngineInfo
from ipc.operations import (
    LIVE_RATE,
    LIVE_WINDOW,
    AnyOperation,
    Listen,
    Listened,
    Paralinguistics,
    Segment,
    Transcribe,
    Transcript,
    Word,
)
from model_procs.audio.decode import decode
from model_procs.engine import Needs, Output
from model_procs.engines.silero import SileroEngine, listened
from tests.support.script_engine import Script, obey_script

LOUD, HOLDING, DEADLY = 8000, -20_000, -30_000
"""Samples: of speech, of speech at which the listener waits, and of speech at which it dies."""

HOLD = "VOICE_TEST_HOLD"
"""The variable with the path of the file for which it waits."""

NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


class LoudListener(SileroEngine):
    """Decodes as the real one does; its probabilities are 0 and 1."""

    name = "loud"

    @property
    def needs(self) -> Needs:
        """The file for which it waits."""
        return Needs(writable=(Path(tempfile.gettempdir()),))

    def run(self, operation: AnyOperation, stop: threading.Event) -> Output:
        """A step, or what its samples say."""
        assert isinstance(operation, Listen)
        return _step(operation)


def _step(operation: Listen) -> Generator[None, None, Listened]:
    yield from ()
    state, before = b"", b""
    if operation.state:
        state, before = msgpack.unpackb(operation.state)
    heard = listened(replace(operation, state=state))
    pcm = np.frombuffer(heard.pcm, np.int16)
    if DEADLY in pcm:
        os._exit(9)
    while HOLDING in pcm and not Path(os.environ[HOLD]).exists():
        time.sleep(0.01)
    loud = before + bytes(np.abs(pcm.astype(int)) >= LOUD)
    windows = range(0, len(heard.probabilities) * LIVE_WINDOW, LIVE_WINDOW)
    probabilities = tuple(float(any(loud[at : at + LIVE_WINDOW])) for at in windows)
    rest = loud[len(probabilities) * LIVE_WINDOW :]
    return Listened(heard.pcm, probabilities, msgpack.packb([heard.state, rest]))


class Dictation(Script):
    """Obeys the prompt as a script, and then counts the tenths of a second that are loud."""

    load_script = warm_up_script = "VOICE_TEST_NOTHING"

    def info(self) -> EngineInfo:
        """It knows two languages, and hotwords."""
        languages = ("auto", "en", "de")
        return EngineInfo("dictation", LIVE_RATE, languages=languages, hotwords=True)

    def run(self, operation: AnyOperation, stop: threading.Event) -> Output:
        """The transcript, with an emotion that is sure."""
        assert isinstance(operation, Transcribe)
        return _dictated(operation, stop)


def _dictated(operation: Transcribe, stop: threading.Event) -> Generator[Any, None, Transcript]:
    yield from ()
    obey_script(operation.prompt or "", stop)
    source = operation.recording.source
    assert source is not None
    sound = decode(source, rate=LIVE_RATE, max_seconds=720, truncate=False)
    pcm = np.rint(sound * 32768).astype(np.int16)
    if operation.hotwords:
        return dictated(pcm, (*operation.hotwords, f"after-{operation.previous_language}"))
    return dictated(pcm)


def dictated(pcm: npt.NDArray[np.int16], vocabulary: Sequence[str] = NUMBERS) -> Transcript:
    """The transcript of `pcm`, in these words."""
    tenth = LIVE_RATE // 10
    loud = np.flatnonzero(np.abs(pcm.astype(int)) > LOUD // 2)
    count = -(-len(loud) // tenth)
    words = [vocabulary[at % len(vocabulary)] for at in range(count)]
    first = int(loud[0]) / LIVE_RATE if count else 0.0
    told = Paralinguistics("en", "HAPPY", ("Speech",), 0.9, 0.75, 0.5)
    times = tuple(
        Word(word, round(first + at / 10, 3), round(first + at / 10 + 0.1, 3))
        for at, word in enumerate(words)
    )
    text = " ".join(words)
    return Transcript(
        text=text,
        raw=str(os.getpid()),
        duration=len(pcm) / LIVE_RATE,
        paralinguistics=told,
        segments=(Segment(0, 0.0, len(pcm) / LIVE_RATE, text, told, times),),
    )
