"""Functions that exporters write out are recognized, in the forms that they are written in."""

import numpy as np
import pytest
from building import Building, ops, rewritten, weights

from whet.ir.dtypes import DType
from whet.ir.symbolic import symbol
from whet.passes import activations, algebra, attention, dead, movement, normalization, softmax

ROOT2, ROOT2PI = float(np.sqrt(2)), float(np.sqrt(2 / np.pi))


def recognized(graph, *passes, **kw):
    return rewritten(graph, algebra.simplify, *passes, dead.remove_dead, **kw)


@pytest.mark.parametrize("form", [
    lambda b, x: b.mul(b.mul(x, 0.5), b.add_(b.erf(b.div(x, ROOT2)), 1.0)),
    lambda b, x: b.mul(b.mul(x, b.add_(1.0, b.erf(b.mul(x, 1 / ROOT2)))), 0.5),
    lambda b, x: b.mul(0.5, b.mul(b.add_(b.erf(b.div(x, ROOT2)), 1.0), x)),
    lambda b, x: b.div(b.mul(x, b.add_(b.erf(b.div(x, ROOT2)), 1.0)), 2.0),
    lambda b, x: b.mul(b.mul(x, 0.5), b.add_(b.tanh(b.mul(b.add_(x, b.mul(b.pow(x, 3.0), 0.044715)), ROOT2PI)), 1.0)),
    lambda b, x: b.mul(b.mul(0.5, x), b.add_(1.0, b.tanh(b.mul(b.mul(x, ROOT2PI), b.add_(1.0, b.mul(
        b.mul(x, x), 0.044715)))))),
])
def test_gelu(form) -> None:
    b = Building()
    x = b.input("x", (3, 17))
    assert ops(recognized(b.done(form(b, x)), activations.recognize)) == {"gelu": 1}


def test_what_only_looks_like_gelu_is_left_alone() -> None:
    b = Building()
    x = b.input("x", (3, 17))
    y = b.mul(b.mul(x, 0.5), b.add_(b.erf(b.div(x, 1.5)), 1.0))
    z = b.mul(b.mul(x, 0.25), b.add_(b.erf(b.div(x, ROOT2)), 1.0))
    assert "gelu" not in ops(recognized(b.done(y, z), activations.recognize))


@pytest.mark.parametrize("form", [
    lambda b, x: b.mul(x, b.sigmoid(x)), lambda b, x: b.mul(b.sigmoid(x), x),
    lambda b, x: b.mul(x, b.div(1.0, b.add_(b.exp(b.neg(x)), 1.0))),
])
def test_silu(form) -> None:
    b = Building()
    x = b.input("x", (3, 17))
    assert ops(recognized(b.done(form(b, x)), activations.recognize)) == {"silu": 1}


@pytest.mark.parametrize("form", [
    lambda b, x: b.div(b.mul(x, b.min(b.max(b.add_(x, 3.0), 0.0), 6.0)), 6.0),
    lambda b, x: b.mul(x, b.div(b.min(b.relu(b.add_(x, 3.0)), 6.0), 6.0)),
    lambda b, x: b.mul(x, b.max(b.min(b.add_(b.mul(x, 1 / 6), 0.5), 1.0), 0.0)),
])
def test_hard_swish(form) -> None:
    b = Building()
    x = b.input("x", (3, 17))
    feeds = {"x": np.linspace(-5, 5, 51, dtype=np.float32).reshape(3, 17)}
    assert ops(recognized(b.done(form(b, x)), activations.recognize, feeds=feeds)) == {"hardswish": 1}


def test_softmax_and_its_logarithm() -> None:
    b = Building()
    x = b.input("x", (3, 4, 5))
    shifted = b.sub(x, b.reduce(x, kind="max", axes=(1,), keepdims=True))
    e = b.exp(shifted)
    total = b.reduce(e, kind="sum", axes=(1,), keepdims=True)
    g = recognized(b.done(b.div(e, total), b.sub(shifted, b.log(total))), softmax.recognize)
    assert ops(g) == {"softmax": 2}


def test_an_unstable_softmax_stays_as_it_is_written() -> None:
    b = Building()
    x = b.input("x", (3, 5))
    e = b.exp(x)
    g = recognized(b.done(b.div(e, b.reduce(e, kind="sum", axes=(1,), keepdims=True))), softmax.recognize)
    assert "softmax" not in ops(g)


def centred(b, x, axes):
    d = b.sub(x, b.reduce(x, kind="mean", axes=axes, keepdims=True))
    return d, b.add_(b.reduce(b.pow(d, 2.0), kind="mean", axes=axes, keepdims=True), 1e-5)


@pytest.mark.parametrize("form", [
    lambda b, d, var: b.div(d, b.sqrt(var)), lambda b, d, var: b.mul(d, b.reciprocal(b.sqrt(var))),
    lambda b, d, var: b.div(d, b.pow(var, 0.5)), lambda b, d, var: b.mul(b.pow(var, -0.5), d),
])
def test_layer_norm(form) -> None:
    n = symbol("n")
    b = Building()
    x = b.input("x", (n, 3, 8))
    y = b.add_(b.mul(form(b, *centred(b, x, (2,))), weights(8)), weights(8, seed=1))
    g = recognized(b.done(y), normalization.recognize)
    assert ops(g) == {"layernorm": 1}
    assert len(g.nodes[0].inputs) == 3


def test_rms_norm() -> None:
    b = Building()
    x = b.input("x", (2, 3, 8))
    root = b.sqrt(b.add_(b.reduce(b.mul(x, x), kind="mean", axes=(2,), keepdims=True), 1e-6))
    g = recognized(b.done(b.mul(weights(8), b.mul(x, b.reciprocal(root)))), normalization.recognize)
    assert ops(g) == {"rmsnorm": 1}


