"""Products of many rows by weights of a few bits: each tile widens its panels once, then multiplies as if dense."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from whet.ir.region import Region
from whet.ir.symbolic import ceildiv, product
from whet.targets.base import Implementation, Packed, Params, Step
from whet.targets.cpu.gemm import GemmBatched
from whet.targets.cpu.gemm_emit import RowTiles
from whet.targets.cpu.gemm_kernel import Blocks, GemmKernel
from whet.targets.cpu.gemm_problem import matmul_problem, opt
from whet.targets.cpu.grouped_pack import Codes, Decoder, codes_of
from whet.targets.cpu.grouped_rows import grouped_reason, weight_packs
from whet.targets.cpu.isa import Isa
from whet.targets.cpu.llvm import IntLike, Val
from whet.targets.cpu.microkernel import narrow, round_bf16

SCRATCH = 64 << 20  # bytes that a thread may use
NEAR = 1 << 20      # bytes of widened panels of a tile, unless one takes more


class GroupedPanels:
    """C = A @ W with W's panels widened to fp32, or to pairs of bf16, in scratch. Parameters: those of `_Gemm`."""

    name = "grouped_panels"

    def applies(self, region: Region, machine: Isa) -> str:
        reason = grouped_reason(region)
        if not reason and codes_of(region).depth * machine.width * 8 > SCRATCH:
            return "too deep to widen in scratch"
        return reason

    def space(self, region: Region, machine: Isa, threads: int) -> Iterable[Params]:
        found: dict[str, tuple[float, Params]] = {}
        deep = 4 * max(1, codes_of(region).depth)
        for params in GemmBatched().space(_dense(region), machine, threads):
            near = max(1, NEAR // (deep * params["nv"] * machine.lanes))  # panels that wait in the second level
            for dot in (False, True) if self._can_dot(region, machine) else (False,):
                made = {**params, "dot": dot, "pack": params["pack"] or dot, "nt": min(params["nt"], near),
                        "prefetch": 0, "ahead": False}
                found.setdefault(repr(made), (self.cost(region, made, machine, threads), made))
        return [params for _, params in sorted(found.values(), key=lambda f: f[0])[:16]]

    @staticmethod
    def _can_dot(region: Region, machine: Isa) -> bool:
        codes = codes_of(region)
        return (region.compute == "bf16" and machine.bf16_dot
                and (codes.groups <= 1 or codes.group % 2 == 0))  # else pairs of rows would be of two groups

    def cost(self, region: Region, params: Params, machine: Isa, threads: int) -> float:
        """Seconds at 3 GHz: as a batched product, whose tiles pack their panels, and what widening takes besides."""
        p, codes = matmul_problem(region), codes_of(region)
        blocks = max(1, -(-opt(region, RowTiles(p.m, params["mr"]).count) // params["mt"]))
        widened = codes.depth * opt(region, p.n) / machine.lanes * 3 * blocks * max(1, opt(region, product(p.batch)))
        return GemmBatched().cost(_dense(region), params, machine, threads) + widened / threads / 3e9

    def implement(self, region: Region, params: Params, machine: Isa, threads: int) -> Implementation:
        p, codes = matmul_problem(region), codes_of(region)
        nr = params["nv"] * machine.lanes
        blocks = Blocks(RowTiles(p.m, params["mr"]), ceildiv(p.n, nr), params["mt"], params["nt"], product(p.batch),
                        params["order"] == "mn")
        made = _Panels(region, codes, blocks, params, machine)
        return Implementation((Step(made.kernel, made.args.table, blocks.tiles),), weight_packs(region, codes, nr))


def _dense(region: Region) -> Region:
    """The region as a product by weights that come at run time, which is what its tiles' work is like."""
    b = replace(region.inputs[1], dtype=region.anchor.dtype, const=False)
    return replace(region, inputs=(region.inputs[0], b, *region.inputs[2:]))


class _Panels(GemmKernel):
    """The matmul kernel whose panels of B are widened codes."""

    prefix = "grouped_panels"

    def __init__(self, region: Region, codes: Codes, blocks: Blocks, params: Params, isa: Isa) -> None:
        self.codes = codes
        super().__init__(region, matmul_problem(region), blocks, params, isa, constant=False)

    def _b_panels(self, index: list[IntLike], p0: IntLike, p1: IntLike) -> tuple[Val, IntLike]:
        k = self.k
        decoder = Decoder(k, self.codes)
        to = k.scratch + self.b_scratch
        for panel in k.range(p0, p1):
            self._widen(decoder, panel, to + (panel - p0) * self.panel_bytes)
        return to, p0

    def _widen(self, decoder: Decoder, panel: Val, to: Val) -> None:
        """A panel as [K][nr] fp32, or [ceil(K / 2)][nr][2] bf16."""
        k, codes, nr, nv = self.k, self.codes, self.nr, self.params["nv"]
        b = self.args.pointer(Packed(0)) + panel * codes.panel_bytes(nr)
        scales = self.args.pointer(Packed(1)) + panel * (codes.groups * nr * 4)
        zeros = self.args.pointer(Packed(2)) + panel * (codes.groups * nr) if codes.zeros else None
        line, step = nr * codes.size, max(codes.per, 2)
        row, first = (nr * 2 if self.dot else nr * 4), 0  # bytes of a row of the result; the span's first group
        for count, depth in codes.spans:
            for g in k.range(0, count):
                at = b + (first * codes.words(codes.group) + g * codes.words(depth)) * line
                out = to + (first * codes.group + g * depth) * row
                scale = [k.load("float", scales + (first + g) * (nr * 4) + j * k.isa.width, k.isa.lanes,
                                align=k.isa.width) for j in range(nv)]
                off = [] if zeros is None else [decoder.zeros(zeros + (first + g) * nr, j) for j in range(nv)]

                def rows(w: IntLike, many: int, at: Val = at, out: Val = out, scale: list[Val] = scale,
                         off: list[Val] = off) -> None:
                    for j in range(nv):
                        self._put(self._numbers(decoder, at + w * line, j, many, scale, off),
                                  out + w * (codes.per * row), j)

                words = step // codes.per
                whole = depth // step
                for s in k.range(0, whole):
                    rows(s * words, step)
                if depth % step:
                    rows(whole * words, depth % step)
            first += count

    def _numbers(self, decoder: Decoder, at: Val, j: int, many: int, scale: list[Val], off: list[Val]) -> list[Val]:
        """The weights of `many` rows in vector j of columns."""
        per, line = self.codes.per, self.nr * self.codes.size
        words = [decoder.load(at + i * line, j) for i in range(-(-many // per))]
        found = [decoder.value(words[i // per], i % per) for i in range(many)]
        if off:
            found = [v - off[j] for v in found]
        return [v * scale[j] for v in found]

    def _put(self, rows: list[Val], to: Val, j: int) -> None:
        k = self.k
        if not self.dot:
            for i, v in enumerate(rows):
                v = round_bf16(k, v) if self.round else v
                k.store(v, to + i * self.nr * 4 + j * k.isa.width, align=k.isa.width)
            return
        for i in range(0, len(rows), 2):
            low = k.cast("zext", narrow(k, rows[i]), "i32")
            high = k.cast("zext", narrow(k, rows[i + 1]), "i32") << 16 if i + 1 < len(rows) else k.const(low.ty, 0)
            k.store(low | high, to + i * self.nr * 2 + j * k.isa.width, align=k.isa.width)
