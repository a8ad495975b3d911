"""The model that is compared, and what it is run on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from whet.errors import InputError
from whet.frontends.protobuf import read
from whet.precision.data import Preprocess, open_data
from whet.precision.specs import Extent, InputSpec

INT_RANGE = 2  # random integers are 0 or 1: legal indices of anything with two rows
QUANTIZED = ("QuantizeLinear", "QLinear", "ConvInteger", "MatMulInteger")


@dataclass(frozen=True)
class Signature:
    """Inputs of an ONNX model by name: element type, and dimensions (None: any size); names of its outputs."""

    dtypes: dict[str, np.dtype]
    dims: dict[str, tuple[int | None, ...]]
    outputs: tuple[str, ...]
    quantized: bool

    def at(self, batch: int, shapes: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
        """The shapes of all inputs with this batch: the first dimension of those where it is free, or given.

        InputError for dimensions that are neither fixed nor given, and where the batch is fixed to another.
        """
        if unknown := sorted(shapes.keys() - self.dims.keys()):
            raise InputError(f"there is no input {unknown[0]!r}", why=f"the inputs are {', '.join(sorted(self.dims))}",
                             do="give shapes for these")
        out = {}
        for name, dims in self.dims.items():
            given = tuple(shapes[name]) if name in shapes else None
            if given is not None and len(given) != len(dims):
                raise InputError(f"{name!r} has {len(dims)} dimensions", why=f"{len(given)} were given",
                                 do=f"give --shapes {name}:DIMxDIM...")
            if dims and dims[0] is not None and dims[0] != batch:
                raise InputError(f"a batch of {batch}", where=name, why=f"the model's is fixed to {dims[0]}",
                                 do=f"give --batches {dims[0]}, or export the model with a free batch")
            rest = given[1:] if given is not None else dims[1:]
            if any(d is None for d in rest):
                raise InputError(f"the shape of {name!r} is not fixed", why=f"the model has {_shown(dims)}",
                                 do=f"give --shapes {name}:DIMxDIM...")
            out[name] = (batch, *(int(d) for d in rest if d is not None)) if dims else ()
        return out

    def batch(self, shapes: Mapping[str, Sequence[int]]) -> int:
        """The batch where none is asked for: the given shapes', the model's own, else 1."""
        for name, dims in self.dims.items():
            first = (tuple(shapes[name]) if name in shapes else dims)[:1]
            if first and first[0] is not None:
                return int(first[0])
        return 1


def signature(model: Path) -> Signature:
    """What a model takes and gives. ModelFileError if it is none; InputError for inputs that are no tensors of
    numbers."""
    import onnx

    graph = read(model).proto.graph
    weights = {t.name for t in graph.initializer}
    dtypes, dims = {}, {}
    for v in graph.input:
        if v.name in weights:
            continue
        tensor = v.type.tensor_type
        if not v.type.HasField("tensor_type") or tensor.elem_type in (0, onnx.TensorProto.STRING):
            raise InputError(f"the input {v.name!r} is no tensor of numbers", where=str(model),
                             do="compare a model of dense numbers")
        dtypes[v.name] = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
        dims[v.name] = tuple(d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None
                             for d in tensor.shape.dim)
    return Signature(dtypes, dims, tuple(o.name for o in graph.output),
                     any(n.op_type.startswith(QUANTIZED) for n in graph.node))


def specs(of: Signature, shapes: Mapping[str, tuple[int, ...]]) -> list[InputSpec]:
    """The inputs of these shapes as data are checked against them."""
    return [InputSpec(n, of.dtypes[n], tuple(Extent(d, d, d) for d in s)) for n, s in shapes.items()]


def feeds(of: Signature, shapes: Mapping[str, tuple[int, ...]], data: Any = None,
          preprocess: Preprocess | None = None) -> dict[str, np.ndarray]:
    """One batch: the first of the data where there are any, else seeded random values. Errors as of `open_data`."""
    if data is not None:
        return dict(next(iter(open_data(data, specs(of, shapes), preprocess=preprocess).batches())).feeds)
    rng = np.random.default_rng(0)
    out = {}
    for name, shape in shapes.items():
        dtype = of.dtypes[name]
        if dtype.kind in "iub":
            out[name] = rng.integers(0, INT_RANGE, shape).astype(dtype)
        else:
            out[name] = rng.standard_normal(shape, np.float32).astype(dtype)
    return out


def _shown(dims: Sequence[int | None]) -> str:
    return "x".join("?" if d is None else str(d) for d in dims) or "a scalar"
