"""A model being edited: its protobuf without the large weights, and these as views of the files they lie in."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from whet.errors import GraphError
from whet.frontends.order import bodies
from whet.frontends.protobuf import read
from whet.frontends.tensors import Tensors

LARGE = 4096  # tensors of fewer bytes stay in the protobuf
HANDLE = "whet:"  # the location of a tensor whose bytes are OnnxModel.weights[number]
PACKED = {TensorProto.INT4, TensorProto.UINT4, TensorProto.FLOAT4E2M1}  # two elements a byte


@dataclass(frozen=True)
class Weight:
    """The bytes of a large tensor. file, offset: where they lie, for external data."""

    data: memoryview
    file: Path | None = None
    offset: int = 0


@dataclass
class OnnxModel:
    """A model that the functions of `whet.tools.surgeon` take and give.

    In `proto`, a large tensor has external data whose location is a number into `weights`: so passes may copy, move and
    rename tensors without touching their bytes. `save`, `to_proto` and `to_bytes` give complete models.
    notes: what was done to it, a sentence each.
    """

    proto: ModelProto
    weights: list[Weight] = field(default_factory=list)
    name: str = ""
    external: bool = False
    notes: list[str] = field(default_factory=list)

    @classmethod
    def open(cls, model: str | os.PathLike[str] | bytes | ModelProto | OnnxModel) -> OnnxModel:
        """A model to edit: the given one is never changed. Files are mapped, and must not change meanwhile.

        ModelFileError where it is not there, not ONNX, truncated, or its external data is missing or outside its
        folder.
        """
        if isinstance(model, OnnxModel):
            proto = ModelProto()
            proto.CopyFrom(model.proto)
            return cls(proto, list(model.weights), model.name, model.external, list(model.notes))
        source = read(model)
        proto = source.proto
        if isinstance(model, ModelProto):
            proto = ModelProto()
            proto.CopyFrom(source.proto)
        out = cls(proto, name=source.name)
        for i, view in source.views.items():
            out._refer(proto.graph.initializer[i], Weight(view))
        files = Tensors(source)
        for t in tensors(proto):
            if t.data_location == TensorProto.EXTERNAL and handle(t) is None:
                info = {e.key: e.value for e in t.external_data}
                data = files.external(t, _nbytes(t))
                out.external = True
                if len(data) < LARGE:
                    _inline(t, bytes(data))
                else:
                    path = Path(os.path.realpath((source.folder or Path()) / info["location"]))
                    out._refer(t, Weight(data, path, int(info.get("offset", "0"))))
        for t in proto.graph.initializer:
            if t.HasField("raw_data") and len(t.raw_data) >= LARGE:
                out._refer(t, Weight(memoryview(t.raw_data)))
        return out

    # -- tensors -------------------------------------------------------------------------------

    def data(self, t: TensorProto) -> memoryview | bytes:
        """A tensor's bytes, as raw data has them. GraphError where it has none that fit it."""
        number = handle(t)
        if number is not None:
            return self.weights[number].data
        return t.raw_data if t.HasField("raw_data") else numpy_helper.from_array(self.array(t)).raw_data

    def array(self, t: TensorProto) -> np.ndarray:
        """A tensor's values: a read-only view of the file where its elements are whole bytes. GraphError as `data`."""
        number = handle(t)
        try:
            if number is None:
                return numpy_helper.to_array(t)
            if t.data_type not in PACKED:
                dtype = helper.tensor_dtype_to_np_dtype(t.data_type)
                return np.frombuffer(self.weights[number].data, dtype).reshape(t.dims)
            whole = TensorProto()
            whole.CopyFrom(t)
            _inline(whole, bytes(self.weights[number].data))
            return numpy_helper.to_array(whole)
        except (ValueError, TypeError, KeyError) as e:
            raise GraphError(f"the data of a tensor of type {t.data_type} and shape {tuple(t.dims)} does not fit it",
                             where=f"tensor {t.name}", why=str(e), do="export the model again") from None

    def tensor(self, name: str, array: np.ndarray) -> TensorProto:
        """A tensor of this model with the given values; its bytes are kept outside the protobuf if they are many."""
        t = numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)
        if t.HasField("raw_data") and len(t.raw_data) >= LARGE:
            self._refer(t, Weight(memoryview(t.raw_data)))
        return t

    def _refer(self, t: TensorProto, weight: Weight) -> None:
        self.weights.append(weight)
        t.ClearField("raw_data")
        t.data_location = TensorProto.EXTERNAL
        set_external(t, {"location": f"{HANDLE}{len(self.weights) - 1}"})

    def complete(self, t: TensorProto) -> None:
        """Put a tensor's bytes back into it, copied."""
        number = handle(t)
        if number is not None:
            _inline(t, bytes(self.weights[number].data))

    # -- whole models --------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str], *, external: bool | None = None, share: bool = True) -> list[Path]:
        """Write the model by atomic rename; returns the files written (the data file, if any, comes first).

        external: weights in PATH.data beside it. None: as the model was, and where it would exceed protobuf's 2 GiB.
        share: weights that lie in external data in the same folder stay there, and are referred to.

        OutputError if a file cannot be written.
        """
        from whet.tools.surgeon.saving import save

        return save(self, Path(path), external, share)

    def to_bytes(self) -> bytes:
        """The model as one protobuf message. UnsupportedError from 2 GiB."""
        from whet.tools.surgeon.saving import pieces

        return b"".join(pieces(self))

    def to_proto(self) -> ModelProto:
        """The model with all its weights inside, copied. UnsupportedError from 2 GiB."""
        from whet.tools.surgeon.saving import check_size

        check_size(self)
        proto = ModelProto()
        proto.CopyFrom(self.proto)
        for t in tensors(proto):
            self.complete(t)
        return proto

    def size(self) -> int:
        """Bytes of the model with its weights, each stored once."""
        used = {handle(t) for t in tensors(self.proto)} - {None}
        return self.proto.ByteSize() + sum(len(self.weights[i].data) for i in used if i is not None)

    def opset(self, domain: str = "") -> int:
        """The version of an operator set that the model imports; 0 if it does not."""
        return max((o.version for o in self.proto.opset_import if _domain(o.domain) == domain), default=0)


