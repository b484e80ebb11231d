"""The service on a cluster of three nodes, with two fronts."""

from __future__ import annotations

import asyncio
import io
import json
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from supervisor.voices.bucket import Bucket
from tests.support.cluster import Nodes, cluster, front_of, nodes, scripted, up
from tests.support.recordings import spoken
from tests.support.s3 import environment_of, make_bucket, s3_server
from tests.support.service import (
    NET,
    ROOT,
    RunningService,
    recording_form,
    running,
    script_form,
)

pytestmark = [pytest.mark.timeout(300)]

BUCKET = "s3://voices/of-a-cluster"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cluster")


@pytest.fixture(scope="module")
def s3() -> Iterator[int]:
    with s3_server() as port:
        yield port


@pytest.fixture(scope="module")
def three(s3: int) -> Iterator[Nodes]:
    with nodes(3, environment_of(s3)) as found:
        yield found


@pytest.fixture(scope="module")
def application(three: Nodes, folder: Path) -> str:
    settings = {
        **{"voices_dir": str(folder / "replicas"), "spool_dir": str(folder)},
        **{"max_attempts": 2, "queue_size": 8},
    }
    return up(three.address, scripted(replicas=2, **settings), folder)


@pytest.fixture(scope="module")
def fronts(
    three: Nodes, application: str, folder: Path
) -> Iterator[tuple[RunningService, RunningService]]:
    environment = {
        **front_of(three.address, application),
        "VOICES_DIR": str(folder / "voices"),
        "VOICE_ENGINE_RATE_LIMIT_PER_MINUTE": "0",
    }
    with running(environment) as first, running(environment) as second:
        first.wait_ready()
        second.wait_ready()
        yield first, second


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    timeout = aiohttp.ClientTimeout(total=NET)
    async with aiohttp.ClientSession(timeout=timeout) as made:
        yield made


async def clone(
    session: aiohttp.ClientSession, front: RunningService, script: str, **options: str
) -> bytes:
    async with session.post(f"{front.url}/v1/clone", data=script_form(script, **options)) as answer:
        assert answer.status == 200, await answer.text()
        return await answer.read()


async def test_both_fronts_speak_with_the_same_replicas(
    session: aiohttp.ClientSession, fronts: tuple[RunningService, RunningService]
) -> None:
    sounds = {await clone(session, front, "say 50", seed="7") for front in fronts for _ in range(3)}
    assert len(sounds) == 1
    health = fronts[0].health()
    assert health["status"] == "ok"
    assert health["models"]["tts"]["workers"] == 2
    workers = fronts[0].children(model="tts")
    assert len(workers) == 2
    assert len({child["name"] for child in workers}) == 2
    assert all(child["node"] for child in workers)
    assert {child["pid"] for child in workers} == {
        child["pid"] for child in fronts[1].children(model="tts")
    }


async def test_a_large_recording_reaches_a_worker_whole(
    session: aiohttp.ClientSession, fronts: tuple[RunningService, RunningService]
) -> None:
    for size in (10, 200_000, 1_500_000, 30_000_000):
        form = recording_form("segment whole; ", size)
        async with session.post(f"{fronts[0].url}/v1/transcribe", data=form) as answer:
            assert answer.status == 200, await answer.text()
            heard = await answer.json()
        assert json.loads(heard["raw"])["bytes"] == max(size, len("segment whole; "))


@pytest.fixture
def spools(fronts: tuple[RunningService, RunningService], folder: Path) -> list[Path]:
    """The folders for uploads of both replicas that speak and of the one that transcribes."""
    found = list(folder.glob("voice-engine-spool-*"))
    assert len(found) == 3
    return found


