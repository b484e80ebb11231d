"""Which runs get the next latent and the next sound, in threads of one core each. In workers.

A thread computes one thing at a time, alone: a step of the flow LM for all runs, or the sound of a
few. So threads wait for each other nowhere inside a computation, and a busy neighbour on one core
does not hold up the others; and what is computed does not depend on the number of threads.

    join(run) --> [ step: a latent of each run ] --latents--> [ decode: their sound ] --> take(run)

The one whose listener has the least sound left is first: a newcomer before all others.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from model_procs.engines.pocket.flow_lm import FlowLM, Run
from model_procs.engines.pocket.mimi import Mimi, Sound
from model_procs.engines.pocket.pace import Pace

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = 4
"""The most frames of a run that are decoded at once, and latents that wait for it."""

DECODED_TOGETHER = 8
"""The most frames of all runs that one thread decodes at once: more gain nothing."""

_AHEAD_SECONDS = 1.0
"""A run with more sound than this before its listener yields to those with less."""

_SOON_SECONDS = 0.2
"""With less sound left than this, a listener gets what there is before more is made."""

_LEISURE_SECONDS = 0.4
"""With more sound left than this, who has few latents waits for more of them.

A block of four frames takes half the time of four single ones, which slow the steps down, too."""

_WAIT_SECONDS = 1.0


@dataclass(eq=False)
class Listener:
    """Who hears the runs of one request one after the other."""

    seconds: float = 0.0
    """How much sound has been made."""
    began: float = 0.0
    """When the first of it was there, on the clock of `time.monotonic`."""

    def ahead(self, now: float) -> float:
        """Seconds of sound left for somebody who plays from the first sound on."""
        return self.seconds - (now - self.began) if self.seconds else 0.0


class Speech:
    """One run in the batch, and its sound."""

    def __init__(self, run: Run, sound: Sound, listener: Listener) -> None:
        self.run = run
        self.sound = sound
        self.listener = listener
        self.pieces: deque[Tensor] = deque()
        """Sound [samples] that nobody has taken."""
        self.busy = 0
        """How many threads compute something of it."""
        self.error: Exception | None = None
        """What computing raised; nothing more of it is computed then."""

    @property
    def done(self) -> bool:
        """Whether all its sound has been decoded."""
        return self.run.over and not self.run.latents and self.busy == 0


class Batch:
    """The runs of one worker, and the threads that compute them."""

    def __init__(self, lm: FlowLM, mimi: Mimi, frame_seconds: float, pace: Pace) -> None:
        """`pace` is told how much sound there is."""
        self._lm = lm
        self._mimi = mimi
        self._frame_seconds = frame_seconds
        self._pace = pace
        self._runs: list[Speech] = []
        self._stepping = False
        self._decoding: set[Speech] = set()
        self._changed = threading.Condition()
        self._news = threading.Event()
        self._started = False

    def start(self, threads: int) -> None:
        """Start to compute in threads; without them, `wait` computes."""
        self._started = True
        for number in range(threads):
            name = f"batch-{number}"
            threading.Thread(target=self._work, name=name, daemon=True).start()

    def join(self, run: Run, listener: Listener) -> Speech:
        """Begin to speak `run`."""
        self._lm.open(run)
        with self._changed:
            speech = Speech(run, self._mimi.open(), listener)
            self._runs.append(speech)
            self._pace.changes(time.monotonic(), len(self._runs))
            self._changed.notify_all()
        return speech

    def take(self, speech: Speech) -> tuple[list[Tensor], bool]:
        """The sound since the last call, and whether that was all. Raises what computing raised."""
        with self._changed:
            if speech.error is not None:
                raise speech.error
            pieces = list(speech.pieces)
            speech.pieces.clear()
            return pieces, speech.done

    def leave(self, speech: Speech) -> None:
        """Forget a run, done or not, as soon as no thread computes something of it."""
        with self._changed:
            self._runs.remove(speech)
            self._pace.changes(time.monotonic(), len(self._runs))
            while speech.busy:
                self._changed.wait()
            self._mimi.close(speech.sound)

    def wait(self) -> None:
        """Wait until there is new sound, or `wake` is called."""
        if not self._started:
            self._compute_once()
            return
        self._news.wait(_WAIT_SECONDS)
        self._news.clear()

    def wake(self) -> None:
        """End a `wait`, from any thread."""
        self._news.set()

    def _compute_once(self) -> None:
        import torch

        with self._changed:
            task = self._next()
        if task is not None:
            with torch.inference_mode():
                task()

    # In the threads

    def _work(self) -> None:
        import torch

        torch.set_num_threads(1)
        with torch.inference_mode():
            while True:
                with self._changed:
                    while (task := self._next()) is None:
                        self._changed.wait()
                task()

    def _next(self) -> Callable[[], None] | None:
        """What to compute next; None when there is nothing. The caller holds the lock.

        First sounds come first. Then a step if it serves many of the runs, because a step takes
        nearly the same time for one run as for all; or if it serves one that needs it more than
        the others need their sound. While the first sound of all is made there is none, because it
        would slow that down.
        """
        now = time.monotonic()
        runs = [one for one in self._runs if one.error is None]
        runs.sort(key=lambda one: one.listener.ahead(now))
        waiting = [one for one in runs if one.run.latents and one not in self._decoding]
        firsts = [one for one in waiting if not one.listener.seconds]
        if firsts:
            return self._decode(firsts, 1)
        first = waiting[0].listener.ahead(now) if waiting else math.inf
        if first < _SOON_SECONDS:
            return self._decode(*_block(waiting, now))
        speaking = [one for one in runs if not one.run.over]
        hungry = [one for one in speaking if len(one.run.latents) < BLOCK]
        begin = all(one in self._decoding and not one.listener.seconds for one in speaking)
        if hungry and not self._stepping and not begin:
            least = hungry[0].listener.ahead(now)
            enough = _AHEAD_SECONDS if first >= _AHEAD_SECONDS else _SOON_SECONDS
            if least < enough or 2 * len(hungry) > len(speaking) or not waiting:
                return self._step(hungry)
        if not waiting:
            return None
        block, frames = _block(waiting, now)
        if self._stepping and first >= _LEISURE_SECONDS and _grows(block, frames):
            return None  # the step brings more, which then are decoded together
        return self._decode(block, frames)

    def _step(self, runs: list[Speech]) -> Callable[[], None]:
        self._stepping = True
        self._hold(runs)

        def step() -> None:
            error = _error_of(lambda: self._lm.step([one.run for one in runs]))
            with self._changed:
                self._stepping = False
                self._let_go(runs, error)
                if error is not None or any(one.run.over for one in runs):
                    self._news.set()

        return step

    def _decode(self, runs: list[Speech], frames: int) -> Callable[[], None]:
        latents = [[one.run.latents.popleft() for _ in range(frames)] for one in runs]
        self._decoding.update(runs)
        self._hold(runs)

        def decode() -> None:
            samples: Any = None

            def compute() -> None:
                import torch

                nonlocal samples
                stacked = torch.stack([torch.stack(of_one) for of_one in latents])
                samples = self._mimi.decode([one.sound for one in runs], stacked)

            error = _error_of(compute)
            now = time.monotonic()
            with self._changed:
                self._decoding.difference_update(runs)
                if error is None:
                    for one, piece in zip(runs, samples, strict=True):
                        one.listener.began = one.listener.began or now
                        one.listener.seconds += frames * self._frame_seconds
                        one.pieces.append(piece)
                    self._made(runs, frames, now)
                self._let_go(runs, error)
                self._news.set()

        return decode

    def _made(self, runs: list[Speech], frames: int, now: float) -> None:
        """There is sound of so many frames for each of `runs`; the caller holds the lock."""
        speaking = [one.run for one in self._runs if not one.run.over]
        # Guided runs make steps longer, so these say nothing about others.
        usual = all(run.speaks and not run.guided for run in speaking)
        streams = len(speaking) if usual else 0
        seconds = frames * self._frame_seconds * sum(not one.run.over for one in runs)
        self._pace.made(now, streams, seconds)

    def _hold(self, runs: list[Speech]) -> None:
        for one in runs:
            one.busy += 1

    def _let_go(self, runs: list[Speech], error: Exception | None) -> None:
        """A computation for `runs` has ended; the caller holds the lock."""
        for one in runs:
            one.busy -= 1
            if error is not None:
                one.error = error
        self._changed.notify_all()


def _block(waiting: list[Speech], now: float) -> tuple[list[Speech], int]:
    """The first of `waiting`, others that have as many latents, and how many frames of each.

    Who is far ahead is left out while another is not.
    """
    first = waiting[0]
    frames = min(BLOCK, len(first.run.latents))
    furthest = math.inf if first.listener.ahead(now) >= _AHEAD_SECONDS else _AHEAD_SECONDS
    together = [
        one
        for one in waiting
        if len(one.run.latents) >= frames and one.listener.ahead(now) < furthest
    ]
    return together[: DECODED_TOGETHER // frames], frames


def _grows(block: list[Speech], frames: int) -> bool:
    """Whether a block is small, and more will come of each of its runs."""
    return frames * len(block) < BLOCK and not any(one.run.over for one in block)


def _error_of(compute: Callable[[], None]) -> Exception | None:
    try:
        compute()
    except Exception as error:  # of a request, or of all in the batch: the worker reports it
        return error
    return None
