"""Kyutai Pocket TTS: speech in the voice of a reference recording, on CPU, many voices at once.

Loads in the template, speaks in the workers. The library loads the weights, prepares texts and
encodes voices; the loop of latents and the decoding of sound are those of `batch`.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import math
import os
import re
import tempfile
import threading
import weakref
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ipc.engines import BuiltinVoice, Json
from ipc.errors import ErrorCode, ServiceError
from ipc.operations import Sampling
from ipc.variants import LANGUAGES, VARIANT, language_of, variant_engine, variant_for
from model_procs import linears
from model_procs.audio.edges import Fades
from model_procs.audio.pcm import Samples
from model_procs.engine import EngineConfig, alone
from model_procs.engines.pocket.batch import DECODED_TOGETHER, Batch, Listener
from model_procs.engines.pocket.flow_lm import FlowLM, Prefix, Run, modulations
from model_procs.engines.pocket.mimi import Mimi
from model_procs.engines.pocket.pace import Pace, measure
from model_procs.engines.pocket.runs import split_runs
from model_procs.heap import keep_large_blocks
from model_procs.listening import vad
from model_procs.speech.base import SpeechEngine
from model_procs.speech.normalize.speech import prepare
from model_procs.weights import locate as weights
from model_procs.weights import pocket_voice
from model_procs.weights.lean_import import without_compiler
from model_procs.weights.published import open_pocket

_TOKENS_PER_SECOND = 2.0
"""The slowest speaker assumed: the library cuts off a run that takes longer. Its own value is 3."""

_BLOCK_FRAMES = 25
"""How many frames of 80 ms the encoder processes at a time."""

_CAPACITY = 8
"""How many texts a worker speaks at once. More gain nothing on a few cores."""

_BATCHES = (1, 4, 8)
"""Numbers of rows for which the kernel of the linear layers is chosen."""

T = TypeVar("T")


class PocketEngine(SpeechEngine):
    """Pocket TTS behind the `BatchEngine` protocol.

    The same seed, text, voice and options give the same samples to the last bit, on the same
    processor, whoever else is in the batch and however many threads compute it.

    The option `quantize` (default true) makes the layers of both transformers int8: half the time
    and a quarter less memory.
    """

    name = "pocket"
    sample_rate = 24_000
    reference_rate = 24_000
    options = ("temperature", "decode_steps", "eos_threshold", "noise_clamp", "cfg_guidance")

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        self._variant = str(config.options.get(VARIANT, "")) or None
        self._folder = weights.weights_folder(config.models_dir, "pocket")
        if self._variant:
            self._folder /= self._variant
            self.name = variant_engine(self._variant)
        self._quantize = bool(config.options.get("quantize", True))
        self.capacity = config.capacity or _CAPACITY
        self._pace = Pace()
        self._model: Any = None
        self._batch: Any = None
        self._null: Prefix | None = None
        """What the second row of a guided run has for a voice."""
        self._encoder = ThreadPoolExecutor(1, "voices")
        """Encodes one voice at a time, beside the batch."""
        self._listeners = weakref.WeakKeyDictionary[threading.Event, Listener]()
        """By the stop event of their request."""
        self._notes: list[str] = []
        self._facts: Json = {}
        self._voice_paths: dict[str, Path] = {}

    @property
    def live(self) -> int:
        """How many streams keep up with real time, as set or as measured."""
        return self._config.live or self._pace.live

    def load(self) -> None:
        """Load the weights from the models folder and speak once, without the network.

        Raises ServiceError (model_unavailable) with the library's message and how to fix it.
        """
        os.environ["HF_HUB_OFFLINE"] = "1"
        vad.load()
        try:
            import torch

            torch.set_num_threads(1)
            with without_compiler():
                from pocket_tts import TTSModel

            file = self._folder / "model.safetensors"
            with _local_config(self._folder) as path:
                self._model = TTSModel.load_model(config=path).eval()
            self._notes = weights.notes(self._folder)
            if _is_open(self._folder):
                self.no_cloning = open_pocket(self._variant)
                self._notes.append(self.no_cloning)
            wanted = self._config.options.get("linear")
            kernel = _exact_linears(self._model, quantize=self._quantize, wanted=wanted)
            lm = FlowLM(self._model.flow_lm, (kernel or linears.FP32[0]).rows_step)
            mimi = Mimi(self._model, self.capacity, kernel)
            # Only the encoder is used from here on.
            self._model.mimi.decoder = self._model.mimi.decoder_transformer = None
            self._facts = {
                "parameters": _count_parameters(file),
                "quantized": self._quantize,
                "linear": (kernel or linears.FP32[0]).name,
                "version": weights.fingerprint(file),
            }
        except Exception as error:
            raise weights.cannot_load("Pocket TTS", self._folder, error) from error
        frame_seconds = 1 / self._model.config.mimi.frame_rate
        self._batch = Batch(lm, mimi, frame_seconds, self._pace)
        self.voice_format = f"{self.name.replace('-', '.')}-{self._voices_depend_on()}"
        self._model._TOKENS_PER_SECOND_ESTIMATE = _TOKENS_PER_SECOND
        self.sample_rate = self.reference_rate = self._model.sample_rate
        _encode_in_blocks(self._model.mimi)
        self.language = _language(self._folder)
        prepare(self.language)
        voice = self._speak_once()
        # What training shows the model of neither text nor voice: the mark before a voice alone.
        marks = 1 if self._model.flow_lm.insert_bos_before_voice else 0
        self._null = self._prefix(voice).first(marks)
        self._pace.rates = measure(
            lm,
            mimi,
            self._prefix(voice),
            frame_seconds=frame_seconds,
            threads=self._config.threads,
            capacity=self.capacity,
            most_frames=DECODED_TOGETHER,
        )
        weights.release_scratch()

    def warm_up(self) -> None:
        """Only start the threads: `load` has already spoken once, for all forked workers.

        Another inference in the worker would only copy pages that the fork shares. It would take
        five times as long as the fork and save 30 ms of the first request.
        """
        keep_large_blocks()
        self._batch.start(self._config.threads)

    def step(self) -> None:
        """Wait until one of the requests can go on."""
        self._batch.wait()

    def wake(self) -> None:
        """End a step, from any thread."""
        self._batch.wake()

    def _speak_once(self) -> Any:
        """Encode a second of noise, and speak in that voice until the first sound."""
        noise = np.random.default_rng(0).standard_normal(self.reference_rate) * 0.05
        voice = self.encode_voice(noise.astype(np.float32))
        self._find_builtin_voices(voice)
        stop = threading.Event()
        pieces = alone(self, self.synthesize("Hello.", voice, Sampling(seed=0), stop))
        next(pieces)
        pieces.close()
        return voice

    def notes(self) -> list[str]:
        """What clients must know about the weights."""
        return self._notes

    def facts(self) -> Json:
        """Number of parameters, quantization, and `version`, which changes with the weights."""
        return self._facts

    def chosen(self) -> Json:
        """The kernel of the linear layers, which decides about the bits of a sound."""
        return {"linear": self._facts["linear"]} if self._quantize else {}

    def builtin_voices(self) -> list[BuiltinVoice]:
        """The voices in the folder of the weights, by the library's names."""
        return [
            BuiltinVoice(name, name.replace("_", " ").title(), self.language)
            for name in self._voice_paths
        ]

    def load_builtin_voice(self, name: str) -> Any:
        """A voice from a file of `pocket-tts export-voice`, mapped into memory."""
        return pocket_voice.load(self._voice_paths[name])

    def _find_builtin_voices(self, example: Any) -> None:
        """Find the voices in the folder of the weights that have the same shape as `example`."""
        from pocket_tts.default_parameters import (
            DEFAULT_VOICE_FALLBACK,
            DEFAULT_VOICE_FOR_LANGUAGE,
        )

        self._voice_paths, misfits = pocket_voice.find(self._folder, example)
        self._notes += [f"the voice {name} does not fit the weights" for name in misfits]
        name = variant_for(self.language)
        best = (DEFAULT_VOICE_FOR_LANGUAGE.get(name or ""), DEFAULT_VOICE_FALLBACK)
        usual = [voice for voice in best if voice in self._voice_paths]
        self.default_voice = next(iter([*usual, *self._voice_paths]), None)

    def encode_voice(self, reference: Samples) -> Any:
        """The model's state after `reference`; many requests may use the same one."""
        import torch

        if len(reference) == 0:
            raise ServiceError(
                ErrorCode.empty_audio, "the reference recording has no sound; send some speech"
            )
        return self._model.get_state_for_audio_prompt(torch.from_numpy(reference)[None])

    def export_voice(self, voice: Any) -> bytes:
        """The state in safetensors, in the format of `pocket-tts export-voice`."""
        return pocket_voice.to_bytes(voice)

    def import_voice(self, data: memoryview) -> Any:
        """The state as views into `data`."""
        return pocket_voice.from_bytes(data)

    def beside(self, work: Callable[[], T]) -> Generator[None, None, T]:
        """Run `work` in a thread, while the batch goes on."""
        future = self._encoder.submit(work)
        future.add_done_callback(lambda _: self.wake())
        try:
            while not future.done():
                yield None
        finally:
            future.cancel()
        return future.result()

    def synthesize(
        self, text: str, voice: Any, sampling: Sampling, stop: threading.Event
    ) -> Generator[Samples | None, None, None]:
        """Speak `text`; yields pieces of one to four frames of 80 ms.

        The same seed, text, voice and options give the same samples, to the last bit.
        """
        import torch

        if not any(character.isalnum() for character in text):
            return  # the model would invent something to say
        generator = torch.Generator().manual_seed(sampling.seed)
        listener = self._listeners.setdefault(stop, Listener())
        prefix = self._prefix(voice)
        for words in split_runs(text, self._count_tokens):
            if not any(character.isalnum() for character in words):
                continue  # quotation marks alone, which the library may refuse
            speech = self._batch.join(self._run(words, prefix, sampling, generator), listener)
            ends = Fades(self.sample_rate, begin=False)
            try:
                done = False
                while not done:
                    pieces, done = self._batch.take(speech)
                    for piece in pieces:
                        yield ends.feed(piece.numpy())
                    if not done and not pieces:
                        yield None
            finally:
                self._batch.leave(speech)
            if len(last := ends.end()):
                yield last

    def _run(self, words: str, prefix: Prefix, sampling: Sampling, generator: Any) -> Run:
        """What the library makes of one of its chunks.

        The library's own splitting into chunks is not used: it splits at every full stop, also in
        addresses and abbreviations, adds a space after it, and splits numbers at commas.
        """
        from pocket_tts.models.text_chunking import prepare_text_prompt

        model = self._model
        prompt, frames_after_eos = prepare_text_prompt(
            words,
            model.pad_with_spaces_for_short_inputs,
            model.remove_semicolons,
            model.append_terminal_punctuation,
            model.capitalize_first_letter,
            model.replace_characters,
        )
        recommended = model.model_recommended_frames_after_eos
        tokens = model.flow_lm.conditioner.prepare(prompt)[0]
        return Run(
            prefix=prefix,
            tokens=tokens,
            generator=generator,
            temperature=_or(sampling.temperature, model.temp),
            decode_steps=_or(sampling.decode_steps, model.sampler_decode_steps),
            eos_threshold=_or(sampling.eos_threshold, model.eos_threshold),
            frames_after_eos=frames_after_eos + 2 if recommended is None else recommended,
            most_frames=model._estimate_max_gen_len(len(tokens)),
            noise_clamp=_or(sampling.noise_clamp, model.noise_clamp),
            guidance=_or(sampling.cfg_guidance, 1.0),
            null=self._null,
        )

    def _prefix(self, voice: Any) -> Prefix:
        """A voice in the library's form, as the batch needs it; nothing is copied."""
        layers = []
        positions = 0
        for index in range(len(self._model.flow_lm.transformer.layers)):
            state = voice[f"transformer.layers.{index}.self_attn"]
            positions = int(state["offset"].view(-1)[0])
            keys, values = state["cache"][:, :, :positions].transpose(2, 3)
            layers.append((keys, values))
        return Prefix(tuple(layers), positions)

    def _voices_depend_on(self) -> str:
        """A hash of everything that the state of a voice depends on: weights, config, library."""
        parts = (
            self._facts["version"],
            self._facts["linear"],
            importlib.metadata.version("pocket-tts"),
            (self._folder / "config.yaml").read_text("utf-8"),
        )
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]

    def _count_tokens(self, text: str) -> int:
        return len(self._model.flow_lm.conditioner.tokenizer.encode(text))


