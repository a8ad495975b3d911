"""Where a graph is quantized: which layers, on which values, with which scales.

Works on the prepared graph (channels first, patterns recognized). A *layer* is a convolution or matmul by constant
weights. Its first operand and its weights go through quantize and dequantize; what passes between two quantized
convolutions (residual sums, pooling, concatenations) is read from the codes too, so that bytes are what lies in
memory. Before matmuls alone (transformers) residual sums stay as they are: only the matmul reads the codes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from whet.ir.casts import cast
from whet.ir.dtypes import DType
from whet.ir.graph import Graph, Node, Value
from whet.ir.ops import POINTWISE
from whet.ir.union import Union
from whet.precision.insert_attention import operands_known, quantize_attention
from whet.precision.methods import F8_MAX, Range, qparams

TRANSPARENT = frozenset({"reshape", "transpose", "slice", "expand"})  # results are elements of operand 0
READS_CODES = POINTWISE.keys() | {"pool", "reduce", "concat", "pad"} | TRANSPARENT
REAL = {"attention": "attention is quantized only within a budget (--max-drop)",
        "conv_transpose": "there are no int8 kernels of transposed convolutions",
        "recurrent": "recurrent products stay in floating point",
        "linear_attention": "the products of attention have computed operands",
        "matmul_grouped": "its weights have few bits already"}
COARSE = "a depthwise convolution adds too few products to make up for fp8's coarse weights, and waits for memory"
LEAST_DEPTH = 16  # a product over fewer terms is an outer product, not a layer


@dataclass(frozen=True)
class Layer:
    """A convolution or matmul by constant weights, or attention, under the name that it has in the model."""

    name: str
    node: Node
    kind: str
    reason: str = ""  # why it cannot be quantized; "" if it can


@dataclass
class Inserted:
    """What `insert` did: the layers that now are quantized, and the others with the reason."""

    quantized: list[str] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)


def layers(graph: Graph, attention: bool = False) -> list[Layer]:
    """The layers of a prepared graph, in order, and what else takes products, with the reason why it stays as it is.

    Names are unique: the model's, with `#2`... where several share one. attention: it is a layer, too.
    """
    out: list[Layer] = []
    met: dict[str, int] = {}
    for n in graph.nodes:
        if n.op not in ("conv", "matmul", *REAL) or n.outputs[0].dtype is not DType.F32:
            continue
        base = n.origin.partition(" ")[2] or n.origin or n.outputs[0].name
        met[base] = met.get(base, 0) + 1
        name = base if met[base] == 1 else f"{base}#{met[base]}"
        reason = "" if attention and n.op == "attention" else _reason(n)
        out.append(Layer(name, n, _kind(n), reason))
    return out


def is_quantized(graph: Graph) -> bool:
    """True for a model that brings codes of its own (Q/DQ)."""
    return any(n.op in ("quantize", "dequantize") for n in graph.nodes)


def _kind(n: Node) -> str:
    if n.op in REAL or n.op == "matmul":
        return n.op.replace("_", " ")
    depthwise = n.input(1).shape[1] == 1 and n.attrs["group"] > 1
    return "depthwise convolution" if depthwise else "convolution"


def _reason(n: Node) -> str:
    if n.op in REAL:
        return REAL[n.op]
    w = n.input(1)
    if w.data is None:
        return "its second operand is computed"
    if n.op == "matmul" and w.rank != 2:
        return "its weights are not one matrix"
    depth = math.prod(w.data.shape[1:]) if n.op == "conv" else w.data.shape[0]
    if n.op == "matmul" and depth < LEAST_DEPTH:
        return f"a product over {depth} terms is not worth it"
    if depth * 255 * 128 >= 1 << 31:
        return f"sums over {depth} terms may not fit 32 bits"
    if not np.isfinite(w.data).all():
        return "its weights are not finite"
    if n.op == "conv" and len(n.inputs) > 2 and n.inputs[2] is not None and n.input(2).data is None:
        return "its bias is computed"
    return ""


# -- which values share a scale ------------------------------------------------------------------------------


def groups(graph: Graph) -> dict[Value, Value]:
    """For each value that a layer may read, the one that stands for its group: values that movement, max pooling and
    concatenation connect have one scale."""
    sets = Union()
    for n in graph.nodes:
        for o in n.outputs:
            sets.find(o)
        if passes_on(n):
            for v in n.inputs if n.op == "concat" else n.inputs[:1]:
                if v is not None and v.dtype is DType.F32 and not v.is_const:
                    sets.join(v, n.output)
    for v in graph.inputs:
        sets.find(v)
    return sets.representatives()


def passes_on(n: Node | None) -> bool:
    """True for an operator whose results are elements of its operands, or zeros."""
    if n is None or len(n.outputs) != 1:
        return False
    if n.op == "pad":
        return len(n.inputs) == 1 and (n.attrs["mode"] != "constant" or n.attrs["value"] == 0)
    return n.op in TRANSPARENT or n.op == "concat" or (n.op == "pool" and n.attrs["kind"] == "max")


def taps(graph: Graph, shortcuts: bool = False) -> dict[str, Value]:
    """The values that calibration has to observe, by name: where the operands of layers come from, and what attention
    reads; and `shortcut_sums`, if asked for."""
    group = groups(graph)
    wanted = {group[l.node.input(0)] for l in layers(graph) if not l.reason and l.node.input(0) in group}
    found = {v.name: v for v, g in group.items()
             if g in wanted and not v.is_const and v.dtype is DType.F32 and not passes_on(v.producer)}
    read = [v for n in graph.nodes if n.op == "attention" for v in n.inputs[:3] if v is not None]
    read += list(shortcut_sums(graph)) if shortcuts else []
    return found | {v.name: v for v in read if not v.is_const and v.dtype is DType.F32}


def shortcut_sums(graph: Graph) -> dict[Value, tuple[Layer, Layer]]:
    """The results of convolutions that are only added to those of another one behind them (the shortcuts of residual
    blocks that change the shape), with the two layers: as codes they take half of what fp16 takes in memory."""
    made = {l.node.output: (i, l) for i, l in enumerate(layers(graph)) if l.node.op == "conv" and not l.reason}
    uses, outside = graph.uses(), graph.read_outside()
    found = {}
    for n in graph.nodes:
        ends = [made.get(v) for v in n.inputs if v is not None] if n.op == "add" else []
        if len(ends) != 2 or ends[0] is None or ends[1] is None or ends[0] is ends[1]:
            continue
        (_, first), (_, last) = sorted((e for e in ends if e is not None), key=lambda e: e[0])
        v = first.node.output
        if all(len(uses[x.node.output]) == 1 and x.node.output not in outside for x in (first, last)):
            found[v] = first, last
    return found


# -- insertion -----------------------------------------------------------------------------------------------


def insert(graph: Graph, ranges: Mapping[str, Range], keep: Callable[[Layer], str] = lambda layer: "",
           activations: DType = DType.U8, codes: Mapping[str, np.ndarray] | None = None,
           attention: bool = False, shortcuts: bool = False) -> Inserted:
    """Quantize the graph's layers in place.

    ranges:      of the values that `taps` names.
    keep:        a reason for a layer that is to stay as it is, else "".
    activations: U8 (asymmetric) or I8 (symmetric), per tensor; F8E4M3FN (weights then, too).
    codes:       by layer, weights rounded by somebody else: i8 codes of `weight_codes`' scales.
    attention:   attention is quantized, too (its q, k and v, symmetric), where there is a kernel for it.
    shortcuts:   `shortcut_sums` whose range is known are stored as codes, too.
    """
    sums = shortcut_sums(graph) if shortcuts else {}
    group = groups(graph)
    members: dict[Value, list[Value]] = {}
    for v, g in group.items():
        members.setdefault(g, []).append(v)
    out = Inserted()
    chosen: dict[Value, list[Layer]] = {}  # by group
    limits: dict[Value, Range] = {}
    attentions: list[Node] = []
    for l in layers(graph, attention):
        if l.node.op == "attention":
            why = l.reason or keep(l) or operands_known(l.node, ranges)
            if why:
                out.kept[l.name] = why
            else:
                out.quantized.append(l.name)
                attentions.append(l.node)
            continue
        mine = group.get(l.node.input(0))
        coarse = COARSE if activations is DType.F8E4M3FN and l.kind == "depthwise convolution" else ""
        why = l.reason or keep(l) or coarse or ("its operand is constant" if mine is None else "")
        if not why and mine is not None and mine not in limits:
            known = [ranges[v.name] for v in members[mine] if v.name in ranges and not passes_on(v.producer)]
            known = [r for r in known if math.isfinite(r.low) and math.isfinite(r.high)]
            if known:
                limits[mine] = Range(min(r.low for r in known), max(r.high for r in known))
            else:
                why = "its operand was not calibrated"
        if why or mine is None:
            out.kept[l.name] = why
        else:
            out.quantized.append(l.name)
            chosen.setdefault(mine, []).append(l)
    uses = graph.uses()
    for shared, readers in chosen.items():
        scale, zero = qparams(limits[shared], activations, symmetric=activations is DType.I8)
        params = graph.const(np.float32(scale)), graph.const(np.asarray(zero, activations.np))
        theirs = {id(l.node) for l in readers}
        sources: Iterable[Value]
        if any(l.node.op == "conv" for l in readers):
            sources = [v for v in members[shared] if not passes_on(v.producer) and v.dtype is DType.F32]
            takes = lambda n, theirs=theirs: id(n) in theirs or n.op in READS_CODES
        else:
            sources = dict.fromkeys(l.node.input(0) for l in readers)
            takes = lambda n, theirs=theirs: id(n) in theirs
        for v in sources:
            who = [n for n in dict.fromkeys(uses.get(v, ())) if takes(n)]
            if who:
                origin = next((n.origin for n in who if id(n) in theirs), who[0].origin)
                q = graph.add("quantize", [v, *params], origin=origin)
                d = graph.add("dequantize", [q, *params], origin=origin)
                for n in who:
                    n.inputs = [d if x is v and (i == 0 or id(n) not in theirs) else x for i, x in enumerate(n.inputs)]
        for l in readers:
            _weights(graph, l, (codes or {}).get(l.name), DType.I8 if activations is DType.U8 else activations)
    for v, ends in sums.items():
        if v.name in ranges and all(l.name in out.quantized for l in ends):
            scale, zero = qparams(ranges[v.name], activations, symmetric=activations is DType.I8)
            params = graph.const(np.float32(scale)), graph.const(np.asarray(zero, activations.np))
            q = graph.add("quantize", [v, *params], origin=ends[0].node.origin)
            d = graph.add("dequantize", [q, *params], origin=ends[0].node.origin)
            for n in uses[v]:
                n.inputs = [d if x is v else x for x in n.inputs]
    for n in attentions:
        quantize_attention(graph, n, ranges)
    graph.sort()
    return out


def weight_codes(w: np.ndarray, axis: int, dtype: DType = DType.I8) -> tuple[np.ndarray, np.ndarray]:
    """(codes, scale) of weights, symmetric, one scale per index of an axis (kept as a dimension).

    dtype: I8 (codes in -127..127) or F8E4M3FN (-448..448).
    """
    others = tuple(i for i in range(w.ndim) if i != axis)
    largest = np.abs(w).max(axis=others, keepdims=True, initial=0.0).astype(np.float64)
    most = F8_MAX if dtype is DType.F8E4M3FN else 127
    scale = np.where(largest > 0, np.maximum(largest / most, 2.0**-126), 1.0).astype(np.float32)
    if dtype is DType.F8E4M3FN:
        return cast(w / scale, dtype), scale
    return np.clip(np.rint(w / scale), -127, 127).astype(np.int8), scale


def _weights(graph: Graph, layer: Layer, given: np.ndarray | None, dtype: DType) -> None:
    node = layer.node
    w = node.input(1).data
    assert w is not None
    codes, scale = weight_codes(w, 0 if node.op == "conv" else 1, dtype)
    q = graph.const(codes if given is None else given, dtype)
    d = graph.add("dequantize", [q, graph.const(scale), graph.const(np.zeros(scale.shape, dtype.np))],
                  origin=node.origin)
    node.inputs = [node.inputs[0], d, *node.inputs[2:]]
