"""Kyutai Pocket TTS: speech in the voice of a reference recording, on CPU.

Loads in the template, speaks in the workers. The library makes sound with two threads a sentence,
one for the latents and one for the waveform; neither works on when `synthesize` ends, however it
ends.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import math
import os
import tempfile
import threading
import time
import warnings
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ipc.engines import BuiltinVoice, Json
from ipc.errors import ErrorCode, ServiceError
from ipc.operations import Sampling
from model_procs.audio.pcm import Samples
from model_procs.engine import Cancelled, EngineConfig
from model_procs.engines.pocket_runs import split_runs
from model_procs.speech.base import SpeechEngine
from model_procs.weights import locate as weights
from model_procs.weights import pocket_voice

_TOKENS_PER_SECOND = 2.0
"""Of the slowest speaker, beyond which the library cuts a run off; it takes three itself."""

_BLOCK_FRAMES = 25
"""How many frames of 80 ms the encoder takes at a time."""

_THREADS_END_SECONDS = 5.0
"""How long to wait for the kernel to let go of threads that have returned."""


class PocketEngine(SpeechEngine):
    """Pocket TTS behind the Engine protocol.

    Options: `quantize` (default true) makes the transformer's layers int8, half the time and a
    quarter less memory; `exact` (default false) decodes frame by frame, which makes the samples of
    a seed the same to the last bit and costs a third more time.
    """

    name = "pocket"
    sample_rate = 24_000
    reference_rate = 24_000
    options = ("temperature", "decode_steps", "eos_threshold")

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        self._folder = weights.weights_folder(config.models_dir, "pocket")
        self._quantize = bool(config.options.get("quantize", True))
        self._exact = bool(config.options.get("exact", False))
        self._model: Any = None
        self._notes: list[str] = []
        self._facts: Json = {}
        self._voice_paths: dict[str, Path] = {}

    def load(self) -> None:
        """Load the weights from the models folder and speak once; the network is never asked.

        Raises ServiceError (model_unavailable) with the library's message and what mends it.
        """
        os.environ["HF_HUB_OFFLINE"] = "1"
        try:
            import torch

            torch.set_num_threads(1)
            from pocket_tts import TTSModel

            file = self._folder / "model.safetensors"
            with _local_config(self._folder) as path, warnings.catch_warnings():
                # The library quantises with an API that PyTorch calls deprecated.
                warnings.simplefilter("ignore")
                self._model = TTSModel.load_model(config=path, quantize=self._quantize)
            self._notes = weights.notes(self._folder)
            self._facts = {
                "parameters": _count_parameters(file),
                "quantized": self._quantize,
                "version": weights.fingerprint(file),
            }
        except Exception as error:
            raise weights.cannot_load("Pocket TTS", self._folder, error) from error
        self.voice_format = f"pocket-{self._voices_depend_on()}"
        self._model.max_decoder_frames_per_call = 1 if self._exact else 0
        self._model._TOKENS_PER_SECOND_ESTIMATE = _TOKENS_PER_SECOND
        self.sample_rate = self.reference_rate = self._model.sample_rate
        _encode_in_blocks(self._model.mimi)
        self._speak_once()
        weights.release_scratch()

    def warm_up(self) -> None:
        """Nothing is left to do: `load` has made speech, for all workers forked from it.

        What one more inference would warm in a worker are pages that a fork shares until they are
        written to. It would take five times as long as the fork, and save the first request 30 ms.
        """
        import torch

        torch.set_num_threads(self._config.threads)

    def _speak_once(self) -> None:
        """Encode a second of noise and speak in that voice until the first sound.

        On one thread, and until the library's threads have ended: a template is forked next.
        """
        before = _count_threads()
        noise = np.random.default_rng(0).standard_normal(self.reference_rate) * 0.05
        voice = self.encode_voice(noise.astype(np.float32))
        self._find_builtin_voices(voice)
        pieces = self.synthesize("Hello.", voice, Sampling(seed=0), threading.Event())
        next(pieces)
        pieces.close()
        # Python's side of a thread ends a little before the kernel's.
        give_up = time.monotonic() + _THREADS_END_SECONDS
        while _count_threads() > before and time.monotonic() < give_up:
            time.sleep(0.001)

    def notes(self) -> list[str]:
        """What clients must know about the weights."""
        return self._notes

    def facts(self) -> Json:
        """Parameters, quantization, and `version`, which changes when the weights do."""
        return self._facts

    def builtin_voices(self) -> list[BuiltinVoice]:
        """Those beside the weights, by the library's names."""
        return [
            BuiltinVoice(name, name.replace("_", " ").title(), "en") for name in self._voice_paths
        ]

    def load_builtin_voice(self, name: str) -> Any:
        """A voice as `pocket-tts export-voice` writes it, mapped into memory."""
        return pocket_voice.load(self._voice_paths[name])

    def _find_builtin_voices(self, example: Any) -> None:
        """Take the voices beside the weights; others than of `example`'s shape are not for them."""
        from pocket_tts.default_parameters import DEFAULT_VOICE_FALLBACK

        self._voice_paths, misfits = pocket_voice.find(self._folder, example)
        self._notes += [f"the voice {name} does not fit the weights" for name in misfits]
        first = next(iter(self._voice_paths), None)
        has_default = DEFAULT_VOICE_FALLBACK in self._voice_paths
        self.default_voice = DEFAULT_VOICE_FALLBACK if has_default else first

    def encode_voice(self, reference: Samples) -> Any:
        """The model's state after hearing `reference`; the same one may serve many requests."""
        import torch

        if len(reference) == 0:
            raise ServiceError(
                ErrorCode.empty_audio, "the reference recording holds no sound; send some speech"
            )
        return self._model.get_state_for_audio_prompt(torch.from_numpy(reference)[None])

    def export_voice(self, voice: Any) -> bytes:
        """The state as safetensors, as `pocket-tts export-voice` writes it."""
        return pocket_voice.to_bytes(voice)

    def import_voice(self, data: memoryview) -> Any:
        """The state as views into `data`."""
        return pocket_voice.from_bytes(data)

    def synthesize(
        self,
        text: str,
        voice: Any,
        sampling: Sampling,
        stop: threading.Event,
        *,
        exact: bool = False,
    ) -> Generator[Samples, None, None]:
        """Speak `text`; pieces of 80 ms and more.

        The same seed, text, voice and options give the same number of samples, and the same samples
        but for rounding, 1e-6 of full scale: unless `exact` (an option of the engine and of the
        request), the library decodes as many frames at once as happen to be ready.
        """
        import torch

        if not any(character.isalnum() for character in text):
            return  # the model would make up something to say
        halt = _Halt(stop)
        with self._overriding(sampling, exact=exact):
            torch.manual_seed(sampling.seed)
            for run in split_runs(text, self._count_tokens):
                stream = self._generate(voice, run, halt)
                try:
                    for piece in stream:
                        if halt.is_set():
                            break
                        yield piece.numpy()
                finally:
                    # An abandoned stream computes on, and would draw from the next request's random
                    # numbers. It ends with its threads once it has noticed `halt`.
                    halt.closing = True
                    for _ in stream:
                        pass
                    halt.closing = False
                if stop.is_set():
                    raise Cancelled

    def _generate(self, voice: Any, run: str, halt: threading.Event) -> Iterator[Any]:
        """What the library does with one of its chunks.

        Its own way of making chunks is left out: it cuts at every full stop, also in addresses and
        abbreviations, puts a blank behind it, and cuts numbers at commas.
        """
        from pocket_tts.models.text_chunking import prepare_text_prompt

        model = self._model
        prompt, frames_after_eos = prepare_text_prompt(
            run,
            model.pad_with_spaces_for_short_inputs,
            model.remove_semicolons,
            model.append_terminal_punctuation,
            model.capitalize_first_letter,
            model.replace_characters,
        )
        recommended = model.model_recommended_frames_after_eos
        stream: Iterator[Any] = model._generate_audio_stream_short_text(
            model_state=voice,
            text_to_generate=prompt,
            frames_after_eos=frames_after_eos + 2 if recommended is None else recommended,
            copy_state=True,
            stop=halt,
        )
        return stream

    def _voices_depend_on(self) -> str:
        """A hash of what decides which state a recording gives: weights, config, library."""
        parts = (
            self._facts["version"],
            self._quantize,
            importlib.metadata.version("pocket-tts"),
            (self._folder / "config.yaml").read_text("utf-8"),
        )
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]

    def _count_tokens(self, text: str) -> int:
        return len(self._model.flow_lm.conditioner.tokenizer.encode(text))

    @contextmanager
    def _overriding(self, sampling: Sampling, *, exact: bool) -> Iterator[None]:
        """Set a request's sampling on the model, and the model's own back afterwards."""
        wanted = {
            "temp": sampling.temperature,
            "sampler_decode_steps": sampling.decode_steps,
            "eos_threshold": sampling.eos_threshold,
            "max_decoder_frames_per_call": 1 if exact else None,
        }
        before = {name: getattr(self._model, name) for name in wanted}
        try:
            for name, value in wanted.items():
                if value is not None:
                    setattr(self._model, name, value)
            yield
        finally:
            for name, value in before.items():
                setattr(self._model, name, value)


