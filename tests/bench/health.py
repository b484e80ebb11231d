"""Part `health`: how fast GET /health answers while one model misbehaves and the other works."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass

from ipc.engines import Json
from tests.bench.clients import Answers, Client, busy
from tests.bench.load import Measured, Plan, finish, start
from tests.bench.report import Cell, Table, step
from tests.support.service import RunningService, recording_form, running, script_form

_RATE = 20.0
_AIM_MS = 50.0

_IMPATIENT = {
    "VOICE_ENGINE_REQUEST_TIMEOUT": "1",
    "VOICE_ENGINE_PING_TIMEOUT": "1",
    # So that it misbehaves all the time, and is not given up after a few failures.
    "VOICE_ENGINE_BACKOFF_MAX": "0.2",
    "VOICE_ENGINE_FAILURES_MAX": "100000",
}


@dataclass(frozen=True, slots=True)
class _Scenario:
    """What the speech engine is told, by how many clients, and what its service is set to."""

    name: str
    script: str | None
    clients: int = 4
    load_script: str = ""


_SCENARIOS = (
    _Scenario("nothing to do", None),
    _Scenario("parallel load", "say 50", clients=8),
    _Scenario("crashes at every request", "crash"),
    _Scenario("crashes while loading", "say 1", load_script="crash"),
    _Scenario("hangs", "hang"),
    _Scenario("hangs with the interpreter's lock", "spin"),
    _Scenario("writes garbage to its pipe", "garbage; hang"),
)


def run(*, quick: bool) -> list[Table]:
    """Ask 20 times a second in every scenario."""
    seconds = 2 if quick else 10
    rows = []
    for scenario in _SCENARIOS:
        step(f"health: {scenario.name}, {seconds} s")
        environment = {**_IMPATIENT, "VOICE_TEST_LOAD": scenario.load_script}
        with running(environment) as service:
            service.wait_until(_all_loaded if not scenario.load_script else _stt_loaded)
            rows.append(asyncio.run(_row(service, scenario, seconds)))
    return [
        Table(
            f"health: GET /health, {_RATE:.0f} times a second (aim: p99 under {_AIM_MS:.0f} ms)",
            (
                *("the speech model", "p50 ms", "p99 ms", "longest ms"),
                *("failures", "transcriptions", "not answered"),
            ),
            rows,
            [
                "timed from when a request was due, from a process of its own",
                "failures: deaths of its processes and failed starts, as logged meanwhile",
                "transcriptions: what the other model answered two clients meanwhile",
            ],
        )
    ]


def _stt_loaded(health: Json) -> bool:
    return bool(health["asr_loaded"])


def _all_loaded(health: Json) -> bool:
    return bool(health["asr_loaded"] and health["tts_loaded"])


async def _row(service: RunningService, scenario: _Scenario, seconds: int) -> tuple[Cell, ...]:
    clients: list[Client] = []
    if (script := scenario.script) is not None:
        # Each request is another one: the same one again would be quarantined.
        speech = Client("/v1/clone", lambda n: script_form(f"{script}; print {n}"))
        clients = [speech] * scenario.clients
        clients += [Client("/v1/transcribe", lambda n: recording_form("sleep 0.01"))] * 2
    before = _failures(service)
    async with busy(service, clients) as answers:
        plan = Plan(service.port, "/health", int(seconds * _RATE), rate=_RATE)
        measured: Measured = await asyncio.to_thread(lambda: finish(start(plan)))
    heard = _transcriptions(answers)
    return (
        scenario.name,
        measured.p50,
        measured.p99,
        measured.longest,
        _failures(service) - before,
        heard[0] if clients else None,
        heard[1] if clients else None,
    )


def _failures(service: RunningService) -> int:
    names = ("worker_died", "template_died", "start_failed")
    return sum(event["event"] in names for event in list(service.events))


def _transcriptions(answers: Answers) -> tuple[int, int]:
    counter = answers.get("/v1/transcribe", Counter())
    return counter["200"], counter.total() - counter["200"]
