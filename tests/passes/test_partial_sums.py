"""Products with few tiles are divided along their depth, and the norm behind them adds the parts up."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from building import Building, feeds_of, ops, rewritten, weights

from whet.ir.dtypes import DType
from whet.ir.graph import Graph, Node, Value
from whet.ir.interpreter import interpret
from whet.ir.symbolic import symbol
from whet.ir.verify import verify
from whet.lowering.storage import schedule
from whet.passes import manager, precision
from whet.passes.fuse import form_regions
from whet.passes.partial_sums import divide, parts_of
from whet.targets.cuda.cublaslt import variants
from whet.targets.cuda.cudnn import CudnnMatmul
from whet.targets.cuda.gpu import typical
from whet.targets.cuda.target import CudaTarget

SMS = 132
TARGET = CudaTarget(typical((9, 0)))


@pytest.mark.parametrize(("m", "n", "k", "parts"), [
    (128, 768, 768, 4),  # BERT-base's attention output: 24 tiles
    (128, 768, 3072, 6),  # and its down product
    (197, 768, 768, 3), (197, 768, 3072, 3),  # ViT-B: 48 tiles
    (512, 768, 3072, 1),  # 96 tiles: two parts would take turns
    (8, 768, 3072, 1), (1, 768, 3072, 1),  # decoding
    (64, 64, 320, 1), (64, 64, 383, 1), (64, 64, 384, 2), (64, 64, 576, 3), (64, 64, 4096, 8)])
def test_as_many_parts_as_fill_the_gpu(m: int, n: int, k: int, parts: int) -> None:
    assert parts_of(m, n, k, SMS) == parts


def divided(g: Graph) -> Graph:
    """The graph with products divided, verified, computing what it did."""
    return rewritten(form_regions(g), lambda g: divide(g, SMS))


def region(g: Graph, kind: str) -> list[Node]:
    return [n for n in g.nodes if n.op == "region" and n.attrs["region"].kind == kind]


def block(b: Building, x: Value, *, n: int = 40, seed: int = 0, residual: Value | None = None) -> Value:
    """A product of depth 384, plus bias and residual."""
    y = b.add_(b.matmul(x, weights(x.shape[-1], n, seed=seed) / 16), weights(n, seed=seed + 1))
    return y if residual is None else b.add_(y, residual)


def normed(b: Building, x: Value, kind: str = "layernorm") -> Value:
    more = (weights(x.shape[-1], seed=9),) if kind == "layernorm" else ()
    return b.add(kind, [x, *(b.constant(w, DType.F32) for w in (weights(x.shape[-1], seed=8), *more))],
                 {"axis": -1, "epsilon": 1e-5})


def test_the_norm_adds_the_parts_bias_and_residual() -> None:
    b = Building()
    x, r = b.input("x", (1, 33, 768)), b.input("r", (1, 33, 40))
    g = divided(b.done(normed(b, block(b, x, residual=r))))
    assert ops(g) == {"reshape": 6, "transpose": 1, "matmul": 1, "slice": 4, "layernorm": 1}
    (product,), (norm,) = region(g, "matmul"), region(g, "layernorm")
    assert product.output.shape == (4, 33, 40)
    assert product.attrs["region"].epilogue is None
    assert norm.attrs["region"].inputs[0].shape == (1, 33, 40)
    assert len(norm.attrs["region"].prologue[0].leaves) == 6
    assert len(norm.outputs) == 1


def test_weights_are_divided_as_they_lie() -> None:
    b = Building()
    x, w = b.input("x", (12, 384)), b.constant(weights(384, 384) / 16, DType.F32)
    y = normed(b, b.matmul(x, w))
    g = divided(b.done(normed(b, b.add_(b.matmul(y, w), y))))
    seen = [l.inputs[1] for l in schedule(g, TARGET.accepts).launches if l.region.kind == "matmul"]
    assert [s.buffer.data is w.data for s in seen] == [True, True]
    assert [s.strides for s in seen] == [(192 * 384, 384, 1)] * 2


def test_what_others_read_the_norm_writes_too() -> None:
    b = Building()
    x, r = b.input("x", (2, 9, 384)), b.input("r", (2, 9, 384))
    x1 = block(b, x, n=384, residual=r)
    x2 = block(b, normed(b, x1, "rmsnorm"), n=384, residual=x1, seed=4)
    g = divided(b.done(normed(b, x2, "rmsnorm"), x2))
    assert ops(g)["matmul"] == 2
    assert [len(n.outputs) for n in region(g, "rmsnorm")] == [2, 2]
    assert region(g, "rmsnorm")[1].outputs[1] is g.outputs[1]
    assert region(g, "matmul")[0].output.shape == (2, 2, 9, 384)


def unchanged(g: Graph) -> bool:
    g = form_regions(g)
    before = list(g.nodes)
    divide(g, SMS)
    return g.nodes == before


def test_left_alone() -> None:
    def one(x_shape=(12, 384), w=None, after=lambda b, y: normed(b, y)) -> Graph:
        b = Building()
        x = b.input("x", x_shape)
        return b.done(after(b, b.matmul(x, weights(384, 40) if w is None else b.input("w", w))))

    assert not unchanged(one())
    assert unchanged(one((symbol("n"), 384)))
    assert unchanged(one((8, 384)))
    assert unchanged(one((2, 0, 384)))
    assert unchanged(one(w=(384, 40)))  # not a constant
    assert unchanged(one((3, 12, 384), (3, 384, 40)))
    assert unchanged(one(after=lambda b, y: b.softmax(y, axis=-1, log=False)))
    assert unchanged(one(after=lambda b, y: b.transpose(y, perm=(1, 0))))
    assert unchanged(one(after=lambda b, y: normed(b, b.reshape(y, shape=(24, 20)))))
    wide = lambda b, y: b.layernorm(y, weights(12, 40), axis=0, epsilon=1e-5)
    assert unchanged(one(after=wide))
    assert unchanged(one(after=lambda b, y: b.add_(normed(b, y), y)))  # the norm's own epilogue reads it


def test_nothing_waits_for_itself() -> None:
    """The norm's other operand is computed from the product that it would write: a cycle."""
    b = Building()
    x = b.input("x", (12, 384))
    y = b.matmul(x, weights(384, 40))
    assert unchanged(b.done(normed(b, b.add_(y, b.softmax(y, axis=-1, log=False)))))


