"""An attention region as loops, for the tactics of the GPU: operands, heads that share keys, precision of products."""

from __future__ import annotations

from dataclasses import dataclass

from whet.ir.dtypes import DType
from whet.ir.region import Region, Tensor
from whet.ir.symbolic import Dim, lower, upper
from whet.targets.cuda.shapes import operands, optimum, ranges

Q, K, V, MASK, LENGTHS = "q", "k", "v", "mask", "lengths"
OPERANDS = (Q, K, V, MASK, LENGTHS)
WIDEST = 1024  # elements of a head
FLOATS = (DType.F32, DType.F16, DType.BF16, DType.F64)
COMPUTE = ("f32", "tf32", "bf16", "f16", "int8")
_HALF = {"f16": "float16", "bf16": "bfloat16"}


def reason(region: Region) -> str:
    """Why no fused attention takes this region; "" if one may."""
    where = operands(region, OPERANDS)
    q, k, v = region.inputs[:3]
    for name, t in zip("qkv", (q, k, v)):
        if t.dtype not in (*FLOATS, DType.I8):
            return f"{name} is {t.dtype.value}"
        width = t.shape[3]
        if not isinstance(width, int):
            return f"{name}'s last dimension is symbolic"
        if not 0 < width <= WIDEST:
            return f"heads of {width} elements"
    if DType.I8 in (q.dtype, k.dtype, v.dtype) and not (q.dtype is k.dtype is v.dtype and not region.prologue):
        return "codes beside real numbers"
    if any(not 0 <= i < 3 for i in region.prologue):
        return "a mask that is computed on load"
    if region.compute not in COMPUTE:
        return f"products in {region.compute}"
    if MASK in where and region.inputs[where[MASK]].dtype not in (*FLOATS, DType.BOOL):
        return f"the mask is {region.inputs[where[MASK]].dtype.value}"
    return ""


@dataclass(frozen=True)
class Problem:
    """batch x groups heads of keys, each shared by `share` heads of queries; queries x keys scores of each.

    A group's rows are its heads' queries side by side: row r is query r // share of head r % share, so that a tile
    of rows has neighbouring queries, and keys and values are read once for all of its heads.
    d, e: elements of a key and of a value. codes: of 8 bits. real: what scores and sums are, as `tl.` names it.
    """

    region: Region
    where: dict[str, int]
    batch: Dim
    groups: Dim
    share: Dim
    queries: Dim
    keys: Dim
    d: int
    e: int
    codes: bool
    real: str

    @property
    def rows(self) -> Dim:
        return self.queries * self.share

    def tensor(self, name: str) -> Tensor:
        return self.region.inputs[self.where[name]]

    def range(self, d: Dim) -> tuple[int, int]:
        """The least and the greatest value."""
        r = ranges(self.region)
        return lower(d, r), upper(d, r)

    def opt(self, d: Dim) -> int:
        return optimum(self.region, d)

    def product(self, second: bool) -> tuple[str, str | None]:
        """What the operands of the scores (or, `second`, of the result) are, as tl. names it; the precision of their
        product where there is a choice.

        Two 16-bit operands give the same scores as in f32: their products are exact there. Probabilities are f32.
        """
        if self.codes:
            return "float16", None  # products of 8-bit codes are exact in f32, sums below 2^24 too
        if self.real == "float64":
            return "float64", "ieee"
        compute = self.region.compute
        if compute in _HALF:
            return _HALF[compute], None
        types = {self.region.prologue[i].dtype if i in self.region.prologue else self.region.inputs[i].dtype
                 for i in range(2)}
        if not second and types in ({DType.F16}, {DType.BF16}):
            return ("float16" if DType.F16 in types else "bfloat16"), None
        return "float32", "tf32" if compute == "tf32" else "ieee"


def problem(region: Region) -> Problem:
    """The loops; `reason` must have found none."""
    q, k, v = region.inputs[:3]
    out = region.output
    groups = k.shape[1] if k.shape[1] != 1 else v.shape[1]
    heads = out.shape[1]
    share: Dim = 1 if heads == groups else heads // groups
    codes = q.dtype is DType.I8
    d, e = q.shape[3], v.shape[3]
    assert isinstance(d, int)
    assert isinstance(e, int)
    real = "float64" if region.anchor.dtype is DType.F64 else "float32"
    where = operands(region, OPERANDS)
    return Problem(region, where, out.shape[0], groups, share, out.shape[2], k.shape[2], d, e, codes, real)


def chunks(width: int, least: int = 16) -> list[tuple[int, int]]:
    """(first, size) of blocks of a power of two that cover [0, width) with little to spare, at most three."""
    out: list[tuple[int, int]] = []
    at = 0
    while at < width:
        rest = width - at
        size = max(least, 1 << (rest.bit_length() - 1))
        if size < rest and (len(out) == 2 or rest - size > size // 2):
            size *= 2
        out.append((at, size))
        at += size
    return out
