"""Where samples come from. Each source can be walked in blocks, in bounded memory; a file is open only meanwhile."""

from __future__ import annotations

import contextlib
import hashlib
import math
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

from whet.errors import InputError, WhetError

ROWS = 256  # samples that are read at once at most
MOST_SAMPLES = 1 << 28
ARRAYS = (".npy", ".npz")
DAMAGED = (ValueError, EOFError, OSError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError, MemoryError,
            OverflowError, SyntaxError, TypeError, tokenize.TokenError)


@dataclass(frozen=True)
class Block:
    """Some samples in a row. The arrays are as they were found: with an axis of samples in front (`stacked`, which has
    `count` elements), or one sample or batch as the model takes it."""

    arrays: Mapping[str, Any]
    first: int
    count: int
    stacked: bool
    labels: np.ndarray | None = None


class Source(Protocol):
    """Samples in a fixed order."""

    @property
    def where(self) -> str:
        """What errors call it."""

    @property
    def count(self) -> int | None:
        """Samples; None where unknown."""

    @property
    def labelled(self) -> bool:
        """True if there are labels (an iterator may yet give some)."""

    @property
    def classes(self) -> list[str]:
        """Names of the classes, where labels had names."""

    def blocks(self, chosen: np.ndarray | None) -> Iterator[Block]:
        """The samples, or those of these indices (ascending)."""

    def digest(self, chosen: np.ndarray | None) -> str:
        """SHA-256 over the samples, "" where only a walk could tell."""


# ---- arrays --------------------------------------------------------------------------------------


