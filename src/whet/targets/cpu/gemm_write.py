"""Where matmul kernels leave their results: epilogue, conversion, masked stores."""

from __future__ import annotations

from whet.ir.dtypes import DType
from whet.ir.expr import ANCHOR, Apply, Leaf
from whet.ir.region import Region
from whet.targets.base import In, Out
from whet.targets.cpu.args import Args
from whet.targets.cpu.epilogue import emit_terms, load_value, store_value
from whet.targets.cpu.gemm_problem import OUT, Key, Problem, epilogue_inputs
from whet.targets.cpu.llvm import Fn, IntLike, Val
from whet.targets.cpu.microkernel import Accumulators


class Writer:
    """Writes blocks of sums (fp32, or i32 where the anchor's type is) through a region's epilogue."""

    def __init__(self, k: Fn, args: Args, region: Region, problem: Problem) -> None:
        self.k, self.args, self.region, self.problem = k, args, region, problem
        self.inputs = epilogue_inputs(region)
        self._result = _stored_term(region)
        self.sums = "i32" if region.anchor.dtype is DType.I32 else "float"
        self._size: dict[Key, int] = {OUT: region.output.dtype.size}
        self._base: dict[Key, Val] = {OUT: args.pointer(Out(0))}
        for i in self.inputs:
            self._size[i] = region.inputs[i].dtype.size
            self._base[i] = args.pointer(In(i))
        self._here = dict(self._base)

    def batch(self, index: list[IntLike]) -> None:
        """Write to this batch element from now on."""
        for t, p in self._base.items():
            for i, strides in zip(index, self.problem.batch_strides, strict=True):
                p = p + i * self.args.dim(strides[t]) * self._size[t]
            self._here[t] = p

    @property
    def heavy(self) -> bool:
        """True if the epilogue is too long to be repeated for every accumulator."""
        e = self.region.epilogue
        return e is not None and sum(_WEIGHT.get(t.op, 1) for t in e.terms if isinstance(t, Apply)) > 8

    def block(self, acc: Accumulators, row: IntLike, valid: IntLike, col: IntLike, cols: IntLike, spill: Val) -> None:
        """Write accumulators at (row, col): rows < valid, columns < cols (of the whole matrix).

        spill: mr * nv vectors of scratch memory, used by heavy epilogues.
        """
        k, nv, lanes = self.k, acc.nv, acc.lanes
        masks = [self.mask(col, j, cols, nv * lanes) for j in range(nv)]
        at = self._at(row, col)
        same = self._same_in_all_rows(at, nv, masks)
        if self.heavy:
            for r, j, v in acc.each():
                k.store(v, spill + (r * nv + j) * k.isa.width, align=k.isa.width)
            for r in k.range(0, valid):
                for j in range(nv):
                    v = k.load(self.sums, spill + (r * nv + j) * k.isa.width, lanes, align=k.isa.width)
                    self._put(v, at, same, r, j, masks[j])
            return
        for r in range(acc.mr):
            exists = True if isinstance(valid, int) else k.i64(valid) > r
            with k.if_(exists):
                for j in range(nv):
                    self._put(acc.get(r, j), at, same, r, j, masks[j])

    def rows(self, source: Val, stride: int, row: IntLike, valid: IntLike, col: IntLike, cols: IntLike,
             nv: int) -> None:
        """Write `valid` rows of nv vectors of sums from memory, `stride` bytes apart."""
        k, lanes = self.k, self.k.isa.lanes
        masks = [self.mask(col, j, cols, nv * lanes) for j in range(nv)]
        at = self._at(row, col)
        same = self._same_in_all_rows(at, nv, masks)
        for r in k.range(0, valid):
            for j in range(nv):
                v = k.load(self.sums, source + r * stride + j * k.isa.width, lanes, align=k.isa.width)
                self._put(v, at, same, r, j, masks[j])

    def vector(self, v: Val, row: IntLike, col: IntLike, mask: Val | None) -> None:
        """Write one vector of results (in the anchor's compute type) at (row, col)."""
        self._put(v, self._at(row, col), {}, 0, 0, mask)

    def mask(self, col: IntLike, j: int, cols: IntLike, panel: int) -> Val | None:
        """Which lanes of vector j of a panel exist; None where all do, whatever the panel."""
        if isinstance(cols, int) and cols % panel == 0:
            return None
        return self.k.tail_mask(cols - col - j * self.k.isa.lanes, self.k.isa.lanes)

    def _at(self, row: IntLike, col: IntLike) -> dict[Key, Val]:
        return {t: p + row * self._row(t) + col * self.args.dim(self.problem.col[t]) * self._size[t]
                for t, p in self._here.items()}

    def _row(self, t: Key) -> IntLike:
        """Stride of rows in bytes."""
        return self.args.dim(self.problem.row[t]) * self._size[t]

    def _same_in_all_rows(self, at: dict[Key, Val], nv: int, masks: list[Val | None]) -> dict[tuple[int, int], Val]:
        """(epilogue input, vector): values of inputs that do not change from row to row, loaded once."""
        fixed = [i for i in self.inputs if self.problem.row[i] == 0]
        return {(i, j): self._load(i, at, 0, j, masks[j]) for i in fixed for j in range(nv)}

    def _load(self, i: int, at: dict[Key, Val], r: IntLike, j: int, mask: Val | None) -> Val:
        """Epilogue input i under vector j of row r: a vector, or a scalar where it is the same for all columns."""
        dtype, p = self.region.inputs[i].dtype, at[i] + r * self._row(i)
        if self.problem.col[i] == 0:
            return load_value(self.k, dtype, p)
        return load_value(self.k, dtype, p + j * self.k.isa.lanes * self._size[i], self.k.isa.lanes, mask)

    def _put(self, v: Val, at: dict[Key, Val], same: dict[tuple[int, int], Val], r: IntLike, j: int,
             mask: Val | None) -> None:
        k, lanes = self.k, v.lanes

        def leaf(t: Leaf) -> Val:
            if t.source == ANCHOR:
                return v
            known = same.get((t.source, j))
            return known if known is not None else self._load(t.source, at, r, j, mask)

        if self.region.epilogue is not None:
            v = emit_terms(k, self.region.epilogue, leaf, (self._result,))[self._result]
            v = k.splat(v, lanes) if v.lanes == 1 else v
        store_value(k, v, self.region.output.dtype, at[OUT] + r * self._row(OUT) + j * lanes * self._size[OUT], mask)


def _stored_term(region: Region) -> int:
    """The term to store: what a last cast to the output's narrow float type is of, since storing rounds anyway."""
    if region.epilogue is None:
        return 0
    terms = region.epilogue.terms
    last = terms[-1]
    if isinstance(last, Apply) and last.op == "cast" and last.dtype is region.output.dtype and last.dtype.size == 2:
        if terms[last.args[0]].dtype is DType.F32:
            return last.args[0]
    return len(terms) - 1


_WEIGHT = {"exp": 6, "log": 6, "erf": 12, "tanh": 12, "sigmoid": 8, "gelu": 12, "silu": 8, "sin": 9, "cos": 9, "tan": 9,
           "pow": 12}
