"""cuDNN's frontend as `targets` (which makes graphs) and `runtime` (which runs them) use it: its compiled module alone.

The package around it imports PyTorch where that is installed, so it is left out: tensors are made by
`graph._make_tensor`, graphs are run by `graph._execute({uid: address}, workspace, handle)`.
"""

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

INSTALL = 'pip install "whet[cuda]"'
_importing = threading.Lock()


def module() -> Any:
    """The compiled module (`pygraph`, `create_handle`...), with cuDNN loaded. MissingExtraError if the frontend or
    cuDNN is not there."""
    with _importing:
        if "cudnn._compiled_module" not in sys.modules:
            spec = importlib.util.find_spec("cudnn")
            if spec is None:
                raise missing("the frontend is not installed")
            package = types.ModuleType("cudnn")
            package.__path__ = list(spec.submodule_search_locations or ())
            sys.modules["cudnn"] = package
            try:
                importlib.import_module("cudnn._compiled_module")
            except ImportError as e:
                raise missing(e) from e
            finally:
                if sys.modules.get("cudnn") is package:
                    del sys.modules["cudnn"]
        found: Any = sys.modules["cudnn._compiled_module"]
        if not hasattr(found, "whet_library"):
            _preload()
            library = _library()
            found._set_dlhandle_cudnn(library._handle)
            found.whet_library = library
    return found


def _preload() -> None:
    """Load what cuDNN and its frontend open by name when they come to need it (NVRTC for engines that are compiled at
    run time): in wheels it lies where the loader does not look. What is not found they look for themselves."""
    with contextlib.suppress(ImportError):
        from cuda.pathfinder import load_nvidia_dynamic_lib

        for name in ("cudart", "nvrtc", "cublasLt"):
            with contextlib.suppress(RuntimeError):
                load_nvidia_dynamic_lib(name)


def _library() -> ctypes.CDLL:
    site = Path(sysconfig.get_path("purelib")) / "nvidia" / "cudnn" / "lib"
    beside = [Path(p).parent / "nvidia" / "cudnn" / "lib" for p in _frontend()]
    for where in (site, *beside):
        for name in sorted(map(str, where.glob("libcudnn.so.*[0-9]"))):
            with contextlib.suppress(OSError):
                return ctypes.CDLL(name)
    with contextlib.suppress(OSError):
        return ctypes.CDLL("libcudnn.so.9")
    raise missing("libcudnn.so.9 is not there")


def _frontend() -> list[str]:
    spec = importlib.util.find_spec("cudnn")
    return list(spec.submodule_search_locations or ()) if spec is not None else []


def missing(why: object) -> MissingExtraError:
    """The error for cuDNN that cannot be loaded."""
    return MissingExtraError("cuDNN cannot be loaded", where="nvidia-cudnn-frontend and nvidia-cudnn-cu13",
                             why=" ".join(str(why).split())[:300], do=INSTALL)
