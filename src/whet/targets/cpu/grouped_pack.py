"""How weights of a few bits lie in a plan, and what they are in registers.

A panel is `nr` columns. Codes are signed: unsigned ones are stored less half their range, as are their zero points.

- 8 bits: [panel][K][nr] bytes.
- 4 and 2 bits: [panel][word][nr] words of 32 bits, each the codes of a column in 8 or 16 consecutive rows, the
  lowest bits first. A group begins with a word of its own: where it is no whole number of words, the last one's
  upper bits are not used, so groups of any size and a K of any size have their place, and no activation is read
  that is not there.

Scales are [panel][group][nr] f32, zero points [panel][group][nr] bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from whet.ir.dtypes import DType
from whet.ir.region import Region
from whet.targets.cpu.llvm import Fn, Val, vec
from whet.targets.cpu.packing import pack_panels


@dataclass(frozen=True)
class Codes:
    """The weights of a region of kind matmul_grouped: K rows in groups, `bits` each.

    zeros: they have zero points (those of unsigned codes are never absent: 0 is stored as less than that).
    """

    depth: int
    group: int
    bits: int
    zeros: bool
    half: int  # what is subtracted from unsigned codes

    @property
    def per(self) -> int:
        """Codes of a column that lie together."""
        return 1 if self.bits == 8 else 32 // self.bits

    @property
    def groups(self) -> int:
        return -(-self.depth // self.group)

    @property
    def spans(self) -> list[tuple[int, int]]:
        """(how many groups, rows of each), one or two: all of one size, and a last one that is smaller."""
        whole, rest = divmod(self.depth, self.group)
        return [s for s in ((whole, self.group), (1 if rest else 0, rest)) if s[0]]

    def words(self, rows: int) -> int:
        """Rows of the packed codes that a group of so many rows takes."""
        return -(-rows // self.per)

    @property
    def word_rows(self) -> int:
        """Rows of the packed codes in all."""
        return sum(count * self.words(rows) for count, rows in self.spans)

    @property
    def size(self) -> int:
        """Bytes of a column in a row of the packed codes."""
        return 1 if self.bits == 8 else 4

    def panel_bytes(self, nr: int) -> int:
        """From one panel's codes to the next's."""
        return self.word_rows * nr * self.size

    def pack_codes(self, q: np.ndarray, nr: int) -> np.ndarray:
        """q [K, N] as bytes or words, in panels."""
        codes = q.astype(np.int16) - self.half
        if self.bits == 8:
            return pack_panels(codes.astype(np.int8), nr)
        parts, at = [], 0
        for count, rows in self.spans:
            part = codes[at:at + count * rows].reshape(count, rows, q.shape[1])
            part = np.pad(part, [(0, 0), (0, -rows % self.per), (0, 0)]).astype(np.uint32)
            part = part.reshape(count * self.words(rows), self.per, q.shape[1]) & ((1 << self.bits) - 1)
            shifts = (np.arange(self.per, dtype=np.uint32) * self.bits)[None, :, None]
            parts.append(np.bitwise_or.reduce(part << shifts, axis=1))
            at += count * rows
        return pack_panels(np.concatenate(parts) if parts else np.zeros((0, q.shape[1]), np.uint32), nr)

    def pack_scales(self, scale: np.ndarray, nr: int) -> np.ndarray:
        return pack_panels(scale.astype(np.float32), nr)

    def pack_zeros(self, zero: np.ndarray, nr: int) -> np.ndarray:
        """Zero points [groups, N] (of another array of that shape where there are none: they are 0)."""
        given = zero.astype(np.int16) if zero.dtype != np.float32 else np.zeros(zero.shape, np.int16)
        return pack_panels((given - self.half).astype(np.int8), nr)


def codes_of(region: Region) -> Codes:
    """The weights of a region of kind matmul_grouped."""
    q = region.inputs[1]
    depth = q.shape[0]
    assert isinstance(depth, int)
    signed = q.dtype.computed_as is DType.I8
    half = 0 if signed else 1 << (q.dtype.bits - 1)
    group = max(1, min(int(region.attrs["group"]), depth))
    return Codes(depth, group, q.dtype.bits, region.n_anchor == 4 or not signed, half)


class Decoder:
    """Packed codes to fp32 numbers, in registers."""

    def __init__(self, k: Fn, codes: Codes) -> None:
        self.k, self.codes = k, codes
        self.table: Val | None = None
        if codes.bits < 8 and k.isa.name == "avx512":
            values = np.arange(16) & ((1 << codes.bits) - 1)
            signed = np.where(values >> (codes.bits - 1), values - (1 << codes.bits), values)
            self.table = k.const_vector("float", [float(v) for v in signed])

    def load(self, at: Val, j: int) -> Val:
        """Vector j of a row of packed codes: words, or bytes."""
        k, lanes = self.k, self.k.isa.lanes
        size = self.codes.size
        return k.load("i8" if size == 1 else "i32", at + j * lanes * size, lanes, align=min(64, lanes * size))

    def value(self, v: Val, i: int) -> Val:
        """Code i of each column of what `load` gave, as fp32."""
        if self.codes.bits == 8:
            return self.k.cast("sitofp", self.k.cast("sext", v, "i32"), "float")
        return self.code(v, i)

    def code(self, v: Val, i: int) -> Val:
        """Code i of each word of 32 bits, as fp32."""
        k, bits = self.k, self.codes.bits
        if self.table is not None:  # the table is looked up by the lowest four bits, whatever is above them
            index = k.op("lshr", v, k.const(v.ty, bits * i)) if i else v
            return k.call("llvm.x86.avx512.permvar.sf.512", self.table.ty, [self.table, index])
        return k.cast("sitofp", (v << (32 - bits * (i + 1))) >> (32 - bits), "float")

    def zeros(self, at: Val, j: int) -> Val:
        """Vector j of a group's zero points as fp32."""
        k, lanes = self.k, self.k.isa.lanes
        v = k.load("i8", at + j * lanes, lanes, align=lanes)
        return k.bitcast(k.cast("sitofp", k.cast("sext", v, "i32"), "float"), vec("float", lanes))
