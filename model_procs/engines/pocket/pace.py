"""How many streams keep up with real time: measured in the template, corrected in workers.

Measuring also generates oneDNN's code for each number of rows. All forked workers then share it;
otherwise each would have its own, half a megabyte for each shape of a product.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from model_procs.engines.pocket.flow_lm import FlowLM, Prefix, Run
from model_procs.engines.pocket.mimi import Mimi

_ROUNDS = 4
"""Measurements of each; the shortest counts, because others may use the processor too."""

_TOKENS = 8

_REACHED = 0.9
"""What part of the rates at load is expected while nothing better is known."""

_ENOUGH = 0.8
"""Seconds of sound per second with which a stream may be live.

It pauses for a moment then, unless it is short or its player waits a little. But it begins at once;
if it waited for the end of another, its listener would wait for longer."""

_WINDOW = (0.5, 2.0)
"""Seconds for which a rate is measured: less says nothing, more would be old."""

_WEIGHT = 0.3
"""How much a new measurement counts against those before."""

_HALF_LIFE = 1.0
"""Seconds of rest after which a bad measurement counts half: others may have computed then.

If they still do, it is measured again as soon as somebody speaks."""


class Pace:
    """How much sound streams get together, and so how many may be live.

    In use the machine may be slower than at load, or faster: others compute beside it, or did when
    it was measured. That changes all rates alike, so each number of streams tells about the others.
    """

    def __init__(self, rates: Sequence[float] = ()) -> None:
        self.rates = rates
        """Seconds of sound per second for 1, 2, ... streams at load; none until measured."""
        self._reached = _REACHED
        self._rests_since: float | None = None
        """Since when nobody speaks."""
        self._streams = 0
        """How many have been speaking from `_since` to `_until`; 0: nothing is being measured."""
        self._since = self._until = 0.0
        self._made = 0.0

    @property
    def live(self) -> int:
        """The most streams that get `_ENOUGH` sound each; at least 1."""
        reached = (
            count
            for count, rate in enumerate(self.rates, 1)
            if rate * self._reached >= count * _ENOUGH
        )
        return max(reached, default=1)

    def made(self, now: float, streams: int, seconds: float) -> None:
        """`streams` speak, and so much more of their sound is there.

        0 streams mean that something else is computed as well, such as reading a text.
        """
        if streams == self._streams:
            self._made += seconds
            self._until = now
        if streams != self._streams or now - self._since >= _WINDOW[1]:
            self._learn()
            self._streams, self._since, self._until, self._made = streams, now, now, 0.0

    def changes(self, now: float, runs: int) -> None:
        """Others speak from now on: so many runs."""
        self._learn()
        if runs and self._rests_since is not None:
            kept = 0.5 ** ((now - self._rests_since) / _HALF_LIFE)
            self._reached += (1 - kept) * max(0.0, _REACHED - self._reached)
        self._rests_since = None if runs else now

    def _learn(self) -> None:
        elapsed = self._until - self._since
        if 0 < self._streams <= len(self.rates) and elapsed >= _WINDOW[0]:
            reached = self._made / elapsed / self.rates[self._streams - 1]
            self._reached += _WEIGHT * (reached - self._reached)
        self._streams = 0


def measure(
    lm: FlowLM,
    mimi: Mimi,
    prefix: Prefix,
    *,
    frame_seconds: float,
    threads: int,
    capacity: int,
    most_frames: int,
) -> list[float]:
    """Seconds of sound per second that `threads` cores make for 1 to `capacity` streams.

    `most_frames` is how many will be decoded at once.
    """
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
        for frames in range(capacity + 1, most_frames + 1):
            sound = mimi.open()
            mimi.decode([sound], latents[:1].expand(1, frames, -1))
            mimi.close(sound)
    # A step is one thread's work; sound is shared by all.
    return [
        count * frame_seconds / max(steps[count], (steps[count] + decodings[count]) / threads)
        for count in counts
    ]


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
