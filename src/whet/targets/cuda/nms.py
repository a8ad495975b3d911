"""Non-maximum suppression: a program is one class of one image.

Scores lie in the workspace. For each box taken, one sweep over all boxes suppresses what overlaps it and finds the next
best: as many sweeps as boxes are taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from whet.ir.dtypes import DType
from whet.ir.region import Region
from whet.ir.symbolic import Dim, ceildiv, product
from whet.targets.base import Implementation, In, Out, Params, Work
from whet.targets.cuda.gpu import Gpu
from whet.targets.cuda.kernel import Source
from whet.targets.cuda.moving import LAUNCH
from whet.targets.cuda.shapes import greatest, optimum, power_of_two
from whet.targets.cuda.tiles import is_wide, number

_MOST = 1 << 30  # boxes of an image


class Nms:
    """The only tactic for `nms`; boxes and scores may have any strides."""

    name = "nms"

    def applies(self, region: Region, machine: Gpu) -> str:
        if region.epilogue is not None or region.prologue:
            return "nms takes no expressions"
        return f"over {_MOST} boxes" if greatest(region, region.inputs[1].shape[2]) > _MOST else ""

    def space(self, region: Region, machine: Gpu, threads: int) -> Iterable[Params]:
        most = max(16, power_of_two(optimum(region, region.inputs[1].shape[2])))
        return [{"block": b} for b in dict.fromkeys(min(b, most) for b in (1024, 2048, 4096))]

    def cost(self, region: Region, params: Params, machine: Gpu, threads: int) -> float:
        n, taken = optimum(region, region.inputs[1].shape[2]), min(optimum(region, region.output.shape[2]), 100)
        return LAUNCH + taken * (1e-6 + n / params["block"] * 1e-6)

    def implement(self, region: Region, params: Params, machine: Gpu, threads: int) -> Implementation:
        return _Kernel(region, params["block"]).implementation()


class _Kernel:
    def __init__(self, region: Region, block: int) -> None:
        self.region, self.block, self.s = region, block, Source("nms")
        self.boxes, self.scores = region.inputs[0], region.inputs[1]

    def _number(self, d: Dim) -> str:
        return number(self.s, self.region, d)

    def _at(self, strides: Sequence[Dim], coords: Sequence[str]) -> str:
        return " + ".join(f"{c} * {self._number(d)}" for c, d in zip(coords, strides))

    def implementation(self) -> Implementation:
        s, region, block = self.s, self.region, self.block
        rows, n = product(self.scores.shape[:2]), self.scores.shape[2]
        boxes, scores = (s.pointer(In(i), DType.F32, region.inputs[i].aligned) for i in (0, 1))
        limit = s.pointer(In(2), DType.I64, region.inputs[2].aligned)
        overlap, least = (s.pointer(In(i), DType.F32, region.inputs[i].aligned) for i in (3, 4))
        places, counts = (s.pointer(Out(i), DType.I64, t.aligned)
                          for i, t in enumerate((region.output, *region.extra_outputs)))
        work = s.pointer(Work(), DType.F32)
        size, capacity = self._number(n), self._number(region.output.shape[2])
        wide = is_wide(region, rows * n)
        s.line(f"row = tl.program_id(0){'.to(tl.int64)' if wide else ''}")
        s.line(f"image = row // {self._number(self.scores.shape[1])}")
        s.line(f"kind = row % {self._number(self.scores.shape[1])}")
        s.line(f"own = {work} + row * {size}")
        s.line(f"overlap = tl.load({overlap})")
        s.line(f"least = tl.load({least})")
        s.line(f"limit = tl.minimum(tl.maximum(tl.load({limit}), 0), {capacity}).to(tl.int32)")
        s.line(f"box = {boxes} + image * {self._number(self.boxes.strides[0])}")
        s.line(f"score = {scores} + {self._at(self.scores.strides, ('image', 'kind'))}")
        s.line(f"out = {places} + {self._at(region.output.strides, ('image', 'kind'))}")
        self._begin_sweep()
        with s.block(f"for first in range(0, {size}, {block}):"):
            s.line(f"i = first + tl.arange(0, {block})")
            s.line(f"v = tl.load(score + i * {self._number(self.scores.strides[2])}, mask=i < {size}, "
                   'other=-float("inf"))')
            s.line('v = tl.where(v > least, v, -float("inf"))')
            s.line(f"tl.store(own + i, v, mask=i < {size})")
            self._compare()
        self._end_sweep()
        s.line("taken = 0")
        with s.block('while (value > -float("inf")) & (taken < limit):'):
            s.line(f"tl.store(out + taken * {self._number(region.output.strides[2])}, best.to(tl.int64))")
            s.line("taken = taken + 1")
            self._box("box", "best", "b", "")
            self._begin_sweep()
            s.line("chosen = best")
            with s.block(f"for first in range(0, {size}, {block}):"):
                s.line(f"i = first + tl.arange(0, {block})")
                s.line(f"mask = i < {size}")
                self._box("box", "i", "a", ", mask=mask, other=0")
                s.line('v = tl.load(own + i, mask=mask, other=-float("inf"))')
                s.line("w = tl.minimum(a_x2, b_x2) - tl.maximum(a_x1, b_x1)")
                s.line("h = tl.minimum(a_y2, b_y2) - tl.maximum(a_y1, b_y1)")
                s.line("common = w * h")
                s.line("union = a_area + b_area - common")
                s.line("gone = (w > 0) & (h > 0) & (common > 0) & (union > 0) & (tl.div_rn(common, union) > overlap)")
                s.line('v = tl.where(gone | (i == chosen), -float("inf"), v)')
                s.line("tl.store(own + i, v, mask=mask)")
                self._compare()
            self._end_sweep()
        with s.block(f"for first in range(0, {capacity}, {block}):"):
            s.line(f"i = first + tl.arange(0, {block})")
            s.line(f"tl.store(out + i * {self._number(region.output.strides[2])}, tl.zeros([{block}], tl.int64), "
                   f"mask=(i >= taken) & (i < {capacity}))")
        at = self._at(region.extra_outputs[0].strides, ("image", "kind"))
        s.line(f"tl.store({counts} + {at}, tl.cast(taken, tl.int64))")
        return Implementation((s.step(rows, enable_fp_fusion=False),), workspace=ceildiv(rows * n * 4, 64) * 64)

    def _begin_sweep(self) -> None:
        """What lanes of the block have found: the best score, and the first box that has it."""
        self.s.line(f'top = tl.full([{self.block}], -float("inf"), tl.float32)')
        self.s.line(f"where = tl.full([{self.block}], {(1 << 31) - 1}, tl.int32)")

    def _compare(self) -> None:
        self.s.line("where = tl.where(v > top, i, where)")
        self.s.line("top = tl.where(v > top, v, top)")

    def _end_sweep(self) -> None:
        self.s.line("value = tl.max(top, 0)")
        self.s.line(f"best = tl.min(tl.where(top == value, where, {(1 << 31) - 1}), 0)")
        self.s.line("tl.debug_barrier()")  # the next sweep may read what another thread stored

    def _box(self, base: str, i: str, name: str, more: str) -> None:
        """Corners and area of boxes, as `name`_x1 and so on."""
        s = self.s
        numbers = [s.name_of(f"tl.load({base} + {i} * {self._number(self.boxes.strides[1])} + "
                             f"{self._number(self.boxes.strides[2] * j)}{more})", "c") for j in range(4)]
        p, q, r, t = numbers
        if self.region.attrs["center"]:
            pairs = {"x": (f"{p} - {r} * 0.5", f"{p} + {r} * 0.5"), "y": (f"{q} - {t} * 0.5", f"{q} + {t} * 0.5")}
        else:
            pairs = {"y": (f"tl.minimum({p}, {r})", f"tl.maximum({p}, {r})"),
                     "x": (f"tl.minimum({q}, {t})", f"tl.maximum({q}, {t})")}
        for axis, (low, high) in pairs.items():
            s.line(f"{name}_{axis}1 = {low}")
            s.line(f"{name}_{axis}2 = {high}")
        s.line(f"{name}_area = ({name}_x2 - {name}_x1) * ({name}_y2 - {name}_y1)")
