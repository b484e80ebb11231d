"""How many streams stay ahead of real time, measured when the model has loaded. In templates."""

from __future__ import annotations

import time
from collections.abc import Callable

from model_procs.engines.pocket.flow_lm import FlowLM, Prefix, Run
from model_procs.engines.pocket.mimi import Mimi

_ROUNDS = 3
"""Measurements of each; the shortest counts, because others may use the processor too."""

_SPARE = 1.25
"""Other work of the worker, and longer texts, in parts of what is measured."""

_FRAMES = 2
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
                most_frames=_ROUNDS + 1,
            )
            for _ in range(count)
        ]
        for run in made:
            lm.open(run)
        lm.step(made)
        return made

    with torch.inference_mode():
        one, all_ = runs(1), runs(capacity)
        few = _shortest(lambda: lm.step(one))
        many = _shortest(lambda: lm.step(all_))
        sounds = [mimi.open() for _ in range(capacity)]
        latents = torch.stack([torch.stack(list(run.latents)[:_FRAMES]) for run in all_])
        decoding = _shortest(lambda: mimi.decode(sounds, latents)) / (capacity * _FRAMES)
        for sound in sounds:
            mimi.close(sound)
    for count in range(capacity, 1, -1):
        step = few + (many - few) * (count - 1) / (capacity - 1)
        # A step is one thread's work; sound is shared by all.
        needed = max(step, (step + count * decoding) / threads)
        if needed * _SPARE <= frame_seconds:
            return count
    return 1


def _shortest(work: Callable[[], object]) -> float:
    taken = []
    for _ in range(_ROUNDS):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return min(taken)
