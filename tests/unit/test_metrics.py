"""Metrics: their names, the bounds of their labels, and their values of events and statuses."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from supervisor.dispatch.dispatcher import REFUSALS
from supervisor.events import Event
from supervisor.http.connection import Connections, Protocol
from supervisor.memory.limits import MB
from supervisor.memory.recycling import Reason
from supervisor.metrics.metrics import Metrics
from supervisor.metrics.state import ProcessNames
from supervisor.service import VERSION, Service
from supervisor.workers.handle import Cause
from supervisor.workers.lifecycle import ModelState
from tests.support.made_up import MadeUp, child, happen, made_up, template
from tests.support.metrics_table import Scraped, in_document, table

CONTRACT = {
    "build_info": {"version", "python"},
    "uptime_seconds": set(),
    "requests_total": {"method", "route", "status", "model"},
    "request_seconds": {"route"},
    "stage_seconds": {"model", "stage"},
    "real_time_factor": {"model"},
    "sound_seconds_total": {"model", "direction"},
    "http_bytes_total": {"direction"},
    "queue_length": {"model"},
    "queue_seconds": {"model"},
    "in_flight": {"model"},
    "model_state": {"model", "state"},
    "model_paused": {"model"},
    "workers": {"model", "state"},
    "workers_wanted": {"model"},
    "free_slots": {"model"},
    "process_memory_bytes": {"process", "model", "type"},
    "process_limit_bytes": {"process", "model", "limit"},
    "memory_usage_bytes": set(),
    "memory_limit_bytes": set(),
    "recycles_total": {"model", "reason"},
    "recycle_seconds": {"model"},
    "recycled_bytes_total": {"model"},
    "deaths_total": {"model", "role", "cause"},
    "start_failures_total": {"model"},
    "replays_total": {"model"},
    "refusals_total": {"model", "reason"},
    "quarantines_total": {"model"},
    "voice_cache_total": {"result"},
    "voice_cache_bytes": set(),
    "voices": set(),
    "connections": set(),
    "sessions": {"kind"},
    "sessions_limit": set(),
    "connections_limit": set(),
    "connections_refused_total": set(),
    "event_loop_lag_seconds": set(),
    "events_total": {"event", "level"},
}
"""What dashboards and alerts rely on: every metric, with its labels."""

Parts = tuple[Service, MadeUp, Metrics]


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncIterator[Parts]:
    """A service with one model, what that says of itself, and its metrics."""
    service, backend, metrics = made_up(tmp_path)
    yield service, backend, metrics
    await metrics.close()
    await service.close()


async def scrape(metrics: Metrics) -> Scraped:
    text, media_type = await metrics.render("")
    assert media_type.startswith("text/plain; version=0.0.4")
    return Scraped(text.decode())


async def test_every_metric_is_there_with_its_labels_and_no_other(parts: Parts) -> None:
    service, _, metrics = parts
    happen(service)
    found = await scrape(metrics)
    assert {f"voice_engine_{name}" for name in CONTRACT} == set(found.families)
    assert {name: found.labels(name) for name in CONTRACT} == CONTRACT


async def test_names_say_what_they_count_and_in_what_unit(parts: Parts) -> None:
    service, _, metrics = parts
    happen(service)
    found = await scrape(metrics)
    for name, family in found.families.items():
        assert family.documentation.endswith("."), name
        assert name.endswith("_total") == (family.type == "counter"), name
        # Prometheus' base units, of which a name has none, or one at its end.
        assert not set(name.split("_")) & {"ms", "mb", "kb", "milliseconds", "megabytes"}, name
        for unit in ("seconds", "bytes"):
            if unit in name:
                assert name.removesuffix("_total").endswith(unit), name


async def test_the_document_lists_every_metric(parts: Parts) -> None:
    service, _, metrics = parts
    happen(service)
    listed = table((await scrape(metrics)).families.values())
    assert in_document() == listed, "run: python -m tests.support.metrics_table --write"


async def test_events_are_counted_and_timed(parts: Parts) -> None:
    service, _, metrics = parts
    happen(service)
    found = await scrape(metrics)

    def buckets(name: str, below: str, above: str, **labels: str) -> tuple[float | None, ...]:
        """How many were below one bound and below the next."""
        return tuple(found.value(f"{name}_bucket", le=le, **labels) for le in (below, above))

    request = {"method": "POST", "route": "/v1/tts", "status": "200", "model": "tts"}
    probe = {"method": "GET", "route": "/livez", "status": "200", "model": ""}
    assert (found.value("requests_total", **request), found.value("requests_total", **probe)) == (
        1,
        1,
    )
    assert buckets("request_seconds", "1.0", "2.5", route="/v1/tts") == (0, 1)
    assert buckets("request_seconds", "0.005", "0.025", route="/livez") == (1, 1)
    assert found.value("http_bytes_total", direction="in") == 300
    assert found.value("http_bytes_total", direction="out") == 90_016
    assert buckets("stage_seconds", "0.1", "0.2", model="tts", stage="first_byte") == (0, 1)
    stage = {"model": "tts", "stage": "inference"}
    assert found.value("stage_seconds_sum", **stage) == 2.5
    assert buckets("stage_seconds", "0.5", "1.0", **stage) == (0, 1)
    assert buckets("stage_seconds", "1.0", "2.0", **stage) == (1, 2)
    assert found.value("stage_seconds_count", model="tts", stage="queue") == 2
    assert found.value("stage_seconds_sum", model="tts", stage="encode") == 0.5
    assert found.value("real_time_factor_sum", model="tts") == 0.25
    assert found.value("real_time_factor_count", model="tts") == 1
    assert found.value("sound_seconds_total", model="tts", direction="made") == 8
    assert found.value("voice_cache_total", result="hit") == 1
    assert found.value("voice_cache_total", result="miss") == 1
    assert buckets("recycle_seconds", "0.1", "0.25", model="tts") == (0, 1)
    assert found.value("recycle_seconds_sum", model="tts") == pytest.approx(0.2)
    assert found.value("recycles_total", model="tts", reason="soft memory limit") == 1
    assert found.value("recycled_bytes_total", model="tts") == 200.5 * MB
    assert found.value("deaths_total", model="tts", role="worker", cause="signal") == 1
    assert found.value("deaths_total", model="tts", role="template", cause="signal") == 1
    assert found.value("start_failures_total", model="tts") == 1
    assert found.value("replays_total", model="tts") == 1
    assert found.value("refusals_total", model="tts", reason="overloaded") == 1
    assert found.value("quarantines_total", model="tts") == 1
    assert found.value("events_total", event="finished", level="debug") == 2


async def test_what_may_come_later_is_0_now(parts: Parts) -> None:
    *_, metrics = parts
    found = await scrape(metrics)
    every = {
        ("recycles_total", "reason"): {reason.value for reason in Reason},
        ("deaths_total", "cause"): {cause.value for cause in Cause},
        ("deaths_total", "role"): {"worker", "template"},
        ("refusals_total", "reason"): {code.wire_name for code in REFUSALS},
        ("voice_cache_total", "result"): {"hit", "miss"},
        ("http_bytes_total", "direction"): {"in", "out"},
    }
    assert {each: found.label_values(*each) for each in every} == every
    for name in {name for name, _ in every}:
        samples = found.families[f"voice_engine_{name}"].samples
        assert {sample.value for sample in samples} == {0}


async def test_the_state_is_that_at_the_moment(parts: Parts) -> None:
    _, backend, metrics = parts
    found = await scrape(metrics)
    model = {"model": "tts"}
    assert found.value("queue_length", **model) == 2
    assert found.value("queue_seconds", **model) == 12.5
    assert found.value("in_flight", **model) == 3
    assert found.value("workers_wanted", **model) == 2
    assert found.value("free_slots", **model) == 7
    assert found.value("model_paused", **model) == 0
    assert found.value("workers", state="READY", **model) == 1
    assert found.value("workers", state="DRAINING", **model) == 0
    states = {
        state.value: found.value("model_state", state=state.value, **model) for state in ModelState
    }
    assert states == {state.value: state is ModelState.SERVING for state in ModelState}
    worker = {"process": "tts-worker-1", **model}
    memory = {
        t: found.value("process_memory_bytes", type=t, **worker) for t in ("rss", "uss", "pss")
    }
    assert memory == {"rss": 800 * MB, "uss": 100 * MB, "pss": 300 * MB}
    limits = {
        k: found.value("process_limit_bytes", limit=k, **worker)
        for k in ("baseline", "soft", "hard")
    }
    assert limits == {"baseline": 700 * MB, "soft": 1100 * MB, "hard": 1500 * MB}
    front = {"process": "front", "model": ""}
    assert (found.value("process_memory_bytes", type="rss", **front) or 0) > MB
    assert found.value("process_memory_bytes", type="uss", **front) == 40 * MB
    template_ = {"process": "tts-template", **model}
    assert found.value("process_memory_bytes", type="rss", **template_) == 800 * MB
    assert found.value("process_memory_bytes", type="uss", **template_) is None
    assert found.value("process_limit_bytes", limit="soft", **template_) is None
    assert found.value("memory_usage_bytes") == 900 * MB
    assert found.value("connections") == 3
    assert found.value("connections_limit") == 512
    assert found.value("connections_refused_total") == 1
    assert found.families["voice_engine_build_info"].samples[0].labels["version"] == VERSION
    paused = replace(backend.told, paused=True, state=ModelState.BACKOFF, children=())
    backend.told = paused
    found = await scrape(metrics)
    assert found.value("model_paused", **model) == 1
    assert found.value("model_state", state="BACKOFF", **model) == 1
    assert found.value("model_state", state="SERVING", **model) == 0
    assert found.value("workers", state="READY", **model) == 0
    assert found.label_values("process_memory_bytes", "process") == {"front"}


def test_numbers_of_processes_are_used_again() -> None:
    names = ProcessNames()
    assert names.name("tts", [template(), child(20), child(21)]) == [
        *("tts-template", "tts-worker-1", "tts-worker-2")
    ]
    # The successor of the first one lives beside it, and keeps its number when the first is gone.
    assert names.name("tts", [child(20), child(21), child(22)])[2] == "tts-worker-3"
    assert names.name("tts", [child(22), child(21)]) == ["tts-worker-3", "tts-worker-2"]
    assert names.name("tts", [child(21), child(22), child(23)])[2] == "tts-worker-1"
    # A second template loads while the first one serves.
    both = names.name("tts", [template(30), template(31)])
    assert both == ["tts-template", "tts-template-2"]
    assert names.name("tts", [template(31)]) == ["tts-template"]
    assert names.name("stt", [child(40)]) == ["stt-worker-1"]


def test_a_thousand_recycles_take_two_names() -> None:
    names = ProcessNames()
    found: set[str] = set()
    for before, after in itertools.pairwise(range(100, 1100)):
        found.update(names.name("tts", [child(before), child(after)]))
        found.update(names.name("tts", [child(after)]))
    assert found == {"tts-worker-1", "tts-worker-2"}


async def test_openmetrics_is_what_accept_asks_for(parts: Parts) -> None:
    *_, metrics = parts
    text, media_type = await metrics.render("application/openmetrics-text; version=1.0.0")
    assert media_type.startswith("application/openmetrics-text; version=1.0.0")
    assert text.endswith(b"# EOF\n")


async def test_two_services_count_for_themselves(parts: Parts, tmp_path: Path) -> None:
    service, _, metrics = parts
    other, _, others = made_up(tmp_path / "other")
    happen(service)
    assert (await scrape(metrics)).value("replays_total", model="tts") == 1
    assert (await scrape(others)).value("replays_total", model="tts") == 0
    assert (await scrape(others)).value("stage_seconds_count", model="tts", stage="queue") is None
    await others.close()
    await other.close()


async def test_what_is_closed_counts_no_more(tmp_path: Path) -> None:
    service, _, metrics = made_up(tmp_path)
    metrics.start()
    await metrics.close()
    happen(service)
    found = await scrape(metrics)
    assert found.value("stage_seconds_count", model="tts", stage="queue") is None
    assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []
    await service.close()


def test_connections_that_are_refused_are_counted() -> None:
    told: list[Event] = []
    connections = Connections(1, told.append)
    first, *others = (cast(Protocol, object()) for _ in range(3))
    assert connections.enter(first)
    assert not any(connections.enter(other) for other in others)
    assert (connections.open, connections.refused) == (1, 2)
    connections.leave(first)
    assert (connections.open, connections.refused) == (0, 2)
    assert [event.name for event in told] == ["connections_full"]


async def test_the_lag_of_the_event_loop_is_measured(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    *_, metrics = parts
    monkeypatch.setattr("supervisor.metrics.metrics._LAG_INTERVAL", 0.0)
    metrics.start()
    await asyncio.sleep(0)  # now it looks at the clock
    time.sleep(0.03)  # noqa: ASYNC251 - what it is to notice
    await asyncio.sleep(0)
    found = await scrape(metrics)
    late = found.value("event_loop_lag_seconds_count") or 0
    late -= found.value("event_loop_lag_seconds_bucket", le="0.025") or 0
    assert late >= 1


async def test_the_voice_cache_is_read_from_the_disk_once_a_minute(
    parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    *_, metrics = parts
    folder = tmp_path / ".cache" / "engine-1"
    folder.mkdir(parents=True)
    (folder / "a.voice").write_bytes(bytes(1000))
    assert (await scrape(metrics)).value("voice_cache_bytes") == 1000
    (folder / "b.voice").write_bytes(bytes(500))
    assert (await scrape(metrics)).value("voice_cache_bytes") == 1000
    monkeypatch.setattr("supervisor.metrics.metrics._CACHE_INTERVAL", 0.0)
    assert (await scrape(metrics)).value("voice_cache_bytes") == 1500


async def test_a_disk_that_hangs_does_not_hold_up_a_scrape(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    *_, metrics = parts
    hangs = asyncio.get_running_loop().create_future()
    monkeypatch.setattr(asyncio.get_running_loop(), "run_in_executor", lambda *_: hangs)
    monkeypatch.setattr("supervisor.metrics.metrics._CACHE_WAIT", 0.0)
    await metrics._read_cache()
    await metrics._read_cache()
    assert not hangs.done()
    monkeypatch.undo()
    assert (await scrape(metrics)).value("voice_cache_bytes") is None
    hangs.set_result(7)
    assert (await scrape(metrics)).value("voice_cache_bytes") == 7
