"""Linear attention, step by step: each tile keeps some columns of one head's state in scratch memory.

The columns of the state do not see each other: with S [K, columns], a step is S *= exp(decay) row by row,
v' = beta (v - S^T k), S += k v'^T, y = scale S^T q. So a tile takes a head and a few vectors of columns through
all of time, and its part of the state stays in the first-level cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from whet.ir.dtypes import DType
from whet.ir.ops_linear_attention import OPERANDS
from whet.ir.region import Region, Tensor
from whet.ir.symbolic import Dim
from whet.targets.base import Implementation, In, Out, Params, Step
from whet.targets.cpu.args import NAME, Args, finish
from whet.targets.cpu.epilogue import load_value, store_value
from whet.targets.cpu.gemm_problem import opt
from whet.targets.cpu.isa import Isa
from whet.targets.cpu.llvm import Fn, IntLike, Val, vec
from whet.targets.cpu.vmath import exp

_FLOATS = (DType.F32, DType.BF16, DType.F16)
_WIDEST = 4096  # rows of a state


def operands(region: Region) -> dict[str, int]:
    """Indices of the region's inputs by name."""
    absent = region.attrs.get("absent", ())
    there = [name for i, name in enumerate(OPERANDS) if i not in absent]
    return {name: i for i, name in enumerate(there[:region.n_anchor])}


