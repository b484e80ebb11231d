"""The production speech engine in a worker that never collects garbage by itself.

Runs in the workers of `tests.bench.memory_growth`.
"""

from __future__ import annotations

import gc

from model_procs.engines.pocket.engine import PocketEngine


class WithoutCollection(PocketEngine):
    """What the worker's `gc.collect()` after each request saves: here it does nothing.

    Python's own, occasional collection goes on, as it would in a service that takes no care.
    """

    def warm_up(self) -> None:
        """In the worker: the template still collects before it is forked."""
        super().warm_up()
        gc.collect = lambda generation=2: 0
