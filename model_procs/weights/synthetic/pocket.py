"""A random Pocket TTS. Runs in the same places as `model_procs.weights.synthetic`."""

from __future__ import annotations

import math
import re
import string
from collections.abc import Iterator
from itertools import chain, islice, product
from pathlib import Path
from statistics import NormalDist
from typing import Any

import torch
import yaml
from torch import nn

from ipc.variants import variant_folder
from model_procs.weights.lean_import import lean_import
from model_procs.weights.locate import VOICES_FOLDER
from model_procs.weights.pocket_voice import to_bytes
from model_procs.weights.synthetic import NOTE, NOTE_FILE, SEED
from model_procs.weights.synthetic.layers import randomise

NANO: dict[str, Any] = {
    "flow_lm": {
        "flow": {"depth": 1, "dim": 32},
        "transformer": {"d_model": 64, "hidden_scale": 2, "num_heads": 2, "num_layers": 2},
        "lookup_table": {"dim": 64},
    },
    "mimi": {
        "outer_dim": 32,
        "seanet": {"dimension": 32, "n_filters": 4},
        "transformer": {
            "d_model": 32,
            "num_heads": 2,
            "num_layers": 1,
            "dim_feedforward": 64,
            "input_dimension": 32,
            "output_dimensions": [32],
        },
        "quantizer": {"output_dimension": 32},
    },
}
"""Differences from the library's english.yaml; sample rate and frame rate are the same."""

_NANO_ENCODER: dict[str, Any] = {part: NANO["mimi"][part] for part in ("seanet", "transformer")}
"""The same for the encoder alone."""

_SPEECH_FRAMES = 60.0
"""Mean length of a sentence in frames of 80 ms."""

VOICES = ("alba", "marius")
_VOICE_FRAMES = 63
"""Five seconds."""

_LOUDNESS = 0.1
"""RMS of the audio; full scale is 1."""


def write_pocket(folder: Path, size: str) -> int:
    """Write the files that the engine loads, and two voices; return the number of parameters."""
    changes = NANO if size == "nano" else {}
    return write_checkpoint(folder, "english", changes)


def write_variant(models_dir: Path, variant: str, size: str) -> int:
    """The same for another language or size, by the library's name of it, such as `french`."""
    folder = models_dir / variant_folder(variant)
    folder.mkdir(parents=True)
    (folder / NOTE_FILE).write_text(f"{NOTE}\n", "utf-8")
    small = re.search(r"_\d+m_", variant)  # their decoders are small and have other shapes
    nano: dict[str, Any] = {"mimi": _NANO_ENCODER} if small else NANO
    return write_checkpoint(folder, variant, nano if size == "nano" else {})


