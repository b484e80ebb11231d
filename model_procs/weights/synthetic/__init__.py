"""Random weights in the published formats. Runs in `voice-engine models synth` and in tests.

The architectures are the libraries' own, the weights are random: speed, memory, shapes, rates and
tags are real, the audio and the words mean nothing. The seed makes the bytes reproducible.
"""

SIZES = ("nano", "full")
"""nano, for tests, has a few MB. full, for benchmarks, has the published dimensions."""

SEED = 20_240_704

NOTE_FILE = "SYNTHETIC.txt"
"""A file next to random weights. An engine that finds it reports its text to clients."""

NOTE = "random weights from `voice-engine models synth`: the sound and the words mean nothing"
