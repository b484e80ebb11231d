"""The libraries' own code loads the random weights; nothing is overwritten by accident."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ipc.engines import ENGINES
from model_procs.weights import fetch as checkpoints
from model_procs.weights.place import replacing
from model_procs.weights.synthetic import NOTE_FILE
from tests.support.service import NET

PRODUCTION = ("pocket", "sensevoice")

NO_NETWORK = """
import socket
def refuse(*arguments):
    raise OSError("the network is not to be used")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
"""

POCKET = """
import torch
from pocket_tts import TTSModel
model = TTSModel.load_model(config="config.yaml")
torch.manual_seed(1)
voice = model.get_state_for_audio_prompt(torch.randn(1, 24_000) * 0.1)
sound = model.generate_audio(voice, "Hello world.")
finite = bool(sound.isfinite().all())
print("RESULT", model.sample_rate, len(sound), finite, float(sound.abs().max()))
"""

SENSEVOICE = """
import numpy as np
from model_procs.weights.torchaudio_guard import ensure_torchaudio
ensure_torchaudio()
from funasr import AutoModel
model = AutoModel(model=".", disable_update=True, disable_pbar=True, ncpu=1)
sound = np.random.default_rng(1).standard_normal(32_000).astype(np.float32) * 0.1
for language in ("auto", "zh", "ko"):
    print("RESULT", model.generate(input=sound, language=language, use_itn=True)[0]["text"])
"""


def _run(code: str, folder: Path) -> list[str]:
    """What `code` printed after RESULT, run in `folder` by a process that has no network."""
    output = subprocess.run(
        [sys.executable, "-c", NO_NETWORK + code],
        cwd=folder,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=NET,
        check=False,
    )
    assert output.returncode == 0, output.stderr
    return re.findall(r"^RESULT (.*)$", output.stdout, re.MULTILINE)


def _hashes(folder: Path) -> dict[str, str]:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
    }


def test_nano_is_complete_and_small(nano_models: Path) -> None:
    assert all(ENGINES[name].installed(nano_models) for name in PRODUCTION)
    files = [file for file in nano_models.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 10_000_000
    assert {file.stat().st_mode & 0o777 for file in files} == {0o644}


def test_the_same_bytes_every_time(nano_models: Path, tmp_path: Path) -> None:
    checkpoints.synth(tmp_path, "nano")
    assert _hashes(tmp_path) == _hashes(nano_models)


def test_pocket_tts_loads_the_folder_with_no_network(nano_models: Path) -> None:
    (result,) = _run(POCKET, nano_models / "pocket-tts")
    rate, samples, finite, peak = result.split()
    assert rate == "24000"
    assert int(samples) >= 24_000 // 2
    assert finite == "True"
    assert 0.01 < float(peak) < 2


def test_funasr_loads_the_folder_with_no_network(nano_models: Path) -> None:
    texts = _run(SENSEVOICE, nano_models / "SenseVoiceSmall")
    tagged = re.compile(r"<\|(\w+)\|><\|[A-Z]+\|><\|[A-Z]\w+\|><\|withitn\|>.+")
    languages = [match[1] for text in texts if (match := tagged.fullmatch(text))]
    assert len(languages) == len(texts) == 3
    assert languages[1:] == ["zh", "ko"]


def test_tags_have_the_ids_that_the_model_code_knows(nano_models: Path) -> None:
    import sentencepiece

    from model_procs.weights.lean_import import lean_import
    from model_procs.weights.synthetic.sensevoice import TAGS

    with lean_import("funasr"):
        from funasr.models.sense_voice.model import SenseVoiceSmall

    model = SenseVoiceSmall(
        encoder="SenseVoiceEncoderSmall",
        encoder_conf={"output_size": 8, "attention_heads": 2, "num_blocks": 1, "linear_units": 8},
        vocab_size=10,
        input_size=8,
    )
    path = nano_models / "SenseVoiceSmall" / "chn_jpn_yue_eng_ko_spectok.bpe.model"
    pieces = sentencepiece.SentencePieceProcessor(str(path))
    assert pieces.get_piece_size() == 25_055
    # The model's tables lead from the ids of tags to rows of its embedding, and from names to rows.
    rows = {row: f"<|{name}|>" for name, row in (model.lid_dict | model.textnorm_dict).items()}
    by_id = model.lid_int_dict | model.textnorm_int_dict
    assert {id_: pieces.decode([id_]) for id_ in by_id} == {
        id_: rows[row] for id_, row in by_id.items()
    }
    emotions = {"unk": "EMO_UNKNOWN"}
    for name, id_ in model.emo_dict.items():
        assert pieces.decode([id_]) == f"<|{emotions.get(name, name.upper())}|>"
    assert {id_: pieces.decode([id_]) for id_ in TAGS} == {
        id_: f"<|{name}|>" for id_, name in TAGS.items()
    }


def test_weights_are_replaced_only_by_force(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "SenseVoiceSmall" / "mine.txt"
    kept.parent.mkdir()
    kept.write_text("precious")
    assert checkpoints.main(["synth", str(tmp_path), "--size", "nano"]) == 1
    assert "--force" in capsys.readouterr().err
    assert [file.name for file in tmp_path.rglob("*")] == ["SenseVoiceSmall", "mine.txt"]

    assert checkpoints.main(["synth", str(tmp_path), "--size", "nano", "--force"]) == 0
    assert f"VOICE_ENGINE_MODELS_DIR={tmp_path} make run" in capsys.readouterr().out
    assert not kept.exists()
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["SenseVoiceSmall", "pocket-tts"]


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    place = tmp_path / "model"
    place.mkdir()
    (place / "old").write_text("old")

    def fail() -> None:
        with replacing(place) as folder:
            (folder / "half").write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == [
        "model",
        "model/old",
    ]


def test_an_impossible_folder_is_an_error_not_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert checkpoints.main(["synth", str(tmp_path / "file" / "models")]) == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_a_pull_does_not_take_random_weights_for_real_ones(
    nano_models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(nano_models, tmp_path, dirs_exist_ok=True)
    before = _hashes(tmp_path)
    assert checkpoints.main(["pull", "pocket", "sensevoice", str(tmp_path)]) == 1
    assert "random weights" in capsys.readouterr().err
    assert _hashes(tmp_path) == before

    for note in tmp_path.rglob(NOTE_FILE):  # now they look like real ones, and are left alone
        note.unlink()
    assert checkpoints.main(["pull", "pocket", "sensevoice", str(tmp_path)]) == 0
    assert "already there" in capsys.readouterr().out
