"""torchaudio imports and works also when its compiled extension cannot be loaded."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.service import NET

_WORK = """
from model_procs.weights.torchaudio_guard import ensure_torchaudio
ensure_torchaudio()
import torch
import torchaudio
print(torchaudio.__file__)
one_second = torch.sin(torch.arange(16_000) * 0.1).unsqueeze(0)
print(*torchaudio.compliance.kaldi.fbank(one_second, num_mel_bins=80).shape)
print(*torchaudio.functional.resample(one_second, 16_000, 24_000).shape)
"""


def _run(code: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).parent.parent.parent
    paths = [str(root)] if path is None else [str(path), str(root)]
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=NET,
        check=False,
    )


def test_torchaudio_as_it_is_installed_computes_features_and_resamples() -> None:
    done = _run(_WORK)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1:] == ["98 80", "1 24000"]


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A folder with a torchaudio whose extension is there and cannot be loaded."""
    spec = importlib.util.find_spec("torchaudio")
    assert spec is not None
    assert spec.origin is not None
    package = tmp_path / "torchaudio"
    shutil.copytree(Path(spec.origin).parent, package, ignore=shutil.ignore_patterns("*.so"))
    (package / "lib" / "_torchaudio.abi3.so").write_bytes(b"not a shared library")
    return tmp_path


def test_torchaudio_with_an_extension_that_cannot_be_loaded(broken: Path) -> None:
    plain = _run("import torchaudio", broken)
    assert plain.returncode == 1
    assert "OSError" in plain.stderr

    guarded = _run(_WORK, broken)
    assert guarded.returncode == 0, guarded.stderr
    lines = guarded.stdout.splitlines()
    assert Path(lines[0]).is_relative_to(broken)
    assert lines[1:] == ["98 80", "1 24000"]
