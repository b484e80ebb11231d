"""Show the state of the service: `python -m ops.status`, or run this file with any Python 3.8+.

It reads /health only, and uses the standard library only, so it works on a machine without .venv.
The exit code is for scripts: 0 ok, 1 degraded or still starting, 2 down (no model serves), 64 wrong
usage.
"""

from __future__ import annotations

import argparse
import http.client
import ipaddress
import json
import os
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from typing import Any, NoReturn

OK, DEGRADED, DOWN, USAGE = 0, 1, 2, 64

_RED, _GREEN, _YELLOW = "31", "32", "33"
_STATUS_COLOURS = {"ok": _GREEN, "starting": _YELLOW, "degraded": _YELLOW, "down": _RED}
_DOWN_STATES = ("DEAD", "BACKOFF", "FAILED")
_MAX_ANSWER = 4 << 20

_COLUMNS = {
    "name": "NAME",
    "model": "MODEL",
    "engine": "ENGINE",
    "state": "STATE",
    "pid": "PID",
    "rss_mb": "RSS MB",
    "baseline_mb": "AT START",
    "soft_limit_mb": "SOFT",
    "hard_limit_mb": "HARD",
    "uptime_s": "UPTIME",
    "requests": "REQUESTS",
    "restarts": "RESTARTS",
    "last_exit": "LAST EXIT",
}
_LEFT = ("name", "model", "engine", "state", "last_exit")


class DownError(Exception):
    """There is no response from /health; the message says why."""


def fetch(url: str, timeout: float) -> tuple[int, dict[str, Any]]:
    """HTTP status and body of the response from /health at `url`. Raises `DownError`."""
    status, body = send(urllib.request.Request(url), timeout)
    if not _is_health(body):
        raise DownError(
            f"the response from {url} (status {status}) is not the state of a voice engine"
        )
    return status, body


def send(request: urllib.request.Request, timeout: float) -> tuple[int, Any]:
    """HTTP status of the response, also of an error, and its JSON. Raises `DownError`."""
    url = request.full_url
    # A proxy that the environment names is for the network, not for this machine.
    proxies = urllib.request.ProxyHandler({} if _is_loopback(url) else None)
    try:
        try:
            answer = urllib.request.build_opener(proxies).open(request, timeout=timeout)
        except urllib.error.HTTPError as error:  # a 503 from /health has the same body
            answer = error
        with answer:
            status, raw = answer.getcode(), answer.read(_MAX_ANSWER)
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise DownError(f"no response from {url}: {reason or type(error).__name__}") from error
    try:
        return status, json.loads(raw)
    except ValueError:
        raise DownError(f"the response from {url} (status {status}) is not JSON") from None


def _is_health(body: Any) -> bool:
    if not isinstance(body, dict):
        return False
    children, models = body.get("children"), body.get("models")
    return (
        isinstance(children, list)
        and isinstance(models, dict)
        and all(isinstance(part, dict) for part in (*children, *models.values()))
    )


def judge(status: int, health: dict[str, Any]) -> int:
    """The exit code for a response from /health."""
    if status != 200 and not (health.get("asr_loaded") or health.get("tts_loaded")):
        return DOWN
    well = (
        status == 200
        and health.get("status") == "ok"
        and not any(model.get("state") in _DOWN_STATES for model in health["models"].values())
        and not any(child.get("state") in _DOWN_STATES for child in health["children"])
    )
    return OK if well else DEGRADED


def render(health: dict[str, Any], *, colour: bool) -> str:
    """The response from /health as text: a header, errors of models, a line for each child."""
    status = clean(health.get("status"))
    models = health["models"]
    summary = [
        f"{name} {model.get('state')} ({clean(model.get('engine'))}, {model.get('profile')})"
        for name, model in models.items()
    ]
    header = [
        _paint(status, _STATUS_COLOURS.get(status, _RED), colour),
        f"voice-engine {health.get('version')}",
        f"up {_duration(health.get('uptime_s'))}",
        *summary,
    ]
    lines = ["  ".join(header)]
    lines += [
        f"  {name}: {clean(model['message'])}"
        for name, model in models.items()
        if model.get("message")
    ]
    return "\n".join(lines + _table(health["children"], colour=colour))


