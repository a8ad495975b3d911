"""What a trial observed, sample by sample: values with ids, from JSON, CSV or NumPy files."""

from __future__ import annotations

import csv
import io
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from whet.errors import InputError
from whet.measure.record import Measurement, decode

Missing = Literal["refuse", "drop", "wrong"]
IDS = ("id", "ids", "sample", "name")
LARGEST = 1e100  # beyond which sums of squares overflow
COLUMNS = ("outcome", "outcomes", "right", "correct", "value", "values", "latency", "seconds")


@dataclass(frozen=True)
class Outcomes:
    """One version's outcomes: values [n], finite; ids where they have some; what they were taken on, where it is known.

    remark: a code for what was done to them (`missing-dropped`, `missing-wrong`, `thinned`), and to how many.
    """

    label: str
    values: np.ndarray
    ids: tuple[str, ...] | None = None
    device: str = ""
    remark: str = ""
    changed: int = 0

    def __post_init__(self) -> None:
        v = self.values
        if v.ndim != 1 or v.dtype.kind not in "biuf" or len(v) == 0:
            raise InputError("outcomes are one number a sample, one sample at least", where=self.label,
                             why=f"these are {v.dtype} of shape {v.shape}")
        object.__setattr__(self, "values", v.astype(np.float64))
        broken = np.flatnonzero(~np.isfinite(self.values))
        if len(broken):
            first = self.ids[broken[0]] if self.ids else f"number {broken[0] + 1}"
            raise InputError("outcomes that are no numbers", where=self.label, why=f"{len(broken):,} are NaN or "
                             f"infinite, the first is {first!r}",
                             do="count them as wrong (0), or leave out these samples of both")
        if np.abs(self.values).max() > LARGEST:
            raise InputError("outcomes beyond all measure", where=self.label,
                             why=f"one is {self.values[np.abs(self.values).argmax()]:g}",
                             do="check where it comes from")
        if self.ids is not None and len(set(self.ids)) < len(self.ids):
            twice = [k for k, c in Counter(self.ids).items() if c > 1]
            raise InputError("samples that come twice", where=self.label,
                             why=f"{len(twice):,} ids, the first is {twice[0][:80]!r}", do="give each sample once")

    @property
    def binary(self) -> bool:
        """Nothing but 0 and 1."""
        return bool(np.isin(self.values, (0.0, 1.0)).all())


def match(a: Outcomes, b: Outcomes, missing: Missing = "refuse") -> tuple[Outcomes, Outcomes]:
    """Both on the same samples in the same order: by id, or by order where neither has ids.

    missing: what to do with samples that one of them lacks: `refuse` (InputError), `drop` them from both, or count them
    as `wrong` (0) for the one that lacks them.
    """
    if (a.ids is None) != (b.ids is None):
        raise InputError("one of the versions has ids, the other has not", where=f"{a.label}, {b.label}",
                         do="give both ids, or judge them as independent groups: --unpaired")
    if a.ids is None or b.ids is None:
        if len(a.values) != len(b.values):
            raise InputError("pairs need the same samples of both versions", where=f"{a.label}, {b.label}",
                             why=f"there are {len(a.values):,} and {len(b.values):,} outcomes, without ids",
                             do="give ids, run both on the same samples, or use --unpaired")
        return a, b
    if a.ids == b.ids:
        return a, b
    at_a, at_b = ({k: i for i, k in enumerate(x.ids or ())} for x in (a, b))
    both = [k for k in a.ids if k in at_b]
    only = {"a": [k for k in a.ids if k not in at_b], "b": [k for k in b.ids if k not in at_a]}
    if not both:
        raise InputError("the versions have no sample in common", where=f"{a.label}, {b.label}",
                         why=f"the first ids are {a.ids[0][:80]!r} and {b.ids[0][:80]!r}",
                         do="give both the same ids, or judge them as independent groups: --unpaired")
    if (only["a"] or only["b"]) and missing == "refuse":
        one = (only["a"] or only["b"])[0][:80]
        raise InputError("samples that only one version answered", where=f"{a.label}, {b.label}",
                         why=f"{len(only['a']):,} only the first, {len(only['b']):,} only the second, {one!r} say; "
                             "what fails on the hard samples looks better without them",
                         do="run both on all samples, or say --missing wrong (what is missing is wrong) or "
                            "--missing drop")
    every = both if missing != "wrong" else [*a.ids, *only["b"]]
    if missing == "wrong" and not (a.binary and b.binary):
        raise InputError("what is missing cannot count as wrong", why="the outcomes are not right or wrong",
                         do="run both on all samples, or say --missing drop")
    out = []
    for x, at, lacks in ((a, at_a, only["b"]), (b, at_b, only["a"])):
        values = np.array([x.values[at[k]] if k in at else 0.0 for k in every])
        changed = len(lacks) if missing == "wrong" else len(only["a"]) + len(only["b"])
        out.append(replace(x, values=values, ids=tuple(every), remark=f"missing-{missing}" if changed else x.remark,
                           changed=changed or x.changed))
    if missing == "drop":  # said once
        out[1] = replace(out[1], remark="", changed=0)
    return out[0], out[1]