def write_checkpoint(folder: Path, name: str, changes: dict[str, Any]) -> int:
    """The same with the library's configuration of this name, with some `changes`."""
    from safetensors.torch import save_file

    tokenizer_file = folder / "tokenizer.json"
    with lean_import("pocket_tts") as package:
        from pocket_tts.models.flow_lm import FlowLMModel
        from pocket_tts.models.mimi import build_mimi
        from pocket_tts.utils.config import Config

        settings = yaml.safe_load((package / "config" / f"{name}.yaml").read_text("utf-8"))
        _update(settings, changes)
        table = settings["flow_lm"]["lookup_table"]
        _tokenizer(table["n_bins"]).save(str(tokenizer_file))
        table |= {"tokenizer": "tokenizers", "tokenizer_path": str(tokenizer_file)}
        config = Config(**settings)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            flow_lm = FlowLMModel.from_pydantic_config(
                config.flow_lm,
                latent_dim=config.mimi.quantizer.dimension,
                insert_bos_before_voice=config.flow_lm.insert_bos_before_voice,
            )
            mimi = build_mimi(config.mimi)
            for model in (flow_lm, mimi):
                randomise(model)
            _let_sentences_end(flow_lm, config.default_eos_threshold)
            _set_loudness(mimi)
            voice = mimi.downsample.conv.conv.out_channels
            flow_lm.speaker_proj_weight = nn.Parameter(
                torch.randn(flow_lm.dim, voice) / math.sqrt(voice)
            )
    state = {f"flow_lm.{name}": value for name, value in flow_lm.state_dict().items()}
    state |= {f"mimi.{name}": value for name, value in mimi.state_dict().items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    _write_voices(folder / VOICES_FOLDER, config.flow_lm)
    table["tokenizer_path"] = tokenizer_file.name
    settings["weights_path"] = "model.safetensors"
    del settings["weights_path_without_voice_cloning"]
    (folder / "config.yaml").write_text(yaml.safe_dump(settings, allow_unicode=True), "utf-8")
    return sum(value.numel() for value in state.values())


def _write_voices(folder: Path, flow_lm: Any) -> None:
    """Two voices with names from the library: the default one and another."""
    shape = flow_lm.transformer
    head = (shape.attn_dim or shape.d_model) // shape.num_heads
    size = (2, 1, _VOICE_FRAMES, shape.num_kv_heads or shape.num_heads, head)
    folder.mkdir()
    for seed, name in enumerate(VOICES):
        generator = torch.Generator().manual_seed(SEED + seed)
        state = {
            f"transformer.layers.{layer}.self_attn": {
                "offset": torch.tensor([_VOICE_FRAMES]),
                "cache": torch.randn(size, generator=generator),
            }
            for layer in range(shape.num_layers)
        }
        (folder / f"{name}.safetensors").write_bytes(to_bytes(state))


def _update(settings: dict[str, Any], changes: dict[str, Any]) -> None:
    """Apply `changes` to `settings`, recursively."""
    for key, value in changes.items():
        if isinstance(value, dict):
            _update(settings[key], value)
        else:
            settings[key] = value


@torch.no_grad()
def _let_sentences_end(flow_lm: Any, threshold: float) -> None:
    """Set the EOS layer so that a sentence ends after `_SPEECH_FRAMES` on average.

    It ends when the EOS logit exceeds `threshold`.
    """
    # The latest frame must outweigh earlier ones, or every step would decide the same.
    flow_lm.input_linear.weight.mul_(10)
    # The layer's input has unit variance, so the logit is normal with this standard deviation.
    deviation = flow_lm.out_eos.weight.norm().item()
    rare = NormalDist().inv_cdf(1 - 1 / _SPEECH_FRAMES)
    flow_lm.out_eos.bias.fill_(threshold - rare * deviation)


@torch.no_grad()
def _set_loudness(mimi: Any) -> None:
    """Scale the decoder's last layer for an RMS of about `_LOUDNESS`."""
    from pocket_tts.modules.stateful_module import StatefulModule, init_states

    for name, module in mimi.named_modules():
        if isinstance(module, StatefulModule):
            module._module_absolute_name = name
    latents = torch.randn(1, 12, mimi.quantizer.dimension)
    sound = mimi.decode_from_latent(latents, init_states(mimi, 1, 1000))
    # Two digits, so that rounding differences between processors do not reach the file.
    mimi.decoder.model[-1].conv.weight.mul_(float(f"{_LOUDNESS / sound.std().item():.2g}"))


def _tokenizer(pieces: int) -> Any:
    """A Unigram tokenizer of exactly `pieces` pieces, like a converted SentencePiece model.

    Bytes make every text representable; letter groups give about three characters per token.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers

    vowels, lower = "aeiou", string.ascii_lowercase
    consonants = "".join(sorted(set(lower) - set(vowels)))
    printable = string.ascii_letters + string.digits + string.punctuation
    groups: Iterator[str] = chain(
        ["<unk>", "<s>", "</s>", "<pad>"],
        (f"<0x{byte:02X}>" for byte in range(256)),
        "▁" + printable,
        ("▁" + letter for letter in string.ascii_letters),
        map("".join, product(lower, repeat=2)),
        ("▁" + "".join(pair) for pair in product(lower, repeat=2)),
        map("".join, product(consonants, vowels, consonants)),
        map("".join, product(string.digits, repeat=2)),
    )
    vocabulary = [(piece, -10.0) for piece in islice(groups, pieces)]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=0, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return tokenizer