def _table(children: list[dict[str, Any]], *, colour: bool) -> list[str]:
    rows: list[tuple[dict[str, str], dict[str, str]]] = [(_COLUMNS, {})]
    rows += [
        ({key: _cell(key, child.get(key)) for key in _COLUMNS}, _colours(child))
        for child in children
    ]
    widths = {key: max(len(cells[key]) for cells, _ in rows) for key in _COLUMNS}
    lines = []
    for cells, colours in rows:
        padded = [
            _paint(
                cell.ljust(widths[key]) if key in _LEFT else cell.rjust(widths[key]),
                colours.get(key),
                colour,
            )
            for key, cell in cells.items()
        ]
        lines.append("  ".join(padded).rstrip())
    return lines


def _colours(child: dict[str, Any]) -> dict[str, str]:
    colours = {}
    if child.get("state") in _DOWN_STATES:
        colours["state"] = _RED
    rss = child.get("rss_mb")
    for limit, colour in (("soft_limit_mb", _YELLOW), ("hard_limit_mb", _RED)):
        mark = child.get(limit)
        if isinstance(rss, (int, float)) and isinstance(mark, (int, float)) and rss >= mark:
            colours["rss_mb"] = colour
    return colours


def _cell(key: str, value: Any) -> str:
    if value is None:
        return "-"
    if key == "uptime_s":
        return _duration(value)
    if isinstance(value, float):
        return f"{value:.0f}"
    return clean(value)


def _duration(seconds: Any) -> str:
    if not isinstance(seconds, (int, float)):
        return "-"
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days}d{hour}h"
    if hours:
        return f"{hours}h{minute}m"
    return f"{minutes}m{second}s" if minutes else f"{second}s"


def clean(value: Any) -> str:
    """`value` on one line, without characters that control a terminal."""
    return "".join(char if char.isprintable() else " " for char in str(value))


def _paint(text: str, colour: str | None, enabled: bool) -> str:
    return f"\033[{colour}m{text}\033[0m" if enabled and colour else text


class Parser(argparse.ArgumentParser):
    """Options of a command; `--url` and `--timeout` are those of all commands."""

    def __init__(self, description: str, epilog: str) -> None:
        super().__init__(description=description, epilog=epilog)
        default = os.environ.get("VOICE_ENGINE_URL") or (
            f"http://127.0.0.1:{os.environ.get('PORT') or 8000}"
        )
        self.add_argument("--url", default=default, help="address of the service (%(default)s)")
        self.add_argument(
            "--timeout",
            type=float,
            default=5.0,
            help="seconds to wait for a response (%(default)s)",
        )

    def error(self, message: str) -> NoReturn:
        # argparse's own code is 2, which here means that the service is down.
        self.exit(USAGE, f"{self.prog}: {message}\n")


def _is_loopback(url: str) -> bool:
    host = urllib.parse.urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def health_url(url: str) -> str:
    """The address of /health of the service at `url`."""
    url = url if "://" in url else f"http://{url}"
    url = url.rstrip("/")
    return url if url.endswith("/health") else f"{url}/health"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the state of the service; returns the exit code."""
    parser = Parser(
        "Show the state of the voice engine.",
        "Exit code: 0 ok, 1 degraded or still starting, 2 down, 64 wrong usage.",
    )
    parser.add_argument(
        "--json", action="store_true", help="print the response of /health as it is"
    )
    options = parser.parse_args(arguments)
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    try:
        status, health = fetch(health_url(options.url), options.timeout)
        code = judge(status, health)
        text = render(health, colour=colour)
    except DownError as error:
        health = {"status": "down", "error": str(error)}
        code = DOWN
        text = f"{_paint('down', _RED, colour)}  {clean(error)}"
    try:
        print(json.dumps(health, indent=2) if options.json else text, flush=True)
    except BrokenPipeError:
        # As with `| head -1`. Python flushes again when it ends, and would report an error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


if __name__ == "__main__":
    sys.exit(main())
