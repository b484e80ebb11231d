"""More connections than the service takes, and fewer open files than they need."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import subprocess
import sys

import pytest

from tests.support.service import NET, ROOT, RunningService, running

LIMIT = 8


def ask(service: RunningService, held: contextlib.ExitStack) -> tuple[int, dict[str, str], bytes]:
    """What a new connection is answered; it stays open until `held` ends."""
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=NET)
    held.callback(connection.close)
    connection.request("GET", "/livez")
    response = connection.getresponse()
    return response.status, dict(response.headers), response.read()


def test_one_connection_too_many_is_told_so_at_once_and_the_others_go_on() -> None:
    with running({"VOICE_ENGINE_MAX_CONNECTIONS": str(LIMIT)}) as service:
        with contextlib.ExitStack() as held:
            answers: list[tuple[int, dict[str, str], bytes]] = []
            while not answers or answers[-1][0] == 200:
                answers.append(ask(service, held))
            # One that was closed just now may still count.
            assert 1 <= len(answers) - 1 <= LIMIT
            status, headers, body = answers[-1]
            assert (status, headers["Retry-After"], headers["Connection"]) == (503, "1", "close")
            assert headers["X-Request-Id"]
            refusal = json.loads(body)
            assert refusal["error"]["code"] == "overloaded"
            assert f"all {LIMIT} connections" in refusal["detail"]
            assert ask(service, held)[0] == 503
        with contextlib.ExitStack() as held:
            while ask(service, held)[0] != 200:
                held.close()
        service.wait_until(lambda health: health.get("status") == "ok")
        full = [event for event in service.events if event["event"] == "connections_full"]
        assert [event["connections"] for event in full] == [LIMIT]


async def test_a_connection_that_is_refused_leaves_nothing_behind() -> None:
    with running({"VOICE_ENGINE_MAX_CONNECTIONS": "1"}) as service:
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        for _ in range(20):
            other, other_writer = await asyncio.open_connection("127.0.0.1", service.port)
            assert (await other.read()).startswith(b"HTTP/1.1 503 ")
            other_writer.close()
        writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
        writer.close()
        await asyncio.to_thread(service.wait_until, lambda health: "status" in health)
    assert [event for event in service.events if event.get("level") == "error"] == []


@pytest.mark.parametrize(
    ("soft", "hard", "connections"),
    [
        (1024, 4096, 512),  # the process allows itself what it needs
        (1024, 1024, 256),
        (64, 64, 1),
    ],
)
def test_there_are_no_more_connections_than_files(soft: int, hard: int, connections: int) -> None:
    code = (
        "import resource; from supervisor.http.connection import Connections\n"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))\n"
        "print(Connections(512, id).limit, resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    )
    finished = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    allowed = max(soft, min(hard, 256 + 3 * 512))
    assert finished.stdout.split()[-2:] == [str(connections), str(allowed)]
    assert ("few_open_files" in finished.stdout + finished.stderr) == (connections < 512)
