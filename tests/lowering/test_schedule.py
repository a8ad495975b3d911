"""Values are placed where their readers want them, so that views stay views."""

import numpy as np
import pytest

from whet.ir.dtypes import DType
from whet.ir.graph import Graph, Value
from whet.ir.symbolic import Dim, symbol
from whet.lowering.storage import schedule
from whet.passes.fuse import form_regions


def test_attention_heads_are_written_side_by_side_without_a_copy() -> None:
    n, s = symbol("n"), symbol("s")
    g = Graph()
    g.dims = {"n": (1, 1, 8), "s": (1, 16, 64)}
    g.inputs = [Value(name, DType.F32, (n, 4, s, 8)) for name in "qkv"]
    y = g.add("attention", g.inputs, {"scale": 1.0})
    y = g.add("reshape", [g.add("transpose", [y], {"perm": (0, 2, 1, 3)})], {"shape": (n, s, 32)})
    g.outputs = [g.add("relu", [y])]
    plan = schedule(form_regions(g), lambda region: "")
    assert plan.copies == 0
    attention = plan.launches[0].region
    assert attention is not None
    assert attention.output.strides == (s * 32, 8, 32, 1)


@pytest.mark.parametrize("n", [1, symbol("n")])
def test_patches_are_written_behind_the_class_token_through_a_reshape(n: Dim) -> None:
    g = Graph()
    g.dims = {"n": (1, 1, 8)}
    g.inputs = [Value("x", DType.F32, (n, 8, 8, 3)), Value("token", DType.F32, (n, 1, 6))]
    y = g.add("conv", [g.inputs[0], g.const(np.ones((6, 3, 4, 4), np.float32))],
              {"strides": (4, 4), "channels_last": True})
    y = g.add("concat", [g.inputs[1], g.add("reshape", [y], {"shape": (n, 4, 6)})], {"axis": 1})
    g.outputs = [g.add("relu", [y])]
    plan = schedule(form_regions(g), lambda region: "")
    conv = next(l for l in plan.launches if l.region is not None and l.region.kind == "conv")
    assert plan.copies == 1  # the token
    assert conv.outputs[0].offset == 6
    assert conv.outputs[0].strides[1:] == (12, 6, 1)


def test_a_reshaped_result_is_written_into_the_output() -> None:
    g = Graph()
    g.inputs = [Value("x", DType.F32, (3, 8))]
    y = g.add("relu", [g.inputs[0]])
    g.outputs = [g.add("reshape", [y], {"shape": (3, 2, 4)}), g.add("reshape", [y], {"shape": (24,)}), y]
    plan = schedule(form_regions(g), lambda region: "")
    assert [l.outputs[0].buffer.kind for l in plan.launches] == ["output"] * 3
    assert plan.copies == 2  # one result, three outputs
