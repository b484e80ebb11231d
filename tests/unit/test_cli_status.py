"""`voice-engine status` and ops/status.py judge alike, and name the same things."""

from __future__ import annotations

import copy
import itertools
import re
from typing import Any

import pytest
from rich.console import Console

from ops import status as script
from supervisor.cli import status

_HEALTH: dict[str, Any] = {
    "status": "ok",
    "version": "1.2.3",
    "uptime_s": 3720.5,
    "asr_loaded": True,
    "tts_loaded": True,
    "memory": {"usage_mb": 2210.4, "limit_mb": 4096.0},
    "models": {
        "tts": {
            "state": "SERVING",
            "engine": "flite",
            "profile": "minimal",
            "message": None,
            "in_flight": 1,
            "queued": 2,
            "backlog_s": 0.84,
            "recycles": {"age": 2, "soft memory limit": 1},
        },
        "stt": {
            "state": "BACKOFF",
            "engine": "sphinx",
            "message": "no \x1b[31mmodel",
            "hint": "pull",
        },
    },
    "children": [
        {
            "name": "tts-1",
            "state": "BUSY",
            "pid": 20202,
            "rss_mb": 512.4,
            "soft_limit_mb": 510.0,
            "hard_limit_mb": 910.0,
            "uptime_s": 59.9,
            "requests": 17,
            "last_exit": "recycled: [soft] limit",
        },
        {"name": "stt-template", "state": "DEAD", "pid": 7},
    ],
}


def _variants() -> list[tuple[int, dict[str, Any]]]:
    """Responses of all kinds, good and bad."""
    found = []
    states = ("SERVING", "STARTING", "UNLOADED", "BACKOFF", "FAILED")
    for http, word, model, child, loaded in itertools.product(
        (200, 503, 500), ("ok", "starting", "degraded"), states, ("IDLE", "DEAD"), (True, False)
    ):
        health = copy.deepcopy(_HEALTH) | {"status": word, "asr_loaded": loaded}
        health["tts_loaded"] = False
        health["models"]["tts"]["state"] = health["models"]["stt"]["state"] = model
        for each in health["children"]:
            each["state"] = child
        found.append((http, health))
    return found


def test_both_judge_every_response_alike() -> None:
    codes = set()
    for http, health in _variants():
        code = status.judge(http, health)
        assert code == script.judge(http, health), (http, health)
        codes.add(code)
    assert codes == {script.OK, script.DEGRADED, script.DOWN} == {0, 1, 2}


def _text(health: dict[str, Any], columns: int = 120) -> str:
    console = Console(width=columns, color_system=None)
    with console.capture() as captured:
        console.print(status.render(health))
    return captured.get()


def test_both_show_the_same_facts() -> None:
    ours, theirs = _text(_HEALTH), script.render(_HEALTH, colour=False)
    for fact in ("voice-engine 1.2.3", "up 1h2m", "20202", "512", "510", "910", "59s", "17"):
        assert fact in ours
        assert fact in theirs
    assert "recycled: [soft] limit" in ours
    assert re.search(r"stt: no  \[31mmodel\n", ours)
    assert "stt: pull" in ours
    assert re.search(r"tts +SERVING +flite +minimal +1 +2 +0\.8s +3\n", ours)


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_it_fits_into_the_window(columns: int) -> None:
    assert max(len(line) for line in _text(_HEALTH, columns).splitlines()) <= columns
