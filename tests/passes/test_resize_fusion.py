"""Image steps in front of a network: bytes are read by the resize itself, and rounding happens as it writes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from building import Building

from whet import passes
from whet.ir import interpret
from whet.ir.dtypes import DType
from whet.ir.graph import Graph
from whet.ir.verify import verify


def pixels(mode: str, antialias: bool = False) -> Graph:
    b = Building("pixels")
    wide = b.cast(b.input("x", (1, 20, 9, 3), DType.U8), to=DType.F32)
    y = b.resize(wide, shape=(1, 7, 9, 3), mode=mode, antialias=antialias)
    return b.done(b.mul(b.round(y), 0.5))


def result(g: Graph, x: np.ndarray) -> np.ndarray:
    (y,) = interpret(g, {"x": x}).values()
    return y


def regions(g: Graph) -> list[Any]:
    return [n.attrs["region"] for n in g.nodes if n.op == "region"]


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("compute", ["fp32", "bf16"])
def test_an_interpolation_of_bytes_is_one_region(antialias: bool, compute: str) -> None:
    x = np.random.default_rng(0).integers(0, 256, (1, 20, 9, 3), np.uint8)
    want = result(pixels("linear", antialias), x)
    g = passes.run(pixels("linear", antialias), compute, verify=True)
    (r,) = regions(g)
    assert r.kind == "resize"
    assert [t.dtype for t in r.inputs] == [DType.U8]
    assert [t.op for t in r.epilogue.terms if hasattr(t, "op")] == ["round", "mul"]
    verify(g)
    np.testing.assert_array_equal(result(g, x), want)


def test_nearest_moves_bytes_and_widens_them_behind() -> None:
    x = np.random.default_rng(0).integers(0, 256, (1, 20, 9, 3), np.uint8)
    want = result(pixels("nearest"), x)
    g = passes.run(pixels("nearest"), verify=True)
    first, second = regions(g)
    assert (first.kind, first.output.dtype, second.kind) == ("resize", DType.U8, "pointwise")
    np.testing.assert_array_equal(result(g, x), want)
