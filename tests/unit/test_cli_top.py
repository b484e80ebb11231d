"""What `top` shows and what its keys do: the view, without a terminal."""

from __future__ import annotations

from typing import Any

import pytest
from rich.console import Console

from supervisor.cli.top import Act, View, keys_of


def _child(name: str, role: str = "worker", **changes: Any) -> dict[str, Any]:
    child = {
        "name": name,
        "role": role,
        "model": None if role == "front" else name.partition("-")[0],
        "pid": 4700 + len(name),
        "started": 1000.0,
        "ended": None,
        "state": "IDLE",
        "soft_limit_mb": 1100.0,
        "hard_limit_mb": 1500.0,
        "requests": 812,
        "samples": [[1001.0, 700.0], [1002.0, 750.0]],
    }
    return child | changes


def _health(**stt: Any) -> dict[str, Any]:
    model = {"state": "SERVING", "workers": 1, "in_flight": 0, "queued": 0, "backlog_s": 0.0}
    return {
        "status": "ok",
        "version": "1.2.3",
        "uptime_s": 3720.5,
        "memory": {"usage_mb": 2210.4, "limit_mb": 4096.0},
        "models": {"tts": {**model, "real_time_factor": 0.21}, "stt": {**model, **stt}},
        "children": [],
    }


def _children(*children: dict[str, Any], now: float = 1010.0) -> dict[str, Any]:
    return {"now": now, "children": list(children), "models": {}}


@pytest.fixture
def view() -> View:
    """Of a service with two models."""
    view = View(url="http://127.0.0.1:8000")
    processes = [_child("front", "front"), _child("tts-1"), _child("tts-2"), _child("stt-1")]
    view.read(_health(), _children(*processes))
    return view


def screen(view: View, columns: int = 80, lines: int = 24) -> list[str]:
    """What a terminal of that size would show."""
    console = Console(width=columns, height=lines, color_system=None, force_terminal=True)
    with console.capture() as captured:
        console.print(view.render(lines), height=lines)
    return [line.rstrip() for line in captured.get().splitlines()]


def _words(line: str) -> str:
    return " ".join(line.split())


def test_keys() -> None:
    assert keys_of(b"\x1b[A\x1bOBrxk\x03") == (["up", "down", "r", "k", "q"], b"")
    # A key may come in two pieces.
    assert keys_of(b"r\x1b[") == (["r"], b"\x1b[")
    assert keys_of(b"\x1b[" + b"B") == (["down"], b"")
    assert keys_of(b"\x1b" + b"r\x1b[5~") == (["r"], b"")


def test_the_first_worker_is_selected_and_the_arrows_stop_at_the_ends(view: View) -> None:
    assert view.selected == "tts-1"
    for key, selected in (
        *(("up", "front"), ("up", "front"), ("down", "tts-1"), ("down", "tts-2")),
        *(("down", "stt-1"), ("down", "stt-1")),
    ):
        assert view.press(key) is None
        assert view.selected == selected


def test_r_recycles_at_once(view: View) -> None:
    act = view.press("r")
    assert act == Act("recycle", "tts-1")
    assert act.path == "/v1/children/tts-1/recycle"


def test_k_kills_only_after_a_yes(view: View) -> None:
    for key, act in (("n", None), ("q", None), ("y", Act("kill", "tts-1"))):
        assert view.press("k") is None
        assert screen(view)[-1] == "kill tts-1? y/n"
        assert view.press(key) == act
        assert screen(view)[-1].startswith("↑↓ select")


def test_the_answer_is_for_the_process_that_was_asked_about(view: View) -> None:
    view.press("k")
    view.read(_health(), _children(_child("tts-2")))
    assert view.selected == "tts-2"
    assert view.press("y") == Act("kill", "tts-1")


def test_processes_are_in_a_lasting_order(view: View) -> None:
    view.read(
        _health(),
        _children(
            _child("tts-9", started=3.0),
            _child("tts-10", started=4.0),
            _child("tts-template", "template", started=5.0),
            _child("stt-1"),
            _child("front", "front", started=9.0),
        ),
    )
    names = [child["name"] for child in view.children]
    assert names == ["front", "tts-template", "tts-9", "tts-10", "stt-1"]


