"""The table of engines: who serves when the settings name nobody."""

from __future__ import annotations

import importlib.util
import typing
from dataclasses import replace

import pytest

from ipc.engines import ENGINES, SERVING_KINDS, EngineSpec, Footprint, Kind, Profile, default_engine

PROFILES: tuple[Profile, ...] = ("production", "embedded", "minimal")


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("kind", SERVING_KINDS)
def test_each_kind_has_one_default_in_each_profile(kind: Kind, profile: Profile) -> None:
    defaults = [
        spec
        for spec in ENGINES.values()
        if spec.default and (spec.kind, spec.profile) == (kind, profile)
    ]
    assert defaults == [default_engine(kind, profile)]


def test_the_table_tells_the_truth_about_itself() -> None:
    assert set(typing.get_args(Profile)) == {*PROFILES, "custom"}
    for name, spec in ENGINES.items():
        assert spec.name == name
        assert spec.profile in PROFILES
        assert spec.capacity >= 1
        # Weights are what minimal engines have none of, and those of production are in no package.
        assert bool(spec.files) == (spec.profile != "minimal")
        assert bool(spec.weight_packages) == (spec.profile == "embedded")
        module, _, cls = spec.factory.partition(":")
        assert importlib.util.find_spec(module)
        assert cls.isidentifier()


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("kind", SERVING_KINDS)
@pytest.mark.parametrize("first", [False, True])
def test_a_second_engine_serves_only_when_it_is_named(
    kind: Kind, profile: Profile, first: bool
) -> None:
    before = default_engine(kind, profile)
    second = replace(before, name="another", default=False)
    table = [second, *ENGINES.values()] if first else [*ENGINES.values(), second]
    assert default_engine(kind, profile, table) == before


def engine(name: str, *, default: bool, kind: Kind = Kind.TTS) -> EngineSpec:
    return EngineSpec(name, kind, "embedded", "module:Class", Footprint(1, 1, 1), default=default)


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        ([engine("a", default=True), engine("b", default=True)], "embedded; the table has a, b"),
        ([engine("a", default=False)], "the table has none"),
        ([engine("a", default=True, kind=Kind.STT)], "the table has none"),
        ([], "the table has none"),
    ],
)
def test_there_must_be_just_one_default(table: list[EngineSpec], complaint: str) -> None:
    with pytest.raises(LookupError, match=f"tts needs one default engine.*{complaint}"):
        default_engine(Kind.TTS, "embedded", table)
