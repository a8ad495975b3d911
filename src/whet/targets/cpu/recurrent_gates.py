"""The equations of LSTM, GRU and RNN on vectors of columns, as emitted code."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from whet.targets.cpu import vmath
from whet.targets.cpu.llvm import Fn, Val

Functions = Sequence[tuple[str, float, float]]  # name, alpha, beta: f, g, h


def activate(k: Fn, name: str, alpha: float, beta: float, x: Val) -> Val:
    """An activation of ONNX's list, by its lower-case name (`ir.ops_recurrent.activate`)."""
    match name:
        case "relu":
            return k.select(x < 0.0, 0.0, x)
        case "tanh":
            return vmath.tanh(k, x)
        case "sigmoid":
            return vmath.sigmoid(k, x)
        case "affine":
            return k.fma(x, alpha, beta)
        case "leakyrelu":
            return k.select(x < 0.0, x * alpha, x)
        case "thresholdedrelu":
            return k.select(x < alpha, 0.0, x)
        case "scaledtanh":
            return vmath.tanh(k, x * beta) * alpha
        case "hardsigmoid":
            return vmath.fmax(k, 0.0, vmath.fmin(k, 1.0, k.fma(x, alpha, beta)))
        case "elu":
            return k.select(x < 0.0, vmath.expm1(k, vmath.fmin(k, 0.0, x)) * alpha, x)
        case "softsign":
            return x / (vmath.fabs(k, x) + 1.0)
        case "softplus":
            return vmath.fmax(k, 0.0, x) + vmath.log1p(k, vmath.exp(k, -vmath.fabs(k, x)))
    raise KeyError(name)


class Gates:
    """The gates of some columns of one row.

    product(gate): of h with R; before(gate): of the inputs with W, with the biases; extra("p", gate) and extra("rb"):
    peepholes and the bias inside GRU's reset gate, None where they are absent.
    """

    def __init__(self, k: Fn, attrs: Mapping[str, Any], functions: Functions, product: Callable[[int], Val],
                 before: Callable[[int], Val], extra: Callable[..., Val | None]) -> None:
        self.k, self.attrs, self.functions = k, attrs, functions
        self.product, self.before, self.extra = product, before, extra

    def _act(self, i: int, x: Val) -> Val:
        """Function i of clipped x."""
        clip = self.attrs["clip"]
        if clip is not None:
            x = vmath.fmax(self.k, -clip, vmath.fmin(self.k, clip, x))
        return activate(self.k, *self.functions[i], x)

    def _sum(self, gate: int) -> Val:
        return self.before(gate) + self.product(gate)

    def rnn(self) -> Val:
        """The new h."""
        return self._act(0, self._sum(0))

    def lstm(self, c: Val) -> tuple[Val, Val]:
        """The new (h, c)."""
        def peeping(gate: int, cell: Val) -> Val:
            p = self.extra("p", gate)
            return self._sum(gate) if p is None else self.k.fma(p, cell, self._sum(gate))

        i = self._act(0, peeping(0, c))
        f = self.k.const(c.ty, 1.0) - i if self.attrs["coupled"] else self._act(0, peeping(2, c))
        new = self.k.fma(f, c, i * self._act(1, self._sum(3)))
        return self._act(0, peeping(1, new)) * activate(self.k, *self.functions[2], new), new

    def two(self, h: Val) -> tuple[Val, Val]:
        """GRU's first pass: (z, reset * h)."""
        return self._act(0, self._sum(0)), self._act(0, self._sum(1)) * h

    def gru(self, h: Val, z: Val | None) -> Val:
        """The new h; z is there in the second of two passes."""
        if z is None:
            z, reset, inner = self._act(0, self._sum(0)), self._act(0, self._sum(1)), self.product(2)
            bias = self.extra("rb")
            new = self.k.fma(reset, inner if bias is None else inner + bias, self.before(2))
        else:
            new = self._sum(2)
        new = self._act(1, new)
        return self.k.fma(z, h, new * (self.k.const(z.ty, 1.0) - z))
