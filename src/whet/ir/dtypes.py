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
    STRING = "string"

    @property
    def np(self) -> np.dtype:
        return _NP[self]

    @property
    def size(self) -> int:
        """Bytes per element in memory (a bool takes one)."""
        return self.np.itemsize

    @property
    def llvm(self) -> str:
        """LLVM's type of one element in memory (bool: i8)."""
        return _LLVM[self]

    @property
    def is_float(self) -> bool:
        return self in (DType.F32, DType.F64, DType.F16, DType.BF16)

    @property
    def is_signed(self) -> bool:
        return self.is_float or self in (DType.I8, DType.I16, DType.I32, DType.I64)

    @property
    def is_integer(self) -> bool:
        return not self.is_float and self not in (DType.BOOL, DType.STRING)

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
    DType.BOOL: np.dtype(np.bool_), DType.STRING: np.dtype(object),
}
_FROM_NP = {v: k for k, v in _NP.items() if k is not DType.STRING}
_LLVM = {
    DType.F32: "float", DType.F64: "double", DType.F16: "half", DType.BF16: "bfloat",
    DType.I8: "i8", DType.U8: "i8", DType.I16: "i16", DType.U16: "i16", DType.I32: "i32",
    DType.U32: "i32", DType.I64: "i64", DType.U64: "i64", DType.BOOL: "i8", DType.STRING: "ptr",
}
