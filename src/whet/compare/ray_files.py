"""Files that travel through Ray's object store under the hash of what is in them, and lie on a node once."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from whet.errors import InputError, OutputError

PIECE = 64 << 20  # bytes of one object in the store
UNUSED = 2 * 24 * 3600  # seconds after which a node lets go of files that nobody opened


@dataclass(frozen=True)
class Packed:
    """Files in the object store. `sha256` is of all of them with their names; `main` is the one that is opened ("": the
    folder). Each file: its path below the folder, its SHA-256, its pieces."""

    sha256: str
    main: str
    files: tuple[tuple[str, str, tuple[Any, ...]], ...]


def pack_model(model: Path) -> Packed:
    """An ONNX model with the files beside it that its weights lie in."""
    import onnx
    from onnx import external_data_helper

    root = model.parent
    proto = onnx.load(model, load_external_data=False)
    names = {e.value for t in external_data_helper._get_all_tensors(proto) for e in t.external_data
             if e.key == "location"}
    # One that is missing, or lies outside, is told by the node that reads the model.
    beside = [n for n in sorted(names) if not os.path.isabs(n) and ".." not in Path(n).parts and (root / n).is_file()]
    return _packed(model.name, {n: root / n for n in (model.name, *beside)})


def pack_path(path: Path) -> Packed:
    """A file, or a folder with all that is in it."""
    if not path.is_dir():
        return _packed(path.name, {path.name: path})
    return _packed("", {str(f.relative_to(path)): f for f in sorted(path.rglob("*"))
                        if f.is_file() and not any(p.startswith(".") for p in f.relative_to(path).parts)})


def pack_bytes(name: str, data: bytes) -> Packed:
    """A file that is made here."""
    import ray

    sha = hashlib.sha256(data).hexdigest()
    pieces = tuple(ray.put(np.frombuffer(data[at:at + PIECE], np.uint8)) for at in range(0, len(data), PIECE))
    return Packed(_sha([(name, sha)]), name, ((name, sha, pieces),))


def _packed(main: str, files: Mapping[str, Path]) -> Packed:
    out = []
    for name, path in files.items():
        try:
            out.append((name, *_put(path)))
        except OSError as e:
            raise InputError("a file cannot be read", where=str(path), why=e.strerror or str(e),
                             do="check its permissions") from e
    return Packed(_sha([(n, sha) for n, sha, _ in out]), main, tuple(out))


def _put(path: Path) -> tuple[str, tuple[Any, ...]]:
    import ray

    hashed, pieces = hashlib.sha256(), []
    with path.open("rb") as f:
        while len(piece := np.fromfile(f, np.uint8, PIECE)):
            hashed.update(piece.data)
            pieces.append(ray.put(piece))
    return hashed.hexdigest(), tuple(pieces)


def _sha(files: Iterable[tuple[str, str]]) -> str:
    return hashlib.sha256("\n".join(f"{sha} {name}" for name, sha in files).encode()).hexdigest()


def unpack(packed: Packed) -> Path:
    """The path of the main file (or the folder) on this node, fetched if it is not here yet.

    OutputError if it cannot be written; InputError if what came is not what was sent."""
    there = folder() / packed.sha256
    if not there.exists():
        try:
            _fetch(packed, there)
        except OSError as e:
            raise OutputError("a node cannot keep the sweep's files", where=str(there), why=e.strerror or str(e),
                              do="make room on its disk, or set TMPDIR to a larger one") from e
    with contextlib.suppress(OSError):
        os.utime(there)
    return there / packed.main if packed.main else there


def _fetch(packed: Packed, there: Path) -> None:
    import ray

    tmp = Path(tempfile.mkdtemp(dir=there.parent, prefix="coming-"))
    try:
        for name, sha, pieces in packed.files:
            path, hashed = tmp / name, hashlib.sha256()
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as f:
                for ref in pieces:
                    piece = ray.get(ref)
                    hashed.update(piece.data)
                    f.write(piece.data)
            if hashed.hexdigest() != sha:
                raise InputError("a file changed on its way", where=name, why=f"its SHA-256 is {hashed.hexdigest()}",
                                 do="run the command again")
        try:
            tmp.rename(there)
        except OSError:  # another task was first
            if not there.is_dir():
                raise
    finally:
        shutil.rmtree(tmp, ignore_errors=True)


def folder() -> Path:
    """Where a node keeps them: of this user alone. What was not used for two days goes."""
    root = Path(tempfile.gettempdir()) / f"whet-ray-{os.getuid()}"
    try:
        root.mkdir(mode=0o700, exist_ok=True)
        s = root.lstat()
        if not stat.S_ISDIR(s.st_mode) or s.st_uid != os.getuid():
            raise OutputError("the folder for a sweep's files is not this user's", where=str(root),
                              do="remove it, or set TMPDIR on the node")
        for p in root.iterdir():
            if time.time() - p.lstat().st_mtime > UNUSED:
                shutil.rmtree(p, ignore_errors=True)
    except OSError as e:
        raise OutputError("a node cannot keep the sweep's files", where=str(root), why=e.strerror or str(e),
                          do="set TMPDIR on the node to a folder that can be written") from e
    return root


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder for one task."""
    with tempfile.TemporaryDirectory(dir=folder(), prefix="task-") as name:
        yield Path(name)
