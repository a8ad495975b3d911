"""Graphs back to ONNX: `to_onnx(graph)` writes the prepared graph, quantized or not, as a model for other runtimes."""

from whet.precision.export.model import IR_VERSION, OPSET, to_onnx

__all__ = ["IR_VERSION", "OPSET", "to_onnx"]
