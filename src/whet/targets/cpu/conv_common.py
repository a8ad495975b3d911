"""A convolution region as loops: pixels, taps, channels and groups; and its view as a matrix product."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from whet.ir.dtypes import DType
from whet.ir.expr import ANCHOR, Apply, Expr, Leaf
from whet.ir.region import Region, Tensor
from whet.ir.symbolic import Dim, Shape, is_static
from whet.targets.cpu.gemm_problem import Problem, matmul_problem

FLOATS = (DType.F32, DType.BF16, DType.F16)  # computed in fp32
INTEGERS = (DType.U8, DType.I8, DType.I32)   # operands and sums of integer products


@dataclass(frozen=True)
class Conv:
    """The loops of a `conv` region in channels-last layout.

    x[n, spatial.., groups * cg], w[groups * og, cg, kernel..] -> out[n, out.., groups * og]. `pads` are the
    paddings before each spatial dimension (negative ones crop); those after it follow from `out`.
    """

    n: Dim
    spatial: Shape
    out: Shape
    groups: int
    cg: int
    og: int
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]

    @property
    def taps(self) -> int:
        return math.prod(self.kernel)

    @property
    def depth(self) -> int:
        """Products per output element: taps times input channels of a group."""
        return self.taps * self.cg

    @property
    def pads_after(self) -> Shape:
        """How far the last window reaches past each spatial dimension (negative: not to its end)."""
        return tuple((o - 1) * s + (k - 1) * d + 1 - p - i for o, s, k, d, p, i in
                     zip(self.out, self.strides, self.kernel, self.dilations, self.pads, self.spatial, strict=True))

    @property
    def plain(self) -> bool:
        """True if each output pixel reads exactly the input pixel of the same position."""
        return all(k == s == 1 for k, s in zip(self.kernel, self.strides)) and not any(self.pads) \
            and self.spatial == self.out


def conv_of(region: Region) -> Conv:
    """The loops of a `conv` region."""
    at, x, w = region.attrs, region.inputs[0], region.inputs[1]
    r, g = len(x.shape) - 2, at["group"]
    o, cg, *kernel = _ints(w.shape)
    pads = tuple(at["pads"]) or (0,) * 2 * r
    return Conv(x.shape[0], x.shape[1:-1], region.output.shape[1:-1], g, cg, o // g, tuple(kernel),
                tuple(at["strides"]) or (1,) * r, tuple(at["dilations"]) or (1,) * r, pads[:r])


def _ints(shape: Shape) -> list[int]:
    return [int(d) for d in shape]  # type: ignore[arg-type]


def conv_reason(region: Region, const_weights: bool = True, dtypes: tuple[DType, ...] = FLOATS) -> str:
    """Why no convolution tactic takes this region; "" if one may."""
    x, w, out = region.inputs[0], region.inputs[1], region.output
    if region.prologue:
        return "operands computed on load are not supported"
    if not region.attrs.get("channels_last"):
        return "the layout is not channels-last"
    for name, t in (("x", x), ("w", w), ("the result", region.anchor)):
        if t.dtype not in dtypes:
            return f"{name} is {t.dtype.value}, not one of {', '.join(d.value for d in dtypes)}"
    if const_weights and not w.const:
        return "the weights are not constant"
    if not is_static(w.shape):
        return "the weights' shape is symbolic"
    return unit_reason(region, x, out)


def unit_reason(region: Region, x: Tensor, out: Tensor) -> str:
    """Why vectors along the channels cannot be loaded and stored; "" if they can."""
    if not contiguous(x):
        return "x's channels are not contiguous"
    if not contiguous(out):
        return "the output's channels are not contiguous"
    for i in region.epilogue.leaves if region.epilogue is not None else ():
        t = region.inputs[i]
        if t.shape and not contiguous(t) and t.strides[-1] != 0:
            return f"epilogue input {i} is not contiguous in its last dimension"
    return ""


def contiguous(t: Tensor) -> bool:
    """True if the last dimension has stride 1 (or one element)."""
    return t.shape[-1] == 1 or t.strides[-1] == 1


def with_bias(region: Region) -> Expr | None:
    """The epilogue with the anchor's optional third operand, the bias, added first."""
    if region.n_anchor < 3:
        return region.epilogue
    t = region.anchor.dtype
    biased = Expr((Leaf(ANCHOR, t), Leaf(2, region.inputs[2].dtype), Apply("cast", (1,), t), Apply("add", (0, 2), t)))
    if region.inputs[2].dtype is t:
        biased = Expr((Leaf(ANCHOR, t), Leaf(2, t), Apply("add", (0, 1), t)))
    return biased if region.epilogue is None else region.epilogue.inline(ANCHOR, biased)


