"""Reading an ONNX file without copying its weights.

A model's large initializers are found by walking the protobuf wire format over the mapped file, and left
there: what is parsed is the model without them, and arrays are views of the file.
(Format: https://protobuf.dev/programming-guides/encoding, onnx.proto.)
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from whet.errors import ModelFileError

Buffer = bytes | mmap.mmap

_GRAPH, _INITIALIZER, _RAW_DATA = 7, 5, 9  # field numbers of ModelProto, GraphProto and TensorProto
_BYTES = 2  # the wire type of strings, bytes and messages
_LARGE = 4096  # initializers of fewer bytes are parsed as usual
_MAX_PARSED = (1 << 31) - 1  # protobuf's own limit of a message


@dataclass(frozen=True)
class Source:
    """A parsed model. `views[i]` is the raw data of initializer i of the main graph where it was left outside."""

    proto: onnx.ModelProto
    views: dict[int, memoryview] = field(default_factory=dict)
    folder: Path | None = None
    name: str = ""


def read(model: str | os.PathLike[str] | bytes | onnx.ModelProto) -> Source:
    """A model from a path, its bytes, or a ModelProto.

    ModelFileError where there is no such file, or it is not an ONNX model, or is cut short.
    """
    if isinstance(model, onnx.ModelProto):
        return _checked(Source(model, {}, None, "the given ModelProto"))
    if isinstance(model, (bytes, bytearray, memoryview)):
        return _parse(bytes(model), None, f"the given {len(model)} bytes")
    path = Path(model)
    return _parse(map_file(path, "the model"), path.parent, str(path))


def map_file(path: Path, what: str) -> Buffer:
    """A file's bytes, mapped read-only. ModelFileError where it cannot be read."""
    try:
        with path.open("rb") as f:
            size = os.fstat(f.fileno()).st_size
            return mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
    except FileNotFoundError:
        raise ModelFileError(f"{what} is not there", where=str(path), do="check the path") from None
    except IsADirectoryError:
        raise ModelFileError(f"{what} is a folder", where=str(path), do="give the .onnx file inside it") from None
    except (OSError, ValueError) as e:
        raise ModelFileError(f"{what} cannot be read", where=str(path), why=str(e), do="check the path and its "
                             "permissions") from None


def _parse(data: Buffer, folder: Path | None, name: str) -> Source:
    try:
        small, spans = _without_weights(data)
    except _WireError as e:
        raise ModelFileError("not an ONNX model, or a truncated one", where=name, why=str(e),
                             do="check that the file is complete: compare its size with the original's") from None
    if len(small) > _MAX_PARSED:
        raise ModelFileError("the model is too large for a protobuf message", where=name,
                             why=f"{len(small)} bytes besides its large initializers",
                             do="save it with external data (onnx.save_model(..., save_as_external_data=True))")
    try:
        proto = onnx.ModelProto.FromString(small)
    except (DecodeError, ValueError) as e:
        raise ModelFileError("not an ONNX model", where=name, why=str(e) or "it does not parse as protobuf",
                             do="give a file that was exported as .onnx") from None
    whole = memoryview(data)
    return _checked(Source(proto, {i: whole[a:b] for i, (a, b) in spans.items()}, folder, name))


def _checked(source: Source) -> Source:
    m = source.proto
    if not m.HasField("graph") or not m.ir_version or not m.opset_import:
        missing = [n for n, ok in (("graph", m.HasField("graph")), ("IR version", bool(m.ir_version)),
                                   ("opset", bool(m.opset_import))) if not ok]
        raise ModelFileError("not an ONNX model", where=source.name, why=f"it has no {' and no '.join(missing)}",
                             do="give a file that was exported as .onnx")
    if not _is_text(m.graph) or not all(_is_text(f) for f in m.functions):
        raise ModelFileError("not an ONNX model, or a damaged one", where=source.name, why="a name in it is not UTF-8",
                             do="check that the file is complete and unchanged")
    return source


def _is_text(g: onnx.GraphProto | onnx.FunctionProto) -> bool:
    """True if every name in the graph is text (protobuf gives bytes for strings that are not UTF-8)."""
    names: list[object] = [g.name]
    if isinstance(g, onnx.GraphProto):
        names += [t.name for t in g.initializer]
        for v in (*g.input, *g.output):
            names.append(v.name)
            names += [d.dim_param for d in v.type.tensor_type.shape.dim]
    else:
        names += [*g.input, *g.output, *g.attribute]
    for n in g.node:
        names += [n.name, n.op_type, n.domain, *n.input, *n.output]
        for a in n.attribute:
            names.append(a.name)
            if not all(_is_text(b) for b in ([a.g] if a.type == onnx.AttributeProto.GRAPH else a.graphs)):
                return False
    return all(isinstance(n, str) for n in names)


# -- the wire format --------------------------------------------------------------------------


class _WireError(Exception):
    pass


def _varint(data: Buffer, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= end:
            raise _WireError(f"it ends within a number at byte {at}")
        if shift > 63:
            raise _WireError(f"the number at byte {at} is too long")
        b = data[at]
        at += 1
        value |= (b & 127) << shift
        if b < 128:
            return value, at
        shift += 7


def _fields(data: Buffer, at: int, end: int) -> Iterator[tuple[int, int, int, int, int]]:
    """(number, wire type, start of the field, start and end of its value) of each field of a message."""
    while at < end:
        start = at
        key, at = _varint(data, at, end)
        number, wire = key >> 3, key & 7
        if wire == 0:
            _, stop = _varint(data, at, end)
        elif wire in (1, 5):
            stop = at + (8 if wire == 1 else 4)
        elif wire == _BYTES:
            size, at = _varint(data, at, end)
            stop = at + size
        else:
            raise _WireError(f"byte {start} does not start a field (wire type {wire})")
        if not number:
            raise _WireError(f"byte {start} does not start a field (number 0)")
        if stop > end:
            raise _WireError(f"the field at byte {start} runs to byte {stop}, {stop - end} past the end")
        yield number, wire, start, at, stop
        at = stop


def _encode(n: int) -> bytes:
    out = bytearray()
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    out.append(n)
    return bytes(out)


def _message(number: int, pieces: list[bytes]) -> list[bytes]:
    return [_encode(number << 3 | _BYTES), _encode(sum(map(len, pieces))), *pieces]


def _without_weights(data: Buffer) -> tuple[bytes, dict[int, tuple[int, int]]]:
    """The model's bytes less the raw data of its large initializers, and where that lies: {index: (from, to)}."""
    spans: dict[int, tuple[int, int]] = {}
    count = 0
    out: list[bytes] = []
    for number, wire, start, at, stop in _fields(data, 0, len(data)):
        if number != _GRAPH or wire != _BYTES:
            out.append(data[start:stop])
            continue
        graph: list[bytes] = []
        for n, w, s, a, e in _fields(data, at, stop):
            if n != _INITIALIZER or w != _BYTES:
                graph.append(data[s:e])
                continue
            raw = None
            if e - a >= _LARGE:
                raw = next(((s2, a2, e2) for n2, w2, s2, a2, e2 in _fields(data, a, e)
                            if n2 == _RAW_DATA and w2 == _BYTES), None)
            if raw is None or raw[2] - raw[1] < _LARGE:
                graph.append(data[s:e])
            else:
                graph += _message(_INITIALIZER, [data[a:raw[0]], data[raw[2]:e]])
                spans[count] = (raw[1], raw[2])
            count += 1
        out += _message(_GRAPH, graph)
    return b"".join(out), spans
