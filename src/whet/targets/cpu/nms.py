"""Non-maximum suppression: a tile is one class of one image.

Boxes that score enough are packed into rows of coordinates in scratch. Then, for each box taken, one sweep over what
is left suppresses what overlaps it and finds the next best: as many sweeps as boxes are taken, all in vectors.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from whet.ir.region import Region
from whet.ir.symbolic import product, upper
from whet.targets.base import Implementation, In, Out, Params, Step
from whet.targets.cpu.args import NAME, Args, finish
from whet.targets.cpu.isa import Isa
from whet.targets.cpu.llvm import Fn, IntLike, Val, Var, vec
from whet.targets.cpu.loops import optimum
from whet.targets.cpu.moving import rows_contiguous

_LONGEST = 1 << 22  # boxes that fit each thread's scratch
_ROWS = ("x1", "y1", "x2", "y2", "area", "score", "place")
_NONE = (1 << 31) - 1


class Nms:
    """The only tactic for `nms`; the scores of a class are neighbours, boxes may have any strides."""

    name = "nms"

    def applies(self, region: Region, machine: Isa) -> str:
        if region.epilogue is not None or region.prologue:
            return "nms takes no expressions"
        if not rows_contiguous(region.inputs[1]):
            return "the scores of a class are not contiguous"
        if _most(region) > _LONGEST:
            return f"over {_LONGEST} boxes"
        return ""

    def space(self, region: Region, machine: Isa, threads: int) -> Iterable[Params]:
        return [{}]

    def cost(self, region: Region, params: Params, machine: Isa, threads: int) -> float:
        rows, n = optimum(region, product(region.inputs[1].shape[:2])), optimum(region, region.inputs[1].shape[2])
        taken = min(optimum(region, region.output.shape[2]), 100)
        return rows * n * (1e-9 + taken * 2e-9 / machine.lanes) / threads

    def implement(self, region: Region, params: Params, machine: Isa, threads: int) -> Implementation:
        return Implementation((_Kernel(region, machine).step(),))


def _most(region: Region) -> int:
    return upper(region.inputs[1].shape[2], {n: (r[0], r[2]) for n, r in region.dims.items()})


class _Kernel:
    def __init__(self, region: Region, isa: Isa) -> None:
        self.region, self.lanes = region, isa.width // 4
        self.k = Fn(NAME, isa)
        self.args = Args(self.k)
        self.row_bytes = (_most(region) + self.lanes) * 4 + 63 & -64
        self.rows = {name: self.k.scratch + i * self.row_bytes for i, name in enumerate(_ROWS)}
        self.minus = self.k.const("float", -math.inf)

    def step(self) -> Step:
        k, args, region = self.k, self.args, self.region
        boxes, scores, *_ = region.inputs
        p = [args.pointer(In(i)) for i in range(5)]
        places, counts = args.pointer(Out(0)), args.pointer(Out(1))
        classes, n, capacity = (args.dim(d) for d in (scores.shape[1], scores.shape[2], region.output.shape[2]))
        overlap, least = k.load("float", p[3]), k.load("float", p[4])
        limit = k.min(k.max(k.load("i64", p[2]), 0), capacity)

        def at(base: Val, strides: Iterable[IntLike], index: Iterable[IntLike], size: int) -> Val:
            for i, s in zip(index, strides):
                base = base + i * s * size
            return base

        box_strides, score_strides, out_strides, count_strides = (
            [args.dim(s) for s in t.strides] for t in (boxes, scores, region.output, region.extra_outputs[0]))
        for tile in k.range(k.begin, k.end):
            b, c = tile // classes, tile % classes
            there = self._pack(at(p[0], box_strides, [b], 4), box_strides[1:],
                               at(p[1], score_strides, [b, c], 4), n, least)
            out = at(places, out_strides, [b, c], 8)
            taken = k.var("i64", 0)
            best, value = k.var("i64", 0), k.var("float", self.minus)
            self._sweep(there, best, value, None, overlap)
            for t in k.range(0, limit):
                with k.if_(value.get() > self.minus):
                    i = best.get()
                    place = k.load("i32", self.rows["place"] + i * 4)
                    k.store(k.cast("sext", place, "i64"), out + t * out_strides[2] * 8)
                    taken.set(k.i64(t) + 1)
                    k.store(self.minus, self.rows["score"] + i * 4)
                    self._sweep(there, best, value, i, overlap)
            for t in k.range(taken.get(), capacity):
                k.store(k.i64(0), out + t * out_strides[2] * 8)
            k.store(taken.get(), at(counts, count_strides, [b, c], 8))
        return Step(finish(k, "nms", len(_ROWS) * self.row_bytes), args.table, product(scores.shape[:2]))

    def _pack(self, box: Val, box_strides: list[IntLike], score: Val, n: IntLike, least: Val) -> Val:
        """The boxes that score more than `least`, one after the other in the rows; how many they are."""
        k, rows, lanes = self.k, self.rows, self.lanes
        there = k.var("i64", 0)

        def pack(i: IntLike) -> None:
            s = k.load("float", score + i * 4)
            with k.if_(s > least):
                numbers = [k.load("float", box + i * box_strides[0] * 4 + j * box_strides[1] * 4) for j in range(4)]
                x1, y1, x2, y2 = self._corners(numbers)
                to = there.get()
                values = {"x1": x1, "y1": y1, "x2": x2, "y2": y2, "area": (x2 - x1) * (y2 - y1), "score": s,
                          "place": k.cast("trunc", k.i64(i), "i32")}
                for name, v in values.items():
                    k.store(v, rows[name] + to * 4)
                there.set(to + 1)

        whole = n // lanes * lanes
        for i in k.range(0, whole, lanes):  # most score little
            some = k.load("float", score + i * 4, lanes) > k.splat(least, lanes)
            with k.if_(k.call(f"llvm.vector.reduce.or.v{lanes}i1", "i1", [some])):
                for j in k.range(i, i + lanes):
                    pack(j)
        for i in k.range(whole, n):
            pack(i)
        k.store(k.splat(self.minus, self.lanes), rows["score"] + there.get() * 4)  # a last vector is not whole
        return there.get()

    def _corners(self, numbers: list[Val]) -> tuple[Val, Val, Val, Val]:
        k = self.k
        a, b, c, d = numbers
        if self.region.attrs["center"]:
            w, h = c * 0.5, d * 0.5
            return a - w, b - h, a + w, b + h
        return (k.select(b < d, b, d), k.select(a < c, a, c), k.select(b < d, d, b), k.select(a < c, c, a))

    def _sweep(self, there: Val, best: Var, value: Var, taken: Val | None, overlap: Val) -> None:
        """Suppresses what overlaps the box `taken`, and finds the best of what is left (the first of equals)."""
        k, lanes, rows = self.k, self.lanes, self.rows
        wide, whole = vec("float", lanes), vec("i32", lanes)
        top, where = k.var(wide, k.const(wide, -math.inf)), k.var(whole, k.const(whole, _NONE))
        one: dict[str, Val] = {}
        if taken is not None:
            one = {name: k.splat(k.load("float", rows[name] + taken * 4), lanes) for name in _ROWS[:5]}
        limit = k.splat(overlap, lanes)
        own = k.const_vector("i32", range(lanes))
        for i in k.range(0, there, lanes):
            score = k.load("float", rows["score"] + i * 4, lanes)
            if taken is not None:
                v = {name: k.load("float", rows[name] + i * 4, lanes) for name in _ROWS[:5]}
                w = self._least(v["x2"], one["x2"]) - self._greatest(v["x1"], one["x1"])
                h = self._least(v["y2"], one["y2"]) - self._greatest(v["y1"], one["y1"])
                common = w * h
                union = v["area"] + one["area"] - common
                gone = (w > 0.0) & (h > 0.0) & (union > 0.0) & ((common / union) > limit)
                score = k.select(gone, k.const(wide, -math.inf), score)
                k.store(score, rows["score"] + i * 4)
            better = score > top.get()
            index = own + k.splat(k.cast("trunc", k.i64(i), "i32"), lanes)
            top.set(k.select(better, score, top.get()))
            where.set(k.select(better, index, where.get()))
        m = k.call(f"llvm.vector.reduce.fmax.v{lanes}f32", "float", [top.get()])
        candidates = k.select(top.get().eq(k.splat(m, lanes)), where.get(), k.const(whole, _NONE))
        first = k.call(f"llvm.vector.reduce.smin.v{lanes}i32", "i32", [candidates])
        value.set(m)
        best.set(k.cast("sext", first, "i64"))

    def _least(self, a: Val, b: Val) -> Val:
        return self.k.select(a < b, a, b)

    def _greatest(self, a: Val, b: Val) -> Val:
        return self.k.select(a > b, a, b)
