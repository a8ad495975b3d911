"""A plan: the open, checked file."""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from whet.errors import OutputError, PlanError, PlanFormatError
from whet.plan import dims, layout, reader, writer
from whet.plan.data import PlanData
from whet.plan.manifest import Manifest, Trailer, encode


class Plan:
    """A plan, in a file or in memory. Immutable; shared by every engine made from it.

    Holds a file descriptor until `close()` or until nothing refers to it any more.
    """

    def __init__(self, fd: int, contents: reader.Contents, path: Path | None) -> None:
        self._fd = fd
        self.contents = contents
        self.path = path

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Plan:
        """A plan file, checked whole: its hash, its bounds, its tables.

        PlanFormatError: not there, not a plan, truncated, damaged or malformed. PlanVersionError: written by
        a newer whet. (That the code fits the machine, and who signed it, is checked on `whet.load`.)
        """
        fd = open_file(path)
        try:
            return cls(fd, reader.read(fd), Path(path))
        except PlanError as e:
            os.close(fd)
            e.where = e.where or str(path)
            raise
        except BaseException:
            os.close(fd)
            raise

    @classmethod
    def from_data(cls, data: PlanData, *, hashed: bool = True) -> Plan:
        """A plan in memory. Without `hashed` it has no hash and cannot be saved: for passing use."""
        fd = os.memfd_create("whet-plan") if hasattr(os, "memfd_create") else _unnamed()
        try:
            with os.fdopen(os.dup(fd), "w+b") as f:
                writer.write_to(data, f, hashed=hashed)
            return cls(fd, reader.read(fd, verify=False), None)
        except OSError as e:
            os.close(fd)
            raise OutputError("the plan cannot be held in memory", why=e.strerror or str(e),
                              do="free some memory, or room in the folder for temporary files") from e
        except BaseException:
            os.close(fd)
            raise

    def with_code(self, code: bytes, symbols: Mapping[str, int]) -> Plan:
        """This plan with other machine code for the same kernels, in memory and unsigned.

        `symbols` are the entries' offsets in `code`. PlanFormatError if an entry that the plan needs is missing.
        """
        c = self.contents
        moved = {}
        for name, offset in self.manifest.kernels.items():
            if name not in symbols:
                raise PlanFormatError(f"the new code lacks {name}", where=str(self.path or "a plan in memory"),
                                      do="build the plan anew from its model")
            moved[offset] = symbols[name]
        steps = c.steps.copy()
        for row in steps:
            row["entry"] = moved[int(row["entry"])]
        runtime = np.frombuffer(self.section(layout.RUNTIME_S), layout.RUNTIME).copy()
        for entry in ("create", "destroy", "run") if self.manifest.target.device is None else ():
            runtime[entry] = moved[int(runtime[entry][0])]
        fresh = {layout.CODE: code, layout.STEPS_S: steps.tobytes(), layout.RUNTIME_S: runtime.tobytes(),
                 layout.MANIFEST: encode(msgspec.structs.replace(self.manifest, kernels=dict(symbols)))}
        order = sorted(c.sections, key=lambda s: c.sections[s][0])
        fd = os.memfd_create("whet-plan") if hasattr(os, "memfd_create") else _unnamed()
        try:
            with os.fdopen(os.dup(fd), "w+b") as f:
                writer.write_parts([(s, [fresh[s] if s in fresh else self.section(s)]) for s in order],
                                   Trailer(evidence=c.trailer.evidence), f)
            return Plan(fd, reader.read(fd), None)
        except BaseException:
            os.close(fd)
            raise

    @property
    def manifest(self) -> Manifest:
        """Shapes, target, labels, constants' places, and `info`."""
        return self.contents.manifest

    @property
    def hash(self) -> str:
        """The root of the hash tree, hexadecimal: the plan's name among plans."""
        return self.contents.root.hex()

    @property
    def evidence(self) -> dict[str, Any]:
        """What the trailer holds: dates, tuning evidence."""
        return self.contents.trailer.evidence

    @property
    def nbytes(self) -> int:
        """Size of the file."""
        return os.fstat(self.fileno()).st_size

    def fileno(self) -> int:
        """The open file's descriptor. ValueError once closed."""
        if self._fd < 0:
            raise ValueError("the plan is closed")
        return self._fd

    def section(self, ident: int) -> bytes:
        """A section's bytes, copied (`layout.CODE`...)."""
        offset, size = self.contents.sections[ident]
        return _pread(self.fileno(), size, offset)

    def blob(self, name: str) -> bytes:
        """A binary extra. KeyError if there is none of that name."""
        b = self.manifest.blobs[name]
        return _pread(self.fileno(), b.bytes, self.contents.sections[layout.BLOBS][0] + b.offset)

    def weight(self, name: str) -> Any:
        """A constant as a read-only array, mapped from the file. KeyError if there is none of that name."""
        from whet.plan.manifest import np_dtype

        w = next((w for w in self.manifest.weights if w.name == name), None)
        if w is None:
            raise KeyError(name)
        if w.bytes == 0:
            return np.zeros(w.shape, np_dtype(w.dtype))
        start = self.contents.sections[layout.WEIGHTS][0] + w.offset
        page = start // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
        view = mmap.mmap(self.fileno(), start - page + w.bytes, prot=mmap.PROT_READ, offset=page)
        count = w.bytes // np_dtype(w.dtype).itemsize
        try:
            return np.frombuffer(view, np_dtype(w.dtype), count, start - page).reshape(w.shape)
        except (ValueError, OverflowError) as e:
            raise PlanFormatError(f"the plan's weight {name!r:.60} does not have its shape", why=str(e),
                                  do="build the plan anew") from e

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the plan to a file, by atomic rename. OutputError if it cannot be written."""
        if self.contents.root == bytes(32):
            raise ValueError("a plan made without a hash is not for keeping")
        with writer.atomic(path) as f:
            writer.copy(self.fileno(), f, self.nbytes)

    def summary(self) -> dict[str, Any]:
        """For people and reports: counts, sizes in bytes, shapes, and everything in `info`."""
        c, m = self.contents, self.manifest
        first = m.programs[0]
        native = sum(s.count for s in first.segments)
        counts = {"native": native, "library": 0, "view": 0, **first.host_steps}
        return {
            "hash": self.hash, "bytes": self.nbytes, "threads": c.runtime["threads"],
            "target": {"arch": m.target.arch, "isa": m.target.isa, "features": list(m.target.features),
                       **({"device": msgspec.to_builtins(m.target.device)} if m.target.device else {})},
            "inputs": [_describe(t) for t in m.inputs], "outputs": [_describe(t) for t in m.outputs],
            "profile": {n: {"min": lo, "opt": best, "max": hi} for n, (lo, best, hi) in m.dims.items()},
            "profiles": len(m.programs),
            "states": [{"input": s.input, "output": s.output, "in_place": s.in_place, "capacity": list(s.capacity)}
                       for s in first.states],
            "launches": native,
            "code_bytes": c.sections[layout.CODE][1], "weight_bytes": c.sections[layout.WEIGHTS][1],
            "arena_bytes": c.runtime["arena_bytes"], "scratch_bytes": c.runtime["scratch_bytes"],
            "signed_by": c.trailer.signature.key if c.trailer.signature else None,
            "steps": counts, **m.info,
        }

    def close(self) -> None:
        """Close the file. Engines made from the plan keep their own mappings."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            self.close()

    def __repr__(self) -> str:
        return f"<whet.Plan {self.path or 'in memory'} {self.hash[:12]}>"


def open_file(path: str | os.PathLike[str]) -> int:
    """A descriptor for reading. PlanFormatError if it cannot be opened or is not a file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (OSError, ValueError) as e:
        why = e.strerror or str(e) if isinstance(e, OSError) else str(e)
        raise PlanFormatError("the plan cannot be opened", where=str(path), why=why, do="check the path") from e
    import stat

    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise PlanFormatError("this is not a file", where=str(path), do="name a file that `whet build` wrote")
    return fd


def _pread(fd: int, size: int, offset: int) -> bytes:
    parts = []
    while size > 0:
        part = os.pread(fd, min(size, 1 << 30), offset)
        if not part:
            raise PlanFormatError("the plan ends early", why="it shrank while it was open", do="copy it anew")
        parts.append(part)
        size, offset = size - len(part), offset + len(part)
    return b"".join(parts)


def _unnamed() -> int:
    with tempfile.TemporaryFile() as f:
        return os.dup(f.fileno())


def _describe(t: Any) -> dict[str, Any]:
    return {"name": t.name, "dtype": t.dtype, "shape": [d if isinstance(d, int) else dims.show(d) for d in t.shape]}
