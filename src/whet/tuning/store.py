"""Compiled objects on disk, by what they were made from: a second build compiles nothing."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from pathlib import Path

from whet.targets.cuda.target import CudaTarget
from whet.tuning.cache import default_path

MOST = 4 << 30  # bytes; the objects that were not used for longest go first


def folder() -> Path:
    """Where objects are kept: beside the user's timing cache."""
    return default_path().parent / "objects"


def triton_folder() -> Path:
    """Where Triton's own compiler keeps what it makes."""
    return default_path().parent / "triton"


def get(target: CudaTarget, code: str) -> bytes | None:
    """The object of a kernel's code, if it is there and whole."""
    path = _path(target, code)
    try:
        raw = path.read_bytes()
    except OSError:
        return None
    if hashlib.sha256(raw[32:]).digest() != raw[:32]:
        return None
    with contextlib.suppress(OSError):
        os.utime(path)
    return raw[32:]


def put(target: CudaTarget, code: str, raw: bytes) -> None:
    """Keep an object. What cannot be written is not kept."""
    path = _path(target, code)
    tmp = ""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            fd, tmp = tempfile.mkstemp(dir=path.parent)
            with os.fdopen(fd, "wb") as f:
                f.write(hashlib.sha256(raw).digest() + raw)
            os.replace(tmp, path)
            tmp = ""
        finally:
            if tmp:
                with contextlib.suppress(OSError):
                    os.unlink(tmp)


def prune() -> None:
    """Let the oldest go where there are too many."""
    found = []
    with contextlib.suppress(OSError):
        for p in folder().glob("*/*"):
            with contextlib.suppress(OSError):
                s = p.stat()
                found.append((s.st_mtime, s.st_size, p))
    total = sum(size for _, size, _ in found)
    for _, size, p in sorted(found):
        if total <= MOST:
            return
        with contextlib.suppress(OSError):
            p.unlink()
            total -= size


def _path(target: CudaTarget, code: str) -> Path:
    name = hashlib.sha256(f"{target.object_key(code)}\0{code}".encode()).hexdigest()
    return folder() / name[:2] / name[2:]
