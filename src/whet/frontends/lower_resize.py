"""Lowerings of ONNX's Resize and Upsample.

Axes whose output size is known, or read from data, are left to the `resize` operator. Where the scale itself is
computed while the model runs (or is no ratio of small numbers over a symbolic dimension), an axis is resampled by
gathers with places and weights that are computed from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from whet.frontends.call import Call, NeedsReferenceError, lowers
from whet.frontends.scalars import Scalars, trace
from whet.ir.dtypes import DType
from whet.ir.graph import Value
from whet.ir.symbolic import Dim, Sym

MAX_RATIO = 64  # a scale is a ratio with a denominator of at most this where the dimension is not known


@dataclass(frozen=True)
class _Axis:
    """How one axis is resampled: n elements to `size`, `scale` (f64, rank 0) output elements for each input element.

    exact: the scale is size / n. crop: start and end of tf_crop_and_resize, as parts of the axis.
    """

    n: Dim
    size: Dim
    scale: Value
    exact: bool
    crop: tuple[Value, Value] | None


class _Resize:
    def __init__(self, c: Call) -> None:
        self.c, self.calc = c, Scalars(c)
        self.x = c.x(0)
        self.old = c.proto.op_type == "Upsample" or c.opset < 11
        self.mode = "linear" if "linear" in c.attr("mode", "nearest") else c.attr("mode", "nearest")
        self.how = c.attr("coordinate_transformation_mode", "asymmetric" if self.old else "half_pixel")
        self.rounding = c.attr("nearest_mode", "floor" if self.old else "round_prefer_floor")
        self.policy = c.attr("keep_aspect_ratio_policy", "stretch")
        self.axes = tuple(c.axis(a, self.x.rank) for a in c.attr("axes") or range(self.x.rank))

    def run(self) -> Value:
        c = self.c
        if self.x.dtype.is_host:
            raise NeedsReferenceError("of strings")
        plans = self._by_sizes() if c.has(3) and (c.computed(3) or c.fixed(3, "sizes").size) else self._by_scales()
        shape: list[Dim] = list(self.x.shape)
        factors: list[float | None] = [None] * self.x.rank
        for a, (size, factor, resampled) in plans.items():
            if resampled is None:
                shape[a], factors[a] = size, factor
        if c.attr("antialias", 0) and self.mode != "nearest":
            return self._antialiased(plans)
        y = self.x
        if any(f not in (None, 1.0) for f in factors) or shape != list(self.x.shape):
            y = self._emit(self.x, shape, factors)
        for a, (_, _, resampled) in plans.items():
            if resampled is not None:
                y = self._resampled(y, a, resampled)
        return y

    def _emit(self, x: Value, shape: Sequence[Dim], factors: Sequence[float | None], **more: bool) -> Value:
        c = self.c
        return c.emit("resize", x, shape=tuple(shape), scales=tuple(factors), mode=self.mode, coordinate=self.how,
                      rounding=self.rounding, cubic_coeff_a=c.attr("cubic_coeff_a", -0.75),
                      exclude_outside=bool(c.attr("exclude_outside", 0)), **more)

    def _antialiased(self, plans: dict[int, tuple[Dim, float | None, _Axis | None]]) -> Value:
        """One axis after the other, integers in float32: filters are wide, and their product would be costly."""
        c, y = self.c, self.x
        whole = self.x.dtype.is_integer
        if whole:
            y = c.cast(y, DType.F32)
        for a, (size, factor, resampled) in plans.items():
            if resampled is not None:
                y = self._resampled(y, a, resampled)
            elif size != y.shape[a] or factor not in (None, 1.0):
                shape: list[Dim] = list(y.shape)
                factors: list[float | None] = [None] * y.rank
                shape[a], factors[a] = size, factor
                y = self._emit(y, shape, factors, antialias=True)
        if whole:
            info = np.iinfo(self.x.dtype.np)
            y = c.emit("min", c.emit("max", c.emit("round", y), c.like(y, info.min)), c.like(y, info.max))
        return c.cast(y, self.x.dtype)

    # -- sizes and scales ----------------------------------------------------------------------

    def _by_sizes(self) -> dict[int, tuple[Dim, float | None, _Axis | None]]:
        """For each axis (size, scale, how it is resampled: None for the operator `resize`)."""
        c, calc = self.c, self.calc
        given = calc.elements(3)
        n = [self.x.shape[a] for a in self.axes]
        if self.policy == "stretch":
            sizes = [calc.read(e, f"{c.hint}_{a}", calc.span(d).opt) for a, e, d in zip(self.axes, given, n)]
            if self.how not in ("tf_crop_and_resize", "tf_half_pixel_for_nn"):
                return {a: (size, None, None) for a, size in zip(self.axes, sizes)}
            return {a: (size, None, self._axis(k, d, size, self._ratio(size, d), True))
                    for k, (a, size, d) in enumerate(zip(self.axes, sizes, n)) if size != d or self._crops(k)}
        ratios = [c.emit("div", self._f64(calc.value(e)), self._f64(calc.value(d))) for e, d in zip(given, n)]
        scale = ratios[0]
        for r in ratios[1:]:
            scale = c.emit("min" if self.policy == "not_larger" else "max", scale, r)
        out: dict[int, tuple[Dim, float | None, _Axis | None]] = {}
        for k, (a, d) in enumerate(zip(self.axes, n)):
            size = self._read(c.emit("floor", c.emit("add", c.emit("mul", scale, self._f64(calc.value(d))),
                                                     self._number(0.5))), a, d)
            out[a] = size, None, self._axis(k, d, size, scale, False)
        return out

    def _by_scales(self) -> dict[int, tuple[Dim, float | None, _Axis | None]]:
        c = self.c
        at = 1 if self.old else 2
        if c.attr("scales") is not None:
            given: Sequence[float | Value] = list(c.attr("scales"))
        else:
            v = c.x(at)
            found = [trace(v, k) for k in range(len(self.axes))]
            given = [self.calc.pick(w, k) if known is None else float(known) for w, k, known in found]
        out: dict[int, tuple[Dim, float | None, _Axis | None]] = {}
        special = self.how in ("tf_crop_and_resize", "tf_half_pixel_for_nn")
        for k, (a, s) in enumerate(zip(self.axes, given)):
            d = self.x.shape[a]
            if isinstance(s, float) and s == 1.0 and not self._crops(k):
                continue
            size = _scaled(d, s) if isinstance(s, float) else None
            if size is not None and not special:
                out[a] = size, s if isinstance(s, float) else None, None
                continue
            scale = c.constant(np.float32(s), DType.F32) if isinstance(s, float) else c.cast(s, DType.F32)
            if size is None:
                length = c.cast(self.calc.value(d), DType.F32)
                size = self._read(c.emit("floor", c.emit("mul", length, scale)), a, d)
            out[a] = size, None, self._axis(k, d, size, self._f64(scale), False)
        return out

    def _crops(self, k: int) -> bool:
        return self.how == "tf_crop_and_resize"

    def _axis(self, k: int, n: Dim, size: Dim, scale: Value, exact: bool) -> _Axis:
        crop = None
        if self._crops(k):
            roi = self.c.x(1)
            start, end = (self._f64(self.calc.pick(roi, j)) for j in (k, len(self.axes) + k))
            crop = start, end
        return _Axis(n, size, scale, exact, crop)

    def _ratio(self, size: Dim, n: Dim) -> Value:
        return self.c.emit("div", self._f64(self.calc.value(size)), self._f64(self.calc.value(n)))

    def _read(self, v: Value, axis: int, d: Dim) -> Dim:
        size = self.c.cast(v, DType.I64)
        if size.data is not None:
            return int(size.data)
        return self.calc.read(size, f"{self.c.hint}_{axis}", self.calc.span(d).opt)

    # -- resampling ----------------------------------------------------------------------------

    def _f64(self, v: Value) -> Value:
        return self.c.cast(v, DType.F64)

    def _number(self, x: float) -> Value:
        return self.c.constant(x, DType.F64)

    def _coordinates(self, p: _Axis) -> Value:
        """Where each output element lies among the input's: f64 [size]. ONNX Resize, as `ir.ops_resize.coordinates`."""
        c, one = self.c, self._number
        emit = c.emit
        i = emit("iota", start=0, step=1, size=p.size, dtype=DType.F64)
        n, size = self._f64(self.calc.value(p.n)), self._f64(self.calc.value(p.size))
        half = emit("sub", emit("div", emit("add", i, one(0.5)), p.scale), one(0.5))
        last = emit("sub", n, one(1))
        match self.how:
            case "align_corners":
                wide = size if p.exact else emit("mul", n, p.scale)
                spread = emit("max", emit("sub", wide, one(1)), one(1e-30))
                return emit("where", emit("gt", wide, one(1)), emit("div", emit("mul", i, last), spread), one(0))
            case "asymmetric":
                return emit("div", i, p.scale)
            case "pytorch_half_pixel":
                return emit("where", emit("gt", size, one(1)), half, one(0))
            case "half_pixel_symmetric":
                part = emit("sub", one(1), emit("div", size, emit("mul", p.scale, n)))
                return emit("add", half, emit("mul", emit("mul", n, one(0.5)), part))
            case "tf_half_pixel_for_nn":
                return emit("div", emit("add", i, one(0.5)), p.scale)
            case "tf_crop_and_resize":
                assert p.crop is not None
                start, end = p.crop
                step = emit("div", emit("mul", emit("sub", end, start), last),
                            emit("max", emit("sub", size, one(1)), one(1)))
                middle = emit("mul", emit("mul", one(0.5), emit("add", start, end)), last)
                return emit("where", emit("gt", size, one(1)), emit("add", emit("mul", start, last),
                                                                    emit("mul", i, step)), middle)
        return half

    def _resampled(self, x: Value, axis: int, p: _Axis) -> Value:
        """One axis resampled: the sum over the taps of weight * x[place]."""
        c, one = self.c, self._number
        emit = c.emit
        at = self._coordinates(p)
        last = emit("max", emit("sub", self._f64(self.calc.value(p.n)), one(1)), one(0))
        if self.mode == "nearest":
            r = self.rounding
            place = (emit("ceil", emit("sub", at, one(0.5))) if r == "round_prefer_floor"
                     else emit("floor", emit("add", at, one(0.5))) if r == "round_prefer_ceil"
                     else emit("floor" if r == "floor" else "ceil", at))
            y = self._taken(x, axis, place, last)
        else:
            y = (self._filtered if c.attr("antialias", 0) else self._weighted)(x, axis, p, at, last)
        if self.how == "tf_crop_and_resize":
            inside = emit("and", emit("ge", at, one(0)), emit("le", at, last))
            y = emit("where", c.reshape(inside, self._along(axis, x.rank, p.size)), y,
                     c.like(y, c.attr("extrapolation_value", 0.0)))
        return y

    def _weighted(self, x: Value, axis: int, p: _Axis, at: Value, last: Value) -> Value:
        c, one = self.c, self._number
        emit = c.emit
        work = DType.F64 if x.dtype is DType.F64 or x.dtype.is_integer else DType.F32
        base = emit("floor", at)
        linear = self.mode == "linear"
        places = [emit("add", base, one(j)) for j in (range(2) if linear else range(-1, 3))]
        far = [emit("abs", emit("sub", at, place)) for place in places]
        weights = [emit("sub", one(1), d) if linear else self._cubic(d) for d in far]
        if c.attr("exclude_outside", 0):
            weights = [emit("where", emit("and", emit("ge", place, one(0)), emit("le", place, last)), w, one(0))
                       for place, w in zip(places, weights)]
            total = weights[0]
            for w in weights[1:]:
                total = emit("add", total, w)
            weights = [emit("div", w, total) for w in weights]
        wide = c.cast(x, work)
        y: Value | None = None
        for place, w in zip(places, weights):
            part = emit("mul", self._taken(wide, axis, place, last),
                        c.reshape(c.cast(w, work), self._along(axis, x.rank, p.size)))
            y = part if y is None else emit("add", y, part)
        assert y is not None
        if x.dtype.is_integer:
            info = np.iinfo(x.dtype.np)
            y = emit("min", emit("max", emit("round", y), c.like(y, info.min)), c.like(y, info.max))
        return c.cast(y, x.dtype)

    def _filtered(self, x: Value, axis: int, p: _Axis, at: Value, last: Value) -> Value:
        """With antialiasing by a scale that the run computes: one product with the matrix of weights.

        Elements before the first and after the last count as these, unless they are excluded.
        """
        c, emit, one = self.c, self.c.emit, self._number
        work = DType.F64 if x.dtype is DType.F64 else DType.F32
        linear = self.mode == "linear"
        outside: Dim = 0 if c.attr("exclude_outside", 0) else 2 * p.n + 2  # no filter reaches farther
        count = p.n + 2 * outside
        places = emit("sub", emit("iota", start=0, step=1, size=count, dtype=DType.F64),
                      self._f64(self.calc.value(outside)))
        far = emit("mul", emit("abs", emit("sub", c.reshape(at, (p.size, 1)), places)), emit("min", p.scale, one(1)))
        weights = emit("max", emit("sub", one(1), far), one(0)) if linear else self._cubic(far)
        weights = c.transpose(c.cast(emit("div", weights, c.reduce(weights, "sum", (1,))), work), (1, 0))
        order = [i for i in range(x.rank) if i != axis] + [axis]
        lines = c.transpose(self._taken(c.cast(x, work), axis, places, last), order)
        y = emit("matmul", c.reshape(lines, (1, count)) if x.rank == 1 else lines, weights)
        y = c.reshape(y, (*(x.shape[i] for i in order[:-1]), p.size))
        return c.cast(c.transpose(y, (order.index(i) for i in range(x.rank))), x.dtype)

    def _cubic(self, d: Value) -> Value:
        """Keys' kernel at distance d."""
        emit, one = self.c.emit, self._number
        a = self.c.attr("cubic_coeff_a", -0.75)
        near = emit("add", emit("mul", emit("mul", emit("sub", emit("mul", one(a + 2), d), one(a + 3)), d), d), one(1))
        far = emit("sub", emit("mul", emit("add", emit("mul", emit("sub", emit("mul", one(a), d), one(5 * a)), d),
                                           one(8 * a)), d), one(4 * a))
        outer = emit("where", emit("lt", d, one(2)), far, one(0))
        return emit("where", emit("le", d, one(1)), near, outer)

    def _taken(self, x: Value, axis: int, place: Value, last: Value) -> Value:
        emit = self.c.emit
        inside = emit("min", emit("max", place, self._number(0)), last)
        return emit("gather", x, self.c.cast(inside, DType.I64), axis=axis)

    @staticmethod
    def _along(axis: int, rank: int, size: Dim) -> tuple[Dim, ...]:
        return tuple(size if i == axis else 1 for i in range(rank))


@lowers("Resize", "Upsample")
def _resize(c: Call) -> Value:
    return _Resize(c).run()


def _scaled(d: Dim, scale: float) -> Dim | None:
    """floor(d * scale), None where that is no expression of d."""
    if not isinstance(d, Sym):
        return int(np.floor(d * np.float32(scale)))
    for over in range(1, MAX_RATIO + 1):
        top = scale * over
        if abs(top - round(top)) < 1e-6 * over:
            return d * round(top) // over
    return None
