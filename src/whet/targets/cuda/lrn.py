"""Local response normalization across channels (Krizhevsky et al., 2012) in Triton."""

from __future__ import annotations

from collections.abc import Iterable

from whet.ir.dtypes import DType
from whet.ir.expr import Leaf
from whet.ir.region import Region
from whet.ir.symbolic import ceildiv, product
from whet.targets.base import Implementation, In, Params
from whet.targets.cuda.expr import NARROW, cast, constant, division, emit_wide
from whet.targets.cuda.gpu import Gpu
from whet.targets.cuda.index import Block, epilogue, is_wide, load_tensor, pointer_to, unravel
from whet.targets.cuda.kernel import Source
from whet.targets.cuda.rows import floats_reason, prologue_of, seconds
from whet.targets.cuda.tiles import number


class Lrn:
    """x / (bias + alpha / size * sum of squares of `size` neighbouring channels)^beta: a block of results per program,
    whose neighbours come from the caches."""

    name = "lrn"

    def applies(self, region: Region, machine: Gpu) -> str:
        return floats_reason(region)

    def space(self, region: Region, machine: Gpu, threads: int) -> Iterable[Params]:
        return [{"block": b, "warps": w} for b, w in ((512, 4), (256, 4), (1024, 4), (1024, 8), (256, 2), (128, 2))]

    def cost(self, region: Region, params: Params, machine: Gpu, threads: int) -> float:
        return seconds(region, machine)

    def implement(self, region: Region, params: Params, machine: Gpu, threads: int) -> Implementation:
        s = Source("lrn", machine.has_fp8)
        shape, block = region.output.shape, params["block"]
        n, size = product(shape), int(region.attrs["size"])
        axis = len(shape) - 1 if region.attrs["channels_last"] else 1
        i = s.name_of(f"tl.program_id(0).to(tl.int64) * {block} + tl.arange(0, {block})", "i")
        coords = unravel(s, i, shape)
        inside = s.name_of(f"{i} < {number(s, region, n)}", "inside")
        real = DType.F32 if region.anchor.dtype in NARROW else region.anchor.dtype
        channels = s.integer(shape[axis])
        here = Block(tuple(coords), ((0,),) * len(shape), (inside,))
        x = _value(s, region, here)
        total = constant(0.0, real)
        for k in range(size):
            step = k - (size - 1) // 2
            c = s.name_of(f"{coords[axis]} + ({step})", "c")
            near = Block((*coords[:axis], c, *coords[axis + 1:]), here.axes,
                         (f"{inside} & ({c} >= 0) & ({c} < {channels})",))
            v = s.name_of(f"tl.where({near.masks[0]}, {_value(s, region, near)}, {constant(0.0, real)})", "v")
            total = s.name_of(f"{total} + {v} * {v}", "total")
        at = region.attrs
        bias, alpha = (constant(v, real) for v in (float(at["bias"]), float(at["alpha"]) / size))
        scale = s.name_of(f"{bias} + {alpha} * {total}")
        power = s.name_of(f"libdevice.pow({scale}, {constant(float(at['beta']), real)})")
        epilogue(s, region, s.name_of(division(x, power, real.size == 8), "y"), here)
        return Implementation((s.step(ceildiv(n, block), warps=params["warps"], stages=1),))


def _value(s: Source, region: Region, block: Block) -> str:
    """The operand after its prologue, in the compute type of the anchor."""
    e = prologue_of(region)

    def leaf(t: Leaf) -> str:
        x = region.inputs[t.source]
        return load_tensor(s, x, pointer_to(s, In(t.source), x), block, is_wide(region, x))

    # A value of 16 bits is in f32 already.
    have, want = (DType.F32 if d in NARROW else d for d in (e.dtype, region.anchor.dtype))
    return cast(s, emit_wide(s, e, leaf), have, want)
