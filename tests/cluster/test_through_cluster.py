"""Tests of one machine's service again, with the models on a cluster."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from tests.support.cluster import nodes
from tests.support.service import NET, ON_CLUSTER, ROOT

pytestmark = [pytest.mark.timeout(600)]

FILES = ("tests/process/test_voice_endpoints.py", "tests/clients/test_elevenlabs.py")
"""Speech, transcription, voices, an SDK. Not tests that read the log of workers, which Ray has."""


def test_a_front_serves_as_one_machine_does() -> None:
    with nodes(3) as cluster:
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "pytest",
                "-q",
                "-p",
                "no:cacheprovider",
                "-p",
                "no:cov",
                *FILES,
            ],
            env={**os.environ, ON_CLUSTER: cluster.address},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=2 * NET,
            check=False,
        )
    assert done.returncode == 0, done.stdout[-5000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) > 100
