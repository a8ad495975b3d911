"""Products by weights of 8, 4 or 2 bits in groups of rows: codes are widened in registers.

Codes are packed along the depth, `per` to a byte: byte j of a chunk holds the codes of rows j, H + j, 2 H + j... of it,
the first in the lowest bits, so that each part of a byte meets a stretch of H activations. Signed codes are stored plus
half their range; what is taken off them (that, and the zero point) lies beside the scales in f16, which holds it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from whet.ir.dtypes import DType
from whet.ir.region import Region
from whet.ir.symbolic import ceildiv, product
from whet.targets.base import Implementation, Pack, Packed, Params
from whet.targets.cuda.gpu import Gpu
from whet.targets.cuda.kernel import REGISTER
from whet.targets.cuda.matmul_emit import Body
from whet.targets.cuda.matmul_problem import Problem, Products, problem, products
from whet.targets.cuda.matmul_space import LATENCY, LAUNCH
from whet.targets.cuda.shapes import is_long, optimum

CODES = (DType.I8, DType.U8, DType.I4, DType.U4, DType.I2, DType.U2)
MOST_ROWS = 4  # without tensor cores


@dataclass(frozen=True)
class Codes:
    """Weights [depth, n] in groups of rows. stretch: H, rows that one part of a chunk's bytes holds; chunks: of them,
    padded; zeros: each group has zero points; deep: bytes of a column lie together, else those of a row."""

    depth: int
    n: int
    group: int
    bits: int
    half: int
    zeros: bool
    stretch: int
    chunks: int
    deep: bool

    @property
    def per(self) -> int:
        """Codes in a byte."""
        return 8 // self.bits

    @property
    def groups(self) -> int:
        return -(-self.depth // self.group)

    @property
    def even(self) -> bool:
        """True where a stretch never crosses from one group to the next."""
        return self.group % self.stretch == 0

    @property
    def exact(self) -> bool:
        """True where no row is padding."""
        return self.chunks * self.stretch * self.per == self.depth

    def pack(self, q: np.ndarray) -> np.ndarray:
        """q [depth, n] as bytes [chunks * stretch, n], or [n, chunks * stretch] where `deep`."""
        codes = (q.astype(np.int16) + self.half).astype(np.uint8)
        rows = self.chunks * self.stretch * self.per
        codes = np.pad(codes, [(0, rows - self.depth), (0, 0)])
        parts = codes.reshape(self.chunks, self.per, self.stretch, -1)
        joined = np.zeros((self.chunks, self.stretch, codes.shape[1]), np.uint8)
        for i in range(self.per):
            joined |= parts[:, i] << (self.bits * i)
        return self.order(joined.reshape(self.chunks * self.stretch, -1))

    def pack_zeros(self, zero: np.ndarray) -> np.ndarray:
        """What is taken off a group's codes as f16: [groups, n], or [n, groups] where `deep`."""
        return self.order((zero.astype(np.int16) + self.half).astype(np.float16))

    def order(self, a: np.ndarray) -> np.ndarray:
        """[rows, n] as it lies."""
        return np.ascontiguousarray(a.T if self.deep else a)


