"""The benchmark models in int8 as ONNX Runtime's and OpenVINO's own quantizers make them, kept beside the fp32 ones.

ONNX Runtime: `quantize_static`, Q/DQ format, weights per channel. Its defaults take signed activations (`default`), for
which its CPU kernels have no fast path; `best` takes unsigned ones (QUInt8 by QInt8), what its documentation recommends
for x86 with VNNI. Signs aside, reduced ranges are for CPUs without VNNI, and leaving all but products in fp32 was no
faster on transformers. OpenVINO: `nncf.quantize` with its defaults, model type TRANSFORMER for BERT and ViT.
All calibrate on the same 32 random samples as whet.

    python benchmarks/quantized.py [resnet50 mobilenetv2 bert vit]

needs `onnxruntime` and `nncf`. Files are kept in `~/.cache/whet/models`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

from benchmarks.models import MODELS, default_cache, model_inputs, model_path
from whet.errors import MissingExtraError

RECIPE = 1  # part of the files' names: raise it when what is made changes
BATCH, BATCHES = 4, 8
TRANSFORMERS = ("bert", "vit")
Feeds = dict[str, np.ndarray]


def calibration(name: str) -> list[Feeds]:
    """The samples that everybody calibrates with: 8 batches of 4, of other seeds than what is timed."""
    return [model_inputs(name, BATCH, seed=1000 + i) for i in range(BATCHES)]


def onnxruntime_int8(name: str, variant: str) -> Path:
    """ONNX Runtime's int8 model, `best` or `default`, made first if it is not there."""
    path = default_cache() / f"{model_path(name).stem}-ort-{variant}-r{RECIPE}.onnx"
    if path.exists():
        return path
    try:
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process
    except ImportError as error:
        raise MissingExtraError.for_package(error.name or "onnxruntime", "onnxruntime", "its quantizer") from error

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.rest: Iterator[Feeds] = iter(calibration(name))

        def get_next(self) -> Feeds | None:
            return next(self.rest, None)

    signs = {"best": {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}, "default": {}}[variant]
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        prepared, made = Path(folder) / "prepared.onnx", Path(folder) / "made.onnx"
        quant_pre_process(str(model_path(name)), str(prepared), skip_symbolic_shape=True)
        quantize_static(str(prepared), str(made), Reader(), quant_format=QuantFormat.QDQ, per_channel=True, **signs)
        os.replace(made, path)
    return path


def openvino_int8(name: str) -> Path:
    """OpenVINO's int8 model (.xml, its weights beside it), made first if it is not there."""
    path = default_cache() / f"{model_path(name).stem}-nncf-r{RECIPE}.xml"
    if path.exists():
        return path
    try:
        import nncf
        import openvino as ov
    except ImportError as error:
        raise MissingExtraError(f"{error.name} is not installed", why="OpenVINO's int8 needs it",
                                do="pip install openvino nncf, or --no-openvino") from error
    samples = calibration(name)
    kind: dict[str, Any] = {"model_type": nncf.ModelType.TRANSFORMER} if name in TRANSFORMERS else {}
    made = nncf.quantize(ov.Core().read_model(str(model_path(name))), nncf.Dataset(samples),
                         subset_size=len(samples), **kind)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        ov.save_model(made, str(Path(folder) / path.name), compress_to_fp16=False)
        shutil.move(str(Path(folder) / path.with_suffix(".bin").name), path.with_suffix(".bin"))
        os.replace(Path(folder) / path.name, path)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description="Quantize the benchmark models for ONNX Runtime and OpenVINO.")
    parser.add_argument("models", nargs="*", default=list(MODELS), help=f"of {', '.join(MODELS)} (all)")
    for name in parser.parse_args().models:
        made = onnxruntime_int8(name, "best"), onnxruntime_int8(name, "default"), openvino_int8(name)
        print(*made, sep="\n", flush=True)


if __name__ == "__main__":
    main()
