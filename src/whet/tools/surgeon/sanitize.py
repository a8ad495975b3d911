"""A model made plain: functions inlined, constants folded, dead parts gone, shapes inferred, nodes sorted."""

from __future__ import annotations

import onnx.version_converter
from onnx import ModelProto

from whet.errors import UnsupportedError
from whet.frontends.inline import inlined
from whet.tools.surgeon import clean
from whet.tools.surgeon import fold as folding
from whet.tools.surgeon.model import OnnxModel, check_valid
from whet.tools.surgeon.names import drop_dead, graphs, sort
from whet.tools.surgeon.shapes import infer

MAX_GROWTH = 1 << 20  # bytes
ROUNDS = 4  # of folding: a branch that is decided can make further constants


def sanitize(model: OnnxModel, *, fold: bool = True, max_growth: int = MAX_GROWTH, opset: int | None = None,
             inline: bool = True, drop_inputs: bool = False, names: bool = True) -> OnnxModel:
    """The same function, plainer.

    fold: compute what depends on no input (never random numbers nor Q/DQ pairs), as long as that adds at most
    max_growth bytes in all; decide branches by it. opset: convert the standard operators to this version.
    inline: replace local functions by what they do. drop_inputs: remove inputs that nothing reads.
    names: name unnamed dimensions of inputs.
    Always: nodes sorted, dead ones and identities removed, equal weights merged, types and shapes inferred anew.

    GraphError for a model that is not valid, UnsupportedError for an opset that it cannot be converted to.
    """
    out = OnnxModel.open(model)
    before = _count(out.proto)
    say = out.notes.append
    if n := clean.own_weights(out.proto):
        say(f"{n} weights are no longer inputs")
    sort(out.proto.graph)
    if inline and out.proto.functions:
        n = len(out.proto.functions)
        out.proto.CopyFrom(inlined(out.proto))
        say(f"{n} local functions inlined")
    if opset is not None:
        was = out.opset()
        convert(out, opset)
        if was != opset:
            say(f"opset {was} converted to {opset}")
    if n := drop_dead(out.proto):
        say(f"{n} dead nodes removed")
    folded = dropped = decided = 0
    if fold:
        folding.lift_constants(out)
    for _ in range(ROUNDS):
        infer(out.proto)
        changed = gone = clean.drop_identities(out)
        dropped += gone
        if fold:
            n, branches = folding.fold(out, max_growth), folding.decide_branches(out)
            folded, decided, changed = folded + n, decided + branches, changed + n + branches
        drop_dead(out.proto)
        sort(out.proto.graph)
        if not changed:
            break
    for n, what in ((folded, "nodes folded into constants"), (decided, "branches decided"),
                    (dropped, "nodes that did nothing removed")):
        if n:
            say(f"{n} {what}")
    if freed := clean.merge_duplicates(out):
        say(f"{freed} bytes of weights that were there twice merged")
    if drop_inputs and (gone_inputs := clean.drop_unused_inputs(out)):
        say(f"unused inputs removed: {', '.join(gone_inputs)}")
    if names and (given := clean.name_dims(out.proto.graph)):
        say(f"dimensions named: {', '.join(given)}")
    clean.drop_unused_opsets(out.proto)
    infer(out.proto)
    check_valid(out.proto)
    say(f"{_count(out.proto)} nodes, {before} before")
    return out


def convert(model: OnnxModel, opset: int) -> None:
    """Convert the standard operators to another opset, in place. UnsupportedError where that cannot be."""
    newest = onnx.defs.onnx_opset_version()
    if not 1 <= opset <= newest:
        raise UnsupportedError(f"opset {opset}", where=model.name, why=f"onnx {onnx.__version__} knows 1 to {newest}",
                               do="choose one of these")
    if model.opset() == opset:
        return
    try:
        changed = onnx.version_converter.convert_version(model.proto, opset)
    except Exception as e:  # the converter raises RuntimeError and its own kinds
        raise UnsupportedError(f"the model cannot be converted from opset {model.opset()} to {opset}", where=model.name,
                               why=(str(e).strip().splitlines() or ["the converter of onnx failed"])[0],
                               do="export it anew with that opset") from None
    changed.metadata_props.clear()  # the converter forgets them, or not, by its version
    changed.metadata_props.extend(model.proto.metadata_props)
    changed.doc_string = model.proto.doc_string
    model.proto.CopyFrom(changed)


def _count(proto: ModelProto) -> int:
    return sum(len(g.node) for g in graphs(proto.graph))
