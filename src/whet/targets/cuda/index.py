"""Where elements lie, and loads and stores of a program's tile: for the epilogues, prologues and copies of all kernels.

A `Block` says which elements of a logical shape a program holds: for each dimension the text of a coordinate, and the
tile's axes along which that coordinate varies. A tile of rows x columns of a matrix product with batches `b`:

    s.line(f"rm = (tile_m * {BM} + tl.arange(0, {BM}))[:, None]")
    s.line(f"rn = (tile_n * {BN} + tl.arange(0, {BN}))[None, :]")
    block = Block(("b", "rm", "rn"), ((), (0,), (1,)), (f"rm < {m}", f"rn < {n}"))
    epilogue(s, region, "acc", block)                  # loads what the epilogue reads, computes, casts, stores

A flat block of a dense tensor is `Block(("i",), ((0,),), (f"i < {n}",))`. Where one axis runs over several dimensions,
`unravel` splits its index. An operand broadcasts to the block's shape as in NumPy: along the axes that it does not vary
on it is loaded once ([m, 1], [1, n], or a scalar). Coordinates are int32; offsets are int64 where a tensor reaches
further than int32 does. Bool values are int1 in registers, everything else is as `kernel.REGISTER` says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from whet.ir.dtypes import DType
from whet.ir.expr import ANCHOR, Expr, Leaf
from whet.ir.region import Region, Tensor
from whet.ir.symbolic import Dim, Shape
from whet.targets.base import In, Out
from whet.targets.cuda.expr import emit
from whet.targets.cuda.kernel import Source
from whet.targets.cuda.shapes import is_long, reach


@dataclass(frozen=True)
class Block:
    """The elements that a program holds.

    coords: per dimension of the shape, text of the coordinate: a scalar or a block that broadcasts to the tile.
    axes:   per dimension, the axes of the tile along which it varies: () for a scalar.
    masks:  per axis of the tile, text of what is inside, of the shape of coordinates along it; "": everything.
    """

    coords: tuple[str, ...]
    axes: tuple[tuple[int, ...], ...]
    masks: tuple[str, ...] = ()

    def mask(self, axes: Sequence[int]) -> str:
        """What is inside along these axes; "" if everything is."""
        return " & ".join(f"({self.masks[a]})" for a in axes if a < len(self.masks) and self.masks[a])


def is_wide(region: Region, t: Tensor) -> bool:
    """Whether an element of the tensor may lie 2^31 elements or more from the first."""
    return is_long(reach(region, t))


def pointer(s: Source, region: Region, k: int) -> str:
    """The parameter for region input k, made once."""
    t = region.inputs[k]
    return pointer_to(s, In(k), t)


def out_pointer(s: Source, region: Region, k: int = 0) -> str:
    """The parameter for the region's output k, made once."""
    return pointer_to(s, Out(k), (region.output, *region.extra_outputs)[k])


def pointer_to(s: Source, arg: In | Out, t: Tensor) -> str:
    """The parameter for an argument as elements of the tensor's type, made once."""
    for (name, kind, _), a in zip(s.params, s.args):
        if a == arg and kind == f"*{s.memory(t.dtype)}":
            return name
    return s.pointer(arg, t.dtype, t.aligned)


def offsets(s: Source, t: Tensor, coords: Sequence[str], wide: bool = False) -> str:
    """Text of the element's offset at logical coordinates of a shape that the tensor broadcasts to ("0": always the
    first element). `wide`: in int64 (`is_wide`)."""
    parts = []
    for d, stride, c in zip(t.shape, t.strides, coords[len(coords) - len(t.shape):], strict=True):
        if (isinstance(d, int) and d == 1) or (isinstance(stride, int) and stride == 0) or c == "0":
            continue
        if wide and not c.isdigit():
            c = f"tl.cast({c}, tl.int64)"
        step = s.integer(stride, wide=wide and not isinstance(stride, int))
        parts.append(f"({c})" if step == "1" else f"({c}) * ({step})" if step.startswith("-") else f"({c}) * {step}")
    return " + ".join(parts) if parts else "0"


def axes_of(t: Tensor, block: Block) -> tuple[int, ...]:
    """The tile's axes along which the tensor's elements differ."""
    found: set[int] = set()
    n = len(block.coords) - len(t.shape)
    for d, stride, axes in zip(t.shape, t.strides, block.axes[n:], strict=True):
        if not ((isinstance(d, int) and d == 1) or (isinstance(stride, int) and stride == 0)):
            found.update(axes)
    return tuple(sorted(found))


def load(s: Source, region: Region, k: int, pointer_: str, block: Block, other: str = "", cache: str = "") -> str:
    """Region input k at a block's coordinates, which its shape broadcasts to; the name of the value as loaded.

    other: text of what lies outside of the block ("": anything). cache: extra keywords of `tl.load`, such as
    `eviction_policy="evict_first"`.
    """
    t = region.inputs[k]
    return load_tensor(s, t, pointer_, block, is_wide(region, t), other, cache)


