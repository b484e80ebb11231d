"""Models that are loaded on demand: which there are, what memory they get, who makes way."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from ipc.engines import ENGINES
from ipc.variants import find_variant, find_variants, language_of, variant_for
from supervisor.memory.limits import FRONT_MB, MB, USABLE, Limit, Need, plan, room_on_demand
from supervisor.settings import Settings
from supervisor.workers import on_demand
from supervisor.workers.on_demand import Residents

FILES = ("config.yaml", "model.safetensors", "tokenizer.json")


def install(models: Path, name: str, megabytes: int = 0, voices: str = "") -> None:
    """Files of weights that nobody loads; they take no room on the disk."""
    folder = models / "pocket-tts" / name
    (folder / "voices").mkdir(parents=True)
    for needed in FILES:
        (folder / needed).touch()
    with open(folder / "model.safetensors", "r+b") as file:
        file.truncate(megabytes * MB)
    for voice in voices.split():
        (folder / "voices" / f"{voice}.safetensors").touch()


# What there is


def test_variants_are_found_by_their_complete_folders(tmp_path: Path) -> None:
    for name in ("french_24l", "french", "english_2m_2026-10", "welsh"):
        install(tmp_path, name, voices="lola alba")
    install(tmp_path, "german")
    (tmp_path / "pocket-tts/german/tokenizer.json").unlink()
    install(tmp_path, "no names like this")
    found = find_variants(tmp_path)
    assert [(spec.name, spec.variant, spec.language) for spec in found] == [
        ("pocket-english_2m_2026-10", "english_2m_2026-10", None),
        ("pocket-french", "french", "fr"),
        ("pocket-french_24l", "french_24l", None),
        ("pocket-welsh", "welsh", None),
    ]
    for spec in found:
        assert spec.on_demand
        assert spec.known is not None
        assert [voice.id for voice in spec.known.voices] == ["alba", "lola"]
    assert find_variant(tmp_path, "french") == find_variant(tmp_path, "pocket-french")
    assert find_variant(tmp_path, "../french") is None
    assert find_variant(tmp_path, "pocket-german") is None


def test_the_default_model_alone_has_no_variants(tmp_path: Path) -> None:
    install(tmp_path, "")
    assert find_variants(tmp_path) == []


def test_a_footprint_follows_the_size_of_the_weights(tmp_path: Path) -> None:
    for name, size in (("english_2m_2026-10", 8), ("french", 438), ("french_24l", 1260)):
        install(tmp_path, name, size)
    small, usual, large = (spec.footprint for spec in find_variants(tmp_path))
    default = ENGINES["pocket"].footprint
    assert abs(usual.template - default.template) < 5
    assert replace(usual, template=default.template) == default
    assert small.template < 320
    assert 1500 < large.template < 1700
    assert small.further == default.further < large.further


def test_languages_have_codes_and_names() -> None:
    assert language_of("portuguese_24l") == "pt"
    assert language_of("english_18m_refl_2026-10") == "en"
    assert language_of("welsh") is None
    assert (variant_for("fr"), variant_for("ja")) == ("french", None)


# Settings


def names(settings: Settings) -> list[tuple[str, str, bool]]:
    return [
        (model.name, model.engine.name, model.engine.on_demand)
        for model in settings.models
        if model.kind == "tts"
    ]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (
            {"profile": "production"},
            [("tts", "pocket", False), ("pocket-french", "pocket-french", True)],
        ),
        (
            {"engines": "pocket"},
            [("tts", "pocket", False), ("pocket-french", "pocket-french", True)],
        ),
        (
            {"engines": "pocket,french"},
            [("tts", "pocket", False), ("pocket-french", "pocket-french", False)],
        ),
        ({"tts_engine": "pocket-french"}, [("tts", "pocket-french", False)]),
        ({"engines": "flite,sphinx"}, [("tts", "flite", False)]),
        ({"profile": "minimal"}, [("tts", "flite", False)]),
    ],
)
def test_settings_add_variants_where_pocket_may_serve(
    fields: dict[str, str], expected: list[tuple[str, str, bool]], tmp_path: Path
) -> None:
    install(tmp_path, "french")
    assert names(Settings.model_validate({**fields, "models_dir": tmp_path})) == expected


def test_a_variant_that_is_not_installed_is_unknown(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="pocket-french is unknown"):
        Settings(engines="pocket-french", models_dir=tmp_path)


# The memory plan

POCKET = Need(760, 100, 200, 1, None, None, further=25, capacity=8)
SENSEVOICE = Need(620, 100, 250, 1, None, None, further=60, capacity=4)
STEADY = {"tts": POCKET, "stt": SENSEVOICE}
FRENCH = replace(POCKET, on_demand=True)
LARGE = Need(1630, 100, 250, 1, None, None, further=72, capacity=8, on_demand=True)


def test_in_four_gigabytes_one_language_fits_and_nobody_serves_fewer() -> None:
    needs = {**STEADY, "french": FRENCH, "german": FRENCH}
    plans = plan(4096 * MB, needs)
    assert [each.capacity for each in plans.values()] == [8, 4, 8, 8]
    room = room_on_demand(4096 * MB, needs, plans)
    assert plans["french"].claim <= room < 2 * plans["french"].claim


def test_without_such_models_the_plan_is_as_it_was() -> None:
    plans = plan(4096 * MB, {"tts": POCKET, "stt": POCKET})
    assert plans["tts"].limits.hard == Limit(492 * MB, growth=True)


def test_what_is_too_large_is_left_out() -> None:
    needs = {**STEADY, "french": FRENCH, "large": LARGE}
    assert [*plan(3500 * MB, needs)] == ["tts", "stt", "french"]
    assert [*plan(8192 * MB, needs)] == ["tts", "stt", "french", "large"]
    assert [*plan(2500 * MB, needs)] == ["tts", "stt"]


def test_every_plan_fits_and_steady_models_never_suffer_more_than_they_must() -> None:
    for total in range(2400, 20_000, 100):
        needs = {**STEADY, "french": FRENCH, "large": LARGE}
        plans = plan(total * MB, needs)
        room = room_on_demand(total * MB, needs, plans)
        steady = sum(plans[model].claim for model in STEADY)
        assert FRONT_MB + steady + max(0, room) <= int(total * USABLE)
        for model, each in plans.items():
            need = needs[model]
            growth = each.limits.hard.size // MB
            assert replace(need, capacity=each.capacity).growth <= growth
            assert each.claim == need.fixed + growth
            assert not need.on_demand or each.claim <= room


# Who makes way


class Model:
    """A model of so many MB."""

    def __init__(
        self, name: str, claim: int = 100, *, used: float = 0.0, loaded: float = 0.0
    ) -> None:
        self.name = name
        self.claim = claim
        self.wanted = True
        self.idle_since, self.ready_since = used, loaded
        self.ending = False
        self.busy = False

    def make_way(self, *, at_once: bool) -> bool:
        if at_once and self.busy:
            return False
        self.ending = True
        return True

    def __repr__(self) -> str:
        return self.name


async def steps() -> None:
    """Until all that can go on has gone on."""
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.fixture
async def residents() -> Residents:
    made = Residents()
    made.room = 200
    return made


async def loaded(residents: Residents, *models: Model) -> None:
    for model in models:
        assert await residents.admit(model)


async def test_models_load_while_there_is_room(residents: Residents) -> None:
    await loaded(residents, Model("a"), Model("b"))


async def test_the_least_recently_used_makes_way(residents: Residents) -> None:
    old, new = Model("old", used=1.0), Model("new", used=2.0)
    await loaded(residents, new, old)
    third = asyncio.create_task(residents.admit(Model("third")))
    await steps()
    assert (old.ending, new.ending, third.done()) == (True, False, False)
    residents.gone(old)
    assert await third
    assert not new.ending


async def test_a_busy_model_is_passed_over_until_it_is_idle(residents: Residents) -> None:
    now = asyncio.get_running_loop().time()
    old, new = (Model(name, used=now, loaded=1e12) for name in ("old", "new"))
    old.busy = new.busy = True
    await loaded(residents, old, new)
    third = asyncio.create_task(residents.admit(Model("third")))
    await steps()
    assert (old.ending, new.ending) == (False, False)
    new.busy = False
    residents.changed()
    await steps()
    assert (old.ending, new.ending) == (False, True)
    residents.gone(new)
    assert await third


async def test_if_all_are_busy_the_one_that_had_its_turn_finishes(
    residents: Residents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_demand, "TURN_SECONDS", 0.0)
    first, second = Model("first", loaded=1.0), Model("second", loaded=2.0)
    first.busy = second.busy = True
    await loaded(residents, second, first)
    monkeypatch.setattr(on_demand, "TURN_SECONDS", 300.0)
    monkeypatch.setattr(on_demand, "time", SimpleNamespace(monotonic=lambda: 1000.0))
    third = asyncio.create_task(residents.admit(Model("third")))
    await steps()
    assert (first.ending, second.ending) == (True, False)
    residents.gone(first)
    assert await third


async def test_who_came_first_is_first_and_who_is_not_wanted_gives_up(residents: Residents) -> None:
    await loaded(residents, kept := Model("kept", 200))
    kept.busy, kept.ready_since = True, 1e12
    gone, small = Model("gone", 200), Model("small", 10)
    tasks = [asyncio.create_task(residents.admit(model)) for model in (gone, small)]
    await steps()
    assert not any(task.done() for task in tasks)
    gone.wanted = False
    residents.changed()
    assert not await tasks[0]
    residents.gone(kept)
    assert await tasks[1]


async def test_one_that_is_larger_than_the_room_loads_alone(residents: Residents) -> None:
    await loaded(residents, Model("huge", 300))
