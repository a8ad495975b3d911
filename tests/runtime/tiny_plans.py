"""Hand-made plans with kernels of a line or two: what the tests of plan and runtime run."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from whet.plan.data import ArenaArg, InputArg, IntArg, NativeStep, OutputArg, PlanData, WeightArg
from whet.plan.program import Tensor, straight
from whet.targets.cpu import isa
from whet.targets.cpu.compile import to_object
from whet.targets.cpu.driver import to_driver_object
from whet.targets.cpu.link import Linked, link
from whet.targets.cpu.llvm import Fn

BATCH = [[1, ["batch"]]]
ISA = isa.host()


def scale_kernel(name: str = "scale", factor: float = 2.0) -> str:
    """A tile is a row: out[row, :] = x[row, :] * factor + w[:]; arguments x, w, out, columns."""
    k = Fn(name, ISA)
    x, w, out, n = k.arg_ptr(0), k.arg_ptr(1), k.arg_ptr(2), k.arg_int(3)
    for row in k.range(k.begin, k.end):
        for i in k.range(0, n):
            at = (row * n + i) * 4
            k.store(k.load("float", x + at) * factor + k.load("float", w + i * 4), out + at)
    return k.finish()


@cache
def linked() -> Linked:
    """The driver and the kernel."""
    return link([to_driver_object(ISA), to_object(scale_kernel(), ISA)])


def chain(steps: int | list[NativeStep] = 3, columns: int = 5, rows: Any = BATCH, *, grain: int = 1, high: int = 64,
          threads: int = 2, **changes: Any) -> PlanData:
    """x -> x * 2 + w, `steps` times (or these steps), through the arena: [rows, columns], rows symbolic or not.

    `changes`: fields of PlanData, or of its one program (inputs, outputs, dims, arena_bytes).
    """
    size = high * columns * 4
    dims = {"batch": (1, 4, high)} if rows is BATCH else {}
    made = [] if isinstance(steps, int) else steps
    for s in range(steps) if isinstance(steps, int) else ():
        x = InputArg(0) if s == 0 else ArenaArg((s - 1) % 2 * size)
        out = OutputArg(0) if s == steps - 1 else ArenaArg(s % 2 * size)
        made.append(NativeStep("scale", (x, WeightArg("w"), out, IntArg(columns)), rows, grain, f"layer{s}"))
    w = np.arange(columns, dtype=np.float32)
    arch = "aarch64" if ISA.name == "neon" else "x86_64"
    program = straight(
        changes.pop("inputs", [Tensor("x", "float32", [rows, columns])]),
        changes.pop("outputs", [Tensor("y", "float32", [rows, columns])]), changes.pop("dims", dims),
        [n.label for n in made], changes.pop("arena_bytes", 2 * size))
    fields: dict[str, Any] = {
        "programs": [program], "steps": made, "weights": {"w": w}, "code": linked().code, "symbols": linked().symbols,
        "scratch_bytes": 64, "threads": threads, "arch": arch, "isa": ISA.name,
        "features": sorted(ISA.features), "info": {"model": {"name": "chain"}}}
    return PlanData(**(fields | changes))


def expected(x: np.ndarray, steps: int = 3) -> np.ndarray:
    """What `chain` computes."""
    for _ in range(steps):
        x = x * np.float32(2) + np.arange(x.shape[-1], dtype=np.float32)
    return x
