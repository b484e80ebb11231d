"""Where a recording has speech, as silero-vad hears it, and where to cut it. Runs in workers.

A template loads the network for its workers. Of the package silero-vad only the weights are used:
its code imports torch, which takes hundreds of megabytes in processes that do not have it.
"""

from __future__ import annotations

import threading
from collections.abc import Generator
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import soxr

from model_procs.audio.pcm import Samples
from model_procs.audio.turns import result_of
from model_procs.engine import Cancelled
from model_procs.weights.packages import package_folder

Probabilities = npt.NDArray[np.float32]
"""The probability of speech in each window of `WINDOW` samples, the last of which may be short."""

RATE = 16_000
"""Sample rate in Hz of all samples here."""

WINDOW = 512

MARGIN_SECONDS = 0.3
"""Sound kept around speech, because the network misses soft consonants at its ends."""

TRIM_SECONDS = 0.2
"""Sound kept before and after the speech of a voice."""

PAUSE_SECONDS = 3.0
"""A longer pause belongs to no clip: recognizers invent words in it."""

_WEIGHTS = "data/silero_vad_16k_sequence.onnx"
"""The network for many windows in one call: the same numbers in half the time."""
_CONTEXT = 64
"""How many samples before a window the network gets with it."""
_BLOCK = 256
"""Windows in one call, which takes 10 ms. With more it is not faster, and takes more memory."""
_STATE = (1, 1, 128)

_SPEECH = 0.5
_PAUSE = 0.35
"""Speech begins at a probability of `_SPEECH`, and ends where it is below `_PAUSE`."""
_SHORTEST = 3
"""Windows: the network hears a short "yes" in more of them, and a click in fewer."""
_SURE = RATE // WINDOW
"""Windows: with less than a second of speech, a recording may be of something else, like a song."""
_CUT = 9
"""Windows, 0.3 s: where a clip without a pause is cut, all of them should have little speech."""


def load() -> None:
    """Load the network, once in a process. It starts no thread, so that templates can fork.

    Raises `ServiceError` (model_unavailable) when the package is not installed.
    """
    _network()


def speech_probabilities(samples: Samples, stop: threading.Event | None = None) -> Probabilities:
    """The probability of speech in each window of `samples`.

    A minute takes about 60 ms. Raises `Cancelled` soon after `stop` is set.
    """
    return result_of(probing(samples, stop))