def read(path: Path, column: str = "") -> Outcomes | list[Measurement]:
    """A version's outcomes, or its measurement records, from a .json, .csv, .npz or .npy file.

    JSON: records as `whet bench --json` writes them; a list of numbers; a list of {"id": ..., "outcome": ...}; an
    object of numbers by id; or {"outcomes": any of these, "device": ..., "label": ...}. CSV: a header with a column of
    ids (`id`) and one of outcomes. .npz: arrays `id` and `outcome`. `column` names the outcomes where they are called
    otherwise. InputError for anything else.
    """
    try:
        data = path.read_bytes()
    except OSError as e:
        raise InputError("the outcomes cannot be read", where=str(path), why=e.strerror or str(e),
                         do="check the path") from e
    kind = path.suffix.lower()
    if kind == ".json":
        return _json(data, path, column)
    if kind == ".csv":
        return _csv(data, path, column)
    if kind in (".npz", ".npy"):
        return _numpy(data, path, column)
    raise InputError("outcomes of an unknown kind", where=str(path), why=f"it is a {kind or 'plain'} file",
                     do="give .json, .csv, .npz or .npy, or two plans with --eval DATA")


def _json(data: bytes, path: Path, column: str) -> Outcomes | list[Measurement]:
    try:
        tree = msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as e:
        raise InputError("not JSON", where=str(path), why=str(e)) from e
    first = tree[0] if isinstance(tree, list) and tree else tree
    if isinstance(first, dict) and {"backend", "model", "device"} <= first.keys():
        return decode(data, str(path))
    label, device = path.name, ""
    if isinstance(tree, dict) and isinstance(tree.get("outcomes"), (list, dict)):
        label, device = str(tree.get("label") or label), str(tree.get("device") or "")
        tree = tree["outcomes"]
    if isinstance(tree, dict):
        return Outcomes(label, _numbers(list(tree.values()), path), tuple(tree), device)
    if not isinstance(tree, list):
        raise InputError("not outcomes", where=str(path), why=f"the JSON holds a {type(tree).__name__}",
                         do="give a list of numbers, or an object of numbers by id")
    if tree and all(isinstance(row, dict) for row in tree):
        ids, values = _records(tree, path, column)
        return Outcomes(label, _numbers(values, path), ids, device)
    return Outcomes(label, _numbers(tree, path), None, device)


def _csv(data: bytes, path: Path, column: str) -> Outcomes:
    try:
        table = list(csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True))
    except UnicodeDecodeError as e:
        raise InputError("not a text file in UTF-8", where=str(path), why=str(e)) from e
    except csv.Error as e:
        raise InputError("not a CSV file", where=str(path), why=str(e)) from e
    rows = [row for row in table if row]
    if len(rows) < 2:
        raise InputError("the table is empty", where=str(path),
                         do="give a header (id,outcome) and a row for each sample")
    head, body = rows[0], rows[1:]
    for i, row in enumerate(body):
        if len(row) != len(head):
            raise InputError("a row that does not fit the header", where=f"{path}, row {i + 1}",
                             why=f"it has {len(row)} fields, the header has {len(head)}",
                             do="quote fields that hold commas")
    name = _column(head, path, column)
    at = head.index(name)
    key = next((head.index(k) for k in IDS if k in head and k != name), None)
    ids = None if key is None else tuple(row[key] for row in body)
    return Outcomes(path.name, _numbers([row[at] for row in body], path), ids)


def _numpy(data: bytes, path: Path, column: str) -> Outcomes:
    try:
        with warnings.catch_warnings(action="ignore"):
            loaded: Any = np.load(io.BytesIO(data), allow_pickle=False)
            one = isinstance(loaded, np.ndarray)
            arrays: dict[str, np.ndarray] = {column or "outcome": loaded} if one else dict(loaded)
    except Exception as e:  # a damaged file may raise nearly anything: tokenize's, zlib's, struct's errors...
        raise InputError("the arrays cannot be read", where=str(path), why=str(e),
                         do="write them with numpy.savez") from e
    name = _column(list(arrays), path, column)
    ids = next((arrays[k] for k in IDS if k in arrays and k != name), None)
    if ids is not None and (ids.ndim != 1 or ids.shape != arrays[name].shape):
        raise InputError("there is one id for each outcome", where=str(path),
                         why=f"their shapes are {ids.shape} and {arrays[name].shape}")
    return Outcomes(path.name, arrays[name], None if ids is None else tuple(str(k) for k in ids.tolist()))


def _records(rows: Sequence[Mapping[str, Any]], path: Path, column: str) -> tuple[tuple[str, ...] | None, list[Any]]:
    """Ids, where there are some, and values of a list of objects."""
    names = list(dict.fromkeys(k for row in rows for k in row))
    name = _column(names, path, column)
    key = next((k for k in IDS if k in names and k != name), None)
    for i, row in enumerate(rows):
        if name not in row or (key is not None and key not in row):
            raise InputError("a sample without its outcome or id", where=f"{path}, sample {i + 1}",
                             do="give every sample both, or leave it out of both versions")
    return None if key is None else tuple(str(row[key]) for row in rows), [row[name] for row in rows]


def _column(names: Sequence[str], path: Path, column: str) -> str:
    if column:
        if column not in names:
            raise InputError(f"there is no column {column!r}", where=str(path), why=f"there are {', '.join(names)}")
        return column
    found = [n for n in names if n in COLUMNS] or [n for n in names if n not in IDS]
    if len(found) != 1:
        raise InputError("which column holds the outcomes?", where=str(path),
                         why=f"there are {', '.join(names) or 'none'}", do="name it: --column right")
    return found[0]


def _numbers(values: Sequence[Any], path: Path) -> np.ndarray:
    out = np.empty(len(values))
    words = {"true": 1.0, "false": 0.0}
    for i, v in enumerate(values):
        try:
            out[i] = words.get(v.strip().lower(), v) if isinstance(v, str) else v
        except (TypeError, ValueError, OverflowError):
            raise InputError("an outcome that is no number", where=f"{path}, sample {i + 1}",
                             why=f"it is {str(v)[:60]!r}",
                             do="give 1 or 0 (true or false), or a measured value") from None
    return out
