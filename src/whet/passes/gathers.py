"""Gathers whose indices count evenly are views: slices, transposes, reshapes and expands of what they read.

Exporters write masks, positions and windows as indices, which constant folding turns into numbers: `mask[b, k]` for all
(b, q, k) is a grid of them. An index that is an arithmetic progression along some dimensions of its grid, and the same
along the others, says where a slice begins and how far it steps. All rules are exact; indices that lie outside of what
they read (which kernels clamp, and references refuse) are left alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from whet.ir.graph import Graph, Node, Value
from whet.ir.symbolic import Dim, lower, names, product
from whet.passes.rewrite import Result, Rewriter, made_by, uniform


@dataclass(frozen=True)
class Count:
    """What an integer tensor counts: start, start + step, ... along its dimensions `axes` (ascending, row-major, none
    of them of size 1); it repeats along the others."""

    axes: tuple[int, ...]
    start: Dim
    step: int


# -- what indices are ------------------------------------------------------------------------------------------


def count_of(v: Value | None, size: Dim | None = None) -> Count | None:
    """How v counts, if it does. size: of the dimension that it indexes, so that negative constants count from its
    end."""
    if v is None or not v.dtype.is_integer:
        return None
    if v.data is not None:
        return _counted(v.data, size)
    p, one = v.producer, single(v)
    if one is not None:
        return Count((), one, 1)
    if p is None:
        return None
    if p.op == "iota":
        step = p.attrs["step"]
        return Count((0,) if v.shape != (1,) else (), p.attrs["start"], step) if isinstance(step, int) else None
    if p.op in ("add", "sub"):
        return _shifted(p)
    if p.op not in ("cast", "expand", "reshape", "transpose"):
        return None
    x = p.input(0)
    found = count_of(x, size)
    return None if found is None else _seen(found, p, x, v)


def _counted(data: np.ndarray, size: Dim | None) -> Count | None:
    """`count_of` of a constant."""
    if data.size == 0 or data.dtype.kind not in "iu":
        return None
    i = data.astype(np.int64)
    if isinstance(size, int):
        i = np.where(i < 0, i + size, i)
    axes = tuple(a for a in range(i.ndim) if i.shape[a] > 1 and bool((i != i.take([0], a)).any()))
    line = i[tuple(slice(None) if a in axes else 0 for a in range(i.ndim))].reshape(-1)
    step = int(line[1] - line[0]) if line.size > 1 else 1
    if step == 0 or bool((np.diff(line) != step).any()):
        return None
    return Count(axes, int(line[0]), step)


def _seen(c: Count, p: Node, x: Value, v: Value) -> Count | None:
    """The count of x through a cast or view of it."""
    if p.op == "transpose":
        axes = tuple(int(p.attrs["perm"].index(a)) for a in c.axes)
        return Count(axes, c.start, c.step) if list(axes) == sorted(axes) else None
    if p.op == "expand":
        axes = tuple(a + v.rank - x.rank for a in c.axes)
        return Count(axes, c.start, c.step) if all(v.shape[b] == x.shape[a] for a, b in zip(c.axes, axes)) else None
    if p.op == "reshape":
        old, new = ([a for a, d in enumerate(y.shape) if d != 1] for y in (x, v))
        if [x.shape[a] for a in old] != [v.shape[a] for a in new]:
            return None
        return Count(tuple(new[old.index(a)] for a in c.axes), c.start, c.step)
    return c if x.dtype.is_integer else None


def _shifted(p: Node) -> Count | None:
    """`count_of` of a sum or difference of what counts and one number."""
    a, b = p.input(0), p.input(1)
    for x, y in ((a, b), (b, a)) if p.op == "add" else ((a, b),):
        by = single(y)
        found = count_of(x) if by is not None else None
        if found is not None and by is not None and x.shape == p.output.shape:
            return Count(found.axes, found.start + by if p.op == "add" else found.start - by, found.step)
    return None


def counting(v: Value | None, size: Dim) -> tuple[int, Dim] | None:
    """(axis, start) of the one axis along which v counts start, start + 1, .. for `size` steps (it repeats along the
    others)."""
    c = count_of(v) if v is not None and v.data is None else None
    if v is None or c is None or c.step != 1 or len(c.axes) != 1 or v.shape[c.axes[0]] != size:
        return None
    return c.axes[0], c.start


def single(v: Value) -> Dim | None:
    """The one number that an integer tensor repeats, as far as it is known when the plan is built."""
    if not v.dtype.is_integer:
        return None
    if v.data is not None:
        number = uniform(v)
        return None if number is None else int(number)
    p = v.producer
    if p is not None and p.op in ("reshape", "expand", "cast"):
        return single(p.input(0))
    if p is not None and p.op == "dims" and len(p.attrs["values"]) == 1:
        value: Dim = p.attrs["values"][0]
        return value
    return None


def _columns(index: Value, sizes: Sequence[Dim]) -> list[Count | None]:
    """How each component of a gather_nd's indices counts along the dimensions before the last; there is one for each
    of `sizes`."""
    if index.data is not None:
        return [_counted(index.data[..., k], d) for k, d in enumerate(sizes)]
    if len(sizes) == 1:
        return [count_of(index, sizes[0])]
    joined, view = made_by(index, "concat"), made_by(index, "expand", "cast")
    if joined is not None and joined.attrs["axis"] == index.rank - 1:
        out: list[Count | None] = []
        for part in joined.inputs:
            assert part is not None
            width = part.shape[-1]
            assert isinstance(width, int)
            out += _columns(part, sizes[len(out):len(out) + width]) if width else []
        return out
    if view is None or view.input(0).shape[-1] != len(sizes):
        return [None] * len(sizes)
    x = view.input(0)
    return [None if c is None else _seen(c, view, x, index) for c in _columns(x, sizes)]


# -- views in their place --------------------------------------------------------------------------------------


def gather_of_count(rw: Rewriter, node: Node) -> Result:
    """A gather along one dimension by what counts."""
    x, index, axis = node.input(0), node.input(1), node.attrs["axis"]
    c = count_of(index, x.shape[axis])
    if c is None:
        return None
    to = [(k,) if k < axis else (k - 1 + index.rank,) for k in range(x.rank)]
    to[axis] = tuple(axis + a for a in c.axes)
    return _view(rw, node, {axis: c}, to)


def gather_nd_of_counts(rw: Rewriter, node: Node) -> Result:
    """A gather by a grid, each component of which counts along dimensions of its own."""
    x, index, batch = node.input(0), node.input(1), node.attrs["batch_dims"]
    depth, lead = index.shape[-1], index.rank - 1
    assert isinstance(depth, int)
    counts = _columns(index, x.shape[batch:batch + depth])
    picks = {batch + k: c for k, c in enumerate(counts) if c is not None}
    along = [a for c in picks.values() for a in c.axes]
    if len(picks) != depth or len(set(along)) != len(along) or any(a < batch for a in along):
        return None
    to = [picks[k].axes if k in picks else (k,) if k < batch else (k - batch - depth + lead,) for k in range(x.rank)]
    return _view(rw, node, picks, to)


def gather_elements_of_count(rw: Rewriter, node: Node) -> Result:
    """A gather of elements whose places depend on nothing but where they are along the axis."""
    x, index, axis = node.input(0), node.input(1), node.attrs["axis"]
    c = count_of(index, x.shape[axis])
    if c is None or any(a != axis for a in c.axes):
        return None
    to = [(k,) if k != axis else c.axes for k in range(x.rank)]
    return _view(rw, node, {k: c if k == axis else Count((k,), 0, 1) for k in range(x.rank)}, to)


def _view(rw: Rewriter, node: Node, picks: dict[int, Count], to: Sequence[tuple[int, ...]]) -> Result:
    """The first operand as the node's result shows it: dimension k becomes the result's dimensions to[k], `picks` are
    those that are cut. None where an index may lie outside."""
    x, out = node.input(0), node.output
    starts: list[Dim] = [0] * x.rank
    sizes, steps = list(x.shape), [1] * x.rank
    for k, c in picks.items():
        sizes[k] = product(out.shape[a] for a in to[k])
        start = _inside(c, sizes[k], x.shape[k], rw.graph)
        if start is None:
            return None
        starts[k], steps[k] = start, c.step
    v = x
    if any(s != 0 for s in starts) or tuple(sizes) != x.shape or any(s != 1 for s in steps):
        v = rw.add("slice", v, like=node, starts=tuple(starts), sizes=tuple(sizes), steps=tuple(steps))
    axes = [a for group in to for a in group]
    if axes != sorted(axes):
        shape = tuple(out.shape[a] for a in axes)
        v = v if v.shape == shape else rw.add("reshape", v, like=node, shape=shape)
        v = rw.add("transpose", v, like=node, perm=tuple(axes.index(a) for a in sorted(axes)))
    shape = tuple(d if a in axes else 1 for a, d in enumerate(out.shape))
    v = v if v.shape == shape else rw.add("reshape", v, like=node, shape=shape)
    return v if v.shape == out.shape else rw.add("expand", v, like=node, shape=out.shape)


def _inside(c: Count, steps: Dim, size: Dim, graph: Graph) -> Dim | None:
    """Where so many steps of a count begin in a dimension of this size, if all of them are known to lie inside."""
    if c.start == 0 and c.step == 1 and steps == size:
        return 0
    if not isinstance(c.start, int) or not isinstance(steps, int) or steps < 1:
        return None
    ends = c.start, c.start + c.step * (steps - 1)
    least = lower(size, {n: graph.dims[n][::2] if n in graph.dims else (0, 1 << 31) for n in names(size)})
    if min(ends) >= 0:
        return c.start if max(ends) < least else None
    return size + c.start if max(ends) < 0 and -min(ends) <= least else None
