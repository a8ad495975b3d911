"""Scatters: the result is a copy of the data (or, where lowering says `in_place`, the data itself), into which updates
are placed as if one after the other.

Updates that may meet in one element (those of one axis in scatter_elements, all of scatter_nd's) are linked first:
each knows the next one with its place, or that there is none, and whether one comes before it. Then the last one of
each place is written; or, where updates are combined, the first one's lane walks the list, in order. All places are
worked on at once, and the result does not depend on who comes first.
"""

from __future__ import annotations

from collections.abc import Sequence

from whet.ir.dtypes import DType
from whet.ir.region import Region
from whet.ir.symbolic import Dim, ceildiv, product
from whet.targets.base import Implementation, In, Out, Params, Step, Work
from whet.targets.cuda.expr import extreme_text
from whet.targets.cuda.gather import Pick
from whet.targets.cuda.gpu import Gpu
from whet.targets.cuda.kernel import REGISTER, Source
from whet.targets.cuda.moving import LAUNCH, Movement, copy, copy_tiling, is_never_read, moved, place, pointer
from whet.targets.cuda.shapes import optimum
from whet.targets.cuda.tiles import OUT, Nest, Tile, is_wide, merged, number, sum_of, unravel

_INDEX, _UPDATES = 1, 2  # the region's inputs
_ROWS, _OTHERS = 32, 64  # updates that a program links, and those it compares them with at a time


class Scatter(Movement):
    """scatter_nd and scatter_elements, with every reduction; 16-bit floats are combined in f32 and rounded once. A
    place that lies outside is clamped; into a dimension of size 0 nothing is placed."""

    name = "scatter"

    def refuses(self, region: Region) -> str:
        if region.output.dtype is DType.BOOL and region.attrs["reduction"] != "none":
            return "booleans are not reduced"
        return ""

    def loops(self, region: Region) -> Sequence[Dim]:
        return placing(region)[0].extents

    def cost(self, region: Region, params: Params, machine: Gpu, threads: int) -> float:
        meeting = optimum(region, product(placing(region)[0].where(False).extents))
        pairs = meeting * optimum(region, product(region.inputs[_INDEX].shape))
        return moved(region) / (machine.bandwidth or 1e12) + 3 * LAUNCH + pairs * 5e-13

    def implement(self, region: Region, params: Params, machine: Gpu, threads: int) -> Implementation:
        nest, picks = placing(region)
        steps: list[Step] = []
        workspace: Dim = 0
        if not region.attrs.get("in_place"):
            tiling = copy_tiling(region, region.inputs[0], region.output)
            steps.append(copy(region, region.inputs[0], region.output, tiling))
        if is_never_read(p.size for p in picks):
            return Implementation(tuple(steps))
        links = None
        meeting = nest.where(False).extents
        if product(meeting) != 1:
            links = _Links(region, nest, picks)
            workspace = ceildiv(links.count * 4, 64) * 64
            steps.append(links.step())
        steps.append(_placed(region, params, nest, picks, links))
        return Implementation(tuple(steps), workspace=workspace)


def placing(region: Region) -> tuple[Nest, tuple[Pick, ...]]:
    """The loops over the updates (those labelled False lead to updates that may meet), and the index's components."""
    i, u, out = region.inputs[_INDEX], region.inputs[_UPDATES], region.output
    if region.kind == "scatter_elements":
        axis = region.attrs["axis"]
        picks: tuple[Pick, ...] = (Pick(0, out.shape[axis], out.strides[axis]),)
        to: tuple[Dim, ...] = (*out.strides[:axis], 0, *out.strides[axis + 1:])
        at, parallel = i.strides, [d != axis for d in range(len(out.shape))]
    else:
        depth, lead = i.shape[-1], len(i.shape) - 1
        assert isinstance(depth, int)
        picks = tuple(Pick(c * i.strides[-1], out.shape[c], out.strides[c]) for c in range(depth))
        rest = out.strides[depth:]
        to, at = (0,) * lead + rest, i.strides[:-1] + (0,) * len(rest)
        parallel = [False] * lead + [True] * len(rest)
    return merged(u.shape, {_UPDATES: u.strides, _INDEX: at, OUT: to}, parallel), picks


