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

from whet.errors import InputError, OutputError, PlanFormatError


def is_onnx(path: Path) -> bool:
    """By the name: .onnx is a model, everything else is taken for a plan (and checked as one)."""
    return path.suffix.lower() in (".onnx", ".pb", ".ort")


@contextmanager
def open_engine(path: Path, threads: int | None, require_key: Path | None = None,
                recompile: bool = False) -> Iterator[Any]:
    """An engine from a plan, or from a model that is built first (with its progress shown).

    require_key, recompile: as of `whet.load`, for plans.
    """
    import whet

    if is_onnx(path):
        if require_key is not None:
            raise InputError("a model has no signature", where=str(path), why="--require-key is for plans",
                             do="build a plan and sign it: whet sign model.plan --key private.pem")
        from whet.cli.progress import build_progress

        with build_progress() as progress:
            plan = whet.build(path, threads=threads, progress=progress)
        engine = whet.load(plan)
    else:
        if path.is_dir():
            raise PlanFormatError("this is a folder, not a plan", where=str(path), do="name a .plan or .onnx file")
        engine = whet.load(path, threads=threads, require_key=require_key, recompile=recompile)
    try:
        yield engine
    finally:
        engine.close()


def write_bytes(path: Path, data: bytes, mode: int = 0o666) -> None:
    """Write a file by atomic rename: it is there whole or not at all. `mode` is lessened by the umask.

    OutputError if it cannot be written.
    """
    try:
        fd, tmp = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(fd, "wb") as f:
                f.write(data)
                f.flush()
                os.fsync(f.fileno())
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(tmp, mode & ~umask)
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
