"""Settings: validated at start, documented in the README, chosen by what is on disk."""

from __future__ import annotations

import os
import subprocess
import sys
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


@pytest.mark.parametrize(
    ("variable", "value", "complaint"),
    [
        ("PORT", "99999", "PORT"),
        ("VOICE_ENGINE_TTS_WORKERS", "0", "tts_workers"),
        ("VOICE_ENGINE_PROFILE", "fast", "profile"),
        ("VOICE_ENGINE_TTS_ENGINE", "festival", "festival is unknown"),
        ("VOICE_ENGINE_TTS_ENGINE", "sphinx", "is an engine for stt"),
        ("VOICE_ENGINE_TTS_SOFT_LIMIT_MB", "lots", "is not a limit"),
        ("VOICE_ENGINE_STT_HARD_LIMIT_MB", "+", "is not a limit"),
        ("VOICE_ENGINE_REQUEST_TIMEOUT", "inf", "finite"),
        ("VOICE_ENGINE_FAILED_PAUSE", "nan", "finite"),
    ],
)
def test_a_bad_setting_refuses_to_start(variable: str, value: str, complaint: str) -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "supervisor.cli", "serve"],
        env={**os.environ, variable: value},
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert finished.returncode == 2
    assert complaint in finished.stderr
    assert "Traceback" not in finished.stderr


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


def test_an_address_in_use_is_one_line(tmp_path: Path) -> None:
    code = (
        "import socket, subprocess, sys\n"
        "s = socket.create_server(('127.0.0.1', 0))\n"
        "sys.exit(subprocess.call([sys.executable, '-m', 'supervisor.cli', 'serve',"
        " '--host', '127.0.0.1', '--port', str(s.getsockname()[1])]))"
    )
    finished = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert finished.returncode == 1
    assert "Address already in use" in finished.stderr
    assert len(finished.stderr.strip().splitlines()) == 1


def test_bad_values_name_the_field() -> None:
    with pytest.raises(ValidationError, match="request_timeout"):
        Settings(request_timeout=0)
