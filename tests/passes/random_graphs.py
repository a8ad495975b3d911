"""Random graphs of every kind of operator, for tests that a rewrite keeps what a graph computes."""

import numpy as np

from whet.ir.dtypes import DType
from whet.ir.graph import Graph, Value
from whet.ir.symbolic import symbol

UNARY = ("neg", "abs", "relu", "tanh", "sigmoid", "sin", "erf", "silu", "hardswish", "gelu")  # continuous
BINARY = ("add", "sub", "mul", "max", "min", "div")


class RandomGraph:
    """A graph built step by step; `feeds` are inputs for it."""

    def __init__(self, seed: int, steps: int = 14, dynamic: bool | None = None) -> None:
        self.rng = np.random.default_rng(seed)
        self.g = Graph(f"random{seed}")
        self.feeds: dict[str, np.ndarray] = {}
        dynamic = bool(self.rng.integers(2)) if dynamic is None else dynamic
        self.batch = symbol("n") if dynamic else 2
        if dynamic:
            self.g.dims["n"] = (1, 2, 8)
        c, h, w = (int(self.rng.choice([2, 4, 6])), int(self.rng.integers(3, 7)), int(self.rng.integers(3, 7)))
        self.values: list[Value] = [self._input("x", (self.batch, c, h, w)), self._input("y", (self.batch, c, h, w)),
                                    self._input("z", (self.batch, 5, 8))]
        makers = [self.unary, self.binary, self.binary, self.with_constant, self.with_constant, self.conv, self.conv,
                  self.pool, self.reduce, self.softmax, self.reshape, self.transpose, self.slice, self.concat, self.pad,
                  self.matmul, self.written_out, self.written_out, self.select, self.expand, self.attention,
                  self.shuffle, self.norm]
        made = 0
        while made < steps:
            v = self.values[int(self.rng.integers(max(0, len(self.values) - 6), len(self.values)))]
            out = makers[int(self.rng.integers(len(makers)))](v)
            if out is not None:
                self.values.append(out)
                made += 1
        used = {v for n in self.g.nodes for v in n.inputs}
        ends = [v for v in self.values if v not in used and v.producer is not None]
        self.g.outputs = (ends or [self.values[-1]])[-4:]
        self.g.output_names = [f"out{i}" for i in range(len(self.g.outputs))]
        self.g.prune()

    def _input(self, name: str, shape) -> Value:
        v = Value(name, DType.F32, shape)
        self.g.inputs.append(v)
        self.feeds[name] = self.array([d if isinstance(d, int) else 2 for d in shape])
        return v

    def array(self, shape) -> np.ndarray:
        return self.rng.standard_normal(shape).astype(np.float32)

    def const(self, shape, positive: bool = False) -> Value:
        a = self.array(shape)
        return self.g.const((np.abs(a) + 0.5 if positive else a).astype(np.float32))

    def op(self, name: str, *ins, **attrs) -> Value:
        return self.g.add(name, ins, attrs)

    def number(self, x: float) -> Value:
        return self.g.const(np.float32(x))

    # -- one step each: a new value, or None if v does not suit ------------------------------------------

    def unary(self, v):
        return self.op(str(self.rng.choice(UNARY)), v)

    def binary(self, v):
        same = [x for x in self.values if x.shape == v.shape]
        other = same[int(self.rng.integers(len(same)))]
        return self.op(str(self.rng.choice(BINARY[:5])), v, other)

    def with_constant(self, v):
        name = str(self.rng.choice([*BINARY, "pow"]))
        kind = int(self.rng.integers(5))
        if name == "pow":
            return self.op("pow", self.op("abs", v), self.number(float(self.rng.choice([0.5, 1, 2, 3]))))
        if kind == 0:
            c = self.number(float(self.rng.choice([0, 1, 2, 0.5, 3, -1])) if name != "div" else 2.0)
        elif kind == 1 and v.rank == 4 and isinstance(v.shape[1], int):
            c = self.const((v.shape[1], 1, 1), positive=name == "div")
        elif kind == 2 and v.rank and isinstance(v.shape[-1], int):
            c = self.const((v.shape[-1],), positive=name == "div")
        elif all(isinstance(d, int) for d in v.shape[1:]):
            c = self.const(v.shape[1:], positive=name == "div")
        else:
            return None
        return self.op(name, *((v, c) if name == "div" or self.rng.integers(2) else (c, v)))

    def conv(self, v):
        if v.rank != 4 or not all(isinstance(d, int) for d in v.shape[1:]) or min(v.shape[2:]) < 3:
            return None
        c = v.shape[1]
        k = int(self.rng.choice([1, 3]))
        group = int(self.rng.choice([g for g in (1, 2, c) if c % g == 0]))
        out = group * int(self.rng.integers(1, 3))
        x = v
        if k == 3 and self.rng.integers(3) == 0:
            x = self.op("pad", v, pads=(0, 0, 1, 1, 0, 0, 1, 1), mode="constant", value=0.0)
        p = int(self.rng.integers(2)) if k == 3 else 0
        ins = [x, self.const((out, c // group, k, k))] + ([self.const((out,))] if self.rng.integers(2) else [])
        y = self.op("conv", *ins, strides=(int(self.rng.integers(1, 3)),) * 2, dilations=(1, 1), pads=(p,) * 4,
                    group=group, channels_last=False)
        for step in ("mul", "add"):
            if self.rng.integers(2):
                y = self.op(step, y, self.const((out, 1, 1)))
        return self.op("relu", y) if self.rng.integers(2) else y

    def pool(self, v):
        if v.rank != 4 or not all(isinstance(d, int) and d >= 3 for d in v.shape[2:]):
            return None
        x = self.op("relu", v)
        if self.rng.integers(2):
            x = self.op("pad", x, pads=(0, 0, 1, 0, 0, 0, 1, 1), mode="constant", value=0.0)
        return self.op("pool", x, kind=str(self.rng.choice(["max", "average"])), kernel=(2, 2), strides=(1, 2),
                       dilations=(1, 1), pads=(0, 0, 0, 0), count_include_pad=bool(self.rng.integers(2)),
                       ceil_mode=False, channels_last=False)

    def reduce(self, v):
        if v.rank < 2:
            return None
        axes = tuple(sorted(self.rng.choice(v.rank, size=int(self.rng.integers(1, 3)), replace=False).tolist()))
        return self.op("reduce", v, kind=str(self.rng.choice(["sum", "mean", "max", "min"])), axes=axes,
                       keepdims=bool(self.rng.integers(2)))

    def softmax(self, v):
        return self.op("softmax", v, axis=int(self.rng.integers(v.rank)), log=False) if v.rank else None

    def reshape(self, v):
        if v.rank == 4:
            n, c, h, w = v.shape
            options = [(n, c, h * w), (n, c * h * w), (n, 1, c, h, w), (n * c, h, w)]
            return self.op("reshape", v, shape=options[int(self.rng.integers(len(options)))])
        if v.rank == 3 and isinstance(v.shape[2], int) and v.shape[2] % 2 == 0:
            return self.op("reshape", v, shape=(*v.shape[:2], 2, v.shape[2] // 2))
        return None

    def transpose(self, v):
        return self.op("transpose", v, perm=tuple(self.rng.permutation(v.rank).tolist())) if v.rank > 1 else None

    def slice(self, v):
        axis = v.rank - 1
        if not v.rank or not isinstance(v.shape[axis], int) or v.shape[axis] < 3:
            return None
        starts = tuple(1 if i == axis else 0 for i in range(v.rank))
        sizes = tuple(2 if i == axis else d for i, d in enumerate(v.shape))
        return self.op("slice", v, starts=starts, sizes=sizes, steps=(1,) * v.rank)

    def concat(self, v):
        same = [x for x in self.values if x.shape == v.shape]
        return self.op("concat", v, same[0], v, axis=int(self.rng.integers(v.rank))) if v.rank else None

    def pad(self, v):
        if v.rank < 2:
            return None
        before, after = ((0,) * (v.rank - 1) + (n,) for n in (1, 2))
        return self.op("pad", v, pads=before + after, mode="constant", value=0.5)

    def matmul(self, v):
        if v.rank < 2 or not isinstance(v.shape[-1], int):
            return None
        y = self.op("matmul", v, self.const((v.shape[-1], 4)))
        return self.op("add", y, self.const((4,))) if self.rng.integers(2) else y

    def written_out(self, v):
        g = self.op
        kind = int(self.rng.integers(6))
        if kind == 0:
            gate = g("add", g("erf", g("div", v, self.number(2 ** 0.5))), self.number(1))
            return g("mul", g("mul", v, self.number(0.5)), gate)
        if kind == 1:
            cubic = g("add", v, g("mul", g("pow", v, self.number(3)), self.number(0.044715)))
            inner = g("mul", cubic, self.number((2 / np.pi) ** 0.5))
            return g("mul", self.number(0.5), g("mul", v, g("add", g("tanh", inner), self.number(1))))
        if kind == 2:
            return g("mul", v, g("sigmoid", v))
        if kind == 3:
            six = g("min", g("max", g("add", v, self.number(3)), self.number(0)), self.number(6))
            return g("div", g("mul", v, six), self.number(6))
        axis = v.rank - 1
        if axis < 1 or not isinstance(v.shape[axis], int):
            return None
        if kind == 4:
            e = g("exp", g("sub", v, g("reduce", v, kind="max", axes=(axis,), keepdims=True)))
            return g("div", e, g("reduce", e, kind="sum", axes=(axis,), keepdims=True))
        d = g("sub", v, g("reduce", v, kind="mean", axes=(axis,), keepdims=True))
        var = g("reduce", g("pow", d, self.number(2)), kind="mean", axes=(axis,), keepdims=True)
        y = g("div", d, g("sqrt", g("add", var, self.number(1e-3))))
        return g("add", g("mul", y, self.const((v.shape[axis],))), self.const((v.shape[axis],)))

    def select(self, v):
        cond = self.op("gt", v, self.number(0.0))
        if self.rng.integers(3) == 0:
            cond = self.op("or", cond, self.g.const(np.array([True])))
        return self.op("where", cond, v, self.op("mul", v, self.number(0.25)))

    def expand(self, v):
        e = self.op("expand", self.number(1.5), shape=v.shape)
        return self.op("add", v, self.op("mul", e, self.number(2)))

    def attention(self, v):
        if v.rank != 3 or v.shape[2] != 8:
            return None
        g = self.op
        q, k, u = (g("transpose", g("reshape", g("add", g("matmul", v, self.const((8, 8))), self.const((8,))),
                                    shape=(*v.shape[:2], 2, 4)), perm=(0, 2, 1, 3)) for _ in range(3))
        s = g("matmul", g("mul", q, self.number(0.5)), g("mul", g("transpose", k, perm=(0, 1, 3, 2)), self.number(0.5)))
        p = g("softmax", s, axis=3, log=False)
        if self.rng.integers(2):
            p = g("where", g("isnan", p), self.number(0), p)
        return g("reshape", g("transpose", g("matmul", p, u), perm=(0, 2, 1, 3)), shape=v.shape)

    def shuffle(self, v):
        if v.rank != 4 or not isinstance(v.shape[1], int) or v.shape[1] % 2:
            return None
        n, c, h, w = v.shape
        y = self.op("transpose", self.op("reshape", v, shape=(n, 2, c // 2, h, w)), perm=(0, 2, 1, 3, 4))
        return self.op("reshape", y, shape=v.shape)

    def norm(self, v):
        if v.rank == 4 and isinstance(v.shape[1], int):
            c = v.shape[1]
            return self.op("groupnorm", v, self.const((c,)), self.const((c,)), groups=1, epsilon=1e-3)
        if v.rank and isinstance(v.shape[-1], int):
            scale, bias = self.const(v.shape[-1:]), self.const(v.shape[-1:])
            return self.op("layernorm", v, scale, bias, axis=v.rank - 1, epsilon=1e-3)
        return None
