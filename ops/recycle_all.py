"""Replace every worker, one after the other: `python -m ops.recycle_all`, or with any Python 3.8+.

It waits until the service is well, has one worker recycled, waits until its successor is READY and
it is gone, and goes on with the next. No request fails, because the service starts a successor
first. The exit code is for scripts: 0 all are replaced, 1 not all, 2 down, 64 wrong usage.
"""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

# So that it also runs as a file, from any folder.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ops.status import DEGRADED, DOWN, OK, DownError, Parser, clean, fetch, health_url, judge, send

_PAUSE = 0.1
"""Seconds between two looks at /health."""


class NotReplacedError(Exception):
    """A worker is not another one; the message says why."""


class Recycler:
    """Replaces workers of the service whose /health is at `url`."""

    def __init__(self, url: str, key: str, reason: str, timeout: float, patience: float) -> None:
        self._url = url
        self._key = key
        self._reason = reason
        self._timeout = timeout
        self._patience = patience

    def run(self) -> int:
        """Replace all workers that there are now; returns the exit code. Raises `DownError`."""
        health = self._wait_until_well()
        workers = [child for child in health["children"] if child["role"] == "worker"]
        for number, worker in enumerate(workers, 1):
            started = time.monotonic()
            successors = self._replace(worker)
            took = time.monotonic() - started
            print(
                f"{number}/{len(workers)}  {clean(worker['name'])} -> {clean(successors)}  "
                f"{took:.1f} s",
                flush=True,
            )
        print(f"all {len(workers)} workers are replaced", flush=True)
        return OK

    def _wait_until_well(self) -> dict[str, Any]:
        """What /health says once all models serve; it may be about to start."""
        end = time.monotonic() + self._patience
        while True:
            try:
                return self._wait("it is not well", lambda health: judge(200, health) == OK)
            except DownError as error:
                if time.monotonic() > end:
                    raise
                print(f"waiting: {clean(error)}", file=sys.stderr, flush=True)
                time.sleep(_PAUSE * 10)

    def _replace(self, worker: dict[str, Any]) -> str:
        """Have one worker replaced; the workers of its model that were not there before."""
        model, name = worker["model"], worker["name"]
        before = {child["name"] for child in self._health()["children"]}
        if name in before:
            self._recycle(name)

        def replaced(health: dict[str, Any]) -> bool:
            others = [
                child
                for child in health["children"]
                if child["role"] == "worker" and child["model"] == model
            ]
            ready = [child for child in others if child["lifecycle"] == "READY"]
            return (
                all(child["name"] != name for child in others)
                and len(ready) >= health["models"][model]["workers"]
            )

        health = self._wait(f"{name} is not replaced", replaced)
        new = [
            child["name"]
            for child in health["children"]
            if child["model"] == model and child["name"] not in before
        ]
        return ", ".join(new) or "another one"

    def _recycle(self, name: str) -> None:
        path = f"/v1/children/{urllib.parse.quote(name, safe='')}/recycle"
        request = urllib.request.Request(
            self._url[: -len("/health")] + path,
            data=json.dumps({"reason": self._reason}).encode(),
            headers={"Content-Type": "application/json"},
        )
        if self._key:
            request.add_header("Authorization", f"Bearer {self._key}")
        status, body = send(request, self._timeout)
        # 404: it is gone already. 409: it is being replaced already.
        if status not in (202, 404, 409):
            detail = body.get("detail") if isinstance(body, dict) else None
            raise NotReplacedError(f"{name} cannot be recycled ({status}): {detail}")

    def _health(self) -> dict[str, Any]:
        return fetch(self._url, self._timeout)[1]

    def _wait(self, problem: str, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Look at /health until `condition` holds of it; what it says then."""
        end = time.monotonic() + self._patience
        while True:
            health = self._health()
            if condition(health):
                return health
            if time.monotonic() > end:
                states = ", ".join(f"{name} {m['state']}" for name, m in health["models"].items())
                raise NotReplacedError(f"{problem} after {self._patience:.0f} s: {states}")
            time.sleep(_PAUSE)


def main(arguments: Sequence[str] | None = None) -> int:
    """Replace every worker; returns the exit code."""
    parser = Parser(
        "Replace every worker of the voice engine, one after the other.",
        "Exit code: 0 all are replaced, 1 not all, 2 down, 64 wrong usage. The key is that of "
        "VOICE_ENGINE_ADMIN_KEY or VOICE_ENGINE_API_KEY, if the service has keys.",
    )
    parser.add_argument("--reason", default="recycle_all", help="why, for the log (%(default)s)")
    parser.add_argument(
        "--patience",
        type=float,
        default=600.0,
        help="seconds to wait until the service is well, and for each worker (%(default)s); a "
        "worker ends when its requests have",
    )
    options = parser.parse_args(arguments)
    environment = os.environ
    key = environment.get("VOICE_ENGINE_ADMIN_KEY") or environment.get("VOICE_ENGINE_API_KEY") or ""
    recycler = Recycler(
        health_url(options.url), key, options.reason, options.timeout, options.patience
    )
    try:
        return recycler.run()
    except NotReplacedError as error:
        print(f"recycle_all: {clean(error)}", file=sys.stderr)
        return DEGRADED
    except DownError as error:
        print(f"recycle_all: {clean(error)}", file=sys.stderr)
        return DOWN


if __name__ == "__main__":
    sys.exit(main())
