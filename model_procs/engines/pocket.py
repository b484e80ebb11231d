"""Kyutai Pocket TTS: speech in the voice of a reference recording, on CPU.

Loads in the template, speaks in the workers. For each sentence the library uses two threads, one
for the latents and one for the waveform. Both have stopped when `synthesize` ends, also after an
error.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import math
import os
import re
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
from model_procs.speech.normalize.speech import prepare
from model_procs.weights import locate as weights
from model_procs.weights import pocket_voice

_TOKENS_PER_SECOND = 2.0
"""The slowest speaker assumed: the library cuts off a run that takes longer. Its own value is 3."""

_LANGUAGES = {
    "english": "en",
    "french": "fr",
    "german": "de",
    "spanish": "es",
    "italian": "it",
    "portuguese": "pt",
    "dutch": "nl",
}
"""The library's names of the languages it has weights for, and their codes."""

_BLOCK_FRAMES = 25
"""How many frames of 80 ms the encoder processes at a time."""

_THREADS_END_SECONDS = 5.0
"""How long to wait until the kernel has removed threads that have ended."""


class PocketEngine(SpeechEngine):
    """Pocket TTS behind the Engine protocol.

    Options:

    - `quantize` (default true) makes the transformer's layers int8: half the time and a quarter
      less memory.
    - `exact` (default false) decodes frame by frame: the same seed gives the same samples to the
      last bit, but it takes a third more time.
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
        """Load the weights from the models folder and speak once, without the network.

        Raises ServiceError (model_unavailable) with the library's message and how to fix it.
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
        self.language = _language(self._folder)
        prepare(self.language)
        self._speak_once()
        weights.release_scratch()

    def warm_up(self) -> None:
        """Only set the number of threads: `load` has already spoken once, for all forked workers.

        Another inference in the worker would only copy pages that the fork shares. It would take
        five times as long as the fork and save 30 ms of the first request.
        """
        import torch

        torch.set_num_threads(self._config.threads)

    def _speak_once(self) -> None:
        """Encode a second of noise, and speak in that voice until the first sound.

        It waits until the library's threads have ended, because the template must fork with one
        thread.
        """
        before = _count_threads()
        noise = np.random.default_rng(0).standard_normal(self.reference_rate) * 0.05
        voice = self.encode_voice(noise.astype(np.float32))
        self._find_builtin_voices(voice)
        pieces = self.synthesize("Hello.", voice, Sampling(seed=0), threading.Event())
        next(pieces)
        pieces.close()
        # Python's thread ends a little before the kernel's.
        give_up = time.monotonic() + _THREADS_END_SECONDS
        while _count_threads() > before and time.monotonic() < give_up:
            time.sleep(0.001)

    def notes(self) -> list[str]:
        """What clients must know about the weights."""
        return self._notes

    def facts(self) -> Json:
        """Number of parameters, quantization, and `version`, which changes with the weights."""
        return self._facts

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
        from pocket_tts.default_parameters import DEFAULT_VOICE_FALLBACK

        self._voice_paths, misfits = pocket_voice.find(self._folder, example)
        self._notes += [f"the voice {name} does not fit the weights" for name in misfits]
        first = next(iter(self._voice_paths), None)
        has_default = DEFAULT_VOICE_FALLBACK in self._voice_paths
        self.default_voice = DEFAULT_VOICE_FALLBACK if has_default else first

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

    def synthesize(
        self,
        text: str,
        voice: Any,
        sampling: Sampling,
        stop: threading.Event,
        *,
        exact: bool = False,
    ) -> Generator[Samples, None, None]:
        """Speak `text`; yields pieces of 80 ms and more.

        The same seed, text, voice and options give the same number of samples. The samples differ
        by rounding, 1e-6 of full scale, because the library decodes as many frames at once as are
        ready. With `exact` (an option of the engine and of the request) they are identical.
        """
        import torch

        if not any(character.isalnum() for character in text):
            return  # the model would invent something to say
        halt = _Halt(stop)
        with self._overriding(sampling, exact=exact):
            torch.manual_seed(sampling.seed)
            for run in split_runs(text, self._count_tokens):
                if not any(character.isalnum() for character in run):
                    continue  # quotation marks alone, which the library may refuse
                stream = self._generate(voice, run, halt)
                try:
                    for piece in stream:
                        if halt.is_set():
                            break
                        yield piece.numpy()
                finally:
                    # An abandoned stream would continue to compute, and take random numbers of the
                    # next request. It ends, with its threads, when it notices `halt`.
                    halt.closing = True
                    for _ in stream:
                        pass
                    halt.closing = False
                if stop.is_set():
                    raise Cancelled

    def _generate(self, voice: Any, run: str, halt: threading.Event) -> Iterator[Any]:
        """Speak one run, as the library speaks one of its chunks.

        The library's own splitting into chunks is not used: it splits at every full stop, also in
        addresses and abbreviations, adds a space after it, and splits numbers at commas.
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
        """A hash of everything that the state of a voice depends on: weights, config, library."""
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
        """Set the sampling of a request on the model, and restore the model's own afterwards."""
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


def _count_threads() -> int:
    """The number of threads of this process, also those of native code."""
    return len(os.listdir("/proc/self/task"))


class _Halt(threading.Event):
    """Is set while `stop` is set or the stream is being closed. The library's threads check it."""

    def __init__(self, stop: threading.Event) -> None:
        super().__init__()
        self._stop_event = stop
        self.closing = False

    def is_set(self) -> bool:
        return self.closing or self._stop_event.is_set()


@contextmanager
def _local_config(folder: Path) -> Iterator[str]:
    """A copy of `folder`'s config.yaml in which the paths are those of the files in `folder`."""
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


def _language(folder: Path) -> str:
    """The language of the weights: `language` in their config, else the library's address of them.

    The service's own download keeps English weights only.
    """
    import yaml

    settings = yaml.safe_load((folder / "config.yaml").read_text("utf-8"))
    named = re.search(r"languages/([a-z]+)", str(settings.get("weights_path", "")))
    name = settings.get("language") or (named[1] if named else "english")
    return _LANGUAGES.get(name, name)


def _count_parameters(path: Path) -> int:
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
