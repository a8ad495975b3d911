"""Opening what a command is given, and writing what it makes."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from whet.errors import OutputError, PlanFormatError


def is_onnx(path: Path) -> bool:
    """By the name: .onnx is a model, everything else is taken for a plan (and checked as one)."""
    return path.suffix.lower() in (".onnx", ".pb", ".ort")


@contextmanager
def open_engine(path: Path, threads: int | None) -> Iterator[Any]:
    """An engine from a plan, or from a model that is built first (with its progress shown)."""
    import whet

    if is_onnx(path):
        from whet.cli.progress import build_progress

        with build_progress() as progress:
            plan = whet.build(path, threads=threads, progress=progress)
        engine = whet.load(plan)
    else:
        if path.is_dir():
            raise PlanFormatError("this is a folder, not a plan", where=str(path), do="name a .plan or .onnx file")
        engine = whet.load(path, threads=threads)
    try:
        yield engine
    finally:
        engine.close()


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file by atomic rename: it is there whole or not at all. OutputError if it cannot be."""
    try:
        fd, tmp = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(fd, "wb") as f:
                f.write(data)
                f.flush()
                os.fsync(f.fileno())
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(tmp, 0o666 & ~umask)
            os.replace(tmp, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(tmp)
            raise
    except OSError as e:
        raise OutputError("the output cannot be written", where=str(path), why=e.strerror or str(e),
                          do="check the folder, its permissions and the space on the disk") from e


def write_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays as .npz, atomically."""
    buffer = io.BytesIO()
    np.savez(buffer, **dict(arrays))  # type: ignore[arg-type]
    write_bytes(path, buffer.getvalue())
