"""Attention of dequantized operands becomes attention over codes where that was asked for."""

import numpy as np
import pytest

from passes.building import Building, feeds_of
from whet.ir.dtypes import DType
from whet.ir.graph import Graph, Node, Value
from whet.ir.interpreter import interpret
from whet.measure.accuracy import relative_l2
from whet.passes import fuse, integer, precision

I8, U8 = DType.I8, DType.U8


def pair(b: Building, x: Value, scale: float, zero: int = 0, kind: DType = I8) -> Value:
    s, z = b.const(np.float32(scale)), b.const(np.asarray(zero, kind.np))
    return b.dequantize(b.quantize(x, s, z), s, z)


def network(asked: bool = True, zero: int = 0, kind: DType = I8, mask: bool = False) -> Graph:
    b = Building("attention")
    q, k, v = (b.input(n, (1, 2, t, 16)) for n, t in (("q", 9), ("k", 13), ("v", 13)))
    more = [b.input("m", (9, 13))] if mask else []
    y = b.attention(pair(b, q, 0.03, zero, kind), pair(b, k, 0.02), pair(b, v, 0.025), *more, scale=0.25)
    assert y.producer is not None
    y.producer.compute = "int8" if asked else "f32"
    return b.done(y)


def attention(g: Graph) -> Node:
    node, = (n for n in g.nodes if n.op == "attention")
    return node


@pytest.mark.parametrize("mask", [False, True])
def test_it_reads_codes_and_has_their_scales(mask: bool) -> None:
    g = network(mask=mask)
    feeds = feeds_of(g)
    said = interpret(g.copy(), feeds)["y0"]
    integer.to_integers(g)
    node = attention(g)
    assert all(v.dtype is I8 for v in node.inputs[:3])
    assert node.output.dtype is DType.F32
    assert [round(node.attrs[f"{x}_scale"], 6) for x in "qkv"] == [0.03, 0.02, 0.025]
    assert relative_l2(interpret(g, feeds)["y0"], said) < 0.01


@pytest.mark.parametrize("case", [{"asked": False}, {"zero": 3}, {"kind": U8, "zero": 128}], ids=str)
def test_it_stays_real_unless_asked_for_and_symmetric(case: dict) -> None:
    g = network(**case)
    feeds = feeds_of(g)
    said = interpret(g.copy(), feeds)["y0"]
    integer.to_integers(g)
    assert all(v.dtype is DType.F32 for v in attention(g).inputs[:3])
    assert relative_l2(interpret(g, feeds)["y0"], said) < 1e-5


def test_its_region_is_of_codes_where_the_rest_is_bf16() -> None:
    g = network()
    integer.to_integers(g)
    g = precision.assign(fuse.form_regions(g), "bf16")
    region, = (n.attrs["region"] for n in g.nodes if n.attrs["region"].kind == "attention")
    assert region.compute == "int8"
    assert all(t.dtype is I8 for t in region.inputs)
