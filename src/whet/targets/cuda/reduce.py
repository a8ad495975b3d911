"""Reductions over any axes in Triton: sum, mean, max, min, prod; and the index of an extreme along one axis.

A program folds rows that it holds, or walks over, lane by lane; the lanes are folded at the end. Where there are few
rows, each is divided among programs, whose results (in the workspace) a second kernel folds: the same order every time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from whet.ir.dtypes import DType
from whet.ir.region import Region
from whet.ir.symbolic import Dim, ceildiv
from whet.targets.base import Arg, Implementation, Params, Work
from whet.targets.cuda.expr import cast, constant, division, extreme_text
from whet.targets.cuda.gpu import Gpu
from whet.targets.cuda.index import Block
from whet.targets.cuda.kernel import REGISTER, Source
from whet.targets.cuda.rows import LAUNCH, Rows, Tile, rows_of, seconds, tilings, types_reason
from whet.targets.cuda.shapes import is_long, optimum, power_of_two

_FAR = 2**31 - 1
LATENCY = 0.8e-6  # seconds from asking memory for a chunk until it is folded
FROM_MEMORY = 4e10  # bytes a second that one multiprocessor gets


@dataclass(frozen=True)
class _Fold:
    """What is kept of the elements so far: one value, or an extreme and its index.

    types: of what is kept; neutral: what nothing is folded to, as text. `text`: the function of two such states.
    """

    types: tuple[DType, ...]
    neutral: tuple[str, ...]
    text: str

    def helper(self, s: Source) -> str:
        return s.helper("fold", self.text)


def _fold_of(region: Region) -> _Fold:
    kind, d = region.attrs["kind"], _compute(region)
    if region.kind == "arg":
        return _arg_fold(kind, d, bool(region.attrs["select_last"]))
    if kind in ("max", "min"):
        return _Fold((d,), (constant(_neutral(kind, d), d),),
                     f"def fold(a, b):\n    return {extreme_text(kind, 'a', 'b', d)}")
    if d.is_integer and d.size < 4:  # it wraps in the end
        d = DType.I32
    op, none = ("*", 1) if kind == "prod" else ("+", 0)
    return _Fold((d,), (constant(none, d),), f"def fold(a, b):\n    return a {op} b")


def _arg_fold(kind: str, d: DType, last: bool) -> _Fold:
    """NaN wins, as it does in NumPy; of equal ones the first, or the last."""
    sign, before = (">" if kind == "max" else "<"), (">" if last else "<")
    nan = d.is_float
    text = "\n".join([
        "def fold(a, i, b, j):",
        f"    wins = (b {sign} a)" + (" | ((b != b) & (a == a))" if nan else ""),
        "    ties = (b == a)" + (" | ((b != b) & (a != a))" if nan else ""),
        f"    take = wins | (ties & (j {before} i))",
        "    return tl.where(take, b, a), tl.where(take, j, i)"])
    none = constant(_neutral(kind, d), d)
    return _Fold((d, DType.I32), (none, constant(-1 if last else _FAR, DType.I32)), text)


def _compute(region: Region) -> DType:
    """What elements are folded in."""
    d = region.inputs[0].dtype if region.kind == "arg" else region.anchor.dtype
    if region.kind == "arg" and 0 in region.prologue:
        d = region.prologue[0].dtype
    if d is DType.BOOL:
        return DType.U8
    return DType.F32 if d in (DType.F16, DType.BF16) else d


def _neutral(kind: str, d: DType) -> float | int:
    low = kind == "max"
    if d.is_float:
        return -np.inf if low else np.inf
    info = np.iinfo(d.np)
    return int(info.min if low else info.max)


class Reduce:
    """See the module."""

    name = "reduce"

    def applies(self, region: Region, machine: Gpu) -> str:
        return types_reason(region)

    def space(self, region: Region, machine: Gpu, threads: int) -> Iterable[Params]:
        nest = _nest(region)
        if nest.across:
            return _across_space(nest, machine)
        n, count = optimum(region, nest.length), max(1, optimum(region, nest.count))
        sms = machine.multiprocessors or 108
        found = tilings(nest, machine)
        parts: list[Params] = []
        for p in found:
            programs = -(-count // p["rows"])
            most = n // (2 * p["cols"])
            if programs < sms and most > 1 and p["cols"] < 8192:
                for goal in (2 * sms, sms // 2):
                    splits = min(power_of_two(max(1, goal // programs)), power_of_two(most), 1024)
                    if splits > 1:
                        parts.append({**p, "splits": splits})
        if count < sms and n > 4096:  # whole rows in registers need no walk: chunks of them do
            for c, w in ((1024, 4), (2048, 4), (512, 4)):
                splits = min(power_of_two(max(1, 2 * sms // count)), power_of_two(-(-n // c)), 1024)
                if splits > 1:
                    parts.append({"rows": 1, "cols": c, "warps": w, "splits": splits})
        unique = list({tuple(p.items()): p for p in parts}.values())
        few = count < sms // 2 and n >= 16384
        return [*unique[:8], *found[:12]] if few else [*found[:12], *unique[:8]]

    def cost(self, region: Region, params: Params, machine: Gpu, threads: int) -> float:
        nest = _nest(region)
        if nest.across:
            return _across_seconds(nest, params, machine)
        splits = params.get("splits", 1)
        programs = max(1, optimum(region, ceildiv(nest.count, params["rows"]))) * splits
        busy = min(1.0, programs / (machine.multiprocessors or 108))
        return seconds(region, machine, 1 if splits == 1 else 2, 1 / busy)

    def implement(self, region: Region, params: Params, machine: Gpu, threads: int) -> Implementation:
        nest, fold = _nest(region), _fold_of(region)
        tile = Tile(region.kind, nest, machine, params["rows"], params["cols"])
        tile.dtype = _compute(region)
        splits = params.get("splits", 1)
        if splits > 1:
            return _divided(tile, fold, params, machine)
        tile.begin("tl.program_id(0)")
        _write(tile, region, _folded(tile, fold), nest.length)
        return Implementation((tile.s.step(tile.blocks(), warps=params["warps"], stages=2),))


def _across_space(nest: Rows, machine: Gpu) -> list[Params]:
    """Tiles for rows that lie side by side (the mean over an image's pixels, channels last), the most promising first:
    of each tile two ways to divide the rows, with the warps that suit it."""
    n, count = max(1, optimum(nest.region, nest.length)), max(1, optimum(nest.region, nest.count))
    found: list[tuple[float, Params]] = []
    for r in (16, 32, 64, 128, 256):
        if r >= 2 * power_of_two(max(count, 16)):
            continue
        for c in (1 << i for i in range(10) if 1 << i <= power_of_two(n)):
            ways: dict[int, tuple[float, Params]] = {}
            for w in (1, 2, 4, 8, 16):
                if not 8 <= r * c // (32 * w) <= 64 and (w > 1 or r * c > 256):
                    continue
                for splits in (1 << i for i in range(11) if i == 0 or c << i < 2 * n):
                    p = {"rows": r, "cols": c, "warps": w, **({"splits": splits} if splits > 1 else {})}
                    ways[splits] = min(ways.get(splits, (math.inf, p)), (_across_seconds(nest, p, machine), p),
                                       key=lambda q: q[0])
            found += sorted(ways.values(), key=lambda q: q[0])[:2]
    return [p for _, p in sorted(found, key=lambda q: q[0])[:20]]


def _across_seconds(nest: Rows, p: Params, machine: Gpu) -> float:
    """Each chunk of a walk waits for memory, in which only so much is on its way as the resident programs ask for: so
    either that latency counts or what memory gives. Divided rows cost another launch."""
    region, sms = nest.region, machine.multiprocessors or 132
    r, c, w, splits = p["rows"], p["cols"], p["warps"], p.get("splits", 1)
    n, count = max(1, optimum(region, nest.length)), max(1, optimum(region, nest.count))
    size = sum(v.dtype.size for (role, _), v in nest.views.items() if role == "x")
    states = 2 if region.kind == "arg" else 1
    each = r * c / (32 * w)
    programs = -(-count // r) * splits
    resident = max(1, min(int(65536 / (32 * w * (40 + each * (states + size / 4)))), 64 // w, 32, -(-programs // sms)))
    tile = resident * r * c * size  # bytes on their way to a multiprocessor
    step = max(LATENCY, tile / FROM_MEMORY, tile * min(sms, programs) / (machine.bandwidth or 3e12))
    total = LAUNCH + LATENCY + -(-programs // (sms * resident)) * -(-n // (splits * c)) * step
    if splits > 1:
        total += LAUNCH + LATENCY + 64.0 * count * splits / (machine.bandwidth or 3e12)
    return total * (1 + 0.01 * abs(math.log2(each / 32)))  # four loads of 16 bytes for each thread, where all is equal


class ArgExtreme(Reduce):
    """The index of the greatest or least element along an axis."""

    name = "arg"


def _nest(region: Region) -> Rows:
    axes = (region.attrs["axis"],) if region.kind == "arg" else region.attrs["axes"]
    rank = len(region.inputs[0].shape)
    return rows_of(region, [a % rank for a in axes])


def _state(tile: Tile, fold: _Fold, block: Block) -> list[str]:
    """A chunk's elements, as states."""
    s = tile.s
    x = tile.value(block)
    if fold.types[0] is not tile.dtype:
        x = s.name_of(cast(s, x, tile.dtype, fold.types[0]), "x")
    mask = tile.inside(block)
    found = [x]
    if len(fold.types) > 1:  # the axis is one loop: its coordinate is the index
        col = block.coords[-1] if tile.nest.cols else "0"
        found.append(s.name_of(f"{col} + tl.zeros({tile.shape}, tl.int32)", "at"))
    return [s.name_of(f"tl.where({mask}, {v}, {n})", "x") if mask else v for v, n in zip(found, fold.neutral)]


def _folded(tile: Tile, fold: _Fold, start: str = "", end: str = "") -> list[str]:
    """The fold of each row's columns [start, end): states of one column."""
    s = tile.s
    f = fold.helper(s)
    if not start and tile.c >= tile.nest.longest:
        held = _state(tile, fold, tile.block())
    else:
        held = [s.name_of(f"{none} + tl.zeros({tile.shape}, tl.{REGISTER[t]})", "acc")
                for t, none in zip(fold.types, fold.neutral, strict=True)]
        with tile.chunks(start, end) as block:
            more = _state(tile, fold, block)
            s.line(f"{', '.join(held)} = {f}({', '.join([*held, *more])})")
    return _across_lanes(tile, fold, held)


def _across_lanes(tile: Tile, fold: _Fold, held: Sequence[str]) -> list[str]:
    s = tile.s
    f = fold.helper(s)
    if len(held) == 1:
        return [s.name_of(tile.over("reduce", held[0], f), "y")]
    s.line(f"y, y_at = {tile.over('reduce', '(' + ', '.join(held) + ')', f)}")
    return ["y", "y_at"]


def _write(tile: Tile, region: Region, states: list[str], n: Dim) -> None:
    """The reduction's value from the fold of n elements."""
    s = tile.s
    if region.kind == "arg":
        tile.dtype = DType.I64
        tile.write(s.name_of(f"{states[1]}.to(tl.int64)", "y"), tile.rows_block(), reduced=True)
        return
    d, y = tile.dtype, states[0]
    if d.is_integer and d.size < 4 and region.attrs["kind"] not in ("max", "min"):
        y = s.name_of(f"{y}.to(tl.{REGISTER[d]})", "y")
    if region.attrs["kind"] == "mean":
        if d.is_float:
            y = s.name_of(division(y, f"tl.full((), {s.integer(n)}, tl.{tile.kind})" if isinstance(n, int) else
                                   f"({s.integer(n)}).to(tl.{tile.kind})", tile.double), "y")
        else:  # the count may be no number of the type
            wide = "uint64" if d is DType.U64 else "int64"
            count = f"tl.maximum(tl.full((), 0, tl.{wide}) + {s.integer(n)}, tl.full((), 1, tl.{wide}))"
            y = s.name_of(f"({y}.to(tl.{wide}) // {count}.to(tl.{wide})).to(tl.{REGISTER[d]})", "y")
    tile.write(y, tile.rows_block(), reduced=True)


def _divided(tile: Tile, fold: _Fold, params: Params, machine: Gpu) -> Implementation:
    """`splits` programs per block of rows, then one that folds what they found."""
    nest, region, splits = tile.nest, tile.region, params["splits"]
    s, n = tile.s, nest.length
    share = ceildiv(ceildiv(n, splits), tile.c) * tile.c
    s.line("pid = tl.program_id(0)")
    tile.begin(f"(pid // {splits})")
    wide = ".to(tl.int64)" if is_long(nest.longest + tile.c) else ""
    s.line(f"first = (pid % {splits}){wide} * {s.integer(share)}")
    s.line(f"last = tl.minimum(first + {s.integer(share)}, {s.integer(n)})")
    states = _folded(tile, fold, "first", "last")
    where, workspace = _places(nest, fold, splits)
    row, inside = tile.row(f"(pid // {splits})")
    for arg, dtype, v in zip(where, fold.types, states, strict=True):
        p = s.pointer(arg, dtype, aligned=False)
        s.line(f"tl.store({p} + {row} * {splits} + pid % {splits}, {v}{f', mask={inside}' if inside else ''})")

    r = max(1, min(8, 1024 // splits))
    second = Tile(f"{region.kind}_parts", nest, machine, r, splits)
    second.dtype = tile.dtype
    second.begin("tl.program_id(0)")
    row, inside = second.row("tl.program_id(0)")
    held = []
    for arg, dtype in zip(where, fold.types, strict=True):
        at = f"{second.s.pointer(arg, dtype, aligned=False)} + {row} * {splits} + {second.lanes(splits)}"
        held.append(second.s.name_of(f"tl.load({at}{f', mask={inside}, other=0' if inside else ''})", "x"))
    _write(second, region, _across_lanes(second, fold, held), n)
    return Implementation((s.step(tile.blocks() * splits, warps=params["warps"], stages=2),
                           second.s.step(second.blocks(), warps=4 if r * splits >= 512 else 1, stages=1)),
                          workspace=workspace)


def _places(nest: Rows, fold: _Fold, splits: int) -> tuple[list[Arg], Dim]:
    """Where the workspace holds the programs' states, and its size."""
    where: list[Arg] = []
    at: Dim = 0
    for t in fold.types:
        where.append(Work(at))
        at = ceildiv(at + nest.count * (splits * t.size), 16) * 16
    return where, at
