"""The speech engine alone, without front, pipes and HTTP: `first_byte` starts it for a baseline.

Called with the models folder, a number of rounds and a text; prints JSON.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from ipc.operations import Sampling
from model_procs.audio.decode import decode
from model_procs.engine import EngineConfig
from model_procs.engines.pocket.engine import PocketEngine
from tests.bench.varied import Varied
from tests.support.outputs import pieces_of

_WARM = 3


def main(folder: str, rounds: str, text: str) -> None:
    """Speak `text` again and again in one voice."""
    engine = PocketEngine(EngineConfig(Path(folder)))
    engine.load()
    engine.warm_up()
    reference = decode(
        Varied(0).wav(3.0), rate=engine.reference_rate, max_seconds=30, truncate=True
    )
    voice = engine.encode_voice(reference)
    first: list[float] = []
    last: list[float] = []
    for number in range(_WARM + int(rounds)):
        started = time.perf_counter()
        pieces = pieces_of(engine, text, voice, Sampling(seed=0))
        next(pieces)
        first_at = time.perf_counter() - started
        for _ in pieces:
            pass
        if number >= _WARM:
            first.append(first_at)
            last.append(time.perf_counter() - started)
    print(json.dumps({"first": first, "last": last}))


if __name__ == "__main__":
    main(*sys.argv[1:])
