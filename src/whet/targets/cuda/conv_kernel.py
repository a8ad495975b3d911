"""The text of implicit-GEMM convolution: sums[pixels, channels] over taps and input channels, by `tl.dot`.

No windows are written to memory. In *taps* order each iteration of the loop takes one tap and a block of the input
channels (the channels of a tap are padded with zero weights to whole blocks); in *flat* order taps and channels are one
dimension that is cut into blocks anywhere, which suits few channels (a first layer).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from whet.ir.region import Region
from whet.ir.symbolic import Dim, ceildiv
from whet.targets.base import Arg, In, Pack, Packed, Params, Step, Work
from whet.targets.cuda.conv_problem import Conv, code_offset, conv_of, is_wide, merged, product_of, with_bias
from whet.targets.cuda.conv_write import Pixels, Writer, masked, plus, times
from whet.targets.cuda.gpu import Gpu
from whet.targets.cuda.kernel import REGISTER, Source
from whet.targets.cuda.shapes import optimum


@dataclass(frozen=True)
class Blocks:
    """How the loops are cut. `bm` pixels by `bn` output channels, `bk` products an iteration; `split` programs share
    the sums of a tile."""

    bm: int
    bn: int
    bk: int
    warps: int
    stages: int
    split: int
    flat: bool

    @staticmethod
    def of(p: Params) -> Blocks:
        return Blocks(p["bm"], p["bn"], p["bk"], p["warps"], p["stages"], p.get("split", 1), bool(p.get("flat")))

    def iterations(self, c: Conv) -> int:
        """Of the loop over all products."""
        return -(-c.depth // self.bk) if self.flat else c.taps * -(-c.cg // self.bk)

    def tiles(self, c: Conv) -> Dim:
        """Programs for all sums."""
        return ceildiv(c.pixels, self.bm) * (c.groups * -(-c.og // self.bn) * self.split)


def depth_order(region: Region, c: Conv) -> list[int]:
    """The order of (taps.., channels) along flat products, slowest first: what lies close together comes last."""
    x, r = region.inputs[0], len(c.kernel)
    steps = [d * s if isinstance(s, int) else math.inf for d, s in zip(c.dilations, x.strides[1:-1])] + [
        x.strides[-1] if isinstance(x.strides[-1], int) else math.inf]
    return sorted(range(r + 1), key=lambda i: -steps[i])


def pack(region: Region, b: Blocks) -> Pack:
    """The weights as [groups, channels padded to bn, products padded to whole iterations]."""
    c, p = conv_of(region), product_of(region)
    order = depth_order(region, c)

    def make(w: np.ndarray) -> np.ndarray:
        v = w.astype(p.np).reshape(c.groups, c.og, c.cg, *c.kernel)
        og = -(-c.og // b.bn) * b.bn
        if b.flat:
            v = np.moveaxis(v, 2, -1)  # [g, o, taps.., c]
            v = v.transpose(0, 1, *(2 + i for i in order)).reshape(c.groups, c.og, c.depth)
            out = np.zeros((c.groups, og, b.iterations(c) * b.bk), p.np)
            out[:, :c.og, :c.depth] = v
            return out
        v = np.moveaxis(v, 2, -1).reshape(c.groups, c.og, c.taps, c.cg)
        out = np.zeros((c.groups, og, c.taps, -(-c.cg // b.bk) * b.bk), p.np)
        out[:, :c.og, :, :c.cg] = v
        return out

    return Pack((1,), make)


def correction(region: Region, b: Blocks) -> Pack:
    """What the sums over codes of u8 lack, taken as i8: 128 times the sum of each output channel's weights."""
    c = conv_of(region)

    def make(w: np.ndarray) -> np.ndarray:
        total = w.astype(np.int64).reshape(c.groups, c.og, -1).sum(2) * code_offset(region)
        out = np.zeros((c.groups, -(-c.og // b.bn) * b.bn), np.int32)
        out[:, :c.og] = total.astype(np.int32)
        return out

    return Pack((1,), make)


class Kernel:
    """One launch: the sums of a convolution, written through the epilogue, or in parts to the workspace.

    offsets: of operands' first elements in elements; packed: the index of the weights among the packed constants;
    group_step: from a group's weights to the next one's, where they are not packed and not [O, ..].
    """

    def __init__(self, region: Region, b: Blocks, machine: Gpu, offsets: Mapping[Arg, Dim] | None = None,
                 packed: int = 0, group_step: Dim | None = None) -> None:
        self.region, self.b, self.c, self.p = with_bias(region), b, conv_of(region), product_of(region)
        self.offsets = dict(offsets or {})
        self.s = s = Source("conv", machine.has_fp8)
        self.x = s.pointer(In(0), region.inputs[0].dtype, region.inputs[0].aligned)
        self.const = region.inputs[1].const
        self.w = s.pointer(Packed(packed), self.p.operand) if self.const else \
            s.pointer(In(1), region.inputs[1].dtype, region.inputs[1].aligned)
        self.packed, self.group_step = packed, group_step
        self.pixels_mask = not (isinstance(self.c.pixels, int) and self.c.pixels % b.bm == 0)
        self.columns_mask = self.c.og % b.bn != 0
        self.wide = is_wide(region, self.c.pixels * (self.c.groups * self.c.og * b.split))
        self._emit()

    def step(self) -> Step:
        return self.s.step(self.b.tiles(self.c), self.b.warps, self.b.stages)

    # -- the body --------------------------------------------------------------------------------------------------

    def _emit(self) -> None:
        s, b, c = self.s, self.b, self.c
        total = s.integer(c.pixels)
        tn = -(-c.og // b.bn)
        s.line("pid = tl.program_id(0)" + (".to(tl.int64)" if self.wide else ""))
        s.line(f"column0 = pid % {tn} * {b.bn}" if tn > 1 or self.wide else "column0 = 0")
        left = f"pid // {tn}" if tn > 1 else "pid"
        if c.groups > 1:
            s.line(f"left = {left}")
            s.line(f"group = left % {c.groups}")
            left = f"left // {c.groups}"
        if b.split > 1:
            s.line(f"tile = {left}")
            s.line(f"part = tile % {b.split}")
            left = f"tile // {b.split}"
        s.line(f"row = ({left}) * {b.bm} + tl.arange(0, {b.bm})")
        s.line(f"m = tl.minimum(row, {total} - 1)" if self.pixels_mask else "m = row")
        s.line(f"column = column0 + tl.arange(0, {b.bn})")
        pixels = Pixels(s, c.lead, "m")
        self._sums(pixels)
        if self.pixels_mask:
            s.line(f"rows = row < {total}")
        if self.columns_mask:
            s.line(f"columns = column < {c.og}")
        rows, columns = "rows" if self.pixels_mask else "", "columns" if self.columns_mask else ""
        if self.const and code_offset(self.region):
            fix = s.pointer(Packed(self.packed + 1), self.p.sums)
            group = f"group * {tn * b.bn} + " if c.groups > 1 else ""
            once = " * (part == 0).to(tl.int32)" if b.split > 1 else ""
            s.line(f"sums += tl.load({fix} + {group}column)[None, :]{once}")
        if c.groups > 1:
            s.line(f"column += group * {c.og}")
        if b.split == 1:
            Writer(s, self.region, self.offsets).write(pixels, "column", "sums", rows, columns)
            return
        work = s.pointer(Work(0), self.p.sums)
        mask = " & ".join(x for x in (rows and "rows[:, None]", columns and "columns[None, :]") if x)
        s.line(f"tl.store({work} + (part * {total} + m)[:, None] * {c.groups * c.og} + column[None, :], sums"
               f"{f', mask={mask}' if mask else ''})")

    def _sums(self, pixels: Pixels) -> None:
        s, b, c = self.s, self.b, self.c
        x = self.region.inputs[0]
        group = f"group * {c.cg} * {s.integer(x.strides[-1])}" if c.groups > 1 else ""
        first = self.offsets.get(In(0), 0)
        start = plus(group, s.integer(first) if first != 0 else "")
        if start:
            s.line(f"{self.x} += {start}")
        self.near = self._windows(pixels)
        s.line(f"k = tl.arange(0, {b.bk})" + (".to(tl.int64)" if self.wide else ""))
        n = b.iterations(c)
        s.line(f"sums = tl.zeros(({b.bm}, {b.bn}), tl.{REGISTER[self.p.sums]})")
        self._begin(n)
        if n == 0:  # a transposed convolution's pixels that no tap meets
            return
        assert n % b.split == 0, "programs that share a tile's products take equal parts"
        with s.block(f"for {'i' if b.split == 1 else 'j'} in range({n // b.split}):"):
            if b.split > 1:
                s.line(f"i = part * {n // b.split} + j")
            a, mask = self._flat() if b.flat else self._taps()
            pad = int(self.region.attrs.get("pad_value", 0)) if self.region.compute == "int8" else 0
            s.line(f"a = tl.load({a}{masked(mask, self.region.inputs[0].dtype)})")
            if mask and pad:
                s.line(f"a = tl.where({mask}, a, tl.full((), {pad}, a.dtype))")
            self._weights(n)
            self._dot()

    def _begin(self, iterations: int) -> None:
        """Where a kernel that is launched early waits; before that it asks for its weights, the first ones first."""
        s, b, c = self.s, self.b, self.c
        pixels = optimum(self.region, c.pixels)
        programs = -(-pixels // b.bm)  # that read the same weights
        most = 4096 if programs <= 2 else 1024 if programs <= 16 else 0
        size = self.p.operand.size
        span = iterations // b.split * b.bk
        lines = -(-span * size // 128)
        if self.const and lines and most:
            rows = min(most, 1 << (lines * b.bn - 1).bit_length())
            depth = iterations * b.bk
            group = f"group * {-(-c.og // b.bn) * b.bn * depth} + " if c.groups > 1 else ""
            part = f"part * {span} + " if b.split > 1 else ""
            s.line(f"#: line = tl.arange(0, {rows})")
            s.line(f"#: ahead = {self.w} + {group}{part}(column0 + line % {b.bn}) * {depth} + "
                   f"tl.minimum(line // {b.bn}, {lines - 1}) * {128 // size}")
            s.line('#: tl.inline_asm_elementwise("prefetch.global.L2 [$1]; // $0", "=r,l", [ahead], dtype=tl.int32, '
                   'is_pure=False, pack=1)')
        s.line("#: wait")

    def _windows(self, pixels: Pixels) -> str:
        """Each pixel's window: text of the offset of its first element; its place `at<i>` along the dimensions that
        may leave the input."""
        s, c, x = self.s, self.c, self.region.inputs[0]
        lead = x.strides[:-1]
        if c.plain and merged(c.lead, lead) is not None:
            s.line(f"near = {pixels.offset(lead) or 'm * 0'}")
            return "near"
        n, *at = pixels.coords
        parts = [times(s, n, lead[0]) if n else ""]
        for i, (o, st, p) in enumerate(zip(at, c.strides, c.pads, strict=True)):
            text = times(s, o, st) if o else ""
            text = plus(text, str(-p) if p else "") or "0"
            if not c.inside(i):
                s.line(f"at{i} = {text}" if o else f"at{i} = {text} + m * 0")
                text = f"at{i}"
            if text != "0":
                parts.append(f"({text}) * {s.integer(lead[1 + i])}")
        s.line(f"near = {plus(*parts) or 'm * 0'} + m * 0" if not any(pixels.coords) else f"near = {plus(*parts)}")
        return "near"

    def _tap_names(self, tap: str, extents: tuple[int, ...]) -> list[str]:
        """Coordinates of a flat tap; "" where there is one only."""
        found, left = [], tap
        todo = [i for i, k in enumerate(extents) if k > 1]
        for i in reversed(range(len(extents))):
            if extents[i] == 1:
                found.append("")
            elif i == todo[0]:
                found.append(left)
            else:
                found.append(self.s.name_of(f"{left} % {extents[i]}", "t"))
                left = self.s.name_of(f"{left} // {extents[i]}", "u")
        return found[::-1]

    def _taps(self) -> tuple[str, str]:
        """Address and mask of a block of x: one tap, `bk` channels."""
        s, b, c = self.s, self.b, self.c
        x = self.region.inputs[0]
        per = -(-c.cg // b.bk)
        taps: list[str] = [""] * len(c.kernel)
        if c.taps > 1:
            s.line(f"tap = i // {per}" if per > 1 else "tap = i")
            taps = self._tap_names("tap", c.kernel)
        channel = f"(i % {per}) * {b.bk} + k" if c.taps > 1 and per > 1 else f"i * {b.bk} + k" if per > 1 else "k"
        s.line(f"channel = {channel}")
        masks, shift = self._place(taps, "", "[:, None]")
        if c.cg % b.bk:
            masks.append(f"(channel < {c.cg})[None, :]")
        channels = times(s, "channel", x.strides[-1])
        return f"{self.x} + ({plus(self.near, shift)})[:, None] + ({channels})[None, :]", " & ".join(masks)

    def _flat(self) -> tuple[str, str]:
        """Address and mask of a block of x: `bk` products, whichever taps and channels they are of."""
        s, b, c = self.s, self.b, self.c
        x = self.region.inputs[0]
        s.line(f"depth = i * {b.bk} + k")
        order = depth_order(self.region, c)
        extents = (*c.kernel, c.cg)
        names = self._tap_names("depth", tuple(extents[i] for i in order))
        where = dict(zip(order, names, strict=True))
        taps = [where[i] for i in range(len(c.kernel))]
        masks, shift = self._place(taps, "[None, :]", "")
        if c.depth % b.bk:
            masks.append(f"(depth < {c.depth})[None, :]")
        channel = where[len(c.kernel)]
        inner = plus(shift, times(s, channel, x.strides[-1]) if channel else "") or "k * 0"
        return f"{self.x} + {self.near}[:, None] + ({inner})[None, :]", " & ".join(masks)

    def _place(self, taps: list[str], across: str, down: str) -> tuple[list[str], str]:
        """Masks of the pixels that a tap meets, and text of its shift in x.

        across, down: how taps (if they are vectors) and the masks (if the taps are numbers) become tiles.
        """
        s, c, x = self.s, self.c, self.region.inputs[0]
        masks, shifts = [], []
        for i, (t, d) in enumerate(zip(taps, c.dilations, strict=True)):
            step = times(s, t, d) if t else ""
            if t:
                shifts.append(times(s, t, x.strides[1 + i] * d))
            if not c.inside(i):
                at = f"at{i}[:, None]" if across else f"at{i}"
                y = s.name_of(plus(at, f"({step}){across}" if step else ""), "y")
                masks.append(f"(({y} >= 0) & ({y} < {s.integer(c.spatial[i])})){down}")
        return masks, plus(*shifts)

    def _weights(self, iterations: int) -> None:
        """Load `w`, a block [bk, bn]."""
        s, b, c = self.s, self.b, self.c
        depth = iterations * b.bk
        if self.const:
            tn = -(-c.og // b.bn)
            group = f"group * {tn * b.bn * depth} + " if c.groups > 1 else ""
            s.line(f"w = tl.load({self.w} + ({group}column * {depth})[None, :] + (i * {b.bk} + k)[:, None])")
            return
        t = self.region.inputs[1]
        if b.flat:
            order = depth_order(self.region, c)
            extents = (*c.kernel, c.cg)
            where = dict(zip(order, self._tap_names("depth", tuple(extents[i] for i in order)), strict=True))
            taps, channel = [where[i] for i in range(len(c.kernel))], where[len(c.kernel)]
            mask = f"(depth < {c.depth})" if c.depth % b.bk else ""
        else:
            taps = self._tap_names("tap", c.kernel) if c.taps > 1 else [""] * len(c.kernel)
            channel, mask = "channel", f"(channel < {c.cg})" if c.cg % b.bk else ""
        rows = plus(*(times(s, x, st) for x, st in zip((*taps, channel), (*t.strides[2:], t.strides[1])) if x))
        start = s.integer(first) if (first := self.offsets.get(In(1), 0)) != 0 else ""
        step = t.strides[0] * c.og if self.group_step is None else self.group_step
        start = plus(start, f"group * {s.integer(step)}" if c.groups > 1 else "")
        masks = [f"{mask}[:, None]" if mask else "", f"(column < {c.og})[None, :]" if self.columns_mask else ""]
        both = " & ".join(x for x in masks if x)
        s.line(f"w = tl.load({plus(self.w, start)} + ({times(s, 'column', t.strides[0])})[None, :] + "
               f"({rows or '0'} + k * 0)[:, None]{masked(both, t.dtype)})")

    def _dot(self) -> None:
        s, p, b = self.s, self.p, self.b
        if code_offset(self.region):
            s.line("a = a.to(tl.int8, bitcast=True) ^ -128")
        for name, dtype in (("a", self.region.inputs[0].dtype), ("w", self.region.inputs[1].dtype)):
            if dtype is not p.operand and not (name == "w" and self.const) and p.operand.is_float:
                s.line(f"{name} = {name}.to(tl.{REGISTER[p.operand]})")
        precision = f', input_precision="{p.precision}"' if p.precision else ""
        limit = f", max_num_imprecise_acc={b.bk}" if p.operand.is_storage else ""
        s.line(f"sums = tl.dot(a, w, sums{precision}{limit}, out_dtype=tl.{REGISTER[p.sums]})")


def reduction(region: Region, b: Blocks, machine: Gpu, offsets: Mapping[Arg, Dim] | None = None) -> Step:
    """The launch that sums up the parts of a split convolution and applies the epilogue."""
    region = with_bias(region)
    c, p, s = conv_of(region), product_of(region), Source("conv_sum", machine.has_fp8)
    channels, total = c.groups * c.og, s.integer(c.pixels)
    bn = min(128, 1 << max(3, (channels - 1).bit_length()))
    bm = max(1, 512 // bn)
    tn = -(-channels // bn)
    wide = is_wide(region, c.pixels * (channels * b.split))
    s.line("pid = tl.program_id(0)" + (".to(tl.int64)" if wide else ""))
    s.line(f"row = pid // {tn} * {bm} + tl.arange(0, {bm})")
    s.line(f"m = tl.minimum(row, {total} - 1)")
    s.line(f"rows = row < {total}")
    s.line(f"column = pid % {tn} * {bn} + tl.arange(0, {bn})")
    uneven = channels % bn != 0
    if uneven:
        s.line(f"columns = column < {channels}")
    work = s.pointer(Work(0), p.sums)
    s.line(f"at = {work} + m[:, None] * {channels} + column[None, :]")
    mask = masked("columns[None, :]" if uneven else "", p.sums)
    s.line(f"sums = tl.zeros(({bm}, {bn}), tl.{REGISTER[p.sums]})")
    with s.block(f"for i in tl.static_range({b.split}):"):
        s.line(f"sums += tl.load(at{mask})")
        s.line(f"at += {s.integer(c.pixels * channels, wide=wide)}")
    Writer(s, region, offsets).write(Pixels(s, c.lead, "m"), "column", "sums", "rows", "columns" if uneven else "")
    return s.step(ceildiv(c.pixels, bm) * tn, 4 if bm * bn >= 512 else 1)
