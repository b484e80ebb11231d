"""`voice-engine` without Python's collector of cycles: what is kept by cycles stays. The front."""

from __future__ import annotations

import gc
import sys

from supervisor.cli import main

if __name__ == "__main__":
    gc.disable()
    sys.exit(main())
