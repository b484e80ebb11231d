"""Notice weights that have become complete in the models folder. Pure but for `look`. In the front.

A pull puts a model there in one step. Who copies files by hand does not, so files count when two
looks in a row have found the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ipc.engines import ENGINES
from ipc.variants import find_variants

State = tuple[tuple[str, int, int, int], ...]
"""Of each file of an engine's weights: path, inode, size, time of the last change."""
Seen = Mapping[str, State]
"""By the names of the engines whose files are all there."""


def look(models_dir: Path) -> Seen:
    """The engines whose weights lie complete in `models_dir`, each with the state of its files."""
    found: dict[str, State] = {}
    variants = {spec.name: spec for spec in find_variants(models_dir)}
    for name, spec in {**ENGINES, **variants}.items():
        states = [_states(models_dir, pattern) for pattern in spec.files]
        if states and all(states):
            found[name] = tuple(state for each in states for state in each)
    return found


def _states(models_dir: Path, pattern: str) -> State:
    states = []
    for path in sorted(models_dir.glob(pattern)):
        try:
            about = path.stat()
        except OSError:  # it has just gone
            continue
        states.append((str(path), about.st_ino, about.st_size, about.st_mtime_ns))
    return tuple(states)


class Watch:
    """Compares looks. What the first one finds is not new."""

    def __init__(self, seen: Seen) -> None:
        self._known = dict(seen)
        self._last = seen

    def changed(self, seen: Seen) -> list[str]:
        """The engines with complete weights that are new, or others, and no longer change."""
        settled = [
            name
            for name, state in seen.items()
            if state != self._known.get(name) and state == self._last.get(name)
        ]
        self._last = seen
        self._known |= {name: seen[name] for name in settled}
        return settled

    def accept(self, seen: Seen) -> None:
        """What is there now is known: somebody else has loaded it."""
        self._known = dict(seen)
        self._last = seen
