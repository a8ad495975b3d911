"""Pointwise expressions over tensors of any strides in Triton: arithmetic, copies, transposes, slices, broadcasts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from whet.ir.dtypes import DType
from whet.ir.expr import Expr, Leaf, identity
from whet.ir.region import Region, Tensor
from whet.ir.symbolic import Dim, ceildiv, product, upper
from whet.targets.base import Implementation, In, Out, Params
from whet.targets.cuda.expr import emit
from whet.targets.cuda.gpu import Gpu
from whet.targets.cuda.index import Block, is_wide, load_tensor, merged, pointer_to, store_tensor, unravel
from whet.targets.cuda.kernel import Source
from whet.targets.cuda.moving import RAW
from whet.targets.cuda.shapes import broadcast_strides, divides, is_long, optimum, ranges

LAUNCH = 1.3e-6  # seconds that the smallest kernel takes
OUT = -1


@dataclass(frozen=True)
class _Nest:
    """The fewest loops, the last one the output's fastest. `views`: each tensor (OUT, inputs) over them."""

    extents: tuple[Dim, ...]
    views: dict[int, Tensor]
    turned: int | None  # the loop along which inputs are contiguous that are not along the last


class Pointwise:
    """A block of elements in the output's order of memory per program; inputs that are contiguous along another
    dimension come in by blocks of rows and columns, which Triton turns in shared memory."""

    name = "pointwise"

    def applies(self, region: Region, machine: Gpu) -> str:
        if region.epilogue is None:
            return "there is no expression"
        if region.extra_outputs:
            return "a pointwise region has one output"
        if any(t.dtype.is_host for t in (region.output, *region.inputs)):
            return "strings are not for kernels"
        return ""

    def space(self, region: Region, machine: Gpu, threads: int) -> Iterable[Params]:
        nest = _nest(region)
        if nest.turned is not None:
            return [*_turned_space(optimum(region, nest.extents[nest.turned]), optimum(region, nest.extents[-1])),
                    *({"block": b, "warps": 4} for b in (1024, 512, 256))]
        n = max(1, optimum(region, product(nest.extents)))
        lanes = 16 // max(1, min(v.dtype.size for v in nest.views.values()))  # elements of the widest access
        found = [(32 * w * lanes * k, w) for w in (4, 8, 2, 1) for k in (1, 2, 4)] + [(128, 4), (256, 4), (512, 4)]
        sms = machine.multiprocessors or 108
        # Every multiprocessor should have work, and no program less than a warp's.
        goal = min(4096, max(128, n // sms)).bit_length() - 1
        found.sort(key=lambda f: (abs(_log2(f[0]) - goal), f[1] != 4))
        return [{"block": b, "warps": w} for b, w in dict.fromkeys(found) if b <= max(2 * n, 128)][:10]

    def cost(self, region: Region, params: Params, machine: Gpu, threads: int) -> float:
        moved = sum(optimum(region, product(d for d, s in zip(t.shape, t.strides) if s != 0)) * t.dtype.size
                    for t in (region.output, *region.inputs))
        return LAUNCH + moved / (machine.bandwidth or 1e12)

    def implement(self, region: Region, params: Params, machine: Gpu, threads: int) -> Implementation:
        nest = _nest(region)
        s = Source("pointwise", machine.has_fp8)
        tiles = _turned(s, region, nest, params) if "rows" in params else _flat(s, region, nest, params["block"])
        return Implementation((s.step(tiles, warps=params["warps"], stages=1),))


def _log2(n: int) -> int:
    return max(0, n - 1).bit_length()


def _turned_space(rows: int, cols: int) -> list[Params]:
    """Blocks of rows x columns, no longer than the dimensions are."""
    r, c = max(1 << _log2(rows), 1), max(1 << _log2(cols), 1)
    found = []
    for br, bc, w in ((32, 64, 4), (64, 64, 4), (64, 32, 4), (32, 32, 4), (64, 64, 8), (128, 32, 8), (32, 128, 8),
                      (128, 64, 8), (64, 128, 8), (16, 64, 2), (32, 32, 2)):
        br, bc = min(br, r), min(bc, c)
        area = 32 * 32
        while br * bc < area and (br < r or bc < c):  # a short side: the other one longer
            br, bc = (br * 2, bc) if br < r and (bc >= c or br <= bc) else (br, bc * 2)
        found.append((br, bc, w))
    return [{"rows": br, "cols": bc, "warps": w} for br, bc, w in dict.fromkeys(found)]


def _nest(region: Region) -> _Nest:
    assert region.epilogue is not None
    shape = region.output.shape
    keys = [OUT, *region.epilogue.leaves]
    tensors = [region.output, *(region.inputs[k] for k in keys[1:])]
    strides = [broadcast_strides(t, len(shape)) for t in tensors]
    # Loops in the output's order of memory; then what is contiguous everywhere is one loop.
    live = [i for i, d in enumerate(shape) if not (isinstance(d, int) and d == 1)]
    order = sorted(live, key=lambda i: -abs(optimum(region, strides[0][i])))
    extents, merged_strides = merged(tuple(shape[i] for i in order), [tuple(x[i] for i in order) for x in strides])
    views = {k: Tensor(t.dtype, tuple(extents), tuple(x)) for k, t, x in zip(keys, tensors, merged_strides)}
    turned: dict[int, int] = {}
    last = len(extents) - 1
    if last > 0 and optimum(region, extents[-1]) > 1:
        for k in keys[1:]:
            x = views[k].strides
            if x[last] not in (0, 1):
                for i in range(last):
                    if x[i] == 1 and optimum(region, extents[i]) > 1:
                        turned[i] = turned.get(i, 0) + 1
    return _Nest(tuple(extents), views, max(turned, key=lambda i: turned[i]) if turned else None)


def _values(s: Source, region: Region, nest: _Nest, block: Block) -> None:
    """Loads, computes and stores the elements of a block of the nest."""
    expr, raw = _plain(region)

    def pointer_of(k: int) -> str:
        t = region.output if k == OUT else region.inputs[k]
        return pointer_to(s, Out() if k == OUT else In(k), t if raw is None else replace(t, dtype=raw))

    def view(k: int) -> Tensor:
        t = nest.views[k]
        return t if raw is None else replace(t, dtype=raw)

    def leaf(t: Leaf) -> str:
        return load_tensor(s, view(t.source), pointer_of(t.source), block, is_wide(region, region.inputs[t.source]))

    store_tensor(s, view(OUT), pointer_of(OUT), emit(s, expr, leaf), block, is_wide(region, region.output))


def _plain(region: Region) -> tuple[Expr, DType | None]:
    """The expression; a copy without conversion moves bits, as unsigned integers (the second value), whatever they
    mean."""
    e = region.epilogue
    assert e is not None
    source = e.terms[0]
    if e.is_identity and isinstance(source, Leaf) and source.dtype is region.output.dtype:
        return identity(source.source, RAW[source.dtype.size]), RAW[source.dtype.size]
    return e, None


def _program(s: Source, region: Region, count: Dim, block: int) -> str:
    """The first index of the program's block; in int64 where indices do not fit in int32."""
    wide = is_long(upper(count, ranges(region)) + block)
    return s.name_of(f"tl.program_id(0){'.to(tl.int64)' if wide else ''}", "pid")


def _flat(s: Source, region: Region, nest: _Nest, block: int) -> Dim:
    """Consecutive elements in the output's order; the number of programs."""
    n = product(nest.extents)
    if not nest.extents:
        _values(s, region, nest, Block((), ()))
        return 1
    pid = _program(s, region, n, block)
    i = s.name_of(f"{pid} * {block} + tl.arange(0, {block})", "i")
    coords = tuple(unravel(s, i, nest.extents))
    axes = ((0,),) * len(coords)
    whole = Block(coords, axes)
    if divides(block, n):
        _values(s, region, nest, whole)
        return n // block
    even = divides(16, n)  # else accesses under a mask are of single elements: only the last program's should be
    size = s.integer(n, wide=is_long(upper(n, ranges(region))), aligned=even)
    part = Block(coords, axes, (f"{i} < {size}",))
    if even:
        _values(s, region, nest, part)
    else:
        with s.block(f"if {pid} * {block} + {block} <= {size}:"):
            _values(s, region, nest, whole)
        with s.block("else:"):
            _values(s, region, nest, part)
    return ceildiv(n, block)


def _turned(s: Source, region: Region, nest: _Nest, params: Params) -> Dim:
    """Blocks of rows (the loop along which inputs are contiguous) by columns (the last); the number of programs."""
    assert nest.turned is not None
    r, c = nest.turned, len(nest.extents) - 1
    br, bc = params["rows"], params["cols"]
    blocks = [ceildiv(nest.extents[r], br), ceildiv(nest.extents[c], bc)]
    outer = [i for i in range(c) if i != r]
    tiles = product([*(nest.extents[i] for i in outer), *blocks])
    pid = _program(s, region, product(nest.extents), br * bc)
    index = unravel(s, pid, [*(nest.extents[i] for i in outer), *blocks])
    row = s.name_of(f"({_times(index[-2], br)}tl.arange(0, {br}))[:, None]", "row")
    col = s.name_of(f"({_times(index[-1], bc)}tl.arange(0, {bc}))[None, :]", "col")
    coords: list[str] = [""] * len(nest.extents)
    for i, name in zip(outer, index):
        coords[i] = name
    coords[r], coords[c] = row, col
    axes: Sequence[tuple[int, ...]] = [(0,) if i == r else (1,) if i == c else () for i in range(len(coords))]
    masks = tuple("" if divides(block, nest.extents[i]) else f"{name} < {s.integer(nest.extents[i])}"
                  for i, name, block in ((r, row, br), (c, col, bc)))
    _values(s, region, nest, Block(tuple(coords), tuple(axes), masks))
    return tiles


def _times(index: str, block: int) -> str:
    return "" if index == "0" else f"{index} * {block} + "
