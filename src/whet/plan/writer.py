"""PlanData to bytes in a file."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from whet import abi
from whet.errors import InternalError, OutputError, UnsupportedError
from whet.plan import dims, hashing, layout, manifest
from whet.plan.data import (
    ArenaArg,
    Arg,
    DimJson,
    InputArg,
    IntArg,
    OutputArg,
    PlanData,
    WeightArg,
)


def write(data: PlanData, path: str | os.PathLike[str]) -> None:
    """Write a plan file by atomic rename: it is there whole or not at all. OutputError if it cannot be."""
    with atomic(path) as f:
        write_to(data, f)


def write_to(data: PlanData, f: BinaryIO, *, hashed: bool = True) -> None:
    """Write a plan into an open, empty file. Without `hashed` the root stays zero: not for keeping."""
    write_parts(_Sections(data).parts(), manifest.Trailer(evidence=dict(data.trailer)), f, hashed=hashed)


def write_parts(parts: Sequence[tuple[int, Sequence[Any]]], trailer: manifest.Trailer, f: BinaryIO, *,
                hashed: bool = True) -> None:
    """Write sections, given as (id, pieces of bytes) in the file's order, and a trailer."""
    table = np.zeros(len(parts), layout.SECTION)
    at = layout.PAGE
    for row, (ident, pieces) in zip(table, parts):
        at = _up(at, layout.PAGE if ident in layout.PAGE_ALIGNED else layout.ALIGN)
        size = sum(len(p) for p in pieces)
        row["id"], row["offset"], row["bytes"] = ident, at, size
        f.seek(at)
        for p in pieces:
            f.write(p)
        at += size
    body = _up(at, layout.ALIGN)
    header = np.zeros(1, layout.HEADER)
    header["magic"], header["format"], header["n_sections"] = layout.MAGIC, layout.FORMAT, len(parts)
    header["body_bytes"], header["chunk_bytes"] = body, layout.CHUNK
    page = bytearray((header.tobytes() + table.tobytes()).ljust(layout.PAGE, b"\0"))
    f.seek(body)
    f.write(trailer_bytes(trailer))
    f.flush()
    if hashed:
        page[layout.ROOT_OFFSET : layout.ROOT_OFFSET + 32] = hashing.root(f.fileno(), body, bytes(page))
    f.seek(0)
    f.write(page)
    f.flush()


def trailer_bytes(trailer: manifest.Trailer) -> bytes:
    """The trailer as it stands at the end of the file."""
    raw = manifest.encode(trailer)
    head = np.zeros(1, layout.TRAILER)
    head["magic"], head["bytes"] = layout.TRAILER_MAGIC, len(raw)
    head["sha256"] = np.frombuffer(hashlib.sha256(raw).digest(), "V32")
    return head.tobytes() + raw


