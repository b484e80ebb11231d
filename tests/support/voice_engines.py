"""The speech engines as they are, telling the log about every voice that they encode.

They run in children of the service.
"""

from __future__ import annotations

import os
from typing import Any

from model_procs.audio.pcm import Samples
from model_procs.engines.flite import FliteEngine, FliteVoice
from model_procs.engines.pocket.engine import PocketEngine


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


def _tell(seconds: float) -> None:
    os.write(1, f"encoding {seconds:.1f} s\n".encode())
