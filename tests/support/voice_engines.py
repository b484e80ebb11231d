"""The speech engines as they are, but for what tests must know, or decide.

They run in children of the service.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any

from ipc.operations import Sampling
from model_procs.audio.pcm import Samples
from model_procs.engine import Needs
from model_procs.engines.flite import FliteEngine, FliteVoice
from model_procs.engines.pocket.engine import PocketEngine

GATED = "VOICE_TEST_GATED"
"""The environment variable with the folder that `GatedPocket` looks into."""

AT_THE_GATE = "Here is the gate."
"""The sentence before which it waits."""

_leaked: list[bytearray] = []


class TellingFlite(FliteEngine):
    """flite; writes "encoding N s" for a reference of N seconds."""

    def encode_voice(self, reference: Samples) -> FliteVoice:
        """As flite does."""
        _tell(len(reference) / self.reference_rate)
        return super().encode_voice(reference)


class TellingPocket(PocketEngine):
    """Pocket TTS; the same."""

    def encode_voice(self, reference: Samples) -> Any:
        """As Pocket TTS does."""
        _tell(len(reference) / self.reference_rate)
        return super().encode_voice(reference)


class GatedPocket(PocketEngine):
    """Pocket TTS; requests wait for a gate while the batch goes on with others.

    The gate is the file "gate". Who waits also looks for a file "leak": one of them removes it, and
    then keeps as many MB for ever as it says.
    """

    @property
    def needs(self) -> Needs:
        """The files."""
        return Needs(writable=(Path(os.environ[GATED]),))

    def synthesize(
        self, text: str, voice: Any, sampling: Sampling, stop: threading.Event
    ) -> Generator[Samples | None, None, None]:
        """As Pocket TTS does."""
        folder = Path(os.environ[GATED])
        while text == AT_THE_GATE and not (folder / "gate").exists():
            _leak(folder / "leak")
            yield None
        yield from super().synthesize(text, voice, sampling, stop)


def _leak(order: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        size = order.read_text()
        order.unlink()
        _leaked.append(bytearray(b"\1") * (int(size) * 1024 * 1024))


def _tell(seconds: float) -> None:
    os.write(1, f"encoding {seconds:.1f} s\n".encode())
