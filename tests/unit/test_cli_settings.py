"""`settings` and `doctor`: what is in force, where it came from, and what this machine has."""

from __future__ import annotations

import resource
import socket
from collections import namedtuple
from pathlib import Path

import pytest

from supervisor.cli import checks
from supervisor.cli.checks import Verdict
from supervisor.cli.client import CommandError
from supervisor.cli.in_force import load_settings, read_file, unknown, values
from supervisor.http import connection
from supervisor.settings import Settings


def _shown(environment: dict[str, str], file: dict[str, str]) -> dict[str, tuple[str, str]]:
    return {each.variable: (each.text, each.source) for each in values(environment, file)}


def test_where_a_value_comes_from(tmp_path: Path) -> None:
    env_file = tmp_path / "voice-engine.env"
    env_file.write_text("VOICE_ENGINE_THREADS=3\nvoice_engine_tts_workers=2\nVOICE_ENGINE_X=1\n")
    file = read_file(env_file)
    environment = {"PORT": "9000", "VOICE_ENGINE_THREADS": "4"}
    shown = _shown(environment, file)
    assert shown["PORT"] == ("9000", "environment")
    assert shown["VOICE_ENGINE_THREADS"] == ("4", "environment")
    assert shown["VOICE_ENGINE_TTS_WORKERS"] == ("2", "env file")
    assert shown["VOICE_ENGINE_STT_WORKERS"] == ("1", "default")
    assert len(shown) == len(Settings.model_fields)
    assert unknown(environment, file) == ["VOICE_ENGINE_X"]


def test_both_names_of_a_variable_count_and_the_first_wins() -> None:
    assert _shown({"VOICE_ENGINE_PORT": "1"}, {})["PORT"] == ("1", "environment")
    assert _shown({"VOICE_ENGINE_PORT": "1", "PORT": "2"}, {})["PORT"] == ("2", "environment")


