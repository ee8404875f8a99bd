"""Runs code with Triton's interpreter, which needs no GPU."""

import importlib.util
import os
import subprocess
import sys

import pytest

# What every program begins with.
BFLOAT16 = "import tests.support.triton_bfloat16\n"


def interpreted(code: str, *arguments: str, prelude: str = BFLOAT16) -> str:
    """What a program prints in a process of its own; skips the test where Triton is missing."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("this test needs Triton, which comes with PyTorch's CUDA build")
    done = subprocess.run(
        [sys.executable, "-c", prelude + code, *arguments],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
