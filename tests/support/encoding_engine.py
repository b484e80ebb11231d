"""A scripted engine that tells how long it has encoded, and has a voice. Runs in children."""

from __future__ import annotations

import threading
from dataclasses import replace

from ipc.engines import BuiltinVoice, EngineInfo
from ipc.operations import AnyOperation, SpeechResult
from model_procs.engine import Output
from tests.support.script_engine import Script

ENCODE_SECONDS = 0.001
VOICE = "ada"


class Encoding(Script):
    """Says that it has encoded for a millisecond; a script that sleeps takes longer."""

    def info(self) -> EngineInfo:
        """As other scripted engines, with a voice."""
        return replace(super().info(), voices=(BuiltinVoice(VOICE, "Ada"),))

    def run(self, operation: AnyOperation, stop: threading.Event) -> Output:
        """Run the script."""
        result = yield from super().run(operation, stop)
        assert isinstance(result, SpeechResult)
        return replace(result, encode_seconds=ENCODE_SECONDS)
