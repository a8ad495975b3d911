"""ONNX Runtime on the CPU, as the reference of tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest


def session(model: onnx.ModelProto | Path) -> Any:
    """The model as an `InferenceSession` of one thread: those of several test processes would only wait for each
    other. Skips the test without ONNX Runtime."""
    ort = pytest.importorskip("onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    source = model.SerializeToString() if isinstance(model, onnx.ModelProto) else str(model)
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
