"""OpenVINO's own quantization (NNCF), as its documentation tells its users to do it."""

from __future__ import annotations

import contextlib
import io
import logging
import time
from pathlib import Path

from whet.errors import MissingExtraError, ModelError
from whet.precision.batches import Data

SAMPLES = 300  # NNCF's default
_TRANSFORMERS = {"Attention", "MultiHeadAttention", "LayerNormalization", "SkipLayerNormalization", "RMSNormalization"}


def quantize(model: Path, output: Path, data: Data) -> tuple[str, float]:
    """Write the quantized model (`output`.xml, its weights beside it); how, and the seconds that it took.

    `nncf.quantize` with its defaults, over at most 300 batches; the model type TRANSFORMER where there are layer norms
    or attention, which its documentation asks for.
    https://docs.openvino.ai/2025/openvino-workflow/model-optimization-guide/quantizing-models-post-training.html

    MissingExtraError without NNCF; ModelError where it refuses the model.
    """
    try:
        import nncf
        import openvino as ov
    except ImportError as e:
        raise MissingExtraError.for_package(e.name or "nncf", "nncf", "OpenVINO's quantizer") from e
    import onnx

    start = time.perf_counter()
    nodes = onnx.load(model, load_external_data=False).graph.node
    transformer = any(n.op_type in _TRANSFORMERS for n in nodes) or sum(n.op_type == "Softmax" for n in nodes) > 1
    kind = {"model_type": nncf.ModelType.TRANSFORMER} if transformer else {}
    before = logging.getLogger("nncf").level
    try:
        nncf.set_log_level(logging.ERROR)
        with contextlib.redirect_stdout(io.StringIO()):  # it draws bars
            batches = nncf.Dataset([dict(b.feeds) for b in data.batches()])
            made = nncf.quantize(ov.Core().read_model(str(model)), batches, subset_size=SAMPLES, **kind)
        ov.save_model(made, str(output), compress_to_fp16=False)
    except Exception as e:  # of many kinds
        raise ModelError("NNCF does not quantize this model", where=str(model), why=f"{type(e).__name__}: {e}"[:2000],
                         do="leave openvino int8 out") from e
    finally:
        nncf.set_log_level(before or logging.INFO)
    return f"NNCF {nncf.__version__}{', model type transformer' if transformer else ''}", time.perf_counter() - start
