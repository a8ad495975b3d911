"""Lowerings of ONNX's operators that take tensors apart and put them together."""

from __future__ import annotations

from collections.abc import Sequence

from whet.errors import GraphError
from whet.frontends.call import Call, NeedsReferenceError, lowers
from whet.frontends.scalars import Scalar, Scalars
from whet.ir.dtypes import DType
from whet.ir.graph import Value
from whet.ir.symbolic import Dim, Sym, ceildiv, names

INT64_MAX = (1 << 63) - 1


@lowers("Concat")
def _concat(c: Call) -> Value:
    axis = c.attr("axis", 1)
    values = c.operands()
    axis = c.axis(axis, values[0].rank)
    kept = [v for v in values if v.rank != values[0].rank or v.shape[axis] != 0] or values[:1]
    return kept[0] if len(kept) == 1 else c.emit("concat", *kept, axis=axis)


@lowers("Split")
def _split(c: Call) -> list[Value]:
    x, calc = c.x(0), Scalars(c)
    axis = c.axis(c.attr("axis", 0), x.rank)
    n = len(c.proto.output)
    d = x.shape[axis]
    given: Sequence[Dim] | None = c.attr("split")
    if c.has(1):
        asked = calc.elements(1)
        each = (calc.span(d).opt or 1) // max(len(asked), 1)
        given = [calc.read(e, f"{c.hint}_{k}", each, most=d) for k, e in enumerate(asked)]
    if not given:
        if c.opset < 18 and isinstance(d, int) and d % n:
            raise GraphError(f"Split of {d} into {n} equal parts", where=c.origin)
        part = ceildiv(d, n)
        given = [part] * (n - 1) + [d - part * (n - 1)]
    if len(given) != n:
        raise GraphError(f"Split: {len(given)} sizes for {n} outputs", where=c.origin)
    out: list[Value] = []
    at: Dim = 0
    for size in given:
        out.append(c.slice(x, axis, at, size))
        at = at + size
    calc.check(at, d, "the sizes' sum")
    return out


@lowers("Slice")
def _slice(c: Call) -> Value:
    x, calc = c.x(0), Scalars(c)
    if x.dtype.is_host and any(c.computed(i) for i in range(1, 5)):
        raise NeedsReferenceError("of strings with computed bounds")
    axes: list[Scalar]
    steps: list[Scalar]
    if c.opset < 10:
        starts, ends = c.attr("starts"), c.attr("ends")
        axes, steps = c.attr("axes") or list(range(len(starts))), [1] * len(starts)
    else:
        starts, ends = calc.elements(1), calc.elements(2)
        axes = calc.elements(3) if c.has(3) else list(range(len(starts)))
        steps = calc.elements(4) if c.has(4) else [1] * len(starts)
    if not len(starts) == len(ends) == len(axes) == len(steps):
        raise GraphError("Slice with starts, ends, axes and steps of different lengths", where=c.origin)
    if any(isinstance(k, int) and k == 0 for k in steps):
        raise GraphError("Slice with step 0", where=c.origin)
    sliced: list[tuple[Scalar, Scalar, Scalar] | None] = [None] * x.rank
    if all(isinstance(a, int) for a in axes):
        for s, e, a, k in zip(starts, ends, axes, steps):
            sliced[c.axis(a, x.rank)] = s, e, k
    else:  # any axis may be meant
        begin, end = spread(calc, axes, starts, x.rank, 0), spread(calc, axes, ends, x.rank, INT64_MAX)
        stride = spread(calc, axes, steps, x.rank, 1)
        sliced = list(zip(begin, end, stride))
    first: list[Dim] = [0] * x.rank
    size: list[Dim] = list(x.shape)
    step = [1] * x.rank
    picked: dict[int, Value] = {}
    for i, bounds in enumerate(sliced):
        if bounds is None:
            continue
        start, count = extent(calc, x.shape[i], *bounds)
        n = calc.read(count, f"{c.hint}_{i}", calc.span(x.shape[i]).opt, most=x.shape[i])
        if isinstance(bounds[2], Value):
            places = c.emit("mul", c.emit("iota", start=0, step=1, size=n, dtype=DType.I64), calc.value(bounds[2]))
            picked[i] = c.emit("add", places, calc.value(start))
        elif bounds[2] == 1 and isinstance(start, Sym) and isinstance(n, int) and names(start) & c.builder.varying:
            x, size[i] = c.slice(x, i, start, n), n  # by itself: it changes in every iteration
        else:
            assert isinstance(bounds[2], int)
            first[i], size[i], step[i] = calc.read(start, f"{c.hint}_start_{i}", 0), n, bounds[2]
    if size != list(x.shape) or any(k != 1 for k in step):
        x = c.emit("slice", x, starts=tuple(first), sizes=tuple(size), steps=tuple(step))
    for i, places in picked.items():
        x = c.emit("gather", x, places, axis=i)
    return x


def spread(calc: Scalars, axes: Sequence[Scalar], given: Sequence[Scalar], rank: int, default: int) -> list[Scalar]:
    """For each dimension the number that is given for it, where the axes are computed; `default` if none is."""
    out: list[Scalar] = [default] * rank
    for a, v in zip(axes, given):
        a = calc.where(calc.less(a, 0), calc.add(a, rank), a)
        out = [calc.where(calc.equal(a, i), v, o) for i, o in enumerate(out)]
    return out


