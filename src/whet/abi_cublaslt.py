"""What cuBLASLt wants to know of a product (`abi_cuda.Matmul`): its descriptors, which `targets` asks for algorithms
with and `runtime` launches with. The binding (`nvmath.bindings.cublasLt`) is handed in."""

from __future__ import annotations

from typing import Any

import numpy as np

from whet import abi_cuda

# cudaDataType and cublasComputeType_t, as their headers number them.
R_32F, R_64F, R_16F, R_8I, R_32I, R_16BF, R_8F_E4M3 = 0, 1, 2, 3, 10, 14, 28
COMPUTE_32F, COMPUTE_64F, COMPUTE_32I, COMPUTE_32F_FAST_TF32 = 68, 70, 72, 77
DEFAULT, RELU, BIAS, GELU = 1, 2, 4, 32  # cublasLtEpilogue_t: RELU and GELU are added to BIAS
_HOST = {R_32F: np.float32, R_64F: np.float64, R_32I: np.int32}  # types of alpha and beta
_SCALES = {"a": "A_SCALE_POINTER", "b": "B_SCALE_POINTER", "c": "C_SCALE_POINTER", "d": "D_SCALE_POINTER"}


class Descriptors:
    """The operation and the four layouts of a product; freed with it."""

    def __init__(self, binding: Any, unit: abi_cuda.Matmul) -> None:
        self._l = binding
        self.layouts: list[int] = []
        self.operation = 0
        self.operation = int(binding.matmul_desc_create(unit.compute, unit.scale_type))
        self.set("TRANSA", int(unit.transpose_a), np.int32)
        self.set("TRANSB", int(unit.transpose_b), np.int32)
        self.set("EPILOGUE", unit.epilogue, np.uint32)
        if unit.bias_type >= 0:
            self.set("BIAS_DATA_TYPE", unit.bias_type, np.int32)
        if unit.fast_accumulation:
            self.set("FAST_ACCUM", 1, np.int8)
        for kind, rows, columns, leading, stride in (unit.a, unit.b, unit.c, unit.d):
            layout = int(binding.matrix_layout_create(kind, rows, columns, leading))
            self.layouts.append(layout)
            if unit.batch > 1:
                for name, value, dtype in (("BATCH_COUNT", unit.batch, np.int32),
                                           ("STRIDED_BATCH_OFFSET", stride, np.int64)):
                    raw = np.array([value], dtype)
                    binding.matrix_layout_set_attribute(layout, getattr(binding.MatrixLayoutAttribute, name),
                                                        raw.ctypes.data, raw.nbytes)
        self.alpha, self.beta = (np.array([x], _HOST[unit.scale_type]) for x in (unit.alpha, unit.beta))

    def set(self, name: str, value: int, dtype: Any = np.int64) -> None:
        """Set an attribute of the operation by its name; pointers are the default type."""
        raw = np.array([value], dtype)
        attribute = getattr(self._l.MatmulDescAttribute, name)
        self._l.matmul_desc_set_attribute(self.operation, attribute, raw.ctypes.data, raw.nbytes)

    def set_scale(self, which: str, address: int) -> None:
        """Where the scale of matrix `which` (a, b, c or d) is: one f32."""
        self.set(_SCALES[which], address)

    def close(self) -> None:
        """Free them."""
        for layout in self.layouts:
            self._l.matrix_layout_destroy(layout)
        if self.operation:
            self._l.matmul_desc_destroy(self.operation)
        self.layouts, self.operation = [], 0

    def __del__(self) -> None:
        self.close()
