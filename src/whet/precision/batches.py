"""Batches that a model takes, cut from samples."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from whet.errors import InputError
from whet.precision import labels as labelling
from whet.precision import sources
from whet.precision.sources import Block, Source
from whet.precision.specs import Extent, InputSpec, batch_extent, check_names, check_shape, convert

ONE_SAMPLE = "one sample only: its range is taken for that of all inputs; give some hundreds"
KEEP_BYTES = 256 << 20  # batches up to this stay in memory for the next walk


@dataclass(frozen=True)
class Batch:
    """Inputs as the model takes them. The first `count` rows are samples first, first + 1...; where the model wants
    more, the batch is filled up with repetitions of them. `labels` has `count` elements."""

    feeds: dict[str, np.ndarray]
    first: int
    count: int
    labels: np.ndarray | None = None


class Data:
    """Samples as batches. `batches()` may be walked again and again, but over an iterator that cannot start anew and
    is too large to be kept."""

    def __init__(self, source: Source, inputs: Sequence[InputSpec], batch: int | None = None, limit: int | None = None,
                 need_labels: bool = False, keep_bytes: int = KEEP_BYTES, preprocessing: str = "") -> None:
        self.source, self.inputs = source, {s.name: s for s in inputs}
        self.preprocessing = preprocessing
        self.extent = batch_extent(inputs)
        self.size = _batch_size(self.extent, batch)
        self._keep_bytes, self._kept = keep_bytes, list[Batch]()
        self._complete = False
        self._need_labels, self._limit = need_labels, limit
        self._samples = 0
        self._digest = ""
        self._chosen: np.ndarray | None = None
        if source.count == 0:
            raise InputError("there are no samples", where=source.where, do="give some hundreds")
        if limit is not None and limit < 1:
            raise InputError(f"a limit of {limit} samples", where=source.where, do="give 1 or more")
        if limit is not None and source.count is not None and limit < source.count:
            self._chosen = np.unique(np.linspace(0, source.count - 1, limit).round().astype(np.int64))
        if need_labels and not source.labelled and not isinstance(source, sources.Stream):
            raise _unlabelled(source.where)

    @property
    def classes(self) -> list[str]:
        """Names of the classes that labels number, where they had names."""
        return self.source.classes

    @property
    def samples(self) -> int | None:
        """How many samples a walk gives; None before the first over an iterator."""
        if self._complete:
            return self._samples
        return self.source.count if self._chosen is None else len(self._chosen)

    @property
    def warnings(self) -> list[str]:
        """What callers should know of the data, and put into the manifest."""
        return [ONE_SAMPLE] if self.samples == 1 else []

    def share(self, k: int, of: int) -> Data:
        """The k-th (from 0) of so many shares of the samples, one behind the other, cut between batches: calibrations
        of all shares merge to that of the whole. InputError
        where the number of samples is not known, and for a share without any."""
        count = self.source.count
        if count is None:
            raise InputError("samples of an unknown number cannot be shared out", where=self.source.where,
                             do="give them as a file, a folder or arrays")
        chosen = np.arange(count) if self._chosen is None else self._chosen
        size = max(self.size, 1)
        batches = -(-len(chosen) // size)
        cut = [batches * i // of * size for i in (k, k + 1)]
        out = copy.copy(self)
        out._kept, out._complete, out._limit, out._digest = [], False, None, ""
        out._chosen = chosen[cut[0]:cut[1]]
        if not len(out._chosen):
            raise InputError(f"{of} shares of {len(chosen)} samples", where=self.source.where,
                             why=f"batches of {size} are not divided", do="share out among fewer")
        return out

    def digest(self) -> str:
        """SHA-256 over the data and the choice of samples; "" for an iterator that was not walked yet."""
        return self._digest or self.source.digest(self._chosen)

    def batches(self) -> Iterator[Batch]:
        """All samples in order. InputError where they do not fit, with the sample."""
        if self._complete and self._kept:
            yield from self._kept
            return
        kept, size, samples = list[Batch](), 0, 0
        hashed = hashlib.sha256() if not self.source.digest(self._chosen) else None
        for b in self._cut(self._blocks()):
            samples += b.count
            size += sum(a.nbytes for a in b.feeds.values())
            if size <= self._keep_bytes:
                kept.append(b)
            else:
                kept.clear()
            if hashed is not None:
                for n, a in sorted(b.feeds.items()):
                    hashed.update(f"{n} {a.dtype} {a.shape} {b.count};".encode())
                    hashed.update(np.ascontiguousarray(a).view(np.uint8).data if a.size and a.dtype != object else b"")
            yield b
        if not samples:
            raise InputError("there are no samples", where=self.source.where,
                             why="the iterator gave nothing (one that was walked before cannot start again)",
                             do="give a list, or a function that makes the iterator")
        self._complete, self._samples = True, samples
        self._kept = kept if size <= self._keep_bytes else []
        self._digest = hashed.hexdigest() if hashed is not None else self._digest

    # -- blocks to rows --------------------------------------------------------------------

    def _blocks(self) -> Iterator[Block]:
        """Blocks with converted arrays: `stacked` ones are rows along the batch, the others whole feeds."""
        at = 0
        for found in self.source.blocks(self._chosen):
            where = f"{self.source.where}: sample {at}" + (f"..{at + found.count - 1}" if found.count > 1 else "")
            check_names(found.arrays, list(self.inputs.values()), where)
            arrays = {n: convert(n, a, self.inputs[n], where) for n, a in found.arrays.items()}
            for b in self._rows(found, arrays, at, where) if found.stacked else [self._item(found, arrays, at, where)]:
                b = self._cut_to_limit(b)
                if b.labels is None and self._need_labels:
                    raise _unlabelled(where)
                if b.labels is not None:
                    labelling.as_array(b.labels, where)
                yield b
                at += b.count
                if self._limit is not None and at >= self._limit:
                    return

    def _cut_to_limit(self, b: Block) -> Block:
        left = b.count if self._limit is None else self._limit - b.first
        if left >= b.count or not b.stacked:
            return b
        return Block({n: a[:left] for n, a in b.arrays.items()}, b.first, left, True,
                     None if b.labels is None else b.labels[:left])

    def _rows(self, found: Block, arrays: dict[str, np.ndarray], at: int, where: str) -> list[Block]:
        """Stacked samples: rows of batches, or, with one more axis than the input, a whole feed each."""
        if self.extent is not None and all(a.ndim == len(self.inputs[n].shape) for n, a in arrays.items()):
            for n, a in arrays.items():
                check_shape(a.shape, self.inputs[n], where, skip=1)
            return [Block(arrays, at, found.count, True, found.labels)]
        out = []
        for i in range(found.count):
            one = {n: a[i] if a.ndim == len(self.inputs[n].shape) + 1 else a[i:i + 1] for n, a in arrays.items()}
            for n, a in one.items():
                check_shape(a.shape, self.inputs[n], f"{self.source.where}: sample {at + i}")
            out.append(Block(one, at + i, 1, False, None if found.labels is None else found.labels[i:i + 1]))
        return out

    def _item(self, found: Block, arrays: dict[str, np.ndarray], at: int, where: str) -> Block:
        """One file or item: a sample without the batch's axis, rows of a batch, or a whole feed."""
        ranks = {n: a.ndim - len(self.inputs[n].shape) for n, a in arrays.items()}
        if self.extent is not None and set(ranks.values()) == {-1}:
            arrays, ranks = {n: a[None] for n, a in arrays.items()}, dict.fromkeys(arrays, 0)
        rows = {a.shape[0] for a in arrays.values() if a.ndim}
        labels = found.labels
        if (self.extent is not None and not any(ranks.values()) and len(rows) == 1
                and (labels is None or len(labels) in rows)):
            for n, a in arrays.items():
                check_shape(a.shape, self.inputs[n], where, skip=1)
            return Block(arrays, at, rows.pop(), True, labels)
        for n, a in arrays.items():
            check_shape(a.shape, self.inputs[n], where)
        return Block(arrays, at, 1 if labels is None else len(labels), False, labels)

    # -- rows to batches -------------------------------------------------------------------

    def _cut(self, blocks: Iterable[Block]) -> Iterator[Batch]:
        waiting: list[Block] = []
        for b in blocks:
            if not b.stacked:
                yield from self._emit(waiting, all_of_it=True)
                waiting = []
                yield Batch(dict(b.arrays), b.first, b.count, b.labels)
                continue
            if waiting and _sizes(waiting[0]) != _sizes(b):
                yield from self._emit(waiting, all_of_it=True)
                waiting = []
            waiting.append(b)
            if sum(w.count for w in waiting) >= self.size:
                yield from self._emit(waiting)
                waiting = _rest(waiting, self.size)
        yield from self._emit(waiting, all_of_it=True)

    def _emit(self, waiting: Sequence[Block], all_of_it: bool = False) -> Iterator[Batch]:
        total = sum(b.count for b in waiting)
        if not total:
            return
        joined = _join(waiting)
        for at in range(0, total, self.size):
            n = min(self.size, total - at)
            if n < self.size and not all_of_it:
                return
            feeds = {k: a[at:at + n] for k, a in joined.arrays.items()}
            least = self.extent.least if self.extent is not None else n
            if n < least:  # the model's batch is fixed: samples are repeated, and `count` tells how many there are
                feeds = {k: np.take(a, np.arange(least) % n, axis=0) for k, a in feeds.items()}
            yield Batch(feeds, joined.first + at, n, None if joined.labels is None else joined.labels[at:at + n])


