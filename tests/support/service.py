"""The real service as a process, for tests: started, listened to, asked, killed."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
import urllib.error
import urllib.request
import wave
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import psutil

NET = 300.0
"""Seconds after which a test that waits for an event gives up; never a measure of anything."""

PATIENT = {
    "VOICE_ENGINE_PING_TIMEOUT": "300",
    "VOICE_ENGINE_WARM_UP_TIMEOUT": "300",
    "VOICE_ENGINE_CANCEL_GRACE": "300",
    "VOICE_ENGINE_SEND_TIMEOUT": "300",
    "VOICE_ENGINE_IDLE_TIMEOUT": "300",
    "VOICE_ENGINE_QUEUE_SECONDS": "3000",
}
"""Settings with which a loaded machine makes the service neither kill nor refuse anything.

Tests of one of these limits set their own.
"""

SCRIPTED = {
    "VOICE_ENGINE_TTS_ENGINE": "tests.support.script_engine:Script",
    "VOICE_ENGINE_STT_ENGINE": "tests.support.script_engine:ScriptedRecognizer",
    "VOICE_ENGINE_PING_INTERVAL": "0.2",
    "VOICE_ENGINE_BACKOFF_BASE": "0.05",
}
"""Settings for both scripted engines, with the clock of the supervision a little faster."""

MINIMAL = {"VOICE_ENGINE_TTS_ENGINE": "flite", "VOICE_ENGINE_STT_ENGINE": "sphinx"}
EMBEDDED = {"VOICE_ENGINE_TTS_ENGINE": "kokoro", "VOICE_ENGINE_STT_ENGINE": "whisper"}
"""Settings for the engines without neural weights, and for those whose weights are in packages."""


def production(models: Path) -> dict[str, str]:
    """Settings for the production engines, with the weights in `models`."""
    return {
        "VOICE_ENGINE_TTS_ENGINE": "",
        "VOICE_ENGINE_STT_ENGINE": "",
        "VOICE_ENGINE_PROFILE": "production",
        "VOICE_ENGINE_MODELS_DIR": str(models),
    }


ROOT = Path(__file__).resolve().parent.parent.parent

ON_CLUSTER = "TESTS_ON_CLUSTER"
"""The variable with the address of a Ray cluster: if it is set, `running` lets models run there,
and the service is a front."""

NOBODY = 65534
"""The id of an ordinary user who owns nothing."""


def python_of(user: int) -> list[str] | None:
    """The start of a command that runs our Python as `user`; None if there is no way.

    Root's own Python may lie where nobody else gets at. Then the system's serves, if it is the same
    version.
    """
    packages = sysconfig.get_path("purelib")
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    system = shutil.which(version, path="/usr/bin:/usr/local/bin") or sys.executable
    for command in ([sys.executable], ["env", f"PYTHONPATH={ROOT}:{packages}", system]):
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            subprocess.run(
                [*command, "-c", "import supervisor.cli, numpy"],
                user=user,
                group=user,
                extra_groups=[],
                cwd=ROOT,
                check=True,
                capture_output=True,
            )
            return command
    return None


class RunningService:
    """One `voice-engine serve`; its log lines are events that a test can wait for."""

    def __init__(
        self,
        environment: dict[str, str],
        arguments: Sequence[str] = (),
        module: str = "supervisor.cli",
        folder: Path = ROOT,
        user: int | None = None,
    ) -> None:
        # Voices go here, not into the checkout's own folder.
        self.folder = tempfile.TemporaryDirectory(
            prefix="voice-engine-test-", ignore_cleanup_errors=True
        )
        environment = {"VOICES_DIR": f"{self.folder.name}/voices", **environment}
        self.events: list[dict[str, Any]] = []
        self._arrived = threading.Condition()
        python = [sys.executable] if user is None else python_of(user)
        assert python is not None
        if user is not None:
            os.chown(self.folder.name, user, user)
        self.process = subprocess.Popen(
            [
                *(*python, "-m", module, "serve"),
                *("--host", "127.0.0.1", "--port", "0", *arguments),
            ],
            stderr=subprocess.PIPE,
            env={**os.environ, **environment},
            cwd=folder,
            user=user,
            group=user,
            extra_groups=None if user is None else [],
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            self.port: int = self.wait_for("listening")["port"]
        except BaseException:
            self.end()
            raise
        self.url = f"http://127.0.0.1:{self.port}"

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            try:
                event = json.loads(line)
            except ValueError:
                event = {"event": "not_json", "line": line.decode(errors="replace")}
            with self._arrived:
                self.events.append(event)
                self._arrived.notify_all()
        with self._arrived:
            self.events.append({"event": "log_closed"})
            self._arrived.notify_all()

    def wait_for(self, event: str, *, count: int = 1, **fields: Any) -> dict[str, Any]:
        """The `count`-th event of that name with these fields; waits until it has been logged."""

        def matching() -> list[dict[str, Any]]:
            return [
                entry
                for entry in self.events
                if entry["event"] == event and all(entry.get(k) == v for k, v in fields.items())
            ]

        with self._arrived:
            ended = [{"event": "log_closed"}]
            arrived = self._arrived.wait_for(
                lambda: len(matching()) >= count or self.events[-1:] == ended, NET
            )
            found = matching()
            if not arrived or len(found) < count:
                raise AssertionError(
                    f"{event} {fields} was logged {len(found)} times; the log: "
                    + "\n".join(map(str, self.events[-30:]))
                )
            return found[count - 1]

    def wait_ready(self) -> None:
        """Both models serve."""
        self.wait_until(lambda health: bool(health["asr_loaded"] and health["tts_loaded"]))

    def health(self) -> dict[str, Any]:
        """What /health says, whatever its status."""
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=NET) as response:
                body: dict[str, Any] = json.load(response)
        except urllib.error.HTTPError as error:
            body = json.load(error)
        return body

    def wait_until(
        self, condition: Callable[[dict[str, Any]], bool], net: float = NET
    ) -> dict[str, Any]:
        """Poll /health until `condition` holds of it."""
        end = time.monotonic() + net
        while not condition(health := self.health()):
            if time.monotonic() > end:
                raise AssertionError(f"/health never came to that; it says {health}")
            time.sleep(0.02)
        return health

    def children(self, role: str = "worker", model: str | None = None) -> list[dict[str, Any]]:
        """The children that /health lists, of one model or of all."""
        return [
            child
            for child in self.health()["children"]
            if child["role"] == role and model in (None, child["model"])
        ]

    def processes(self) -> list[psutil.Process]:
        """The front and all that descend from it."""
        front = psutil.Process(self.process.pid)
        return [front, *front.children(recursive=True)]

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Signal the front; its exit code."""
        self.process.send_signal(number)
        code = self.process.wait(NET)
        self._reader.join(NET)
        return code

    def end(self) -> None:
        """Stop it if it still runs, kill it if it does not stop, and tidy up."""
        try:
            if self.process.poll() is None:
                self.stop()
        finally:
            self.process.kill()
            self.process.wait()
            self._reader.join(NET)
            assert self.process.stderr is not None
            self.process.stderr.close()
            self.folder.cleanup()


