"""Pulls as programs, and a running service that takes up what they bring."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from model_procs.weights import manifest
from model_procs.weights.published import PUBLISHED, open_pocket
from supervisor.cli.models import engines_and_folder
from supervisor.events import Event
from supervisor.weights import pulling
from supervisor.weights.pulling import Pulling
from tests.support.hubs import Fault, Hubs, running_hubs
from tests.support.pulling import OPEN, publish
from tests.support.recordings import spoken
from tests.support.service import NET, ROOT, running
from tests.support.terminal import take_interrupts

_NO_TOKEN = {"HF_TOKEN": "", "HF_HUB_OFFLINE": "", "HF_TOKEN_PATH": "/nowhere"}


@pytest.fixture
def hubs(nano_models: Path) -> Iterator[Hubs]:
    """Both hubs, with random weights."""
    with running_hubs() as hubs:
        publish(hubs, nano_models)
        yield hubs


def environment(hubs: Hubs, nano_models: Path) -> dict[str, str]:
    """Variables for a pull of random weights."""
    return {**hubs.environment(), **_NO_TOKEN, "VOICE_TEST_MODELS": str(nano_models)}


def start(hubs: Hubs, nano_models: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start a pull."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.support.pulling", "pull", *arguments],
        env={**os.environ, **environment(hubs, nano_models)},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=take_interrupts,  # noqa: PLW1509 - it only sets a signal
    )


def test_the_same_command_finishes_what_ctrl_c_has_ended(
    hubs: Hubs, nano_models: Path, tmp_path: Path
) -> None:
    stop = threading.Event()
    held = Fault("model.pt", cut_after=3_000_000, hold=stop)
    hubs.faults.append(held)
    first = start(hubs, nano_models, "sensevoice", str(tmp_path))
    assert held.reached.wait(NET)
    part = tmp_path / ".pull-SenseVoiceSmall" / "model.pt.incomplete"
    while not (part.exists() and part.stat().st_size > 2_000_000):
        assert first.poll() is None
    first.send_signal(signal.SIGINT)
    stop.set()  # its thread may wait for the connection
    output, _ = first.communicate(timeout=NET)
    assert first.returncode == 130, output
    assert "the same command goes on" in output
    assert not (tmp_path / "SenseVoiceSmall").exists()
    hubs.asked.clear()
    again = start(hubs, nano_models, "sensevoice", str(tmp_path))
    output, _ = again.communicate(timeout=NET)
    assert again.returncode == 0, output
    assert [asked.start > 2_000_000 for asked in hubs.asked if asked.path == "model.pt"] == [True]
    folder = tmp_path / "SenseVoiceSmall"
    told = manifest.read(folder)
    assert told is not None
    assert manifest.damage(folder, told) == []


@pytest.mark.parametrize("engine", ["whisper", "kokoro"])
def test_the_command_refuses_what_is_not_the_published_file(
    hubs: Hubs, tmp_path: Path, engine: str
) -> None:
    (release,) = PUBLISHED[engine]().releases
    for file in release.files:
        hubs.publish(file.repository, file.path, b"other" * 9000)
    finished = subprocess.run(
        [sys.executable, "-m", "supervisor.cli", "models", "pull", engine, str(tmp_path)],
        env={**os.environ, **hubs.environment(), **_NO_TOKEN},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 1
    assert "is not the file that is known here" in finished.stderr
    assert hubs.asked == []


def test_ctrl_c_in_a_terminal_ends_the_command_and_its_program(hubs: Hubs, tmp_path: Path) -> None:
    stop = threading.Event()
    held = Fault("model.bin", hold=stop)
    hubs.head_faults.append(held)
    command = subprocess.Popen(
        [sys.executable, "-m", "supervisor.cli", "models", "pull", "whisper", str(tmp_path)],
        env={**os.environ, **hubs.environment(), **_NO_TOKEN},
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
        preexec_fn=take_interrupts,  # noqa: PLW1509 - it only sets a signal
    )
    assert held.reached.wait(NET)
    os.killpg(command.pid, signal.SIGINT)  # as a terminal does
    _, told = command.communicate(timeout=NET)
    stop.set()
    assert (command.returncode, told) == (
        130,
        "interrupted; the same command goes on where it was\n",
    )


def test_the_program_stays_small() -> None:
    """The service pulls beside its models: the table must not need PyTorch."""
    program = (
        "import sys; from model_procs.weights import fetch, published; "
        "[each() for each in published.all_published().values()]; "
        "import modelscope_hub.compat, huggingface_hub; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0


async def test_a_pull_beside_the_service_is_tried_again_only_where_that_helps(
    hubs: Hubs, nano_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment(hubs, nano_models).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(pulling, "PROGRAM", "tests.support.pulling")
    lifeline, held = os.pipe()
    busy = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(busy, fcntl.LOCK_EX)
    events: list[Event] = []
    notes: list[str | None] = []

    def note(message: str | None) -> None:
        notes.append(message)
        fcntl.flock(busy, fcntl.LOCK_UN)

    def of(engine: str) -> Pulling:
        return Pulling(
            [engine], tmp_path, lifeline=lifeline, publish=events.append, note=note, pauses=(0.0,)
        )

    try:
        await of("sensevoice").run()
        assert notes[0] is not None
        assert "another pull is running" in notes[0]
        assert "it is tried again" in notes[0]
        assert notes[1:] == [None]
        assert [event.name for event in events] == [
            *("pull_started", "pull_failed", "pull_started", "pull_finished")
        ]
        hubs.gated.add(OPEN)
        events.clear()
        await of("pocket").run()
        assert [event.name for event in events] == ["pull_started", "pull_failed"]
        assert notes[-1] is not None
        assert "accept them there" in notes[-1]
    finally:
        for descriptor in (lifeline, held, busy):
            os.close(descriptor)


# A running service


class Requests:
    """Requests for speech, one after the other until the end; none may fail."""

    def __init__(self, client: aiohttp.ClientSession) -> None:
        self._client = client
        self._end = asyncio.Event()
        self.served: list[str] = []
        """The engines that have served them."""

    async def run(self) -> None:
        """Send them."""
        while not self._end.is_set():
            async with self._client.post("/v1/tts", json={"text": "Hello there."}) as response:
                assert response.status == 200, await response.text()
                assert len(await response.read()) > 1000
                self.served.append(response.headers["X-Voice-Engine"])
            await asyncio.sleep(0.1)  # the new engine needs the processor, too

    def end(self) -> None:
        """No more."""
        self._end.set()


async def test_a_service_takes_up_what_is_pulled_and_loses_no_request(
    hubs: Hubs, nano_models: Path, tmp_path: Path
) -> None:
    go_on = threading.Event()
    held = Fault("model.safetensors", cut_after=1_000_000, hold=go_on)
    hubs.faults.append(held)
    settings = {
        **environment(hubs, nano_models),
        "VOICE_ENGINE_TTS_ENGINE": "",
        "VOICE_ENGINE_STT_ENGINE": "tests.support.script_engine:ScriptedRecognizer",
        "VOICE_ENGINE_PROFILE": "auto",
        "VOICE_ENGINE_MODELS_DIR": str(tmp_path / "models"),
        "VOICE_ENGINE_WATCH_MODELS": "0.1",
        "VOICE_ENGINE_PULL": "pocket",
        "VOICE_ENGINE_MEMORY_LIMIT_MB": "6000",
    }
    with running(settings, module="tests.support.pulling_service") as service:
        await asyncio.to_thread(service.wait_ready)
        assert await asyncio.to_thread(held.reached.wait, NET)
        model = service.health()["models"]["tts"]
        assert (model["engine"], model["profile"]) == ("flite", "minimal")
        async with aiohttp.ClientSession(service.url) as client:
            requests = Requests(client)
            asking = asyncio.create_task(requests.run())
            go_on.set()  # the connection breaks, and the child of the service goes on
            await asyncio.to_thread(service.wait_for, "pull_finished")
            found = await asyncio.to_thread(service.wait_for, "weights_found", model="tts")
            assert (found["engine_before"], found["engine"]) == ("flite", "pocket")
            await asyncio.to_thread(service.wait_for, "recycled", model="tts")
            before = len(requests.served)
            await asyncio.to_thread(
                service.wait_until, lambda _: len(requests.served) > before + 1 or asking.done()
            )
            requests.end()
            await asking
            assert requests.served == sorted(requests.served)  # flite, then pocket
            assert set(requests.served) == {"flite", "pocket"}
            # There was no access to the weights that clone.
            assert open_pocket() in service.health()["models"]["tts"]["notes"]
            for path, fields, name in (
                ("/v1/clone", {"text": "Hello."}, "reference_audio"),
                ("/v1/voices/register", {"voice_id": "anna"}, "audio"),
            ):
                form = aiohttp.FormData(fields)
                form.add_field(name, spoken("hello there"), filename="recording.wav")
                async with client.post(path, data=form) as response:
                    body = await response.json()
                assert (response.status, body["error"]["code"]) == (422, "cloning_unavailable")
                assert body["detail"] == open_pocket()


@pytest.mark.parametrize(
    ("models", "pulled", "folder"),
    [
        ("", [], "/data/models"),
        ("kokoro whisper", ["models", "pull", "kokoro", "whisper", "/app/models"], "/app/models"),
    ],
    ids=["none", "two"],
)
def test_an_image_has_the_weights_that_its_build_names(
    tmp_path: Path, models: str, pulled: list[str], folder: str
) -> None:
    """The lines of the Dockerfile with MODELS, as a shell reads them: the syntax is the same."""
    lines = (ROOT / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    (run,) = [line for line in lines if line.startswith("RUN") and "$MODELS" in line]
    (baked,) = [line for line in lines if line.startswith("ARG BAKED=")]
    (environment,) = [line for line in lines if line.startswith("ENV") and "MODELS_DIR" in line]
    (chosen,) = [word for word in environment.split() if word.startswith("VOICE_ENGINE_MODELS_DIR")]
    program = tmp_path / ".venv" / "bin" / "voice-engine"
    program.parent.mkdir(parents=True)
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    program.chmod(0o755)
    script = f"set -e\n{run.removeprefix('RUN')}\n{baked.removeprefix('ARG')}\n{chosen}\n"
    finished = subprocess.run(
        ["sh", "-c", f'{script}echo "$VOICE_ENGINE_MODELS_DIR"'],
        cwd=tmp_path,
        env={**os.environ, "MODELS": models},
        capture_output=True,
        text=True,
        check=True,
    )
    assert finished.stdout.split() == [*pulled, folder]
    assert engines_and_folder(pulled[2:] or ["all"])[0]
