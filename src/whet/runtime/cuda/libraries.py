"""cuBLASLt and cuDNN of a device: opened when the first unit needs them, shared by contexts and threads."""

from __future__ import annotations

import contextlib
import importlib
import threading
from collections.abc import Sequence
from typing import Any

from whet import abi_cudnn
from whet.errors import MissingExtraError
from whet.runtime.cuda.driver import INSTALL, Device


class Libraries:
    """The libraries' handles for one device.

    cuDNN's handle carries the stream, so that setting it and launching belong together: hold `lock` meanwhile.
    cuBLASLt's handle has no state of its own; `lock` need not be held to use it.
    """

    def __init__(self, device: Device) -> None:
        self.device = device
        self.lock = threading.RLock()
        self._cublaslt = self._cudnn = 0
        self.rest: Any = 0  # the stream that cuDNN's handle has between launches

    def cublaslt(self) -> int:
        """The handle of `nvmath.bindings.cublasLt`. MissingExtraError if the binding or the library is not there."""
        with self.lock:
            if not self._cublaslt:
                module = cublaslt_module()
                with self.device.current():
                    self._cublaslt = int(module.create())
            return self._cublaslt

    def cudnn(self) -> int:
        """cuDNN's handle (see `cudnn_module`). MissingExtraError if frontend or library is not there."""
        with self.lock:
            if not self._cudnn:
                module = cudnn_module()
                with self.device.current():
                    self._cudnn = module.create_handle()
                    self.rest = self.device.stream()
            return self._cudnn

    def close(self) -> None:
        """Give the handles back."""
        with self.lock, contextlib.suppress(Exception), self.device.current():  # of a lost device nothing can be
            if self._cublaslt:
                cublaslt_module().destroy(self._cublaslt)
            if self._cudnn:
                cudnn_module().destroy_handle(self._cudnn)
                self.device.api.cuStreamDestroy(self.rest)
            self._cublaslt = self._cudnn = 0
            self.rest = 0


def versions(names: Sequence[str] = ("cublas", "cudnn")) -> dict[str, str]:
    """Of those libraries that can be opened here: `{"cublas": "13.1.0", "cudnn": "9.19.0"}`."""
    found = {}
    for name in names:
        with contextlib.suppress(MissingExtraError):
            if name == "cublas":
                n = int(cublaslt_module().get_version())  # 130100 for 13.1.0
            else:
                n = int(cudnn_module().backend_version())  # 91900 for 9.19.0
            found[name] = f"{n // 10000}.{n // 100 % 100}.{n % 100}"
    return found


def cublaslt_module() -> Any:
    """`nvmath.bindings.cublasLt`, with the library that it needs. MissingExtraError."""
    try:
        module = importlib.import_module("nvmath.bindings.cublasLt")
        module.get_version()
    except Exception as e:  # ImportError, or the binding's own for a missing library
        raise _missing("cuBLAS", "nvmath-python and nvidia-cublas", e) from e
    return module


def cudnn_module() -> Any:
    """`whet.abi_cudnn.module`: the frontend's compiled module. MissingExtraError."""
    return abi_cudnn.module()


def _missing(library: str, packages: str, why: object) -> MissingExtraError:
    return MissingExtraError(f"{library} cannot be loaded", where=packages, why=" ".join(str(why).split())[:300],
                             do=INSTALL)
