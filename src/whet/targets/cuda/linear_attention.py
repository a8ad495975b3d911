"""Linear attention, step by step: a program keeps some columns of one head's state in registers.

The columns of the state do not see each other: with S [K, columns], a step is S *= exp(decay) row by row,
v' = beta (v - S^T k), S += k v'^T, y = scale S^T q. So a program takes a head of keys and some columns through all of
time; it reads the queries of every head that shares them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from whet.ir.dtypes import DType
from whet.ir.ops_linear_attention import OPERANDS
from whet.ir.region import Region
from whet.targets.base import Implementation, Params, Step
from whet.targets.cuda import expr, index
from whet.targets.cuda.attention_problem import FLOATS
from whet.targets.cuda.gpu import Gpu
from whet.targets.cuda.index import Block
from whet.targets.cuda.kernel import Source
from whet.targets.cuda.shapes import operands, optimum, power_of_two

_WIDEST = 4096  # rows of a state
_MOST = 64  # elements of the state that a thread holds


@dataclass(frozen=True)
class LinearAttention:
    """Parameters: columns (of the state that a program takes), warps."""

    name: str = "linear_attention"

    def applies(self, region: Region, machine: Gpu) -> str:
        if region.prologue:
            return "operands computed on load are not supported"
        for name, i in operands(region, OPERANDS).items():
            if region.inputs[i].dtype not in FLOATS:
                return f"{name} is {region.inputs[i].dtype.value}"
        if any(t.dtype not in FLOATS for t in region.extra_outputs):
            return "a state that is no float"
        k, v = region.inputs[1].shape[3], region.inputs[2].shape[3]
        if not isinstance(k, int) or not isinstance(v, int) or not 0 < k <= _WIDEST or v == 0:
            return f"heads of a size that is not fixed, or wider than {_WIDEST}"
        if not all(isinstance(region.inputs[i].shape[1], int) for i in (0, 1)):
            return "a number of heads that is not fixed"
        return ""

    def space(self, region: Region, machine: Gpu, threads: int) -> Iterable[Params]:
        d, e = (int(region.inputs[i].shape[3]) for i in (1, 2))  # type: ignore[arg-type]
        found = [{"columns": columns, "warps": warps} for columns in (1, 2, 4, 8, 16, 32, 64) for warps in (1, 2, 4, 8)
                 if columns <= power_of_two(e) and warps * 16 <= power_of_two(d) * columns <= warps * 32 * _MOST]
        found = found or [{"columns": 1, "warps": 8}]
        return sorted(found, key=lambda f: self.cost(region, f, machine, threads))[:12]

    def cost(self, region: Region, params: Params, machine: Gpu, threads: int) -> float:
        """Seconds: every step waits for its loads and its sums across the program."""
        b, h, t, d = (optimum(region, x) for x in region.inputs[0].shape)
        g, e = (optimum(region, region.inputs[2].shape[i]) for i in (1, 3))
        columns, warps = params["columns"], params["warps"]
        programs = b * g * -(-e // columns)
        waves = max(1.0, programs * warps / (16 * (machine.multiprocessors or 100)))
        sums = 1 + ("beta" in operands(region, OPERANDS)) + h // max(1, g)
        each = 0.5 + sums * (0.1 + 0.04 * warps) + power_of_two(d) * columns / (warps * 32) * (3 + sums) / 1500
        return waves * t * each * 1e-6

    def implement(self, region: Region, params: Params, machine: Gpu, threads: int) -> Implementation:
        return Implementation((_step(region, params["columns"], params["warps"], machine),))


def _step(region: Region, columns: int, warps: int, machine: Gpu) -> Step:
    where = operands(region, OPERANDS)
    real = "float64" if region.anchor.dtype is DType.F64 else "float32"
    heads, groups = (int(region.inputs[i].shape[1]) for i in (0, 1))  # type: ignore[arg-type]
    d, e = (int(region.inputs[i].shape[3]) for i in (1, 2))  # type: ignore[arg-type]
    chunks, share, rows = -(-e // columns), heads // groups, power_of_two(d)
    s = Source("linear_attention", machine.has_fp8)
    s.line(f"pair = tl.program_id(0) // {chunks}")
    s.line(f"b = pair // {groups}")
    s.line(f"g = pair % {groups}")
    s.line(f"i = tl.arange(0, {rows})[:, None]")
    s.line(f"j = (tl.program_id(0) % {chunks} * {columns} + tl.arange(0, {columns}))[None, :]")
    masks = ("" if rows == d else f"i < {d}", "" if e % columns == 0 else f"j < {e}")

    def load(name: str, *at: tuple[str, tuple[int, ...]]) -> str:
        """An operand at coordinates behind the batch's, each with the axes that it varies along, as `real`."""
        k = where[name]
        block = Block(("b", *(c for c, _ in at)), ((), *(axes for _, axes in at)), masks)
        x = index.load(s, region, k, index.pointer(s, region, k), block, "0.0")
        return s.name_of(f"{x}.to(tl.{real})", "x")

    def store(value: str, k: int, *at: tuple[str, tuple[int, ...]]) -> None:
        t = (region.output, *region.extra_outputs)[k]
        block = Block(("b", *(c for c, _ in at)), ((), *(axes for _, axes in at)),
                      masks if k else ("", masks[1]))
        if k == 0:
            index.epilogue(s, region, value, block)
            return
        kind = DType.F64 if real == "float64" else DType.F32
        value = expr.finish(s, expr.cast(s, value, kind, t.dtype), t.dtype)
        index.store(s, region, index.out_pointer(s, region, k), value, block, k)

    row, column, group, time = ("i", (0,)), ("j", (1,)), ("g", ()), ("t", ())
    s.line(f"state = tl.zeros([{rows}, {columns}], tl.{real})")
    if "state" in where:
        s.line(f"state += {load('state', group, row, column)}")
    with s.block(f"for t in range(0, {s.integer(region.output.shape[2])}):"):
        key = load("k", group, time, row)
        value = load("v", group, time, column)
        if "decay" in where:
            s.line(f"state = state * {expr.exponential(load('decay', group, time, row), real == 'float64')}")
        if "beta" in where:
            found = s.name_of(f"tl.sum(state * {key}, 0)[None, :]", "found")
            value = s.name_of(f"{load('beta', group, time, ('0', ()))} * ({value} - {found})", "x")
        s.line(f"state += {key} * {value}")
        for n in range(share):
            head = "g" if share == 1 else f"g * {share} + {n}"
            query = load("q", (head, ()), time, row)
            y = s.name_of(f"tl.sum(state * {query}, 0)[None, :] * {float(region.attrs['scale'])!r}", "y")
            store(y, 0, (head, ()), time, column)
    store("state", 1, group, row, column)
    return s.step(region.output.shape[0] * (groups * chunks), warps, 1)
