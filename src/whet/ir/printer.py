"""Graphs as text that a person reads: one line per node, with types and shapes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from whet.ir.dtypes import DType
from whet.ir.expr import Expr
from whet.ir.graph import Graph, Node, Value
from whet.ir.ops import OPS
from whet.ir.region import Region
from whet.ir.symbolic import Shape, Sym

SMALL = 8  # constants of at most so many elements are printed in full


def format_shape(shape: Shape) -> str:
    """`batchx3x224x224`; sums in parentheses; `scalar` for rank 0."""
    return "x".join(f"({d})" if isinstance(d, Sym) and len(d.terms) > 1 else str(d) for d in shape) or "scalar"


def _type(v: Value) -> str:
    return f"{v.dtype.value}[{format_shape(v.shape)}]"


def _operand(v: Value | None) -> str:
    if v is None:
        return "-"
    if v.data is None:
        return f"%{v.name}"
    if v.data.size == 1 and v.dtype is not DType.STRING:
        return f"{v.data.reshape(()).item():g}" if v.dtype.is_float else str(v.data.reshape(()).item())
    if v.data.size <= SMALL and v.rank == 1:
        return "[" + " ".join(f"{x:g}" if v.dtype.is_float else str(x) for x in v.data.tolist()) + "]"
    return f"${v.name}"


def format_attr(value: Any) -> str:
    """An attribute's value, bytes abbreviated."""
    if isinstance(value, DType):
        return value.value
    if isinstance(value, bytes):
        return f"<{len(value)} bytes>"
    if isinstance(value, (tuple, list)):
        return "[" + " ".join(map(format_attr, value)) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _attrs(attrs: Mapping[str, Any], defaults: Mapping[str, Any]) -> str:
    kept = [f"{k}={format_attr(v)}" for k, v in attrs.items()
            if not isinstance(v, Graph) and (k not in defaults or defaults[k] != v)]
    return f"  {{{', '.join(kept)}}}" if kept else ""


def _region(r: Region, operands: list[str]) -> str:
    """`conv(%x, $w, relu(add(acc, %b)) after)`: the anchor's call, then what surrounds it."""
    operands = [f"{o}[{operands[r.picks[k]]}]" if k in r.picks else o for k, o in enumerate(operands)]

    def named(e: Expr) -> str:
        return re.sub(r"\bin(\d+)\b", lambda m: operands[int(m[1])], str(e))

    args = [named(r.prologue[i]) if i in r.prologue else operands[i] for i in range(r.n_anchor)]
    call = f"region {r.kind}({', '.join(args)})" if r.kind != "pointwise" else "region pointwise"
    if r.epilogue is not None and not (r.epilogue.is_identity and r.kind != "pointwise"):
        call += f" -> {named(r.epilogue)}"
    defaults = OPS[r.kind].attrs if r.kind in OPS else {}
    return call + (f" in {r.compute}" if r.compute != "f32" else "") + _attrs(r.attrs, defaults)


def format_node(n: Node) -> str:
    """`%y: f32[bx8] = matmul(%x, $w)  {attrs that differ from their defaults}`."""
    left = ", ".join(f"%{v.name}: {_type(v)}" for v in n.outputs)
    region = n.attrs.get("region")
    if isinstance(region, Region):
        return f"{left} = {_region(region, [_operand(v) for v in n.inputs])}"
    defaults = OPS[n.op].attrs if n.op in OPS else {}
    return f"{left} = {n.op}({', '.join(map(_operand, n.inputs))})" + _attrs(n.attrs, defaults)


def _constant(v: Value) -> str:
    d = v.data
    assert d is not None
    text = f"${v.name}: {_type(v)}, {d.nbytes:,} bytes"
    if v.dtype is DType.STRING or not d.size or v.dtype is DType.BOOL:
        return text
    sample = d.reshape(-1)[:4096].astype(np.float64)  # a glance, not a statistic: big constants stay on disk
    return f"{text}, first values {', '.join(f'{x:.4g}' for x in sample[:4])}"


def to_text(graph: Graph, *, constants: bool = False, origins: bool = False) -> str:
    """The whole graph: profile of its symbolic dimensions, inputs, nodes in order, outputs.

    constants: list the large constants too, with size and first values. origins: after each node, the
    ONNX node that it came from.
    """
    lines = [f"graph {graph.name}"]
    lines += [f"  dim {name}: {low} to {high}, tuned for {opt}" for name, (low, opt, high) in graph.dims.items()]
    lines += [f"  input %{v.name}: {_type(v)}" for v in graph.inputs]
    large = [v for v in graph.values() if v.data is not None and _operand(v).startswith("$")]
    total = sum(v.data.nbytes for v in large if v.data is not None)
    lines.append(f"  {len(graph.nodes)} nodes, {len(large)} large constants of {total:,} bytes")
    if constants:
        lines += [f"  {_constant(v)}" for v in large]
    for n in graph.nodes:
        lines.append(f"  {format_node(n)}" + (f"  # {n.origin}" if origins and n.origin else ""))
        for key, body in n.attrs.items():
            if isinstance(body, Graph):
                text = to_text(body, constants=constants, origins=origins)
                lines += [f"    {key}:", *(f"      {line}" for line in text.splitlines())]
    names = graph.output_names or [v.name for v in graph.outputs]
    lines += [f"  output {name} = {_operand(v)}: {_type(v)}" for name, v in zip(names, graph.outputs)]
    return "\n".join(lines) + "\n"
