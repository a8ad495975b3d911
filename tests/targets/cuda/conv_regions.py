"""Convolution regions for tests of the CUDA target, and what they should give, in float64."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from whet.ir.dtypes import DType
from whet.ir.expr import ANCHOR, Apply, Expr, Imm, Leaf
from whet.ir.graph import Node, Value
from whet.ir.ops import evaluate as evaluate_op
from whet.ir.region import Region, Tensor
from whet.ir.symbolic import Dim, evaluate
from whet.targets.cuda.compile import to_object
from whet.targets.cuda.conv_problem import product_of
from whet.targets.cuda.gpu import typical

F32, F16, BF16 = DType.F32, DType.F16, DType.BF16
SM90, SM80 = typical((9, 0)), typical((8, 0))


def strided(dtype: DType, shape: Sequence[Dim], gap: int = 0, const: bool = False) -> Tensor:
    """Row-major, with `gap` elements between the innermost rows."""
    strides: list[Dim] = [1]
    step: Dim = shape[-1] + gap
    for d in reversed(shape[1:-1]):
        strides.append(step)
        step = step * d
    return Tensor(dtype, tuple(shape), (step, *reversed(strides)) if len(shape) > 1 else (1,), const)


def channels_first(dtype: DType, shape: Sequence[Dim]) -> Tensor:
    """[n, spatial.., c] as it lies in a tensor [n, c, spatial..]."""
    n, *spatial, c = shape
    t = Tensor.dense(dtype, (n, c, *spatial))
    return Tensor(dtype, tuple(shape), (t.strides[0], *t.strides[2:], t.strides[1]))


def conv(x: Sequence[Dim], o: int, kernel: Sequence[int], *, strides: Sequence[int] = (), pads: Sequence[int] = (),
         dilations: Sequence[int] = (), group: int = 1, bias: bool = False, dtype: DType = F16,
         w_dtype: DType | None = None, out: DType | None = None, compute: str = "", x_tensor: Tensor | None = None,
         gap: int = 0, dims: Mapping[str, tuple[int, int, int]] | None = None, const: bool = True, pad_value: int = 0,
         kind: str = "conv", output_padding: Sequence[int] = ()) -> Region:
    """A `conv` or `conv_transpose` region over x [n, spatial.., c], without epilogue but the cast to `out`."""
    r = len(kernel)
    strides, dilations = tuple(strides) or (1,) * r, tuple(dilations) or (1,) * r
    pads = tuple(pads) or (0,) * 2 * r
    extra = tuple(output_padding) or (0,) * r
    transposed = kind == "conv_transpose"
    sizes: list[Dim] = []
    for i in range(r):
        span = (kernel[i] - 1) * dilations[i] + 1
        sizes.append((x[1 + i] - 1) * strides[i] + span + extra[i] - pads[i] - pads[r + i] if transposed
                     else (x[1 + i] + pads[i] + pads[r + i] - span) // strides[i] + 1)
    c, shape = x[-1], (x[0], *sizes, o)
    assert isinstance(c, int)
    codes = dtype in (DType.I8, DType.U8)
    compute = compute or {F16: "f16", BF16: "bf16", DType.F8E4M3FN: "f8"}.get(dtype, "int8" if codes else "f32")
    anchor = DType.I32 if codes else DType.F64 if dtype is DType.F64 else F32
    w = Tensor.dense(DType.I8 if codes else w_dtype or dtype,
                     (c, o // group, *kernel) if transposed else (o, c // group, *kernel), const)
    inputs = [x_tensor or strided(dtype, x, gap), w]
    if bias:
        inputs.append(Tensor.dense(F32 if dtype.size < 4 else dtype, (o,), const=True))
    at: dict[str, Any] = {"strides": strides, "dilations": dilations, "pads": pads, "group": group,
                          "channels_last": True}
    at |= {"output_padding": extra} if transposed else {"pad_value": pad_value}
    out = out or (dtype if dtype in (F32, F16, BF16, DType.F64) else anchor)
    e = None if out is anchor else Expr((Leaf(ANCHOR, anchor), Apply("cast", (0,), out, (("to", out),))))
    return Region(kind, at, tuple(inputs), len(inputs), strided(out, shape, gap), Tensor.dense(anchor, shape), e,
                  dims=dict(dims or {}), compute=compute)


class Chain:
    """An epilogue, built in f32: `Chain(region).per_channel("add").unary("relu").done()`."""

    def __init__(self, region: Region) -> None:
        self.region = region
        self.inputs = list(region.inputs)
        self.terms: list[Any] = [Leaf(ANCHOR, region.anchor.dtype)]
        if region.anchor.dtype is not F32:
            self._apply("cast", 0, to=F32)

    def _put(self, t: Any) -> int:
        self.terms.append(t)
        return len(self.terms) - 1

    def _apply(self, op: str, *args: int, dtype: DType = F32, **attrs: Any) -> Chain:
        self._put(Apply(op, args, attrs.get("to", dtype), tuple(attrs.items())))
        return self

    def tensor(self, op: str, t: Tensor, first: bool = False) -> Chain:
        """op(so far, another tensor)."""
        last = len(self.terms) - 1
        self.inputs.append(t)
        other = self._put(Leaf(len(self.inputs) - 1, t.dtype))
        if t.dtype is not F32:
            other = self._put(Apply("cast", (other,), F32, (("to", F32),)))
        return self._apply(op, *((other, last) if first else (last, other)))

    def per_channel(self, op: str, dtype: DType = F32) -> Chain:
        o = self.region.output.shape[-1]
        return self.tensor(op, Tensor.dense(dtype, (o,), const=True))

    def residual(self, op: str = "add", dtype: DType | None = None, gap: int = 0) -> Chain:
        return self.tensor(op, strided(dtype or self.region.output.dtype, self.region.output.shape, gap))

    def unary(self, op: str, **attrs: Any) -> Chain:
        return self._apply(op, len(self.terms) - 1, **attrs)

    def number(self, op: str, value: float) -> Chain:
        last = len(self.terms) - 1
        return self._apply(op, last, self._put(Imm(value, F32)))

    def done(self, out: DType | None = None) -> Region:
        out = out or self.region.output.dtype
        if self.terms[-1].dtype is not out:
            self.unary("cast", to=out)
        return replace(self.region, inputs=tuple(self.inputs), epilogue=Expr(tuple(self.terms)),
                       output=replace(self.region.output, dtype=out))

    def saturated(self, to: DType = DType.I8, zero: int = 0) -> Region:
        self._put(Apply("saturate", (len(self.terms) - 1,), to, (("zero", zero), ("to", to))))
        return self.done(to)


def data(region: Region, env: Mapping[str, int] | None = None, seed: int = 0) -> list[np.ndarray]:
    """Random inputs of unit order; codes from all there are."""
    rng = np.random.default_rng(seed)
    out = []
    for t in region.inputs:
        shape = [int(evaluate(d, env or {})) for d in t.shape]
        if t.dtype.is_integer:
            i = np.iinfo(t.dtype.np)
            out.append(rng.integers(i.min, i.max, shape, t.dtype.np, endpoint=True))
        else:
            out.append(rng.standard_normal(shape).astype(np.float32).astype(t.dtype.np))
    return out


def reference(region: Region, arrays: Sequence[np.ndarray], env: Mapping[str, int] | None = None) -> np.ndarray:
    """The region's result, its products and sums in float64 (or exact integers) over operands as they are rounded."""
    p = product_of(region)
    integer = p.sums is DType.I32
    wide = np.int32 if integer else np.float64
    ops = list(arrays[:region.n_anchor])
    if not integer:
        rounded = [a.astype(p.operand.np) if p.operand is not DType.F64 else a for a in ops[:2]]
        ops = [a.astype(wide) for a in (*rounded, *ops[2:])]
    at = dict(region.attrs)
    shape = tuple(int(evaluate(d, env or {})) for d in region.anchor.shape)
    values = [Value(f"i{i}", DType.of(a.dtype), a.shape) for i, a in enumerate(ops)]
    raw = evaluate_op(Node(region.kind, list(values), [Value("o", DType.of(wide), shape)], at), ops)[0]
    y = np.asarray(raw).astype(region.anchor.dtype.np)
    if region.epilogue is not None:
        y = region.epilogue.evaluate({ANCHOR: y, **dict(enumerate(arrays))})
    return np.broadcast_to(y, shape).astype(region.output.dtype.np)