def test_what_is_shown_is_what_the_service_would_take(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {"VOICE_ENGINE_PORT": "1", "PORT": "2", "VOICE_ENGINE_QUANTIZE": "false"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert (settings.port, settings.quantize) == (2, False)
    assert unknown(environment, {}) == []


def test_a_secret_is_never_shown() -> None:
    keys = {
        "VOICE_ENGINE_API_KEY": "topsecret",
        "VOICE_ENGINE_ADMIN_KEY": "topsecret",
        "VOICE_ENGINE_API_KEYS": "a:topsecret",
    }
    shown = _shown(keys, {})
    assert "topsecret" not in str(shown)
    assert all(shown[name] == ("set", "environment") for name in keys)
    assert _shown({}, {})["VOICE_ENGINE_API_KEY"] == ("", "default")


def test_wrong_values_are_one_line_without_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VOICE_ENGINE_API_KEYS", "topsecret")
    with pytest.raises(CommandError, match="voice-engine settings") as raised:
        load_settings(None)
    assert "topsecret" not in str(raised.value)


# doctor


def test_the_port_is_free_or_ours_or_anothers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = Settings(host="127.0.0.1", port=taken.getsockname()[1])
        assert checks.check_port(settings, None).verdict is Verdict.FAILED
        ours = checks.check_port(settings, "voice-engine 1.2.3, ok")
        assert (ours.verdict, "served by" in ours.found) == (Verdict.OK, True)
    assert checks.check_port(Settings(host="127.0.0.1", port=0), None).verdict is Verdict.OK


def test_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new = tmp_path / "new" / "voices"
    assert checks.check_folder("voices", new, "VOICES_DIR").verdict is Verdict.OK
    assert not new.exists()
    (tmp_path / "file").touch()
    spoilt = checks.check_folder("voices", tmp_path / "file" / "voices", "VOICES_DIR")
    assert spoilt.verdict is Verdict.FAILED
    assert "VOICES_DIR" in spoilt.advice
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(1, 1, 10 << 20))
    full = checks.check_folder("voices", new, "VOICES_DIR")
    assert (full.verdict, full.found.endswith("10 MB free")) == (Verdict.WARNING, True)


def test_memory_that_is_too_small() -> None:
    check = checks.check_memory(Settings(memory_limit_mb=200))
    assert check.verdict is Verdict.FAILED
    assert "cannot fit" in check.found


def test_memory_that_lowers_the_capacity(tmp_path: Path) -> None:
    settings = Settings(profile="production", models_dir=tmp_path, memory_limit_mb=2700)
    check = checks.check_memory(settings)
    assert check.verdict is Verdict.WARNING, check
    assert "requests at once; give it more memory" in check.advice


def test_memory_for_all_but_live_transcription() -> None:
    settings = Settings(profile="minimal", memory_limit_mb=640, tts_capacity="1")
    check = checks.check_memory(settings)
    assert check.verdict is Verdict.WARNING, check
    assert "vad cannot be loaded; give it more memory" in check.advice


def test_weights(tmp_path: Path) -> None:
    settings = Settings(profile="production", models_dir=tmp_path)
    for model in settings.models:
        check = checks.check_weights(model.engine, settings)
        assert check.verdict is Verdict.FAILED
        assert check.advice == f"voice-engine models pull {tmp_path}"
        for file in model.engine.files:
            (tmp_path / file).parent.mkdir(exist_ok=True)
            (tmp_path / file).touch()
        assert checks.check_weights(model.engine, settings).verdict is Verdict.OK


def test_the_minimal_engine_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(profile="minimal")
    speech = settings.models[0].engine
    monkeypatch.setattr("shutil.which", lambda _: "/usr/bin/flite")
    assert checks.check_weights(speech, settings).verdict is Verdict.WARNING
    monkeypatch.setattr("shutil.which", lambda _: None)
    lacking = checks.check_weights(speech, settings)
    assert (lacking.verdict, lacking.advice) == (Verdict.FAILED, "apt install flite")


def test_an_engine_of_your_own_has_no_weights_that_we_know() -> None:
    settings = Settings(tts_engine="tests.support.script_engine:Script")
    assert checks.check_weights(settings.models[0].engine, settings).verdict is Verdict.OK


def test_open_files_are_those_that_the_front_reserves(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (checks.FILES_OF_FRONT, checks.FILES_OF_CONNECTION) == (
        connection._FILES_OF_FRONT,
        connection._FILES_OF_CONNECTION,
    )
    monkeypatch.setattr("resource.getrlimit", lambda _: (1, 300))
    check = checks.check_descriptors(Settings(max_connections=100))
    assert (check.verdict, "ulimit -n 556" in check.advice) == (Verdict.WARNING, True)
    monkeypatch.setattr("resource.getrlimit", lambda _: (1, resource.RLIM_INFINITY))
    assert checks.check_descriptors(Settings()).verdict is Verdict.OK


def test_packages_are_those_of_pyproject(monkeypatch: pytest.MonkeyPatch) -> None:
    assert checks.check_packages().verdict is Verdict.OK
    declared = ["nothing-of-that-name>=1", "httpx>=99", "typer>=0.1", 'x>=1; extra == "dev"']
    monkeypatch.setattr("importlib.metadata.requires", lambda _: declared)
    check = checks.check_packages()
    assert check.verdict is Verdict.FAILED
    assert check.found.startswith("nothing-of-that-name is missing, httpx ")
    assert "older than 99" in check.found


def test_mistyped_settings_are_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    assert checks.check_names(None).verdict is Verdict.OK
    monkeypatch.setenv("VOICE_ENGINE_TTS_WORKER", "2")
    check = checks.check_names(None)
    assert (check.verdict, check.found) == (
        Verdict.WARNING,
        "no settings: VOICE_ENGINE_TTS_WORKER",
    )


def test_a_wrong_setting_ends_the_checks_that_need_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PORT", "no")
    *_, last = checks.all_checks(None)
    assert (last.name, last.verdict) == ("settings", Verdict.FAILED)
    assert "PORT" in last.found
