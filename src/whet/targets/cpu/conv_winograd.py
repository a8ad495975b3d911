"""Winograd convolution, 3 x 3 of stride 1: transform, multiply and transform back, block by block in scratch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import numpy as np

from whet.ir.region import Region
from whet.ir.symbolic import Dim, ceildiv
from whet.targets.base import Implementation, In, Pack, Packed, Params, Step
from whet.targets.cpu.args import NAME, Args, finish
from whet.targets.cpu.conv_common import conv_of, conv_reason, with_bias
from whet.targets.cpu.epilogue import load_value
from whet.targets.cpu.gemm_emit import RowTiles
from whet.targets.cpu.gemm_kernel import Blocks
from whet.targets.cpu.gemm_problem import opt
from whet.targets.cpu.isa import Isa
from whet.targets.cpu.llvm import Fn, IntLike, Val
from whet.targets.cpu.microkernel import Accumulators, Fetch, fma, shapes, strided_rows
from whet.targets.cpu.packing import pack_panels
from whet.targets.cpu.pixels import PixelWriter
from whet.targets.cpu.winograd import both_ways, transform_filters

SCRATCH = 3 << 19  # bytes of a block's transformed input and products


class ConvWinograd:
    """F(m x m, 3 x 3) in fp32. A tile of the step takes a block of Winograd tiles through all three phases for a
    block of output channels, so that nothing but its scratch lies between them. An infinity or NaN in the input
    makes NaN of all results of the Winograd tiles that read it, not only of those whose windows hold it.

    Parameters: m (2 or 4), mr, nv (micro-tile: Winograd tiles by vectors of output channels), mt, nt (micro-tiles
    and panels per tile of the step), unroll.
    """

    name = "conv_winograd"

    def applies(self, region: Region, machine: Isa) -> str:
        reason = conv_reason(region)
        if reason:
            return reason
        c = conv_of(region)
        if c.kernel != (3, 3) or c.strides != (1, 1) or c.dilations != (1, 1) or c.groups != 1:
            return "the convolution is not 3x3 with stride 1, no dilation and one group"
        if region.compute != "f32":
            return "products in bf16 lose too much in Winograd's transforms"
        return ""

    def space(self, region: Region, machine: Isa, threads: int) -> Iterable[Params]:
        c = conv_of(region)
        found: list[tuple[float, Params]] = []
        for m in (2, 4):
            total = tile_count(region, m)
            for mr, nv in shapes(machine):
                if nv > 1 and (nv - 1) * machine.lanes >= c.og:
                    continue
                rows = max(1, opt(region, RowTiles(total, mr).count))
                panels = -(-c.og // (nv * machine.lanes))
                for mt in sorted({1, 2, 3, 4, 6, 8, rows, -(-rows // 2), -(-rows // 4)}):
                    if mt > rows or (mt > 1 and mt * mr * (m + 2) ** 2 * c.cg * 4 > SCRATCH):
                        continue
                    for nt in sorted({-(-panels // d) for d in (1, 2, 4)}):
                        tiles = -(-rows // mt) * -(-panels // nt)
                        if tiles >= threads or (mt == 1 and nt == 1):
                            params = {"m": m, "mr": mr, "nv": nv, "mt": mt, "nt": nt, "unroll": 4}
                            found.append((self.cost(region, params, machine, threads), params))
        found.sort(key=lambda f: f[0])
        best = found[0][1]["m"] if found else 4
        return [params for _, params in found if params["m"] == best][:8] + \
            [params for _, params in found if params["m"] != best][:4]

    def cost(self, region: Region, params: Params, machine: Isa, threads: int) -> float:
        """Seconds: transforms, products, traffic of the transformed weights and the threads' balance."""
        c = conv_of(region)
        m, mr, nv, n2 = params["m"], params["mr"], params["nv"], (params["m"] + 2) ** 2
        total = tile_count(region, m)
        count = max(1, opt(region, total))
        nr = nv * machine.lanes
        panels, micro = -(-c.og // nr), -(-count // mr)
        rows = count / micro if isinstance(total, int) else mr
        mt, nt = min(params["mt"], micro), min(params["nt"], panels)
        row_blocks, col_blocks = -(-micro // mt), -(-panels // nt)
        blocks = max(1, row_blocks * col_blocks)
        step = max(rows * nv / 2, (rows + nv) / 2, 4.0 if rows * nv < 8 else 0)
        products = n2 * micro * panels * (c.cg * step + rows * nv + 30)
        narrow = 16 / machine.lanes if machine.registers >= 32 else 2.0
        before = count * col_blocks * (60 + -(-c.cg // machine.lanes) * n2 * (4.5 if m == 4 else 3) * narrow)
        after = count * panels * nv * (n2 * (4 if m == 4 else 3)) * narrow
        near = count * n2 * c.cg * 4 * panels / 32  # V comes again from the second level for every panel
        filters = n2 * c.cg * c.og * 4
        rounds = -(-blocks // threads) / (blocks / threads)
        busy = (products + before + after + near + (row_blocks - 1) * filters * 0.05) * rounds
        memory = filters * 0.19  # 16 GB/s, of which about half hides behind the arithmetic that there is
        return float((busy + 0.45 * memory + max(0.0, memory - busy)) / threads / 3e9)

    def implement(self, region: Region, params: Params, machine: Isa, threads: int) -> Implementation:
        kernel = _Winograd(region, params, machine)
        packs = (Pack((1,), partial(_pack, m=params["m"], nr=kernel.nr)),
                 Pack((1,), partial(_zeros, count=kernel.channels)))
        return Implementation((Step(kernel.kernel, kernel.args.table, kernel.tiles.tiles),), packs)


def tile_count(region: Region, m: int) -> Dim:
    """Winograd tiles in all: those of every image."""
    c = conv_of(region)
    return c.n * (ceildiv(c.out[0], m) * ceildiv(c.out[1], m))


def _pack(w: np.ndarray, m: int, nr: int) -> np.ndarray:
    """[O, I, 3, 3] -> [panels, (m + 2)^2, I, nr]."""
    return np.ascontiguousarray(pack_panels(transform_filters(w.astype(np.float32), m), nr).swapaxes(0, 1))


def _zeros(w: np.ndarray, count: int) -> np.ndarray:
    """A pixel outside the image."""
    return np.zeros(count, np.float32)


class _Winograd:
    """The kernel. Scratch: V [(m + 2)^2][rows][channels], then M [(m + 2)^2][rows][nr] of one panel."""

    def __init__(self, region: Region, params: Params, isa: Isa) -> None:
        self.region, self.isa, self.lanes = region, isa, isa.lanes
        self.conv = c = conv_of(region)
        self.m, self.n = params["m"], params["m"] + 2
        self.mr, self.nv, self.unroll = params["mr"], params["nv"], params["unroll"]
        self.nr = self.nv * isa.lanes
        total = tile_count(region, self.m)
        self.tiles = Blocks(RowTiles(total, self.mr), -(-c.og // self.nr), params["mt"], params["nt"], 1, True)
        rows = params["mt"] * self.mr
        if isinstance(total, int):
            rows = min(rows, total)
        self.channels = -(-c.cg // isa.lanes) * isa.lanes
        self.v_row = self.channels * 4 + 64
        self.v_plane = (-(-rows * self.v_row // 64) | 1) * 64
        self.m_row = self.nr * 4
        self.m_plane = (-(-rows * self.m_row // 64) | 1) * 64
        self.k = k = Fn(NAME, isa)
        self.args = args = Args(k)
        self.x, self.x_type = args.pointer(In(0)), region.inputs[0].dtype
        self.x_size = self.x_type.size
        self.x_steps = [args.dim(s) * self.x_size for s in region.inputs[0].strides[:-1]]
        self.u, self.zeros = args.pointer(Packed(0)), args.pointer(Packed(1))
        self.size = [args.dim(d) for d in c.spatial]
        self.out_size = [args.dim(d) for d in c.out]
        self.grid = [args.dim(ceildiv(d, self.m)) for d in c.out]
        self.total = args.dim(total)
        self.writer = PixelWriter(k, args, region, with_bias(region))
        self.products = k.scratch + self.v_plane * self.n ** 2
        self.pointers = k.local(self.n ** 2 * 8)
        for t in k.range(k.begin, k.end):
            self._tile(t)
        self.kernel = finish(k, "conv_winograd", (self.v_plane + self.m_plane) * self.n ** 2 + 64)

    def _tile(self, t: Val) -> None:
        k, tiles = self.k, self.tiles
        _, mb, nb = tiles.split(k, self.args, t)
        first = mb * tiles.mt
        last = k.min(first + tiles.mt, self.args.dim(tiles.rows.count))
        start = tiles.rows.start(k, first)
        count = k.min(tiles.rows.start(k, last), self.total) - start
        for r in k.range(0, count):
            self._transform(r, start + r)
        p0 = nb * tiles.nt
        for panel in k.range(p0, k.min(p0 + tiles.nt, self.args.dim(tiles.panels))):
            for xi in k.range(0, self.n ** 2):
                tiles.rows.emit(k, self.total, first, last, partial(self._multiply, start=start, panel=panel, xi=xi))
            for r in k.range(0, count):
                self._restore(r, start + r, panel)

    def _where(self, tile: IntLike) -> tuple[IntLike, IntLike, IntLike]:
        """(image, row, column) of a Winograd tile's first output pixel."""
        gy, gx = self.grid
        return tile // gx // gy, tile // gx % gy * self.m, tile % gx * self.m

    def _transform(self, r: IntLike, tile: IntLike) -> None:
        """V[:, r] = B^T d B for every channel; pixels outside the image are zero."""
        k, c, n = self.k, self.conv, self.n
        image, oy, ox = self._where(tile)
        y, x = k.i64(oy) - c.pads[0], k.i64(ox) - c.pads[1]
        src = self.x + image * self.x_steps[0] + y * self.x_steps[1] + x * self.x_steps[2]
        inside = (y >= 0) & (y + n <= k.i64(self.size[0])) & (x >= 0) & (x + n <= k.i64(self.size[1]))
        dst = k.scratch + r * self.v_row
        fast, slow = k.branch(inside)
        with fast:
            rows = [src + i * self.x_steps[1] for i in range(n)]
            self._channels(dst, lambda i, j: rows[i] + j * self.x_steps[2])
        with slow:
            rows_ok = [k.cmp("ult", y + i, self.size[0]) for i in range(n)]
            cols_ok = [k.cmp("ult", x + j, self.size[1]) for j in range(n)]
            for i in range(n):
                for j in range(n):
                    p = k.select(rows_ok[i] & cols_ok[j], src + i * self.x_steps[1] + j * self.x_steps[2], self.zeros)
                    k.store(p, self.pointers + (i * n + j) * 8)
            self._channels(dst, lambda i, j: k.load("ptr", self.pointers + (i * n + j) * 8))

    def _channels(self, dst: Val, address: Callable[[int, int], Val]) -> None:
        """Transforms all channels of a tile whose pixels lie at `address(i, j)`."""
        k, n, lanes, cg = self.k, self.n, self.lanes, self.conv.cg

        def vector(c: IntLike, mask: Val | None) -> None:
            d = [[load_value(k, self.x_type, address(i, j) + c * self.x_size, lanes, mask) for j in range(n)]
                 for i in range(n)]
            for i, row in enumerate(both_ways(k, d, "input")):
                for j, v in enumerate(row):
                    k.store(v, dst + (i * n + j) * self.v_plane + c * 4, align=self.isa.width)

        whole = cg - cg % lanes
        for c in k.range(0, whole, lanes):
            vector(c, None)
        if whole < cg:
            vector(whole, k.tail_mask(cg - whole, lanes))

    def _multiply(self, row: IntLike, size: int, valid: IntLike, start: IntLike, panel: IntLike, xi: IntLike) -> None:
        """M[xi, rows] = V[xi, rows] @ U[panel, xi]. Rows past `valid` are computed and never read."""
        k = self.k
        at = row - start
        depth = self.conv.cg
        u = self.u + (panel * self.n ** 2 + xi) * (depth * self.nr * 4)
        acc = Accumulators(k, size, self.nv)
        acc.zero()
        v = k.scratch + xi * self.v_plane + at * self.v_row
        fma(k, acc, strided_rows(k, v, self.v_row, size), u, depth, unroll=self.unroll, fetch=self._fetch(u, at))
        out = self.products + xi * self.m_plane + at * self.m_row
        for i, j, value in acc.each():
            k.store(value, out + i * self.m_row + j * self.isa.width, align=self.isa.width)

    def _fetch(self, u: Val, row: IntLike) -> Fetch | None:
        """A micro-tile's share of the filters that come next, so that they come from memory while it computes."""
        iterations, block = self.conv.cg // self.unroll, self.conv.cg * self.nr * 4
        if not iterations:
            return None
        count = -(-block // (self.tiles.mt * iterations * 64))
        return Fetch(u + block + row // self.mr * (iterations * count * 64), count)

    def _restore(self, r: IntLike, tile: IntLike, panel: IntLike) -> None:
        """The output pixels of a Winograd tile: A^T M A, then the epilogue."""
        k, m, n = self.k, self.m, self.n
        image, oy, ox = self._where(tile)
        inside = (k.i64(oy) + m <= k.i64(self.out_size[0])) & (k.i64(ox) + m <= k.i64(self.out_size[1]))
        at = self.writer.at([image, oy, ox])
        src = self.products + r * self.m_row
        for j in range(self.nv):
            col = panel * self.nr + j * self.lanes
            mask = None
            if self.conv.og % self.nr:
                mask = k.tail_mask(self.conv.og - col, self.lanes)
            x = [[k.load("float", src + (a * n + b) * self.m_plane + j * self.isa.width, self.lanes,
                         align=self.isa.width) for b in range(n)] for a in range(n)]
            y = both_ways(k, x, "output")
            fast, slow = k.branch(inside)
            with fast:
                for a in range(m):
                    self.writer.put(y[a], self.writer.moved(at, 1, a), col, mask)
            with slow:
                for a in range(m):
                    for b in range(m):
                        ok = (k.i64(oy) + a < k.i64(self.out_size[0])) & (k.i64(ox) + b < k.i64(self.out_size[1]))
                        with k.if_(ok):
                            self.writer.put([y[a][b]], self.writer.moved(self.writer.moved(at, 1, a), 2, b), col, mask)
