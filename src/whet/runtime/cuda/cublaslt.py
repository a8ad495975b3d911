"""Products by cuBLASLt, ready to launch."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from whet import abi_cuda
from whet.abi_cublaslt import Descriptors
from whet.errors import DeviceError, FingerprintError, InternalError, PlanFormatError
from whet.runtime.cuda.libraries import Libraries, cublaslt_module


def prepare(unit: abi_cuda.Unit, payload: memoryview, libraries: Libraries) -> Product:
    """The product with its descriptors made. PlanFormatError for a malformed one, FingerprintError where the library
    does not know its algorithm (another version), MissingExtraError without the library."""
    if not isinstance(unit, abi_cuda.Matmul):
        raise InternalError(f"not a product of cuBLASLt: {type(unit).__name__}")
    return Product(unit, libraries.cublaslt(), cublaslt_module())


class Product:
    """D = act(alpha * op(A) op(B) + beta * C + bias) by one algorithm. Threads may launch it side by side."""

    def __init__(self, unit: abi_cuda.Matmul, handle: int, binding: Any) -> None:
        self.unit, self._handle, self._l = unit, handle, binding
        try:
            self._algorithm = np.frombuffer(bytes.fromhex(unit.algo), np.uint8).copy()
        except ValueError as e:
            raise PlanFormatError("a product's algorithm is malformed", why=str(e), do="build the plan anew") from e
        if self._algorithm.size != 64 or set(unit.scales) - set("abcd"):
            raise PlanFormatError("a product of cuBLASLt is malformed", do="build the plan anew")
        self._bias = unit.bias_type >= 0
        self._lock = threading.Lock()  # addresses of bias and scales are part of the descriptor
        result = np.zeros(1, binding.matmul_heuristic_result_dtype)
        try:
            d = self._descriptors = Descriptors(binding, unit)
            binding.matmul_algo_check(handle, d.operation, *d.layouts, self._algorithm.ctypes.data, result.ctypes.data)
        except binding.cuBLASLtError as e:
            raise FingerprintError("cuBLASLt does not run an algorithm of the plan", why=str(e),
                                   do="build the plan with the version of cuBLAS that is installed") from e
        if int(result["workspace_size"][0]) > unit.workspace:
            raise FingerprintError("cuBLASLt asks for more workspace than when the plan was built",
                                   do="build the plan with the version of cuBLAS that is installed")

    def launch(self, stream: int, values: Sequence[int], tiles: int) -> None:
        """A, B, C, D, [bias], [scales], workspace."""
        d, unit = self._descriptors, self.unit
        if len(values) != 5 + self._bias + len(unit.scales):
            raise InternalError(f"a product takes {5 + self._bias + len(unit.scales)} arguments",
                                why=f"it was given {len(values)}")
        if tiles == 0:
            return
        a, b, c, out = values[:4]
        rest = iter(values[4:-1])
        with self._lock:
            if self._bias:
                d.set("BIAS_POINTER", next(rest))
            for which in unit.scales:
                d.set_scale(which, next(rest))
            try:
                self._l.matmul(self._handle, d.operation, d.alpha.ctypes.data, a, d.layouts[0], b, d.layouts[1],
                               d.beta.ctypes.data, c, d.layouts[2], out, d.layouts[3], self._algorithm.ctypes.data,
                               values[-1], unit.workspace, int(stream))
            except self._l.cuBLASLtError as e:
                raise DeviceError("a product by cuBLASLt failed", why=str(e), do="see `whet doctor`") from e
