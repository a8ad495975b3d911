"""PyTorch modules by way of `torch.onnx.export` (dynamo). PyTorch is an extra."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx

from whet.errors import InputError, MissingExtraError, UnsupportedError


def export(module: Any, example_inputs: Any, *, dynamic_shapes: Any = None, input_names: Sequence[str] | None = None,
           output_names: Sequence[str] | None = None) -> onnx.ModelProto:
    """The ONNX model of a `torch.nn.Module`, in inference mode.

    example_inputs: a tensor, a tuple of positional inputs, or a mapping of keyword inputs.
    dynamic_shapes: as of `torch.export.export`; default: every dimension is what the examples show.

    MissingExtraError without PyTorch or onnxscript; InputError without example inputs; UnsupportedError where
    PyTorch cannot export the module.
    """
    try:
        import onnxscript  # noqa: F401  (the exporter needs it)
        import torch
    except ImportError as e:
        raise MissingExtraError.for_package(e.name or "torch", "models", "building from a PyTorch module") from None
    if example_inputs is None:
        raise InputError("a PyTorch module needs example inputs", why="its graph is traced by running it once",
                         do="whet.build(module, example_inputs=(x,))")
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    if isinstance(example_inputs, Mapping):
        kwargs = dict(example_inputs)
    elif isinstance(example_inputs, (tuple, list)):
        args = tuple(example_inputs)
    else:
        args = (example_inputs,)
    training = module.training
    module.eval()
    try:
        with torch.no_grad():
            program = torch.onnx.export(module, args, kwargs=kwargs, dynamo=True, verbose=False,
                                        dynamic_shapes=dynamic_shapes, input_names=input_names,
                                        output_names=output_names)
    except Exception as e:  # exporters raise many kinds
        raise UnsupportedError("PyTorch cannot export the module to ONNX", where=type(module).__name__,
                               why=str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__,
                               do="export it yourself with torch.onnx.export and build from the file") from e
    finally:
        module.train(training)
    if program is None:
        raise UnsupportedError("PyTorch exported nothing", where=type(module).__name__)
    return program.model_proto
