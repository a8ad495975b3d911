"""Opening what a command is given, and writing what it makes."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from whet.errors import InputError, PlanFormatError
from whet.plan.writer import atomic


def is_onnx(path: Path) -> bool:
    """By the name: .onnx is a model, everything else is taken for a plan (and checked as one)."""
    return path.suffix.lower() in (".onnx", ".pb", ".ort")


@contextmanager
def open_engine(path: Path, threads: int | None, require_key: Path | None = None, recompile: bool = False,
                target: str = "cpu", device: int | None = None) -> Iterator[Any]:
    """An engine from a plan, or from a model that is built first (with its progress shown).

    require_key, recompile: as of `whet.load`, for plans. target: as of `whet.build`, for models. device: the GPU.
    """
    import whet

    if is_onnx(path):
        if require_key is not None:
            raise InputError("a model has no signature", where=str(path), why="--require-key is for plans",
                             do="build a plan and sign it: whet sign model.plan --key private.pem")
        from whet.cli.progress import build_progress

        with build_progress() as progress:
            plan = whet.build(path, target=target, threads=threads, progress=progress)
        engine = whet.load(plan, device=device)
    else:
        if path.is_dir():
            raise PlanFormatError("this is a folder, not a plan", where=str(path), do="name a .plan or .onnx file")
        engine = whet.load(path, threads=threads, require_key=require_key, recompile=recompile,
                           device=device)
    try:
        yield engine
    finally:
        engine.close()


def check_output(path: Path, what: str = "the plan") -> None:
    """OutputError if a file could not be written there: known before the work that fills it, not after."""
    with contextlib.suppress(_Enough), atomic(path, what):
        raise _Enough


class _Enough(Exception):
    """Leaves an atomic write without writing."""


def write_bytes(path: Path, data: bytes, mode: int = 0o666) -> None:
    """Write a file by atomic rename: it is there whole or not at all. `mode` is lessened by the umask.

    OutputError if it cannot be written.
    """
    with atomic(path, "the output", mode) as f:
        f.write(data)


def write_npz(path: Path, values: Mapping[str, Any]) -> None:
    """Write a run's outputs as .npz, atomically: strings as NumPy's `str` arrays, a sequence as `name[0]`,
    `name[1]`..., and nothing for an optional without value. InputError for a value that is none of these."""
    arrays: dict[str, np.ndarray] = {}
    for name, value in values.items():
        parts = {f"{name}[{i}]": v for i, v in enumerate(value)} if isinstance(value, list) else {name: value}
        for key, v in parts.items():
            if v is None:
                continue
            a = np.asarray(v)
            if a.dtype.kind == "O":
                if not all(isinstance(x, str) for x in a.reshape(-1)):
                    raise InputError(f"the output {key!r} cannot be written to an .npz file",
                                     why=f"it is a {type(v).__name__}", do="run the plan from Python")
                a = a.astype(str)
            arrays[key] = a
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    write_bytes(path, buffer.getvalue())
