"""A random SenseVoiceSmall. Runs in the same places as `model_procs.weights.synthetic`.

Its tags depend on its queries as in the real model: the language tag repeats the language hint
(without a hint it depends on the recording), the ITN switch gives `withitn` or `woitn`, and
emotion and event depend on the recording.
"""

from __future__ import annotations

import json
import math
from itertools import islice, product
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from model_procs.weights.lean_import import lean_import, without_values
from model_procs.weights.synthetic import SEED
from model_procs.weights.synthetic.layers import randomise
from model_procs.weights.torchaudio_guard import ensure_torchaudio

_ENCODERS: dict[str, dict[str, Any]] = {
    "nano": {
        "output_size": 48,
        "attention_heads": 2,
        "linear_units": 96,
        "num_blocks": 2,
        "tp_blocks": 1,
    },
    "full": {
        "output_size": 512,
        "attention_heads": 4,
        "linear_units": 2048,
        "num_blocks": 50,
        "tp_blocks": 20,
    },
}

_CONFIG: dict[str, Any] = {
    "encoder": "SenseVoiceEncoderSmall",
    "encoder_conf": {
        "dropout_rate": 0.1,
        "positional_dropout_rate": 0.1,
        "attention_dropout_rate": 0.1,
        "input_layer": "pe",
        "pos_enc_class": "SinusoidalPositionEncoder",
        "normalize_before": True,
        "kernel_size": 11,
        "sanm_shfit": 0,
        "selfattention_layer_type": "sanm",
    },
    "model": "SenseVoiceSmall",
    "model_conf": {"length_normalized_loss": True, "sos": 1, "eos": 2, "ignore_id": -1},
    "tokenizer": "SentencepiecesTokenizer",
    "tokenizer_conf": {"bpemodel": None, "unk_symbol": "<unk>", "split_with_space": True},
    "frontend": "WavFrontend",
    "frontend_conf": {
        "fs": 16000,
        "window": "hamming",
        "n_mels": 80,
        "frame_length": 25,
        "frame_shift": 10,
        "lfr_m": 7,
        "lfr_n": 6,
        "cmvn_file": None,
    },
}
"""The published config.yaml without the settings for training."""

_BPE_FILE = "chn_jpn_yue_eng_ko_spectok.bpe.model"

_CONFIGURATION: dict[str, Any] = {
    "framework": "pytorch",
    "task": "auto-speech-recognition",
    "model": {"type": "funasr"},
    "file_path_metas": {
        "init_param": "model.pt",
        "config": "config.yaml",
        "tokenizer_conf": {"bpemodel": _BPE_FILE},
        "frontend_conf": {"cmvn_file": "am.mvn"},
    },
}
"""configuration.json, where `funasr.AutoModel` finds the names of the other files."""

PIECES = 25_055
TAGS = {
    24884: "zh",
    24885: "en",
    24888: "yue",
    24892: "ja",
    24896: "ko",
    24992: "nospeech",
    24993: "Speech",
    24995: "BGM",
    24997: "Laughter",
    24999: "Applause",
    25001: "HAPPY",
    25002: "SAD",
    25003: "ANGRY",
    25004: "NEUTRAL",
    25005: "FEARFUL",
    25006: "DISGUSTED",
    25007: "SURPRISED",
    25008: "OTHER",
    25009: "EMO_UNKNOWN",
    25010: "Cry",
    25011: "Sneeze",
    25012: "Breath",
    25013: "Cough",
    25014: "Sing",
    25015: "Speech_Noise",
    25016: "withitn",
    25017: "woitn",
    25018: "GBG",
    25019: "Event_UNK",
}
"""The published ids of the tags that the model writes."""

_FIRST_TAG = 24_884

_ANSWERS = {
    0: ("zh", "en", "yue", "ja", "ko"),
    3: ("zh",),
    4: ("en",),
    7: ("yue",),
    11: ("ja",),
    12: ("ko",),
    13: ("nospeech",),
    1: ("HAPPY", "SAD", "ANGRY", "NEUTRAL"),
    2: ("Speech", "BGM", "Laughter", "Applause"),
    14: ("withitn",),
    15: ("woitn",),
}
"""The tags that each query may give: row of the model's query embedding to tag names."""


