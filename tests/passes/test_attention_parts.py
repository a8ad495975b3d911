"""Attention and its projection become one region at batch 1, whose parts the norm adds up."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from building import Building, feeds_of, ops, weights

from whet.errors import GraphError
from whet.ir.dtypes import DType
from whet.ir.graph import Graph, Node, Value
from whet.ir.interpreter import interpret
from whet.ir.ops import infer
from whet.ir.symbolic import symbol
from whet.lowering.storage import schedule
from whet.passes import attention_parts, manager, precision
from whet.targets.cuda.gpu import typical
from whet.targets.cuda.target import CudaTarget

SMS = 132
TARGET = CudaTarget(typical((9, 0)))


def heads_of(b: Building, x: Value, heads: int, e: int, seed: int) -> Value:
    """A product of x [batch, rows, n], in heads [batch, heads, rows, e]."""
    y = b.add_(b.matmul(x, weights(x.shape[-1], heads * e, seed=seed) / 16), weights(heads * e, seed=seed + 1))
    return b.transpose(b.reshape(y, shape=(*x.shape[:2], heads, e)), perm=(0, 2, 1, 3))


def encoder(b: Building, x: Value, *, heads: int = 6, e: int = 32, shared: int = 1, seed: int = 0, normed: bool = True,
            perm: tuple[int, ...] = (0, 2, 1, 3), also: Any = None, mask: np.ndarray | None = None,
            **more: Any) -> Value:
    """Attention, its projection, residual and norm. `also`: what else is made of attention's result."""
    q = heads_of(b, x, heads, e, seed)
    k, v = (heads_of(b, x, heads // shared, e, seed + i) for i in (2, 4))
    given = () if mask is None else (b.const(mask),)
    y = b.attention(q, k, v, *given, **{"scale": 0.2, **more})
    side = b.reshape(b.transpose(y, perm=perm), shape=(*x.shape[:2], heads * e))
    out = b.add_(b.matmul(side, weights(heads * e, x.shape[-1], seed=seed + 6) / 16), weights(x.shape[-1], seed=9))
    out = b.add_(out, x) if also is None else b.add_(b.add_(out, x), also(b, y, side))
    if not normed:
        return b.relu(out)
    return b.layernorm(out, weights(x.shape[-1], seed=7), weights(x.shape[-1], seed=8), axis=-1, epsilon=1e-5)


def one(shape: tuple = (1, 33, 72), dtype: DType = DType.F32, **how: Any) -> tuple[Graph, dict[str, np.ndarray]]:
    b = Building()
    g = b.done(encoder(b, b.input("x", shape, dtype), **how))
    return g, feeds_of(b)


def compiled(g: Graph, compute: str = "fp16", **more: Any) -> Graph:
    return manager.run(g, compute, verify=True, traits=precision.GPU, multiprocessors=SMS, **more)


def region(g: Graph, kind: str) -> list[Node]:
    return [n for n in g.nodes if n.op == "region" and n.attrs["region"].kind == kind]


def same(g: Graph, feeds: dict[str, np.ndarray], want: dict[str, np.ndarray], tolerance: float = 2e-2) -> None:
    for name, got in interpret(g, feeds).items():
        np.testing.assert_allclose(got, want[name], atol=tolerance * max(1.0, float(np.abs(want[name]).max())))


@pytest.mark.parametrize("compute", ["fp16", "bf16"])
@pytest.mark.parametrize("how", [{}, {"causal": True}, {"heads": 3, "e": 80}, {"mask": np.arange(33) < 20},
                                 {"mask": weights(33, 33)}], ids=["plain", "causal", "80", "bool", "float"])
def test_the_norm_adds_the_heads_up(compute: str, how: dict[str, Any]) -> None:
    g, feeds = one(**how)
    want = interpret(g, feeds)
    g = compiled(g, compute)
    (fused,), (norm,) = region(g, "attention_parts"), region(g, "layernorm")
    heads = how.get("heads", 6)
    assert not region(g, "attention")
    assert len(region(g, "matmul")) == 1  # of q, k and v
    r = fused.attrs["region"]
    assert (r.output.shape, r.output.dtype) == ((1, heads, 33, 72), DType.F32)
    assert (r.compute, fused.compute) == (("f16", "f16") if compute == "fp16" else ("bf16", "bf16"))
    assert len(norm.attrs["region"].prologue[0].leaves) == heads + 2
    assert ops(g)["slice"] == heads + 3
    same(g, feeds, want, 2e-2 if compute == "fp16" else 0.15)


def test_a_plan_has_a_launch_less_and_no_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    def scheduled() -> tuple[list[str], int]:
        b = Building()
        x = b.input("x", (1, 128, 384))
        g = b.done(encoder(b, encoder(b, x, e=64), e=64, seed=20))
        done = schedule(compiled(g), TARGET.accepts, aligned=True)
        return [l.region.kind for l in done.launches], done.copies

    layer = ["matmul", "attention_parts", "layernorm"]
    assert scheduled() == (layer * 2, 0)
    monkeypatch.setattr(attention_parts, "FUSED", False)
    assert scheduled() == (["matmul", "attention", "matmul", "layernorm"] * 2, 0)


def test_weights_are_seen_as_they_lie() -> None:
    g, _ = one()
    done = schedule(compiled(g), TARGET.accepts, aligned=True)
    (l,) = (l for l in done.launches if l.region.kind == "attention_parts")
    assert l.inputs[3].buffer.data.shape == (192, 72)
    assert l.region.inputs[3].const
    assert l.region.inputs[3].strides == (32 * 72, 72, 1)


def test_models_of_halves() -> None:
    g, feeds = one()
    want = interpret(g, feeds)
    b = Building()
    x = b.input("x", (1, 33, 72), DType.F16)
    wide = b.add("cast", [x], {"to": DType.F32})
    g = compiled(b.done(encoder(b, wide)))
    assert len(region(g, "attention_parts")) == 1
    same(g, {"x": feeds["x"].astype(np.float16)}, want, 3e-2)


def test_a_sequence_without_its_batch() -> None:
    b = Building()
    x = b.input("x", (1, 33, 72))
    y = b.attention(*(heads_of(b, x, 6, 32, i) for i in (0, 2, 4)), scale=0.2)
    side = b.reshape(b.transpose(b.reshape(y, shape=(6, 33, 32)), perm=(1, 0, 2)), shape=(33, 192))
    out = b.matmul(side, weights(192, 72) / 16)
    g = b.done(b.rmsnorm(b.add_(out, b.reshape(x, shape=(33, 72))), weights(72, seed=7), axis=-1, epsilon=1e-5))
    feeds = feeds_of(b)
    want = interpret(g, feeds)
    g = compiled(g)
    assert len(region(g, "attention_parts")) == 1
    same(g, feeds, want)


def summed(b: Building, y: Value, side: Value) -> Value:
    """Of attention's result [1, heads, 33, e] the sums of rows [1, 33, 1]."""
    return b.reshape(b.reduce(y, kind="sum", axes=(1, 3), keepdims=False), shape=(1, 33, 1))


LEFT: dict[str, dict[str, Any]] = {
    "a batch of two": {"shape": (2, 33, 72)},
    "a symbolic number of rows": {"shape": (1, symbol("n"), 72)},
    "few rows": {"shape": (1, 8, 72)},
    "many rows": {"shape": (1, 400, 72)},  # 25 tiles of 6 heads
    "many heads": {"heads": 18, "e": 16},
    "one head": {"heads": 1, "e": 64},
    "wide heads": {"heads": 2, "e": 272},
    "heads that share keys": {"shared": 2},
    "no norm": {"normed": False},
    "elements of heads interleaved": {"perm": (0, 2, 3, 1)},
    "attention's result is read by others": {"also": summed},
    "its heads side by side are": {"also": lambda b, y, side: b.reduce(side, kind="max", axes=(2,))},
}


@pytest.mark.parametrize("name", LEFT)
def test_left_alone(name: str) -> None:
    g, _ = one(**LEFT[name])
    g = compiled(g)
    assert len(region(g, "attention")) == 1
    assert not region(g, "attention_parts")


@pytest.mark.parametrize("compute", ["fp32", "tf32"])
def test_left_alone_in_other_precisions(compute: str) -> None:
    g, _ = one()
    assert not region(compiled(g, compute), "attention_parts")


def test_left_alone_where_one_of_the_two_is_kept_in_fp32() -> None:
    for kept in ("attention", "matmul"):
        g, _ = one()
        node = [n for n in g.nodes if n.op == kept][-1]
        node.origin = "Kept last"
        g = compiled(g, keep=lambda n: "last" in n.names)
        assert len(region(g, "attention")) == 1


def test_left_alone_on_the_cpu() -> None:
    g, _ = one()
    assert not region(manager.run(g, "fp16", verify=True), "attention_parts")


def test_operands_that_do_not_fit() -> None:
    def value(*shape: int, dtype: DType = DType.F32) -> Value:
        return Value("x", dtype, shape)

    q = value(1, 2, 5, 8)
    assert infer("attention_parts", [q, q, q, value(2, 8, 3)], {"scale": 1.0}) == [(DType.F32, (1, 2, 5, 3))]
    half = value(1, 2, 5, 8, dtype=DType.F16)
    assert infer("attention_parts", [half] * 3 + [value(2, 8, 3, dtype=DType.F16)], {"scale": 1.0})[0][0] is DType.F32
    codes = value(1, 2, 5, 8, dtype=DType.I8)
    for wrong, what in (([q, q, q, value(3, 8, 3)], "heads of q and w"), ([q, q, q], "takes 4 to 6 inputs"),
                        ([q, q, q, value(2, 7, 3)], "sizes of v and w"), ([q, q, q, value(8, 3)], "rank 3"),
                        ([codes] * 3 + [value(2, 8, 3)], "real numbers")):
        with pytest.raises(GraphError, match=what):
            infer("attention_parts", wrong, {"scale": 1.0})
