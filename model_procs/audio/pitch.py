"""The median pitch of a voice. Runs in workers.

YIN (de Cheveigné and Kawahara, "YIN, a fundamental frequency estimator for speech and music",
JASA 2002), without its last two steps: a median over seconds of speech does not need them.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from model_procs.audio.pcm import Samples

LOWEST_HZ, HIGHEST_HZ = 60.0, 400.0
"""The pitch range of speaking voices, from a creaky male voice to a child's."""

_WINDOW_SECONDS = 0.04
_HOP_SECONDS = 0.02
_APERIODICITY = 0.15
"""A frame is voiced when the difference function is below this part of its mean."""
_QUIET = 0.1
"""Frames below this part of the loudest frame's level count as pauses."""
_VOICED_FRAMES = 8
"""With fewer voiced frames than this (0.16 s) there is no result."""
_BLOCK_FRAMES = 256


def median_pitch(samples: Samples, rate: int) -> float | None:
    """Median fundamental frequency in Hz of the voiced parts of `samples`; None without any."""
    window = int(_WINDOW_SECONDS * rate)
    longest = int(rate / LOWEST_HZ)
    if len(samples) < window + longest:
        return None
    frames = np.lib.stride_tricks.sliding_window_view(samples, window + longest)
    frames = frames[:: int(_HOP_SECONDS * rate)]
    level = np.sqrt(np.square(frames[:, :window]).mean(axis=1))
    frames = frames[level > max(_QUIET * float(level.max()), 1e-4)]
    blocks = [
        _periods(frames[start : start + _BLOCK_FRAMES].astype(np.float64), window, rate)
        for start in range(0, len(frames), _BLOCK_FRAMES)
    ]
    periods = np.concatenate(blocks) if blocks else np.empty(0)
    voiced = periods[periods > 0]
    return float(rate / np.median(voiced)) if len(voiced) >= _VOICED_FRAMES else None


def _periods(frames: npt.NDArray[np.float64], window: int, rate: int) -> npt.NDArray[np.float64]:
    """The period of each frame in samples, 0 for unvoiced ones; `frames` is (n, window + lags)."""
    lags = frames.shape[1] - window
    shortest = int(rate / HIGHEST_HZ)
    size = 1 << (2 * window + lags).bit_length()
    spectrum = np.fft.rfft(frames, size)
    head = np.fft.rfft(frames[:, :window], size)
    correlation = np.fft.irfft(spectrum * head.conj(), size)[:, : lags + 1]
    energy = np.cumsum(np.pad(np.square(frames), ((0, 0), (1, 0))), axis=1)
    energy = energy[:, window : window + lags + 1] - energy[:, : lags + 1]
    difference = np.maximum(energy[:, :1] + energy - 2 * correlation, 0.0)
    mean = np.cumsum(difference[:, 1:], axis=1) / np.arange(1, lags + 1)
    normalized = difference[:, 1:] / np.maximum(mean, 1e-12)  # column k belongs to lag k + 1
    periods = np.zeros(len(frames))
    for index, frame in enumerate(normalized[:, shortest - 1 :]):
        dips = np.flatnonzero(frame < _APERIODICITY)
        if len(dips):
            lag = int(dips[0])
            while lag + 1 < len(frame) and frame[lag + 1] < frame[lag]:
                lag += 1
            periods[index] = lag + shortest
    return periods
