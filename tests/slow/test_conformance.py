"""The service does what its description says, whatever is sent: 2,000 requests by Schemathesis.

Half of them are as the description wants them, half are not. Of the answers, status, media type,
schema and headers must be described; none may be a failure of the service.
"""

from __future__ import annotations

import io
import wave
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

import pytest
import requests
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from supervisor.app import build_app
from supervisor.http.api.operation import ALL_OPERATIONS, Access, Operation
from supervisor.service import Service
from tests.support.lazy import Lazy
from tests.support.service import MINIMAL, NET, RunningService, running
from tests.unit.test_voice_archive import facts, packed

if TYPE_CHECKING:
    import schemathesis
    from schemathesis.specs.openapi import checks
else:
    schemathesis = Lazy("schemathesis")
    checks = Lazy("schemathesis.specs.openapi.checks")

Mode = Literal["positive", "negative"]
"""The kinds of cases that Schemathesis generates."""
KEY = "k-51a7"
ENGINES = {
    **MINIMAL,
    "VOICE_ENGINE_STT_ENGINE": "sphinx,tests.support.listening_engines:Interpreter",
}
"""The minimal ones, and one that translates."""
OPERATIONS = build_app(Service.__new__(Service))[ALL_OPERATIONS]
WITH_BODY, WITHOUT_BODY, FEW = 28, 30, 8
"""Cases of one operation: of each kind with a body, of one that has none; without a key."""


OPTIONS = ("temperature", "decode_steps", "eos_threshold", "noise_clamp", "cfg_guidance")
"""Those of speech that only some engines have."""

KNOWN = {
    **{"voice_id": "anna", "sample_id": "sample-1", "model": "tts-1", "name": "stt-1"},
    **{"file": "app.js", "library_file": "uPlot.min.css"},
}
"""What there is for certain of all that a path can name."""

ACTS = ("/kill", "/scale", "/reload", "/pause", "/resume", "/unload")
"""How the paths end of what would change the service for the other cases: nothing is named there.

`tests/process/test_acts.py` has what they do.
"""


def recording() -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as wav:
        wav.setparams((1, 2, 16_000, 0, "NONE", ""))
        wav.writeframes(b"\0\1\0\xff" * 4_000)
    return file.getvalue()


RECORDING = recording()
ARCHIVE = packed(facts(RECORDING), RECORDING)
"""That of a voice."""


@pytest.fixture(scope="module", autouse=True)
def recordings_for_binary_fields() -> None:
    """What Schemathesis sends where the description says that a field is binary."""
    schemathesis.openapi.format(
        "binary",
        st.just(RECORDING)
        | st.sampled_from([RECORDING[:-7], b"", b"RIFF"])
        | st.binary(max_size=100),
    )


@pytest.fixture(scope="module")
def locked() -> Iterator[RunningService]:
    with running({**ENGINES, "VOICE_ENGINE_API_KEY": KEY}) as service:
        service.wait_ready()
        yield service
        assert_nothing_died(service)


@pytest.fixture(scope="module")
def open_to_all() -> Iterator[RunningService]:
    with running(ENGINES) as service:
        service.wait_ready()
        yield service
        assert_nothing_died(service)


def assert_nothing_died(service: RunningService) -> None:
    assert [event for event in service.events if event["event"] == "worker_died"] == []
    assert [event for event in service.events if event.get("level") == "error"] == []


@pytest.fixture(scope="module")
def locked_schema(locked: RunningService) -> Any:
    return schemathesis.openapi.from_url(f"{locked.url}/openapi.json")


@pytest.fixture(scope="module")
def open_schema(open_to_all: RunningService) -> Any:
    return schemathesis.openapi.from_url(f"{open_to_all.url}/openapi.json")


def likely(case: schemathesis.Case[Any]) -> schemathesis.Case[Any]:
    """The case with names of what there is, and time enough, so that more of them succeed."""
    case.path_parameters = {
        name: KNOWN.get(name, value) for name, value in (case.path_parameters or {}).items()
    }
    if case.path.endswith(ACTS):
        case.path_parameters = dict.fromkeys(case.path_parameters, "nobody")
    case.headers.pop("X-Request-Timeout", None)
    if case.path.endswith("/archive") and isinstance(case.body, dict):
        archive: Any = ARCHIVE
        case.body = {**case.body, "archive": archive}
    if isinstance(case.body, dict):
        for option in (*OPTIONS, "sample_rate"):
            case.body.pop(option, None)
        if case.path == "/v1/log-level" and "level" in case.body:
            case.body["level"] = "info"
        for text in ("text", "input"):
            if case.body.get(text) is not None:
                case.body[text] = f"a {case.body[text]}"[:50]
    return case


