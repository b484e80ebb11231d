"""The pure parts of a cluster: registry, routing, scaling, its file, the stream of a replica."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from ipc.engines import ENGINES, Kind
from ipc.operations import EncodeVoice, Recording, Sampling, Speak, Transcribe, Voice
from supervisor.cluster.application import build, serve_file
from supervisor.cluster.backend import together
from supervisor.cluster.config import ClusterConfig, load, specs
from supervisor.cluster.messages import Overview, ReplicaReport, ReplicaSpec, Route, aged
from supervisor.cluster.models import followed
from supervisor.cluster.recordings import recording_of, unregistered, voice_key, with_recording
from supervisor.cluster.registry import FORGET_SECONDS, Registry
from supervisor.cluster.replica import Outbox, settings_of
from supervisor.cluster.router import choose, home
from supervisor.cluster.scaling import TARGET_WAIT, wanted
from supervisor.dispatch.backend import Backend, BackendStatus, ChildStatus
from supervisor.dispatch.cost import Unit, Work
from supervisor.dispatch.models import Model, Models
from supervisor.workers.lifecycle import ModelState

ROUTE = Route(60.0, "somebody", Work(Unit.CHARACTERS, 10.0))
SPEC = ReplicaSpec("app", "tts", Kind.TTS, "flite", 1.0, 512)
KOKORO = replace(SPEC, model="kokoro", engine="kokoro")


class Clock:
    """A clock that tests move."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def child(name: str = "tts-1", started: float = 5.0) -> ChildStatus:
    return ChildStatus(
        *(name, "worker", 1, "READY", started, None, None, None, None, None, 0, 0, 0),
        *(2, 1, 0, None, None),
    )


def report(replica: str, state: ModelState = ModelState.SERVING) -> ReplicaReport:
    status = BackendStatus(
        state=state,
        engine=ENGINES["flite"],
        info=None,
        message=None if state is ModelState.SERVING else "it is broken",
        retry_after=3.0,
        in_flight=2,
        queued=1,
        backlog=4.0,
        speed=2.0,
        paused=False,
        workers=1,
        free_slots=1,
        sandbox=None,
        children=(child(),),
        threads=1,
        notes=("a note",),
    )
    return ReplicaReport(replica, f"node-of-{replica}", 7, SPEC, status)


# Routing


def test_a_voice_goes_to_the_same_replica_while_that_has_a_slot() -> None:
    route = replace(ROUTE, voice="anna", slots=2)
    load = {"a": 1, "b": 1, "c": 1}
    first = {choose(route, load)[0][0] for _ in range(20)}
    assert len(first) == 1
    (home,) = first
    assert choose(route, {**load, home: 2})[0] != [home]  # it is full, others are not
    assert choose(route, {"a": 5, "b": 5, "c": 5})[0] == [home]


def test_another_replica_takes_a_part_of_the_voices_and_leaves_the_others() -> None:
    voices = [f"voice-{number}" for number in range(300)]
    before = {voice: home(voice, ["a", "b", "c"]) for voice in voices}
    after = {voice: home(voice, ["a", "b", "c", "d"]) for voice in voices}
    moved = [voice for voice in voices if before[voice] != after[voice]]
    assert {after[voice] for voice in moved} == {"d"}
    assert 40 < len(moved) < 120
    assert set(before.values()) == {"a", "b", "c"}


def test_a_replica_that_has_refused_is_avoided_as_long_as_there_are_others() -> None:
    route = replace(ROUTE, avoid=frozenset({"a", "b"}))
    assert choose(route, {"a": 0, "b": 0, "c": 9}) == [["c"]]
    assert sorted(choose(route, {"a": 0, "b": 0})[0]) == ["a", "b"]
    assert choose(replace(ROUTE, only="b"), {"a": 0, "b": 9}) == [["b"]]
    assert choose(replace(ROUTE, only="x"), {"a": 0}) == []
    assert choose(ROUTE, {}) == [[]]


def test_two_are_drawn_of_which_the_router_takes_the_less_busy() -> None:
    draw = random.Random(1)
    load = dict.fromkeys("abcdef", 0)
    drawn = [tuple(choose(ROUTE, load, draw)[0]) for _ in range(200)]
    assert all(len(set(pair)) == 2 for pair in drawn)
    assert {replica for pair in drawn for replica in pair} == set("abcdef")


# Scaling


