"""The small floats bit by bit: ONNX's 8-bit ones, and those of the OCP Microscaling formats (f6*, f4*)."""

from __future__ import annotations

from dataclasses import dataclass

from whet.ir.dtypes import DType


@dataclass(frozen=True)
class Format:
    """A small float: its lowest bits are `mantissa`, then the exponent with this bias, then the sign.

    largest: the code of the greatest finite number; infinity, nan: codes without the sign, None where there is none.
    unsigned_zero: the code of -0 is the NaN instead.
    """

    sign: int
    mantissa: int
    bias: int
    largest: int
    infinity: int | None = None
    nan: int | None = None
    unsigned_zero: bool = False


FORMATS = {
    DType.F8E4M3FN: Format(7, 3, 7, 0x7E, nan=0x7F), DType.F8E4M3FNUZ: Format(7, 3, 8, 0x7F, unsigned_zero=True),
    DType.F8E5M2: Format(7, 2, 15, 0x7B, infinity=0x7C, nan=0x7E),
    DType.F8E5M2FNUZ: Format(7, 2, 16, 0x7F, unsigned_zero=True),
    DType.F6E2M3FN: Format(5, 3, 1, 0x1F), DType.F6E3M2FN: Format(5, 2, 3, 0x1F), DType.F4E2M1FN: Format(3, 1, 1, 0x7),
}
