"""A service that cannot start says why, in a line or two, and leaves."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.service import ROOT


@pytest.mark.parametrize(
    ("variable", "value", "complaint"),
    [
        ("PORT", "99999", "PORT"),
        ("VOICE_ENGINE_TTS_WORKERS", "0", "tts_workers"),
        ("VOICE_ENGINE_PROFILE", "fast", "profile"),
        ("VOICE_ENGINE_TTS_ENGINE", "festival", "festival is unknown"),
        ("VOICE_ENGINE_TTS_ENGINE", "sphinx", "is an engine for stt"),
        ("VOICE_ENGINE_TTS_ENGINE", "flite,flite", "tts_engine names an engine twice"),
        ("VOICE_ENGINE_TTS_WORKERS", "1,pocket=2", "tts_workers: there is no engine pocket"),
        ("VOICE_ENGINE_TTS_SOFT_LIMIT_MB", "lots", "is not a limit"),
        ("VOICE_ENGINE_STT_HARD_LIMIT_MB", "+", "is not a limit"),
        ("VOICE_ENGINE_REQUEST_TIMEOUT", "inf", "finite"),
        ("VOICE_ENGINE_BACKOFF_MAX", "nan", "finite"),
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
