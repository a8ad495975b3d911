"""Loop nests over strided tensors, and the tiles of indices that one program of a kernel has.

A tile is a block of rows by columns: the columns run along the innermost loop (or, where that is short, along all of
them, `flat`), the rows along the others. Indices are Triton tensors of shape [rows, 1], [1, columns] or [1, 1], so that
what is the same for a whole row is computed and loaded once for it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from whet.ir.region import Region
from whet.ir.symbolic import Dim, Shape, Sym, ceildiv, product
from whet.targets.base import Params
from whet.targets.cuda.kernel import Source
from whet.targets.cuda.shapes import divides, greatest, is_long, optimum, power_of_two, reach

OUT = -1  # the key of the output among region inputs' indices
_SLACK = 1 << 20  # more than a tile's elements: what lies behind the last one is counted, too
_FEW = 16  # columns that are too few to be a row of a tile
_WASTE = 0.75  # of a row's lanes at least so many should be columns


@dataclass(frozen=True)
class Nest:
    """Loops, outermost first: how often each runs, each tensor's step along it in elements (0: broadcast), and what
    it is for (as given to `merged`)."""

    extents: tuple[Dim, ...]
    strides: Mapping[int, tuple[Dim, ...]]
    labels: tuple[Any, ...]

    def where(self, label: Any) -> Nest:
        """The loops of this label alone."""
        which = [i for i, l in enumerate(self.labels) if l == label]
        return Nest(tuple(self.extents[i] for i in which),
                    {t: tuple(s[i] for i in which) for t, s in self.strides.items()}, (label,) * len(which))


def merged(shape: Shape, strides: Mapping[int, Sequence[Dim]], labels: Sequence[Any] | None = None) -> Nest:
    """The fewest loops over `shape`: dimensions of one element vanish, and neighbours of the same label that every
    tensor steps through evenly become one."""
    labels = labels or [None] * len(shape)
    nest: list[tuple[Dim, dict[int, Dim], Any]] = []
    for axis, extent in enumerate(shape):
        if isinstance(extent, int) and extent == 1:
            continue
        step = {t: s[axis] for t, s in strides.items()}
        if nest and nest[-1][2] == labels[axis] and all(nest[-1][1][t] == d * extent for t, d in step.items()):
            nest[-1] = (nest[-1][0] * extent, step, labels[axis])
        else:
            nest.append((extent, step, labels[axis]))
    return Nest(tuple(e for e, _, _ in nest), {t: tuple(d[t] for _, d, _ in nest) for t in strides},
                tuple(l for _, _, l in nest))


def is_wide(region: Region, *others: Dim) -> bool:
    """True if offsets into the region's tensors (or one of the sizes `others`) may lie beyond 32 bits."""
    tensors = (*region.inputs, region.output, *region.extra_outputs)
    furthest = max((*(reach(region, t) for t in tensors), *(greatest(region, d) for d in others)))
    return is_long(furthest + _SLACK)


def number(s: Source, region: Region, d: Dim) -> str:
    """Text of a dimension, a parameter where it is symbolic (64 bits wide where it may need them)."""
    if isinstance(d, int):
        return str(d) if d >= 0 else f"({d})"
    return s.integer(d, wide=is_long(greatest(region, d)), aligned=divides(16, d))


def unravel(s: Source, region: Region, index: str, extents: Sequence[Dim]) -> list[str]:
    """The coordinates of a flat index over extents (row-major), as names."""
    out: list[str] = []
    for e in reversed(extents[1:]):
        text = number(s, region, e)
        out.append(s.name_of(f"{index} % {text}", "i"))
        index = s.name_of(f"{index} // {text}", "i")
    return [index, *reversed(out)] if extents else []


def sum_of(terms: Iterable[str]) -> str:
    """Text of a sum of tensors of indices; a [1, 1] zero for none."""
    return " + ".join(terms) or "tl.zeros([1, 1], tl.int32)"