def handle(t: TensorProto) -> int | None:
    """The number of a tensor's weight in its model, or None if it holds its own data."""
    if t.data_location != TensorProto.EXTERNAL or len(t.external_data) != 1:
        return None
    value = t.external_data[0].value
    return int(value[len(HANDLE):]) if value.startswith(HANDLE) else None


def set_external(t: TensorProto, info: dict[str, str]) -> None:
    """Write where a tensor's external data lies."""
    del t.external_data[:]
    for key, value in info.items():
        t.external_data.add(key=key, value=value)


def tensors(proto: ModelProto) -> Iterator[TensorProto]:
    """Every stored tensor: initializers, attributes, those of bodies and functions."""
    yield from graph_tensors(proto.graph)
    for f in proto.functions:
        for n in f.node:
            yield from _node_tensors(n)


def graph_tensors(g: GraphProto) -> Iterator[TensorProto]:
    """Every stored tensor of a graph and of the bodies in it."""
    yield from g.initializer
    for s in g.sparse_initializer:
        yield from (s.values, s.indices)
    for n in g.node:
        yield from _node_tensors(n)


def _node_tensors(n: NodeProto) -> Iterator[TensorProto]:
    for a in n.attribute:
        if a.type == AttributeProto.TENSOR:
            yield a.t
        yield from a.tensors
        if a.type == AttributeProto.SPARSE_TENSOR:
            yield from (a.sparse_tensor.values, a.sparse_tensor.indices)
        if a.type == AttributeProto.GRAPH:
            yield from graph_tensors(a.g)
        for g in a.graphs:
            yield from graph_tensors(g)


def _inline(t: TensorProto, data: bytes) -> None:
    del t.external_data[:]
    t.ClearField("data_location")
    t.raw_data = data


def _nbytes(t: TensorProto) -> int | None:
    if t.data_type in PACKED:
        return (math.prod(t.dims) + 1) // 2
    try:
        return math.prod(t.dims) * helper.tensor_dtype_to_np_dtype(t.data_type).itemsize
    except KeyError:
        raise GraphError(f"external data of an unknown element type {t.data_type}", where=f"tensor {t.name}",
                         do="export the model again, or with a newer onnx installed") from None


def _declared(g: GraphProto) -> Iterator[ValueInfoProto]:
    yield from (*g.input, *g.output)
    for n in g.node:
        for b in bodies(n):
            yield from _declared(b)


def _domain(name: str) -> str:
    return "" if name == "ai.onnx" else name


def check_valid(proto: ModelProto) -> None:
    """GraphError where the model breaks ONNX's rules, as `onnx.checker` sees it."""
    light = ModelProto()
    light.CopyFrom(proto)
    for t in tensors(light):  # the checker would look for the files
        if t.data_location == TensorProto.EXTERNAL:
            _inline(t, b"")
            t.dims[:] = [0]
    for v in _declared(light.graph):  # and wants shapes, which not even ONNX's own tests all have
        if v.type.WhichOneof("value") == "tensor_type" and not v.type.tensor_type.HasField("shape"):
            v.type.tensor_type.shape.SetInParent()
    try:
        onnx.checker.check_model(light)
    except onnx.checker.ValidationError as e:
        raise GraphError("the model that results is not valid ONNX", why=str(e).strip().splitlines()[0],
                         do="check the names and types that were given; the original with onnx.checker") from None
