"""The service, whose pulls take random weights from `tests.support.hubs`. Runs in the front.

It has no embedded engines, as after a slim set-up: so it begins sooner.
"""

from __future__ import annotations

import sys
from dataclasses import replace

from ipc.engines import ENGINES
from supervisor import serve
from supervisor.weights import pulling

pulling.PROGRAM = "tests.support.pulling"
for name, spec in ENGINES.items():
    if spec.profile == "embedded":
        ENGINES[name] = replace(spec, libraries=("not_installed",))

if __name__ == "__main__":
    sys.exit(serve.main(sys.argv[2:]))
