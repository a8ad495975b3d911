"""From models to graphs: ONNX files, and PyTorch modules by way of ONNX.

Everything that a model's author may have got wrong ends here, as a typed error that names the node.
"""

from whet.frontends.onnx import load as load_model
from whet.frontends.tensors import model_hash

__all__ = ["load_model", "model_hash"]
