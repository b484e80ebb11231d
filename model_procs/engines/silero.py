"""silero-vad as an engine: where live sound has speech. Runs in the template and in workers.

The network, its weights and its numbers are those of `model_procs/listening/vad.py`. A worker keeps
nothing between two requests: whatever a stream needs comes with each step and goes back with its
result.
"""

from __future__ import annotations

import threading
from collections.abc import Generator
from typing import Any, cast

import msgpack
import numpy as np

from ipc.engines import EngineInfo
from ipc.errors import ErrorCode, ServiceError
from ipc.operations import LIVE_RATE, MAX_LISTEN_STATE, AnyOperation, Listen, Listened
from model_procs.audio.live import LiveDecoder
from model_procs.engine import EngineConfig, Output, no_operation
from model_procs.listening import vad


class SileroEngine:
    """Decodes live sound, and finds the speech in it."""

    name = "silero"

    def __init__(self, config: EngineConfig) -> None:
        pass

    def load(self) -> None:
        """Load the network, and the libraries that decode."""
        import av  # noqa: F401 - workers share its pages

        vad.load()

    def warm_up(self) -> None:
        """A step with silence."""
        listened(Listen(bytes(2 * vad.WINDOW), "pcm16"))

    def info(self) -> EngineInfo:
        """Only a few facts."""
        return EngineInfo(engine=self.name, sample_rate=LIVE_RATE)

    def run(self, operation: AnyOperation, stop: threading.Event) -> Output:
        """One step of a stream. It is too short to be stopped."""
        if not isinstance(operation, Listen):
            raise no_operation(self.name, operation)
        return _at_once(operation)


def _at_once(operation: Listen) -> Generator[None, None, Listened]:
    yield from ()
    return listened(operation)


def listened(step: Listen) -> Listened:
    """Do one step. Raises `ServiceError` if its sound cannot be decoded."""
    state: dict[str, Any] = {}
    if step.state:
        state = cast(dict[str, Any], msgpack.unpackb(step.state))
    decoder = LiveDecoder(step.format, step.sample_rate, state.get("decoder", {}))
    pcm = decoder.feed(step.sound, last=step.last)
    stream = vad.Stream(state.get("speech"))
    probabilities = stream.feed(pcm, last=step.last)
    packed: bytes = msgpack.packb({"decoder": decoder.save(), "speech": stream.save()})
    if len(packed) > MAX_LISTEN_STATE:
        raise ServiceError(
            ErrorCode.invalid_audio,
            "the stream has far too much that is not sound; send sound in one of the formats",
        )
    return Listened(
        pcm.astype("<i2").tobytes(),
        tuple(np.round(probabilities.astype(float), 4).tolist()),
        packed,
    )