def test_p_pauses_a_model_and_resumes_it(view: View) -> None:
    view.selected = "stt-1"
    act = view.press("p")
    assert act == Act("pause", "stt")
    assert act.path == "/v1/models/stt/pause"
    view.read(_health(paused=True), _children(_child("stt-1")))
    assert view.press("p") == Act("resume", "stt")
    view.selected = "front"
    view.read(_health(), _children(_child("front", "front")))
    assert view.press("p") is None


def test_q_quits(view: View) -> None:
    assert view.press("q") == Act("quit")


def test_with_nothing_to_show_keys_do_nothing() -> None:
    view = View(url="http://127.0.0.1:8000")
    assert [view.press(key) for key in ("r", "k", "p", "up", "y")] == [None] * 5
    assert screen(view)[0] == "asking http://127.0.0.1:8000 ..."


def test_the_selection_goes_to_a_worker_of_the_same_model(view: View) -> None:
    view.selected = "stt-1"
    view.read(_health(), _children(_child("tts-1"), _child("stt-2")))
    assert view.selected == "stt-2"


def test_processes_that_have_ended_are_not_shown(view: View) -> None:
    view.read(_health(), _children(_child("tts-1"), _child("tts-0", ended=1009.0)))
    assert [child["name"] for child in view.children] == ["tts-1"]


def test_samples_continue_those_before_and_end_with_their_process(view: View) -> None:
    view.read(_health(), _children(_child("tts-1", samples=[[1003.0, 900.0]])))
    assert {name: list(samples) for name, samples in view.memory.items()} == {
        "tts-1/4705": [700.0, 750.0, 900.0]
    }
    view.read(_health(), _children(_child("tts-1", pid=1, samples=[[1004.0, 10.0]])))
    assert {name: list(samples) for name, samples in view.memory.items()} == {"tts-1/1": [10.0]}


def test_what_fits_into_eighty_columns(view: View) -> None:
    view.read(
        _health(paused=True),
        {
            **_children(
                _child("front", "front"),
                _child("tts-template", "template", requests=None, soft_limit_mb=None),
                _child("tts-1", samples=[[1003.0, 1200.0]]),
            ),
            "models": {"tts": {"samples": [[1001.0, 0, 1, 0.0, None], [1002.0, 5, 2, 0.0, 0.2]]}},
        },
    )
    view.events.extend(
        {"time": "", "event": f"event-{number}", "level": "info", "child": "tts-1"}
        for number in range(50)
    )
    lines = screen(view)
    assert len(lines) == 24
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    assert lines[0].startswith("ok  voice-engine 1.2.3  up 1h2m  memory 2210 of 4096 MB  http")
    assert _words(lines[1]) == "MODEL STATE WORKERS RUN QUEUE BACKLOG RTF LOAD"
    assert _words(lines[2]).startswith("tts SERVING 1 0 0 0.0s 0.21 ")
    assert lines[2].endswith("▁█")
    assert _words(lines[3]).startswith("stt paused 1 ")
    assert any(_words(line).startswith("tts-1 IDLE 4705 1200 1100 1500 812 10s ") for line in lines)
    assert "event-49" in lines[-2]
    assert "event-0 " not in text
    assert lines[-1] == "↑↓ select   r recycle   k kill   p pause or resume   q quit"


def test_of_many_processes_those_around_the_selected_one_are_shown(view: View) -> None:
    view.read(_health(), _children(*(_child(f"tts-{number}") for number in range(60))))
    for selected in ("tts-0", "tts-30", "tts-59"):
        view.selected = selected
        lines = screen(view)
        assert len(lines) == 24
        assert any(line.startswith(f"{selected} ") for line in lines)
        assert "EVENTS" in lines
        assert lines[-1].endswith("q quit")


@pytest.mark.parametrize(("columns", "lines"), [(20, 5), (40, 12), (80, 24), (250, 80)])
def test_every_size_of_a_terminal_is_filled(view: View, columns: int, lines: int) -> None:
    shown = screen(view, columns, lines)
    assert len(shown) == lines
    assert max(map(len, shown)) <= columns


def test_a_service_that_is_down_says_so_and_what_was_seen_stays(view: View) -> None:
    view.problem = "no response"
    lines = screen(view)
    assert lines[0] == "down  no response"
    assert any(line.startswith("tts-1 ") for line in lines)
    view.read(_health(), _children(_child("tts-1")))
    assert screen(view)[0].startswith("ok ")
