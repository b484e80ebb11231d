"""ops/status.py against a real HTTP server that answers with a given state of health.

It runs as a subprocess without site-packages, as on a machine that has no .venv.
"""

from __future__ import annotations

import copy
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.support.service import NET

_SCRIPT = Path(__file__).parent.parent.parent / "ops" / "status.py"

_OK: dict[str, Any] = {
    "status": "ok",
    "version": "1.2.3",
    "uptime_s": 3720.5,
    "asr_loaded": True,
    "tts_loaded": True,
    "voices_loaded": 4,
    "models": {
        "tts": {"state": "SERVING", "engine": "flite", "profile": "minimal", "message": None},
        "stt": {"state": "SERVING", "engine": "sphinx", "profile": "minimal", "message": None},
    },
    "children": [
        {
            "name": "tts",
            "role": "template",
            "model": "tts",
            "engine": "flite",
            "pid": 101,
            "state": "READY",
            "rss_mb": 60.25,
            "baseline_mb": 60.0,
            "soft_limit_mb": None,
            "hard_limit_mb": None,
            "uptime_s": 3719.0,
            "requests": None,
            "restarts": 0,
            "last_exit": None,
        },
        {
            "name": "stt-12",
            "role": "worker",
            "model": "stt",
            "engine": "sphinx",
            "pid": 20202,
            "state": "BUSY",
            "rss_mb": 512.4,
            "baseline_mb": 110.0,
            "soft_limit_mb": 510.0,
            "hard_limit_mb": 910.0,
            "uptime_s": 59.9,
            "requests": 17,
            "restarts": 3,
            "last_exit": "recycled: soft limit",
        },
    ],
}


def _changed(**changes: Any) -> dict[str, Any]:
    return copy.deepcopy(_OK) | changes


@contextmanager
def _server(status: int, body: bytes) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.path == "/health"
            self.send_response(status if known else 404)
            self.send_header("Content-Length", str(len(body) if known else 0))
            self.end_headers()
            self.wfile.write(body if known else b"")

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def _run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    unset = ("PORT", "VOICE_ENGINE_URL", "NO_COLOR")
    inherited = {key: value for key, value in os.environ.items() if key not in unset}
    return subprocess.run(
        [sys.executable, "-I", "-S", str(_SCRIPT), *arguments],
        env=inherited | environment,
        capture_output=True,
        text=True,
        timeout=NET,
        check=False,
    )


def _status(status: int, health: dict[str, Any], *arguments: str) -> tuple[int, str]:
    with _server(status, json.dumps(health).encode()) as url:
        done = _run("--url", url, *arguments)
    assert done.stderr == ""
    return done.returncode, done.stdout


def test_all_well() -> None:
    code, output = _status(200, _OK)
    assert code == 0
    header, titles, template, worker = output.splitlines()
    assert header == (
        "ok  voice-engine 1.2.3  up 1h2m  "
        "tts SERVING (flite, minimal)  stt SERVING (sphinx, minimal)"
    )
    assert re.sub(" +", " ", template) == "tts tts flite READY 101 60 60 - - 1h1m - 0 -"
    assert re.sub(" +", " ", worker) == (
        "stt-12 stt sphinx BUSY 20202 512 110 510 910 59s 17 3 recycled: soft limit"
    )
    # Words begin where their title begins, numbers end where it ends.
    assert titles.index("STATE") == worker.index("BUSY") == template.index("READY")
    ends = [
        line.index(word) + len(word)
        for line, word in zip((titles, template, worker), ("PID", "101", "20202"), strict=True)
    ]
    assert len(set(ends)) == 1
    assert "\033" not in output


@pytest.mark.parametrize(
    ("status", "health", "code"),
    [
        (200, _changed(status="starting"), 1),
        (200, _changed(status="degraded"), 1),
        (200, _changed(children=[_OK["children"][0] | {"state": "DEAD"}]), 1),
        (200, _changed(models={"tts": {"state": "FAILED"}}), 1),
        (503, _changed(status="degraded"), 1),
        (503, _changed(status="starting", asr_loaded=False, tts_loaded=False), 2),
        (503, _changed(status="degraded", asr_loaded=False, tts_loaded=False), 2),
        (503, _changed(status="starting", asr_loaded=False, tts_loaded=False, children=[]), 2),
    ],
)
def test_exit_code(status: int, health: dict[str, Any], code: int) -> None:
    assert _status(status, health)[0] == code
    assert _status(status, health, "--json")[0] == code


