"""Tensors of an ONNX model as NumPy arrays: views of the file wherever that is possible."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from whet.errors import GraphError, ModelFileError, UnsupportedError
from whet.frontends.protobuf import Buffer, Source, map_file, read
from whet.ir.dtypes import DType

ELEMENT_TYPES: dict[int, DType] = {
    TensorProto.FLOAT: DType.F32, TensorProto.DOUBLE: DType.F64, TensorProto.FLOAT16: DType.F16,
    TensorProto.BFLOAT16: DType.BF16, TensorProto.INT8: DType.I8, TensorProto.INT16: DType.I16,
    TensorProto.INT32: DType.I32, TensorProto.INT64: DType.I64, TensorProto.UINT8: DType.U8,
    TensorProto.UINT16: DType.U16, TensorProto.UINT32: DType.U32, TensorProto.UINT64: DType.U64,
    TensorProto.BOOL: DType.BOOL, TensorProto.STRING: DType.STRING,
    TensorProto.FLOAT8E4M3FN: DType.F8E4M3FN, TensorProto.FLOAT8E4M3FNUZ: DType.F8E4M3FNUZ,
    TensorProto.FLOAT8E5M2: DType.F8E5M2, TensorProto.FLOAT8E5M2FNUZ: DType.F8E5M2FNUZ,
    TensorProto.FLOAT8E8M0: DType.F8E8M0FNU, TensorProto.FLOAT6E2M3: DType.F6E2M3FN,
    TensorProto.FLOAT6E3M2: DType.F6E3M2FN, TensorProto.FLOAT4E2M1: DType.F4E2M1FN,
    TensorProto.INT4: DType.I4, TensorProto.UINT4: DType.U4, TensorProto.INT2: DType.I2, TensorProto.UINT2: DType.U2,
}
TO_ONNX = {v: k for k, v in ELEMENT_TYPES.items()}


def element_type(code: int, where: str) -> DType:
    """The DType of an ONNX element type. UnsupportedError names those that whet lacks."""
    if code in ELEMENT_TYPES:
        return ELEMENT_TYPES[code]
    known = code in TensorProto.DataType.values()
    raise UnsupportedError(f"element type {TensorProto.DataType.Name(code) if known else code}", where=where,
                           why="whet has no such type", do=f"use one of {', '.join(d.value for d in DType)}")


def unpacked(packed: np.ndarray, dtype: DType, size: int) -> np.ndarray:
    """`size` elements of a type below 8 bits, a byte each, from a tight stream of bits, the lowest of a byte first."""
    if 8 % dtype.bits == 0:
        shifts = np.arange(0, 8, dtype.bits, dtype=np.uint8)
        codes = (packed[:, None] >> shifts & np.uint8((1 << dtype.bits) - 1)).reshape(-1)[:size]
    else:
        bits = np.unpackbits(packed, count=size * dtype.bits, bitorder="little")
        codes = np.packbits(bits.reshape(size, dtype.bits), axis=1, bitorder="little").reshape(size)
    array = codes.view(dtype.np)
    array.flags.writeable = False
    return array


class Tensors:
    """Reads the tensors of one model. External files are mapped once each."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._files: dict[str, Buffer] = {}

    def array(self, t: onnx.TensorProto, view: memoryview | None = None) -> np.ndarray:
        """The values of a tensor, read-only. `view`: its raw data, if that was left out of `t`.

        ModelFileError where external data is missing, short or outside the model's folder; GraphError
        where the data does not fit the declared shape.
        """
        where = f"tensor {t.name}" if t.name else "a tensor"
        dtype = element_type(t.data_type, where)
        shape = tuple(t.dims)
        if any(d < 0 for d in shape):
            raise GraphError(f"shape {shape} has a negative dimension", where=where, do="export the model again")
        size = math.prod(shape)
        nbytes = -(-size * dtype.bits // 8)  # types below 8 bits lie packed in files
        if t.data_location == TensorProto.EXTERNAL:
            view = self.external(t, nbytes)
        elif view is None and t.HasField("raw_data") and dtype is not DType.STRING:
            view = memoryview(t.raw_data)
        if view is not None:
            if len(view) != nbytes:
                raise GraphError(f"a tensor of shape {shape} and type {dtype.value} has {len(view)} bytes of data",
                                 where=where, why=f"it needs {nbytes}", do="export the model again")
            if dtype.bits < 8:
                return unpacked(np.frombuffer(view, np.uint8), dtype, size).reshape(shape)
            array = np.frombuffer(view, dtype.np) if size else np.zeros(0, dtype.np)
            if not _LITTLE:
                array = array.byteswap()
            return array.reshape(shape)
        try:
            if dtype is DType.STRING:
                text = [s.decode("utf-8") for s in t.string_data]
                return np.array(text, dtype=object).reshape(shape)
            array = numpy_helper.to_array(t)
        except (ValueError, TypeError, UnicodeDecodeError) as e:
            raise GraphError(f"the data of a tensor of shape {shape} does not fit it", where=where, why=str(e),
                             do="export the model again") from None
        array.flags.writeable = False
        return array

    def external(self, t: onnx.TensorProto, size: int | None = None) -> memoryview:
        """The bytes of a tensor that lies in another file. size: what its shape needs."""
        where = f"tensor {t.name} of {self.source.name}"
        info = {e.key: e.value for e in t.external_data}
        location = info.get("location", "")
        path = self._inside(location, where)
        try:
            offset, length = int(info.get("offset", "0")), int(info["length"]) if "length" in info else size
        except ValueError:
            raise ModelFileError("external data with an offset or length that is not a number", where=where,
                                 do="save the model again") from None
        if location not in self._files:
            try:
                self._files[location] = map_file(path, "external data")
            except ModelFileError as e:
                e.why, e.do = f"{where} refers to it", "keep the data file next to the .onnx file"
                raise
        data = self._files[location]
        if length is None:
            length = max(0, len(data) - offset)
        if offset < 0 or length < 0 or offset + length > len(data):
            raise ModelFileError(f"external data is too short: {len(data)} bytes", where=str(path),
                                 why=f"{where} takes {length} bytes from byte {offset}",
                                 do="copy the data file again: it is cut short or belongs to another model")
        return memoryview(data)[offset:offset + length]

    def _inside(self, location: str, where: str) -> Path:
        folder = self.source.folder
        if folder is None:
            raise ModelFileError("the model's weights lie in another file", where=where,
                                 why="a model given as bytes or ModelProto has no folder to look in",
                                 do="give the path of the .onnx file, or load it with onnx.load first")
        root = os.path.realpath(folder)
        relative = bool(location) and "\0" not in location and not os.path.isabs(location)
        inside = relative and ".." not in location.replace("\\", "/").split("/")
        path = os.path.realpath(os.path.join(root, location)) if inside else ""
        if not inside or os.path.commonpath([root, path]) != root:
            raise ModelFileError(f"external data outside the model's folder: {location!r}", where=where,
                                 why="a model may only read files next to it", do="move the data file into "
                                 f"{root} and refer to it by a relative path")
        return Path(path)


_LITTLE = np.dtype("=i4").newbyteorder("<") == np.dtype("=i4")


def _all_tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for n in graph.node:
        yield from _attribute_tensors(n)


def _attribute_tensors(n: onnx.NodeProto) -> Iterator[onnx.TensorProto]:
    for a in n.attribute:
        if a.HasField("t"):
            yield a.t
        yield from a.tensors
        if a.HasField("g"):
            yield from _all_tensors(a.g)
        for g in a.graphs:
            yield from _all_tensors(g)


def model_hash(model: str | os.PathLike[str] | bytes | onnx.ModelProto) -> str:
    """SHA-256 (hex) of a model's bytes followed by its external data in order of appearance."""
    h = hashlib.sha256()
    source = read(model)
    if isinstance(model, onnx.ModelProto):
        h.update(model.SerializeToString(deterministic=True))
    elif isinstance(model, (bytes, bytearray, memoryview)):
        h.update(model)
    else:
        h.update(map_file(Path(model), "the model"))
    tensors = Tensors(source)
    for t in _all_tensors(source.proto.graph):
        if t.data_location == TensorProto.EXTERNAL:
            h.update(tensors.external(t))
    return h.hexdigest()