class Stacked:
    """Arrays whose first axis counts samples; `open_rows` gives a reader of each (fresh for each walk)."""

    def __init__(self, where: str, open_rows: Mapping[str, Callable[[contextlib.ExitStack], Rows]],
                 labels: np.ndarray | None, hashed: Callable[[], str]) -> None:
        self.where, self._open, self._labels, self._hashed = where, open_rows, labels, hashed
        self.names = list(open_rows)
        self.labelled, self.classes = labels is not None, list[str]()
        with contextlib.ExitStack() as stack:
            shapes = {n: o(stack).shape for n, o in open_rows.items()}
        scalars = [n for n, s in shapes.items() if not s]
        if scalars:
            raise InputError(f"{scalars[0]!r} is a single number", where=where, why="the first axis must count samples",
                             do=f"stack it: np.full(samples, {scalars[0]})")
        counts = {n: s[0] for n, s in shapes.items()} | ({"labels": len(labels)} if labels is not None else {})
        if len(set(counts.values())) > 1:
            raise InputError("the arrays have different numbers of samples", where=where,
                             why=", ".join(f"{n}: {c}" for n, c in counts.items()), do="give one of each per sample")
        self.count: int = next(iter(counts.values()), 0)
        if self.count > MOST_SAMPLES:
            raise InputError(f"{self.count} samples", where=where, do=f"give at most {MOST_SAMPLES}")

    def blocks(self, chosen: np.ndarray | None) -> Iterator[Block]:
        index = np.arange(self.count) if chosen is None else chosen
        with contextlib.ExitStack() as stack:
            rows = {n: o(stack) for n, o in self._open.items()}
            each = max((r.row_bytes for r in rows.values()), default=1)
            step = max(min(ROWS, (8 << 20) // max(each, 1)), 1)
            for at in range(0, len(index), step):
                part = index[at:at + step]
                arrays = {n: r.take(part) for n, r in rows.items()}
                yield Block(arrays, at, len(part), True, None if self._labels is None else self._labels[part])

    def digest(self, chosen: np.ndarray | None) -> str:
        return self._hashed() + ("" if chosen is None else f":{len(chosen)}")


class Rows(Protocol):
    """Rows of an array, read forwards."""

    shape: tuple[int, ...]
    row_bytes: int

    def take(self, index: np.ndarray) -> np.ndarray:
        """The rows of these (ascending) indices, none before one that was read."""


class ArrayRows:
    """An array in memory, or mapped."""

    def __init__(self, a: np.ndarray) -> None:
        self._a, self.shape = a, a.shape
        self.row_bytes = a.nbytes // max(a.shape[0], 1) if a.shape else a.nbytes

    def take(self, index: np.ndarray) -> np.ndarray:
        if len(index) and index[-1] - index[0] + 1 == len(index):
            return np.asarray(self._a[index[0]:index[-1] + 1])
        return np.asarray(self._a[index])


class MemberRows:
    """An array inside an .npz file, unpacked as it is read."""

    def __init__(self, f: IO[bytes], size: int, where: str) -> None:
        self._f, self._at, self._where = f, 0, where
        version = np.lib.format.read_magic(f)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        self.shape, fortran, self._dtype = read(f)
        if self._dtype.hasobject:
            raise ValueError("it holds Python objects")
        if fortran and len(self.shape) > 1:
            raise ValueError("it is in Fortran order: save np.ascontiguousarray of it")
        self.row_bytes = math.prod(self.shape[1:]) * self._dtype.itemsize
        if math.prod(self.shape) * self._dtype.itemsize > size:
            raise EOFError("it is shorter than its header says")

    def take(self, index: np.ndarray) -> np.ndarray:
        parts = [self._read(int(run[0]), len(run)) for run in np.split(index, np.flatnonzero(np.diff(index) != 1) + 1)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _read(self, start: int, n: int) -> np.ndarray:
        skip = (start - self._at) * self.row_bytes
        try:
            while skip > 0:
                skip -= len(self._exactly(min(skip, 1 << 20)))
            data = self._exactly(n * self.row_bytes)
        except DAMAGED as e:
            raise damaged(self._where, e) from e
        self._at = start + n
        return np.frombuffer(data, self._dtype).reshape(n, *self.shape[1:])

    def _exactly(self, n: int) -> bytes:
        data = self._f.read(n)
        if len(data) != n:
            raise EOFError("it ends early")
        return data


def npz(path: Path, names: Sequence[str], labels: np.ndarray | None) -> Stacked:
    """An .npz file: arrays by input name (for a model with one input, any one array), labels as `labels` or `y`."""
    try:
        with zipfile.ZipFile(path) as z:
            members = {n.removesuffix(".npy"): n for n in z.namelist()}
    except DAMAGED as e:
        raise damaged(str(path), e) from e
    own = next((n for n in ("labels", "y") if n in members and n not in names), None)
    if own is not None:
        if labels is None:
            try:
                with np.load(path, allow_pickle=False) as z2:
                    labels = z2[own]
            except DAMAGED as e:
                raise damaged(str(path), e) from e
        del members[own]
    if len(names) == 1 and len(members) == 1:
        members = {names[0]: next(iter(members.values()))}

    def opener(member: str) -> Callable[[contextlib.ExitStack], Rows]:
        def start(stack: contextlib.ExitStack) -> Rows:
            try:
                z = stack.enter_context(zipfile.ZipFile(path))
                return MemberRows(stack.enter_context(z.open(member)), z.getinfo(member).file_size, f"{path}: {member}")
            except DAMAGED as e:
                raise damaged(f"{path}: {member}", e) from e
        return start

    return Stacked(str(path), {n: opener(m) for n, m in members.items()}, labels, lambda: hash_files([path]))


def npy(path: Path, names: Sequence[str], labels: np.ndarray | None) -> Stacked:
    """A .npy file for a model with one input, mapped."""
    if len(names) != 1:
        raise InputError("one array for a model of several inputs", where=str(path), why=f"they are {', '.join(names)}",
                         do="save them by name: np.savez")
    return Stacked(str(path), {names[0]: lambda stack: ArrayRows(load_npy(path))}, labels, lambda: hash_files([path]))


def load_npy(path: Path) -> np.ndarray:
    """A .npy file, mapped. InputError if it is none."""
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except DAMAGED as e:
        raise damaged(str(path), e) from e


def stacked(arrays: Mapping[str, Any], labels: np.ndarray | None, where: str) -> Stacked:
    """Arrays in memory, by input name."""
    def hashed() -> str:
        h = hashlib.sha256()
        for n, a in sorted(whole.items()):
            h.update(f"{n} {a.dtype} {a.shape};".encode())
            h.update(np.ascontiguousarray(a).data if a.size else b"")
        return h.hexdigest()

    whole = {n: np.asarray(a) for n, a in arrays.items()}
    def opener(a: np.ndarray) -> Callable[[contextlib.ExitStack], Rows]:
        return lambda stack: ArrayRows(a)

    return Stacked(where, {n: opener(a) for n, a in whole.items()}, labels, hashed)


# ---- files and streams ---------------------------------------------------------------------------


class Files:
    """A file per sample."""

    def __init__(self, where: str, files: Sequence[Path], read: Callable[[Path], Mapping[str, Any]],
                 labels: np.ndarray | None, classes: list[str]) -> None:
        self.where, self._files, self._read, self._labels = where, files, read, labels
        self.count, self.labelled, self.classes = len(files), labels is not None, classes

    def blocks(self, chosen: np.ndarray | None) -> Iterator[Block]:
        for at, i in enumerate(range(self.count) if chosen is None else chosen):
            labels = None if self._labels is None else self._labels[i:i + 1]
            yield Block(self._read(self._files[i]), at, 1, False, labels)

    def digest(self, chosen: np.ndarray | None) -> str:
        return hash_files(self._files if chosen is None else [self._files[i] for i in chosen])


class Stream:
    """What an iterator gives: a mapping of arrays, an array for a model with one input, or a pair of it and labels."""

    def __init__(self, where: str, start: Callable[[], Iterable[Any]], names: Sequence[str], labelled: bool) -> None:
        self.where, self._start, self._names = where, start, names
        self.count, self.labelled, self.classes = None, labelled, list[str]()

    def blocks(self, chosen: np.ndarray | None) -> Iterator[Block]:
        try:
            items = iter(self._start())
        except WhetError:
            raise
        except Exception as e:
            raise self._failed(e) from e
        at = 0
        while True:
            try:
                item = next(items)
            except StopIteration:
                return
            except WhetError:
                raise
            except Exception as e:
                raise self._failed(e) from e
            labels = None
            if isinstance(item, tuple) and len(item) == 2:
                item, labels = item[0], np.atleast_1d(np.asarray(item[1]))
            if not isinstance(item, Mapping):
                if len(self._names) != 1:
                    raise InputError(f"item {at} is a {type(item).__name__}", where=self.where,
                                     why=f"the model has the inputs {', '.join(self._names)}",
                                     do="give mappings of arrays by input name")
                item = {self._names[0]: item}
            yield Block(item, at, 1, False, labels)
            at += 1

    def digest(self, chosen: np.ndarray | None) -> str:
        return ""

    def _failed(self, e: Exception) -> InputError:
        return InputError("the data's own code failed", where=self.where, why=f"{type(e).__name__}: {e}",
                          do="run it alone to see where")


class Replay:
    """An iterator that can be walked anew, also after a walk that stopped early, as long as what it gave fits into
    `most` bytes; then a new walk is an InputError."""

    def __init__(self, items: Iterator[Any], most: int) -> None:
        self._items, self._most = items, most
        self._kept: list[Any] = []
        self._bytes = 0
        self._taken = 0

    def __iter__(self) -> Iterator[Any]:
        if self._taken > len(self._kept):
            raise InputError("the iterator cannot start again", why=f"it gave more than {self._most >> 20} MiB",
                             do="give a list, or a function that makes the iterator")
        at = 0
        while True:
            if at < len(self._kept):
                item = self._kept[at]
            elif at < self._taken:
                raise InputError("two walks over one iterator", do="give a function that makes the iterator")
            else:
                try:
                    item = next(self._items)
                except StopIteration:
                    return
                self._taken += 1
                self._bytes += _size_of(item)
                if self._bytes <= self._most:
                    self._kept.append(item)
                else:
                    self._kept.clear()
            at += 1
            yield item


def _size_of(item: Any) -> int:
    """Bytes of the arrays in an item."""
    if isinstance(item, Mapping):
        return sum(_size_of(v) for v in item.values())
    if isinstance(item, (tuple, list)):
        return sum(_size_of(v) for v in item)
    return getattr(item, "nbytes", 32)


def hash_files(files: Iterable[Path]) -> str:
    """SHA-256 over names and contents."""
    h = hashlib.sha256()
    for path in files:
        try:
            with open(path, "rb") as f:
                h.update(f"{path.name} {path.stat().st_size};".encode())
                while data := f.read(1 << 20):
                    h.update(data)
        except OSError as e:
            raise InputError("the data cannot be read", where=str(path), why=e.strerror or str(e)) from e
    return h.hexdigest()


def damaged(where: str, e: BaseException) -> InputError:
    """The error for a file that NumPy cannot read."""
    return InputError("the data cannot be read", where=where, why=str(e) or type(e).__name__,
                      do="write it again with np.save or np.savez")