@dataclass(frozen=True)
class LinearAttention:
    """Parameters: nv (vectors of columns that a tile takes)."""

    name: str = "linear_attention"

    def applies(self, region: Region, machine: Isa) -> str:
        if region.prologue or region.epilogue:
            return "nothing is fused with it"
        for name, i in operands(region).items():
            t = region.inputs[i]
            if t.dtype not in _FLOATS:
                return f"{name} is {t.dtype.value}, not f32, bf16 or f16"
            if t.shape[3] != 1 and t.strides[3] != 1:
                return f"{name}'s last dimension is not contiguous"
        for t in (region.output, *region.extra_outputs):
            if t.dtype not in _FLOATS or (t.shape[3] != 1 and t.strides[3] != 1):
                return "a result is not a float tensor with a contiguous last dimension"
        k, v = region.inputs[1].shape[3], region.inputs[2].shape[3]
        if not isinstance(k, int) or not isinstance(v, int) or k > _WIDEST:
            return f"heads of a size that is not fixed, or wider than {_WIDEST}"
        return ""

    def space(self, region: Region, machine: Isa, threads: int) -> Iterable[Params]:
        width = region.inputs[2].shape[3]
        assert isinstance(width, int)
        most = max(1, -(-width // machine.lanes))
        return sorted(({"nv": nv} for nv in (1, 2, 4) if nv == 1 or nv <= most),
                      key=lambda p: self.cost(region, p, machine, threads))

    def cost(self, region: Region, params: Params, machine: Isa, threads: int) -> float:
        """Seconds at 3 GHz: every step reads and writes the state, and reads it for each head."""
        b, h, t, d = (opt(region, x) for x in region.inputs[0].shape)
        g, e = (opt(region, region.inputs[2].shape[i]) for i in (1, 3))
        nv = params["nv"]
        tiles = b * g * -(-e // (nv * machine.lanes))
        each = t * d * ((4 + h // max(g, 1)) * max(nv, 2) * 0.6 + 2)
        return each * max(1.0, tiles / threads) / 3e9

    def implement(self, region: Region, params: Params, machine: Isa, threads: int) -> Implementation:
        return Implementation((_Kernel(region, params["nv"], machine).step(),))


class _Kernel:
    def __init__(self, region: Region, nv: int, isa: Isa) -> None:
        self.region, self.nv, self.isa = region, nv, isa
        self.k = Fn(NAME, isa)
        self.args = Args(self.k)
        self.where = operands(region)
        self.d, self.e = (int(region.inputs[i].shape[3]) for i in (1, 2))  # type: ignore[arg-type]
        self.heads, self.groups = (int(region.inputs[i].shape[1]) for i in (0, 1))  # type: ignore[arg-type]
        self.row = nv * isa.width
        self.columns = nv * isa.lanes
        self.chunks = -(-self.e // self.columns)
        self.decays = self.d * self.row  # offset of exp(decay) in scratch

    def step(self) -> Step:
        k, args = self.k, self.args
        for t in k.range(k.begin, k.end):
            head, chunk = t // self.chunks, t % self.chunks
            self._tile(head // self.groups, head % self.groups, chunk)
        padded = -(-self.d // self.isa.lanes) * self.isa.width
        kernel = finish(k, "linear_attention", self.decays + padded)
        batch: Dim = self.region.output.shape[0]
        return Step(kernel, args.table, batch * (self.groups * self.chunks))

    def _at(self, t: Tensor, base: Val, *index: IntLike) -> Val:
        """Address of an element; a dimension of 1 stands for all."""
        for i, d, s in zip(index, t.shape, t.strides, strict=False):
            if d != 1:
                base = base + i * self.args.dim(s) * t.dtype.size
        return base

    def _input(self, name: str, *index: IntLike) -> tuple[DType, Val]:
        t = self.region.inputs[self.where[name]]
        return t.dtype, self._at(t, self.args.pointer(In(self.where[name])), *index)

    def _tile(self, batch: Val, group: Val, chunk: Val) -> None:
        k, isa = self.k, self.isa
        first = chunk * self.columns
        masks = [k.tail_mask(self.e - first - j * isa.lanes, isa.lanes) if self.e % self.columns else None
                 for j in range(self.nv)]
        ty = vec("float", isa.lanes)

        def moved(dtype: DType, at: Val, j: int) -> Val:
            return at + (first + j * isa.lanes) * dtype.size

        for i in k.range(0, self.d):
            for j in range(self.nv):
                if "state" in self.where:
                    dtype, at = self._input("state", batch, group, i)
                    s = load_value(k, dtype, moved(dtype, at, j), isa.lanes, masks[j])
                else:
                    s = k.const(ty, 0.0)
                k.store(s, self._state(i, j), align=isa.width)
        for t in k.range(0, self.args.dim(self.region.output.shape[2])):
            self._step(batch, group, t, masks, moved)
        state = self.region.extra_outputs[0]
        for i in k.range(0, self.d):
            for j in range(self.nv):
                s = k.load("float", self._state(i, j), isa.lanes, align=isa.width)
                at = self._at(state, self.args.pointer(Out(1)), batch, group, i)
                store_value(k, s, state.dtype, moved(state.dtype, at, j), masks[j])

    def _state(self, i: IntLike, j: int) -> Val:
        return self.k.scratch + i * self.row + j * self.isa.width

    def _step(self, batch: Val, group: Val, t: Val, masks: list[Val | None],
              moved: Callable[[DType, Val, int], Val]) -> None:
        """One step in time."""
        k, isa, lanes = self.k, self.isa, self.isa.lanes
        ty = vec("float", lanes)
        key_type, key = self._input("k", batch, group, t)
        value_type, value = self._input("v", batch, group, t)
        decay = self._decay(batch, group, t)
        delta = "beta" in self.where

        def number(dtype: DType, at: Val, i: IntLike) -> Val:
            return k.splat(load_value(k, dtype, at + i * dtype.size), lanes)

        new = [load_value(k, value_type, moved(value_type, value, j), lanes, masks[j])
               for j in range(self.nv)]
        if delta:
            found = [k.var(ty, 0.0) for _ in range(self.nv)]
            for i in k.range(0, self.d):
                x = number(key_type, key, i)
                for j in range(self.nv):
                    s = k.load("float", self._state(i, j), lanes, align=isa.width)
                    if decay is not None:
                        s = s * decay(i)
                        k.store(s, self._state(i, j), align=isa.width)
                    found[j].set(k.fma(x, s, found[j].get()))
            beta_type, at = self._input("beta", batch, group, t)
            beta = number(beta_type, at, 0)
            new = [beta * (v - f.get()) for v, f in zip(new, found, strict=True)]
        for i in k.range(0, self.d):
            x = number(key_type, key, i)
            for j in range(self.nv):
                s = k.load("float", self._state(i, j), lanes, align=isa.width)
                if decay is not None and not delta:
                    s = s * decay(i)
                k.store(k.fma(x, new[j], s), self._state(i, j), align=isa.width)
        share = self.heads // self.groups
        scale = float(self.region.attrs["scale"])
        for n in k.range(0, share):
            head = group * share + n
            query_type, query = self._input("q", batch, head, t)
            sums = [k.var(ty, 0.0) for _ in range(self.nv)]
            for i in k.range(0, self.d):
                x = number(query_type, query, i)
                for j in range(self.nv):
                    s = k.load("float", self._state(i, j), lanes, align=isa.width)
                    sums[j].set(k.fma(x, s, sums[j].get()))
            out = self.region.output
            at = self._at(out, self.args.pointer(Out(0)), batch, head, t)
            for j in range(self.nv):
                store_value(k, sums[j].get() * scale, out.dtype, moved(out.dtype, at, j), masks[j])

    def _decay(self, batch: Val, group: Val, t: Val) -> Callable[[IntLike], Val] | None:
        """A function (row of the state) -> exp(decay) in every lane, or None; fills scratch where rows differ."""
        if "decay" not in self.where:
            return None
        k, lanes = self.k, self.isa.lanes
        dtype, at = self._input("decay", batch, group, t)
        if self.region.inputs[self.where["decay"]].shape[3] == 1:
            once = exp(k, k.splat(load_value(k, dtype, at), lanes))
            return lambda i: once
        to = k.scratch + self.decays
        for c in k.range(0, self.d, lanes):
            x = load_value(k, dtype, at + c * dtype.size, lanes, k.tail_mask(self.d - c, lanes))
            k.store(exp(k, x), to + c * 4, align=self.isa.width)
        return lambda i: k.splat(k.load("float", to + i * 4), lanes)
