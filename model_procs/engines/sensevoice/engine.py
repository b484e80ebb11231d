"""SenseVoiceSmall: text, language, emotion and sound events of a recording, on CPU.

Loads in the template, transcribes in the workers, several clips at once. It imports only
the model, its frontend and its tokenizer from FunASR; all of FunASR would take ten seconds and half
a gigabyte.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Generator, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ipc.engines import EngineInfo, Json
from ipc.errors import ErrorCode, ServiceError
from ipc.operations import AUTO_LANGUAGE, NO_LANGUAGE, Distribution, Recording, Transcribe
from model_procs import linears
from model_procs.audio.pcm import Samples
from model_procs.audio.turns import in_turns
from model_procs.engine import Cancelled, EngineConfig
from model_procs.engines.sensevoice.encoder import BestPath, Encoder
from model_procs.heap import keep_large_blocks
from model_procs.listening import ctc, vad
from model_procs.listening.base import RATE, TranscriptionEngine, finished
from model_procs.listening.batches import ROW_SECONDS, Batches, Clip
from model_procs.listening.hotwords import CANDIDATES, DEFAULT_WEIGHT, Hotwords, best_path
from model_procs.listening.transcript import EMOTIONS, EVENTS, LANGUAGES, NO_EMOTION, Piece
from model_procs.weights import locate as weights
from model_procs.weights.lean_import import lean_import, without_values
from model_procs.weights.torchaudio_guard import ensure_torchaudio

PIECE_SECONDS = 30.0
"""The longest piece for the model; its training data had no longer ones."""

CAPACITY = 4
"""How many requests a worker serves at once, unless the settings say so."""

_SHORTEST = RATE // 10

_TURN_SECONDS = 0.05
"""How long speech is searched in a long recording before other requests get a turn."""

_ROW_SECONDS = 0.06
"""The sound in a row of the encoder's input."""

_LANGUAGES = tuple(name for name in LANGUAGES if name != AUTO_LANGUAGE)
_EMOTIONS = (*EMOTIONS, NO_EMOTION)

_WORD_START = "\u2581"
"""SentencePiece's sign for a space."""

_TYPICAL_ROWS = (64, 256)
"""Rows for which the kernel of the linear layers should be fast: a short clip, and a batch."""


