"""Targets that ask are told which tensors begin at a multiple of 16 bytes; what they refuse is copied."""

from __future__ import annotations

import numpy as np
import pytest

from whet.ir.dtypes import DType
from whet.ir.graph import Graph, Value
from whet.ir.region import Region
from whet.lowering.fallback import to_host
from whet.lowering.storage import schedule
from whet.passes.fuse import form_regions


def sliced(start: int, dtype: DType = DType.F16) -> Graph:
    """Rows from `start` on of x [9, 5], times a matrix."""
    g = Graph("sliced")
    x = Value("x", dtype, (9, 5))
    g.inputs = [x]
    rows = g.add("slice", [x], {"starts": (start, 0), "sizes": (1, 5), "steps": (1, 1)})
    w = Value("w", dtype, (5, 4), data=np.ones((5, 4), dtype.np))
    g.outputs = [g.add("matmul", [rows, w])]
    return form_regions(g)


def of_product(g: Graph, accepts=lambda region: "") -> tuple[Region, int]:  # type: ignore[no-untyped-def]
    plan = schedule(g, accepts, aligned=True)
    return next(l.region for l in plan.launches if l.region.kind == "matmul"), plan.copies


@pytest.mark.parametrize(("start", "aligned"), [(0, True), (1, False), (4, False), (8, True)])
def test_a_slice_is_aligned_where_its_offset_is(start: int, aligned: bool) -> None:
    region, _ = of_product(sliced(start))
    assert region.inputs[0].aligned == aligned
    assert region.inputs[1].aligned
    assert region.output.aligned


def test_others_are_not_asked() -> None:
    plan = schedule(sliced(1), lambda region: "")
    assert all(t.aligned for l in plan.launches for t in l.region.inputs)


def test_a_dense_operand_that_is_refused_for_its_place_is_copied() -> None:
    def picky(region: Region) -> str:
        return "" if region.kind != "matmul" or all(t.aligned for t in region.inputs) else "not aligned"

    region, copies = of_product(sliced(1), picky)
    assert copies == 1
    assert region.inputs[0].aligned


def test_what_is_refused_anyway_is_for_the_host() -> None:
    g = sliced(0)
    to_host(g, lambda region: f"no tactic for {region.kind}")
    (node,) = [n for n in g.nodes if n.op == "fallback"]
    assert node.attrs["reason"] == "no tactic for matmul"
    assert node.attrs["region"].kind == "matmul"
