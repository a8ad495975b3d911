"""Hand-made plans for GPUs with kernels of a line or two: what the tests of the CUDA runtime run."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from whet import abi_cuda
from whet.ir.dtypes import DType
from whet.ir.symbolic import symbol
from whet.plan import manifest
from whet.plan.data import ArenaArg, InputArg, IntArg, NativeStep, OutputArg, PlanData, WeightArg
from whet.plan.program import Tensor, straight
from whet.targets.base import In, Out
from whet.targets.cuda.compile import to_object
from whet.targets.cuda.gpu import Gpu
from whet.targets.cuda.kernel import Source

BATCH = [[1, ["batch"]]]


@cache
def kernel(number: int, name: str = "scale", **options: Any) -> bytes:
    """The object of: program `row` does out[row, :] = x[row, :] * 2 + w[:]; arguments x, w, out, columns.

    name `store`: program 0 stores 1.0 at the one address. `launch_pdl`: it is launched early and waits.
    """
    s = Source(name)
    if name == "store":
        y = s.pointer(Out(0), DType.F32)
        s.line(f"tl.store({y}, 1.0)")
        return to_object(s.step(1).kernel.code, number)
    x, w, y = s.pointer(In(0), DType.F32, False), s.pointer(In(1), DType.F32), s.pointer(Out(0), DType.F32, False)
    n = s.integer(symbol("columns"))
    if options.get("launch_pdl"):
        s.line("tl.extra.cuda.gdc_wait()")
    s.line("row = tl.program_id(0).to(tl.int64)")
    with s.block(f"for i0 in range(0, {n}, 256):"):
        s.line("i = i0 + tl.arange(0, 256)")
        s.line(f"v = tl.load({x} + row * {n} + i, mask=i < {n}) * 2 + tl.load({w} + i, mask=i < {n})")
        s.line(f"tl.store({y} + row * {n} + i, v, mask=i < {n})")
    return to_object(s.step(1, **options).kernel.code, number)


def linked(objects: dict[str, bytes]) -> tuple[bytes, dict[str, int]]:
    """A code section, and where each object begins."""
    code, symbols = b"", {}
    for name, raw in objects.items():
        code += bytes(-len(code) % abi_cuda.ALIGN)
        symbols[name] = len(code)
        code += raw
    return code, symbols


def chain(gpu: Gpu, steps: int | list[NativeStep] = 3, columns: int = 5, rows: Any = BATCH, *, high: int = 64,
          objects: dict[str, bytes] | None = None, **changes: Any) -> PlanData:
    """x -> x * 2 + w, `steps` times (or these steps), through the arena: [rows, columns], rows symbolic or not."""
    size = -(-high * columns * 4 // 256) * 256
    dims = {"batch": (1, 4, high)} if rows is BATCH else {}
    made = [] if isinstance(steps, int) else steps
    for s in range(steps) if isinstance(steps, int) else ():
        x = InputArg(0) if s == 0 else ArenaArg((s - 1) % 2 * size)
        out = OutputArg(0) if s == steps - 1 else ArenaArg(s % 2 * size)
        made.append(NativeStep("scale", (x, WeightArg("w"), out, IntArg(columns)), rows, 1, f"layer{s}"))
    code, symbols = linked(objects or {"scale": kernel(gpu.number)})
    program = straight(
        changes.pop("inputs", [Tensor("x", "float32", [rows, columns])]),
        changes.pop("outputs", [Tensor("y", "float32", [rows, columns])]), changes.pop("dims", dims),
        [n.label for n in made], changes.pop("arena_bytes", 2 * size))
    device = manifest.Device(gpu.name, gpu.capability, driver=gpu.driver)
    fields: dict[str, Any] = {
        "programs": [program], "steps": made, "weights": {"w": np.arange(columns, dtype=np.float32)}, "code": code,
        "symbols": symbols, "scratch_bytes": 0, "threads": 1, "arch": "cuda", "isa": gpu.arch, "features": [],
        "device": device, "info": {"model": {"name": "chain"}}}
    return PlanData(**(fields | changes))


def expected(x: np.ndarray, steps: int = 3) -> np.ndarray:
    """What `chain` computes."""
    for _ in range(steps):
        x = x * np.float32(2) + np.arange(x.shape[-1], dtype=np.float32)
    return x