def _or(value: T | None, default: T) -> T:
    return default if value is None else value


def _exact_linears(model: Any, *, quantize: bool, wanted: str | None) -> linears.Kernel | None:
    """Put exact linear layers into the flow LM; returns the kernel for transformers, None for fp32.

    The transformers' layers are int8 with `quantize`, those of the flow LM as in the library. The
    flow net and Mimi's convolutions lose too much by it. The kernel is the one called `wanted`, or
    the fastest.
    """
    import torch

    lm, mimi = model.flow_lm, model.mimi
    layers = lm.transformer.layers
    kernel = None
    if quantize:
        examples = (layers[0], mimi.decoder_transformer.transformer.layers[0])
        products = [product for layer in examples for product in _products(layer)]
        weights = [getattr(*product).weight for product in products]
        kernel = linears.choose(linears.INT8, weights, _BATCHES, wanted)
    for module, name in (product for layer in layers for product in _products(layer)):
        weight = getattr(module, name).weight
        exact = linears.fp32(weight) if kernel is None else linears.make(kernel, weight)
        linears.replace(module, name, exact)
    lm.flow_net.modulations = linears.join(modulations(lm.flow_net))
    for module in list(lm.modules()):
        for name, layer in list(module.named_children()):
            if isinstance(layer, torch.nn.Linear):
                linears.replace(module, name, linears.fp32(layer.weight, layer.bias))
    return kernel


