"""Labels of samples: from arrays, a .csv file, or the names of folders."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from whet.errors import InputError

MOST_BYTES = 64 << 20


def as_array(values: object, where: str) -> np.ndarray:
    """Labels given as an array or list of numbers. InputError for anything else and for NaN."""
    try:
        a = np.asarray(values)
    except (TypeError, ValueError) as e:
        raise InputError("the labels are no array", where=where, why=str(e), do="give a list of numbers") from e
    if a.dtype.kind not in "iufb" or a.ndim == 0:
        raise InputError(f"the labels are {a.dtype}{list(a.shape)}", where=where,
                         why="they must be an array of numbers", do="number the classes from 0")
    if a.dtype.kind == "f" and not np.isfinite(a).all():
        raise InputError(f"{int(np.count_nonzero(~np.isfinite(a)))} labels are NaN or infinite", where=where,
                         do="remove these samples")
    return a


def from_text(texts: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """(labels, names of classes): whole numbers and numbers are taken as such, without names; other texts are classes,
    numbered in alphabetical order."""
    for kind in (np.int64, np.float64):
        try:
            return np.array([kind(t) for t in texts], kind), []
        except (ValueError, OverflowError):
            pass
    classes = sorted(set(texts))
    number = {c: i for i, c in enumerate(classes)}
    return np.array([number[t] for t in texts], np.int64), classes


def read_csv(path: Path) -> dict[str, str]:
    """`name,label` lines by name; a first line `name,...` or `file,...` is a header. InputError for another form."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise InputError("the file of labels is too large", where=str(path), why=f"over {MOST_BYTES >> 20} MiB")
        with open(path, newline="", encoding="utf-8") as f:
            rows = [r for r in csv.reader(f) if r]
    except OSError as e:
        raise InputError("the labels cannot be read", where=str(path), why=e.strerror or str(e)) from e
    except (UnicodeDecodeError, csv.Error) as e:
        raise InputError("the labels are no .csv file", where=str(path), why=str(e),
                         do="write lines of name,label") from e
    if rows and rows[0][0].strip().lower() in ("name", "file", "filename", "path"):
        rows = rows[1:]
    out: dict[str, str] = {}
    for i, r in enumerate(rows, 1):
        if len(r) != 2 or not r[0].strip() or not r[1].strip():
            raise InputError(f"row {i} of the labels has {len(r)} fields", where=str(path), why=f"it is {r[:4]}",
                             do="write lines of name,label")
        name = r[0].strip()
        if out.setdefault(name, r[1].strip()) != r[1].strip():
            raise InputError(f"two labels for {name!r}", where=str(path), do="keep one")
    if not out:
        raise InputError("the file of labels is empty", where=str(path), do="write lines of name,label")
    return out


def of_files(root: Path, files: Sequence[Path], table: Mapping[str, str], where: str) -> tuple[np.ndarray, list[str]]:
    """The labels of files, by their path in the folder, name, or name without suffix. InputError names who has none."""
    found, missing = [], []
    for f in files:
        keys = (f.relative_to(root).as_posix(), f.name, f.stem)
        label = next((table[k] for k in keys if k in table), None)
        if label is None:
            missing.append(f.name)
        else:
            found.append(label)
    if missing:
        raise InputError(f"{len(missing)} of {len(files)} files have no label", where=where,
                         why=f"for example {', '.join(missing[:3])}", do="add them to the .csv file, or remove them")
    return from_text(found)


def of_folders(files: Sequence[Path]) -> tuple[np.ndarray, list[str]]:
    """The labels of files that lie in a folder per class."""
    return from_text([os.path.basename(f.parent) for f in files])
