"""Which channel of a recording is recognized. Runs in workers.

Most recordings are heard best as the mean of their channels. The mean is bad when only one channel
has speech and the others have noise, and when channels are in opposite phase: then it is silence.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import numpy as np
import numpy.typing as npt

from model_procs.audio.blocks import Channels
from model_procs.audio.containers import invalid
from model_procs.audio.pcm import Samples

Powers = npt.NDArray[np.float32]

WINDOW_SECONDS = 0.1
_SILENT = 1 / 400
"""A channel whose loudest window is 26 dB below that of the loudest channel has no speech.

The second speaker of a call may be rare, and may be 20 dB below the first; hum, noise and the sound
that leaks from another channel are lower.
"""
_STEADY = 10.0
"""Noise and hum: the loudest window is less than 10 dB above the quiet ones. Speech has pauses."""
_STEADY_WINDOWS = 10
_CANCELLED = 0.5
"""Part of the power of a mean of independent channels, below which channels cancel each other."""

_MOST_CONSTANT = 0.05
"""What a cheap microphone adds to every sample, at most."""


class Mixer:
    """Mixes blocks to mono: their mean, or for some runs one channel.

    A run is a part of the recording in which the number of channels does not change. The mixer
    measures the channels of each run meanwhile, so that `better` knows in the end which ones would
    have been better. What it keeps are 10 numbers for each second and channel of one run.
    """

    def __init__(self, chosen: Mapping[int, int] | None = None) -> None:
        self._chosen = chosen
        self._run = -1
        self._channels = 0
        self._meter = _Meter()
        self._better: dict[int, int] = {}

    def mix(self, samples: Channels, rate: int) -> Samples:
        """`samples`, within [-1, 1], in mono. Raises `ServiceError` if some are not numbers."""
        if not np.isfinite(samples).all():
            raise invalid(
                "the recording holds samples that are not numbers", "export it again as 16-bit PCM"
            )
        samples = samples.clip(-1.0, 1.0)
        if len(samples) != self._channels:
            self._finish_run()
            self._run += 1
            self._channels = len(samples)
        if len(samples) == 1:
            return cast(Samples, samples[0])
        if self._chosen is not None and self._run in self._chosen:
            return cast(Samples, samples[self._chosen[self._run]])
        mean = cast(Samples, samples.mean(axis=0, dtype=np.float32))
        if self._chosen is None:
            self._meter.add(np.concatenate([samples, mean[np.newaxis]]), rate)
        return mean

    def better(self) -> dict[int, int]:
        """The channel that is better than the mean, by the number of the run."""
        self._finish_run()
        return self._better

    def _finish_run(self) -> None:
        channel = better_channel(self._meter.powers())
        if channel is not None:
            self._better[self._run] = channel
        self._meter = _Meter()


class _Meter:
    """The power of each row in each window of `WINDOW_SECONDS`."""

    def __init__(self) -> None:
        self._rest: Channels | None = None
        self._powers: list[Powers] = []

    def add(self, rows: Channels, rate: int) -> None:
        if self._rest is not None:
            rows = np.concatenate([self._rest, rows], axis=1)
        window = max(1, int(WINDOW_SECONDS * rate))
        powers = window_powers(rows, window)
        if powers.shape[1]:
            self._powers.append(powers)
        self._rest = rows[:, powers.shape[1] * window :].copy()

    def powers(self) -> Powers:
        """Shape (rows, windows). The last window may be shorter than the others."""
        if self._rest is not None and self._rest.shape[1]:
            self._powers.append(window_powers(self._rest, self._rest.shape[1]))
            self._rest = None
        return np.concatenate(self._powers, axis=1) if self._powers else np.empty((1, 0), "f4")


def window_powers(rows: Channels, window: int) -> Powers:
    """The variance of each row of `rows` in each whole window of `window` samples.

    A constant, which a cheap microphone adds, has none.
    """
    count = rows.shape[1] // window
    return cast(Powers, rows[:, : count * window].reshape(len(rows), count, window).var(axis=2))


def better_channel(powers: Powers) -> int | None:
    """The channel to take instead of the mean; None when the mean is as good.

    `powers` has a row for each channel, and last a row for their mean.
    """
    channels, mean = powers[:-1], powers[-1]
    if len(channels) < 2 or not channels.any():
        return None
    highest = channels.max(axis=1)
    speaking = highest > highest.max() * _SILENT
    if channels.shape[1] >= _STEADY_WINDOWS:
        varied = highest > np.percentile(channels, 10, axis=1) * _STEADY
        if (speaking & varied).any():
            speaking &= varied
    total = np.where(speaking, channels.sum(axis=1), 0.0)
    cancelled = mean.sum() < channels.sum() / len(channels) ** 2 * _CANCELLED
    return int(total.argmax()) if cancelled or speaking.sum() == 1 else None


def audible_seconds(samples: Samples, rate: int, level: float) -> float:
    """How many seconds of `samples` are louder than the root mean square `level`."""
    window = rate // 50
    constant = np.clip(samples.mean(), -_MOST_CONSTANT, _MOST_CONSTANT)
    frames = samples[: len(samples) // window * window].reshape(-1, window) - constant
    loud = np.square(frames).mean(axis=1) > level**2
    return float(np.count_nonzero(loud) * window / rate)
