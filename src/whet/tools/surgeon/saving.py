"""Writing edited models: in one file, or with external data beside it, without copying weights in memory."""

from __future__ import annotations

import os
from pathlib import Path

from onnx import ModelProto, TensorProto

from whet.errors import UnsupportedError
from whet.plan.writer import atomic
from whet.tools.surgeon.model import OnnxModel, handle, set_external, tensors

LIMIT = (1 << 31) - 1  # bytes of a protobuf message
PAGE, PAGED = 4096, 1 << 16  # weights of 64 KiB and more start at a page, so that runtimes can map them
ALIGN = 64

_GRAPH, _INITIALIZER, _RAW_DATA = 7, 5, 9  # field numbers in onnx.proto
Piece = bytes | memoryview


def save(model: OnnxModel, path: Path, external: bool | None, share: bool) -> list[Path]:
    """See OnnxModel.save."""
    if external is None:
        external = model.external or model.size() > LIMIT
    if not external:
        parts = pieces(model)
        with atomic(path, "the model") as f:
            f.writelines(parts)
        return [path]
    proto = ModelProto()
    proto.CopyFrom(model.proto)
    data = path.with_name(path.name + ".data")
    written = write_external(model, proto, data, share)
    with atomic(path, "the model") as f:
        f.write(proto.SerializeToString(deterministic=True))
    return [*([data] if written else []), path]


def write_external(model: OnnxModel, proto: ModelProto, path: Path, share: bool = False) -> bool:
    """Write the weights that `proto` refers to into a file and make it refer to that; False if there were none.

    Each weight is written once, in order of appearance. share: those that lie in files of the same folder stay there.
    """
    folder = os.path.realpath(path.parent)
    place: dict[int, dict[str, str]] = {}
    fresh: list[tuple[int, int]] = []  # (weight, offset)
    end = 0
    for t in tensors(proto):
        number = handle(t)
        if number is None:
            continue
        if number not in place:
            w = model.weights[number]
            if share and w.file is not None and str(w.file.parent) == folder and w.file.name != path.name:
                place[number] = _location(w.file.name, w.offset, len(w.data))
            else:
                to = PAGE if len(w.data) >= PAGED else ALIGN
                offset = (end + to - 1) // to * to
                place[number] = _location(path.name, offset, len(w.data))
                fresh.append((number, offset))
                end = offset + len(w.data)
        set_external(t, place[number])
    if not fresh:
        return False
    with atomic(path, "the weights") as f:
        for number, offset in fresh:
            f.seek(offset)
            f.write(model.weights[number].data)
    return True


def _location(name: str, offset: int, length: int) -> dict[str, str]:
    return {"location": name, "offset": str(offset), "length": str(length)}


def check_size(model: OnnxModel) -> None:
    """UnsupportedError for a model that one protobuf message cannot hold."""
    size = model.size()
    if size > LIMIT:
        raise UnsupportedError("the model is too large for one protobuf message", where=model.name,
                               why=f"it has {size} bytes, and {LIMIT} is the limit",
                               do="save it to a file, with external data")


def pieces(model: OnnxModel) -> list[Piece]:
    """The model as one message, in pieces: large weights are views of where they lie. UnsupportedError from 2 GiB."""
    check_size(model)
    shell = ModelProto()
    shell.CopyFrom(model.proto)
    del shell.graph.initializer[:]
    for t in tensors(shell):  # those in attributes
        model.complete(t)
    graph: list[Piece] = [shell.graph.SerializeToString(deterministic=True)]
    for t in model.proto.graph.initializer:
        graph += _message(_INITIALIZER, _initializer(model, t))
    shell.ClearField("graph")
    return [shell.SerializeToString(deterministic=True), *_message(_GRAPH, graph)]


def _initializer(model: OnnxModel, t: TensorProto) -> list[Piece]:
    number = handle(t)
    if number is None:
        return [t.SerializeToString(deterministic=True)]
    head = TensorProto()
    head.CopyFrom(t)
    del head.external_data[:]
    head.ClearField("data_location")
    return [head.SerializeToString(deterministic=True), *_message(_RAW_DATA, [model.weights[number].data])]


def _message(number: int, parts: list[Piece]) -> list[Piece]:
    return [_varint(number << 3 | 2), _varint(sum(map(len, parts))), *parts]


def _varint(n: int) -> bytes:
    out = bytearray()
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    out.append(n)
    return bytes(out)