def load_tensor(s: Source, t: Tensor, pointer_: str, block: Block, wide: bool = False, other: str = "",
                cache: str = "") -> str:
    """`load` of a tensor that is not the region's."""
    mask = block.mask(axes_of(t, block))
    text = f"{pointer_} + {offsets(s, t, block.coords, wide)}"
    if mask:
        text += f", mask={mask}" + (f", other={other}" if other else "")
    if cache:
        text += f", {cache}"
    return s.name_of(f"tl.load({text}) != 0" if t.dtype is DType.BOOL else f"tl.load({text})", "x")


def filled(s: Source, x: str, t: Tensor, block: Block, shape: Sequence[int]) -> str:
    """A loaded tile of t in its whole shape [rows, columns], 0 where the block's masks say so: where t has one element
    along an axis, less was loaded, and the mask of that axis had no say."""
    if axes_of(t, block) == (0, 1):
        return x
    x = s.name_of(f"tl.broadcast_to({x}, [{shape[0]}, {shape[1]}])", "x")
    mask = block.mask((0, 1))
    return s.name_of(f"tl.where({mask}, {x}, tl.zeros_like({x}))", "x") if mask else x


def store(s: Source, region: Region, pointer_: str, value: str, block: Block, k: int = 0) -> None:
    """Stores a value of the register type of output k (0: `output`, then `extra_outputs`) at a block's coordinates."""
    t = (region.output, *region.extra_outputs)[k]
    store_tensor(s, t, pointer_, value, block, is_wide(region, t))


def store_tensor(s: Source, t: Tensor, pointer_: str, value: str, block: Block, wide: bool = False) -> None:
    """`store` to a tensor that is not the region's."""
    mask = block.mask(range(len(block.masks)))
    value = f"({value}).to(tl.uint8)" if t.dtype is DType.BOOL else value
    where = f"{pointer_} + {offsets(s, t, block.coords, wide)}"
    if set(axes_of(t, block)) < {a for axes in block.axes for a in axes}:  # a dimension of 1 along a wider axis
        value = s.name_of(value, "y")
        where = f"tl.broadcast_to({where}, {value}.shape)"
    s.line(f"tl.store({where}, {value}{f', mask={mask}' if mask else ''})")


def value_of(s: Source, region: Region, e: Expr, block: Block, anchor: str = "",
             known: Mapping[int, str] | None = None) -> str:
    """An expression over region inputs (and the anchor's value) at a block's coordinates, in its register type.

    known: values that were loaded before, by input.
    """
    def leaf(t: Leaf) -> str:
        if t.source == ANCHOR:
            return anchor
        if known and t.source in known:
            return known[t.source]
        return load(s, region, t.source, pointer(s, region, t.source), block)

    return emit(s, e, leaf)


def epilogue(s: Source, region: Region, acc: str, block: Block, known: Mapping[int, str] | None = None,
             dtype: DType | None = None) -> None:
    """Stores the anchor's value, by way of the region's epilogue, at a block's coordinates in the output's shape.

    acc: a value of `dtype` (default: the anchor's; one of 16 bits may be in f32, one of f32 in f32).
    """
    have = dtype or region.anchor.dtype
    if region.epilogue is not None:
        wide = s.name_of(f"({acc}).to(tl.float32)") if have in (DType.F16, DType.BF16) else acc
        value = value_of(s, region, region.epilogue, block, wide, known)
    else:
        from whet.targets.cuda.expr import cast, finish

        value = finish(s, cast(s, acc, DType.F32 if have in (DType.F16, DType.BF16) else have, region.output.dtype)
                       if have is not region.output.dtype else acc, region.output.dtype)
    store(s, region, out_pointer(s, region), value, block)


def unravel(s: Source, flat: str, extents: Sequence[Dim], hint: str = "i") -> list[str]:
    """The coordinates of a flat index over extents (row-major), as names; extents of 1 give "0"."""
    out: list[str] = []
    rest = flat
    live = [i for i, d in enumerate(extents) if not (isinstance(d, int) and d == 1)]
    for i in reversed(range(len(extents))):
        if i not in live:
            out.append("0")
        elif i == live[0]:
            out.append(rest)
        else:
            d = s.integer(extents[i])
            out.append(s.name_of(f"{rest} % {d}", hint))
            rest = s.name_of(f"{rest} // {d}", hint)
    return list(reversed(out))


def merged(shape: Shape, strides: Sequence[Shape]) -> tuple[list[Dim], list[list[Dim]]]:
    """The fewest dimensions that say the same: (extents, strides of each tensor). Those of one element are dropped,
    neighbours that are contiguous in every tensor become one."""
    extents: list[Dim] = []
    out: list[list[Dim]] = [[] for _ in strides]
    for i in range(len(shape)):
        d = shape[i]
        if isinstance(d, int) and d == 1:
            continue
        if extents and all(o[-1] == x[i] * d for o, x in zip(out, strides, strict=True)):
            extents[-1] = extents[-1] * d
            for o, x in zip(out, strides):
                o[-1] = x[i]
            continue
        extents.append(d)
        for o, x in zip(out, strides):
            o.append(x[i])
    return extents, out

