"""What commands print, and how they read events: pure parts of the command line."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.cli import events, show


@pytest.mark.parametrize(
    ("values", "width", "graph"),
    [
        ([], 5, ""),
        ([1, 2, 3], 0, ""),
        ([0, 7], 5, "▁█"),
        ([0, 1, 2, 3, 4, 5, 6, 7], 8, "▁▂▃▄▅▆▇█"),
        # Of a share the highest counts, so that a short peak is seen.
        ([0, 0, 0, 9, 0, 0], 3, "▁█▁"),
        # Noise is no change.
        ([700.0, 700.4, 700.1], 5, "▁▁▁"),
        ([0, 0], 5, "▁▁"),
    ],
)
def test_sparkline(values: list[float], width: int, graph: str) -> None:
    assert show.sparkline(values, width) == graph


@given(st.lists(st.floats(0, 1e6), min_size=1), st.integers(1, 100))
def test_a_sparkline_is_never_wider_than_asked(values: list[float], width: int) -> None:
    assert 1 <= len(show.sparkline(values, width)) <= width


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(None, "-"), (59.9, "59s"), (182, "3m2s"), (3660, "1h1m"), (183_600, "2d3h")],
)
def test_duration(seconds: float | None, words: str) -> None:
    assert show.duration(seconds) == words


def test_words_of_the_service_do_not_control_the_terminal() -> None:
    assert show.clean("a\x1b[31mb\nc") == "a [31mb c"
    assert show.state("[red]x").plain == "[red]x"


_EVENTS: list[dict[str, Any]] = [
    {"id": "a-1", "event": "listening", "level": "info", "port": 8000},
    {
        "id": "a-2",
        "event": "child_output",
        "level": "info",
        "line": "ü\u2028next",
        "child": "tts-1",
    },
]


def _wire(newline: bytes) -> bytes:
    lines = [b": keep-alive", b""]
    for event in _EVENTS:
        body = json.dumps(event, ensure_ascii=False).encode()
        lines += [b"id: " + str(event["id"]).encode(), b"data: " + body, b""]
    return newline.join([*lines, b"data: no json", b"", b""])


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
def test_events_are_read_in_whatever_pieces_they_come(newline: bytes) -> None:
    wire = _wire(newline)
    for size in (1, 2, 7, len(wire)):
        pieces = [wire[at : at + size] for at in range(0, len(wire), size)]
        assert list(events.parse(pieces)) == _EVENTS


def test_an_event_in_several_lines_of_data_is_one() -> None:
    assert list(events.parse([b'data: {"event":\ndata: "x"}\n\n'])) == [{"event": "x"}]


def test_an_event_that_has_not_ended_is_not_shown() -> None:
    assert list(events.parse([b'data: {"event": "x"}\n'])) == []


def test_a_line_for_people() -> None:
    line = events.line(
        {
            "id": "a-3",
            "time": "2026-11-29T15:41:48.123Z",
            "event": "recycled",
            "level": "info",
            "model": "tts",
            "child": "tts-1",
            "successor": "tts-2",
            "ready_ms": 212.5,
            "gap": False,
            "reason": None,
        }
    ).plain
    assert line.split()[1:] == [
        "recycled",
        "tts-1",
        "successor=tts-2",
        "ready_ms=212.5",
        "gap=false",
    ]
    assert events.clock("2026-11-29T15:41:48.123Z").endswith(":41:48")
    assert events.clock("yesterday") == "--:--:--"
