"""Linear layers and Pocket TTS with the instructions of older processors."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.support.service import ROOT

TESTS = (
    "tests/unit/test_linears.py::test_fp32_is_exact_for_odd_shapes",
    "tests/unit/test_linears.py::test_int8_is_nearly_fp32",
    "tests/slow/test_pocket_numbers.py::test_a_run_has_the_same_bits_in_every_company[True]",
)


def test_a_kernel_is_found_and_is_exact_without_avx512() -> None:
    """FBGEMM has no such setting; it uses what the processor has."""
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS],
        cwd=ROOT,
        env=os.environ | {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-4000:]
    assert "14 passed" in result.stdout
