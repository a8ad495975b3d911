"""Data for calibration and evaluation, from wherever they come."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from whet.errors import InputError
from whet.precision import images, sources
from whet.precision import labels as labelling
from whet.precision.batches import KEEP_BYTES, Batch, Data
from whet.precision.images import Preprocess
from whet.precision.sources import Source
from whet.precision.specs import InputSpec, check_names

__all__ = ["Batch", "Data", "Preprocess", "open_data"]


def open_data(data: Any, inputs: Sequence[InputSpec], *, preprocess: Preprocess | None = None, batch: int | None = None,
              limit: int | None = None, labels: Any = None, need_labels: bool = False,
              keep_bytes: int = KEEP_BYTES) -> Data:
    """Samples for a model with these inputs.

    data:       a path (.npz, .npy, a folder of images or of arrays), "package.module:function" (called without
                arguments, gives an iterator), a mapping of arrays by input name or one array (the first axis counts
                samples), a pair (any of these, labels), an iterable of batches, or a callable that makes one.
    preprocess: of images; by default they are stretched to the model's size and scaled to 0..1.
    batch:      samples per batch; by default what the model is tuned for.
    limit:      at most so many samples, evenly spaced where their number is known, else the first.
    labels:     an array, or a .csv file of name,label for a folder.
    need_labels: InputError where there are none.

    InputError for data that do not fit (empty, wrong names, types or shapes, NaN): at once where that can be seen
    without reading all of it, else while walking `Data.batches`.
    """
    names = [s.name for s in inputs]
    if isinstance(data, tuple) and len(data) == 2 and labels is None:
        data, labels = data
    key = ""
    if isinstance(data, str) and re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*", data) and not os.path.exists(data):
        where, data = data, _function(data)
    else:
        where = str(data) if isinstance(data, (str, os.PathLike)) else f"the {type(data).__name__} of samples"
    given = None if labels is None or isinstance(labels, (str, os.PathLike)) else labelling.as_array(labels, where)
    source: Source
    if isinstance(data, (str, os.PathLike)):
        path = Path(data)
        if path.is_dir():
            source, key = _folder(path, inputs, preprocess, labels)
        elif not path.exists():
            raise InputError("there are no such data", where=str(path), do="check the path")
        elif path.suffix.lower() == ".npz":
            source = sources.npz(path, names, given)
        elif path.suffix.lower() == ".npy":
            source = sources.npy(path, names, given)
        else:
            raise InputError("data of an unknown kind", where=str(path), why=f"it is a {path.suffix or 'plain'} file",
                             do="give .npz, .npy, a folder of images or arrays, or package.module:function")
    elif isinstance(data, Mapping):
        source = sources.stacked(data, given, where)
    elif isinstance(data, np.ndarray):
        if len(names) != 1:
            raise InputError("one array for a model of several inputs", where=where, why=f"they are {', '.join(names)}",
                             do="give a mapping of arrays by input name")
        source = sources.stacked({names[0]: data}, given, where)
    elif isinstance(data, Iterable) or callable(data):
        if given is not None:
            raise InputError("labels beside an iterator", where=where, do="let it give pairs of (inputs, labels)")
        items = sources.Replay(data, keep_bytes) if isinstance(data, Iterator) else data
        start: Callable[[], Iterable[Any]] = data if callable(data) else lambda: items
        source = sources.Stream(where, start, names, need_labels)
    else:
        raise InputError(f"data of the type {type(data).__name__}", do="give a path, arrays, or an iterable of batches")
    if isinstance(source, sources.Stacked):
        check_names(source.names, list(inputs), where)
    return Data(source, inputs, batch, limit, need_labels, keep_bytes, key)


def _function(text: str) -> Callable[[], Iterable[Any]]:
    module, _, name = text.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except Exception as e:  # whatever a module does when it is imported
        raise InputError("the function that gives the data cannot be found", where=text, why=f"{type(e).__name__}: {e}",
                         do="name it package.module:function, importable from here") from e
    if not callable(found):
        raise InputError("this gives no data", where=text, why=f"it is a {type(found).__name__}", do="name a function")
    return found


def _folder(root: Path, inputs: Sequence[InputSpec], preprocess: Preprocess | None, labels: Any) -> tuple[Source, str]:
    """A folder of images or arrays, or of folders of these (one per class), and the key of its preprocessing."""
    known = (*images.SUFFIXES, *sources.ARRAYS)
    try:
        entries = sorted(p for p in root.iterdir() if not p.name.startswith("."))
        direct = [p for p in entries if p.suffix.lower() in known and p.is_file()]
        nested = [f for d in entries if d.is_dir() for f in sorted(d.iterdir())
                  if f.suffix.lower() in known and not f.name.startswith(".")]
    except OSError as e:
        raise InputError("the folder cannot be read", where=str(root), why=e.strerror or str(e)) from e
    files = direct or nested
    if not files:
        raise InputError("the folder has no samples", where=str(root), do=f"put files in it: {', '.join(known)}")
    pictures = [f.suffix.lower() in images.SUFFIXES for f in files]
    if any(pictures) != all(pictures):
        raise InputError("the folder has images and arrays", where=str(root), do="keep one kind")
    table = Path(labels) if isinstance(labels, (str, os.PathLike)) else root / "labels.csv"
    found: np.ndarray | None = None
    classes: list[str] = []
    if labels is not None and not isinstance(labels, (str, os.PathLike)):
        found = labelling.as_array(labels, str(root))
        if len(found) != len(files):
            raise InputError(f"{len(found)} labels for {len(files)} files", where=str(root), do="give one for each")
    elif labels is not None or table.is_file():
        found, classes = labelling.of_files(root, files, labelling.read_csv(table), str(table))
    elif not direct:
        found, classes = labelling.of_folders(files)
    names = [s.name for s in inputs]
    if not pictures[0]:
        return sources.Files(str(root), files, lambda p: _arrays(p, names), found, classes), ""
    if len(inputs) != 1:
        raise InputError("images for a model of several inputs", where=str(root), why=f"they are {', '.join(names)}",
                         do="give arrays by input name (.npz)")
    how = preprocess or Preprocess.fitting(inputs[0])
    return sources.Files(str(root), files, lambda p: {names[0]: images.read(p, how)}, found, classes), how.key()


def _arrays(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The arrays of one sample's file."""
    if path.suffix.lower() == ".npy":
        if len(names) != 1:
            raise InputError("one array for a model of several inputs", where=str(path),
                             why=f"they are {', '.join(names)}", do="save them by name: np.savez")
        return {names[0]: np.asarray(sources.load_npy(path))}
    try:
        with np.load(path, allow_pickle=False) as z:
            found = {n: z[n] for n in z.files}
    except sources.DAMAGED as e:
        raise sources.damaged(str(path), e) from e
    return {names[0]: next(iter(found.values()))} if len(names) == 1 and len(found) == 1 else found
