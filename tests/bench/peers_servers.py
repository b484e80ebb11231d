"""The servers that `make bench-peers` compares, as processes. Runs in the bench's main process."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import psutil
import yaml

from ipc.engines import Kind
from tests.bench.models import models_folder
from tests.bench.peers_results import SERVICE
from tests.support.service import NET, ROOT, RunningService, production

FRAME_SAMPLES = 1920
SAMPLE_RATE = 24_000
_FRAMES_BEFORE_EOS = 6
"""The library ignores the end of speech in so many frames."""
_VOICE = "alba"
_POLL_SECONDS = 0.05
TORCHAO = importlib.util.find_spec("torchao") is not None
"""Whether the library would take torchao for its int8, where this bench did not hide it."""

_WITHOUT_TORCHAO = (
    "import sys; sys.modules['torchao'] = None; from pocket_tts.main import cli_app; cli_app()"
)
_FUNASR_SERVER = (
    "from model_procs.weights.torchaudio_guard import ensure_torchaudio; ensure_torchaudio(); "
    "from funasr.bin.server import main; main()"
)
"""`funasr-server`, where torchaudio's compiled extension may not fit torch."""


class Server(Protocol):
    """A running server."""

    kills: int
    """How often to measure its return from SIGKILL; a few times where it takes no time."""

    @property
    def url(self) -> str:
        """Its address."""

    def start(self) -> None:
        """Start its processes."""

    def wait_ready(self) -> None:
        """Wait until it serves."""

    def kill(self, kind: Kind) -> None:
        """SIGKILL what computes; whatever starts it again is at work when this returns."""

    def processes(self, kind: Kind) -> list[psutil.Process]:
        """All its processes that have to do with `kind`."""

    def log(self) -> str:
        """The end of its log."""

    def end(self) -> None:
        """Have all its processes gone."""


@dataclass(frozen=True, slots=True)
class Arm:
    """A server for one kind of requests, and how to ask it."""

    name: str
    kind: Kind
    path: str
    fields: dict[str, str]
    server: Server


class ServiceServer:
    """`voice-engine serve` with its default settings, whose front outlives its workers."""

    kills = 3

    def __init__(self, models: Path, *, only: Kind | None = None) -> None:
        self._environment = production(models)
        if only is not None:
            # The other kind has an engine that shares no page with a model of a peer.
            name = "STT" if only is Kind.TTS else "TTS"
            engine = "sphinx" if only is Kind.TTS else "flite"
            self._environment[f"VOICE_ENGINE_{name}_ENGINE"] = engine
        self._service: RunningService | None = None

    @property
    def _running(self) -> RunningService:
        assert self._service is not None
        return self._service

    @property
    def url(self) -> str:
        return self._running.url

    def start(self) -> None:
        self._service = RunningService(self._environment)

    def wait_ready(self) -> None:
        self._running.wait_ready()

    def kill(self, kind: Kind) -> None:
        worker, *_ = self._running.children(model=kind.value)
        os.kill(worker["pid"], signal.SIGKILL)

    def processes(self, kind: Kind) -> list[psutil.Process]:
        children = self._running.health()["children"]
        pids = [child["pid"] for child in children if child["model"] == kind.value]
        return [psutil.Process(pid) for pid in (self._running.process.pid, *pids)]

    def log(self) -> str:
        return "\n".join(map(str, self._running.events[-20:]))

    def end(self) -> None:
        if self._service is not None:
            self._service.end()


@dataclass(slots=True)
class PeerServer:
    """A peer's own server: one process, which a supervisor would start again."""

    command: list[str]
    kills: int = 1
    _address: socket.socket | None = None
    """Holds the port, so that nobody else is given it, even while the server is gone."""
    _process: subprocess.Popen[bytes] | None = None
    _log: IO[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def _port(self) -> int:
        assert self._address is not None
        port: int = self._address.getsockname()[1]
        return port

    def start(self) -> None:
        self._address = socket.socket()
        # With this option, which servers set too, one of those who are bound to it may listen.
        self._address.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._address.bind(("127.0.0.1", 0))
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - `end` closes it
        self._launch()

    def _launch(self) -> None:
        self._process = subprocess.Popen(
            [*self.command, "--host", "127.0.0.1", "--port", str(self._port)],
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
            cwd=ROOT,
        )

    def wait_ready(self) -> None:
        end = time.monotonic() + NET
        while True:
            assert self._process is not None
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=NET):
                    return
            except urllib.error.URLError as error:
                if self._process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(f"{self.command}: {error}; its log: {self.log()}") from error
            time.sleep(_POLL_SECONDS)

    def kill(self, kind: Kind) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._launch()

    def processes(self, kind: Kind) -> list[psutil.Process]:
        assert self._process is not None
        process = psutil.Process(self._process.pid)
        return [process, *process.children(recursive=True)]

    def log(self) -> str:
        assert self._log is not None
        self._log.seek(max(0, self._log.seek(0, os.SEEK_END) - 3000))
        return self._log.read().decode(errors="replace")

    def end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        for held in (self._address, self._log):
            if held is not None:
                held.close()


def checkpoints(*, quick: bool, frames: int) -> Path:
    """The bench's random checkpoints, with a config that makes every sentence `frames` long.

    Random weights would say at random when a sentence is over. In this config they say so at once,
    and the library and this service both go on for the number of frames that it recommends.
    """
    source = models_folder(quick=quick)
    folder = source.parent / f"{source.name}-peers"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source, folder, copy_function=_link)
    file = folder / "pocket-tts" / "config.yaml"
    settings: dict[str, Any] = yaml.safe_load(file.read_text("utf-8"))
    settings["weights_path"] = str(file.with_name("model.safetensors"))
    settings["flow_lm"]["lookup_table"]["tokenizer_path"] = str(file.with_name("tokenizer.json"))
    settings["default_eos_threshold"] = -1e9
    settings["model_recommended_frames_after_eos"] = frames - _FRAMES_BEFORE_EOS
    file.unlink()  # it is a link to the source's own
    file.write_text(yaml.safe_dump(settings, allow_unicode=True), "utf-8")
    return folder


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)


def arms(models: Path, kind: Kind, service: Server) -> list[Arm]:
    """This service and its peers of one kind, with the same checkpoint."""
    if kind is Kind.TTS:
        ours = Arm(SERVICE, kind, "/v1/tts", {"voice_id": _VOICE, "stream": "true"}, service)
        return [
            ours,
            Arm("pocket-tts serve", kind, "/tts", {}, PeerServer(_pocket(models))),
            Arm(
                *("pocket-tts serve --quantize", kind, "/tts", {}),
                PeerServer([*_pocket(models), "--quantize"]),
            ),
        ]
    funasr = PeerServer(
        [
            *(sys.executable, "-c", _FUNASR_SERVER, "--device", "cpu"),
            *("--model-path", str(models / "SenseVoiceSmall")),
        ]
    )
    return [
        Arm(SERVICE, kind, "/v1/transcribe", {}, service),
        Arm("funasr-server", kind, "/v1/audio/transcriptions", {"model": "custom"}, funasr),
    ]


def _pocket(models: Path) -> list[str]:
    folder = models / "pocket-tts"
    script = [str(Path(sys.executable).with_name("pocket-tts"))]
    start: Sequence[str] = [sys.executable, "-c", _WITHOUT_TORCHAO] if TORCHAO else script
    return [
        *(*start, "serve", "--config", str(folder / "config.yaml")),
        *("--default-voice", str(folder / "voices" / f"{_VOICE}.safetensors")),
    ]