def test_products_of_codes_are_left_alone() -> None:
    b = Building()
    g = form_regions(b.done(normed(b, b.matmul(b.input("x", (12, 384)), weights(384, 40)))))
    (product,) = region(g, "matmul")
    product.attrs["region"] = replace(product.attrs["region"], compute="f8")
    divide(g, SMS)
    assert product in g.nodes


def encoder(seed: int) -> tuple[Graph, dict[str, np.ndarray]]:
    """Two layers of products, norms and residuals put together at random."""
    rng = np.random.default_rng(seed)
    b = Building()
    shape = ((12, 384), (1, 13, 384), (3, 5, 384))[int(rng.integers(3))]
    x = b.input("x", shape)
    seen = [x]
    for layer in range(3):
        kind = str(rng.choice(["layernorm", "rmsnorm"]))
        y = b.matmul(seen[-1], weights(384, 384, seed=layer) / 16)
        y = b.add_(y, weights(384, seed=layer)) if rng.integers(2) else y
        y = b.gelu(y, approximate="tanh") if rng.integers(2) else y
        y = b.add_(y, seen[int(rng.integers(len(seen)))]) if rng.integers(3) else y
        z = normed(b, y, kind)
        z = b.relu(z) if rng.integers(2) else z
        if rng.integers(3) == 0:
            z = b.add_(z, normed(b, y, "rmsnorm"))  # two norms of one product
        seen += [y, z] if rng.integers(2) else [z]
    return b.done(seen[-1], *([seen[-2]] if rng.integers(2) and seen[-2] is not x else [])), feeds_of(b, seed)


@pytest.mark.parametrize(("compute", "tolerance"), [("fp32", 5e-4), ("tf32", 3e-2), ("fp16", 3e-2), ("bf16", 0.2)])
def test_random_encoders_compute_what_they_did(compute: str, tolerance: float) -> None:
    found = 0
    for seed in range(16):
        g, feeds = encoder(seed)
        want = interpret(g, feeds)
        g = manager.run(g, compute, verify=True, traits=precision.GPU, multiprocessors=SMS)
        found += sum(n.output.name.partition(".parts")[1] != "" for n in region(g, "matmul"))
        got = interpret(g, feeds)
        for name, w in want.items():
            scale = max(1.0, float(np.abs(w).max()))
            np.testing.assert_allclose(got[name], w, atol=tolerance * scale)
    assert found > 20