def test_says_why_a_model_is_down() -> None:
    models = copy.deepcopy(_OK["models"])
    models["stt"] |= {"state": "BACKOFF", "message": "cannot load:\n\033[31mno model.pt"}
    code, output = _status(200, _changed(status="degraded", models=models))
    assert code == 1
    assert output.startswith("degraded  ")
    assert output.splitlines()[1] == "  stt: cannot load:  [31mno model.pt"


def test_json_is_the_health_answer() -> None:
    code, output = _status(200, _OK, "--json")
    assert code == 0
    assert json.loads(output) == _OK


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (200, b"<html>hello</html>", "is not JSON"),
        (404, b"", "(status 404) is not JSON"),
        (200, b"[1, 2]", "is not the state of a voice engine"),
        (200, b'{"status": "ok"}', "is not the state of a voice engine"),
        (200, b'{"children": [1], "models": {}}', "is not the state of a voice engine"),
    ],
)
def test_down_when_the_answer_is_not_health(status: int, body: bytes, reason: str) -> None:
    with _server(status, body) as url:
        done = _run("--url", url)
        parsed = json.loads(_run("--url", url, "--json").stdout)
    assert done.returncode == 2
    assert done.stdout.startswith("down  ")
    assert reason in done.stdout
    assert done.stdout.count("\n") == 1
    assert parsed["status"] == "down"
    assert reason in parsed["error"]


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_down_when_nobody_answers(silent_port: int) -> None:
    hanging = _run("--timeout", "0.2", PORT=str(silent_port))
    assert hanging.returncode == 2
    assert f"no response from http://127.0.0.1:{silent_port}/health: timed out" in hanging.stdout

    with socket.socket() as bound:  # bound but not listening, so that nobody else takes it
        bound.bind(("127.0.0.1", 0))
        refused = _run(VOICE_ENGINE_URL=f"http://127.0.0.1:{bound.getsockname()[1]}")
    assert refused.returncode == 2
    assert "Connection refused" in refused.stdout


def test_where_it_looks() -> None:
    with _server(200, json.dumps(_OK).encode()) as url:
        port = url.rpartition(":")[2]
        # A proxy that is not there would fail the request.
        assert _run(PORT=port, http_proxy="http://127.0.0.1:9").returncode == 0
        assert _run(PORT="9", VOICE_ENGINE_URL=url).returncode == 0
        assert (
            _run("--url", f"127.0.0.1:{port}/", VOICE_ENGINE_URL="http://127.0.0.1:9").returncode
            == 0
        )
        assert _run("--url", f"{url}/health").returncode == 0


def test_wrong_usage_is_not_taken_for_down() -> None:
    done = _run("--no-such-option")
    assert done.returncode == 64
    assert "--no-such-option" in done.stderr


def test_a_reader_that_has_seen_enough_gets_no_traceback() -> None:
    with _server(200, json.dumps(_OK).encode()) as url:
        ours, theirs = os.pipe()
        os.close(ours)  # as `head -1` does
        try:
            done = subprocess.run(
                [sys.executable, "-I", "-S", str(_SCRIPT), "--url", url],
                stdout=theirs,
                stderr=subprocess.PIPE,
                timeout=NET,
                check=False,
            )
        finally:
            os.close(theirs)
    assert (done.returncode, done.stderr) == (0, b"")


def test_colour_on_a_terminal_only() -> None:
    with _server(200, json.dumps(_OK).encode()) as url:
        command = [sys.executable, "-I", "-S", str(_SCRIPT), "--url", url]
        assert "\033[32mok\033[0m" in _in_terminal(command, {})
        assert "\033[33m   512\033[0m" in _in_terminal(command, {})  # over its soft limit
        assert "\033" not in _in_terminal(command, {"NO_COLOR": "1"})


def _in_terminal(command: list[str], environment: dict[str, str]) -> str:
    ours, theirs = os.openpty()
    try:
        done = subprocess.run(
            command, stdout=theirs, env=os.environ | environment, timeout=NET, check=False
        )
        assert done.returncode == 0
        return os.read(ours, 65_536).decode()
    finally:
        os.close(ours)
        os.close(theirs)
