"""`voice-engine`, and a signal that has it tell how many asyncio tasks it has.

Runs as the front process. Everything but the signal's handler is the command as it is installed.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys

from supervisor.cli import main

EVENT = "soak_tasks"
SIGNAL = signal.SIGUSR2


def _tell(*_: object) -> None:
    line = json.dumps({"event": EVENT, "tasks": len(asyncio.all_tasks())})
    os.write(2, f"{line}\n".encode())


if __name__ == "__main__":
    signal.signal(SIGNAL, _tell)
    sys.exit(main())