def ask(operation: Any, mode: Mode, count: int, headers: dict[str, str]) -> list[int]:
    """Send `count` cases and check the answers; the statuses."""
    statuses: list[int] = []
    conformance: list[Any] = [
        checks.status_code_conformance,
        checks.content_type_conformance,
        checks.response_schema_conformance,
        checks.response_headers_conformance,
    ]
    with requests.Session() as session:
        session.trust_env = False

        @settings(
            max_examples=count,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(
            case=operation.as_strategy(generation_mode=schemathesis.GenerationMode(mode)),
            as_is=st.booleans(),
        )
        def run(case: schemathesis.Case[Any], as_is: bool) -> None:
            hurried = as_is and "X-Request-Timeout" in case.headers
            sent = case if as_is else likely(case)
            if sent.path == "/v1/events":
                sent.query = {**(sent.query or {}), "follow": "false"}  # else it would not end
            try:
                response = sent.call(session=session, headers=headers, timeout=NET)
            except requests.exceptions.ChunkedEncodingError:
                assert hurried  # a stream that is cut when its time is over
                statuses.append(504)
                return
            statuses.append(response.status_code)
            assert response.status_code < 500 or response.status_code in (503, 504 * hurried)
            sent.validate_response(response, checks=conformance)

        run()
    return statuses


def in_schema(schema: Any, declared: Operation[Any, Any]) -> Any:
    return schema[declared.path][declared.method]


def register(service: RunningService) -> None:
    """The voice of `KNOWN`, which an earlier case may have deleted."""
    response = requests.post(
        f"{service.url}/v1/voices/register",
        data={"voice_id": KNOWN["voice_id"]},
        files={"audio": RECORDING},
        headers={"X-API-Key": KEY},
        timeout=NET,
    )
    assert response.status_code == 200


def modes(declared: Operation[Any, Any]) -> list[Mode]:
    """What can be wrong about a request: any text is right in a path, and in X-Request-Id."""
    if declared.media:
        return ["positive", "negative"]
    return ["positive"]


each_operation = pytest.mark.parametrize(
    "declared", OPERATIONS, ids=[each.handler.__name__ for each in OPERATIONS]
)


def test_there_are_2000_cases() -> None:
    with_body = sum(1 for each in OPERATIONS if each.media)
    first = with_body * 2 * WITH_BODY + (len(OPERATIONS) - with_body) * WITHOUT_BODY
    second = (with_body * 2 + len(OPERATIONS) - with_body) * FEW
    assert first + second + len(OPERATIONS) * FEW >= 2_000


SESSION = 101
"""The status of an operation that opens a session."""


@each_operation
def test_with_a_key(
    locked: RunningService, locked_schema: Any, declared: Operation[Any, Any]
) -> None:
    operation = in_schema(locked_schema, declared)
    count = WITH_BODY if declared.media else WITHOUT_BODY
    if "{voice_id}" in declared.path:
        register(locked)
    for mode in modes(declared):
        statuses = ask(operation, mode, count, {"X-API-Key": KEY})
        assert len(statuses) >= count
        if mode == "positive":
            done = {404} if declared.path.endswith(ACTS) else {*declared.answers}
            if SESSION in done:
                done = {426}  # these clients open no WebSocket
            assert set(statuses) & done, "no case has succeeded"


@each_operation
def test_without_a_key(locked_schema: Any, declared: Operation[Any, Any]) -> None:
    operation = in_schema(locked_schema, declared)
    statuses = ask(operation, "positive", FEW, {})
    assert len(statuses) >= FEW
    if declared.access is Access.SESSION:
        assert set(statuses) == {426}  # the key may come in a message
    elif declared.access is not Access.OPEN:
        assert set(statuses) == {401}


@each_operation
def test_where_no_key_is_needed(open_schema: Any, declared: Operation[Any, Any]) -> None:
    for mode in modes(declared):
        statuses = ask(in_schema(open_schema, declared), mode, FEW, {})
        assert len(statuses) >= FEW
        assert 401 not in statuses
