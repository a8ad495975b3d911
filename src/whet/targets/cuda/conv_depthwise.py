"""Depthwise convolution, of one or two spatial dimensions: each output channel reads one input channel.

A program computes `ry` rows by `bx` columns by `bc` channels. It walks the input rows that these need and keeps a sum
for each output row, so that a row of the input is loaded once for all the output rows that it is part of. Where the
mean over the pixels is asked for, too, each program adds up what it writes; a second kernel adds up the programs' sums,
in their order, unless a program has all pixels.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from whet.ir.dtypes import DType
from whet.ir.region import Region
from whet.ir.symbolic import Dim, ceildiv, product
from whet.targets.base import Implementation, In, Out, Pack, Packed, Params, Step, Work
from whet.targets.cuda.conv_problem import Conv, conv_of, conv_reason, is_wide, product_of, with_bias
from whet.targets.cuda.conv_space import LAUNCH
from whet.targets.cuda.conv_write import Pixels, Writer, masked, plus, times
from whet.targets.cuda.expr import division
from whet.targets.cuda.gpu import Gpu
from whet.targets.cuda.kernel import REGISTER, Source
from whet.targets.cuda.shapes import optimum, power_of_two

KEPT = 9  # taps whose weights stay in registers


class ConvDepthwise:
    """Parameters: ry, bx, bc (rows, columns and channels of a program), warps."""

    name = "conv_depthwise"

    def applies(self, region: Region, machine: Gpu) -> str:
        reason = conv_reason(region, mean=True)
        if reason:
            return reason
        c = conv_of(region)
        if c.cg != 1 or c.groups == 1:
            return "not depthwise"
        if len(c.kernel) > 2:
            return "three spatial dimensions"
        if c.taps > 64:
            return "more than 64 taps"
        if region.compute == "f8" and not machine.has_fp8:
            return f"{machine.arch} has no 8-bit floats"
        return ""

    def space(self, region: Region, machine: Gpu, threads: int) -> Iterable[Params]:
        c = planar(conv_of(region))
        rows, columns = (max(1, optimum(region, d)) for d in c.out)
        channels = c.groups * c.og
        most = 40 if c.taps <= KEPT else 28  # sums of a thread
        found = []
        for ry in (1, 2, 4, 7, 8):
            for bx in (1, 2, 4, 8, 16, 32):
                for bc in (8, 16, 32, 64, 128, 256):
                    for warps in (1, 2, 4, 8):
                        each = bx * bc / (32 * warps)
                        if ry > max(1, rows) or bx >= 2 * columns or bc >= 2 * channels or not 2 <= each <= 16:
                            continue
                        if each * ry > most or bc * region.inputs[0].dtype.size < 32 <= channels:
                            continue
                        found.append({"ry": ry, "bx": bx, "bc": bc, "warps": warps})
        found = found or [{"ry": 1, "bx": 4, "bc": 16, "warps": 1}]
        found.sort(key=lambda q: self.cost(region, q, machine, threads))
        of_rows: dict[int, list[Params]] = {}
        for q in found:
            of_rows.setdefault(q["ry"], []).append(q)
        first = [q for some in of_rows.values() for q in _unlike(some)][:12]  # two for each number of rows
        return [*first, *(q for q in found if q not in first)][:24]

    def cost(self, region: Region, params: Params, machine: Gpu, threads: int) -> float:
        """Seconds: each program's loads from the caches, in waves; at least what the memory takes."""
        c = planar(conv_of(region))
        ry, bx, bc, warps = (params[k] for k in ("ry", "bx", "bc", "warps"))
        sms = machine.multiprocessors or 132
        rows, columns = (max(1, optimum(region, d)) for d in c.out)
        programs = max(1, optimum(region, c.n)) * -(-rows // ry) * -(-columns // bx) * -(-c.groups * c.og // bc)
        loads = len(_rows(c, ry)) * c.kernel[1]
        size = region.inputs[0].dtype.size
        step = bx * bc * size * loads / 100e9 + bx * bc * ry * c.taps / 150e9 + loads * 4e-9 / min(4, warps)
        together = max(1, min(16, 32 // warps))
        busy = -(-programs // sms)
        memory = sum(t.dtype.size * optimum(region, product(t.shape)) for t in (*region.inputs, region.output))
        start = LAUNCH * (2 if region.extra_outputs and _tiles(c, params) != 1 else 1)
        return start + max(busy * step + 0.8e-6 * -(-busy // together), memory / (machine.bandwidth or 3e12))

    def implement(self, region: Region, params: Params, machine: Gpu, threads: int) -> Implementation:
        packs = (_pack(region),) if region.inputs[1].const else ()
        first, c = _kernel(region, params, machine), planar(conv_of(region))
        tiles = _tiles(c, params)
        if not region.extra_outputs or tiles == 1:
            return Implementation((first,), packs)
        return Implementation((first, _mean_step(region, tiles, machine)), packs, c.n * tiles * (c.groups * c.og * 4))


def _unlike(found: list[Params]) -> list[Params]:
    """The first setting, and the first whose programs have another shape."""
    other = next((q for q in found if q["bc"] != found[0]["bc"]), None)
    return found[:1] if other is None else [found[0], other]


def planar(c: Conv) -> Conv:
    """The loops with two spatial dimensions."""
    if len(c.kernel) == 2:
        return c
    return replace(c, spatial=(1, *c.spatial), out=(1, *c.out), kernel=(1, *c.kernel), strides=(1, *c.strides),
                   dilations=(1, *c.dilations), pads=(0, *c.pads), ends=(0, *c.ends))


def _tiles(c: Conv, params: Params) -> Dim:
    """Programs that share an image's pixels of a channel."""
    return ceildiv(c.out[0], params["ry"]) * ceildiv(c.out[1], params["bx"])


def _rows(c: Conv, ry: int) -> dict[int, list[tuple[int, int]]]:
    """For each input row, counted from the first that is met, the (output row, tap) that it is for."""
    out: dict[int, list[tuple[int, int]]] = {}
    for r in range(ry):
        for t in range(c.kernel[0]):
            out.setdefault(r * c.strides[0] + t * c.dilations[0], []).append((r, t))
    return dict(sorted(out.items()))


def _weight_type(region: Region) -> DType:
    """How packed weights lie: as they are where that is narrow, else as the sums."""
    p = product_of(region)
    return p.operand if p.operand in (DType.F16, DType.BF16, DType.F64) else p.sums


def _pack(region: Region) -> Pack:
    """The weights as [taps, channels]."""
    c, p, kind = conv_of(region), product_of(region), _weight_type(region)
    return Pack((1,), lambda w: np.ascontiguousarray(
        w.astype(p.np).astype(kind.np).reshape(c.groups * c.og, c.taps).T))


def _kernel(region: Region, params: Params, machine: Gpu) -> Step:
    region, flat = with_bias(region), conv_of(region)
    c, p = planar(flat), product_of(region)
    ry, bx, bc = params["ry"], params["bx"], params["bc"]
    s = Source("conv_depthwise", machine.has_fp8)
    x, w = region.inputs[0], region.inputs[1]
    channels = c.groups * c.og
    px = s.pointer(In(0), x.dtype, x.aligned)
    pw = s.pointer(Packed(0), _weight_type(region)) if w.const else s.pointer(In(1), w.dtype, w.aligned)
    sums, one_row = f"tl.{REGISTER[p.sums]}", len(flat.kernel) == 1
    strides = (x.strides[0], 0, *x.strides[1:]) if one_row else x.strides
    (height, width), (out_y, out_x) = (tuple(map(s.integer, d)) for d in (c.spatial, c.out))
    n_blocks: Dim = -(-channels // bc)
    x_blocks, y_blocks = ceildiv(c.out[1], bx), ceildiv(c.out[0], ry)

    tiles = _tiles(c, params)
    s.line("pid = tl.program_id(0)" + (".to(tl.int64)" if is_wide(region, c.n * tiles * channels) else ""))
    s.line(f"channel = pid % {n_blocks} * {bc} + tl.arange(0, {bc})")
    s.line(f"left = pid // {n_blocks}")
    s.line(f"ox = left % {s.integer(x_blocks)} * {bx} + tl.arange(0, {bx})")
    s.line(f"left = left // {s.integer(x_blocks)}")
    s.line(f"y = left % {s.integer(y_blocks)} * {ry}")
    s.line(f"n = left // {s.integer(y_blocks)}")
    inside = channels % bc != 0
    if inside:
        s.line(f"some = (channel < {channels})[None, :]")
    source = f"channel // {c.og}" if c.og > 1 else "channel"
    s.line(f"near = ({times(s, source, strides[3])})[None, :] + {times(s, 'n', strides[0])}")
    masked_x = not (c.inside(1) and isinstance(c.out[1], int) and c.out[1] % bx == 0)
    masked_y = not (c.inside(0) and isinstance(c.out[0], int) and c.out[0] % ry == 0)
    pad = int(region.attrs.get("pad_value", 0)) if region.compute == "int8" else 0
    for t in range(c.kernel[1]):
        s.line(f"x{t} = {plus(times(s, 'ox', c.strides[1]), str(t * c.dilations[1] - c.pads[1]))}")
        if masked_x:
            s.line(f"in{t} = ((x{t} >= 0) & (x{t} < {width}))[:, None]" + (" & some" if inside else ""))
    for r in range(ry):
        s.line(f"sums{r} = tl.zeros(({bx}, {bc}), {sums})")
    s.line("#: wait")
    # Triton moves as many weights as there are threads from one to another through shared memory, behind barriers for
    # each tap. Where a thread has channels of one pixel, it rather reads the weights of these itself.
    spread = bc >= 32 * params["warps"] and bx * bc <= 256 * params["warps"]
    if spread:
        s.line(f"still = tl.zeros(({bx}, 1), tl.int32)")
    weights: dict[tuple[int, int], str] = {}

    def weight(ty: int, tx: int) -> str:
        """The name of a tap's weights, [1, channels] in the type of the sums."""
        if (ty, tx) in weights and c.taps <= KEPT:
            return weights[ty, tx]
        if w.const:
            at = f"{(ty * c.kernel[1] + tx) * channels} + channel"
        else:
            steps = (*w.strides[2:],) if not one_row else (0, w.strides[2])
            at = plus(times(s, "channel", w.strides[0]), *(s.integer(st * k) for st, k in zip(steps, (ty, tx)) if k))
        kind = _weight_type(region) if w.const else w.dtype
        text = f"tl.load({pw} + ({at})[None, :]{' + still' * spread}{masked('some' if inside else '', kind)})"
        if not w.const and p.operand.is_float and w.dtype is not p.operand:
            text += f".to(tl.{REGISTER[p.operand]})"
        weights[ty, tx] = s.name_of(f"{text}.to({sums})", "w")
        return weights[ty, tx]

    for j, uses in _rows(c, ry).items():
        s.line(f"iy = y * {c.strides[0]} + {j - c.pads[0]}")
        if masked_y:
            s.line(f"there = (iy >= 0) & (iy < {height})")
        s.line(f"row = near + iy * {s.integer(strides[1])}")
        for tx in range(c.kernel[1]):
            mask = " & ".join(m for m in (f"in{tx}" if masked_x else "some" if inside else "",
                                          "there" if masked_y else "") if m)
            s.line(f"v = tl.load({px} + row + ({times(s, f'x{tx}', strides[2])})[:, None]"
                   f"{masked(mask, x.dtype)})")
            if p.operand.is_float and x.dtype is not p.operand:
                s.line(f"v = v.to(tl.{REGISTER[p.operand]})")
            s.line(f"v = v.to({sums})")
            if mask and pad:
                s.line(f"v = tl.where({mask}, v, {pad})")
            for r, ty in uses:
                s.line(f"sums{r} += v * {weight(ty, tx)}")
    writer = Writer(s, region)
    if region.extra_outputs:
        s.line(f"whole = tl.zeros(({bx}, {bc}), tl.float32)")
    for r in range(ry):
        s.line(f"oy = y + {r}")
        s.line(f"m = (n * {out_y} + oy) * {out_x} + ox")
        masks = [f"(oy < {out_y})" if not (isinstance(c.out[0], int) and c.out[0] % ry == 0) else "",
                 f"(ox < {out_x})" if not (isinstance(c.out[1], int) and c.out[1] % bx == 0) else ""]
        rows = " & ".join(m for m in masks if m)
        if rows:
            s.line(f"rows = {rows} & (ox >= 0)")
        if inside:
            s.line(f"columns = channel < {channels}")
        coords = ["n", "ox"] if one_row else ["n", "oy", "ox"]
        y = writer.write(Pixels(s, flat.lead, "m", coords), "channel", f"sums{r}", "rows" if rows else "",
                         "columns" if inside else "")
        if region.extra_outputs:
            y = f"({y}).to(tl.float32)"
            s.line(f"whole += {f'tl.where(rows[:, None], {y}, 0.0)' if rows else y}")
    if region.extra_outputs:
        s.line("whole_sum = tl.sum(whole, 0)")
        mask = f", mask=channel < {channels}" if inside else ""
        if tiles == 1:
            _write_mean(s, region, c, "n", "whole_sum", mask)
        else:
            work = s.pointer(Work(0), DType.F32)
            s.line(f"tl.store({work} + pid // {n_blocks} * {channels} + channel, whole_sum{mask})")
    return s.step(c.n * y_blocks * x_blocks * n_blocks, params["warps"], 1)


def _mean_step(region: Region, tiles: Dim, machine: Gpu) -> Step:
    """The launch that adds up the sums of an image's programs, in their order."""
    c, s = planar(conv_of(region)), Source("conv_mean", machine.has_fp8)
    channels = c.groups * c.og
    bt = min(512, power_of_two(max(1, optimum(region, tiles))))
    bc = max(16, min(64, 8192 // bt, power_of_two(channels)))
    blocks = -(-channels // bc)
    wide = is_wide(region, c.n * tiles * channels)
    s.line("pid = tl.program_id(0)" + (".to(tl.int64)" if wide else ""))
    s.line(f"n = pid // {blocks}")
    s.line(f"channel = pid % {blocks} * {bc} + tl.arange(0, {bc})")
    s.line(f"tile = tl.arange(0, {bt})")
    count = s.integer(tiles)
    s.line(f"near = {s.pointer(Work(0), DType.F32)} + n * {count} * {channels} + channel[None, :]")
    s.line(f"whole = tl.zeros(({bt}, {bc}), tl.float32)")
    uneven = channels % bc != 0
    with s.block(f"for start in range(0, {count}, {bt}):"):
        there = f"(start + tile < {count})[:, None]" + (f" & (channel < {channels})[None, :]" if uneven else "")
        s.line(f"whole += tl.load(near + (start + tile)[:, None] * {channels}, mask={there}, other=0.0)")
    s.line("whole_sum = tl.sum(whole, 0)")
    _write_mean(s, region, c, "n", "whole_sum", f", mask=channel < {channels}" if uneven else "")
    return s.step(c.n * blocks, 8 if bt * bc >= 8192 else 4, 1)


def _write_mean(s: Source, region: Region, c: Conv, n: str, total: str, mask: str) -> None:
    """Store the mean of image `n` from the sum over its pixels."""
    t, pixels = region.extra_outputs[0], s.integer(c.out[0] * c.out[1])
    out = s.pointer(Out(1), t.dtype, t.aligned)
    mean = division(total, f"(tl.full((), 0.0, tl.float32) + {pixels})")
    place = f"{out} + {n} * {s.integer(t.strides[0])} + {times(s, 'channel', t.strides[-1])}"
    s.line(f"tl.store({place}, ({mean}).to(tl.{REGISTER[t.dtype]}){mask})")