def pre_norm(dtype: DType = DType.F32) -> Graph:
    """Two layers' products of a transformer that normalizes first."""
    b = Building()
    x = b.input("x", (1, 33, 384), dtype)

    def put(op, *ins, **attrs):
        return b.add(op, [v if isinstance(v, Value) else b.const(v.astype(dtype.np)) for v in ins], attrs)

    x = put("relu", x)
    for layer in range(4):
        y = put("layernorm", x, weights(384, seed=1), weights(384, seed=2), axis=-1, epsilon=1e-5)
        y = put("add", put("matmul", y, weights(384, 384, seed=layer) / 20), weights(384, seed=3))
        x = put("add", put("gelu", y, approximate="none") if layer % 2 else y, x)
    return b.done(put("relu", put("layernorm", x, weights(384, seed=1), axis=-1, epsilon=1e-5)))


def test_sums_stay_in_fp32_and_results_are_stored_as_before() -> None:
    plain = manager.run(pre_norm(), "fp16", traits=precision.GPU)
    g = manager.run(pre_norm(), "fp16", traits=precision.GPU, multiprocessors=SMS, verify=True)
    stored = [n.output.dtype for n in region(plain, "matmul")]
    assert stored == [DType.F16] * 4
    for n in region(g, "matmul"):
        assert n.output.dtype is DType.F32
        assert (n.attrs["region"].compute, n.compute) == ("f16", "f16")
        assert [v.dtype for v in n.inputs] == [DType.F16] * 2
    norms = region(g, "layernorm")
    assert [[o.dtype for o in n.outputs] for n in norms] == [[DType.F16] * 2] * 4 + [[DType.F32]]


def test_models_of_halves_are_divided_too() -> None:
    want = interpret(pre_norm(DType.F16), feeds := feeds_of(pre_norm(DType.F16)))
    g = manager.run(pre_norm(DType.F16), traits=precision.GPU, multiprocessors=SMS, verify=True)
    assert {n.output.dtype for n in region(g, "matmul")} == {DType.F32}
    assert {n.attrs["region"].compute for n in region(g, "matmul")} == {"f16"}
    np.testing.assert_allclose(interpret(g, feeds)["y0"].astype(float), want["y0"].astype(float), atol=3e-2)


def test_layers_kept_in_fp32_stay_so() -> None:
    g = pre_norm()
    last = [n for n in g.nodes if n.op == "matmul"][-1]
    last.origin = "MatMul last"
    g = manager.run(g, "fp16", keep=lambda n: "last" in n.names, traits=precision.GPU, multiprocessors=SMS, verify=True)
    assert [n.attrs["region"].compute for n in region(g, "matmul")] == ["f16"] * 3 + ["f32"]
    assert region(g, "matmul")[-1].names == {"MatMul last", "last"}


@pytest.mark.parametrize("rows", [(1, 33), (2, 17)], ids=str)
def test_parts_are_seen_by_strides_without_copies(rows: tuple[int, int]) -> None:
    b = Building()
    x = b.input("x", (*rows, 6, 64))
    heads = b.transpose(b.softmax(b.transpose(x, perm=(0, 2, 1, 3)), axis=-1, log=False), perm=(0, 2, 1, 3))
    flat = b.relu(b.reshape(heads, shape=(*rows, 384)))
    g = b.done(normed(b, block(b, flat, n=72, residual=b.input("r", (*rows, 72)))))
    g = manager.run(g, "fp16", traits=precision.GPU, multiprocessors=SMS)
    verify(g)
    done = schedule(g, TARGET.accepts, aligned=True)
    assert done.copies == 0
    (product,) = [l.region for l in done.launches if l.region.kind == "matmul"]
    assert product.inputs[0].strides[0] == 192
    assert product.inputs[0].strides[-2:] == (384, 1)
    assert variants(product)  # cuBLASLt does it
    assert CudnnMatmul()._reason(product) == ""
