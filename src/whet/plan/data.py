"""What a plan holds, before it is a file: the pipeline fills a `PlanData`, `plan.writer` stores it.

Integers that depend on shapes are *dims*: an int, or the JSON form of a symbolic dimension
(`whet.ir.symbolic.to_json`): `[[coefficient, [atom...]]...]`, an atom being a name or
`["floordiv" | "mod" | "min" | "max", dim, dim]`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from whet.plan.manifest import Device
from whet.plan.program import Program

DimJson = int | list[Any]


# ---- arguments of a step -----------------------------------------------------------------------
# All offsets are in bytes.


@dataclass(frozen=True)
class IntArg:
    """An integer."""

    value: DimJson


@dataclass(frozen=True)
class ArenaArg:
    """An address in the context's arena (its base is page aligned)."""

    offset: DimJson = 0


@dataclass(frozen=True)
class WeightArg:
    """An address in the weight `name` of the plan (64-byte aligned)."""

    name: str
    offset: DimJson = 0


@dataclass(frozen=True)
class InputArg:
    """An address in input `index` of the segment."""

    index: int
    offset: DimJson = 0


@dataclass(frozen=True)
class OutputArg:
    """An address in output `index` of the segment."""

    index: int
    offset: DimJson = 0


Arg = IntArg | ArenaArg | WeightArg | InputArg | OutputArg
Place = ArenaArg | WeightArg | InputArg | OutputArg


@dataclass(frozen=True)
class NativeStep:
    """One launch of the kernel `symbol` of the code over `tiles` tiles, `grain` at a time.

    A step with `tiles <= grain` is run whole by one thread, and neighbours of that sort cost no
    barrier between them: give tiny steps a large grain. `label` is for people (`inspect`, profiles).
    """

    symbol: str
    args: tuple[Arg, ...]
    tiles: DimJson
    grain: int = 1
    label: str = ""


@dataclass
class PlanData:
    """Everything that goes into a plan file. Equal data gives an equal file, but for `trailer`.

    Attributes:
        programs: one for each optimization profile, in the order in which they are tried.
        steps: the native steps of all segments; arguments refer to the inputs and outputs of their segment.
        weights: arrays by name (any dtype; stored C-contiguous, 64-byte aligned, in this order).
        code: position-independent machine code linked by `targets.cpu.link`, driver included; for a GPU the objects
            of `whet.abi_cuda`.
        symbols: offset in `code` of every kernel that a step names, and on the CPU of the driver's entries
            (`whet_pool_create`, `whet_pool_destroy`, `whet_run`).
        scratch_bytes: per thread.
        threads: that the plan was tuned for.
        arch: `platform.machine()` of the target, `x86_64` or `aarch64`.
        isa: `avx512`, `avx2`, `neon`.
        features: LLVM names of the CPU features that the code needs (`avx512f`, `amx-bf16`...).
        device: the GPU that it is for; None: the CPU.
        info: JSON for people and tools (model hash, versions, precision and tactic per layer...); hashed.
        blobs: binary extras by name (payloads of host steps, regions for `recompile`); hashed.
        trailer: JSON outside the hash: dates, tuning evidence.
    """

    programs: Sequence[Program]
    steps: Sequence[NativeStep]
    weights: Mapping[str, np.ndarray]
    code: bytes
    symbols: Mapping[str, int]
    scratch_bytes: int
    threads: int
    arch: str
    isa: str
    features: Sequence[str]
    info: Mapping[str, Any] = field(default_factory=dict)
    blobs: Mapping[str, bytes] = field(default_factory=dict)
    trailer: Mapping[str, Any] = field(default_factory=dict)
    device: Device | None = None
