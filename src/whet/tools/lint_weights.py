"""What is in a model's weights: numbers that are not, numbers that do nothing, and bytes that are there twice."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import GraphProto, NodeProto, TensorProto

from whet.errors import ModelFileError, WhetError
from whet.frontends.order import bodies
from whet.frontends.protobuf import Source
from whet.frontends.tensors import Tensors
from whet.tools.lint_codes import Finding, finding
from whet.tools.lint_graph import label

CHUNK = 1 << 20  # elements that are looked at at a time
SUBNORMAL_SHARE = 0.01  # of a tensor's elements, from which on it is said
DUPLICATE_BYTES = 1024  # smaller tensors are not worth sharing
SMALL = 16  # elements of a constant that is a number or a mask rather than a weight
LARGE_BYTES = 1 << 30


@dataclass(frozen=True)
class Weight:
    """A constant tensor of the model. `reader`: a node that reads it, if there is one."""

    name: str
    array: np.ndarray
    reader: NodeProto | None
    initializer: bool  # not the value of a Constant node


@dataclass
class Stats:
    """What a pass over a float tensor counts. `low` and `high` are of the finite elements (0 if there are none)."""

    nan: int = 0
    inf: int = 0
    subnormal: int = 0
    zero: int = 0
    low: float = 0.0
    high: float = 0.0
    smallest: float = np.inf  # the least magnitude that is not zero

    @property
    def largest(self) -> float:
        """The greatest finite magnitude."""
        return max(abs(self.low), abs(self.high))


def readers(graph: GraphProto) -> dict[str, list[NodeProto]]:
    """The nodes that read each name, bodies included."""
    out: dict[str, list[NodeProto]] = {}
    stack = [graph]
    while stack:
        for n in stack.pop().node:
            stack += bodies(n)
            for i in n.input:
                out.setdefault(i, []).append(n)
    return out


def load_weights(source: Source) -> tuple[list[Finding], list[Weight], Source]:
    """The model's constants, those that cannot be read as findings, and the source with inputs in their place."""
    tensors = Tensors(source)
    proto = source.proto
    uses = readers(proto.graph)
    found: list[Finding] = []
    weights: list[Weight] = []
    lost: dict[str, TensorProto] = {}
    for i, t in enumerate(proto.graph.initializer):
        try:
            array = tensors.array(t, source.views.get(i))
        except WhetError as e:
            found.append(_unreadable(t.name, e))
            lost[t.name] = t
            continue
        weights.append(Weight(t.name, array, next(iter(uses.get(t.name, ())), None), True))
    for n in _constants(proto.graph):
        for a in n.attribute:
            if a.name != "value" or not a.HasField("t"):
                continue
            try:
                reader = next(iter(uses.get(n.output[0] if n.output else "", ())), None)
                weights.append(Weight(label(n), tensors.array(a.t), reader, False))
            except WhetError as e:
                found.append(_unreadable(label(n), e))
    return found, weights, _without(source, lost) if lost else source


def _unreadable(name: str, e: WhetError) -> Finding:
    code = "L301" if isinstance(e, ModelFileError) else "L302"
    return finding(code, name, e.what, "; ".join(x for x in (e.where, e.why) if x), e.do)


def _constants(graph: GraphProto) -> Iterator[NodeProto]:
    stack = [graph]
    while stack:
        for n in stack.pop().node:
            stack += bodies(n)
            if n.op_type in ("Constant", "ConstantOfShape") and n.domain in ("", "ai.onnx"):
                yield n


def _without(source: Source, lost: dict[str, TensorProto]) -> Source:
    """The source with inputs of the same type instead of some initializers."""
    proto = onnx.ModelProto()
    proto.CopyFrom(source.proto)
    g = proto.graph
    kept = [i for i, t in enumerate(g.initializer) if t.name not in lost]
    tensors = [g.initializer[i] for i in kept]
    del g.initializer[:]
    g.initializer.extend(tensors)
    declared = {v.name for v in g.input}
    g.input.extend(onnx.helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in lost.values()
                   if t.name not in declared and t.data_type and all(d >= 0 for d in t.dims))
    return replace(source, proto=proto, views={new: source.views[old] for new, old in enumerate(kept)
                                               if old in source.views})


def statistics(x: np.ndarray) -> Stats:
    """One pass over a float tensor, in pieces."""
    out = Stats()
    tiny = {2: 6.103515625e-05 if x.dtype == np.float16 else float(np.finfo(np.float32).tiny),
            4: float(np.finfo(np.float32).tiny), 8: float(np.finfo(np.float64).tiny)}.get(x.dtype.itemsize, 0.0)
    flat = x.reshape(-1)
    low, high = np.inf, -np.inf
    for at in range(0, flat.size, CHUNK):
        c = flat[at:at + CHUNK]
        c = c if c.dtype in (np.float32, np.float64) else c.astype(np.float32)
        finite = np.isfinite(c)
        if not finite.all():
            out.nan += int(np.isnan(c).sum())
            out.inf += int(np.isinf(c).sum())
            c = c[finite]
        if not c.size:
            continue
        low, high = min(low, float(c.min())), max(high, float(c.max()))
        a = np.abs(c)
        zeros = c.size - int(np.count_nonzero(a))
        out.zero += zeros
        least = float(a[a > 0].min()) if zeros and zeros < c.size else float(a.min()) if not zeros else np.inf
        out.smallest = min(out.smallest, least)
        if least < tiny:
            out.subnormal += int(((a > 0) & (a < tiny)).sum())
    out.low, out.high = (low, high) if low <= high else (0.0, 0.0)
    return out


