"""Convolution and transposed convolution by definition: right for every shape, layout of weights and rank."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial

import numpy as np

from whet.ir.dtypes import DType
from whet.ir.region import Region
from whet.ir.symbolic import Dim, product
from whet.targets.base import Implementation, In, Pack, Packed, Params, Step
from whet.targets.cpu.args import NAME, Args, finish
from whet.targets.cpu.conv_common import FLOATS, Conv, conv_of, conv_reason, with_bias
from whet.targets.cpu.epilogue import compute_type, gather_value, load_value
from whet.targets.cpu.gemm_problem import opt
from whet.targets.cpu.isa import Isa
from whet.targets.cpu.llvm import Fn, IntLike, Val, vec
from whet.targets.cpu.microkernel import round_bf16
from whet.targets.cpu.packing import to_bf16
from whet.targets.cpu.pixels import PixelWriter


class ConvDirect:
    """One output pixel at a time, vectors along the output channels, in fp32 or f64. Weights may be computed at
    run time (they are gathered then).

    kind: `conv`, or `conv_transpose`, where each output pixel gathers the input pixels that reach it.
    Parameters: nv (vectors of output channels), rows (output rows per tile).
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.name = f"{kind}_direct"

    def applies(self, region: Region, machine: Isa) -> str:
        if region.kind == "conv" and region.inputs[1].const and region.inputs[0].dtype in FLOATS:
            return "other tactics do constant weights better"
        return conv_reason(region, const_weights=False, dtypes=(*FLOATS, DType.F64))

    def space(self, region: Region, machine: Isa, threads: int) -> Iterable[Params]:
        og = loops_of(region).og
        return [{"nv": nv, "rows": 1} for nv in (4, 2, 1) if nv == 1 or (nv - 1) * machine.lanes < og]

    def cost(self, region: Region, params: Params, machine: Isa, threads: int) -> float:
        """Seconds: latency of the additions, gathers of weights that are not packed."""
        c = loops_of(region)
        pixels = opt(region, product((c.n, *c.out))) * c.groups
        vectors = -(-c.og // machine.lanes)
        packed = region.inputs[1].const
        per_product = 4 / params["nv"] + 0.5 if packed else 20.0
        return float(pixels * vectors * c.depth * per_product / threads / 3e9)

    def implement(self, region: Region, params: Params, machine: Isa, threads: int) -> Implementation:
        kernel = _Direct(region, params, machine, self.kind)
        packs: tuple[Pack, ...] = ()
        if kernel.packed:
            packs = (Pack((1,), partial(_pack, groups=kernel.conv.groups, columns=kernel.columns,
                                        transposed=kernel.transposed, rounded=region.compute == "bf16",
                                        dtype="float64" if kernel.type == "double" else "float32")),)
        return Implementation((Step(kernel.kernel, kernel.args.table, kernel.tiles),), packs)


def loops_of(region: Region) -> Conv:
    """The loops of a `conv` or `conv_transpose` region (for the latter, og and cg are as the names say)."""
    if region.kind == "conv":
        return conv_of(region)
    at, x, w = region.attrs, region.inputs[0], region.inputs[1]
    r, g = len(x.shape) - 2, at["group"]
    i, og, *kernel = (int(d) for d in w.shape)  # type: ignore[arg-type]
    return Conv(x.shape[0], x.shape[1:-1], region.output.shape[1:-1], g, i // g, og, tuple(kernel),
                tuple(at["strides"]) or (1,) * r, tuple(at["dilations"]) or (1,) * r,
                (tuple(at["pads"]) or (0,) * 2 * r)[:r])


def _pack(w: np.ndarray, groups: int, columns: int, transposed: bool, rounded: bool, dtype: str) -> np.ndarray:
    """OI.. (or IO..) weights as [groups, taps, channels of a group, columns], zeros at the end."""
    w = (to_bf16(w) if rounded else w).astype(dtype)
    a, b = w.shape[0] // groups, w.shape[1]
    v = w.reshape(groups, a, b, -1).transpose(0, 3, 1, 2) if transposed else \
        w.reshape(groups, a, b, -1).transpose(0, 3, 2, 1)
    out = np.zeros((*v.shape[:3], columns), dtype)
    out[..., :v.shape[3]] = v
    return out


class _Direct:
    """The kernel: tiles are (block of output rows, group)."""

    def __init__(self, region: Region, params: Params, isa: Isa, kind: str) -> None:
        self.region, self.isa, self.type = region, isa, compute_type(region.anchor.dtype)
        self.lanes = isa.lanes if self.type == "float" else isa.lanes // 2
        self.transposed = kind == "conv_transpose"
        self.conv = c = loops_of(region)
        self.nv = params["nv"]
        self.block = self.nv * self.lanes
        self.columns = -(-c.og // self.block) * self.block
        x, w = region.inputs[0], region.inputs[1]
        self.packed = w.const
        self.k = k = Fn(NAME, isa)
        self.args = args = Args(k)
        self.x, self.x_type, self.x_size = args.pointer(In(0)), x.dtype, x.dtype.size
        self.steps = [args.dim(s) * self.x_size for s in x.strides[:-1]]
        self.w = args.pointer(Packed(0) if self.packed else In(1))
        self.w_dtype, self.w_steps = w.dtype, [args.dim(s) for s in w.strides]
        self.spatial, self.out = [args.dim(d) for d in c.spatial], [args.dim(d) for d in c.out]
        self.writer = PixelWriter(k, args, region, with_bias(region))
        self.rows: Dim = c.n * product(c.out[:-1])
        block = params["rows"]
        self.tiles = (self.rows + block - 1) // block * c.groups
        count = args.dim(self.rows)
        for t in k.range(k.begin, k.end):
            g, first = t % c.groups, t // c.groups * block
            for row in k.range(first, k.min(first + block, count)):
                self._row(row, g)
        self.kernel = finish(k, f"{kind}_direct")

    def _row(self, row: Val, g: IntLike) -> None:
        k, c = self.k, self.conv
        coords: list[IntLike] = []
        rest: IntLike = row
        for size in reversed(self.out[:-1]):
            coords.append(rest % size)
            rest = rest // size
        coords = [rest, *reversed(coords)]
        src = self.x + coords[0] * self.steps[0] + g * (c.cg * self.x_size)
        for ow in k.range(0, self.out[-1]):
            at = self.writer.at([*coords, ow])
            for o in k.range(0, c.og, self.block):
                acc = [k.var(vec(self.type, self.lanes), 0.0) for _ in range(self.nv)]
                masks = [None if c.og % self.block == 0 else k.tail_mask(c.og - o - j * self.lanes, self.lanes)
                         for j in range(self.nv)]
                for p, taps in self._taps(src, [*coords[1:], ow], []):
                    for ci in k.range(0, c.cg):
                        v = load_value(k, self.x_type, p + ci * self.x_size)
                        if self.region.compute == "bf16" and self.x_type is not DType.BF16:
                            v = round_bf16(k, v)
                        for j, a in enumerate(acc):
                            w = self._weights(g, taps, ci, o + j * self.lanes, masks[j])
                            a.set(k.fma(k.splat(v, self.lanes), w, a.get()))
                for j, a in enumerate(acc):
                    self.writer.put([a.get()], at, g * c.og + o + j * self.lanes, masks[j])

    def _taps(self, src: Val, coords: list[IntLike], taps: list[IntLike]) -> Iterator[tuple[Val, list[IntLike]]]:
        """(address of the input pixel, tap) for every tap inside the image: loops over the dimensions left."""
        k, c, dim = self.k, self.conv, len(taps)
        if dim == len(c.kernel):
            yield src, taps
            return
        for t in k.range(0, c.kernel[dim]):
            if self.transposed:
                reach = k.i64(coords[dim] + c.pads[dim] - t * c.dilations[dim])
                i = reach // c.strides[dim]
                ok = (reach >= 0) & (i < k.i64(self.spatial[dim])) & (k.i64(i * c.strides[dim])).eq(reach)
            else:
                i = k.i64(coords[dim] * c.strides[dim] - c.pads[dim] + t * c.dilations[dim])
                ok = k.cmp("ult", i, self.spatial[dim])
            with k.if_(ok):
                yield from self._taps(src + i * self.steps[1 + dim], coords, [*taps, t])

    def _weights(self, g: IntLike, taps: list[IntLike], ci: IntLike, o: IntLike, mask: Val | None) -> Val:
        """Weights of the output channels from o on, in fp32."""
        k, c = self.k, self.conv
        if self.packed:
            flat: IntLike = 0
            for t, size in zip(taps, c.kernel, strict=True):
                flat = flat * size + t
            row = (g * c.taps + flat) * c.cg + ci
            size = 8 if self.type == "double" else 4
            at = self.w + row * (self.columns * size) + o * size
            return k.load(self.type, at, self.lanes, align=self.isa.width)
        along_i, along_o = (0, 1) if self.transposed else (1, 0)
        first = (g * c.cg + ci, o) if self.transposed else (ci, g * c.og + o)
        at = first[0] * self.w_steps[along_i] + first[1] * self.w_steps[along_o]
        for t, s in zip(taps, self.w_steps[2:], strict=True):
            at = at + t * s
        v = gather_value(k, self.w_dtype, self.w + at * self.w_dtype.size, self.w_steps[along_o], self.lanes, mask)
        return round_bf16(k, v) if self.region.compute == "bf16" else v
