"""cuBLASLt and cuDNN of a device: opened when the first unit needs them, shared by contexts and threads."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.util
import sys
import sysconfig
import threading
import types
from pathlib import Path
from typing import Any

from whet.errors import MissingExtraError
from whet.runtime.cuda.driver import INSTALL, Device

_importing = threading.Lock()


class Libraries:
    """The libraries' handles for one device.

    cuDNN's handle carries the stream, so that setting it and launching belong together: hold `lock` meanwhile.
    cuBLASLt's handle has no state of its own; `lock` need not be held to use it.
    """

    def __init__(self, device: Device) -> None:
        self.device = device
        self.lock = threading.RLock()
        self._cublaslt = self._cudnn = 0

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
            return self._cudnn


def versions() -> dict[str, str]:
    """Of the libraries that can be opened here: `{"cublas": "13.1.0", "cudnn": "9.19.0"}`."""
    found = {}
    with contextlib.suppress(MissingExtraError):
        n = int(cublaslt_module().get_version())  # 130100 for 13.1.0; 120805 for 12.8.5
        found["cublas"] = f"{n // 10000}.{n // 100 % 100}.{n % 100}"
    with contextlib.suppress(MissingExtraError):
        n = int(cudnn_module().backend_version())  # 91900 for 9.19.0
        found["cudnn"] = f"{n // 10000}.{n // 100 % 100}.{n % 100}"
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
    """The compiled module of cuDNN's frontend (`pygraph`, `create_handle`...), with cuDNN loaded.

    The package around it imports PyTorch where that is installed, so it is left out: graphs are run by
    `graph._execute({uid: address}, workspace, handle)`. MissingExtraError if the frontend or cuDNN is not there.
    """
    with _importing:
        if "cudnn._compiled_module" not in sys.modules:
            spec = importlib.util.find_spec("cudnn")
            if spec is None:
                raise _missing("cuDNN", "nvidia-cudnn-frontend and nvidia-cudnn", "the frontend is not installed")
            package = types.ModuleType("cudnn")
            package.__path__ = list(spec.submodule_search_locations or ())
            sys.modules["cudnn"] = package
            try:
                importlib.import_module("cudnn._compiled_module")
            except ImportError as e:
                raise _missing("cuDNN", "nvidia-cudnn-frontend and nvidia-cudnn", e) from e
            finally:
                if sys.modules.get("cudnn") is package:
                    del sys.modules["cudnn"]
        module = sys.modules["cudnn._compiled_module"]
        if not hasattr(module, "whet_library"):
            library = _cudnn_library()
            module._set_dlhandle_cudnn(library._handle)  # type: ignore[attr-defined]
            module.whet_library = library  # type: ignore[attr-defined]
    return module


def _cudnn_library() -> ctypes.CDLL:
    site = Path(sysconfig.get_path("purelib")) / "nvidia" / "cudnn" / "lib"
    for name in (*sorted(map(str, site.glob("libcudnn.so.*[0-9]"))), "libcudnn.so.9"):
        with contextlib.suppress(OSError):
            return ctypes.CDLL(name)
    raise _missing("cuDNN", "nvidia-cudnn-cu13", "libcudnn.so.9 is not there")


def _missing(library: str, packages: str, why: object) -> MissingExtraError:
    return MissingExtraError(f"{library} cannot be loaded", where=packages, why=" ".join(str(why).split())[:300],
                             do=INSTALL)
