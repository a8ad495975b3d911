"""What a model takes, and whether data fit it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from whet.errors import InputError
from whet.ir.graph import Graph
from whet.ir.symbolic import Dim, evaluate, names
from whet.plan import Plan, dims
from whet.plan.manifest import np_dtype


@dataclass(frozen=True)
class Extent:
    """One dimension: its range, and the size that the model is tuned for. `name` is "" where it is fixed."""

    least: int
    best: int
    most: int
    name: str = ""

    def holds(self, n: int) -> bool:
        return self.least <= n <= self.most

    def __str__(self) -> str:
        span = str(self.least) if self.least == self.most else f"{self.least}..{self.most}"
        return f"{self.name}={span}" if self.name else span


@dataclass(frozen=True)
class InputSpec:
    """One input of a model: name, element type, extents."""

    name: str
    dtype: np.dtype
    shape: tuple[Extent, ...]

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"


def specs(graph: Graph) -> list[InputSpec]:
    """The inputs of a graph, with the ranges of its optimization profile."""
    return [InputSpec(v.name, v.dtype.np, tuple(_extent(d, graph.dims) for d in v.shape)) for v in graph.inputs]


def of_plan(plan: Plan) -> list[InputSpec]:
    """The inputs of a plan, with the ranges of its first profile. InputError for inputs of strings."""
    ranges = plan.manifest.dims
    out = []
    for t in plan.manifest.inputs:
        if t.dtype in ("string", "object"):
            raise InputError(f"the input {t.name!r} is of {t.dtype}s", why="data are arrays of numbers",
                             do="run the plans yourself, and give outcomes by sample")
        extents = []
        for d in t.shape:
            least, best, most = (dims.evaluate(d, {n: r[i] for n, r in ranges.items()}) for i in range(3))
            extents.append(Extent(min(least, most), best, max(least, most), "" if isinstance(d, int) else dims.show(d)))
        out.append(InputSpec(t.name, np_dtype(t.dtype), tuple(extents)))
    return out


def fixed(shapes: Mapping[str, Sequence[int]], dtype: Any = np.float32) -> list[InputSpec]:
    """Inputs of static shapes and one type: `fixed({"x": (8, 3, 224, 224)})`."""
    return [InputSpec(n, np.dtype(dtype), tuple(Extent(d, d, d) for d in s)) for n, s in shapes.items()]


def _extent(d: Dim, dims: Mapping[str, tuple[int, int, int]]) -> Extent:
    if isinstance(d, int):
        return Extent(d, d, d)
    sizes = [evaluate(d, {n: dims[n][i] for n in names(d)}) for i in range(3)]
    return Extent(min(sizes), sizes[1], max(sizes), str(d))


def batch_extent(inputs: Sequence[InputSpec]) -> Extent | None:
    """The dimension along which samples are batched: the first of all inputs, if it is one and the same. None if a
    model has no such dimension (a scalar input, say): then each sample is a set of whole inputs."""
    firsts = {s.shape[0] if s.shape else None for s in inputs}
    return firsts.pop() if len(firsts) == 1 else None


def convert(name: str, array: Any, spec: InputSpec, where: str) -> np.ndarray:
    """`array` in the input's type, if its values are of that kind. InputError for another kind (whole numbers for a
    float input, as of images that are not scaled, and the other way round), NaN, infinities, and what overflows."""
    try:
        a = np.asarray(array)
    except (TypeError, ValueError) as e:
        raise InputError(f"{name!r} is no array", where=where, why=str(e), do="give a NumPy array") from e
    want = spec.dtype
    got_kind, kind = _kind(a.dtype), _kind(want)
    if got_kind != kind:
        hint = "preprocess it (scale, mean, std), then " if (got_kind, kind) == ("integer", "float") else ""
        raise InputError(f"{name!r} holds {a.dtype}", where=where, why=f"the input takes {want}",
                         do=f"{hint}convert it: .astype({str(want)!r})")
    if kind == "float":
        _check_finite(name, a, where)
    if a.dtype == want or kind == "string":
        return a
    if kind == "integer" and a.size:
        info = np.iinfo(want)
        if int(a.min()) < info.min or int(a.max()) > info.max:
            raise InputError(f"{name!r} holds values outside {want}", where=where,
                             why=f"they go from {a.min()} to {a.max()}", do="check how the data were made")
    with np.errstate(over="ignore"):
        out = a.astype(want)
    if kind == "float" and not np.isfinite(out).all():
        raise InputError(f"{name!r} holds values beyond {want}", where=where, why=f"as {a.dtype} they are finite",
                         do="scale the data")
    return out


def _check_finite(name: str, a: np.ndarray, where: str) -> None:
    bad = a.size - int(np.count_nonzero(np.isfinite(a)))
    if bad:
        nan = int(np.count_nonzero(np.isnan(a)))
        raise InputError(f"{name!r} holds {nan} NaN and {bad - nan} infinite values of {a.size}", where=where,
                         why="ranges and accuracy would mean nothing", do="remove or mend these samples")


def _kind(dtype: np.dtype) -> str:
    """What a type holds: bfloat16 and the like are floats."""
    if dtype.kind == "V" or dtype.name.startswith(("bfloat", "float")):
        return "float"
    return {"i": "integer", "u": "integer", "b": "truth value", "c": "complex number"}.get(dtype.kind, "string")


def check_names(given: Iterable[str], inputs: Sequence[InputSpec], where: str) -> None:
    """InputError unless these are just the model's inputs."""
    wanted, there = {s.name for s in inputs}, set(given)
    parts = [f"{what}: {', '.join(sorted(which))}"
             for what, which in (("missing", wanted - there), ("unknown", there - wanted)) if which]
    if parts:
        raise InputError("the data do not have the model's inputs", where=where, why="; ".join(parts),
                         do=f"name the arrays {', '.join(sorted(wanted))}")


def check_shape(shape: Sequence[int], spec: InputSpec, where: str, skip: int = 0) -> None:
    """InputError unless a shape lies within the spec's, dimensions before `skip` left out."""
    if len(shape) != len(spec.shape):
        raise InputError(f"{spec.name!r} has the shape {list(shape)}", where=where,
                         why=f"the input is {spec}: {len(spec.shape)} dimensions", do="reshape the data")
    for i, (n, e) in enumerate(zip(shape, spec.shape)):
        if i >= skip and not e.holds(n):
            raise InputError(f"{spec.name!r} has the shape {list(shape)}", where=where,
                             why=f"dimension {i} is {n}, the input is {spec}",
                             do="resize the data, or build the model for these shapes (--min-shapes, --max-shapes)")