def _encode_in_blocks(mimi: Any) -> None:
    """Have the codec hear a reference two seconds at a time.

    At once, its convolutions need 830 MB for 30 s, more than a worker in a small container may
    grow, and its attention builds a mask that it keeps: 36 MB. All its parts are causal and keep a
    state for streaming, so the result is the same.
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


def _count_threads() -> int:
    """All of this process, Python's and others."""
    return len(os.listdir("/proc/self/task"))


class _Halt(threading.Event):
    """Set while `stop` is set or the stream is being closed: what the library's threads look at."""

    def __init__(self, stop: threading.Event) -> None:
        super().__init__()
        self._stop_event = stop
        self.closing = False

    def is_set(self) -> bool:
        return self.closing or self._stop_event.is_set()


@contextmanager
def _local_config(folder: Path) -> Iterator[str]:
    """A copy of `folder`'s config.yaml that names the files beside it, wherever they have moved."""
    import yaml

    settings = yaml.safe_load((folder / "config.yaml").read_text("utf-8"))
    settings["weights_path"] = str(folder / "model.safetensors")
    settings.pop("weights_path_without_voice_cloning", None)
    for part in ("flow_lm", "mimi"):
        settings[part].pop("weights_path", None)
    settings["flow_lm"]["lookup_table"]["tokenizer_path"] = str(folder / "tokenizer.json")
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8") as file:
        yaml.safe_dump(settings, file, allow_unicode=True)
        file.flush()
        yield file.name


def _count_parameters(path: Path) -> int:
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
