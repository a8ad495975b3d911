"""Lowerings of operators that read an image between its pixels: GridSample, RoiAlign, DeformConv.

Pixels lie as rows of channels, so that every tap of an interpolation is one gather of whole rows.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from whet.frontends.call import Call, NeedsReferenceError, lowers
from whet.frontends.formulas import Formula, formula, iota, number
from whet.frontends.lower_nn import per_axis
from whet.ir.dtypes import DType
from whet.ir.graph import Value
from whet.ir.symbolic import Dim, Shape, product

CUBIC_A = -0.75  # of Keys' cubic convolution (https://ieeexplore.ieee.org/document/1163711), as PyTorch has it


@dataclass(frozen=True)
class Tap:
    """One of the pixels that an interpolation along one axis reads: where, how much of it, and whether it is inside
    (None: always)."""

    index: Formula  # i64
    weight: Formula | None  # None: 1
    inside: Formula | None


def _needs_pixels(shape: Shape) -> None:
    if any(d == 0 for d in shape):
        raise NeedsReferenceError("of images without pixels")


def _precise(x: Formula) -> Formula:
    """Coordinates in f32 at least."""
    return x if x.dtype is DType.F64 else x.to(DType.F32)


def interpolate(pixels: Formula, taps: Sequence[Sequence[Tap]], sizes: Shape, base: Formula | None = None) -> Formula:
    """Sums of the taps' products over all axes.

    pixels: [B, S, C] where S is the product of `sizes`, the taps' parts [B, P]; the result is [B, P, C].
            With `base`, the place of each batch's first pixel, [S, C], and the result has the taps' shape and C.
    """
    total: Formula | None = None
    for corner in itertools.product(*taps):
        index = corner[0].index
        for tap, size in zip(corner[1:], sizes[1:]):
            index = index * number(index.call, size, DType.I64) + tap.index
        if base is None:
            term = pixels.apply("gather_nd", index.reshape(*index.shape, 1), batch_dims=1)
        else:
            term = pixels.gather(index + base)
        inside = [t.inside for t in corner if t.inside is not None]
        if inside:
            mask = functools.reduce(lambda a, b: a & b, inside)
            term = mask.reshape(*mask.shape, 1).where(term, 0)
        weights = [t.weight for t in corner if t.weight is not None]
        if weights:
            weight = functools.reduce(lambda a, b: a * b, weights)
            term = term * weight.reshape(*weight.shape, 1).to(term.dtype)
        total = term if total is None else total + term
    assert total is not None
    return total


def _reflected(x: Formula, low: Formula | float, high: Formula) -> Formula:
    """x mirrored at low and high until it lies between."""
    span = high - low
    safe = (span > 0).where(span, 1)
    return low + span - (((x - low).abs().apply("mod", safe * 2, fmod=True)) - span).abs()


def taps(x: Formula, size: Dim, mode: str, padding: str, corners: bool = True) -> list[Tap]:
    """What an interpolation at x (in pixels) reads along an axis.

    mode:    nearest, linear, cubic.  padding: zeros, border, reflection, as GridSample has them.
    corners: reflect at the centres of the outer pixels rather than at their edges.
    """
    c = x.call
    last = number(c, size, x.dtype) - 1
    low: Formula = Formula(c, c.like(x.value, 0 if corners else -0.5))
    high = last if corners else last + 0.5
    if mode == "nearest":
        x = x.round()
    if padding == "border":
        x = ((x < low) | (x > high)).where(x.clip(0, last), x)
    elif padding == "reflection":
        x = ((x < low) | (x > high)).where(_reflected(x, low, high), x)

    def tap(at: Formula, weight: Formula | None) -> Tap:
        inside = (at >= 0) & (at <= last) if padding == "zeros" else None
        if padding == "reflection":
            at = _reflected(at, low, high)
        return Tap(at.clip(0, last).to(DType.I64), weight, inside)

    if mode == "nearest":
        return [tap(x, None)]
    base = x.floor()
    t = x - base
    if mode == "linear":
        return [tap(base, 1 - t), tap(base + 1, t)]
    near = [((d * (CUBIC_A + 2)) - (CUBIC_A + 3)) * d * d + 1 for d in (t, 1 - t)]
    far = [((d * CUBIC_A - 5 * CUBIC_A) * d + 8 * CUBIC_A) * d - 4 * CUBIC_A for d in (t + 1, 2 - t)]
    return [tap(base - 1, far[0]), tap(base, near[0]), tap(base + 1, near[1]), tap(base + 2, far[1])]


def _rows(x: Formula) -> Formula:
    """[N, C, s...] as [N, product of s, C]."""
    n, ch, *spatial = x.shape
    y = x.transpose(0, *range(2, x.rank), 1)
    return y.reshape(n, product(spatial), ch)


@lowers("GridSample")
def _grid_sample(c: Call) -> Value:
    """As onnx.reference and PyTorch (aten/src/ATen/native/GridSampler.h)."""
    x, grid = formula(c, 0), _precise(formula(c, 1))
    mode = {"bilinear": "linear", "bicubic": "cubic"}.get(m := c.attr("mode", "linear"), m)
    corners = bool(c.attr("align_corners", 0))
    spatial = x.shape[2:]
    _needs_pixels(spatial)
    if mode != "nearest" and not x.dtype.is_float:
        raise NeedsReferenceError("interpolating integers")
    if len(spatial) > 3:
        raise NeedsReferenceError("in more than three dimensions")
    n, out = grid.shape[0], grid.shape[1:-1]
    points = grid.reshape(n, product(out), len(spatial))
    each = []
    for axis, size in enumerate(spatial):
        at = points.pick(-1, len(spatial) - 1 - axis)  # the last coordinate is the first axis
        length = number(c, size, at.dtype)
        at = (at + 1) / 2 * (length - 1) if corners else ((at + 1) * length - 1) / 2
        each.append(taps(at, size, mode, c.attr("padding_mode", "zeros"), corners))
    y = interpolate(_rows(x), each, spatial)
    return y.transpose(0, 2, 1).reshape(n, x.shape[1], *out).value


@lowers("DeformConv")
def _deform_conv(c: Call) -> Value:
    """Convolution over pixels sampled at offsets: gathered columns, then one product per group."""
    x, w, offset = formula(c, 0), formula(c, 1), formula(c, 2)
    if x.rank != 4 or not x.dtype.is_float:
        raise NeedsReferenceError("in other than two dimensions of floats")
    n, ch, *spatial = x.shape
    outputs, kernel, places = w.shape[0], w.shape[2:], offset.shape[2:]
    _needs_pixels(tuple(spatial))
    groups, offsets = c.attr("group", 1), c.attr("offset_group", 1)
    strides, dilations = per_axis(c, "strides", 2), per_axis(c, "dilations", 2)
    pads = c.attr("pads") or [0] * 4
    taken, points = product(kernel), product(places)
    moved = _precise(offset).reshape(n * offsets, taken, 2, *places)
    each = []
    for axis in range(2):
        start = iota(c, places[axis], moved.dtype) * strides[axis] - pads[axis]
        start = start.reshape(*(places[axis] if a == axis else 1 for a in range(2)))
        inner = iota(c, kernel[axis], moved.dtype) * dilations[axis]
        inner = inner.reshape(*(kernel[axis] if a == axis else 1 for a in range(2))).expand(*kernel)
        at = moved.pick(2, axis) + (inner.reshape(taken, 1, 1) + start)
        each.append(taps(at.reshape(n * offsets, taken * points), spatial[axis], "linear", "zeros"))
    pixels = _rows(x.reshape(n * offsets, ch // offsets, *spatial))
    y = interpolate(pixels, each, tuple(spatial)).reshape(n, offsets, taken, points, ch // offsets)
    if c.has(4):
        y = y * formula(c, 4).reshape(n, offsets, taken, points, 1)
    columns = y.transpose(0, 1, 4, 2, 3).reshape(n, groups, ch // groups * taken, points)
    weights = w.reshape(1, groups, outputs // groups, ch // groups * taken)
    y = weights.apply("matmul", columns).reshape(n, outputs, *places)
    return (y + formula(c, 3).reshape(1, outputs, 1, 1)).value if c.has(3) else y.value


@lowers("RoiAlign")
def _roi_align(c: Call) -> Value:
    """A fixed number of samples per bin (sampling_ratio > 0), averaged, or the greatest weighted pixel of all."""
    x, rois, batch = formula(c, 0), _precise(formula(c, 1)), formula(c, 2).to(DType.I64)
    n, ch, height, width = x.shape
    samples, size = c.attr("sampling_ratio", 0), (c.attr("output_height", 1), c.attr("output_width", 1))
    _needs_pixels((n, height, width))
    if samples < 1:  # as many as a region has pixels
        raise NeedsReferenceError("with as many samples as a region has pixels")
    aligned = c.opset >= 16 and c.attr("coordinate_transformation_mode", "half_pixel") == "half_pixel"
    rois = rois * c.attr("spatial_scale", 1.0) - (0.5 if aligned else 0.0)
    each = []
    count = rois.shape[0]
    for axis, pixels in enumerate((height, width)):
        start, end = rois.slice(1, 1 - axis, 1), rois.slice(1, 3 - axis, 1)
        extent = end - start if aligned else (end - start).max(1.0)
        steps = iota(c, size[axis] * samples, rois.dtype).reshape(1, size[axis] * samples)
        each.append(_roi_taps(start + (steps + 0.5) * (extent / (size[axis] * samples)), pixels, axis))
    rows = _rows(x).reshape(n * height * width, ch)
    base = (batch * number(c, height * width, DType.I64)).reshape(count, 1, 1)
    shape = (count, size[0], samples, size[1], samples, ch)
    if c.attr("mode", "avg") == "avg":
        y = interpolate(rows, each, (height, width), base).reshape(*shape).reduce("mean", (2, 4))
    else:
        corners = [interpolate(rows, [[a], [b]], (height, width), base) for a in each[0] for b in each[1]]
        y = functools.reduce(lambda a, b: a.max(b), corners).reshape(*shape).reduce("max", (2, 4))
    return y.transpose(0, 3, 1, 2).value


def _roi_taps(at: Formula, size: Dim, axis: int) -> list[Tap]:
    """Taps of [R, P] coordinates along one of two axes, shaped to meet the other's."""
    last = number(at.call, size, at.dtype) - 1
    inside = (at >= -1) & (at <= last + 1)
    at = at.max(0)
    low = at.floor().min(last)
    t = (low >= last).where(low * 0, at - low)
    high = (low + 1).min(last)
    shape = (*at.shape, 1) if axis == 0 else (at.shape[0], 1, at.shape[1])
    return [Tap(i.to(DType.I64).reshape(*shape), w.reshape(*shape), inside.reshape(*shape))
            for i, w in ((low, 1 - t), (high, t))]