async def test_a_replica_that_cannot_write_a_recording_says_so(
    session: aiohttp.ClientSession,
    fronts: tuple[RunningService, RunningService],
    spools: list[Path],
) -> None:
    for spool in spools:
        spool.rename(spool.with_name(f"away-{spool.name}"))
    form = recording_form("segment whole; ", 1_500_000)
    async with session.post(f"{fronts[0].url}/v1/transcribe", data=form) as answer:
        assert answer.status == 503
        assert (await answer.json())["error"]["code"] == "spool_full"
    for spool in spools:
        spool.with_name(f"away-{spool.name}").rename(spool)
    form = recording_form("segment whole; ", 1_500_000)
    async with session.post(f"{fronts[0].url}/v1/transcribe", data=form) as answer:
        assert answer.status == 200


async def test_a_stream_comes_as_it_is_made(
    session: aiohttp.ClientSession,
    fronts: tuple[RunningService, RunningService],
    tmp_path: Path,
) -> None:
    gate = tmp_path / "gate"
    form = script_form(f"say 5; wait {gate}; say 5", stream="true", seed="1")
    async with session.post(f"{fronts[0].url}/v1/clone", data=form) as answer:
        first = await answer.content.readany()
        assert first
        gate.touch()
        rest = await answer.read()
    whole = await clone(session, fronts[1], "say 10", seed="1", stream="true")
    assert first + rest == whole


async def test_a_client_that_goes_stops_its_request(
    session: aiohttp.ClientSession,
    fronts: tuple[RunningService, RunningService],
    tmp_path: Path,
) -> None:
    gate = tmp_path / "gate"  # which nobody opens
    asked = [
        asyncio.create_task(clone(session, fronts[0], f"say 1; wait {gate}")) for _ in range(2)
    ]
    await asyncio.to_thread(
        fronts[1].wait_until, lambda health: health["models"]["tts"]["free_slots"] == 0
    )
    for task in asked:
        task.cancel()
    await asyncio.to_thread(
        fronts[1].wait_until, lambda health: health["models"]["tts"]["free_slots"] == 2
    )


async def test_errors_are_those_of_one_machine(
    session: aiohttp.ClientSession, fronts: tuple[RunningService, RunningService]
) -> None:
    async with session.post(
        f"{fronts[0].url}/v1/clone", data=script_form("raise it is broken")
    ) as answer:
        assert answer.status == 500
        assert (await answer.json())["error"]["code"] == "engine_error"
    async with session.post(f"{fronts[0].url}/v1/models/tts/scale", json={"workers": 3}) as answer:
        assert answer.status == 409
        assert "voice-engine cluster up" in await answer.text()
    async with session.post(f"{fronts[0].url}/v1/models/tts/unload", json={}) as answer:
        assert answer.status == 409


async def test_what_kills_workers_is_refused_by_every_replica(
    session: aiohttp.ClientSession, fronts: tuple[RunningService, RunningService]
) -> None:
    script = "exit 3; say 77"
    async with session.post(f"{fronts[0].url}/v1/clone", data=script_form(script)) as answer:
        assert answer.status == 500, await answer.text()
        assert (await answer.json())["error"]["code"] == "worker_crashed"
    for front in (*fronts, *fronts, *fronts):
        while True:  # replicas hear of it within a second
            async with session.post(f"{front.url}/v1/clone", data=script_form(script)) as answer:
                code = (await answer.json())["error"]["code"]
            if code == "quarantined":
                break
            assert code == "worker_crashed"


async def test_a_worker_that_dies_makes_no_seam(
    session: aiohttp.ClientSession,
    fronts: tuple[RunningService, RunningService],
    tmp_path: Path,
) -> None:
    whole = await clone(session, fronts[0], "say 30", seed="3", stream="true")
    gate = tmp_path / "gate"
    form = script_form(f"say 10; wait {gate}; say 20", stream="true", seed="3")
    async with session.post(f"{fronts[0].url}/v1/clone", data=form) as answer:
        got = await answer.content.readany()
        busy = await asyncio.to_thread(_busy, fronts[1])
        name = busy["name"]
        async with session.post(f"{fronts[1].url}/v1/children/{name}/kill", json={}) as acted:
            assert acted.status == 202
        gate.touch()
        got += await answer.read()
    assert got == whole


