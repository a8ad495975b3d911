"""Lowerings of losses and of the optimizers in ai.onnx.preview.training."""

from __future__ import annotations

from collections.abc import Sequence

from whet.frontends.call import Call, lowers
from whet.frontends.formulas import Formula, formula
from whet.ir.dtypes import DType
from whet.ir.graph import Value

TRAINING = "ai.onnx.preview.training"


def _picked(c: Call, log_prob: Formula, labels: Formula, weights: Formula | None) -> Value:
    """The negative log-likelihood of the labels: log_prob [N, C, d...], labels [N, d...], weights [C]."""
    ignore, reduction = c.attr("ignore_index"), c.attr("reduction", "mean")
    counted = None if ignore is None else labels.ne(ignore)
    safe = labels if counted is None else counted.where(labels, 0)
    n, *rest = labels.shape
    loss = -log_prob.apply("gather_elements", safe.reshape(n, 1, *rest), axis=1).reshape(n, *rest)
    weight = None
    if weights is not None:
        weight = weights.gather(safe)
        loss = loss * weight
    if counted is not None:
        loss = counted.where(loss, 0)
        weight = counted.to(loss.dtype) if weight is None else counted.where(weight, 0)
    if reduction == "none":
        return loss.value
    axes = range(loss.rank)
    if reduction == "mean" and weight is None:
        return loss.reduce("mean", axes).value
    total = loss.reduce("sum", axes)
    if reduction == "sum":
        return total.value
    assert weight is not None
    return (total / weight.reduce("sum", axes)).value


@lowers("NegativeLogLikelihoodLoss")
def _nll(c: Call) -> Value:
    return _picked(c, formula(c, 0), formula(c, 1), formula(c, 2) if c.has(2) else None)


@lowers("SoftmaxCrossEntropyLoss")
def _softmax_cross_entropy(c: Call) -> list[Value | None]:
    log_prob = formula(c, 0).apply("softmax", axis=1, log=True)
    return [_picked(c, log_prob, formula(c, 1), formula(c, 2) if c.has(2) else None), log_prob.value]


def _tensors(c: Call, kinds: int) -> list[tuple[Formula, ...]]:
    """The operands after the rate and the count, one tuple of `kinds` values for each tensor that is trained."""
    n = (len(c.inputs) - 2) // kinds
    return [tuple(formula(c, 2 + k * n + i) for k in range(kinds)) for i in range(n)]


def _flat(results: Sequence[Sequence[Formula]]) -> list[Value]:
    """All new tensors, then all new states of each kind."""
    return [r.value for kind in zip(*results) for r in kind]


@lowers("Adagrad", domain=TRAINING)
def _adagrad(c: Call) -> list[Value]:
    rate, count = formula(c, 0), formula(c, 1).to(c.x(0).dtype)
    rate = rate / (count * c.attr("decay_factor", 0.0) + 1)
    out = []
    for x, gradient, squares in _tensors(c, 3):
        g = x * c.attr("norm_coefficient", 0.0) + gradient
        squares = squares + g * g
        out.append((x - rate.to(x.dtype) * g / (squares.sqrt() + c.attr("epsilon", 1e-6)), squares))
    return _flat(out)


@lowers("Adam", domain=TRAINING)
def _adam(c: Call) -> list[Value]:
    rate, count = formula(c, 0), formula(c, 1)
    alpha, beta = c.attr("alpha", 0.9), c.attr("beta", 0.999)
    t = count.to(DType.F64)  # 1 - beta^t has few digits left in f32
    first, second = (1 - Formula(c, c.constant(b, DType.F64)).apply("pow", t) for b in (alpha, beta))
    rate = (count > 0).where((rate.to(DType.F64) * second.sqrt() / first).to(rate.dtype), rate)
    out = []
    for x, gradient, mean, squares in _tensors(c, 4):
        g = x * c.attr("norm_coefficient", 0.0) + gradient
        mean = mean * alpha + g * (1 - alpha)
        squares = squares * beta + g * g * (1 - beta)
        y = x - rate.to(x.dtype) * mean / (squares.sqrt() + c.attr("epsilon", 1e-6))
        out.append((y * (1 - c.attr("norm_coefficient_post", 0.0)), mean, squares))
    return _flat(out)


@lowers("Momentum", domain=TRAINING)
def _momentum(c: Call) -> list[Value]:
    rate, count = formula(c, 0), formula(c, 1)
    alpha = c.attr("alpha")
    beta = (count > 0).where(Formula(c, c.like(rate.value, c.attr("beta"))), 1)
    out = []
    for x, gradient, momentum in _tensors(c, 3):
        g = x * c.attr("norm_coefficient") + gradient
        v = momentum * alpha + g * beta.to(x.dtype)
        step = g + v * alpha if c.attr("mode") == "nesterov" else v
        out.append((x - rate.to(x.dtype) * step, v))
    return _flat(out)
