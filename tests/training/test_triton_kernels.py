"""Runs `kernel_checks.py` where Triton interprets the kernels, and where a GPU runs them.

Interpreted kernels say nothing about how a GPU compiles them.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="needs the package triton (pip install 'lorachain[gpu]')")


@pytest.mark.parametrize("interpreted", [True, False])
def test_kernels_compute_what_the_plain_functions_compute(interpreted: bool) -> None:
    if not interpreted and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    checks = Path(__file__).with_name("kernel_checks.py")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--noconftest", "-q", str(checks)],
        env={**os.environ, "TRITON_INTERPRET": "1" if interpreted else "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
