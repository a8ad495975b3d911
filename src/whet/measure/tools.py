"""The versions of everything that a figure depends on: what every record carries, and what `whet lock` locks.

Read from the packages' metadata, once in a process; nothing is imported for it. Versions that only a library itself can
tell (LLVM's) are in the lock, not here.
"""

from __future__ import annotations

import hashlib
import os
import platform
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TypedDict

import whet
from whet.errors import InputError
from whet.runtime.cuda.driver import driver_version

LOCK_FILE = "whet.lock"
LOCK_VARIABLE = "WHET_LOCK"
# By the name under which pip knows them: what whet always needs, and what it uses where it is installed.
CORE = ("numpy", "ml_dtypes", "onnx", "onnx-ir", "llvmlite", "msgspec", "pyelftools", "pyyaml", "typer", "rich")
EXTRAS = ("triton", "nvmath-python", "nvidia-cudnn-frontend", "nvidia-cudnn-cu13", "nvidia-cublas", "nvidia-cuda-nvrtc",
          "nvidia-cuda-runtime", "cuda-bindings", "onnxruntime", "onnxruntime-gpu", "openvino", "torch", "tensorrt",
          "transformers", "onnxscript", "scipy", "sqlalchemy", "alembic", "psycopg", "pillow", "pyarrow",
          "cryptography")


class Stamp(TypedDict):
    """The two fields of a record that tell what made it."""

    tools: dict[str, str]
    lock: str


@cache
def tools() -> dict[str, str]:
    """Name -> version of whet, Python, its packages and NVIDIA's driver, as far as they are here; sorted by name."""
    found = {"whet": whet.__version__, "python": platform.python_version()}
    for name in (*CORE, *EXTRAS):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    if driver := driver_version():
        found["nvidia-driver"] = driver
    return dict(sorted(found.items()))


def lock_path() -> Path | None:
    """The lock that holds here: `$WHET_LOCK`, else `whet.lock` in the folder that the command runs in; None: neither.

    InputError if the variable names no file: a record that claims no lock where one was asked for would mislead.
    """
    named = os.environ.get(LOCK_VARIABLE, "")
    path = Path(named or LOCK_FILE)
    if path.is_file():
        return path
    if named:
        raise InputError("the lock is not there", where=named, why=f"{LOCK_VARIABLE} names no file",
                         do=f"whet lock -o {named}, or unset {LOCK_VARIABLE}")
    return None


@cache
def lock_hash() -> str:
    """SHA-256 of the lock's bytes, "" without one. InputError if it cannot be read."""
    path = lock_path()
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest() if path else ""
    except OSError as e:
        raise InputError("the lock cannot be read", where=str(path), why=e.strerror or str(e),
                         do="check its permissions") from e


def stamp() -> Stamp:
    """`Measurement(..., **stamp())`: the tools of this process and the hash of the lock that it runs under."""
    return {"tools": tools(), "lock": lock_hash()}