def _products(layer: Any) -> list[tuple[Any, str]]:
    """The linear layers of a transformer's layer: in which module, and their names."""
    attention = layer.self_attn
    return [(attention, "in_proj"), (attention, "out_proj"), (layer, "linear1"), (layer, "linear2")]


def _encode_in_blocks(mimi: Any) -> None:
    """Make the codec encode a reference in blocks of two seconds.

    For 30 s as a whole, its convolutions need 830 MB, which is more than a worker in a small
    container may grow, and its attention builds a mask of 36 MB and keeps it. All parts of the
    codec are causal and keep a state for streaming, so the result is the same.
    """
    from pocket_tts.modules.stateful_module import increment_steps, init_states

    def stream(name: str, steps_in_block: int) -> None:
        module = getattr(mimi, name)
        whole = module.forward

        def forward(x: Any, model_state: None) -> Any:
            import torch

            states = init_states(module, batch_size=1, sequence_length=x.shape[-1])
            state = {f"{name}.{key}": value for key, value in states.items()}
            parts = []
            for block in x.split(steps_in_block, dim=-1):
                part = whole(block, state)
                increment_steps(module, states, block.shape[-1])
                parts.append(part if isinstance(part, torch.Tensor) else part[0])
            joined = torch.cat(parts, dim=-1)
            return joined if name == "encoder" else [joined]

        module.forward = forward

    stream("encoder", _BLOCK_FRAMES * mimi.frame_size)
    stream("encoder_transformer", _BLOCK_FRAMES * mimi.frame_size // mimi.encoder.hop_length)


@contextmanager
def _local_config(folder: Path) -> Iterator[str]:
    """A copy of `folder`'s config.yaml in which the paths are those of the files in `folder`."""
    import yaml

    settings = _settings(folder)
    settings["weights_path"] = str(folder / "model.safetensors")
    settings.pop("weights_path_without_voice_cloning", None)
    settings.pop("language", None)  # ours, see `_language`
    for part in ("flow_lm", "mimi"):
        settings[part].pop("weights_path", None)
    settings["flow_lm"]["lookup_table"]["tokenizer_path"] = str(folder / "tokenizer.json")
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8") as file:
        yaml.safe_dump(settings, file, allow_unicode=True)
        file.flush()
        yield file.name


def _settings(folder: Path) -> Json:
    """The library's configuration of the weights in `folder`."""
    import yaml

    settings: Json = yaml.safe_load((folder / "config.yaml").read_text("utf-8"))
    return settings


def _is_open(folder: Path) -> bool:
    """Whether the weights are those that everybody gets: their encoder of voices does nothing.

    Their address has a key of its own in the library's configuration.
    """
    settings = _settings(folder)
    return "weights_path" not in settings and "weights_path_without_voice_cloning" in settings


def _language(folder: Path) -> str:
    """The language of the weights: `language` in their config, else as the library's address says.

    Else as their folder is called; if all say nothing, English.
    """
    settings = _settings(folder)
    named = re.search(r"languages/([a-z]+)", str(settings.get("weights_path", "")))
    name = str(settings.get("language") or (named[1] if named else ""))
    return LANGUAGES.get(name, name) or language_of(folder.name) or "en"


def _count_parameters(path: Path) -> int:
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
