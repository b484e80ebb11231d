"""`python -m supervisor.cli`: the same as `voice-engine`."""

import sys

from supervisor.cli import main

sys.exit(main())
