"""ONNX Runtime's own quantization, as its documentation tells its users to do it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from whet.errors import MissingExtraError, ModelError
from whet.precision.batches import Data


def quantize(model: Path, output: Path, data: Data | None) -> tuple[str, float]:
    """Write the quantized model; how, and the seconds that it took.

    With data `quantize_static`: Q/DQ, bytes without sign for activations and with sign for weights, per channel where
    the model's opset has that (13), ranges by minimum and maximum, its default. Without data `quantize_dynamic`.
    https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html

    MissingExtraError without ONNX Runtime; ModelError where it refuses the model.
    """
    try:
        from onnxruntime import quantization as q
    except ImportError as e:
        raise MissingExtraError.for_package("onnxruntime", "onnxruntime", "ONNX Runtime's quantizer") from e
    import onnx

    start = time.perf_counter()
    opset = max((o.version for o in onnx.load(model, load_external_data=False).opset_import
                 if o.domain in ("", "ai.onnx")), default=0)
    channels = opset >= 13
    try:
        # It resolves its scratch files and external data against the folder of what it writes.
        with tempfile.TemporaryDirectory(prefix="whet-ort-", dir=output.parent) as folder:
            prepared = Path(folder) / "prepared.onnx"
            if data is None:
                q.quantize_dynamic(model, output, weight_type=q.QuantType.QInt8, per_channel=channels)
                how = "quantize_dynamic"
            else:
                _shaped(model, prepared)
                q.quantize_static(prepared, output, _Reader(data), quant_format=q.QuantFormat.QDQ, per_channel=channels,
                                  activation_type=q.QuantType.QUInt8, weight_type=q.QuantType.QInt8)
                how = f"quantize_static, Q/DQ, u8 by s8, {'per channel' if channels else 'per tensor'}, min-max"
    except Exception as e:  # of many kinds
        raise ModelError("ONNX Runtime does not quantize this model", where=str(model),
                         why=f"{type(e).__name__}: {e}"[:2000], do="leave onnxruntime int8 out") from e
    return how, time.perf_counter() - start


def _shaped(model: Path, output: Path) -> None:
    """ONNX Runtime's preparation (shapes, its own graph optimizations), without symbolic shapes, which would need a
    package more."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    quant_pre_process(model, output, skip_symbolic_shape=True)


class _Reader:
    """Batches as its calibration reads them."""

    def __init__(self, data: Data) -> None:
        self.batches: Iterator[Any] = data.batches()

    def get_next(self) -> dict[str, Any] | None:
        batch = next(self.batches, None)
        return None if batch is None else dict(batch.feeds)
