"""SenseVoiceSmall: text, language, emotion and sound events of a recording, on CPU.

Loads in the template, transcribes in the workers. It imports only the model, its frontend and its
tokenizer from FunASR; all of FunASR would take ten seconds and half a gigabyte.
"""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ipc.engines import EngineInfo, Json
from ipc.errors import ErrorCode, ServiceError
from ipc.operations import NO_LANGUAGE, Recording, Transcribe
from model_procs.audio.pcm import Samples
from model_procs.engine import Cancelled, EngineConfig
from model_procs.listening import ctc
from model_procs.listening.base import RATE, TranscriptionEngine, finished
from model_procs.listening.segments import segments
from model_procs.listening.transcript import LANGUAGES, Piece
from model_procs.weights import locate as weights
from model_procs.weights.lean_import import lean_import
from model_procs.weights.torchaudio_guard import ensure_torchaudio

PIECE_SECONDS = 30.0
"""The longest piece for the model; its training data had no longer ones."""

_SHORTEST = RATE // 10


class SenseVoiceEngine(TranscriptionEngine):
    """SenseVoiceSmall behind the Engine protocol.

    The option `quantize` (default true) makes the linear layers int8: a quarter of the time and
    half of the memory.
    """

    name = "sensevoice"

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        self._folder = weights.weights_folder(config.models_dir, "sensevoice")
        self._quantize = bool(config.options.get("quantize", True))
        self._model: Any = None
        self._frontend: Any = None
        self._tokenizer: Any = None
        self._path: list[int] = []
        self._scores: list[float] = []
        self._no_speech_token = 0
        self._no_speech = 0.0
        self._stop = threading.Event()
        self._notes: list[str] = []
        self._facts: Json = {}

    def load(self) -> None:
        """Load the weights from the models folder and transcribe once, without the network.

        Raises ServiceError (model_unavailable) with the library's message and how to fix it.
        """
        import torch

        torch.set_num_threads(1)
        ensure_torchaudio()
        try:
            self._model, self._frontend, self._tokenizer = _build(self._folder)
            parameters = sum(value.numel() for value in self._model.parameters())
            version = weights.fingerprint(self._folder / "model.pt")
        except Exception as error:
            raise weights.cannot_load("SenseVoiceSmall", self._folder, error) from error
        if self._quantize:
            _quantize(self._model)
        self._no_speech_token = self._tokenizer.sp.piece_to_id(f"<|{NO_LANGUAGE}|>")
        self._model.ctc.log_softmax = self._keep_path(self._model.ctc.log_softmax)
        encoder = self._model.encoder
        for layer in (*encoder.encoders0, *encoder.encoders, *encoder.tp_encoders):
            layer.register_forward_pre_hook(self._leave_if_stopped)
        self._notes = weights.notes(self._folder)
        self._facts = {"parameters": parameters, "quantized": self._quantize, "version": version}
        self._recognize_once()
        weights.release_scratch()

    def warm_up(self) -> None:
        """Only set the number of threads: `load` has transcribed once, for all forked workers."""
        import torch

        torch.set_num_threads(self._config.threads)

    def _recognize_once(self) -> None:
        """Transcribe a second of noise, with one thread, because the template must fork next."""
        noise = np.random.default_rng(0).standard_normal(RATE) * 0.05
        options = Transcribe(Recording(key=""))
        finished(self.transcribe(noise.astype(np.float32), options, threading.Event()))

    def info(self) -> EngineInfo:
        """Languages, number of parameters, and `version`, which changes with the weights."""
        return EngineInfo(
            engine=self.name,
            sample_rate=RATE,
            languages=LANGUAGES,
            notes=tuple(self._notes),
            facts=self._facts,
        )

    def recognize(
        self, samples: Samples, options: Transcribe, stop: threading.Event
    ) -> Iterator[Piece]:
        """Yield pieces of at most `PIECE_SECONDS`, cut where it is quiet.

        Raises ServiceError (invalid_option) for an unknown language hint. Raises Cancelled after
        `stop` is set, before the next layer of the model.
        """
        if options.language not in LANGUAGES:
            raise ServiceError(
                ErrorCode.invalid_option,
                f"language {options.language!r} is unknown; choose one of {', '.join(LANGUAGES)}",
            )
        self._stop = stop
        for start, end in segments(samples, RATE, PIECE_SECONDS):
            yield self._recognize(samples[start:end], options, start / RATE)

    def _recognize(self, samples: Samples, options: Transcribe, offset: float) -> Piece:
        import torch

        seconds = len(samples) / RATE
        if len(samples) < _SHORTEST:
            samples = np.pad(samples, (0, _SHORTEST - len(samples)))
        torch.manual_seed(0)  # the frontend adds random dither; results must be reproducible
        with torch.inference_mode():
            results, _ = self._model.inference(
                [torch.from_numpy(samples)],
                tokenizer=self._tokenizer,
                frontend=self._frontend,
                device="cpu",
                language=options.language,
                use_itn=options.itn,
            )
        words = ctc.align(self._path, self._spell, seconds, offset, scores=self._scores)
        language, emotion, event = (math.exp(score) for score in self._scores[:3])
        return Piece(
            seconds,
            results[0]["text"],
            language,
            emotion,
            event,
            tuple(words),
            no_speech=self._no_speech,
        )

    def _keep_path(self, log_softmax: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """Wrap `log_softmax`, so that the best token of each frame is also kept, and its score.

        The first four frames have the tags: language, emotion, event, written form. The library
        makes the text from the same path, so the words cannot differ from the text. The language
        may also be "no speech"; the probability of this tag is kept too.
        """

        def kept(frames: Any) -> Any:
            scores = log_softmax(frames)
            best = scores[0].max(dim=-1)
            self._path = best.indices.tolist()
            self._scores = best.values.tolist()
            self._no_speech = math.exp(float(scores[0, 0, self._no_speech_token]))
            return scores

        return kept

    def _spell(self, tokens: list[int]) -> list[str]:
        """The part of the text that each of `tokens` adds to the text of the tokens before it."""
        added = []
        text = ""
        for count in range(1, len(tokens) + 1):
            longer = self._tokenizer.decode(tokens[:count])
            if longer.endswith("\ufffd"):  # the first bytes of a character
                longer = text
            added.append(longer[len(text) :])
            text = longer
        return added

    def _leave_if_stopped(self, _layer: Any, _inputs: Any) -> None:
        if self._stop.is_set():
            raise Cancelled


def _build(folder: Path) -> tuple[Any, Any, Any]:
    """Model, frontend and tokenizer; the weights are mapped from the file, so forks share them."""
    import torch
    import yaml

    with lean_import("funasr"):
        from funasr.frontends.wav_frontend import WavFrontend
        from funasr.models.sense_voice.model import SenseVoiceSmall
        from funasr.tokenizer.sentencepiece_tokenizer import SentencepiecesTokenizer

    config = yaml.safe_load((folder / "config.yaml").read_text("utf-8"))
    bpe_model = folder / "chn_jpn_yue_eng_ko_spectok.bpe.model"
    tokenizer = SentencepiecesTokenizer(**config["tokenizer_conf"] | {"bpemodel": str(bpe_model)})
    cmvn = {"cmvn_file": str(folder / "am.mvn")}
    frontend = WavFrontend(**config["frontend_conf"] | cmvn)
    with torch.device("meta"):
        model = SenseVoiceSmall(
            encoder=config["encoder"],
            encoder_conf=config["encoder_conf"],
            input_size=frontend.output_size(),
            vocab_size=tokenizer.get_vocab_size(),
            **config["model_conf"],
        )
    state = torch.load(folder / "model.pt", map_location="cpu", mmap=True, weights_only=True)
    for wrapper in ("state_dict", "model_state_dict", "model"):  # as FunASR's own loader does
        state = state.get(wrapper, state)
    missing = model.load_state_dict(state, strict=False, assign=True).missing_keys
    if missing:
        raise KeyError(f"model.pt lacks {len(missing)} tensors, the first is {missing[0]}")
    return model.float().eval(), frontend, tokenizer


def _quantize(model: Any) -> None:
    """Make the linear layers int8, and release the mapped file of the weights."""
    import torch
    from torch.ao import quantization

    linear = torch.nn.Linear
    kept = {layer.weight for layer in model.modules() if isinstance(layer, linear)}
    for value in model.parameters():
        if value not in kept:  # also the biases, which the int8 layers keep unchanged
            value.data = value.data.clone()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch calls this API deprecated
        # One scale per channel costs nothing and halves the error of one scale per layer.
        quantization.quantize_dynamic(  # type: ignore[no-untyped-call]
            model, {linear: quantization.per_channel_dynamic_qconfig}, inplace=True
        )
