"""Surgery on ONNX models: cut, mend and clean them, put image steps before and detections behind them.

`OnnxModel.open` reads a model, functions take one and give another, `OnnxModel.save` writes it.
"""

from whet.tools.surgeon.detections import classify, detect, segment
from whet.tools.surgeon.edit import insert, prune
from whet.tools.surgeon.extract import extract
from whet.tools.surgeon.images import PRESETS, ImageSteps, preprocess, preset
from whet.tools.surgeon.model import OnnxModel
from whet.tools.surgeon.rename import rename
from whet.tools.surgeon.sanitize import sanitize
from whet.tools.surgeon.shapes import set_shapes
from whet.tools.surgeon.weights import restore_weights, strip_weights

__all__ = ["PRESETS", "ImageSteps", "OnnxModel", "classify", "detect", "extract", "insert", "preprocess", "preset",
           "prune", "rename", "restore_weights", "sanitize", "segment", "set_shapes", "strip_weights"]