@contextlib.contextmanager
def running(
    environment: dict[str, str] | None = None,
    arguments: Sequence[str] = (),
    folder: Path = ROOT,
    *,
    module: str = "supervisor.cli",
    user: int | None = None,
) -> Iterator[RunningService]:
    """A service that is gone afterwards, with all its processes, whatever the test did.

    It is that of the tree in `folder`, and it is started by `user`.
    """
    settings = {**PATIENT, **SCRIPTED, **(environment or {})}
    with contextlib.ExitStack() as stack:
        if address := os.environ.get(ON_CLUSTER):
            from tests.support.cluster import deployed

            settings |= stack.enter_context(deployed(settings, address))
        service = RunningService(settings, arguments, module, folder, user)
        stack.callback(service.end)
        yield service


@dataclass(frozen=True, slots=True)
class Gate:
    """What a script of tests/engines.py says that it will `wait` for, until a test opens it."""

    path: Path

    def open(self) -> None:
        """Let the script go on; one that comes later does not wait."""
        self.path.touch()

    def __str__(self) -> str:
        return str(self.path)


def script_form(script: str, **options: str) -> aiohttp.FormData:
    """A /v1/clone request for the scripted engine."""
    form = aiohttp.FormData({"text": script, **options})
    form.add_field("reference_audio", b"any", filename="reference.wav")
    return form


def recording_form(script: str, size: int = 0) -> aiohttp.FormData:
    """A /v1/transcribe request for the scripted engine, padded with zeros to `size` bytes."""
    form = aiohttp.FormData()
    recording = io.BytesIO(script.encode().ljust(size, b"\0"))
    form.add_field("file", recording, filename="recording.wav")
    return form


def read_wav(data: bytes) -> tuple[int, bytes]:
    """Sample rate and PCM bytes of a whole WAV (PCM16, mono)."""
    with wave.open(io.BytesIO(data)) as wav:
        assert (wav.getnchannels(), wav.getsampwidth()) == (1, 2)
        return wav.getframerate(), wav.readframes(wav.getnframes())