def _busy(front: RunningService) -> dict[str, Any]:
    """The worker that has a request."""

    def found(health: dict[str, Any]) -> list[dict[str, Any]]:
        return [child for child in health["children"] if child["in_flight"]]

    return found(front.wait_until(lambda health: bool(found(health))))[0]


@pytest.fixture
async def bucket(s3: int, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    for name, value in environment_of(s3).items():
        monkeypatch.setenv(name, value)
    await make_bucket(s3, "voices")
    return Bucket(BUCKET)


@pytest.mark.parametrize("place", ["folder", "bucket"])
async def test_a_voice_of_one_front_speaks_at_the_other(
    session: aiohttp.ClientSession, three: Nodes, folder: Path, bucket: Bucket, place: str
) -> None:
    # The replicas do not share the folder of the fronts: these send the recording, or replicas get
    # it from the bucket. The second recording is too long for a frame.
    shared: dict[str, str] = {}
    if place == "bucket":
        shared = {"voices_url": BUCKET}
    config = scripted(replicas=2, voices_dir=str(folder / f"elsewhere-{place}"), **shared)
    config["application"] = place
    config["models"][0]["engine"] = "flite"
    del config["models"][0]["kind"]
    application = await asyncio.to_thread(up, three.address, config, folder)
    said = "This is how I speak, on a good day at least. "
    recordings = [await asyncio.to_thread(spoken, said * count) for count in (2, 30)]
    environment = {
        **front_of(three.address, application),
        **{name.upper(): value for name, value in shared.items()},
    }
    if place == "folder":
        environment["VOICES_DIR"] = str(folder / "shared")
    with running(environment) as first, running(environment) as second:
        first.wait_ready()
        second.wait_ready()
        for number, recording in enumerate(recordings):
            form = aiohttp.FormData({"voice_id": f"anna-{number}"})
            form.add_field("reference_audio", io.BytesIO(recording), filename="a.wav")
            async with session.post(f"{first.url}/v1/voices/register", data=form) as answer:
                assert answer.status == 200, await answer.text()
            for front in (first, second, second, first):
                await _speak(session, front, f"anna-{number}")
            if place == "bucket" and number == 0:
                while not await bucket.objects("encoded"):
                    await _speak(session, first, "anna-0")
                config["settings"]["voices_dir"] = str(folder / "empty")
                await _replace(first, three, config, folder)
                # The new replicas have nothing of their own, and encode nothing.
                assert await _speak(session, first, "anna-0") == "hit"
            async with session.delete(f"{second.url}/v1/voices/anna-{number}") as answer:
                assert answer.status == 200, await answer.text()
    assert cluster(three.address, "down", "--application", application).returncode == 0


async def _speak(session: aiohttp.ClientSession, front: RunningService, voice: str) -> str | None:
    """Speak with a registered voice; whether a worker had it encoded."""
    order = {"text": "Hello.", "voice_id": voice}
    async with session.post(f"{front.url}/v1/tts", json=order) as answer:
        assert answer.status == 200, await answer.text()
        return answer.headers.get("X-Voice-Cache")


async def _replace(
    front: RunningService, three: Nodes, config: dict[str, Any], folder: Path
) -> None:
    """Deploy another version, and wait until none of the old replicas is left."""
    before = {child["pid"] for child in await asyncio.to_thread(front.children)}
    await asyncio.to_thread(up, three.address, config, folder)
    await asyncio.to_thread(
        front.wait_until,
        lambda health: not before & {child["pid"] for child in health["children"]},
    )


async def test_a_rate_limit_counts_at_all_fronts_together(
    session: aiohttp.ClientSession, three: Nodes, application: str, folder: Path
) -> None:
    environment = {
        **front_of(three.address, application),
        "VOICES_DIR": str(folder / "voices"),
        "VOICE_ENGINE_RATE_LIMIT_PER_MINUTE": "4",
    }
    with running(environment) as first, running(environment) as second:
        statuses = []
        for front in (first, second, first, second, first, second):
            async with session.get(f"{front.url}/v1/voices") as answer:
                statuses.append(answer.status)
    assert statuses[:4] == [200] * 4
    assert 429 in statuses[4:]


@pytest.mark.neural
async def test_the_example_speaks_and_hears(
    session: aiohttp.ClientSession, three: Nodes, folder: Path
) -> None:
    # The examples of the help, in the order in which people need them; the name of the application
    # is taken here.
    file = folder / "example.yaml"
    file.write_text((ROOT / "ops" / "cluster.yaml").read_text() + "application: example\n")
    started = await asyncio.to_thread(cluster, three.address, "up", str(file))
    assert started.returncode == 0, started.stderr
    with running(front_of(three.address, "example")) as front:
        front.wait_ready()
        said = {"text": "The weather is nice today.", "response_format": "wav"}
        async with session.post(f"{front.url}/v1/tts", json=said) as answer:
            assert answer.status == 200, await answer.text()
            form = aiohttp.FormData()
            form.add_field("file", await answer.read(), filename="said.wav")
        async with session.post(f"{front.url}/v1/transcribe", data=form) as answer:
            assert answer.status == 200, await answer.text()
            assert "weather" in (await answer.json())["text"].lower()
        async with session.get(f"{front.url}/metrics") as answer:
            assert answer.status == 200, await answer.text()
            assert 'voice_engine_workers{model="tts",state="READY"} 1.0' in await answer.text()
        async with session.get(f"{front.url}/v1/children") as answer:
            children = (await answer.json())["children"]
            assert {child["model"] for child in children} >= {"tts", "stt", "vad"}
    ended = await asyncio.to_thread(cluster, three.address, "down", "--application", "example")
    assert ended.returncode == 0, ended.stderr
    assert "ended: stt, tts, vad" in ended.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_a_front_makes_its_machine_a_node_as_long_as_it_runs(
    session: aiohttp.ClientSession,
    three: Nodes,
    application: str,
    folder: Path,
    number: signal.Signals,
) -> None:
    environment = {**front_of(three.address, application), "VOICES_DIR": str(folder / "voices")}
    try:
        with running(environment, module="tests.support.other_machine") as front:
            front.wait_for("cluster_joined")
            front.wait_ready()
            assert await clone(session, front, "say 5; sleep 0.01; say 5", stream="true")
            processes = front.processes()
            assert "raylet" in {process.name() for process in processes}
            front.stop(number)
            _, left = await asyncio.to_thread(psutil.wait_procs, processes, NET)
    except AssertionError as error:
        if "Operation not permitted" in str(error):
            pytest.skip("this kernel gives ordinary users no namespaces")
        raise
    assert left == []


def test_commands_tell_what_is_wrong(three: Nodes, application: str, folder: Path) -> None:
    shown = cluster(three.address, "status")
    assert shown.returncode == 0
    assert "RUNNING" in shown.stdout
    assert shown.stdout.count("SERVING") == 3
    nothing = cluster(three.address, "status", "--application", "another")
    assert nothing.returncode == 75
    assert "voice-engine cluster up FILE" in nothing.stderr
    nobody = cluster("127.0.0.1:9", "status")
    assert nobody.returncode == 75
    assert "no Ray cluster answers at 127.0.0.1:9" in nobody.stderr
    wrong = folder / "wrong.yaml"
    wrong.write_text("models: [{engine: nonsense}]")
    refused = cluster(three.address, "up", str(wrong))
    assert refused.returncode == 78
    assert "nonsense is unknown" in refused.stderr


def test_a_front_without_its_application_says_so(three: Nodes) -> None:
    environment = {**front_of(three.address, "missing"), "VOICE_ENGINE_CLUSTER_WAIT": "0"}
    with (
        pytest.raises(AssertionError, match="voice-engine cluster up FILE"),
        running(environment),
    ):
        pass
