"""How many streams stay ahead of real time, measured when the model has loaded. In templates.

This also generates oneDNN's code for each number of rows. All forked workers then share it;
otherwise each would have its own, half a megabyte for each shape of a product.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from model_procs.engines.pocket.batch import DECODED_TOGETHER
from model_procs.engines.pocket.flow_lm import FlowLM, Prefix, Run
from model_procs.engines.pocket.mimi import Mimi

_ROUNDS = 4
"""Measurements of each; the shortest counts, because others may use the processor too."""

_SPARE = 1.25
"""Other work of the worker, and longer texts, in parts of what is measured."""

_TOKENS = 8


def live_streams(
    lm: FlowLM, mimi: Mimi, prefix: Prefix, *, frame_seconds: float, threads: int, capacity: int
) -> int:
    """The most streams that `threads` cores speak in real time together, 1 to `capacity`."""
    import torch

    def runs(count: int) -> list[Run]:
        made = [
            Run(
                prefix=prefix,
                tokens=torch.zeros(_TOKENS, dtype=torch.int64),
                generator=torch.Generator().manual_seed(0),
                temperature=0.3,
                decode_steps=1,
                eos_threshold=float("inf"),
                frames_after_eos=0,
                most_frames=2,
            )
            for _ in range(count)
        ]
        for run in made:
            lm.open(run)
        lm.step(made)
        return made

    counts = range(1, capacity + 1)
    steps, decodings = ([math.inf] * (capacity + 1) for _ in range(2))
    with torch.inference_mode():
        for _ in range(_ROUNDS):  # of all, so that none is measured in a bad moment only
            for count in counts:
                speaking = runs(count)
                steps[count] = min(steps[count], _seconds(lambda: lm.step(speaking)))  # noqa: B023
                latents = torch.stack([run.latent for run in speaking])[:, None]
                sounds = [mimi.open() for _ in speaking]
                decoding = _seconds(lambda: mimi.decode(sounds, latents))  # noqa: B023
                decodings[count] = min(decodings[count], decoding)
                for sound in sounds:
                    mimi.close(sound)
        for frames in range(capacity + 1, DECODED_TOGETHER + 1):
            sound = mimi.open()
            mimi.decode([sound], latents[:1].expand(1, frames, -1))
            mimi.close(sound)
    # A step is one thread's work; sound is shared by all.
    live = (
        count
        for count in counts
        if max(steps[count], (steps[count] + decodings[count]) / threads) * _SPARE <= frame_seconds
    )
    return max(live, default=1)


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
