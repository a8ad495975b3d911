"""The equations of LSTM, GRU and RNN on a tile of rows and columns, as text of Triton's language."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from whet.targets.cuda.expr import division, exponential
from whet.targets.cuda.kernel import Source

Functions = Sequence[tuple[str, float, float]]  # name, alpha, beta: f, g, h


def activate(s: Source, name: str, alpha: float, beta: float, x: str, double: bool) -> str:
    """An activation of ONNX's list, by its lower-case name (`ir.ops_recurrent.activate`). NaN stays."""
    match name:
        case "relu":
            text = f"tl.where({x} < 0.0, 0.0, {x})"
        case "tanh":
            text = f"libdevice.tanh({x})"
        case "sigmoid":
            grown = s.name_of(f"1.0 + {exponential(f'-{x}', double)}", "grown")
            text = division(s.name_of(f"tl.zeros_like({grown}) + 1.0", "one"), grown, double)
        case "affine":
            text = f"{x} * {alpha!r} + {beta!r}"
        case "leakyrelu":
            text = f"tl.where({x} < 0.0, {x} * {alpha!r}, {x})"
        case "thresholdedrelu":
            text = f"tl.where({x} < {alpha!r}, 0.0, {x})"
        case "scaledtanh":
            text = f"libdevice.tanh({x} * {beta!r}) * {alpha!r}"
        case "hardsigmoid":
            line = s.name_of(f"{x} * {alpha!r} + {beta!r}", "x")
            text = f"tl.where({line} < 0.0, 0.0, tl.where({line} > 1.0, 1.0, {line}))"
        case "elu":
            text = f"tl.where({x} < 0.0, libdevice.expm1({x}) * {alpha!r}, {x})"
        case "softsign":
            text = division(x, s.name_of(f"1.0 + tl.abs({x})", "grown"), double)
        case "softplus":
            text = f"tl.where({x} > 0.0, {x}, tl.where({x} <= 0.0, 0.0, {x}))"
            text += f" + libdevice.log1p({exponential(f'-tl.abs({x})', double)})"
        case _:
            raise KeyError(name)
    return s.name_of(text, "x")


class Gates:
    """The gates of a tile.

    product(gate): of h with R; before(gate): of the inputs with W, with the biases; extra("p", gate) and extra("rb"):
    peepholes and the bias inside GRU's reset gate, None where they are absent. All give names of values.
    """

    def __init__(self, s: Source, attrs: Mapping[str, Any], double: bool, product: Callable[[int], str],
                 before: Callable[[int], str], extra: Callable[..., str | None]) -> None:
        self.s, self.attrs, self.double = s, attrs, double
        self.product, self.before, self.extra = product, before, extra

    def _function(self, i: int, x: str) -> str:
        """Function i of x, by the direction `d`."""
        each = [functions[i] for functions in self.attrs["activations"]]
        made = []
        for name, alpha, beta in each[:1] if all(f == each[0] for f in each) else each[:2]:
            made.append(activate(self.s, name, alpha, beta, x, self.double))
        return made[0] if len(made) == 1 else self.s.name_of(f"tl.where(d == 0, {made[0]}, {made[1]})", "x")

    def _act(self, i: int, x: str) -> str:
        """Function i of clipped x."""
        clip = self.attrs["clip"]
        if clip is not None:
            x = self.s.name_of(f"tl.where({x} < {-clip!r}, {-clip!r}, tl.where({x} > {clip!r}, {clip!r}, {x}))", "x")
        return self._function(i, x)

    def _sum(self, gate: int) -> str:
        return self.s.name_of(f"{self.before(gate)} + {self.product(gate)}", "x")

    def rnn(self) -> str:
        """The new h."""
        return self._act(0, self._sum(0))

    def lstm(self, c: str) -> tuple[str, str]:
        """The new (h, c)."""
        s = self.s

        def peeping(gate: int, cell: str) -> str:
            p = self.extra("p", gate)
            return self._sum(gate) if p is None else s.name_of(f"{self._sum(gate)} + {p} * {cell}", "x")

        i = self._act(0, peeping(0, c))
        f = s.name_of(f"1.0 - {i}", "x") if self.attrs["coupled"] else self._act(0, peeping(2, c))
        new = s.name_of(f"{f} * {c} + {i} * {self._act(1, self._sum(3))}", "cell")
        out = self._act(0, peeping(1, new))
        return s.name_of(f"{out} * {self._function(2, new)}", "h"), new

    def two(self, h: str) -> tuple[str, str]:
        """GRU's first pass: (z, reset * h)."""
        return self._act(0, self._sum(0)), self.s.name_of(f"{self._act(0, self._sum(1))} * {h}", "x")

    def gru(self, h: str, z: str | None) -> str:
        """The new h; z is there in the second of two passes."""
        s = self.s
        if z is None:
            z, reset, inner = self._act(0, self._sum(0)), self._act(0, self._sum(1)), self.product(2)
            bias = self.extra("rb")
            inner = inner if bias is None else s.name_of(f"{inner} + {bias}", "x")
            new = s.name_of(f"{self.before(2)} + {reset} * {inner}", "x")
        else:
            new = self._sum(2)
        new = self._act(1, new)
        return s.name_of(f"{z} * {h} + {new} * (1.0 - {z})", "h")
