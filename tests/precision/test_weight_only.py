"""Weights of 8 and 4 bits: what the codes stand for, what the report says, and a small decoder whose plan shrinks."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import whet
from whet import passes
from whet.builder import Builder
from whet.errors import InputError
from whet.frontends import load_model
from whet.ir import interpret
from whet.ir.graph import Graph
from whet.ir.ops_grouped import widen_groups
from whet.ir.verify import verify
from whet.precision.weight_only import Layer, compress, quantize_groups, relative_error
from whet.targets.cpu.target import CpuTarget
from whet.tuning.cache import TimingCache

F32 = np.float32
VOCABULARY, WIDTH, HEADS, LENGTH = 600, 192, 3, 7


@cache
def decoder() -> onnx.ModelProto:
    """Two layers of a GPT: embeddings, causal attention, an MLP with GELU, logits; random weights."""
    rng = np.random.default_rng(0)
    weights: dict[str, np.ndarray] = {}
    nodes: list[onnx.NodeProto] = []

    def w(name: str, *shape: int) -> str:
        weights[name] = (rng.standard_normal(shape) / np.sqrt(shape[0])).astype(F32)
        return name

    def op(kind: str, *inputs: str, out: str = "", **attrs: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [out or f"v{len(nodes)}"], f"{kind}{len(nodes)}", **attrs))
        return nodes[-1].output[0]

    def norm(x: str, name: str) -> str:
        weights[f"{name}.g"], weights[f"{name}.b"] = np.ones(WIDTH, F32), np.zeros(WIDTH, F32)
        return op("LayerNormalization", x, f"{name}.g", f"{name}.b")

    def linear(x: str, name: str, m: int, n: int) -> str:
        weights[f"{name}.bias"] = rng.standard_normal(n).astype(F32) * F32(0.1)
        return op("Add", op("MatMul", x, w(name, m, n)), f"{name}.bias")

    def heads(x: str) -> str:
        return op("Transpose", op("Reshape", x, "heads"), perm=[0, 2, 1, 3])

    weights["heads"] = np.array([1, LENGTH, HEADS, WIDTH // HEADS])
    weights["joined"] = np.array([1, LENGTH, WIDTH])
    weights["thirds"], weights["scale"] = np.array([WIDTH] * 3), np.array(np.sqrt(WIDTH // HEADS), F32)
    weights["mask"] = np.triu(np.full((LENGTH, LENGTH), -1e9, F32), 1)
    x = op("Gather", w("table", VOCABULARY, WIDTH), "ids")
    for i in range(2):
        joint = linear(norm(x, f"ln{i}"), f"qkv{i}", WIDTH, 3 * WIDTH)
        nodes.append(helper.make_node("Split", [joint, "thirds"], [f"q{i}", f"k{i}", f"v_{i}"], axis=-1))
        q, k, v = (heads(f"{n}{i}") for n in ("q", "k", "v_"))
        scores = op("Div", op("MatMul", q, op("Transpose", k, perm=[0, 1, 3, 2])), "scale")
        mixed = op("MatMul", op("Softmax", op("Add", scores, "mask"), axis=-1), v)
        mixed = op("Reshape", op("Transpose", mixed, perm=[0, 2, 1, 3]), "joined")
        x = op("Add", x, linear(mixed, f"proj{i}", WIDTH, WIDTH))
        hidden = op("Gelu", linear(norm(x, f"ln_{i}"), f"up{i}", WIDTH, 4 * WIDTH))
        x = op("Add", x, linear(hidden, f"down{i}", 4 * WIDTH, WIDTH))
    op("MatMul", norm(x, "last"), w("logits", WIDTH, VOCABULARY), out="y")
    graph = helper.make_graph(nodes, "decoder", [helper.make_tensor_value_info("ids", TensorProto.INT64, [1, LENGTH])],
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, LENGTH, VOCABULARY])],
                              [numpy_helper.from_array(np.asarray(a), n) for n, a in weights.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def prepared() -> Graph:
    return passes.prepare(load_model(decoder()))


def plan_of(graph: Graph) -> whet.Plan:
    return Builder(CpuTarget.of_host(1), TimingCache(), 0, "fp32", {"fp32"}).plan([graph])


def weights_of(plan: whet.Plan) -> int:
    return plan.summary()["memory"]["weights"]


IDS = {"ids": np.random.default_rng(1).integers(0, VOCABULARY, (1, LENGTH))}


def test_a_decoder_of_four_bits_takes_a_sixth_and_runs_as_the_graph_says() -> None:
    whole = plan_of(prepared())
    want = whet.load(whole)(IDS)["y"]
    for bits, most, lost in ((4, 0.17, 0.3), (8, 0.29, 0.03)):
        graph = prepared()
        layers = compress(graph, bits=bits)
        verify(graph, "compress")
        meant = interpret(graph, IDS)["y"]
        plan = plan_of(graph)
        assert weights_of(plan) <= most * weights_of(whole)
        assert sum(r.after for r in layers) <= most * sum(r.before for r in layers)
        got = whet.load(plan)(IDS)["y"]
        np.testing.assert_allclose(got, meant, rtol=1e-3, atol=1e-3)
        assert relative_error(want, got) < lost


def test_the_report_has_a_row_for_every_layer() -> None:
    graph = prepared()
    layers = compress(graph, bits=4, group=64)
    assert [r.kind for r in layers].count("gather") == 1
    assert {r.shape for r in layers if r.kind == "matmul"} == {
        (WIDTH, 3 * WIDTH), (WIDTH, WIDTH), (WIDTH, 4 * WIDTH), (4 * WIDTH, WIDTH), (WIDTH, VOCABULARY)}
    for r in layers:
        assert not r.reason
        assert r.before == 4 * r.shape[0] * r.shape[1]
        assert 0.001 < r.error < (0.12 if r.bits == 4 else 0.02)
        assert (r.bits, r.group) == ((4, 64) if r.kind == "matmul" else (8, WIDTH))
    assert sum(n.op == "matmul_grouped" for n in graph.nodes) == 9


def test_layers_that_stay_are_listed_with_the_reason() -> None:
    graph = prepared()
    for n in graph.nodes:
        if n.op == "matmul" and n.input(1).is_const and n.output.shape[-1] == VOCABULARY:
            w = n.input(1)
            assert w.data is not None
            w.data = w.data.copy()
            w.data[3, 4] = np.inf
    layers = compress(graph, keep=lambda node: node.output.shape[-1] == 4 * WIDTH, embeddings=False)
    left = {r.shape: r.reason for r in layers if r.reason}
    assert left.keys() == {(WIDTH, 4 * WIDTH), (WIDTH, VOCABULARY)}
    assert "asked" in left[WIDTH, 4 * WIDTH]
    assert "finite" in left[WIDTH, VOCABULARY]
    assert not any(r.kind == "gather" for r in layers)
    assert all(isinstance(r, Layer) and r.after < r.before for r in layers if not r.reason)


def test_small_matrices_are_no_layers() -> None:
    graph = prepared()
    assert compress(graph, least=1 << 30) == []
    assert not any(n.op == "matmul_grouped" for n in graph.nodes)


@pytest.mark.parametrize("wrong", [{"bits": 3}, {"bits": 16}, {"group": -1}])
def test_other_bits_are_an_error(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        compress(prepared(), **wrong)


@pytest.mark.parametrize("shape", [(0, 4), (1, 1), (7, 5), (130, 33), (64, 0)])
@pytest.mark.parametrize("group", [1, 16, 64, 1000])
def test_eight_bits_are_off_by_half_a_step_at_most(shape: tuple[int, int], group: int) -> None:
    w = np.random.default_rng(0).standard_normal(shape).astype(F32)
    q, scale, zero = quantize_groups(w, 8, min(group, max(1, shape[0])))
    assert zero is None
    assert q.dtype == np.int8
    rows = np.arange(shape[0]) // min(group, max(1, shape[0]))
    assert (np.abs(widen_groups(q, scale, None, min(group, max(1, shape[0]))) - w) <= scale[rows] * 0.5001).all()


def test_the_range_is_searched_where_an_outlier_would_stretch_it() -> None:
    rng = np.random.default_rng(0)
    w = rng.standard_normal((256, 50)).astype(F32)
    w[::64] *= 3
    q, scale, zero = quantize_groups(w, 4, 64)
    low, high = w.reshape(4, 64, 50).min(1), w.reshape(4, 64, 50).max(1)
    plain = ((high - low) / 15).astype(F32)
    point = np.rint(-low / plain)
    rows = np.arange(256) // 64
    naive = (np.clip(np.rint(w / plain[rows]) + point[rows], 0, 15) - point[rows]) * plain[rows]
    assert relative_error(w, widen_groups(q, scale, zero, 64)) < 0.98 * relative_error(w, naive)
    assert q.max() == 15
    assert (scale < plain * 0.999).any()


@pytest.mark.parametrize("bits", [4, 8])
def test_zeros_and_equal_weights_are_exact(bits: int) -> None:
    w = np.zeros((40, 6), F32)
    w[:, 1], w[:, 2], w[:, 3], w[:, 4] = 3, -0.25, 1e-42, 1e30
    q, scale, zero = quantize_groups(w, bits, 32)
    back = widen_groups(q, scale, zero, 32)
    np.testing.assert_allclose(back, np.where(np.abs(w) < 1e-38, 0, w), rtol=1e-6)
    assert relative_error(w * 0, back * 0) == 0
