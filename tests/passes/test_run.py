"""Whole layers, written as PyTorch exports them, become what one would write by hand."""

from collections import Counter
from pathlib import Path

import numpy as np
from building import Building, feeds_of, ops, weights

from whet.ir.dtypes import DType
from whet.ir.interpreter import interpret
from whet.ir.symbolic import symbol
from whet.passes import manager

N, S = symbol("n"), symbol("s")


def encoder(layers: int = 2, width: int = 32, heads: int = 4):
    """A BERT encoder as `torch.onnx.export` writes it: split scales, masks by indexing, NaN guards."""
    b = Building()
    ids, mask = b.input("ids", (N, S), DType.I64), b.input("mask", (N, S), DType.I64)
    position = b.slice(weights(1, 16, width), starts=(0, 0, 0), sizes=(1, S, width), steps=(1, 1, 1))
    kinds = b.gather(weights(2, width), b.mul(ids, np.int64(0)))
    x = b.add_(b.add_(b.gather(weights(11, width), ids), kinds), position)
    x = b.layernorm(x, weights(width), weights(width), axis=2, epsilon=1e-12)
    rows = b.expand(b.reshape(b.iota(size=N), shape=(N, 1, 1, 1)), shape=(N, 1, 1, S))
    columns = b.expand(b.reshape(b.iota(size=S), shape=(1, 1, 1, S)), shape=(N, 1, 1, S))
    index = b.concat(*(b.reshape(v, shape=(N, 1, 1, S, 1)) for v in (rows, columns)), axis=4)
    keep = b.and_(b.and_(np.array(True), b.ge(b.reshape(b.iota(size=S), shape=(1, 1, S, 1)), np.int64(0))),
                  b.gather_nd(b.cast(mask, to=DType.BOOL), index))
    scale = np.float32((width // heads) ** -0.25)
    for i in range(layers):
        def linear(x, n, k=width, seed=i):
            return b.add_(b.matmul(x, weights(k, n, seed=seed) / np.float32(k ** 0.5)), weights(n, seed=seed))

        q, k, v = (b.transpose(b.reshape(linear(x, width, seed=3 * i + j), shape=(N, S, heads, width // heads)),
                               perm=(0, 2, 1, 3)) for j in range(3))
        k = b.reshape(b.transpose(b.reshape(k, shape=(N * heads, S, width // heads)), perm=(0, 2, 1)),
                      shape=(N, heads, width // heads, S))
        s = b.add_(b.matmul(b.mul(q, scale), b.mul(k, scale)), b.where(keep, np.float32(0), np.float32(-np.inf)))
        p = b.softmax(s, axis=3)
        a = b.matmul(b.where(b.isnan(p), np.float32(0), p), v)
        a = b.reshape(b.transpose(a, perm=(0, 2, 1, 3)), shape=(N, S, width))
        x = b.layernorm(b.add_(linear(a, width), x), weights(width), weights(width), axis=2, epsilon=1e-12)
        h = b.gelu(linear(x, 2 * width))
        x = b.layernorm(b.add_(linear(h, width, 2 * width), x), weights(width), weights(width), axis=2, epsilon=1e-12)
    return b.done(x)


def test_a_bert_layer_is_four_matmuls_an_attention_and_two_layer_norms() -> None:
    g = encoder(layers=3)
    feeds = feeds_of(g)
    feeds["mask"][:] = [[1, 1], [1, 0]]
    want = interpret(g, feeds)["y0"]
    g = manager.run(g, verify=True)
    np.testing.assert_allclose(interpret(g, feeds)["y0"], want, rtol=1e-3, atol=1e-4)
    kinds = Counter({k: v for k, v in ops(g).items() if k not in ("reshape", "transpose", "slice", "expand")})
    assert kinds == {"matmul": 4 * 3, "attention": 3, "layernorm": 2 * 3 + 1, "gather": 1, "pointwise": 1}


def test_in_bf16_every_product_and_every_activation_is() -> None:
    g = encoder(layers=2)
    feeds = feeds_of(g)
    feeds["mask"][:] = 1
    want = interpret(g, feeds)["y0"]
    g = manager.run(g, compute="bf16", verify=True)
    got = interpret(g, feeds)["y0"]
    assert np.linalg.norm(got - want) / np.linalg.norm(want) < 2e-2
    regions = [n.attrs["region"] for n in g.nodes if n.op == "region"]
    assert all(r.compute == "bf16" for r in regions if r.kind in ("matmul", "attention"))
    assert all(r.inputs[0].dtype is DType.BF16 for r in regions if r.kind in ("matmul", "attention", "layernorm"))


def test_dumps_are_numbered_and_start_with_a_statistic(tmp_path: Path) -> None:
    manager.run(encoder(layers=1), compute="bf16", dump=tmp_path)
    names = sorted(p.name for p in tmp_path.iterdir())
    assert len(names) == len(manager.PASSES) + 2
    assert names[0] == "00-grouped.txt"
    assert names[-1] == f"{len(names) - 1:02d}-precision.txt"
    assert (tmp_path / names[-1]).read_text().startswith("# precision: ")