class SenseVoiceEngine(TranscriptionEngine):
    """SenseVoiceSmall behind the BatchEngine protocol.

    The option `quantize` (default true) makes the linear layers int8: a quarter of the time and
    half of the memory.
    """

    name = "sensevoice"

    def __init__(self, config: EngineConfig) -> None:
        self.capacity = self.live = config.capacity or CAPACITY
        self._config = config
        self._folder = weights.weights_folder(config.models_dir, "sensevoice")
        self._quantize = bool(config.options.get("quantize", True))
        self._batches: Batches[BestPath] = Batches(self._compute)
        self._seeding = threading.Lock()
        self._frontend: Any = None
        self._queries: Any = None
        self._encoder: Any = None
        self._tokenizer: Any = None
        self._tags: tuple[_Tags, ...] = ()
        self._notes: list[str] = []
        self._facts: Json = {}

    def load(self) -> None:
        """Load the weights from the models folder and transcribe once, without the network.

        Raises ServiceError (model_unavailable) with the library's message and how to fix it.
        """
        import torch

        torch.set_num_threads(1)  # here, and in each thread of the workers
        ensure_torchaudio()
        vad.load()
        try:
            model, self._frontend, self._tokenizer = _build(self._folder)
            parameters = sum(value.numel() for value in model.parameters())
            version = weights.fingerprint(self._folder / "model.pt")
        except Exception as error:
            raise weights.cannot_load("SenseVoiceSmall", self._folder, error) from error
        wanted = self._config.options.get("linear")
        kernel = _int8(model, wanted) if self._quantize else linears.FP32[0]
        linear = partial(linears.make, kernel) if self._quantize else linears.fp32
        self._encoder = Encoder(model, linear)
        self._queries = _Queries(model)
        pieces = self._tokenizer.sp
        self._tags = tuple(_Tags(pieces, names) for names in (_LANGUAGES, _EMOTIONS, EVENTS))
        self._notes = weights.notes(self._folder)
        self._facts = {
            "parameters": parameters,
            "quantized": self._quantize,
            "linear": kernel.name,
            "version": version,
        }
        del model  # and with it the mapped file of the weights
        self._encoder.prepare(ctc.QUERIES + math.ceil(PIECE_SECONDS / _ROW_SECONDS))
        self._recognize_once()
        weights.release_scratch()

    def warm_up(self) -> None:
        """Only start the threads: `load` has transcribed once, for all forked workers."""
        self._batches.start_threads(self._config.threads)
        keep_large_blocks()

    def _recognize_once(self) -> None:
        """Transcribe a second of noise, with one thread, because the template must fork next."""
        noise = np.random.default_rng(0).standard_normal(RATE) * 0.05
        options = Transcribe(Recording(key=""))
        finished(self, self.transcribe(noise.astype(np.float32), options, threading.Event()))

    def info(self) -> EngineInfo:
        """Languages, number of parameters, and `version`, which changes with the weights."""
        return EngineInfo(
            engine=self.name,
            sample_rate=RATE,
            languages=LANGUAGES,
            notes=tuple(self._notes),
            facts=self._facts,
            hotwords=True,
            hotword_weight=True,
            chosen={"linear": self._facts["linear"]} if self._quantize else {},
        )

    def step(self) -> None:
        """Compute for a short time on the clips that wait."""
        self._batches.step()

    def wake(self) -> None:
        """End the running step."""
        self._batches.wake()

    def recognize(
        self, samples: Samples, options: Transcribe, stop: threading.Event
    ) -> Iterator[Piece | None]:
        """Yield pieces of at most `PIECE_SECONDS`, cut in pauses; long pauses are in no piece.

        Raises ServiceError (invalid_option) for an unknown language hint.
        """
        if options.language not in LANGUAGES:
            raise ServiceError(
                ErrorCode.invalid_option,
                f"language {options.language!r} is unknown; choose one of {', '.join(LANGUAGES)}",
            )
        hotwords = self._hotwords(options) if options.hotwords else None
        ranges = yield from _ranges(samples, stop)
        clips = _clips(samples, ranges, options)
        self._batches.add(clips)
        try:
            for clip in clips:
                while clip.result is None:
                    if clip.error is not None:
                        raise clip.error
                    if stop.is_set():
                        raise Cancelled
                    yield None
                path = clip.result
                if hotwords is not None:
                    path = yield from in_turns(_biased(path, hotwords), _TURN_SECONDS)
                yield self._piece(clip, path)
        finally:
            for clip in clips:
                clip.dropped = True

    def _compute(self, clips: list[Clip[BestPath]]) -> Generator[None, None, list[BestPath]]:
        """Recognize `clips` together; yields after each layer."""
        import torch

        features = []
        for clip in clips:
            with torch.inference_mode():
                features.append(self._features(clip.samples, clip.options))
            yield
        candidates = [CANDIDATES if clip.options.hotwords else 0 for clip in clips]
        work = self._encoder.recognize(features, candidates)
        while True:
            with torch.inference_mode():
                try:
                    next(work)
                except StopIteration as end:
                    return list(end.value)
            yield

    def _features(self, samples: Samples, options: Transcribe) -> Any:
        """What the encoder gets for a clip, [frames, features]: four queries and the sound."""
        import torch

        if len(samples) < _SHORTEST:
            samples = np.pad(samples, (0, _SHORTEST - len(samples)))
        with self._seeding:  # the frontend adds random dither; results must be reproducible
            torch.manual_seed(0)
            sound, _ = self._frontend(torch.from_numpy(samples)[None], torch.tensor([len(samples)]))
        return torch.cat([self._queries(options.language, options.itn), sound[0]])

    def _piece(self, clip: Clip[BestPath], path: BestPath) -> Piece:
        """Text, words and tags from the best path.

        The first four frames have the tags: language, emotion, event, written form. The language
        may also be "no speech".
        """
        seconds = len(clip.samples) / RATE
        found = [token for token, _, _ in ctc.tokens(path.tokens)]
        words = ctc.align(path.tokens, self._spell, seconds, clip.offset, scores=path.scores)
        languages, emotions, sounds = (
            tags.distribution(frame) for tags, frame in zip(self._tags, path.tags, strict=True)
        )
        return Piece(
            seconds,
            self._tokenizer.decode(found),
            languages,
            emotions,
            sounds,
            tuple(words),
            no_speech=languages.get(NO_LANGUAGE),
        )

    def _hotwords(self, options: Transcribe) -> Hotwords:
        weight = options.hotword_weight
        return Hotwords(
            options.hotwords,
            DEFAULT_WEIGHT if weight is None else weight,
            self._text_of,
            lambda word: len(self._tokenizer.sp.encode(word)),
        )

    def _text_of(self, token: int) -> str | None:
        """The text of one token, with a space in front where it begins a word.

        None for a tag or a byte.
        """
        pieces = self._tokenizer.sp
        if pieces.is_control(token) or pieces.is_byte(token) or pieces.is_unknown(token):
            return None
        text: str = pieces.id_to_piece(token)
        return None if ctc.is_tag(text) else text.replace(_WORD_START, " ")

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


