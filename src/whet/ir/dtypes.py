"""Element types: one row each, with their NumPy, ONNX and LLVM names."""

from __future__ import annotations

import enum

import ml_dtypes
import numpy as np


class DType(enum.Enum):
    """An element type. `DType.F32.np` is the NumPy dtype, `.size` its bytes, `.llvm` its LLVM type."""

    F32 = "f32"
    F64 = "f64"
    F16 = "f16"
    BF16 = "bf16"
    I8 = "i8"
    I16 = "i16"
    I32 = "i32"
    I64 = "i64"
    U8 = "u8"
    U16 = "u16"
    U32 = "u32"
    U64 = "u64"
    BOOL = "bool"
    F8E4M3FN = "f8e4m3fn"
    F8E4M3FNUZ = "f8e4m3fnuz"
    F8E5M2 = "f8e5m2"
    F8E5M2FNUZ = "f8e5m2fnuz"
    F8E8M0FNU = "f8e8m0fnu"
    F6E2M3FN = "f6e2m3fn"
    F6E3M2FN = "f6e3m2fn"
    F4E2M1FN = "f4e2m1fn"
    I4 = "i4"
    U4 = "u4"
    I2 = "i2"
    U2 = "u2"
    STRING = "string"
    OBJECT = "object"  # no dense tensor of a known rank: a sequence, an optional; host steps alone use it

    @property
    def np(self) -> np.dtype:
        return _NP[self]

    @property
    def size(self) -> int:
        """Bytes per element in memory (a bool takes one, as do the types below 8 bits: they lie unpacked)."""
        return self.np.itemsize

    @property
    def bits(self) -> int:
        """Bits of one element that carry its value: where fewer than 8, the lowest of its byte."""
        return _BITS.get(self, 8 * self.size)

    @property
    def llvm(self) -> str:
        """LLVM's type of one element in memory (bool: i8)."""
        return _LLVM[self]

    @property
    def is_storage(self) -> bool:
        """True for types that are stored, moved and cast, never computed with: 8-bit floats and all below 8 bits."""
        return self in _STORAGE

    @property
    def computed_as(self) -> DType:
        """What a storage type's values are computed in, which holds them exactly: f32, i8, u8; else the type itself."""
        if self in _SMALL_INTEGERS:
            return _SMALL_INTEGERS[self]
        return DType.F32 if self.is_storage else self

    @property
    def is_float(self) -> bool:
        """True for the floating-point types that are computed with."""
        return self in (DType.F32, DType.F64, DType.F16, DType.BF16)

    @property
    def is_host(self) -> bool:
        """True for what kernels cannot hold: strings and objects."""
        return self in (DType.STRING, DType.OBJECT)

    @property
    def is_signed(self) -> bool:
        return self.is_float or self in (DType.I8, DType.I16, DType.I32, DType.I64)

    @property
    def is_integer(self) -> bool:
        """True for the integers that are computed with."""
        return not (self.is_float or self.is_storage or self in (DType.BOOL, DType.STRING, DType.OBJECT))

    @staticmethod
    def of(dtype: object) -> DType:
        """The DType of a NumPy dtype (or of what np.dtype accepts); KeyError if there is none."""
        d = np.dtype(dtype)  # type: ignore[call-overload]
        return _FROM_NP[d] if d.kind not in "OUST" else DType.STRING


_NP = {
    DType.F32: np.dtype(np.float32), DType.F64: np.dtype(np.float64),
    DType.F16: np.dtype(np.float16), DType.BF16: np.dtype(ml_dtypes.bfloat16),
    DType.I8: np.dtype(np.int8), DType.I16: np.dtype(np.int16),
    DType.I32: np.dtype(np.int32), DType.I64: np.dtype(np.int64),
    DType.U8: np.dtype(np.uint8), DType.U16: np.dtype(np.uint16),
    DType.U32: np.dtype(np.uint32), DType.U64: np.dtype(np.uint64),
    DType.BOOL: np.dtype(np.bool_), DType.STRING: np.dtype(object), DType.OBJECT: np.dtype(object),
    DType.F8E4M3FN: np.dtype(ml_dtypes.float8_e4m3fn), DType.F8E4M3FNUZ: np.dtype(ml_dtypes.float8_e4m3fnuz),
    DType.F8E5M2: np.dtype(ml_dtypes.float8_e5m2), DType.F8E5M2FNUZ: np.dtype(ml_dtypes.float8_e5m2fnuz),
    DType.F8E8M0FNU: np.dtype(ml_dtypes.float8_e8m0fnu), DType.F6E2M3FN: np.dtype(ml_dtypes.float6_e2m3fn),
    DType.F6E3M2FN: np.dtype(ml_dtypes.float6_e3m2fn), DType.F4E2M1FN: np.dtype(ml_dtypes.float4_e2m1fn),
    DType.I4: np.dtype(ml_dtypes.int4), DType.U4: np.dtype(ml_dtypes.uint4),
    DType.I2: np.dtype(ml_dtypes.int2), DType.U2: np.dtype(ml_dtypes.uint2),
}
_BITS = {DType.F6E2M3FN: 6, DType.F6E3M2FN: 6, DType.F4E2M1FN: 4, DType.I4: 4, DType.U4: 4, DType.I2: 2, DType.U2: 2}
_SMALL_INTEGERS = {DType.I4: DType.I8, DType.I2: DType.I8, DType.U4: DType.U8, DType.U2: DType.U8}
_STORAGE = frozenset(_BITS) | {DType.F8E4M3FN, DType.F8E4M3FNUZ, DType.F8E5M2, DType.F8E5M2FNUZ, DType.F8E8M0FNU}
_FROM_NP = {v: k for k, v in _NP.items() if k not in (DType.STRING, DType.OBJECT)}
_LLVM = {
    DType.F32: "float", DType.F64: "double", DType.F16: "half", DType.BF16: "bfloat",
    DType.I8: "i8", DType.U8: "i8", DType.I16: "i16", DType.U16: "i16", DType.I32: "i32",
    DType.U32: "i32", DType.I64: "i64", DType.U64: "i64", DType.BOOL: "i8", DType.STRING: "ptr", DType.OBJECT: "ptr",
    **dict.fromkeys(_STORAGE, "i8"),
}
