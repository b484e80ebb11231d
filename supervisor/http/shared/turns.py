"""Where the utterances of a live stream begin and end, from probabilities of speech. Pure.

Used in the front. The words are those of OpenAI's `server_vad`: speech begins above a threshold, an
utterance has some sound before it, and ends when there was silence for long enough.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from ipc.operations import LIVE_RATE, LIVE_WINDOW

_HYSTERESIS = 0.15
"""Speech goes on down to so much below the threshold at which it begins."""
_SHORTEST = 3
"""Windows: a click is heard as speech in fewer, a short "yes" in more of them."""
_SEARCH_SECONDS = 5.0
"""An utterance that is too long is cut in the quietest place of its last seconds."""
_SMOOTHED = 9
"""Windows, 0.3 s, that all should have little speech where it is cut."""


@dataclass(frozen=True, slots=True)
class TurnSettings:
    """When an utterance begins and ends; `longest` is in seconds.

    After `pause_ms` of silence its end is likely; after `silence_ms` it is there.
    """

    threshold: float = 0.5
    prefix_ms: int = 300
    silence_ms: int = 500
    pause_ms: int = 200
    longest: float = 30.0


@dataclass(frozen=True, slots=True)
class Started:
    """An utterance begins with the sample `at`, before the speech that was just heard."""

    at: int


@dataclass(frozen=True, slots=True)
class Paused:
    """It is silent; perhaps the utterance is over."""


@dataclass(frozen=True, slots=True)
class Resumed:
    """It was not over."""


@dataclass(frozen=True, slots=True)
class Stopped:
    """The utterance is over; its speech ended before the sample `at`."""

    at: int


@dataclass(frozen=True, slots=True)
class Cut:
    """The utterance has become too long: it ends at the sample `at`, where another one begins."""

    at: int


Turn = Started | Paused | Resumed | Stopped | Cut


class Turns:
    """Finds utterances; fed with the probability of each window. Positions are samples."""

    def __init__(self, settings: TurnSettings) -> None:
        self.settings = settings
        self.speaking = False
        self._window = 0
        """How many windows there were."""
        self._run = 0
        """Windows with speech in a row, while nobody is speaking."""
        self._start = 0
        """The window in which the utterance begins."""
        self._floor = 0
        """The window before which no utterance may begin: the last one ended there."""
        self._quiet: int | None = None
        """The window in which the silence began."""
        self._paused = False
        self._recent: deque[float] = deque(maxlen=_windows(_SEARCH_SECONDS * 1000))

    @property
    def needed(self) -> int:
        """How many samples before now an utterance that begins next may need."""
        return (_windows(self.settings.prefix_ms) + _SHORTEST + 1) * LIVE_WINDOW

    def feed(self, probability: float) -> list[Turn]:
        """What the next window means."""
        self._window += 1
        self._recent.append(probability)
        if not self.speaking:
            return self._silent(probability)
        found: list[Turn] = []
        if probability >= self.settings.threshold:
            if self._paused:
                found.append(Resumed())
            self._quiet, self._paused = None, False
        elif self._quiet is None and probability < self._lower:
            self._quiet = self._window - 1
        if self._quiet is not None:
            silent = self._window - self._quiet
            if silent >= _windows(self.settings.silence_ms):
                return [*found, self._stopped(self._quiet)]
            if silent >= _windows(self.settings.pause_ms) and not self._paused:
                self._paused = True
                found.append(Paused())
        if self._window - self._start >= _windows(self.settings.longest * 1000):
            found.append(self._cut())
        return found

    def stop(self) -> Stopped | None:
        """The client ends the utterance now; None if nobody is speaking."""
        if not self.speaking:
            self._run = 0
            return None
        return self._stopped(self._window if self._quiet is None else self._quiet)

    def reset(self) -> None:
        """Forget the utterance; what comes next is another one."""
        self.speaking, self._run, self._quiet, self._paused = False, 0, None, False
        self._floor = self._window

    @property
    def quiet(self) -> bool:
        """Whether somebody speaks, but did not in the last window: perhaps that was all."""
        return self.speaking and self._quiet is not None

    @property
    def _lower(self) -> float:
        return max(self.settings.threshold - _HYSTERESIS, 0.01)

    def _silent(self, probability: float) -> list[Turn]:
        if probability >= (self._lower if self._run else self.settings.threshold):
            self._run += 1
        else:
            self._run = 0
        if self._run < _SHORTEST:
            return []
        first = self._window - self._run - _windows(self.settings.prefix_ms)
        self._start = max(first, self._floor)
        self.speaking, self._run, self._quiet, self._paused = True, 0, None, False
        return [Started(self._start * LIVE_WINDOW)]

    def _stopped(self, end: int) -> Stopped:
        self.reset()
        return Stopped(end * LIVE_WINDOW)

    def _cut(self) -> Cut:
        recent = list(self._recent)[-max(_SMOOTHED, (self._window - self._start) // 2) :]
        sums = [sum(recent[at : at + _SMOOTHED]) for at in range(len(recent) - _SMOOTHED + 1)]
        quietest = min(reversed(range(len(sums))), key=sums.__getitem__) if sums else 0
        cut = self._window - len(recent) + quietest + _SMOOTHED // 2
        self._start = self._floor = max(cut, self._start + 1)
        return Cut(self._start * LIVE_WINDOW)


def _windows(milliseconds: float) -> int:
    """As many windows as are nearest to a time, but at least one."""
    return max(1, round(milliseconds * LIVE_RATE / 1000 / LIVE_WINDOW))
