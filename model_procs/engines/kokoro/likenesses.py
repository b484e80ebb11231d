"""How the voices of the packages sound, so that they need not speak before the first clone."""

from __future__ import annotations

from model_procs.engines.kokoro.voices import Likeness

PUBLISHED: dict[str, Likeness] = {}