def error(got: np.ndarray, want: np.ndarray) -> float:
    """Relative L2 error."""
    g, w = got.astype(np.float64), want.astype(np.float64)
    assert g.shape == w.shape
    return float(np.linalg.norm(g - w) / max(np.linalg.norm(w), 1e-30)) if w.size else 0.0


TOLERANCE = {F32: 2e-6, F16: 1e-3, BF16: 6e-3, DType.F64: 1e-14, DType.I32: 0.0, DType.F8E4M3FN: 0.02}


def check(run: Callable[..., list[np.ndarray]], tactic: Any, region: Region, params: Any = None,
          env: Mapping[str, int] | None = None, tolerance: float | None = None, machine: Any = SM90,
          seed: int = 0, arrays: list[np.ndarray] | None = None) -> None:
    """One setting of a tactic, run by `run`, against float64."""
    reason = tactic.applies(region, machine)
    assert not reason, reason
    if params is None:
        params = next(iter(tactic.space(region, machine, 1)))
    arrays = arrays or data(region, env, seed)
    got = run(region, tactic.implement(region, params, machine, 1), arrays, env)[0]
    want = reference(region, arrays, env)
    out = region.output.dtype
    limit = tolerance if tolerance is not None else TOLERANCE.get(out, 0.0)
    if region.compute == "tf32":
        limit = max(limit, 1e-3)
    if out in (DType.I8, DType.U8):  # a sum near the middle between two codes
        assert np.abs(got.astype(int) - want.astype(int)).max(initial=0) <= 1, params
        assert (got != want).mean() < 0.01, params
        return
    err = error(got, want)
    assert err <= limit, f"{tactic.name} {params}: relative L2 error {err:.2g}"


def compiles(tactic: Any, region: Region, machines: Sequence[Any] = (SM80, SM90), most: int = 1) -> None:
    """Every step of the first settings compiles for these GPUs."""
    for m in machines:
        assert not tactic.applies(region, m)
        for _, params in zip(range(most), tactic.space(region, m, 1)):
            for step in tactic.implement(region, params, m, 1).steps:
                assert to_object(step.kernel.code, m.number)
