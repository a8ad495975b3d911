"""Models that bring 16-bit floats: what regions say of them where products of 16 bits are native.

A region around an anchor of f16 or bf16 computes in fp32 and rounds once, as it writes. Where a product's operands
all lie in one of these types, it is taken in that precision, which loses nothing: their products are exact in fp32.
"""

from __future__ import annotations

from dataclasses import replace

from whet.ir.dtypes import DType
from whet.ir.expr import ANCHOR, Apply, Expr, Imm, Leaf, Term, identity
from whet.ir.graph import Graph
from whet.ir.region import Region
from whet.ir.region_eval import PRODUCTS
from whet.passes.fuse import EPILOGUE

HALVES = {DType.F16: "f16", DType.BF16: "bf16"}


def widen(graph: Graph) -> None:
    """Rewrite the regions of a graph, in place."""
    for n in graph.nodes:
        region: Region | None = n.attrs.get("region")
        if region is None:
            continue
        operands = [region.prologue[i].dtype if i in region.prologue else t.dtype
                    for i, t in enumerate(region.inputs[:PRODUCTS.get(region.kind, 0)])]
        region = in_fp32(region)
        one = operands[0] if operands and len(set(operands)) == 1 else None
        if (one in HALVES and region.compute == "f32" and region.kind != "matmul_grouped"
                and region.anchor.dtype is DType.F32):
            region = replace(region, compute=HALVES[one])
            n.compute = region.compute
        n.attrs["region"] = region


def in_fp32(region: Region) -> Region:
    """The region with anchor and expressions in fp32 where they were in f16 or bf16; its tensors stay."""
    if region.kind == "pointwise":
        assert region.epilogue is not None
        return replace(region, epilogue=_wide(region.epilogue, region.output.dtype, set()))
    if region.kind not in EPILOGUE or region.extra_outputs:
        return region
    narrow = region.anchor.dtype in HALVES
    anchor = replace(region.anchor, dtype=DType.F32) if narrow else region.anchor
    epilogue = region.epilogue
    if narrow and epilogue is None:
        epilogue = identity(ANCHOR, region.output.dtype)
    if epilogue is not None:
        epilogue = _wide(epilogue, region.output.dtype, {ANCHOR} if narrow else set())
    prologue = {k: _wide(e, DType.F32 if narrow or e.dtype is DType.F32 else e.dtype, set())
                for k, e in region.prologue.items()}
    return replace(region, anchor=anchor, epilogue=epilogue, prologue=prologue)


def _wide(e: Expr, out: DType, fp32: set[int]) -> Expr:
    """The expression computed in fp32 wherever it was in 16 bits, its result of type `out`. fp32: the leaves that are
    of this type now."""
    if not any(t.dtype in HALVES for t in e.terms):
        return e
    terms: list[Term] = []
    where: list[int] = []

    def put(t: Term) -> None:
        terms.append(t)
        where.append(len(terms) - 1)

    for t in e.terms:
        if t.dtype not in HALVES:
            put(Apply(t.op, tuple(where[a] for a in t.args), t.dtype, t.attrs) if isinstance(t, Apply) else t)
        elif isinstance(t, Leaf):
            if t.source in fp32:
                put(Leaf(t.source, DType.F32))
            else:
                terms.append(t)
                put(Apply("cast", (len(terms) - 1,), DType.F32, (("to", DType.F32),)))
        elif isinstance(t, Imm):
            put(Imm(t.value, DType.F32))
        elif t.op == "cast":
            source = where[t.args[0]]
            if terms[source].dtype is DType.F32:
                where.append(source)  # what was rounded in between is not
            else:
                put(Apply("cast", (source,), DType.F32, (("to", DType.F32),)))
        else:
            put(Apply(t.op, tuple(where[a] for a in t.args), DType.F32, t.attrs))
    last = where[-1]
    if terms[last].dtype is not out:
        terms.append(Apply("cast", (last,), out, (("to", out),)))
    elif last != len(terms) - 1:
        terms.append(terms[last])
    return Expr(tuple(terms))
