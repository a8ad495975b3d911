"""Kernels of every family leave memory that is not theirs alone, and share theirs without races."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from targets.cuda.on_device import needs_cuda

HERE = Path(__file__).parent
SAMPLE = {"test_softmax_cuda.py": "symbolic", "test_reduce_cuda.py": "symbolic or middle",
          "test_conv_cuda.py": "symbolic",
          "test_matmul_cuda.py": "device and (epilogue or odd)",
          "test_attention_on_gpu.py": "bf16 and attention_fused"}


@needs_cuda
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("compute-sanitizer") is None, reason="compute-sanitizer is not installed")
@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
@pytest.mark.parametrize("file", SAMPLE)
def test_a_sample_is_clean(tool: str, file: str) -> None:
    command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "86", sys.executable, "-m", "pytest",
               "-p", "no:cacheprovider", "-m", "cuda", "-k", SAMPLE[file],
               "--maxfail=1", "-c", str(HERE.parents[2] / "pyproject.toml"), str(HERE / file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, cwd=HERE.parents[2],
                          env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
