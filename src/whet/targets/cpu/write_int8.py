"""Writing blocks of i32 sums as bytes: four vectors of results at a time become one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from whet.ir.dtypes import DType
from whet.ir.expr import ANCHOR, Apply, Expr, Imm, Leaf
from whet.ir.region import Region
from whet.targets.cpu.args import Args
from whet.targets.cpu.epilogue import apply, compute_type
from whet.targets.cpu.gemm_problem import OUT, Key, Problem
from whet.targets.cpu.gemm_write import Writer
from whet.targets.cpu.llvm import Fn, IntLike, Val
from whet.targets.cpu.microkernel import Accumulators
from whet.targets.cpu.saturation import Saturation, saturate_four


class ByteWriter(Writer):
    """A `Writer` for epilogues that end in `saturate`, on x86; a product that is added to something is rounded once."""

    def __init__(self, k: Fn, args: Args, region: Region, problem: Problem, how: Saturation) -> None:
        super().__init__(k, args, region, problem)
        assert region.epilogue is not None
        self.how, self.expr = how, region.epilogue

    def block(self, acc: Accumulators, row: IntLike, valid: IntLike, col: IntLike, cols: IntLike, spill: Val) -> None:
        k, nv, lanes = self.k, acc.nv, acc.lanes
        masks = [self.mask(col, j, cols, nv * lanes) for j in range(nv)]
        at = self._at(row, col)
        same = self._same_in_all_rows(at, nv, masks)
        scalar = k.isa.name == "avx2" and any(m is not None for m in masks)  # masked bytes come one by one there
        if self.heavy or scalar or not isinstance(valid, int):
            for r, j, v in acc.each():
                k.store(v, spill + (r * nv + j) * k.isa.width, align=k.isa.width)
            for r in k.range(0, valid):
                sums = [(r, j, k.load("i32", spill + (r * nv + j) * k.isa.width, lanes, align=k.isa.width))
                        for j in range(nv)]
                for four in _fours(sums):
                    self._four(four, at, same, masks)
            return
        for four in _fours(list(acc.each())):
            self._four(four, at, same, masks)

    def _four(self, sums: Sequence[tuple[IntLike, int, Val]], at: dict[Key, Val], same: dict[tuple[int, int], Val],
              masks: Sequence[Val | None]) -> None:
        """Up to four vectors of sums, at (row, vector of columns)."""
        k, lanes = self.k, self.k.isa.lanes
        values = [self._value(v, at, same, r, j, masks[j]) for r, j, v in sums]
        packed = saturate_four(k, values + values[-1:] * (4 - len(values)), self.how.zero, self.how.to)
        first = 0
        while first < len(sums):  # neighbours in a row are stored together
            r, j, _ = sums[first]
            count = 1
            while first + count < len(sums) and sums[first + count][0] == r and count < 4:
                count += 1
            count = 1 << count.bit_length() - 1
            mask = masks[j]
            if mask is not None and count > 1:
                mask = _joined(k, [m for m in masks[j:j + count] if m is not None])
            part = k.shuffle(packed, None, range(first * lanes, (first + count) * lanes)) if count < 4 else packed
            k.store(part, at[OUT] + r * self._row(OUT) + j * lanes, mask, align=1)
            first += count

    def _value(self, sums: Val, at: dict[Key, Val], same: dict[tuple[int, int], Val], r: IntLike, j: int,
               mask: Val | None) -> Val:
        """What the epilogue rounds, for one vector."""
        def leaf(t: Leaf) -> Val:
            if t.source == ANCHOR:
                return sums
            known = same.get((t.source, j))
            return known if known is not None else self._load(t.source, at, r, j, mask)

        v = fused(self.k, self.expr, leaf, self.how.source)
        return v if v.lanes == sums.lanes else self.k.splat(v, sums.lanes)


def _fours(items: Sequence[tuple[IntLike, int, Val]]) -> Iterator[Sequence[tuple[IntLike, int, Val]]]:
    for i in range(0, len(items), 4):
        yield items[i:i + 4]


def _joined(k: Fn, masks: Sequence[Val]) -> Val:
    """Masks of neighbouring vectors as one."""
    while len(masks) > 1:
        n = masks[0].lanes
        masks = [k.shuffle(a, b, range(2 * n)) for a, b in zip(masks[::2], masks[1::2], strict=True)]
    return masks[0]


def fused(k: Fn, expr: Expr, leaf: Callable[[Leaf], Val], wanted: int) -> Val:
    """The value of a term; where a product is added to something, the two are one operation."""
    done: dict[int, Val] = {}

    def value(i: int) -> Val:
        if i not in done:
            done[i] = compute(i)
        return done[i]

    def compute(i: int) -> Val:
        t = expr.terms[i]
        if isinstance(t, Leaf):
            return leaf(t)
        if isinstance(t, Imm):
            return k.const(compute_type(t.dtype), t.value)
        operands = [expr.terms[a] for a in t.args]
        if t.op == "add" and t.dtype is DType.F32:
            for m, other in zip(operands, reversed(t.args), strict=True):
                if isinstance(m, Apply) and m.op == "mul":
                    x, y, z = (value(a) for a in (*m.args, other))
                    lanes = max(x.lanes, y.lanes, z.lanes)
                    return k.fma(*(v if v.lanes == lanes else k.splat(v, lanes) for v in (x, y, z)))
        imms = [o.value if isinstance(o, Imm) else None for o in operands]
        return apply(k, t, [value(a) for a in t.args], [o.dtype for o in operands], imms)

    return value(wanted)
