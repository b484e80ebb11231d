"""Random checkpoints in the published formats. Runs in `voice-engine models synth` and in tests.

The architectures are the libraries' own and the weights are noise: speed, memory, shapes, rates and
tags are real, the sound and the words mean nothing. A seed gives the same bytes every time.
"""

SIZES = ("nano", "full")
"""nano for tests: a few MB. full for benchmarks: the published dimensions."""

SEED = 20_240_704

NOTE_FILE = "SYNTHETIC.txt"
"""Lies beside random weights; an engine that finds it repeats what it says to clients."""

NOTE = "random weights from `voice-engine models synth`: the sound and the words mean nothing"