def _place_of(s: Source, region: Region, picks: Sequence[Pick], index: str, at: str, mask: str, wide: bool) -> str:
    """The name of the elements from the result's first to where the indices at offsets `at` point."""
    terms = []
    for p in picks:
        raw = s.name_of(f"tl.load({index} + {at} + {number(s, region, p.offset)}, mask={mask}, other=0)")
        terms.append(f"{place(s, region, raw, p.size, wide)} * {number(s, region, p.stride)}")
    return s.name_of(" + ".join([*terms, f"0 * ({at})"]), "to")


def _offset(s: Source, region: Region, coords: Sequence[str], strides: Sequence[Dim]) -> str:
    return sum_of(f"{c} * {number(s, region, d)}" for c, d in zip(coords, strides, strict=True))


class _Links:
    """For every line (of indices that lead to different lines of the result) and update in it an i32: the number of
    the next update of the same place (how many there are, if none), or, if one comes before it, that inverted."""

    def __init__(self, region: Region, nest: Nest, picks: Sequence[Pick]) -> None:
        self.region, self.picks = region, picks
        self.meeting = nest.where(False)
        self.n = product(self.meeting.extents)
        self.of = [j for j, (label, d) in enumerate(zip(nest.labels, nest.strides[_INDEX]))
                   if label and not (isinstance(d, int) and d == 0)]  # loops that number the lines
        self.extents = tuple(nest.extents[j] for j in self.of)
        self.strides = tuple(nest.strides[_INDEX][j] for j in self.of)
        self.lines = product(self.extents)
        self.count = self.lines * self.n
        self.serial = [j for j, label in enumerate(nest.labels) if not label]

    def step(self) -> Step:
        region, s = self.region, Source("links")
        i = region.inputs[_INDEX]
        index = s.pointer(In(_INDEX), i.dtype, i.aligned)
        work = s.pointer(Work(), DType.I32)
        wide = is_wide(region, self.count)
        kind = "int64" if wide else "int32"
        n, blocks = number(s, region, self.n), number(s, region, ceildiv(self.n, _ROWS))
        s.line(f"program = tl.program_id(0).to(tl.{kind})")
        s.line(f"line = program // {blocks}")
        line = _offset(s, region, unravel(s, region, "line", self.extents), self.strides) if self.extents else "0"
        s.line(f"base = {line}")
        s.line(f"u = (program % {blocks}) * {_ROWS} + tl.arange(0, {_ROWS})[:, None]")
        s.line(f"mine = u < {n}")
        own = self._place(s, index, "u", "mine", wide)
        s.line(f"nearest = tl.zeros([{_ROWS}, {_OTHERS}], tl.{kind}) + {n}")
        s.line("earliest = nearest")
        with s.block(f"for first in range(0, {n}, {_OTHERS}):"):
            s.line(f"j = (first + tl.arange(0, {_OTHERS})[None, :]).to(tl.{kind})")
            s.line(f"there = j < {n}")
            s.line(f"meets = ({own} == {self._place(s, index, 'j', 'there', wide)}) & there")
            s.line("nearest = tl.minimum(nearest, tl.where(meets & (j > u), j, nearest))")
            s.line("earliest = tl.minimum(earliest, tl.where(meets, j, earliest))")
        s.line("link = tl.min(nearest, 1)[:, None].to(tl.int32)")
        s.line("link = tl.where(tl.min(earliest, 1)[:, None] < u, -1 - link, link)")
        s.line(f"tl.store({work} + line * {n} + u, link, mask=mine)")
        return s.step(self.lines * ceildiv(self.n, _ROWS))

    def _place(self, s: Source, index: str, u: str, mask: str, wide: bool) -> str:
        coords = unravel(s, self.region, u, self.meeting.extents)
        at = s.name_of(f"base + {_offset(s, self.region, coords, self.meeting.strides[_INDEX])}", "at")
        return _place_of(s, self.region, self.picks, index, at, mask, wide)