def test_replicas_follow_the_work_that_waits() -> None:
    assert wanted({}, {}, 3) == 3
    assert wanted({"a": 0.0, "b": 0.0}, {"a": 1.0, "b": 1.0}, 2) == 1
    assert wanted({"a": 5 * TARGET_WAIT}, {"a": 1.0}, 1) == 2  # at most twice as many
    assert wanted({"a": 5 * TARGET_WAIT}, {"a": 1.0}, 4) == 5
    assert wanted({"a": 5 * TARGET_WAIT}, {"a": 5.0}, 1) == 1
    assert wanted({"a": 5.9 * TARGET_WAIT}, {"a": 1.0}, 5) == 5  # a small difference
    assert wanted({"a": 3.9 * TARGET_WAIT}, {"a": 1.0}, 5) == 4
    assert wanted({"a": 3 * TARGET_WAIT, "b": 0.0}, {"a": 0.0, "b": 0.0}, 2) == 3


# The registry


def test_a_replica_that_tells_nothing_any_more_is_gone() -> None:
    clock = Clock()
    registry = Registry(clock)
    registry.describe([SPEC])
    registry.report(report("a"))
    clock.now += FORGET_SECONDS / 2
    registry.report(report("b"))
    clock.now += FORGET_SECONDS / 2 + 0.1
    seen = registry.look()
    assert seen.specs == (SPEC,)
    assert [each.replica for each in seen.reports] == ["b"]
    assert (seen.complete, seen.young) == (True, False)
    registry.leave("b")
    assert registry.reports() == []


def test_a_new_registry_learns_the_models_from_their_replicas() -> None:
    registry = Registry()
    assert registry.look() == Overview((), [], complete=False, young=True)
    registry.report(report("a"))
    registry.report(replace(report("b"), spec=KOKORO))
    assert registry.look().specs == (SPEC, KOKORO)


def test_fronts_keep_the_models_of_which_a_new_registry_knows_nothing_yet() -> None:
    def named(models: Models) -> list[str]:
        return [model.name for model in models]

    def make(spec: ReplicaSpec) -> Model:
        return Model(spec.model, spec.kind, cast(Backend, None))

    both = Overview((KOKORO, SPEC), [], complete=True, young=False)
    models = followed(Models([]), both, make)
    assert named(models) == ["tts", "kokoro"]
    assert followed(models, both, make) is models
    for reported in ((), (SPEC,), (KOKORO,)):
        told = replace(both, specs=reported, complete=False)
        assert followed(models, told, make) is models
    assert named(followed(models, replace(both, specs=(KOKORO,)), make)) == ["kokoro"]


def test_all_replicas_refuse_what_one_has_put_into_quarantine() -> None:
    clock = Clock()
    registry = Registry(clock)
    registry.quarantine(b"digest", 10.0)
    clock.now += 4
    assert registry.report(report("a")) == {b"digest": 6.0}
    clock.now += 6.1
    assert registry.report(report("a")) == {}


def test_clients_have_one_bucket_for_all_fronts() -> None:
    clock = Clock()
    registry = Registry(clock)
    assert [registry.take("anna", 2.0) for _ in range(2)] == [0.0, 0.0]
    assert registry.take("anna", 2.0) == pytest.approx(30.0)
    assert registry.take("bert", 2.0) == 0.0
    assert registry.take("anna", 5.0) == 0.0  # another limit, while settings change


def test_the_first_choice_counts_for_all_replicas() -> None:
    registry = Registry()
    assert registry.choose("tts", {"rows": 3}) == {"rows": 3}
    assert registry.choose("tts", {"rows": 4}) == {"rows": 3}
    registry.describe([SPEC])  # another version chooses anew
    assert registry.choose("tts", {"rows": 4}) == {"rows": 4}


# What fronts show


def test_a_model_is_as_good_as_its_best_replica() -> None:
    reports = [report("a", ModelState.FAILED), report("b")]
    status = together(ModelState.SERVING, ENGINES["flite"], None, reports)
    assert status.message is None
    assert (status.in_flight, status.queued, status.workers) == (4, 2, 2)
    assert (status.backlog, status.speed) == (8.0, 4.0)
    assert [each.name for each in status.children] == ["tts-1-a@node-of-a", "tts-1-b@node-of-b"]
    assert [each.node for each in status.children] == ["node-of-a", "node-of-b"]
    assert status.notes == ("a note",)
    failed = together(ModelState.FAILED, ENGINES["flite"], None, reports[:1])
    assert failed.message == "node-of-a: it is broken"