def probing(
    samples: Samples, stop: threading.Event | None = None
) -> Generator[None, None, Probabilities]:
    """Return what `speech_probabilities` does; yields after each 8 s of sound (10 ms)."""
    network = _network()
    windows = -(-len(samples) // WINDOW)
    hidden = cell = np.zeros(_STATE, np.float32)
    found = np.empty(windows, np.float32)
    for first in range(0, windows, _BLOCK):
        if stop is not None and stop.is_set():
            raise Cancelled
        last = min(first + _BLOCK, windows)
        block = np.zeros(_CONTEXT + (last - first) * WINDOW, np.float32)
        start = first * WINDOW - _CONTEXT
        sound = samples[max(start, 0) : last * WINDOW]
        block[max(-start, 0) :][: len(sound)] = sound
        frames = np.lib.stride_tricks.sliding_window_view(block, _CONTEXT + WINDOW)[::WINDOW]
        found[first:last], hidden, cell = network.run(
            ("speech_probs", "hn", "cn"),
            {"input": np.ascontiguousarray(frames), "h": hidden, "c": cell},
        )
        yield
    return found


class Stream:
    """The probabilities of speech in a stream, a piece at a time; `save` is for the next process.

    Without `saved` it is at its start.
    """

    def __init__(self, saved: list[bytes] | None = None) -> None:
        if saved is None:
            saved = [bytes(4 * _STATE[-1])] * 2 + [bytes(2 * _CONTEXT)]
        hidden, cell, self._before = saved
        self._hidden = np.frombuffer(hidden, np.float32).reshape(_STATE)
        self._cell = np.frombuffer(cell, np.float32).reshape(_STATE)

    def save(self) -> list[bytes]:
        """The state after what was fed: two of the network, and the sound that it still needs."""
        return [self._hidden.tobytes(), self._cell.tobytes(), self._before]

    def feed(self, pcm: npt.NDArray[np.int16], *, last: bool = False) -> Probabilities:
        """The probabilities of the windows that end in `pcm`, with `last` also the rest."""
        sound = np.concatenate([np.frombuffer(self._before, np.int16), pcm])
        windows, rest = divmod(len(sound) - _CONTEXT, WINDOW)
        if last and rest:
            windows += 1
            sound = np.concatenate([sound, np.zeros(WINDOW - rest, np.int16)])
        found = np.empty(windows, np.float32)
        samples = sound.astype(np.float32) / 32768
        for first in range(0, windows, _BLOCK):
            end = min(first + _BLOCK, windows)
            block = samples[first * WINDOW : end * WINDOW + _CONTEXT]
            frames = np.lib.stride_tricks.sliding_window_view(block, _CONTEXT + WINDOW)[::WINDOW]
            found[first:end], self._hidden, self._cell = _network().run(
                ("speech_probs", "hn", "cn"),
                {"input": np.ascontiguousarray(frames), "h": self._hidden, "c": self._cell},
            )
        self._before = sound[windows * WINDOW :].tobytes()
        return found


def speech_ranges(probabilities: Probabilities, length: int) -> list[tuple[int, int]]:
    """Ranges (start, end) of a recording of `length` samples that have speech, in order.

    Each has `MARGIN_SECONDS` of sound around the speech; pauses of twice that are in no range.
    """
    margin = int(MARGIN_SECONDS * RATE)
    ranges = [
        (max(first * WINDOW - margin, 0), min(last * WINDOW + margin, length))
        for first, last in _spoken(probabilities)
    ]
    return _joined(ranges, 0)


def trimmed(samples: Samples, rate: int) -> Samples:
    """`samples` from their first to their last speech, with `TRIM_SECONDS` of sound around it.

    With less than a second of speech they stay as they are: the network may not know this voice.
    """
    at_own_rate = soxr.resample(samples, rate, RATE) if rate != RATE else samples
    spoken = _spoken(speech_probabilities(at_own_rate))
    if sum(last - first for first, last in spoken) < _SURE:
        return samples
    start = spoken[0][0] * WINDOW / RATE - TRIM_SECONDS
    end = spoken[-1][1] * WINDOW / RATE + TRIM_SECONDS
    return samples[max(int(start * rate), 0) : int(end * rate)]


def clips(
    probabilities: Probabilities,
    length: int,
    max_seconds: float,
    *,
    pause_seconds: float = PAUSE_SECONDS,
) -> list[tuple[int, int]]:
    """Ranges of a recording that contain its `speech_ranges`, in order, without overlap.

    None is longer than `max_seconds`. They leave out pauses longer than `pause_seconds`. What is
    longer without such a pause is cut in the second half of the longest possible clip: in the
    middle of the longest pause there, or without one where speech is least likely. What remains is
    at least a quarter of the longest clip, because recognizers guess at shorter ones.
    """
    limit = int(max_seconds * RATE)
    found: list[tuple[int, int]] = []
    for first, end in _joined(speech_ranges(probabilities, length), int(pause_seconds * RATE)):
        start = first
        while end - start > limit:
            latest = min(start + limit, end - limit // 4)
            cut = _cut(probabilities, start + limit // 2, latest)
            found.append((start, cut))
            start = cut
        found.append((start, end))
    return found


@cache
def _network() -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False  # it would keep the memory of the longest block
    return onnxruntime.InferenceSession(
        str(package_folder("silero_vad") / _WEIGHTS), options, providers=["CPUExecutionProvider"]
    )


def _spoken(probabilities: Probabilities) -> list[tuple[int, int]]:
    """From which window to which there is speech, without margins."""
    ranges = []
    quiet = np.append(np.flatnonzero(probabilities < _PAUSE), len(probabilities))
    last = 0
    for first in np.flatnonzero(probabilities >= _SPEECH):
        if first < last:
            continue
        last = quiet[np.searchsorted(quiet, first)]
        if last - first >= _SHORTEST:
            ranges.append((int(first), int(last)))
    return ranges


def _joined(ranges: list[tuple[int, int]], pause: int) -> list[tuple[int, int]]:
    """`ranges`, those of them joined that are at most `pause` samples apart."""
    joined: list[tuple[int, int]] = []
    for start, end in ranges:
        if joined and start - joined[-1][1] <= pause:
            joined[-1] = joined[-1][0], end
        else:
            joined.append((start, end))
    return joined


def _cut(probabilities: Probabilities, earliest: int, latest: int) -> int:
    """Where to cut between two samples; of equally good places the last."""
    first, last = -(-earliest // WINDOW), latest // WINDOW
    within = probabilities[first:last]
    edges = np.flatnonzero(np.diff(np.concatenate([[0], within < _PAUSE, [0]])))
    starts, lengths = edges[::2][::-1], np.diff(edges)[::2][::-1]
    if len(lengths) and lengths.max() > 1:
        longest = int(lengths.argmax())
        return int((2 * (first + starts[longest]) + lengths[longest]) * WINDOW // 2)
    likely = np.convolve(within, np.ones(min(_CUT, len(within))), mode="valid")
    quietest = len(likely) - 1 - int(likely[::-1].argmin())
    return int((2 * (first + quietest) + min(_CUT, len(within))) * WINDOW // 2)