def matmul_region(region: Region, pixels: bool = False) -> Region:
    """The convolution as a matmul region: out[n, spatial.., o] = windows[n, spatial.., depth] @ w[depth, o].

    Groups become a leading batch dimension of every operand. With `pixels` (a `plain` convolution) the windows are
    the input's own pixels; else A is a stand-in whose strides along the rows are 0, for kernels that make their
    rows themselves: a row's flat pixel is `batch element * m + row`, groups left out.
    """
    c, x, rank = conv_of(region), region.inputs[0], len(region.output.shape)
    lead = region.output.shape[:-1]
    strides = x.strides[:-1] if pixels else (0,) * len(lead)
    a = Tensor(x.dtype, (*lead, c.depth), (*strides, 1))
    b = Tensor.dense(region.inputs[1].dtype, (c.depth, c.og), const=True)
    others = region.inputs[2:]
    out, anchor = region.output, region.anchor
    if c.groups > 1:
        a = Tensor(a.dtype, (c.groups, *a.shape), (c.cg if pixels else 0, *a.strides))
        b = Tensor.dense(b.dtype, (c.groups, *(1,) * (rank - 2), c.depth, c.og), const=True)
        others = tuple(_grouped(t, c.groups, rank) for t in others)
        out, anchor = _grouped(out, c.groups, rank), _grouped(anchor, c.groups, rank)
    return replace(region, kind="matmul", attrs={}, inputs=(a, b, *others), n_anchor=2, output=out, anchor=anchor,
                   epilogue=with_bias(region))


def _grouped(t: Tensor, groups: int, rank: int) -> Tensor:
    """A tensor [.., groups * c] as [groups, .., c]."""
    missing = rank - len(t.shape)
    shape, strides = (1,) * missing + t.shape, (0,) * missing + t.strides
    c = shape[-1]
    if c == 1:
        return Tensor(t.dtype, (1, *shape), (0, *strides), t.const)
    assert isinstance(c, int)
    return Tensor(t.dtype, (groups, *shape[:-1], c // groups), (c // groups * strides[-1], *strides), t.const)


def pixel_problem(region: Region) -> Problem:
    """The loops of `matmul_region`: rows are merged over batch and spatial dimensions where the output and the
    epilogue's inputs allow it."""
    return matmul_problem(matmul_region(region))


def weight_matrix(w: np.ndarray, groups: int) -> np.ndarray:
    """OI.. weights as `matmul_region`'s B, taps in row-major order and channels fastest along K."""
    o, cg = w.shape[:2]
    taps_last = w.reshape(groups, o // groups, cg, -1)
    b = np.ascontiguousarray(taps_last.transpose(0, 3, 2, 1).reshape(groups, -1, o // groups))
    return b[0] if groups == 1 else b.reshape(groups, *(1,) * (w.ndim - 2), *b.shape[1:])


def conv_flops(region: Region, at: dict[str, int] | None = None) -> float:
    """Multiply-adds at the profile's optimum."""
    from whet.ir.symbolic import evaluate

    env: dict[str, Any] = {name: r[1] for name, r in region.dims.items()} if at is None else dict(at)
    c = conv_of(region)
    pixels = math.prod(evaluate(d, env) for d in (c.n, *c.out))
    return float(pixels) * c.groups * c.og * c.depth
