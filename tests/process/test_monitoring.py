"""What watches the service, held to what it has: alerts, dashboard, Prometheus, Compose."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from collections import defaultdict
from collections.abc import Container
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from tests.support.programs import needs_program, program
from tests.support.service import ROOT, running

MONITORING = ROOT / "ops" / "monitoring"
GRAFANA = MONITORING / "grafana"
OPERATIONS = ROOT / "docs" / "operations.md"
ALERTS = MONITORING / "alerts.yml"

_SELECTOR = re.compile(r"(voice_engine_\w+)\{([^}]*)\}")
_MATCHER = re.compile(r'(\w+)(?:=~|!~|!=|=)"([^"]*)"')
_SERIES = re.compile(r"(\w+)(?:\{(.*)\})? \S+")
_LABEL = re.compile(r'(\w+)="([^"]*)"')
_WORDS = frozenset({"sum", "max", "rate", "increase", "histogram_quantile", "or"})
_OPEN = frozenset({"method", "route", "status", "event", "level", "model", "le"})
"""Labels whose values come with requests and events."""


def alerts() -> list[dict[str, Any]]:
    """The rules of the alerts."""
    (group,) = yaml.safe_load(ALERTS.read_text())["groups"]
    rules: list[dict[str, Any]] = group["rules"]
    return rules


def dashboard() -> dict[str, Any]:
    """The dashboard."""
    read: dict[str, Any] = json.loads((GRAFANA / "dashboard.json").read_text())
    return read


def panels() -> list[dict[str, Any]]:
    """The panels of the dashboard that are no rows."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def queries() -> list[str]:
    """All that the dashboard asks Prometheus."""
    asked = [target["expr"] for panel in panels() for target in panel["targets"]]
    return asked + [each["expr"] for each in dashboard()["annotations"]["list"] if "expr" in each]


