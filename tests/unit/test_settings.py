"""Settings: validated at start, documented in the README, chosen by what is on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from ipc.engines import ENGINES
from supervisor.settings import Settings

ROOT = Path(__file__).resolve().parent.parent.parent


def test_the_readme_lists_every_setting() -> None:
    assert Settings.table() in (ROOT / "README.md").read_text()


def test_a_variable_of_the_environment_is_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "9000")
    monkeypatch.setenv("VOICE_ENGINE_TTS_WORKERS", "2")
    assert (Settings().port, Settings().workers("tts")) == (9000, 2)


def test_auto_takes_the_real_model_when_all_its_files_are_there(tmp_path: Path) -> None:
    settings = Settings(models_dir=tmp_path)
    assert (settings.engine("tts").name, settings.engine("stt").name) == ("flite", "sphinx")
    *most, last = ENGINES["pocket"].files
    for file in most:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    assert settings.engine("tts").name == "flite"
    (tmp_path / last).touch()
    assert (settings.engine("tts").name, settings.engine("stt").name) == ("pocket", "sphinx")


def test_a_profile_is_taken_at_its_word(tmp_path: Path) -> None:
    production = Settings(models_dir=tmp_path, profile="production")
    assert (production.engine("tts").name, production.engine("stt").name) == (
        "pocket",
        "sensevoice",
    )


def test_bad_values_name_the_field() -> None:
    with pytest.raises(ValidationError, match="request_timeout"):
        Settings(request_timeout=0)
