"""The service on a Ray cluster, for tests: nodes on this machine, an application, fronts."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import yaml

from supervisor.settings import Settings
from tests.support.service import NET, ROOT, SCRIPTED

_numbers = itertools.count(1)

_FRONT = frozenset(
    {
        *("host", "port", "metrics_port", "cluster", "application", "spool_dir", "memory_limit_mb"),
        *("engines", "tts_engine", "stt_engine", "profile", "pull", "watch_models"),
        *("api_keys", "api_key", "api_keys_file", "admin_key", "threads"),
    }
)
"""Settings that are for fronts alone, or that the cluster's file says in another way."""


class Nodes:
    """Some nodes of a Ray cluster; the first one is the head."""

    def __init__(self, count: int, environment: Mapping[str, str] | None = None) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.ray_nodes", str(count)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **(environment or {}), "PYTHONPATH": str(ROOT)},
            cwd=ROOT,
        )
        try:
            self.nodes = [self._read() for _ in range(count)]
        except BaseException:
            self.close()
            raise
        self.address: str = self.nodes[0]["address"]

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise AssertionError("the nodes of the cluster did not start")
        told: dict[str, Any] = json.loads(line)
        return told

    def add(self) -> None:
        """Start another node."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"another\n")
        self._process.stdin.flush()
        self.nodes.append(self._read())

    def of(self, pid: int) -> int:
        """The number of the node that a process belongs to."""
        parents = {parent.pid for parent in psutil.Process(pid).parents()}
        return next(n for n, node in enumerate(self.nodes) if node["raylet"] in parents)

    def named(self, title: str) -> list[int]:
        """The processes of all nodes whose title begins so."""
        found = []
        for node in self.nodes:
            with contextlib.suppress(psutil.NoSuchProcess):
                for process in psutil.Process(node["raylet"]).children(recursive=True):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        if " ".join(process.cmdline()).startswith(title):
                            found.append(process.pid)
        return found

    def kill(self, number: int) -> None:
        """SIGKILL for a node: its raylet with all that it has started."""
        raylet = psutil.Process(self.nodes[number]["raylet"])
        for process in [raylet, *raylet.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)

    def close(self) -> None:
        """End all nodes."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            for process in psutil.Process(self._process.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


@contextlib.contextmanager
def nodes(count: int = 3, environment: Mapping[str, str] | None = None) -> Iterator[Nodes]:
    """Nodes of a cluster, with these variables besides; they are gone afterwards."""
    made = Nodes(count, environment)
    try:
        yield made
    finally:
        made.close()


def cluster(address: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `voice-engine cluster`."""
    return subprocess.run(
        [sys.executable, "-m", "supervisor.cli", "cluster", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "VOICE_ENGINE_CLUSTER": address},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=NET,
        check=False,
    )


def up(address: str, config: Mapping[str, Any], folder: Path) -> str:
    """Deploy an application; returns its name."""
    file = folder / "cluster.yaml"
    file.write_text(yaml.safe_dump(dict(config)))
    done = cluster(address, "up", str(file))
    assert done.returncode == 0, done.stderr
    return str(config.get("application", "voice-engine"))


def scripted(replicas: int = 1, **settings: Any) -> dict[str, Any]:
    """A file for both scripted engines: so many replicas that speak, and one that transcribes."""
    return {
        "models": [
            {
                "engine": SCRIPTED["VOICE_ENGINE_TTS_ENGINE"],
                "kind": "tts",
                "cpus": 0.1,
                "replicas": {"min": replicas, "max": replicas},
            },
            {"engine": SCRIPTED["VOICE_ENGINE_STT_ENGINE"], "kind": "stt", "cpus": 0.1},
        ],
        "live_transcription": False,
        "settings": {"ping_interval": 0.2, "backoff_base": 0.05, "ping_timeout": 300, **settings},
    }


def front_of(address: str, application: str = "voice-engine") -> dict[str, str]:
    """Settings of a front on the cluster."""
    return {"VOICE_ENGINE_CLUSTER": address, "VOICE_ENGINE_APPLICATION": application}


@contextlib.contextmanager
def deployed(environment: Mapping[str, str], address: str) -> Iterator[dict[str, str]]:
    """Let models run on the cluster as a service with this environment would run them itself.

    Gives the settings of a front for them.
    """
    settings = _settings(environment)
    application = f"test-{os.getpid()}-{next(_numbers)}"
    given = {
        name: value
        for name, value in settings.model_dump(mode="json").items()
        if name in settings.model_fields_set - _FRONT and name != "api_keys"
    }
    config = {
        "application": application,
        "models": [
            {
                "engine": model.engine.factory
                if model.engine.profile == "custom"
                else model.engine.name,
                **({"kind": model.kind.value} if model.engine.profile == "custom" else {}),
                "cpus": 0.02,
            }
            for model in settings.models
        ],
        "live_transcription": settings.vad_engine != "off",
        "settings": given,
    }
    with tempfile.TemporaryDirectory() as folder:
        up(address, config, Path(folder))
        try:
            yield front_of(address, application)
        finally:
            cluster(address, "down", "--application", application)


def _settings(environment: Mapping[str, str]) -> Settings:
    """The settings of a service with this environment alone."""
    before = dict(os.environ)
    for names in Settings.variables().values():
        for name in names:
            os.environ.pop(name, None)
    os.environ.update(environment)
    try:
        return Settings()
    finally:
        os.environ.clear()
        os.environ.update(before)
