"""The bench: it runs, its tables add up, and its load generator does not flatter the server."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.bench.load import Plan, run
from tests.bench.peers import main
from tests.bench.peers_report import DOCUMENT, FOLDER, tables
from tests.bench.peers_results import SERVICE, load
from tests.bench.report import Table
from tests.support.service import ROOT

_STALL = 0.2


def _bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.bench", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.alone
def test_a_quick_run_prints_and_writes_the_same_figures(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    result = _bench("--quick", "--only", "pipe", "--json", str(file))
    assert result.returncode == 0, result.stderr
    (table,) = json.loads(file.read_text())["parts"]["pipe"]
    assert [(row["answer"], row["way"]) for row in table["rows"]] == [
        ("200 B", "bare"),
        ("200 B", "pipe"),
        ("200 KB", "bare"),
        ("200 KB", "pipe"),
    ]
    for bare, pipe in zip(table["rows"][::2], table["rows"][1::2], strict=True):
        assert bare["of bare"] == 1
        assert pipe["of bare"] == round(pipe["requests/s"] / bare["requests/s"], 3)
        assert pipe["worker CPU us/request"] > 0
        for row in (bare, pipe):
            assert 0 < row["p50 ms"] <= row["p99 ms"]
            assert f"{row['requests/s']:,.0f}" in result.stdout


def test_a_part_that_does_not_exist_is_named() -> None:
    result = _bench("--only", "pipe,pope")
    assert result.returncode == 2
    assert "there is no part pope" in result.stderr


def test_columns_are_aligned() -> None:
    table = Table("title", ("name", "MB"), [("a", 1234.5), ("long name", 7.25), ("b", None)], ["n"])
    assert table.text().splitlines() == [
        "title",
        "",
        "name          MB",
        "---------  -----",
        "a          1,234",
        "long name   7.25",
        "b              -",
        "  n",
    ]


@pytest.fixture
def stalling_port() -> int:
    """A server that answers the first request late and every other one at once."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listener.accept()
        with listener, connection:
            asked = connection.recv(4096)
            time.sleep(_STALL)
            while asked:
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                asked = connection.recv(4096)

    threading.Thread(target=serve, daemon=True).start()
    port: int = listener.getsockname()[1]
    return port


@pytest.mark.alone
def test_at_a_fixed_rate_a_stall_counts_for_all_that_were_due(stalling_port: int) -> None:
    measured = run(Plan(stalling_port, "/", requests=10, rate=100))
    assert measured.statuses == {"200": 10}
    # All ten were due within 0.1 s of the first, which was sent when the stall began.
    assert measured.p50 > _STALL / 2 * 1000
    assert measured.longest > _STALL * 1000


@pytest.mark.alone
def test_a_quick_run_against_the_peers_has_every_figure(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "tests.bench.peers", "--quick", "--out", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    results = load(tmp_path / "peers.json")
    speech = {SERVICE, "pocket-tts serve", "pocket-tts serve --quantize"}
    arms = {("tts", arm) for arm in speech} | {("stt", SERVICE), ("stt", "funasr-server")}
    alone = [burst for burst in results.bursts if not burst.beside]
    assert {(burst.kind, burst.arm, burst.clients) for burst in alone} == {
        (kind, arm, clients) for kind, arm in arms for clients in (1, 2)
    }
    for burst in results.bursts:
        assert burst.sound > 0
        assert 0 < max(burst.first) <= burst.seconds or burst.beside
        assert burst.health or burst.kind == "stt"
    assert {(each.kind, each.arm) for each in results.alone} == arms
    assert all(each.idle_mb > 0 and min(each.again) > 0 for each in results.alone)
    assert {join.arm for join in results.joins} == speech
    assert (tmp_path / "peers.png").read_bytes().startswith(b"\x89PNG")
    for table in tables(results):
        assert table.text() in result.stdout
    assert "failed" not in result.stdout


def test_a_failed_request_is_named_and_fails_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = load(FOLDER / "peers.json")
    first = results.bursts[0]
    results.bursts[0] = replace(first, failures=["503: busy"])
    results.save(tmp_path / "failed.json")
    before = DOCUMENT.read_text()
    arguments = ["--results", str(tmp_path / "failed.json"), "--out", str(tmp_path), "--write"]
    assert main(arguments) == 1
    told = capsys.readouterr()
    assert f"failed: {first.arm}, {first.kind}, {first.clients} clients: 503: busy" in told.err
    assert any("failed" in line and "  1  " in line for line in told.out.splitlines())
    assert DOCUMENT.read_text() == before
