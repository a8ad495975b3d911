"""Which elements a resized one is made of, computed by kernels: `ir.ops_resize.taps` for sizes known at run time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from whet.ir.symbolic import Dim
from whet.targets.cpu.args import Args
from whet.targets.cpu.llvm import Fn, IntLike, Val


@dataclass(frozen=True)
class Axis:
    """A resized axis: elements before and after, and the scale where the model gave it."""

    n: Dim
    size: Dim
    scale: float | None


def _double(k: Fn, v: IntLike) -> Val:
    return k.cast("sitofp", v, "double") if isinstance(v, Val) else k.const("double", v)


def _round(k: Fn, how: str, v: Val) -> Val:
    return k.intrinsic(f"llvm.{how}", v)


def emit_table(k: Fn, args: Args, axis: Axis, i: Val, at: Mapping[str, Any]) -> list[tuple[Val, Val]]:
    """(place as i32, weight as double) of each tap of element i, in the reference's order of operations."""
    n = _double(k, args.dim(axis.n))
    x = _coordinate(k, args, axis, i, n, at["coordinate"])
    last = k.select(n > 1.0, n - 1.0, 0.0)
    one = k.const("double", 1.0)

    def place(v: Val) -> Val:
        v = k.select(v > 0.0, v, 0.0)
        return k.cast("fptosi", k.select(v < last, v, last), "i32")

    if at["mode"] == "nearest":
        match at["rounding"]:
            case "round_prefer_floor":
                near = _round(k, "ceil", x - 0.5)
            case "round_prefer_ceil":
                near = _round(k, "floor", x + 0.5)
            case how:
                near = _round(k, how, x)
        return [(place(near), one)]
    base = _round(k, "floor", x)
    t = x - base
    if at["mode"] == "linear":
        index = [base, base + 1.0]
        weights = [1.0 - t, t]
    else:
        index = [base + float(j) for j in range(-1, 3)]
        weights = [_cubic(k, k.intrinsic("llvm.fabs", x - v), at["cubic_coeff_a"]) for v in index]
    if at["exclude_outside"]:
        weights = [k.select((v < 0.0) | (v >= n), 0.0, w) for v, w in zip(index, weights, strict=True)]
        total = weights[0]
        for w in weights[1:]:
            total = total + w
        weights = [w / total for w in weights]
    return [(place(v), w) for v, w in zip(index, weights, strict=True)]


def emit_antialiased(k: Fn, args: Args, axis: Axis, i: Val, at: Mapping[str, Any], count: IntLike,
                     put: Callable[[IntLike, Val, Val], None]) -> None:
    """put(tap, place as i32, weight as double) for each of the `count` taps of element i, with antialiasing."""
    n = _double(k, args.dim(axis.n))
    x = _coordinate(k, args, axis, i, n, at["coordinate"])
    base = _round(k, "floor", x)
    s = _scale(k, args, axis, n)
    s = k.select(s < 1.0, s, 1.0)
    last = k.select(n > 1.0, n - 1.0, 0.0)
    first = base + (1.0 - _double(k, k.i64(count)) * 0.5)

    def weight(t: IntLike) -> tuple[Val, Val]:
        place = first + _double(k, k.i64(t))
        d = k.intrinsic("llvm.fabs", x - place) * s
        if at["mode"] == "linear":
            w = 1.0 - d
            w = k.select(w > 0.0, w, 0.0)
        else:
            w = _cubic(k, d, at["cubic_coeff_a"])
        return place, k.select((place < 0.0) | (place >= n), 0.0, w) if at["exclude_outside"] else w

    total = k.var("double", 0.0)
    for t in k.range(0, count):
        total.set(total.get() + weight(t)[1])
    for t in k.range(0, count):
        place, w = weight(t)
        place = k.select(place > 0.0, place, 0.0)
        put(t, k.cast("fptosi", k.select(place < last, place, last), "i32"), w / total.get())


def _cubic(k: Fn, d: Val, a: float) -> Val:
    """The cubic convolution kernel at distance d (R. Keys, 1981)."""
    near = (d * (a + 2.0) - (a + 3.0)) * d * d + 1.0
    far = ((d * a - 5.0 * a) * d + 8.0 * a) * d - 4.0 * a
    return k.select(d <= 1.0, near, k.select(d < 2.0, far, 0.0))


def _coordinate(k: Fn, args: Args, axis: Axis, i: Val, n: Val, how: str) -> Val:
    """Where element i lies among the n elements before: `ir.ops_resize.coordinates`."""
    size = _double(k, args.dim(axis.size))
    zero = k.const("double", 0.0)
    s = _scale(k, args, axis, n)
    at = k.cast("sitofp", i, "double")
    match how:
        case "align_corners":
            real = size if axis.scale is None else n * s
            return k.select(real > 1.0, at * (n - 1.0) / (real - 1.0), zero)
        case "asymmetric":
            return at / s
        case "pytorch_half_pixel":
            return k.select(size > 1.0, (at + 0.5) / s - 0.5, zero)
        case "half_pixel_symmetric":
            offset = k.select(n > 0.0, n / 2.0 * (1.0 - size / (s * n)), zero)
            return offset + (at + 0.5) / s - 0.5
        case _:
            return (at + 0.5) / s - 0.5


def _scale(k: Fn, args: Args, axis: Axis, n: Val) -> Val:
    """Output elements for each input element."""
    if axis.scale is not None:
        return k.const("double", axis.scale)
    return k.select(n > 0.0, _double(k, args.dim(axis.size)) / n, 1.0)
