"""The service, whose pulls take random weights from `tests.support.hubs`. Runs in the front."""

from __future__ import annotations

import sys

from supervisor import serve
from supervisor.weights import pulling

pulling.PROGRAM = "tests.support.pulling"

if __name__ == "__main__":
    sys.exit(serve.main(sys.argv[2:]))