def _sizes(b: Block) -> dict[str, tuple[int, ...]]:
    return {n: a.shape[1:] for n, a in b.arrays.items()} | {"": (b.labels is None,)}


def _join(blocks: Sequence[Block]) -> Block:
    if len(blocks) == 1:
        return blocks[0]
    arrays = {n: np.concatenate([b.arrays[n] for b in blocks]) for n in blocks[0].arrays}
    parts = [b.labels for b in blocks if b.labels is not None]
    return Block(arrays, blocks[0].first, sum(b.count for b in blocks), True, np.concatenate(parts) if parts else None)


def _rest(waiting: Sequence[Block], size: int) -> list[Block]:
    """What is left of these blocks after whole batches."""
    joined = _join(waiting)
    done = joined.count // size * size
    if done == joined.count:
        return []
    return [Block({n: a[done:] for n, a in joined.arrays.items()}, joined.first + done, joined.count - done, True,
                  None if joined.labels is None else joined.labels[done:])]


def _batch_size(extent: Extent | None, wanted: int | None) -> int:
    if extent is None:
        return 1
    if wanted is not None and not extent.holds(wanted):
        raise InputError(f"batches of {wanted}", why=f"the model takes {extent}", do="give a size within that range")
    return max(wanted if wanted is not None else extent.best, 1)


def _unlabelled(where: str) -> InputError:
    return InputError("the data have no labels", where=where, why="the metric compares outputs with labels",
                      do="add `labels` to the .npz, a labels.csv or a folder per class to the folder, or let the "
                         "iterator give pairs of (inputs, labels); or use a metric of output divergence")
