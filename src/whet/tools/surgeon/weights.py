"""Weights taken out of a model into a file beside it, and put back: checked, byte for byte."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import msgspec
from onnx import ModelProto

from whet.errors import InputError, ModelFileError, WeightsError
from whet.frontends.protobuf import map_file, read
from whet.plan.writer import atomic
from whet.tools.surgeon.model import HANDLE, OnnxModel, Weight, handle, set_external, tensors
from whet.tools.surgeon.saving import write_external

KEY = "whet.weights"  # in the model's metadata


class Blob(msgspec.Struct):
    """A weight in the sidecar: where it lies, and the SHA-256 of its bytes."""

    offset: int
    length: int
    sha256: str


class Sidecar(msgspec.Struct):
    """What a stripped model says about the file that its weights went to."""

    file: str
    bytes: int
    weights: list[Blob]


def strip_weights(model: OnnxModel, path: str | os.PathLike[str], sidecar: str | os.PathLike[str]) -> list[Path]:
    """Write the model without its large weights (4 KiB and more) to `path`, and these into `sidecar`.

    The model keeps names, types and shapes, and the SHA-256 of every weight; equal weights are stored once. It refers
    to the sidecar as external data, so next to it, it runs as it is. Same model, same bytes. Returns the files written.

    OutputError if they cannot be written, InputError for one file for both, ModelFileError where there is nothing to
    strip.
    """
    path, sidecar = Path(path), Path(sidecar)
    if os.path.realpath(path) == os.path.realpath(sidecar):
        raise InputError("the model and its weights cannot be one file", where=str(path),
                         do="name another for --weights")
    out = OnnxModel.open(model)
    proto = out.proto
    _share_equal(out)
    if not write_external(out, proto, sidecar):
        raise ModelFileError("the model has no weights to strip", where=model.name,
                             why="weights of fewer than 4 KiB stay in the model", do="keep it as it is")
    spans = {(int(i["offset"]), int(i["length"])) for t in tensors(proto)
             if (i := {e.key: e.value for e in t.external_data})}
    data = memoryview(map_file(sidecar, "the weights"))
    blobs = [Blob(o, n, hashlib.sha256(data[o:o + n]).hexdigest()) for o, n in sorted(spans)]
    described = Sidecar(sidecar.name, len(data), blobs)
    _forget(proto)
    proto.metadata_props.add(key=KEY, value=msgspec.json.encode(described).decode())
    with atomic(path, "the model") as f:
        f.write(proto.SerializeToString(deterministic=True))
    return [sidecar, path]


def restore_weights(path: str | os.PathLike[str], sidecar: str | os.PathLike[str] | None = None) -> OnnxModel:
    """The whole model of a stripped one. sidecar: the file with its weights; None: beside it, under its recorded name.

    ModelFileError where a file is not there or the model was not stripped by `strip_weights`; WeightsError where the
    weights are not those that it was stripped of.
    """
    path = Path(path)
    proto = read(path).proto
    text = next((p.value for p in proto.metadata_props if p.key == KEY), None)
    if text is None:
        raise ModelFileError("the model was not stripped of weights", where=str(path),
                             why=f"its metadata has no {KEY}",
                             do="give a model that `whet surgeon strip-weights` wrote")
    try:
        said = msgspec.json.decode(text, type=Sidecar)
    except msgspec.MsgspecError as e:
        raise ModelFileError("what the model says about its weights cannot be read", where=str(path), why=str(e),
                             do="strip the original again") from None
    file = Path(sidecar) if sidecar is not None else path.with_name(Path(said.file).name)
    data = memoryview(map_file(file, "the file with the weights"))
    if len(data) != said.bytes:
        raise WeightsError(f"the file with the weights has {len(data)} bytes", where=str(file),
                           why=f"{path.name} was stripped of {said.bytes}", do="give the file that was written with it")
    by_span = {}
    out = OnnxModel(proto, name=str(path))
    for b in said.weights:
        part = data[b.offset:b.offset + b.length]
        if len(part) != b.length or hashlib.sha256(part).hexdigest() != b.sha256:
            raise WeightsError(f"the {b.length} bytes at {b.offset} are not those that were stripped", where=str(file),
                               why="their SHA-256 is another", do="give the file that was written with the model")
        by_span[b.offset, b.length] = len(out.weights)
        out.weights.append(Weight(part))
    for t in tensors(proto):
        if t.data_location == t.EXTERNAL:
            info = {e.key: e.value for e in t.external_data}
            span = int(info.get("offset", "0")), int(info.get("length", "-1"))
            if span not in by_span:
                raise WeightsError(f"the model does not say what weights {t.name!r} had", where=str(path),
                                   do="strip the original again")
            set_external(t, {"location": f"{HANDLE}{by_span[span]}"})
    _forget(proto)
    return out


def _share_equal(model: OnnxModel) -> None:
    """Let tensors of equal bytes refer to one weight."""
    first: dict[bytes, int] = {}
    for t in tensors(model.proto):
        number = handle(t)
        if number is not None:
            key = hashlib.sha256(model.weights[number].data).digest()
            set_external(t, {"location": f"{HANDLE}{first.setdefault(key, number)}"})


def _forget(proto: ModelProto) -> None:
    for i in reversed(range(len(proto.metadata_props))):
        if proto.metadata_props[i].key == KEY:
            del proto.metadata_props[i]
