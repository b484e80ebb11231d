"""Looks into the models folder, and what the service makes of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from ipc.engines import ENGINES, SERVING_KINDS
from supervisor.settings import Settings
from supervisor.weights.folder import Watch, look


def put(folder: Path, engine: str) -> None:
    """Files with the names of an engine's weights."""
    for pattern in ENGINES[engine].files:
        path = folder / pattern.replace("*", "")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"weights")


def settings(folder: Path, **others: object) -> Settings:
    return Settings.model_validate({"models_dir": folder, **others})


def test_only_complete_weights_are_seen(tmp_path: Path) -> None:
    assert look(tmp_path / "missing") == {}
    put(tmp_path, "pocket")
    put(tmp_path, "sensevoice")
    (tmp_path / "SenseVoiceSmall" / "am.mvn").unlink()
    put(tmp_path / ".pull-kokoro", "kokoro")
    assert list(look(tmp_path)) == ["pocket"]


def test_weights_count_when_two_looks_have_found_the_same(tmp_path: Path) -> None:
    put(tmp_path, "whisper")
    watch = Watch(look(tmp_path))
    assert watch.changed(look(tmp_path)) == []
    put(tmp_path, "pocket")
    assert watch.changed(look(tmp_path)) == []
    (tmp_path / "pocket-tts" / "model.safetensors").write_bytes(b"more is being copied")
    assert watch.changed(look(tmp_path)) == []
    assert watch.changed(look(tmp_path)) == ["pocket"]
    assert watch.changed(look(tmp_path)) == []
    (tmp_path / "pocket-tts" / "model.safetensors").unlink()
    assert [watch.changed(look(tmp_path)) for _ in range(2)] == [[], []]
    put(tmp_path, "pocket")
    assert [watch.changed(look(tmp_path)) for _ in range(2)] == [[], ["pocket"]]


def test_what_a_reload_has_loaded_is_not_new(tmp_path: Path) -> None:
    watch = Watch(look(tmp_path))
    put(tmp_path, "pocket")
    watch.accept(look(tmp_path))
    assert [watch.changed(look(tmp_path)) for _ in range(2)] == [[], []]


def test_the_choice_is_made_again_only_where_the_settings_leave_it(tmp_path: Path) -> None:
    auto = settings(tmp_path)
    named = settings(tmp_path, tts_engine="flite")
    production = settings(tmp_path, profile="production")
    put(tmp_path, "pocket")
    put(tmp_path, "sensevoice")

    def engines(of: Settings) -> list[str]:
        return [model.engine.name for model in of.chosen_again()]

    assert engines(auto) == ["pocket", "sensevoice"]
    assert engines(named) == ["flite", "sensevoice"]
    assert engines(production) == ["pocket", "sensevoice"]


def test_one_model_changes_alone(tmp_path: Path) -> None:
    before = settings(tmp_path)
    put(tmp_path, "pocket")
    put(tmp_path, "sensevoice")
    speech = before.chosen_again()[0]
    after = before.with_model(speech)
    assert after.models[0].engine.name == "pocket"
    assert after.models[1] == before.models[1]
    assert before.models[0].engine.name != "pocket"
    assert [model.name for model in after.models] == [kind.value for kind in SERVING_KINDS]


def test_only_engines_with_files_can_be_pulled(tmp_path: Path) -> None:
    assert settings(tmp_path, pull="pocket, sensevoice").pulled == ("pocket", "sensevoice")
    with pytest.raises(ValidationError, match="flite is unknown; use some of pocket"):
        settings(tmp_path, pull="flite")