def _placed(region: Region, params: Params, nest: Nest, picks: Sequence[Pick], links: _Links | None) -> Step:
    """The step that places the updates."""
    s, dtype, reduction = Source(region.kind), region.output.dtype, region.attrs["reduction"]
    i, u = region.inputs[_INDEX], region.inputs[_UPDATES]
    if reduction == "none":
        out, updates = pointer(s, Out(), region.output), pointer(s, In(_UPDATES), u)
    else:
        out = s.pointer(Out(), dtype, region.output.aligned)
        updates = s.pointer(In(_UPDATES), dtype, u.aligned)
    index = s.pointer(In(_INDEX), i.dtype, i.aligned)
    tile = Tile(s, region, nest.extents, params, unless_zero=[p.size for p in picks],
                wide=is_wide(region, product(nest.extents)))
    at, mask = tile.offset(nest.strides[_INDEX]), tile.mask_of(nest.strides[_INDEX])
    to = _place_of(s, region, picks, index, at, mask, tile.wide)
    to = s.name_of(f"{out} + {to} + {tile.offset(nest.strides[OUT])} + {tile.whole}", "to")
    if links is None:
        s.line(f"here = {tile.mask}")
    else:
        work = s.pointer(Work(), DType.I32)
        n = number(s, region, links.n)
        which = _linear(s, region, [tile.index[j] for j in links.serial], links.meeting.extents)
        line = _linear(s, region, [tile.index[j] for j in links.of], links.extents)
        s.line(f"links = {work} + {line} * {n} + {tile.whole}")
        s.line(f"link = tl.load(links + {which}, mask={tile.mask}, other=-1)")
        last = f"(link == {n}) | (link == -1 - {n})"
        s.line(f"here = {tile.mask} & ({last if reduction == 'none' else 'link >= 0'})")
    v = f"tl.load({updates} + {tile.offset(nest.strides[_UPDATES])} + {tile.whole}, mask=here)"
    if reduction == "none":
        s.line(f"tl.store({to}, {v}, mask=here)")
        return s.step(tile.tiles)
    own = "float32" if dtype in (DType.F16, DType.BF16) else REGISTER[dtype]
    s.line(f"acc = tl.load({to}, mask=here).to(tl.{own})")
    s.line(f"v = {v}.to(tl.{own})")
    s.line(f"acc = {_combined(reduction, 'acc', 'v', dtype)}")
    if links is not None:
        parallel = [0 if j in links.serial else d for j, d in enumerate(nest.strides[_UPDATES])]
        rest = tile.offset(parallel)
        s.line(f"link = tl.where(here, link, {n}).to(tl.int32)")
        with s.block(f"while tl.min(tl.min(link, 1), 0) < {n}:"):
            s.line(f"more = link < {n}")
            coords = unravel(s, region, "link.to(tl.int64)" if tile.wide else "link", links.meeting.extents)
            offset = _offset(s, region, coords, links.meeting.strides[_UPDATES])
            s.line(f"v = tl.load({updates} + {rest} + {offset}, mask=more).to(tl.{own})")
            s.line(f"acc = tl.where(more, {_combined(reduction, 'acc', 'v', dtype)}, acc)")
            s.line(f"link = tl.load(links + link, mask=more, other={n})")
            s.line("link = tl.where(link < 0, -1 - link, link)")
    s.line(f"tl.store({to}, acc.to(tl.{REGISTER[dtype]}), mask=here)")
    return s.step(tile.tiles)


def _linear(s: Source, region: Region, coords: Sequence[str], extents: Sequence[Dim]) -> str:
    """The name of the linear index of coordinates."""
    text = "tl.zeros([1, 1], tl.int32)"
    for c, e in zip(coords, extents, strict=True):
        text = f"({text}) * {number(s, region, e)} + {c}"
    return s.name_of(text, "linear")


def _combined(reduction: str, a: str, b: str, dtype: DType) -> str:
    if reduction in ("add", "mul"):
        return f"{a} {'+' if reduction == 'add' else '*'} {b}"
    return extreme_text(reduction, a, b, dtype)
