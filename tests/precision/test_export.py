"""A graph written as ONNX computes what it did, in ONNX Runtime."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from whet import passes
from whet.errors import UnsupportedError
from whet.frontends import load_model
from whet.ir.dtypes import DType
from whet.ir.graph import Graph, Value
from whet.ir.interpreter import interpret
from whet.ir.symbolic import symbol
from whet.precision.export import OPSET, to_onnx
from whet.precision.export.pairs import pair_movement

sys.path.append(str(Path(__file__).parents[1] / "passes"))
from random_graphs import RandomGraph

from benchmarks.light_models import light_input, refill

ort = pytest.importorskip("onnxruntime")
Feeds = dict[str, np.ndarray]
RNG = np.random.default_rng(0)


def written(g: Graph) -> onnx.ModelProto:
    model = to_onnx(g)
    onnx.checker.check_model(model, full_check=True)
    return model


def run(model: onnx.ModelProto, feeds: Feeds) -> Feeds:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    results = session.run(None, {v.name: feeds[v.name] for v in session.get_inputs()})
    return dict(zip([o.name for o in session.get_outputs()], results, strict=True))


def same(got: Feeds, want: Feeds, tolerance: float = 3e-4) -> None:
    assert list(got) == list(want)
    for name, y in want.items():
        assert got[name].dtype == y.dtype
        assert got[name].shape == y.shape
        if y.dtype.kind != "f":
            np.testing.assert_array_equal(got[name], y)
            continue
        finite = np.isfinite(y)
        np.testing.assert_array_equal(np.isfinite(got[name]), finite)
        scale = np.abs(y[finite]).max(initial=1.0)
        np.testing.assert_allclose(np.where(finite, got[name], 0), np.where(finite, y, 0), atol=tolerance * scale)


def graph_of(*inputs: tuple[str, tuple[Any, ...]], kinds: dict[str, DType] | None = None, **dims: Any) -> Graph:
    g = Graph("g")
    g.inputs = [Value(name, (kinds or {}).get(name, DType.F32), shape) for name, shape in inputs]
    g.dims = dict.fromkeys(dims, (1, 2, 8))
    return g


def feeds_of(g: Graph, **sizes: int) -> Feeds:
    """Random inputs of these sizes."""
    out = {}
    for v in g.inputs:
        shape = [d if isinstance(d, int) else sizes[str(d)] for d in v.shape]
        out[v.name] = (RNG.normal(size=shape) if v.dtype.is_float else RNG.integers(0, 2, shape)).astype(v.dtype.np)
    return out


def round_trip(g: Graph, feeds: Feeds | None = None, **sizes: int) -> onnx.ModelProto:
    """Checks the exported graph against the interpreter; the model."""
    g.output_names = g.output_names or [f"y{i}" for i in range(len(g.outputs))]
    feeds = feeds or feeds_of(g, **sizes)
    model = written(g)
    same(run(model, feeds), interpret(g, feeds))
    return model


# -- whole graphs -----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
def test_random_graphs_as_built_and_as_prepared(seed: int) -> None:
    r = RandomGraph(7000 + seed, steps=18)
    want = interpret(r.g, r.feeds)
    same(run(written(r.g), r.feeds), want)
    same(run(written(passes.prepare(r.g)), r.feeds), want)


def test_a_real_network_keeps_its_outputs_and_names() -> None:
    model, feeds = refill("light_squeezenet"), light_input("light_squeezenet", seed=1)
    exported = written(passes.prepare(load_model(model)))
    same(run(exported, feeds), run(model, feeds), 1e-5)
    assert {n.name.partition(" ")[2] for n in exported.graph.node if n.op_type == "Conv"} \
        <= {n.name or n.output[0] for n in model.graph.node}
    assert exported.opset_import[0].version == OPSET


def test_dimensions_keep_their_names_and_any_size_runs() -> None:
    g = graph_of(("x", (symbol("batch"), symbol("seq"), 12)), batch=1, seq=1)
    x = g.inputs[0]
    heads = g.add("transpose", [g.add("reshape", [x], {"shape": (*x.shape[:2], 3, 4)})], {"perm": (0, 2, 1, 3)})
    g.outputs = [g.add("reshape", [heads], {"shape": (symbol("batch") * 3, symbol("seq") * 4)}),
                 g.add("expand", [g.const(np.float32(2))], {"shape": (symbol("seq"), symbol("batch"))}),
                 g.add("dims", [], {"values": (symbol("seq") * x.shape[0] // 2, 7, symbol("seq") % 3), "shape": (3,)}),
                 g.add("iota", [], {"start": symbol("seq"), "step": -2, "size": symbol("batch") + 1})]
    for sizes in ({"batch": 2, "seq": 5}, {"batch": 1, "seq": 8}):
        model = round_trip(g, **sizes)
    shape = model.graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_param or d.dim_value for d in shape] == ["batch", "seq", 12]


def test_an_output_that_is_no_result_of_its_own_gets_its_name() -> None:
    g = graph_of(("x", (2, 3)))
    y = g.add("relu", [g.inputs[0]])
    g.outputs, g.output_names = [y, y, g.const(np.float32([1, 2]))], ["a", "b", "c"]
    assert [o.name for o in round_trip(g).graph.output] == ["a", "b", "c"]


# -- operators --------------------------------------------------------------------------------


ATTENTION: dict[str, tuple[tuple[int, ...], dict[str, Any], str]] = {
    "plain": ((3, 5, 4), {}, ""),
    "grouped heads": ((1, 5, 4), {"softcap": 2.0}, ""),
    "causal": ((3, 5, 4), {"causal": True, "offset": 2}, ""),
    "window": ((3, 5, 4), {"causal": True, "window": 2}, ""),
    "boolean mask": ((3, 5, 4), {"masked_zero": True}, "bool"),
    "added mask": ((3, 5, 4), {}, "f32"),
    "lengths": ((3, 5, 4), {"causal": True}, "lengths"),
}


@pytest.mark.parametrize("case", ATTENTION)
def test_attention(case: str) -> None:
    (keys, columns, width), attrs, extra = ATTENTION[case]
    n = symbol("n")
    g = graph_of(("q", (n, 3, 3, width)), ("k", (n, keys, columns, width)), ("v", (n, keys, columns, 6)), n=1)
    ins: list[Value | None] = [*g.inputs]
    if extra == "lengths":
        ins += [None, g.const(np.array([4], np.int64))]
    elif extra == "bool":
        mask = RNG.random((3, columns)) < 0.5
        mask[1] = False
        ins.append(g.const(mask))
    elif extra:
        ins.append(g.const(RNG.normal(size=(3, columns)).astype(np.float32)))
    g.outputs = [g.add("attention", ins, {"scale": 0.5, **attrs})]
    round_trip(g, n=2)


def test_windows_beyond_what_onnx_pads() -> None:
    g = graph_of(("x", (2, 4, 6, 7)))
    (x,) = g.inputs
    w = g.const(RNG.normal(size=(4, 2, 3, 3)).astype(np.float32))
    pool = {"kernel": (3, 3), "strides": (1, 2), "pads": (2, 1, 1, 2)}
    g.outputs = [g.add("conv", [x, w], {"pads": (-1, 2, 1, 0), "group": 2}),
                 g.add("conv_transpose", [x, w], {"strides": (2, 1), "pads": (1, 0, 0, 1), "output_padding": (1, 0)}),
                 g.add("pool", [x], {"kind": "max", **pool}),
                 g.add("pool", [x], {"kind": "lp", **pool, "pads": (3, 1, 0, 4)}),
                 g.add("pool", [x], {"kind": "average", **pool, "count_include_pad": True}),
                 g.add("pool", [x], {"kind": "average", "kernel": (3, 3), "pads": (1, 1, 2, 1)})]
    round_trip(g)


def test_normalizations_and_reductions() -> None:
    g = graph_of(("x", (symbol("n"), 6, 5)), n=1)
    (x,) = g.inputs
    five, six = (g.const(RNG.normal(size=k).astype(np.float32)) for k in (5, 6))
    one = g.const(np.float32([2]))
    g.outputs = [g.add("layernorm", [x, five, five]), g.add("layernorm", [x, one], {"axis": 1}),
                 g.add("rmsnorm", [x, five], {"epsilon": 1e-3}), g.add("groupnorm", [x, six, six], {"groups": 3}),
                 g.add("groupnorm", [x, six, six], {"groups": 6}), g.add("softmax", [x], {"axis": 1, "log": True}),
                 g.add("reduce", [g.add("gt", [x, five])], {"kind": "max", "axes": (2,), "keepdims": False}),
                 g.add("reduce", [x], {"kind": "prod", "axes": (0, 2)}),
                 g.add("arg", [x], {"kind": "min", "axis": 2, "keepdims": False, "select_last": True})]
    round_trip(g, n=3)


def test_movement() -> None:
    g = graph_of(("x", (symbol("n"), 6, 5)), n=1)
    (x,) = g.inputs
    n = symbol("n")
    i = g.const(np.array([[1, -1], [0, 3]], np.int32))
    u = g.const(RNG.normal(size=(2, 2, 5)).astype(np.float32))
    ones = g.const(np.ones((2, 5), np.float32))
    row = g.add("reduce", [x], {"kind": "sum", "axes": (0,), "keepdims": False})  # [6, 5]
    g.outputs = [g.add("slice", [x], {"starts": (0, 5, 1), "sizes": (n, 3, 2), "steps": (1, -2, 3)}),
                 g.add("slice", [x], {"starts": (0, 5, 0), "sizes": (n, 6, 5), "steps": (1, -1, 1)}),
                 g.add("pad", [x], {"pads": (0, 1, 2, n, 0, 1), "mode": "constant", "value": 0.5}),
                 g.add("pad", [x], {"pads": (0, 1, 2, 0, 0, 1), "mode": "reflect"}),
                 g.add("gather", [x, i], {"axis": 1}), g.add("gather_nd", [row, i]),
                 g.add("gather_elements", [row, i], {"axis": 0}),
                 g.add("scatter_nd", [x, g.const(np.array([[0, 1], [0, 3]], np.int32)), ones], {"reduction": "add"}),
                 g.add("scatter_elements", [row, i, g.const(np.ones((2, 2), np.float32))], {"axis": 0}),
                 g.add("cumsum", [x], {"axis": 2, "exclusive": True, "reverse": True}),
                 *g.add_node("topk", [x], {"k": 3, "axis": 1}).outputs,
                 g.add("resize", [x], {"shape": (n, 6, 10), "scales": (None, None, 2.0), "mode": "linear"}),
                 g.add("resize", [x], {"shape": (n, 4, 5), "mode": "nearest", "coordinate": "asymmetric"}),
                 g.add("concat", [u, g.add("neg", [u])], {"axis": 1})]
    round_trip(g, n=2)


def test_arithmetic_that_onnx_has_in_other_words() -> None:
    g = graph_of(("x", (3, 4)), ("y", (3, 4)), ("u", (3, 4)), kinds={"u": DType.U8})
    x, y, u = g.inputs
    g.outputs = [g.add("silu", [x]), g.add("gelu", [x], {"approximate": "tanh"}), g.add("mod", [x, y]),
                 g.add("mod", [x, y], {"fmod": True}), g.add("ne", [x, y]), g.add("relu", [u]),
                 g.add("isinf", [g.add("div", [x, g.const(np.float32(0))])], {"negative": False}),
                 g.add("shl", [u, g.const(np.uint8(3))]), g.add("cast", [x], {"to": DType.I32})]
    round_trip(g)


@pytest.mark.parametrize("kind", [DType.U8, DType.I8])
def test_quantization_per_tensor_and_per_axis(kind: DType) -> None:
    g = graph_of(("x", (2, 3, 4, 4)))
    (x,) = g.inputs
    s, z = g.const(np.float32(0.03)), g.const(np.asarray(7, kind.np))
    per = g.const(np.float32([0.1, 0.2, 0.05]).reshape(3, 1, 1)), g.const(np.array([1, 2, 3], kind.np).reshape(3, 1, 1))
    q, p = g.add("quantize", [x, s, z]), g.add("quantize", [x, *per])
    bias = g.add("dequantize", [g.const(np.array([5, -9], np.int32)), s, g.const(np.int32(0))])
    g.outputs = [q, g.add("dequantize", [q, s, z]), p, g.add("dequantize", [p, *per]), bias]
    ops = [n.op_type for n in round_trip(g).graph.node]
    assert ops.count("QuantizeLinear") == 2
    assert ops.count("DequantizeLinear") == 3


@pytest.mark.parametrize("kind,group", [(DType.I8, 64), (DType.U4, 16), (DType.I4, 32)])
def test_weights_in_blocks(kind: DType, group: int) -> None:
    g = graph_of(("x", (3, 64)))
    low, high = (0, 16) if kind is DType.U4 else (-8, 8)
    q = g.const(RNG.integers(low, high, (64, 5)).astype(kind.np), kind)
    scale = g.const(RNG.uniform(0.1, 1, (64 // group, 5)).astype(np.float32))
    zero = [g.const(np.full((64 // group, 5), 7).astype(kind.np), kind)] if kind is DType.U4 else []
    g.outputs = [g.add("matmul_grouped", [g.inputs[0], q, scale, *zero], {"group": group})]
    g.output_names = ["y"]
    feeds = feeds_of(g)
    same(run(written(g), feeds), interpret(g, feeds), 0.03)  # its kernel rounds activations to 8 bits


def test_pairs_stand_behind_what_moves_codes() -> None:
    g = graph_of(("x", (2, 4, 6, 6)))
    s, z = g.const(np.float32(0.03)), g.const(np.uint8(128))
    d = g.add("dequantize", [g.add("quantize", [g.inputs[0], s, z]), s, z])
    p = g.add("pool", [d], {"kind": "max", "kernel": (2, 2)})
    g.outputs = [g.add("relu", [g.add("concat", [p, p], {"axis": 1})])]
    feeds, n = feeds_of(g), len(g.nodes)
    g.output_names = ["y"]
    want = interpret(g, feeds)
    pair_movement(g)
    assert len(g.nodes) == n + 4
    same(interpret(g, feeds), want, 0)


# -- control flow, the host, and what cannot be written ---------------------------------------


def test_control_flow_and_host_steps() -> None:
    """A loop that adds to a state, and NonZero, whose number of results a later shape uses."""
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Add", ["state", "x"], ["next"]), helper.make_node("Identity", ["go"], ["on"])], "body",
        [info("i", TensorProto.INT64, []), info("go", TensorProto.BOOL, []), info("state", TensorProto.FLOAT, [4])],
        [info("on", TensorProto.BOOL, []), info("next", TensorProto.FLOAT, [4])])
    nodes = [helper.make_node("NonZero", ["x"], ["places"]), helper.make_node("Shape", ["places"], ["many"]),
             helper.make_node("Gather", ["many", "one"], ["count"]),
             helper.make_node("Loop", ["count", "", "x"], ["total"], body=body),
             helper.make_node("Expand", ["half", "many"], ["wide"])]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])],
        [helper.make_tensor_value_info("total", TensorProto.FLOAT, [4]),
         helper.make_tensor_value_info("wide", TensorProto.FLOAT, None)],
        [helper.make_tensor("one", TensorProto.INT64, [], [1]),
         helper.make_tensor("half", TensorProto.FLOAT, [], [0.5])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    exported = written(passes.prepare(load_model(model)))
    for x in ([1, 0, 2, 3], [0, 0, 0, 4]):
        feeds = {"x": np.array(x, np.float32)}
        same(run(exported, feeds), run(model, feeds))


def test_recurrent_layers() -> None:
    for op, gates in (("LSTM", 4), ("GRU", 3)):
        rows = gates * 5
        w, r, b = (RNG.normal(size=s).astype(np.float32) for s in ((2, rows, 3), (2, rows, 5), (2, 2 * rows)))
        graph = helper.make_graph(
            [helper.make_node(op, ["x", "w", "r", "b"], ["y", "h"], hidden_size=5, direction="bidirectional")], "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["t", 2, 3])],
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("y", "h")],
            [onnx.numpy_helper.from_array(a, n) for a, n in ((w, "w"), (r, "r"), (b, "b"))])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
        feeds = {"x": RNG.normal(size=(6, 2, 3)).astype(np.float32)}
        same(run(written(passes.prepare(load_model(model))), feeds), run(model, feeds))


def test_what_onnx_cannot_say_is_named() -> None:
    g = graph_of(("x", (2, 3)))
    g.outputs = [g.add("cumprod", [g.inputs[0]], {"axis": 1}, origin="CumProd product")]
    with pytest.raises(UnsupportedError) as e:
        written(g)
    assert e.value.where == "node CumProd product"
    g = graph_of(("x", (2, 3)))
    g.outputs, g.output_names = [g.inputs[0]], ["x"]
    with pytest.raises(UnsupportedError, match="an output too"):
        written(g)