def test_instance_norm() -> None:
    n = symbol("n")
    b = Building()
    x = b.input("x", (n, 4, 5, 6))
    d, var = centred(b, x, (2, 3))
    y = b.add_(b.mul(b.div(d, b.sqrt(var)), weights(4, 1, 1)), weights(4, 1, 1, seed=1))
    g = recognized(b.done(y), normalization.recognize)
    assert ops(g) == {"groupnorm": 1}
    assert g.nodes[0].attrs["groups"] == 4


def test_group_norm_as_instance_norm_between_reshapes() -> None:
    n = symbol("n")
    b = Building()
    x = b.input("x", (n, 6, 5, 4))
    y = b.groupnorm(b.reshape(x, shape=(n, 2, 60)), np.ones(2, np.float32), np.zeros(2, np.float32), groups=2,
                    epsilon=1e-5)
    y = b.add_(b.mul(b.reshape(y, shape=x.shape), weights(6, 1, 1)), weights(6, 1, 1, seed=1))
    assert ops(recognized(b.done(y), normalization.recognize)) == {"groupnorm": 1}


def heads(b, x, seed, n):
    y = b.reshape(b.matmul(x, weights(8, 8, seed=seed)), shape=(n, 5, 2, 4))
    return b.transpose(y, perm=(0, 2, 1, 3))


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("mask", [None, "float", "bool", "lowest"])
@pytest.mark.parametrize("zero", [False, True])
def test_attention_with_its_scale_and_mask(split: bool, mask: str | None, zero: bool) -> None:
    n = symbol("n")
    b = Building()
    x = b.input("x", (n, 5, 8))
    q, k, v = (heads(b, x, i, n) for i in range(3))
    kt = b.transpose(k, perm=(0, 1, 3, 2))
    scores = b.matmul(b.mul(q, 0.5), b.mul(kt, 1.5)) if split else b.div(b.matmul(q, kt), 1.5)
    if mask == "float":
        scores = b.add_(scores, b.input("m", (n, 1, 1, 5)))
    elif mask:
        keep = b.input("m", (n, 1, 5, 5), DType.BOOL)
        scores = b.where(keep, scores, np.float32(-np.inf if mask == "bool" else np.finfo(np.float32).min))
    p = b.softmax(scores, axis=3)
    if zero:
        p = b.where(b.isnan(p), np.float32(0), p)
    g = recognized(b.done(b.matmul(p, v)), movement.simplify, attention.recognize, movement.simplify)
    found = ops(g)
    assert found["attention"] == 1
    assert found["softmax"] == found["mul"] == found["isnan"] == 0
    assert found["transpose"] == 3
    node = next(m for m in g.nodes if m.op == "attention")
    assert node.attrs["masked_zero"] is zero
    assert len(node.inputs) == (4 if mask else 3)
    assert node.attrs["scale"] == pytest.approx(0.75 if split else 1 / 1.5)


def test_attention_with_batch_and_heads_in_one_dimension() -> None:
    b = Building()
    q, k, v = (b.input(name, (6, 5, 4)) for name in "qkv")
    p = b.softmax(b.matmul(q, b.transpose(k, perm=(0, 2, 1))), axis=2)
    assert ops(recognized(b.done(b.matmul(p, v)), attention.recognize))["attention"] == 1


def test_probabilities_that_are_an_output_are_kept() -> None:
    b = Building()
    q, k, v = (b.input(name, (1, 2, 5, 4)) for name in "qkv")
    p = b.softmax(b.matmul(q, b.transpose(k, perm=(0, 1, 3, 2))), axis=3)
    assert "attention" not in ops(recognized(b.done(b.matmul(p, v), p), attention.recognize))


@pytest.mark.parametrize("mask", ["constant bool", "constant float", "ranges", "not", "with padding"])
def test_a_causal_mask_becomes_an_attribute(mask: str) -> None:
    n, s = symbol("n"), (5 if mask.startswith("constant") else symbol("s"))
    b = Building()
    q, k, v = (b.input(name, (n, 2, s, 4)) for name in "qkv")
    scores = b.matmul(q, b.transpose(k, perm=(0, 1, 3, 2)))
    minus = np.float32(-np.inf)
    if mask == "constant bool":
        scores = b.where(np.tri(5, dtype=bool), scores, minus)
    elif mask == "constant float":
        scores = b.add_(scores, np.where(np.tri(5, dtype=bool), 0, np.finfo(np.float32).min).astype(np.float32))
    else:
        row, column = (b.reshape(b.iota(size=s), shape=shape) for shape in ((s, 1), (1, s)))
        keep = b.not_(b.gt(column, row)) if mask == "not" else b.le(column, row)
        keep = b.and_(keep, b.input("m", (n, 1, 1, s), DType.BOOL)) if mask == "with padding" else keep
        scores = b.add_(scores, b.where(keep, np.float32(0), minus))
    g = recognized(b.done(b.matmul(b.softmax(scores, axis=3), v)), movement.simplify, attention.recognize)
    node = next(m for m in g.nodes if m.op == "attention")
    assert node.attrs["causal"] is True
    assert len(node.inputs) == (4 if mask == "with padding" else 3)


def test_a_mask_that_is_only_nearly_causal_stays_a_mask() -> None:
    b = Building()
    q, k, v = (b.input(name, (1, 2, 5, 4)) for name in "qkv")
    scores = b.where(np.tri(5, k=1, dtype=bool), b.matmul(q, b.transpose(k, perm=(0, 1, 3, 2))), np.float32(-np.inf))
    g = recognized(b.done(b.matmul(b.softmax(scores, axis=3), v)), attention.recognize)
    node = next(m for m in g.nodes if m.op == "attention")
    assert (node.attrs["causal"], len(node.inputs)) == (False, 4)