def codes_of(region: Region, most: int, chunks: int, deep: bool) -> Codes:
    """The weights of a region. most: the longest stretch; chunks: they are padded to a multiple of that."""
    q = region.inputs[1]
    depth, n, group = int(q.shape[0]), int(q.shape[1]), int(region.attrs["group"])  # type: ignore[arg-type]
    bits = q.dtype.bits
    stretch = next((h for h in (128, 64, 32, 16) if h <= most and group % h == 0), min(32, most))
    count = -(-depth // (stretch * 8 // bits))
    half = 1 << (bits - 1) if q.dtype in (DType.I8, DType.I4, DType.I2) else 0
    return Codes(depth, n, group, bits, half, region.n_anchor > 3, stretch, -(-count // chunks) * chunks, deep)


def reason(region: Region) -> str:
    """Why no kernel takes the region; "" if one may."""
    if not all(t.const for t in region.inputs[1 : region.n_anchor]):
        return "the weights are not constants"
    if region.prologue:
        return "operands are computed on load"
    if region.inputs[0].dtype not in (DType.F32, DType.F16, DType.BF16):
        return f"activations of {region.inputs[0].dtype.value}"
    return "the output has another shape than the product" if region.output.shape != region.anchor.shape else ""


class _Weights:
    """The packed weights inside a kernel."""

    def __init__(self, body: Body, codes: Codes) -> None:
        self.body, self.codes, s = body, codes, body.s
        self.bytes, self.scale = s.pointer(Packed(0), DType.U8), s.pointer(Packed(1), DType.F32)
        self.zero = s.pointer(Packed(2), DType.F16) if codes.zeros else ""

    def packs(self) -> tuple[Pack, ...]:
        c = self.codes
        packs = (Pack((1,), c.pack), Pack((2,), partial(_scales, codes=c)))
        return (*packs, Pack((3,), c.pack_zeros)) if c.zeros else packs

    def load(self, rows: str, columns: str, mask: str) -> str:
        """Bytes at rows of the packed codes."""
        c, rows = self.codes, self.body.wide(rows)
        place = f"{columns} * {c.chunks * c.stretch} + {rows}" if c.deep else f"{rows} * {c.n} + {columns}"
        text = f"{self.bytes} + {place}"
        return self.body.s.name_of(f"tl.load({text}, mask={mask}, other=0)" if mask else f"tl.load({text})", "bytes")

    def part(self, loaded: str, i: int, k: str, columns: str, mask: str) -> tuple[str, str]:
        """(codes less their zero points, scales) of part i of the bytes in f32; k: their rows, or where a stretch lies
        in a group, its first."""
        c, s = self.codes, self.body.s
        field = loaded if c.bits == 8 else f"(({loaded} >> {c.bits * i}) & {(1 << c.bits) - 1})"
        code = s.name_of(f"{field}.to(tl.float32)", "code")
        group = s.name_of(f"tl.minimum({k} // {c.group}, {c.groups - 1})", "group")
        place = f"{columns} * {c.groups} + {group}" if c.deep else f"{group} * {c.n} + {columns}"
        hidden = f", mask={mask}, other=0.0" if mask else ""
        scale = s.name_of(f"tl.load({self.scale} + {place}{hidden})", "scale")
        if c.zeros:
            code = s.name_of(f"{code} - tl.load({self.zero} + {place}{hidden}).to(tl.float32)", "code")
        elif c.half:
            code = s.name_of(f"{code} - {float(c.half)}", "code")
        return code, scale


def _scales(scale: np.ndarray, codes: Codes) -> np.ndarray:
    return codes.order(scale.astype(np.float32))


class GroupedTiles:
    """C = act(A @ W) on tensor cores, a tile per program. Parameters: bm, bn, stretch (the most), warps, stages."""

    name = "grouped_tiles"

    def applies(self, region: Region, machine: Gpu) -> str:
        return reason(region)

    def space(self, region: Region, machine: Gpu, threads: int) -> Iterable[Params]:
        p = problem(region)
        m = optimum(region, p.m)
        found: list[Params] = []
        for bm, bn, warps in ((16, 16, 2), (16, 32, 4), (16, 64, 4), (16, 128, 4), (32, 32, 4), (32, 64, 4),
                              (64, 64, 4), (64, 128, 4), (128, 64, 4), (128, 128, 8)):
            if bm <= 16 or bm < 2 * m:
                for stretch, stages in ((64, 3), (32, 4), (128, 3)):
                    if stretch <= codes_of(region, stretch, 1, False).stretch:
                        found.append({"bm": bm, "bn": bn, "stretch": stretch, "warps": warps, "stages": stages})
        found.sort(key=lambda q: self.cost(region, q, machine, threads))
        return found[:16] or [{"bm": 16, "bn": 32, "stretch": 32, "warps": 4, "stages": 3}]

    def cost(self, region: Region, params: Params, machine: Gpu, threads: int) -> float:
        p, how = problem(region), products(region)
        m, n, k = (max(1, optimum(region, d)) for d in (p.m, p.n, p.k))
        bm, bn = params["bm"], params["bn"]
        programs = -(-m // bm) * -(-n // bn) * max(1, optimum(region, product(p.batch)))
        sms = machine.multiprocessors or 132
        rate = 1.7e11 if how.operand is DType.F32 else 1.5e12
        widening = 8.0 * bn * k / 2.2e11  # of each program: instructions per code
        program = 2.0 * bm * bn * k / 2 / rate + widening + k / params["stretch"] * LATENCY / params["stages"]
        memory = n * k * region.inputs[1].dtype.bits / 8 / (machine.bandwidth or 3e12)
        return LAUNCH + max(-(-programs // sms) * program, memory)

    def implement(self, region: Region, params: Params, machine: Gpu, threads: int) -> Implementation:
        p, how = problem(region), products(region)
        c = codes_of(region, params["stretch"], 1, False)
        if not c.even:
            how = Products(DType.F32, DType.F32)
        p = replace(p, wide=p.wide or is_long(c.depth * c.n))
        bm, bn, h = params["bm"], params["bn"], c.stretch
        body = Body("matmul_grouped", region, p, how, machine)
        s, w = body.s, _Weights(body, c)
        body.tile("tl.program_id(0)", bm, bn, 8)
        body.indices(bm, bn)
        body.enter("aeo")
        body.wait()
        s.line(f"rk = tl.arange(0, {h})\nacc = tl.zeros(({bm}, {bn}), tl.float32)")
        mask = body.n_mask(bn)
        with s.block(f"for chunk in tl.range(0, {c.chunks}):"):
            s.line(f"k = chunk * {c.per * h}")
            loaded = w.load(f"(chunk * {h} + rk[:, None])", "rn[None, :]", mask)
            for i in range(c.per):
                deep = f"(k + {i * h} + rk[None, :])"
                a = body.operand("a", "rm[:, None]", deep, body.m_mask(bm),
                                 "" if c.exact else f"({deep} < {c.depth})", f"({bm}, {h})")
                first = f"(k + {i * h})" if c.even else f"(k + {i * h} + rk[:, None])"
                code, scale = w.part(loaded, i, first, "rn[None, :]", mask)
                precision = ', input_precision="ieee"' if how.operand is DType.F32 else ""
                if c.even:  # codes are exact in 16 bits, where weights would be rounded
                    s.line(f"acc += tl.dot({a.value()}, {code}.to(tl.{REGISTER[how.operand]}){precision}) * {scale}")
                else:
                    s.line(f"acc = tl.dot({a.value()}, {code} * {scale}, acc{precision})")
        body.finish("acc", "rm[:, None]", "rn[None, :]", body.m_mask(bm), mask)
        count = ceildiv(p.m, bm) * ceildiv(p.n, bn) * product(p.batch)
        return Implementation((s.step(count, params["warps"], params["stages"]),), w.packs())


class GroupedRows:
    """C = act(A @ W) for very few rows, limited by how fast codes are read. Parameters: rows of A, bn columns and
    `chunks` of the depth at a time, warps."""

    name = "grouped_rows"

    def applies(self, region: Region, machine: Gpu) -> str:
        if optimum(region, problem(region).m) > MOST_ROWS:
            return f"more than {MOST_ROWS} rows"
        return reason(region)

    def space(self, region: Region, machine: Gpu, threads: int) -> Iterable[Params]:
        p = problem(region)
        rows = 1 << (min(max(1, optimum(region, p.m)), MOST_ROWS) - 1).bit_length()
        whole = codes_of(region, 128, 1, True)
        found: list[Params] = []
        for bn in (1, 2, 4, 8, 16, 32):
            for chunks in (1, 2, 4, 8, 16):
                for warps in (1, 2, 4):
                    each = bn * chunks * whole.stretch // (32 * warps)
                    if 4 <= each <= 32 // rows * 2 and chunks < 2 * whole.chunks:
                        found.append({"rows": rows, "bn": bn, "chunks": chunks, "warps": warps})
        found.sort(key=lambda q: self.cost(region, q, machine, threads))
        return found[:16] or [{"rows": rows, "bn": 4, "chunks": 1, "warps": 1}]

    def cost(self, region: Region, params: Params, machine: Gpu, threads: int) -> float:
        p = problem(region)
        m, n, k = (max(1, optimum(region, d)) for d in (p.m, p.n, p.k))
        blocks = -(-m // params["rows"]) * max(1, optimum(region, product(p.batch)))
        programs, sms = -(-n // params["bn"]) * blocks, machine.multiprocessors or 132
        c = codes_of(region, 128, params["chunks"], True)
        rounds = -(-programs // (sms * max(1, 32 // params["warps"])))
        busy = min(1.0, programs * params["warps"] / (sms * 16))
        memory = n * k * c.bits / 8 * blocks / (machine.bandwidth or 3e12)
        arithmetic = (6.0 + 2 * params["rows"]) * n * k * blocks / (sms * 2.2e11)
        return LAUNCH + rounds * c.chunks / params["chunks"] * LATENCY + max(memory, arithmetic) / busy

    def implement(self, region: Region, params: Params, machine: Gpu, threads: int) -> Implementation:
        rows, bn, r = params["rows"], params["bn"], params["chunks"]
        p, how = problem(region), Products(DType.F32, DType.F32, dot=False)
        c = codes_of(region, 128, r, True)
        p = replace(p, wide=p.wide or is_long(c.depth * c.n))
        h = c.stretch
        body = Body("matmul_grouped_rows", region, p, how, machine)
        s, w = body.s, _Weights(body, c)
        body.tile("tl.program_id(0)", rows, bn, 1)
        s.line(f"rn = {body.wide(f'pn * {bn}')} + tl.arange(0, {bn})\nnn = rn[:, None, None]")
        s.line(f"rr = tl.arange(0, {r})[None, :, None]\njj = tl.arange(0, {h})[None, None, :]")
        first = "0" if p.m == 1 else s.name_of(body.wide(f"pm * {rows}"), "row")
        body.enter("aeo")
        body.wait()
        mask = body.n_mask(bn, "nn")
        places = [_row(body, p, first, i) for i in range(1 if p.m == 1 else rows)]
        sums = [s.name_of(f"tl.zeros(({bn}, {r}, {h}), tl.float32)", "acc") for _ in places]
        with s.block(f"for chunk in tl.range(0, {c.chunks}, {r}):"):
            loaded = w.load(f"((chunk + rr) * {h} + jj)", "nn", mask)
            for i in range(c.per):
                start = s.name_of(f"((chunk + rr) * {c.per} + {i}) * {h}", "start")
                deep = s.name_of(f"{start} + jj", "k")
                code, scale = w.part(loaded, i, start if c.even else deep, "nn", mask)
                b = s.name_of(f"{code} * {scale}", "w")
                for acc, (row, row_mask) in zip(sums, places):
                    a = body.operand("a", row, deep, row_mask, "" if c.exact else f"({deep} < {c.depth})",
                                     f"(1, {r}, {h})")
                    s.line(f"{acc} += {b} * {a.value()}")
        for acc, (row, row_mask) in zip(sums, places):
            total = s.name_of(f"tl.sum(tl.sum({acc}, 2), 1)", "total")
            body.finish(total, row, "rn", row_mask, body.n_mask(bn, "rn"))
        count = ceildiv(p.m, rows) * ceildiv(p.n, bn) * product(p.batch)
        return Implementation((s.step(count, params["warps"], 2),), w.packs())


def _row(body: Body, p: Problem, first: str, i: int) -> tuple[str, str]:
    """The index of a program's i-th row, and whether it exists."""
    row = f"({first} + {i})" if i else first
    return row, "" if p.m == 1 else f"({row} < {body.number(p.m)})"
