"""The folder of large uploads and answers, after a front that was killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from supervisor.dispatch.spool import Spool


def test_what_a_killed_front_left_behind_is_removed(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from supervisor.dispatch.spool import Spool\n"
        "(Spool(Path(sys.argv[1]), 1).folder / 'upload').write_bytes(b'x')\n"
        "os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert len(list(tmp_path.iterdir())) == 1
    ours, other = Spool(tmp_path, 1), Spool(tmp_path, 1)
    # The dead one's folder is gone; the living have not touched each other's.
    assert set(tmp_path.iterdir()) == {ours.folder, other.folder}
    ours.close()
    other.close()