@contextmanager
def atomic(path: str | os.PathLike[str], what: str = "the plan", mode: int = 0o666) -> Iterator[BinaryIO]:
    """A file beside `path` that takes its name at the end, or goes. `mode` is lessened by the umask.

    OutputError if it cannot be written, or if `path` is there and is not a file (a rename would replace a device).
    """
    path = Path(path)
    tmp = ""
    try:
        if path.exists() and not path.is_file():
            raise OutputError(f"{what} cannot be written", where=str(path), why="there is something that is not a file",
                              do="name a file")
        fd, tmp = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}.")
        with os.fdopen(fd, "w+b") as f:
            yield f
            f.flush()
            os.fsync(f.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(tmp, mode & ~umask)
        os.replace(tmp, path)
        tmp = ""
    except OSError as e:
        raise OutputError(f"{what} cannot be written", where=str(path), why=e.strerror or str(e), do=_advice(e)) from e
    finally:
        if tmp:
            with contextlib.suppress(OSError):
                os.unlink(tmp)


def copy(fd: int, f: BinaryIO, size: int) -> None:
    """The first `size` bytes of an open file."""
    for start in range(0, size, 1 << 20):
        f.write(os.pread(fd, min(1 << 20, size - start), start))


def _advice(e: OSError) -> str:
    if e.errno in (errno.ENOSPC, errno.EDQUOT):
        return "free some space, or write elsewhere"
    if e.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "write to a folder that you may write to"
    if e.errno in (errno.ENOENT, errno.ENOTDIR):
        return "make the folder first"
    return "write elsewhere"


def _up(n: int, to: int) -> int:
    return -(-n // to) * to


class _Sections:
    """The sections' bytes from a PlanData."""

    def __init__(self, data: PlanData) -> None:
        self.data = data
        self.expressions: dict[str, int] = {}
        self.expression_list: list[DimJson] = []
        self.weights: dict[str, manifest.Weight] = {}
        self.args: list[tuple[int, int, int, int, int]] = []
        self.names = {n for p in data.programs for n in p.dims}

    def parts(self) -> list[tuple[int, list[Any]]]:
        """(section id, pieces) in the file's order."""
        weights = self._weights()
        steps = self._steps()
        blobs, blob_pieces = self._blobs()
        code = [self.data.code]
        described = manifest.Manifest(
            manifest.SCHEMA,
            manifest.Target("linux", self.data.arch, self.data.isa, sorted(self.data.features), self.data.device),
            list(self.data.programs), dict(self.data.symbols), list(self.weights.values()), blobs,
            dict(self.data.info))
        return [(layout.MANIFEST, [manifest.encode(described)]),
                (layout.RUNTIME_S, [self._runtime()]),
                (layout.IO_S, [self._io()]),
                (layout.STEPS_S, [steps]),
                (layout.ARGS_S, [np.array(self.args, layout.ARG).tobytes()]),
                (layout.EXPRESSIONS, [manifest.encode(self.expression_list)]),
                (layout.BLOBS, blob_pieces),
                (layout.CODE, code),
                (layout.WEIGHTS, weights)]

    def _runtime(self) -> bytes:
        d = self.data
        first = d.programs[0]
        static = d.device is None and not self.expression_list and len(d.programs) == 1 and first.plain
        arenas = [s.arena for p in d.programs for s in p.segments if isinstance(s.arena, int)]
        r = np.zeros(1, layout.RUNTIME)
        r["arena_bytes"], r["scratch_bytes"], r["threads"] = max(arenas, default=0), d.scratch_bytes, d.threads
        r["flags"] = (layout.FLAG_AMX if any(f.startswith("amx") for f in d.features) else 0) \
            | (layout.FLAG_STATIC if static else 0)
        if d.device is None:
            for name, symbol in (("create", abi.ENTRY_CREATE), ("destroy", abi.ENTRY_DESTROY), ("run", abi.ENTRY_RUN)):
                r[name] = self._symbol(symbol)
        r["n_inputs"], r["n_outputs"] = len(first.inputs), len(first.outputs)
        return r.tobytes()

    def _io(self) -> bytes:
        rows = []
        for t in (*self.data.programs[0].inputs, *self.data.programs[0].outputs):
            size = manifest.static_bytes(t)
            if size != layout.NONE64 and size > layout.MAX_BYTES:
                raise UnsupportedError(f"the tensor {t.name!r:.60} takes {size} bytes", why="no memory holds as many",
                                       do="fix the model's shapes")
            rows.append((size, manifest.np_dtype(t.dtype).itemsize, 0))
        return np.array(rows, layout.IO).tobytes()

    def _weights(self) -> list[Any]:
        pieces: list[Any] = []
        at = 0
        for name, a in self.data.weights.items():
            dense = np.ascontiguousarray(a)
            self.weights[name] = manifest.Weight(name, a.dtype.name, list(a.shape), at, dense.nbytes)
            pieces.append(dense.reshape(-1).view(np.uint8).data if dense.nbytes else b"")
            pieces.append(bytes(-dense.nbytes % layout.ALIGN))
            at += _up(dense.nbytes, layout.ALIGN)
        return pieces

    def _blobs(self) -> tuple[dict[str, manifest.Blob], list[bytes]]:
        table, pieces, at = {}, [], 0
        for name, raw in sorted(self.data.blobs.items()):
            table[name] = manifest.Blob(at, len(raw))
            pieces.append(raw)
            at += len(raw)
        return table, pieces

    def _steps(self) -> bytes:
        rows = []
        for step in self.data.steps:
            first = len(self.args)
            self.args += [(*self._arg(a), 0) for a in step.args]
            value, expr = self._value(step.tiles)
            rows.append((0, expr, self._symbol(step.symbol), first, len(step.args), value, step.grain))
        return np.array(rows, layout.STEP).tobytes()

    def _arg(self, a: Arg) -> tuple[int, int, int, int]:
        match a:
            case IntArg(value):
                return layout.ARG_INT, 0, *self._value(value)
            case ArenaArg(offset):
                return layout.ARG_ARENA, 0, *self._value(offset)
            case WeightArg(name, offset):
                if name not in self.weights:
                    raise InternalError(f"a step uses the weight {name}, which the plan does not have")
                value, expr = self._value(offset)
                return layout.ARG_WEIGHT, 0, value + self.weights[name].offset, expr
            case InputArg(index, offset):
                return layout.ARG_INPUT, index, *self._value(offset)
            case OutputArg(index, offset):
                return layout.ARG_OUTPUT, index, *self._value(offset)
        raise InternalError(f"an argument of no known kind: {a!r}")

    def _value(self, d: DimJson) -> tuple[int, int]:
        if isinstance(d, int):
            return d, layout.NONE
        if wrong := dims.check(d, self.names):
            raise InternalError(f"a symbolic integer of the plan is wrong: {wrong}")
        key = repr(d)
        if key not in self.expressions:
            self.expressions[key] = len(self.expression_list)
            self.expression_list.append(d)
        return 0, self.expressions[key]

    def _symbol(self, name: str) -> int:
        if name not in self.data.symbols:
            raise InternalError(f"the plan's code has no symbol {name}")
        return self.data.symbols[name]
