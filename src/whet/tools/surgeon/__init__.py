"""Surgery on ONNX models: cut, mend and clean them, put image steps before and detections behind them.

`OnnxModel.open` reads a model, functions take one and give another, `OnnxModel.save` writes it.
"""

from whet.tools.surgeon.edit import insert, prune
from whet.tools.surgeon.extract import extract
from whet.tools.surgeon.model import OnnxModel
from whet.tools.surgeon.rename import rename
from whet.tools.surgeon.sanitize import sanitize
from whet.tools.surgeon.shapes import set_shapes
from whet.tools.surgeon.weights import restore_weights, strip_weights

__all__ = ["OnnxModel", "extract", "insert", "prune", "rename", "restore_weights", "sanitize", "set_shapes",
           "strip_weights"]