def write_sensevoice(folder: Path, size: str) -> int:
    """Write the files of a FunASR model folder; return the number of parameters."""
    config = {**_CONFIG, "encoder_conf": _ENCODERS[size] | _CONFIG["encoder_conf"]}
    frontend = config["frontend_conf"]
    features = frontend["n_mels"] * frontend["lfr_m"]
    ensure_torchaudio()
    with lean_import("funasr"):
        from funasr.models.sense_voice.model import SenseVoiceSmall

        with without_values():
            model = SenseVoiceSmall(
                encoder=config["encoder"],
                encoder_conf=config["encoder_conf"],
                input_size=features,
                vocab_size=PIECES,
                **config["model_conf"],
            )
    model.to_empty(device="cpu")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        randomise(model)
        _quieten(model.encoder)
        _answer_queries(model)
        mean, scale = -10 + torch.randn(features), 0.25 + 0.01 * torch.randn(features)
    state = model.state_dict()
    torch.save(state, folder / "model.pt")
    (folder / "am.mvn").write_text(_cmvn(mean, scale))
    (folder / _BPE_FILE).write_bytes(_bpe_model())
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    (folder / "configuration.json").write_text(json.dumps(_CONFIGURATION, indent=2) + "\n")
    return sum(value.numel() for value in state.values())


@torch.no_grad()
def _quieten(encoder: Any) -> None:
    """Make every layer change its input only a little, so that queries stay recognizable."""
    for layer in encoder.modules():
        if isinstance(layer, nn.LayerNorm):
            layer.reset_parameters()
    for layer in [*encoder.encoders0, *encoder.encoders, *encoder.tp_encoders]:
        attention = layer.self_attn
        attention.fsmn_block.weight.mul_(0.03)
        attention.linear_out.weight.mul_(0.3)
        layer.feed_forward.w_2.weight.mul_(0.03)
        # The first layer has no residual: its values are the signal.
        if layer.in_size == layer.size:
            attention.linear_q_k_v.weight[-layer.size :].mul_(0.03)


@torch.no_grad()
def _answer_queries(model: Any) -> None:
    """Give each query its own channel, which raises the logits of its possible tags."""
    queries = model.embed.weight.normal_(std=3)
    count, features = queries.shape
    size = model.encoder.output_size()
    values = model.encoder.encoders0[0].self_attn.linear_q_k_v.weight[-size:]
    signals = nn.functional.normalize(nn.functional.layer_norm(queries, (features,)), dim=1)
    values[:count] = signals * math.sqrt(size) / 8
    # A channel is sqrt(size) at its query, and normally distributed at frames of audio. The logit
    # of a text piece has the standard deviation `spread`; the blank is about as likely as all
    # pieces together.
    spread = 2.0
    rows, bias = model.ctc.ctc_lo.weight, model.ctc.ctc_lo.bias
    rows.normal_(std=spread / math.sqrt(size))
    rows[0] = 0
    bias[0] = 3 * spread
    rows[:_FIRST_TAG, :count] = 0
    bias[_FIRST_TAG:] = -12 * spread
    ids = {name: id_ for id_, name in TAGS.items()}
    for query, names in _ANSWERS.items():
        for name in names:
            rows[ids[name], query] += 24 * spread / math.sqrt(size)


def _cmvn(mean: torch.Tensor, scale: torch.Tensor) -> str:
    """am.mvn in Kaldi's text format: an offset for each feature, then a factor."""

    def component(name: str, values: torch.Tensor) -> str:
        numbers = " ".join(f"{value:.6f}" for value in values.tolist())
        return f"<{name}> {len(values)} {len(values)}\n<LearnRateCoef> 0 [ {numbers} ]\n"

    return "<Nnet>\n" + component("AddShift", mean) + component("Rescale", scale) + "</Nnet>\n"


def _bpe_model() -> bytes:
    """A SentencePiece model: two-syllable words, Chinese characters, and tags at their ids."""
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    piece_type = proto.SentencePiece
    syllables = ["".join(pair) for pair in product("bdfghjklmnprstvw", "aeiou")]
    words = ["▁" + "".join(pair) for pair in product(syllables, repeat=2)]
    characters = (chr(code) for code in range(0x4E00, 0x9FA6))
    special = [("<unk>", piece_type.UNKNOWN), ("<s>", piece_type.CONTROL)]
    special.append(("</s>", piece_type.CONTROL))
    pieces = special + [(word, piece_type.NORMAL) for word in words]
    rest = islice(characters, _FIRST_TAG - len(pieces))
    pieces += [(character, piece_type.NORMAL) for character in rest]
    for id_ in range(_FIRST_TAG, PIECES):
        pieces.append((f"<|{TAGS.get(id_, f'unused{id_}')}|>", piece_type.USER_DEFINED))
    for rank, (piece, type_) in enumerate(pieces):
        proto.pieces.add(piece=piece, score=-float(rank), type=type_)
    proto.trainer_spec.model_type = proto.trainer_spec.BPE
    proto.trainer_spec.vocab_size = PIECES
    proto.normalizer_spec.name = "identity"
    serialised: bytes = proto.SerializeToString(deterministic=True)
    return serialised