def extent(calc: Scalars, d: Dim, start: Scalar, end: Scalar, step: Scalar) -> tuple[Scalar, Scalar]:
    """(first, size) of one sliced dimension.

    ONNX clamps a start to [0, d] for a positive step and to [0, d - 1] for a negative one, unlike NumPy,
    where a start before the first element makes a backward slice empty.
    """
    if isinstance(d, int) and d == 0:
        return 0, 0
    start, end = (calc.where(calc.less(v, 0), calc.add(v, d), v) for v in (start, end))
    last = d - 1
    back = calc.less(step, 0)
    first = calc.where(back, calc.minimum(calc.maximum(start, 0), last), calc.clamp(start, 0, d))
    behind = calc.where(back, calc.clamp(end, -1, last), calc.clamp(end, 0, d))
    return calc.maximum(first, 0), calc.steps(calc.sub(behind, first), step)


@lowers("Pad")
def _pad(c: Call) -> Value:
    x, calc = c.x(0), Scalars(c)
    if c.opset < 11:
        given: Sequence[Scalar] = c.attr("pads") or c.attr("paddings")
    else:
        given = calc.elements(1)
    mode = c.attr("mode", "constant")
    value: float | Value = c.attr("value", 0.0) if c.opset < 11 else 0
    if c.opset >= 11 and c.has(2):
        value = c.reshape(c.x(2), ()) if c.computed(2) else c.number(2, 0)
    axes = (calc.elements(3) if c.has(3) else None) or list(range(x.rank))
    if len(given) != 2 * len(axes):
        raise GraphError(f"Pad: {len(given)} pads for {len(axes)} axes", where=c.origin)
    before, after = given[:len(axes)], given[len(axes):]
    if any(isinstance(a, Value) for a in axes):
        begins, ends = spread(calc, axes, before, x.rank, 0), spread(calc, axes, after, x.rank, 0)
    else:
        begins, ends = [0] * x.rank, [0] * x.rank
        for a, p, q in zip(axes, before, after):
            assert isinstance(a, int)
            begins[c.axis(a, x.rank)], ends[c.axis(a, x.rank)] = p, q
    plain: list[Dim] = [0] * (2 * x.rank)  # pads that are known
    for i, (p, q) in enumerate(zip(begins, ends)):
        fixed = (p, q) == (0, 0) or not isinstance(value, Value)
        if not isinstance(p, Value) and not isinstance(q, Value) and fixed:
            plain[i], plain[x.rank + i] = p, q
        elif mode == "constant":
            x = _padded_by(c, calc, x, i, p, q, value)
        else:
            x = _reflected(c, calc, x, i, p, q, mode)
    if all(isinstance(p, int) and p == 0 for p in plain):
        return x
    return c.emit("pad", x, pads=tuple(plain), mode=mode, value=0 if isinstance(value, Value) else value)


def _padded_by(c: Call, calc: Scalars, x: Value, axis: int, before: Scalar, after: Scalar,
               value: float | Value) -> Value:
    """One axis padded by a value; negative pads crop."""
    d = x.shape[axis]
    first = calc.minimum(calc.maximum(calc.sub(0, before), 0), d)
    left = calc.maximum(calc.sub(calc.sub(d, first), calc.maximum(calc.sub(0, after), 0)), 0)
    ahead = calc.maximum(before, 0)
    behind = calc.sub(calc.sub(calc.add(calc.add(before, after), d), ahead), left)
    size = calc.read(left, f"{c.hint}_{axis}_kept", calc.span(d).opt, most=d)
    x = c.slice(x, axis, calc.read(first, f"{c.hint}_{axis}_first", 0), size)
    p, q = (calc.read(s, f"{c.hint}_{axis}_{n}", 0) for s, n in ((ahead, "before"), (behind, "after")))
    if not isinstance(value, Value):
        pads = [0] * axis + [p] + [0] * (x.rank - 1) + [q] + [0] * (x.rank - axis - 1)
        return c.emit("pad", x, pads=tuple(pads), mode="constant", value=value)
    sides = [c.expand(value, (*x.shape[:axis], s, *x.shape[axis + 1:])) for s in (p, q)]
    return c.emit("concat", sides[0], x, sides[1], axis=axis)


def _reflected(c: Call, calc: Scalars, x: Value, axis: int, before: Scalar, after: Scalar, mode: str) -> Value:
    """One axis continued by its own elements; negative pads crop."""
    d = x.shape[axis]
    size = calc.read(calc.add(calc.add(before, after), d), f"{c.hint}_{axis}", calc.span(d).opt)
    n, last = calc.value(d), calc.value(calc.sub(d, 1))
    at = c.emit("sub", c.emit("iota", start=0, step=1, size=size, dtype=DType.I64), calc.value(before))
    if mode == "edge":
        at = c.emit("min", c.emit("max", at, c.like(at, 0)), last)
    elif mode == "wrap":
        at = c.emit("mod", at, n)
    elif mode == "reflect":
        period = c.emit("max", c.emit("mul", last, c.like(last, 2)), c.like(last, 1))
        at = c.emit("mod", at, period)
        at = c.emit("min", at, c.emit("sub", period, at))
    else:
        raise GraphError(f"Pad: unknown mode {mode!r}", where=c.origin)
    return c.emit("gather", x, at, axis=axis)