def is_float(x: np.ndarray) -> bool:
    """True for floating-point arrays, bfloat16 and the 8-bit kinds included."""
    return x.dtype.kind == "f" or (x.dtype.kind == "V" and "float" in x.dtype.name)


def check(weights: list[Weight], outputs: set[str]) -> tuple[list[Finding], dict[str, Stats]]:
    """Findings about the values, and the statistics of each float tensor by name. `outputs`: of the graph."""
    found: list[Finding] = []
    stats: dict[str, Stats] = {}
    for w in weights:
        if w.initializer and w.reader is None and w.name not in outputs:
            found.append(finding("L307", w.name, f"no node reads this {w.array.dtype.name} {list(w.array.shape)}", "it "
                                 f"takes {size(w.array.nbytes)} of the file", "leave it out of the model",
                                 bytes=int(w.array.nbytes)))
        if w.array.nbytes > LARGE_BYTES:
            found.append(finding("L209", w.name, f"a weight of {size(w.array.nbytes)}", "it is read once a run at the "
                                 "least", "split or quantize it if memory is short", bytes=int(w.array.nbytes)))
        if is_float(w.array) and w.array.size:
            stats[w.name] = s = statistics(w.array)
            found += _values(w, s)
    return [*found, *_duplicates(weights)], stats


def _values(w: Weight, s: Stats) -> Iterator[Finding]:
    n, op = w.array.size, w.reader.op_type if w.reader is not None else ""
    read = f"read by {label(w.reader)}" if w.reader is not None else ""
    if s.nan:
        yield finding("L303", w.name, f"{s.nan} of {n} values are NaN", read, "find the training step that made them",
                      op=op, count=s.nan, elements=n)
    if s.inf:
        mask = n <= SMALL or (s.inf + s.zero == n)
        yield finding("L304", w.name, f"{s.inf} of {n} values are infinite", read + (", as a mask would be" * mask),
                      "use a large finite number for masks, or find the training step that made them",
                      op=op, severity="note" if mask else None, count=s.inf, elements=n)
    if s.subnormal > SUBNORMAL_SHARE * n and n > SMALL:
        yield finding("L305", w.name, f"{s.subnormal / n:.1%} of {n} values are subnormal {w.array.dtype.name}",
                      "each may cost a hundred cycles where the CPU does not flush them, and they contribute nothing",
                      "set them to zero", op=op, count=s.subnormal, elements=n)
    yield from _dead(w, s, op)


def _dead(w: Weight, s: Stats, op: str) -> Iterator[Finding]:
    """Tensors and filters of zeros. Which dimension is the outputs' depends on who reads the weight."""
    a = w.array
    if s.zero == a.size and a.size > SMALL:
        if op not in ("Add", "Sub") and a.ndim != 1:  # biases and offsets of zero are usual
            yield finding("L306", w.name, f"all {a.size} values are zero", f"read by {op}" if op else "",
                          "leave out what multiplies by it", op=op, elements=a.size)
        return
    if a.ndim < 2 or not s.zero or op not in ("Conv", "Gemm", "MatMul", "ConvTranspose"):
        return
    axis = 0 if op == "Conv" or (op == "Gemm" and w.reader is not None and _flag(w.reader, "transB")) else 1
    if op == "MatMul":
        axis = a.ndim - 1
    others = tuple(i for i in range(a.ndim) if i != axis)
    dead = int((~a.astype(bool).any(axis=others)).sum())
    if dead:
        yield finding("L306", w.name, f"{dead} of {a.shape[axis]} output channels have only zero weights",
                      f"{op} computes them for nothing", "prune them", op=op, count=dead, elements=int(a.shape[axis]))


def _flag(n: NodeProto, name: str) -> int:
    return next((a.i for a in n.attribute if a.name == name), 0)


def _duplicates(weights: list[Weight]) -> Iterator[Finding]:
    groups: dict[tuple[object, ...], list[Weight]] = {}
    for w in weights:
        if w.array.nbytes >= DUPLICATE_BYTES and w.array.dtype.kind != "O":
            flat = w.array.reshape(-1)
            middle = flat.size // 2
            sample = np.concatenate([flat[:16], flat[middle:middle + 16], flat[-16:]]).tobytes()
            groups.setdefault((w.array.dtype.str, w.array.shape, sample), []).append(w)
    for some in groups.values():
        if len(some) < 2:
            continue
        same: dict[bytes, list[Weight]] = {}
        for w in some:
            data = np.ascontiguousarray(w.array).reshape(-1).view(np.uint8)
            same.setdefault(hashlib.blake2b(data.data, digest_size=16).digest(), []).append(w)
        for equal in same.values():
            if len(equal) < 2:
                continue
            saved = (len(equal) - 1) * equal[0].array.nbytes
            others = [w.name for w in equal[1:]]
            yield finding("L308", equal[0].name, f"the same {list(equal[0].array.shape)} as {', '.join(others[:4])}"
                          + (f" and {len(others) - 4} more" if len(others) > 4 else ""),
                          f"{size(saved)} could be saved in the file (a plan holds them once)",
                          "let the nodes share one initializer", bytes=int(saved), names=others)


def size(count: int) -> str:
    """`1.2 MiB`."""
    for scale, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if count >= scale:
            return f"{count / scale:.1f} {name}"
    return f"{count} bytes"
