"""ONNX Runtime's own static int8 of a model, for orientation."""

from __future__ import annotations

import contextlib
import io
import logging
from pathlib import Path

import numpy as np
import onnx

from benchmarks.accuracy.cases import Case
from whet.errors import MissingExtraError


def quantized(case: Case, folder: Path, method: str = "MinMax") -> Path:
    """The model with Q/DQ by ONNX Runtime's `quantize_static`: weights int8 by channel, activations uint8, ranges by
    `method` (MinMax, Entropy, Percentile) from the case's calibration set. In models with attention only the products
    are quantized: with all else, too, additions of masks (large negative numbers) leave the scores no resolution, and
    nothing of the accuracy remains.
    """
    try:
        from onnxruntime import quantization
        from onnxruntime.quantization.shape_inference import quant_pre_process
    except ImportError as error:
        raise MissingExtraError.for_package("onnxruntime", "onnxruntime", "its quantizer") from error

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            count = len(next(iter(case.calibration.values())))
            self._batches = iter([{k: np.ascontiguousarray(v[i:i + 20]) for k, v in case.calibration.items()}
                                  for i in range(0, count, 20)])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self._batches, None)

    folder.mkdir(parents=True, exist_ok=True)
    prepared, made = folder / f"{case.name}-prepared.onnx", folder / f"{case.name}-{method.lower()}.onnx"
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)
    attention = any(n.op_type == "Softmax" for n in onnx.load(case.path, load_external_data=False).graph.node)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            quant_pre_process(str(case.path), str(prepared), skip_symbolic_shape=True)
            quantization.quantize_static(
                str(prepared), str(made), Reader(), quant_format=quantization.QuantFormat.QDQ, per_channel=True,
                activation_type=quantization.QuantType.QUInt8, weight_type=quantization.QuantType.QInt8,
                calibrate_method=quantization.CalibrationMethod[method],
                op_types_to_quantize=["MatMul", "Gemm", "Conv"] if attention else None)
    finally:
        logging.getLogger().setLevel(level)
        prepared.unlink(missing_ok=True)
    return made