def test_ages_and_not_clocks_travel_between_machines() -> None:
    sent = aged(report("a").status, now=65.0)
    assert sent.children[0].started == 60.0
    assert aged(sent, now=1000.0).children[0].started == 940.0


# The file


def write(folder: Path, text: str) -> Path:
    file = folder / "cluster.yaml"
    file.write_text(text)
    return file


def test_the_first_model_of_a_kind_is_its_default(tmp_path: Path) -> None:
    config = load(
        write(
            tmp_path,
            "models: [{engine: whisper}, {engine: kokoro, cpus: 2, replicas: {min: 2, max: 5}}, "
            "{engine: flite, memory_mb: 400, settings: {tts_workers: '2'}}]\n"
            "settings: {quantize: false}\n",
        )
    )
    found = {spec.model: (spec, replicas) for spec, replicas in specs(config)}
    assert list(found) == ["stt", "tts", "flite", "vad"]
    kokoro, replicas = found["tts"]
    assert (kokoro.engine, kokoro.cpus, kokoro.others) == ("kokoro", 2, ("flite",))
    assert (replicas.min, replicas.max) == (2, 5)
    assert kokoro.memory_mb > 512
    flite = settings_of(found["flite"][0])
    (model,) = flite.all_models
    assert (model.name, model.engine.name, model.workers) == ("flite", "flite", 2)
    assert (flite.memory_limit_mb, flite.quantize) == (400, False)
    (vad,) = settings_of(found["vad"][0]).all_models
    assert vad.kind is Kind.VAD


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("models: [{engine: kokoro}]", "no model is for stt"),
        ("models: [{engine: nonsense}]", "nonsense is unknown"),
        ("models: [{engine: 'a:B'}]", "say its kind"),
        ("models: [{engine: kokoro}, {engine: kokoro}, {engine: whisper}]", "is there twice"),
        ("models: [{engine: kokoro, gpus: 1}]", "models.0.gpus"),
        ("models: [{engine: kokoro, replicas: {min: 3, max: 2}}]", "less than min"),
        ("models: [{engine: kokoro}, {engine: whisper}]\nsettings: {port: 1}", "not a setting of"),
        ("models: [", "is not YAML"),
        ("[]", "cluster.yaml"),
    ],
)
def test_a_wrong_file_is_refused_with_a_reason(tmp_path: Path, text: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        load(write(tmp_path, text))


def test_ray_reads_the_same_file_as_applications(tmp_path: Path) -> None:
    config = load(Path("ops/cluster.yaml"))
    assert isinstance(config, ClusterConfig)
    made = serve_file(config)
    names = [each["name"] for each in made["applications"]]
    assert names == ["voice-engine-tts", "voice-engine-stt", "voice-engine-vad"]
    for each in made["applications"]:
        assert each["import_path"] == "supervisor.cluster.application:build"
        assert build(each["args"]) is not None
    with pytest.raises(ValueError, match="there is no 'nothing'"):
        build({**made["applications"][0]["args"], "model": "nothing"})


# What travels


def test_recordings_leave_and_come_back() -> None:
    recording = Recording("k" * 64, data=b"sound")
    spoken = Speak("text", Voice(recording=recording, registered=True), Sampling(1))
    bare = replace(recording, data=None)
    for operation in (spoken, EncodeVoice(recording), Transcribe(recording)):
        assert recording_of(operation) == recording
        assert recording_of(with_recording(operation, bare)) == bare
    away = unregistered(spoken)
    assert isinstance(away, Speak)
    assert not away.voice.registered
    assert voice_key(spoken) == recording.key
    assert voice_key(Speak("text", Voice(builtin="anna"), Sampling(1))) is None
    assert voice_key(Transcribe(recording)) is None


async def test_a_replica_sends_what_has_come_and_forgets_what_was_not_sent() -> None:
    outbox = Outbox(skip=100)
    outbox.append(b"abc")
    assert outbox.size == 103
    outbox.rewind()
    assert outbox.size == 100
    outbox.append(b"ab")
    outbox.append(b"c")
    assert await outbox.take() == [b"ab", b"c"]
    outbox.rewind()  # it has been sent
    assert outbox.size == 103
    waiting = asyncio.create_task(outbox.take())
    await asyncio.sleep(0)
    outbox.append(b"d")
    assert await waiting == [b"d"]
    outbox.finish()
    assert await outbox.take() == []
