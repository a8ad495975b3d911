"""Which elements a resized one is made of, computed on the GPU: `ir.ops_resize.taps` for sizes known at run time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from whet.ir.dtypes import DType
from whet.ir.region import Region
from whet.ir.symbolic import Dim, ceildiv
from whet.targets.base import Step, Work
from whet.targets.cuda.kernel import REGISTER, Source
from whet.targets.cuda.tiles import number

_BLOCK = 128  # elements of a table per program


@dataclass(frozen=True)
class Axis:
    """A resized axis: elements before and after, and the scale where the model gave it."""

    n: Dim
    size: Dim
    scale: float | None


def table_step(region: Region, axis: Axis, taps: Dim, wide: DType, weights: Dim, places: Dim) -> Step:
    """The step that writes an axis's table into the workspace: for each tap and element the weight, of type `wide`, at
    `weights` (none for nearest), and the place (i32) at `places`."""
    return _Table(region, axis, taps, wide).step(weights, places)


class _Table:
    def __init__(self, region: Region, axis: Axis, taps: Dim, wide: DType) -> None:
        self.region, self.axis, self.taps, self.wide, self.at = region, axis, taps, wide, region.attrs
        self.s = Source("resize_taps")

    def step(self, weights: Dim, places: Dim) -> Step:
        s, at = self.s, self.at
        to = s.pointer(Work(places), DType.I32)
        w_to = s.pointer(Work(weights), self.wide) if at["mode"] != "nearest" else ""
        size = number(s, self.region, self.axis.size)
        s.line(f"i = tl.program_id(0) * {_BLOCK} + tl.arange(0, {_BLOCK})")
        self._sizes()
        x = self._coordinate(at["coordinate"])

        def put(t: str, place: str, w: str) -> None:
            s.line(f"tl.store({to} + {t} * {size} + i, tl.maximum(tl.minimum({place}, last), zero).to(tl.int32), "
                   f"mask=i < {size})")
            if w_to:
                s.line(f"tl.store({w_to} + {t} * {size} + i, ({w}).to(tl.{REGISTER[self.wide]}), mask=i < {size})")

        if at["mode"] == "nearest":
            half = {"round_prefer_floor": "tl.ceil({} - 0.5)", "round_prefer_ceil": "tl.floor({} + 0.5)"}
            put("0", half.get(at["rounding"], f"tl.{at['rounding']}({{}})").format(x), "")
        elif at["antialias"]:
            self._antialiased(x, put)
        else:
            self._interpolated(x, put)
        return s.step(ceildiv(self.axis.size, _BLOCK), enable_fp_fusion=False)

    def _double(self, v: Any) -> str:
        """A [1] tensor of a number."""
        if isinstance(v, float):
            return f"tl.full([1], {v!r}, tl.float64)"
        return f"(tl.zeros([1], tl.float64) + ({number(self.s, self.region, v)}))"

    def _sizes(self) -> None:
        s, axis = self.s, self.axis
        s.line(f"zero = {self._double(0.0)}")
        s.line(f"one = {self._double(1.0)}")
        s.line(f"n = {self._double(axis.n)}")
        s.line(f"size = {self._double(axis.size)}")
        s.line("last = tl.maximum(n - one, zero)")
        if axis.scale is not None:
            s.line(f"scale = {self._double(float(axis.scale))}")
        else:
            s.line("scale = tl.where(n > zero, size / tl.where(n > zero, n, one), one)")

    def _coordinate(self, how: str) -> str:
        """Where element i lies among the n elements before: `ir.ops_resize.coordinates`."""
        s = self.s
        s.line("e = i.to(tl.float64)")
        match how:
            case "align_corners":
                s.line(f"real = {'size' if self.axis.scale is None else 'n * scale'}")
                text = "tl.where(real > one, e * (n - one) / tl.where(real > one, real - one, one), zero)"
            case "asymmetric":
                text = "e / scale"
            case "pytorch_half_pixel":
                text = "tl.where(size > one, (e + 0.5) / scale - 0.5, zero)"
            case "half_pixel_symmetric":
                s.line("offset = tl.where(n > zero, n / 2 * (one - size / (scale * tl.where(n > zero, n, one))), zero)")
                text = "offset + (e + 0.5) / scale - 0.5"
            case _:
                text = "(e + 0.5) / scale - 0.5"
        return s.name_of(text, "x")

    def _interpolated(self, x: str, put: Any) -> None:
        s, at = self.s, self.at
        base = s.name_of(f"tl.floor({x})", "base")
        linear = at["mode"] == "linear"
        index = [s.name_of(f"{base} + {j}", "index") for j in (range(2) if linear else range(-1, 3))]
        if linear:
            weights = [s.name_of(f"one - ({x} - {base})", "w"), s.name_of(f"{x} - {base}", "w")]
        else:
            weights = [self._cubic(f"tl.abs({x} - {v})", at) for v in index]
        if at["exclude_outside"]:
            weights = [s.name_of(f"tl.where(({v} < zero) | ({v} >= n), zero, {w})", "w")
                       for v, w in zip(index, weights, strict=True)]
            total = s.name_of(" + ".join(weights), "total")
            weights = [f"{w} / {total}" for w in weights]
        for t, (v, w) in enumerate(zip(index, weights, strict=True)):
            put(str(t), v, w)

    def _antialiased(self, x: str, put: Any) -> None:
        s, at, count = self.s, self.at, number(self.s, self.region, self.taps)
        s.line("narrow = tl.minimum(scale, one)")
        s.line(f"begin = tl.floor({x}) + (one - {self._double(self.taps)} * 0.5)")

        def weight() -> tuple[str, str]:
            place = s.name_of("begin + tl.cast(t, tl.float64)", "place")
            d = s.name_of(f"tl.abs({x} - {place}) * narrow", "d")
            w = s.name_of(f"tl.maximum(one - {d}, zero)", "w") if at["mode"] == "linear" else self._cubic(d, at)
            if at["exclude_outside"]:
                w = s.name_of(f"tl.where(({place} < zero) | ({place} >= n), zero, {w})", "w")
            return place, w

        s.line(f"total = tl.zeros([{_BLOCK}], tl.float64)")
        with s.block(f"for t in range(0, {count}):"):
            s.line(f"total = total + {weight()[1]}")
        with s.block(f"for t in range(0, {count}):"):
            place, w = weight()
            put("t", place, f"{w} / total")

    def _cubic(self, d: str, at: Mapping[str, Any]) -> str:
        """The cubic convolution kernel at distance d (R. Keys, 1981)."""
        s, a = self.s, float(at["cubic_coeff_a"])
        d = s.name_of(d, "d")
        a1, a2, a3 = (self._double(v) for v in (a, a + 2, a + 3))
        near = f"({a2} * {d} - {a3}) * {d} * {d} + one"
        far = f"(({a1} * {d} - {self._double(5 * a)}) * {d} + {self._double(8 * a)}) * {d} - {self._double(4 * a)}"
        return s.name_of(f"tl.where({d} <= one, {near}, tl.where({d} < 2, {far}, zero))", "w")
