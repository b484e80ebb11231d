"""What `model_procs.heap` gives back to the kernel, in this process."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from model_procs.bootstrap import resident_bytes
from model_procs.heap import Trimmer, give_back

MB = 1024 * 1024


def holes() -> list[bytes]:
    """Grow by about 64 MB, free nearly all of it, and keep what glibc cannot cut off the end."""
    blocks = [bytes([number % 256]) * 8192 for number in range(8192)]
    return blocks[::64]


@pytest.mark.parametrize("look", [Trimmer.busy, Trimmer.idle])
def test_free_pages_go_back_when_the_process_has_grown(look: Callable[[Trimmer], None]) -> None:
    give_back()  # what earlier tests have left free would be used again
    trimmer = Trimmer(resident_bytes, 16 * MB)
    before = resident_bytes()
    kept = holes()
    grown = resident_bytes() - before
    assert grown > 32 * MB
    look(trimmer)
    assert resident_bytes() - before < grown / 2
    assert len(kept) == 128


def test_it_looks_at_growth_since_the_last_time_while_busy_and_since_the_start_when_idle(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[int] = []
    resident = 100
    trimmer = Trimmer(lambda: resident, 10)
    monkeypatch.setattr("model_procs.heap.give_back", lambda: given.append(resident))
    for resident in (110, 111, 115, 121, 122):  # noqa: B007 - the trimmer reads it
        trimmer.busy()
    assert given == [111, 122]
    for resident in (110, 111):  # noqa: B007
        trimmer.idle()
    assert given == [111, 122, 111]
    trimmer.busy()
    assert given == [111, 122, 111]
    resident = 122
    trimmer.busy()
    assert given == [111, 122, 111, 122]
