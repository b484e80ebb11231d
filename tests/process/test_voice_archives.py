"""Voices that move from one service to another, over HTTP and by the command line."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.process.test_voice_endpoints import HUM, recording
from tests.support.service import NET, ROOT, RunningService, running
from tests.unit.test_voice_archive import facts, packed

pytestmark = pytest.mark.quick

FIRST, SECOND = recording(pitch=150.0), recording("OGG", 300.0)
TAR = {"Content-Type": "application/x-tar"}


@pytest.fixture(scope="module")
def service() -> Iterator[RunningService]:
    with running(HUM | {"VOICE_ENGINE_MAX_REFERENCE_MB": "1"}) as service:
        service.wait_ready()
        yield service


@pytest.fixture
def client(service: RunningService) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.url, timeout=NET) as client:
        yield client


def register(client: httpx.Client, voice_id: str, *recordings: bytes) -> dict[str, Any]:
    response = client.post(
        "/v1/voices/register",
        data={"voice_id": voice_id, "name": f"The {voice_id}", "consent": "by mail"},
        files=[("audio", ("a", data)) for data in recordings],
    )
    assert response.status_code == 200
    return entry(client, voice_id)


def entry(client: httpx.Client, voice_id: str) -> dict[str, Any]:
    found: dict[str, Any] = client.get(f"/v1/voices/{voice_id}").json()
    return found


def export(client: httpx.Client, voice_id: str) -> bytes:
    response = client.get(f"/v1/voices/{voice_id}/archive")
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "application/x-tar"
    assert response.headers["Content-Disposition"] == f'attachment; filename="{voice_id}.tar"'
    assert int(response.headers["Content-Length"]) == len(response.content)
    head = client.head(f"/v1/voices/{voice_id}/archive")
    assert (head.content, head.headers["Content-Length"]) == (b"", str(len(response.content)))
    return response.content


@pytest.mark.parametrize("recordings", [(FIRST,), (FIRST, SECOND)], ids=["one", "two"])
def test_a_voice_moves_to_another_machine(
    client: httpx.Client, recordings: tuple[bytes, ...], tmp_path: Path
) -> None:
    before = register(client, "mover", *recordings)
    archive = export(client, "mover")
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        assert len(tar.getnames()) == 1 + len(recordings)
    with running(HUM | {"VOICES_DIR": str(tmp_path / "voices")}) as other:
        other.wait_ready()
        with httpx.Client(base_url=other.url, timeout=NET) as there:
            for _ in range(2):  # the same again changes nothing
                moved = there.put("/v1/voices/mover/archive", content=archive, headers=TAR)
                assert moved.json() == {"status": "ok", "voice_id": "mover"}
                assert "voices" not in moved.headers["Server-Timing"]
                assert entry(there, "mover") == before
                assert export(there, "mover") == archive
            for number, data in enumerate(recordings, 1):
                path = f"/v1/voices/mover/samples/sample-{number}/audio"
                assert there.get(path).content == data
            speech = {"text": "Hello.", "voice_id": "mover"}
            assert there.post("/v1/tts", json=speech).status_code == 200
    assert client.delete("/v1/voices/mover").status_code == 200


def test_an_archive_may_come_in_a_form_and_under_another_id(client: httpx.Client) -> None:
    register(client, "one", FIRST)
    archive = export(client, "one")
    register(client, "two", SECOND)
    form = {"archive": ("one.tar", archive)}
    assert client.put("/v1/voices/two/archive", files=form).status_code == 200
    assert client.get("/v1/voices/two/audio").content == FIRST
    assert entry(client, "two")["name"] == "The one"
    unknown = client.put("/v1/voices/two/archive", files=form, data={"name": "x"})
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (400, "unknown_option")
    for voice_id in ("one", "two"):
        assert client.delete(f"/v1/voices/{voice_id}").status_code == 200


def put(client: httpx.Client, voice_id: str, content: bytes, **headers: str) -> tuple[int, str]:
    answer = client.put(
        f"/v1/voices/{voice_id}/archive", content=content, headers={**TAR, **headers}
    )
    return answer.status_code, answer.json()["error"]["code"]


def test_what_cannot_be_imported_is_refused_and_leaves_nothing(
    client: httpx.Client, service: RunningService
) -> None:
    good = packed(facts(FIRST), FIRST)
    assert put(client, "hum", good) == (409, "conflict")  # a built-in voice
    assert put(client, "a.b", good) == (400, "invalid_option")
    assert put(client, "new", b"") == (400, "empty_audio")
    assert put(client, "new", good[:1000]) == (400, "invalid_request")
    assert put(client, "new", packed(facts(SECOND), FIRST)) == (400, "invalid_request")
    assert put(client, "new", packed(facts(b"noise"), b"noise"))[0] == 400  # in a worker
    assert put(client, "new", good, **{"Content-Type": "text/plain"})[0] == 415
    large = b"x" * (1 << 20)
    assert put(client, "new", packed(facts(large, b"y"), large, b"y"))[0] == 413
    assert put(client, "new", bytes(3 << 20)) == (413, "payload_too_large")
    assert client.get("/v1/voices/new").status_code == 404
    for missing in ("new", "hum", "a.b"):
        assert client.get(f"/v1/voices/{missing}/archive").status_code == 404


def test_the_command_line_moves_a_voice(
    client: httpx.Client, service: RunningService, tmp_path: Path
) -> None:
    register(client, "walker", FIRST)
    before = export(client, "walker")

    def command(*arguments: str) -> int:
        line = [sys.executable, "-m", "supervisor.cli", "--url", service.url, "voices", *arguments]
        return subprocess.run(
            line, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, timeout=NET, check=False
        ).returncode

    assert command("export", "walker") == 0
    assert (tmp_path / "walker.tar").read_bytes() == before
    assert command("rm", "walker") == 0
    assert command("import", "walker.tar") == 0
    assert export(client, "walker") == before
    assert command("import", "walker.tar", "--name", "runner") == 0
    assert entry(client, "runner")["name"] == "The walker"
    assert command("export", "nobody") != 0
    assert not (tmp_path / "nobody.tar").exists()
