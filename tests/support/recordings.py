"""Recordings of speech for the tests that send some."""

from __future__ import annotations

import subprocess


def spoken(text: str, voice: str = "slt") -> bytes:
    """A WAV of `text`, by the flite program in one of its own voices."""
    command = ["flite", "-voice", voice, "-t", text, "-o", "/dev/stdout"]
    return subprocess.run(command, check=True, capture_output=True).stdout