def promtool(*arguments: object) -> None:
    """Run it; it must find nothing wrong."""
    done = subprocess.run(
        [program("promtool"), *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


# Names


@pytest.fixture(scope="module")
def values() -> dict[str, dict[str, set[str]]]:
    """What /metrics of a service has: each metric, its labels, their values."""

    async def get(url: str) -> str:
        async with aiohttp.ClientSession(url) as client, client.get("/metrics") as response:
            assert response.status == 200
            return await response.text()

    with running() as service:
        service.wait_ready()
        text = asyncio.run(get(service.url))
    found: dict[str, dict[str, set[str]]] = {
        line.split()[2]: defaultdict(set)
        for line in text.splitlines()
        if line.startswith("# TYPE ")
    }
    for line in text.splitlines():
        if not line.startswith("#") and (series := _SERIES.fullmatch(line)):
            for label, value in _LABEL.findall(series[2] or ""):
                found[metric_of(series[1], found)][label].add(value)
    return found


def metric_of(name: str, known: Container[str]) -> str:
    """The name of the metric that a series belongs to."""
    return name if name in known else re.sub(r"_(bucket|sum|count)$", "", name)


@pytest.mark.parametrize(
    "file",
    [ALERTS, MONITORING / "alerts_test.yml", GRAFANA / "dashboard.json", OPERATIONS],
    ids=lambda file: file.name,
)
def test_every_metric_that_is_named_exists(
    file: Path, values: dict[str, dict[str, set[str]]]
) -> None:
    named = set(re.findall(r"\bvoice_engine_\w+", file.read_text()))
    assert named
    assert {name for name in named if metric_of(name, values) not in values} == set()


def test_every_value_of_a_label_that_is_asked_for_can_come(
    values: dict[str, dict[str, set[str]]],
) -> None:
    checked = 0
    for query in [*queries(), *(rule["expr"] for rule in alerts())]:
        for name, matchers in _SELECTOR.findall(query):
            for label, wanted in _MATCHER.findall(matchers):
                if label in ("job", "instance") or label in _OPEN or "$" in wanted:
                    continue
                there = values[metric_of(name, values)][label]
                if label == "type":
                    there = there | {"uss", "pss"}  # they are read later
                if not there:  # a histogram that has measured nothing yet
                    continue
                assert set(wanted.split("|")) <= there, query
                checked += 1
    assert checked > 15


def test_nothing_else_is_asked_for() -> None:
    for query in [*queries(), *(rule["expr"] for rule in alerts())]:
        rest = re.sub(r"\{[^}]*\}|\[[^\]]*\]|by \([^)]*\)", "", query)
        names = set(re.findall(r"[a-zA-Z_]\w*", rest)) - _WORDS
        assert names, query
        assert all(name == "up" or name.startswith("voice_engine_") for name in names), query


# Alerts


def test_every_alert_says_what_to_do() -> None:
    headings = re.findall(r"^#+ (.+)$", OPERATIONS.read_text(), re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
    for rule in alerts():
        assert rule["labels"]["severity"] in ("critical", "warning")
        said = rule["annotations"]
        assert set(said) == {"summary", "description", "runbook"}
        page, _, anchor = said["runbook"].partition("#")
        assert ROOT / page == OPERATIONS
        assert anchor == rule["alert"].lower()
        assert anchor in anchors


def test_every_alert_is_tested_to_fire_and_not_to() -> None:
    tests = yaml.safe_load((MONITORING / "alerts_test.yml").read_text())["tests"]
    fires = set()
    for test in tests:
        assert any('instance="good' in series["series"] for series in test["input_series"])
        for check in test["alert_rule_test"]:
            if check["exp_alerts"]:
                (expected,) = check["exp_alerts"]
                assert expected["exp_labels"]["instance"] == "bad:9464"
                fires.add(check["alertname"])
    assert fires == {rule["alert"] for rule in alerts()}


@needs_program("promtool")
def test_promtool_accepts_alerts_and_configuration() -> None:
    promtool("check", "config", MONITORING / "prometheus.yml")
    promtool("check", "rules", ALERTS)
    promtool("test", "rules", MONITORING / "alerts_test.yml")


# Grafana


@needs_program("promtool")
def test_prometheus_understands_the_dashboard(tmp_path: Path) -> None:
    rules = []
    for number, query in enumerate(queries()):
        asked = query.replace("$__rate_interval", "1m")
        rules.append({"record": f"query:{number}", "expr": re.sub(r"\$\w+", "x", asked)})
    file = tmp_path / "rules.json"  # which is YAML, too
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", file)


def test_the_dashboard_is_whole() -> None:
    read = dashboard()
    every = read["panels"]
    assert len({panel["id"] for panel in every}) == len(every)
    assert [panel["title"] for panel in every if panel["type"] == "row"] == [
        *("Overview", "Latency", "Queue and refusals", "Memory", "Recycles and deaths"),
        *("Speed and sound", "Front"),
    ]
    source = {"type": "prometheus", "uid": "${datasource}"}
    cells: set[tuple[int, int]] = set()
    for panel in every:
        place = panel["gridPos"]
        taken = {
            (place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])
        }
        assert not taken & cells, f"{panel['title']} lies over another one"
        assert place["x"] + place["w"] <= 24
        cells |= taken
    for panel in panels():
        assert panel["description"].endswith(".")
        assert all(each["datasource"] == source for each in (panel, *panel["targets"]))
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    variables = {each["name"]: each for each in read["templating"]["list"]}
    assert set(variables) == {"datasource", "instance", "model"}
    assert variables["datasource"]["type"] == "datasource"
    used = set(re.findall(r"\$(\w+)", " ".join(queries()))) - {"__rate_interval"}
    assert used == {"instance", "model"}


def test_the_dashboard_shows_every_metric(values: dict[str, dict[str, set[str]]]) -> None:
    shown = {metric_of(name, values) for name in re.findall(r"voice_engine_\w+", str(queries()))}
    assert set(values) - shown == set()


# Compose


def test_compose_fits_together() -> None:
    compose = yaml.safe_load((ROOT / "ops" / "compose.yaml").read_text())
    services = compose["services"]
    service = services["voice-engine"]
    assert "profiles" not in service
    assert services["prometheus"]["profiles"] == services["grafana"]["profiles"] == ["monitoring"]
    # Prometheus reaches the metrics in the network of the containers, nobody does from outside.
    port = service["environment"]["VOICE_ENGINE_METRICS_PORT"]
    scrape = yaml.safe_load((MONITORING / "prometheus.yml").read_text())["scrape_configs"]
    assert [each["static_configs"] for each in scrape] == [[{"targets": [f"voice-engine:{port}"]}]]
    assert not any(port in published for published in service["ports"])
    (source,) = yaml.safe_load(
        (GRAFANA / "provisioning" / "datasources" / "prometheus.yml").read_text()
    )["datasources"]
    assert source["url"] == "http://prometheus:9090"
    (provider,) = yaml.safe_load(
        (GRAFANA / "provisioning" / "dashboards" / "voice-engine.yml").read_text()
    )["providers"]
    mounts = [mount.split(":") for each in services.values() for mount in each["volumes"]]
    inside = [mount[1] for mount in mounts]
    assert f"{provider['options']['path']}/voice-engine.json" in inside
    for mount in mounts:
        if mount[0].startswith("."):
            assert (ROOT / "ops" / mount[0]).exists()
            assert mount[2] == "ro"
        else:
            assert mount[0] in compose["volumes"]
    assert "ops/secrets.env" in (ROOT / ".dockerignore").read_text().splitlines()
    assert "/ops/secrets.env" in (ROOT / ".gitignore").read_text().splitlines()


def test_settings_of_compose_are_settings() -> None:
    from supervisor.settings import Settings

    compose = yaml.safe_load((ROOT / "ops" / "compose.yaml").read_text())
    names = set(re.findall(r"`((?:VOICE_ENGINE_)?[A-Z_]+)`", Settings.table()))
    assert set(compose["services"]["voice-engine"]["environment"]) <= names