def _biased(path: BestPath, hotwords: Hotwords) -> Generator[None, None, BestPath]:
    """The best path with `hotwords`; its tags stay as they are."""
    assert path.frames is not None
    tokens, scores = yield from best_path(path.frames[ctc.QUERIES :], hotwords)
    return replace(
        path,
        tokens=path.tokens[: ctc.QUERIES] + tokens,
        scores=path.scores[: ctc.QUERIES] + scores,
    )


class _Tags:
    """The tags of one query that the model knows, with their tokens."""

    def __init__(self, pieces: Any, names: Iterable[str]) -> None:
        tokens = {name: pieces.piece_to_id(f"<|{name}|>") for name in names}
        self._tokens = {name: id for name, id in tokens.items() if id != pieces.unk_id()}

    def distribution(self, logarithms: Any) -> Distribution:
        """How likely each tag is, by the `logarithms` [vocabulary] of its query's frame."""
        values = {name: float(logarithms[token]) for name, token in self._tokens.items()}
        best = max(values.values(), default=0.0)
        weights = {name: math.exp(value - best) for name, value in values.items()}
        total = math.fsum(weights.values())
        return {name: weight / total for name, weight in weights.items()}


class _Queries:
    """The model's embeddings of what is asked about a clip: language, event, emotion, text."""

    def __init__(self, model: Any) -> None:
        self._embeddings = model.embed.weight.detach().clone()
        self._languages = dict(model.lid_dict)
        self._styles = dict(model.textnorm_dict)

    def __call__(self, language: str, itn: bool) -> Any:
        """The four queries, [4, features]; `itn`: with punctuation and numbers as digits."""
        rows = [self._languages[language], 1, 2, self._styles["withitn" if itn else "woitn"]]
        return self._embeddings[rows]


def _ranges(
    samples: Samples, stop: threading.Event
) -> Generator[None, None, list[tuple[int, int]]]:
    """Where to cut `samples`: not at all, if they are short enough for one piece.

    One piece remains also without speech: the model knows laughter and music too.
    """
    longest = int(PIECE_SECONDS * RATE)
    if len(samples) <= longest:
        return [(0, len(samples))]
    probabilities = yield from in_turns(vad.probing(samples, stop), _TURN_SECONDS)
    return vad.clips(probabilities, len(samples), PIECE_SECONDS) or [(0, longest)]


def _clips(
    samples: Samples, ranges: list[tuple[int, int]], options: Transcribe
) -> list[Clip[BestPath]]:
    """The clips of `samples` at these ranges, due one after the other."""
    clips = []
    due = time.monotonic()
    for start, end in ranges:
        rows = ctc.QUERIES + math.ceil((end - start) / RATE / _ROW_SECONDS)
        due += rows * ROW_SECONDS
        clips.append(Clip[BestPath](samples[start:end], options, start / RATE, rows, due))
    return clips


def _int8(model: Any, wanted: str | None) -> linears.Kernel:
    """The kernel called `wanted` for the linear layers of `model`, or the fastest."""
    import torch

    layers = (*model.encoder.modules(), *model.ctc.modules())
    weights = [layer.weight for layer in layers if isinstance(layer, torch.nn.Linear)]
    return linears.choose(linears.INT8, weights, _TYPICAL_ROWS, wanted)


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
    with without_values():
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