class Tile:
    """The tile of this program.

    index:   for each loop, the name of its indices; `row_wise`: whether they run along the rows.
    rows, columns: names of the masks [rows, 1] and [1, columns]; `mask`: of both.
    tiles:   how many there are.
    """

    def __init__(self, s: Source, region: Region, extents: Sequence[Dim], params: Params,
                 unless_zero: Iterable[Dim] = (), wide: bool | None = None) -> None:
        """params: "tile" (elements of a tile, a power of two) and "flat". Nothing is done (all masks are false) where
        one of the dimensions `unless_zero` is 0. `wide`: indices have 64 bits (None: if the region needs that)."""
        self.s, self.region = s, region
        extents = tuple(extents) or (1,)
        flat = bool(params.get("flat"))
        outer, inner = ((), extents) if flat else (extents[:-1], extents[-1:])
        lines, n = product(outer), product(inner)
        self.shape = shape_of(region, lines, n, params["tile"])
        height, width = self.shape
        blocks = ceildiv(n, width)
        self.tiles = ceildiv(lines, height) * blocks
        self.wide = is_wide(region, lines * n) if wide is None else wide
        program = s.name_of("tl.program_id(0).to(tl.int64)" if self.wide else "tl.program_id(0)", "program")
        one = isinstance(blocks, int) and blocks == 1
        zero = f"{program} * 0" if self.wide else "0"  # indices are as wide as the program's number
        down, across = ((program, zero) if one else
                        (f"({program} // {number(s, region, blocks)})", f"({program} % {number(s, region, blocks)})"))
        if isinstance(lines, int) and lines == 1:
            down, across = "0", program
        row = s.name_of(f"{down} * {height} + tl.arange(0, {height})[:, None]", "row")
        col = s.name_of(f"{across} * {width} + tl.arange(0, {width})[None, :]", "col")
        alive = "".join(f" & ({number(s, region, d)} > 0)" for d in unless_zero if isinstance(d, Sym))
        self.rows = s.name_of(f"({row} < {number(s, region, lines)}){alive}", "rows")
        self.columns = s.name_of(f"({col} < {number(s, region, n)}){alive}", "columns")
        self.mask = s.name_of(f"{self.rows} & {self.columns}", "mask")
        self.row_wise = [True] * len(outer) + [False] * len(inner)
        self.index = [*unravel(s, region, row, outer), *unravel(s, region, col, inner)]

    def offset(self, strides: Sequence[Dim]) -> str:
        """The name of the elements' offsets in a tensor with these strides along the loops."""
        terms = [i if d == 1 else f"{i} * {number(self.s, self.region, d)}"
                 for i, d in zip(self.index, strides) if not (isinstance(d, int) and d == 0)]
        return self.s.name_of(sum_of(terms), "at")

    def mask_of(self, strides: Sequence[Dim]) -> str:
        """The mask that loads at `offset(strides)` need: of rows or columns alone where the others do not matter."""
        used = {r for r, d in zip(self.row_wise, strides) if not (isinstance(d, int) and d == 0)}
        return self.mask if len(used) == 2 else self.rows if used == {True} else self.columns if used else "True"

    @property
    def whole(self) -> str:
        """A zero of the whole tile's shape: what is stored must have it."""
        return f"tl.zeros([{self.shape[0]}, {self.shape[1]}], tl.int32)"


def shape_of(region: Region, lines: Dim, n: Dim, elements: int) -> tuple[int, int]:
    """(rows, columns) of a tile of about so many elements, powers of two."""
    width = min(power_of_two(optimum(region, n)), elements)
    return max(1, min(elements // width, power_of_two(optimum(region, lines)))), width


def is_flat(region: Region, extents: Sequence[Dim], elements: int) -> bool:
    """True if rows of tiles along the innermost loop alone would be mostly empty."""
    if not extents:
        return True
    n = max(optimum(region, extents[-1]), 1)
    width = min(power_of_two(n), elements)
    return n < _FEW or n / (math.ceil(n / width) * width) < _WASTE


def tilings(region: Region, extents: Sequence[Dim], multiprocessors: int) -> list[Params]:
    """Tilings worth trying, the most promising first."""
    total = max(optimum(region, product(extents)), 1)
    fills = [t for t in (1024, 512, 256) if total >= 2 * t * max(multiprocessors, 64)] or [256]
    sizes = dict.fromkeys([fills[0], 2 * fills[0], 1024, 256])
    flat = is_flat(region, extents, fills[0])
    found: list[Params] = [{"tile": t, "flat": flat} for t in sizes]
    if len(extents) > 1:
        found.insert(1, {"tile": fills[0], "flat": not flat})
    return found
