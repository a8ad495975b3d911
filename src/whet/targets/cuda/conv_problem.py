"""A convolution region as loops: pixels, taps, channels and groups; the types it is computed in."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from whet.ir.dtypes import DType
from whet.ir.expr import ANCHOR, Apply, Expr, Leaf
from whet.ir.region import Region
from whet.ir.symbolic import Dim, Shape, is_static, product
from whet.targets.cuda.shapes import greatest, is_long, reach

FLOATS = (DType.F32, DType.BF16, DType.F16)
CODES = (DType.I8, DType.U8)


@dataclass(frozen=True)
class Conv:
    """The loops of a `conv` or `conv_transpose` region in channels-last layout.

    x[n, spatial.., groups * cg], out[n, out.., groups * og]. `pads` are the paddings before each spatial dimension
    (negative ones crop); those after it follow from `out`, and are at most `ends`.
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
    ends: tuple[int, ...]

    @property
    def taps(self) -> int:
        return math.prod(self.kernel)

    @property
    def depth(self) -> int:
        """Products per output element: taps times input channels of a group."""
        return self.taps * self.cg

    @property
    def pixels(self) -> Dim:
        """Output pixels of the whole batch."""
        return product((self.n, *self.out))

    @property
    def lead(self) -> Shape:
        """The output's dimensions before the channels."""
        return (self.n, *self.out)

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

    def inside(self, i: int) -> bool:
        """True if no window leaves the input along spatial dimension i, whatever its size."""
        after = self.pads_after[i]
        return self.pads[i] <= 0 and (self.ends[i] <= 0 or (isinstance(after, int) and after <= 0))


def conv_of(region: Region) -> Conv:
    """The loops of a `conv` or `conv_transpose` region."""
    at, x, w = region.attrs, region.inputs[0], region.inputs[1]
    r, g = len(x.shape) - 2, at["group"]
    a, b, *kernel = (int(d) for d in w.shape)  # type: ignore[arg-type]
    og, cg = (a // g, b) if region.kind == "conv" else (b, a // g)
    pads = tuple(at["pads"]) or (0,) * 2 * r
    return Conv(x.shape[0], x.shape[1:-1], region.output.shape[1:-1], g, cg, og, tuple(kernel),
                tuple(at["strides"]) or (1,) * r, tuple(at["dilations"]) or (1,) * r, pads[:r], pads[r:])


def conv_reason(region: Region, on_load: bool = False, mean: bool = False) -> str:
    """Why no convolution tactic in Triton takes this region; "" if one may. on_load: for tactics that compute x as
    they load it (the prologue); mean: for those that give the mean over the pixels, too."""
    x, w = region.inputs[0], region.inputs[1]
    if region.extra_outputs and not mean:
        return "the mean over the pixels is not supported"
    if set(region.prologue) - ({0} if on_load else set()):
        return "operands computed on load are not supported"
    if not region.attrs.get("channels_last"):
        return "the layout is not channels-last"
    if not is_static(w.shape):
        return "the weights' shape is symbolic"
    if not isinstance(x.shape[-1], int):
        return "the number of channels is symbolic"
    if region.compute == "int8":
        return "" if x.dtype in CODES and w.dtype is DType.I8 else f"codes of {x.dtype.value} and {w.dtype.value}"
    if region.compute == "f8":
        return "" if x.dtype is w.dtype is DType.F8E4M3FN else f"8-bit floats of {x.dtype.value} and {w.dtype.value}"
    for name, t in (("x", x), ("w", w)):
        if t.dtype not in (*FLOATS, DType.F64):
            return f"{name} is {t.dtype.value}"
    if not region.anchor.dtype.is_float:
        return f"the result is {region.anchor.dtype.value}"
    return ""


@dataclass(frozen=True)
class Product:
    """How products are taken: both operands become `operand`, sums are `sums`; `precision` is `tl.dot`'s of f32."""

    operand: DType
    sums: DType
    precision: str = ""

    @property
    def least_depth(self) -> int:
        """The least number of products that one `tl.dot` sums up."""
        return 32 if self.operand.size == 1 else 16

    @property
    def np(self) -> np.dtype:
        return self.operand.np


def product_of(region: Region) -> Product:
    """The types in which a region's products are taken."""
    x, w = region.inputs[0].dtype, region.inputs[1].dtype
    if region.compute == "int8":
        return Product(DType.I8, DType.I32)
    if region.compute == "f8":
        return Product(DType.F8E4M3FN, DType.F32)
    if DType.F64 in (x, w, region.anchor.dtype):
        return Product(DType.F64, DType.F64)
    if region.compute in ("f16", "bf16"):
        return Product(DType.F16 if region.compute == "f16" else DType.BF16, DType.F32)
    if x is w and x in (DType.F16, DType.BF16):  # products of 11 (8) bits are exact in f32
        return Product(x, DType.F32)
    return Product(DType.F32, DType.F32, "tf32" if region.compute == "tf32" else "ieee")


def with_bias(region: Region) -> Region:
    """The region with the anchor's optional third operand, the bias, added first in its epilogue."""
    if region.n_anchor < 3:
        return region
    t, b = region.anchor.dtype, region.inputs[2].dtype
    terms = (Leaf(ANCHOR, t), Leaf(2, t), Apply("add", (0, 1), t)) if b is t else \
        (Leaf(ANCHOR, t), Leaf(2, b), Apply("cast", (1,), t, (("to", t),)), Apply("add", (0, 2), t))
    biased = Expr(terms)
    e = biased if region.epilogue is None else region.epilogue.inline(ANCHOR, biased)
    return replace(region, n_anchor=2, epilogue=e)


def merged(shape: Shape, strides: Shape) -> Dim | None:
    """The stride along dimensions taken as one, or None where they do not merge."""
    step: Dim | None = None
    reach: Dim = 0
    for d, s in zip(reversed(shape), reversed(strides), strict=True):
        if d == 1:
            continue
        if step is None:
            step = s
        elif reach != s:
            return None
        reach = s * d
    return 0 if step is None else step


def is_wide(region: Region, *more: Dim) -> bool:
    """True if an offset in one of the region's tensors (or one of `more`) may not fit i32."""
    reaches = (reach(region, t) for t in (*region.inputs, region.output))
    return is_long(max((*reaches, *(greatest(region, d) for d in more))))


def code_offset(region: Region) -> int:
    """What is subtracted from codes of u8 to make them i8 (0 for other types)."""
    return 128 if region.compute == "int8" and region.inputs[0].dtype is DType.U8 else 0
