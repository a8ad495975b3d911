"""What a target owes: tactics. The pipeline and the tuner know nothing else about hardware."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from whet.ir.region import Region
from whet.ir.symbolic import Dim

Params = dict[str, Any]  # JSON values only: it lives in the timing cache


@dataclass(frozen=True)
class Kernel:
    """Generated code: on the CPU one function `void symbol(i64* args, i64 begin, i64 end, i8* scratch)`.

    It does the tiles [begin, end) of its step. `scratch` is the calling thread's own, 64-byte
    aligned, uninitialized, at least `scratch_bytes` long. Kernels with the same symbol are the same.
    """

    symbol: str
    code: str  # CPU: LLVM IR of a whole module. CUDA: a description as JSON, tagged by its `type`
    scratch_bytes: int = 0


@dataclass(frozen=True)
class In:
    """Argument: address of region input i (of its first element, offset applied)."""

    index: int


@dataclass(frozen=True)
class Out:
    """Argument: address of region output i (0: `output`, then `extra_outputs`)."""

    index: int = 0


@dataclass(frozen=True)
class Packed:
    """Argument: address of packed constant i of this implementation (64-byte aligned)."""

    index: int


@dataclass(frozen=True)
class Work:
    """Argument: address of this region's shared workspace plus an offset in bytes."""

    offset: Dim = 0


@dataclass(frozen=True)
class Int:
    """Argument: an integer; symbolic ones are evaluated when shapes are bound."""

    value: Dim


Arg = In | Out | Packed | Work | Int


@dataclass(frozen=True)
class Step:
    """One kernel launch over `tiles` tiles; all tiles of a step may run at once, steps run in order.

    `grain`: tiles that one thread takes at a time from the shared counter.
    """

    kernel: Kernel
    args: tuple[Arg, ...]
    tiles: Dim
    grain: int = 1


@dataclass(frozen=True)
class Pack:
    """A constant made at build time from region inputs (all const): weights in kernel order."""

    sources: tuple[int, ...]
    make: Callable[..., np.ndarray]  # (*arrays in logical shape) -> array, any dtype, C order


@dataclass(frozen=True)
class Implementation:
    """How a tactic with parameters runs a region."""

    steps: tuple[Step, ...]
    packs: tuple[Pack, ...] = ()
    workspace: Dim = 0  # bytes, shared by the steps, 256-byte aligned


class Tactic(Protocol):
    """One way to implement a kind of region, with parameters to tune."""

    @property
    def name(self) -> str:
        """Names the tactic in plans and timing caches."""
        ...

    def applies(self, region: Region, machine: Any) -> str:
        """"" if this tactic can implement the region, else the reason why not."""
        ...

    def space(self, region: Region, machine: Any, threads: int) -> Iterable[Params]:
        """The parameter settings worth trying, the most promising first, at most a few dozen."""
        ...

    def cost(self, region: Region, params: Params, machine: Any, threads: int) -> float:
        """Estimated seconds at the optimum shape; only orders candidates."""
        ...

    def implement(self, region: Region, params: Params, machine: Any, threads: int) -> Implementation:
        """The code. Right for every shape in the region's dims, not only the optimum."""
        ...


@dataclass(frozen=True)
class Candidate:
    """A tactic with its parameters, and what the cost model expects of it in seconds."""

    tactic: str
    params: Params
    cost: float


@dataclass(frozen=True)
class Linked:
    """A plan's code section, and the entries' offsets in it, in bytes."""

    code: bytes
    symbols: dict[str, int]


class Target(Protocol):
    """Hardware to build for: what the pipeline, the tuner and the tools ask of it."""

    @property
    def name(self) -> str:
        """`cpu` or `cuda`."""
        ...

    @property
    def threads(self) -> int:
        """That one run may use."""
        ...

    @property
    def aligned(self) -> bool:
        """Regions are to be told whether a tensor begins at a multiple of 16 bytes (`Tensor.aligned`)."""
        ...

    @property
    def branches(self) -> bool:
        """Steps that do not depend on each other may run at the same time: plans say what each has to wait for."""
        ...

    @property
    def fallback(self) -> bool:
        """Regions that no tactic takes run on the host, by the NumPy reference, instead of being an error."""
        ...

    def tactics(self, kind: str) -> Sequence[Tactic]:
        """Every tactic for a kind of region."""
        ...

    def accepts(self, region: Region) -> str:
        """"" if some tactic implements the region, else every tactic's reason why not."""
        ...

    def candidates(self, region: Region) -> list[Candidate]:
        """Everything that could implement the region, the most promising first."""
        ...

    def implement(self, region: Region, tactic: str, params: Params) -> Implementation:
        """The chosen tactic's code for the region."""
        ...

    def assemble(self, code: str) -> bytes:
        """The object of one kernel's code."""
        ...

    def link(self, objects: Mapping[str, bytes]) -> Linked:
        """The code section of these objects (by symbol), with whatever the target's plans need besides."""
        ...

    def fields(self) -> dict[str, Any]:
        """What a plan's data says of the target: `arch`, `isa`, `features`, `device` (`plan.data.PlanData`)."""
        ...

    def recorded(self) -> dict[str, Any]:
        """The target as JSON, for a plan's record of its kernels."""
        ...

    def device_key(self) -> str:
        """Names what timings depend on: the device, what is used of it, and the kernels' own source."""
        ...


def refusals(tactics: Iterable[Tactic], region: Region, machine: Any) -> str:
    """"" if one of the tactics implements the region, else the reason of each why not."""
    reasons = []
    for t in tactics:
        why = t.applies(region, machine)
        if not why:
            return ""
        reasons.append(f"{t.name}: {why}")
    return "; ".join(reasons) or f"no tactic for {region.kind}"


def enumerate_candidates(tactics: Iterable[Tactic], region: Region, machine: Any, threads: int) -> list[Candidate]:
    """Everything that could implement the region, the most promising first."""
    found = [Candidate(t.name, p, t.cost(region, p, machine, threads))
             for t in tactics if not t.applies(region, machine) for p in t.space(region, machine, threads)]
    return sorted(found, key=lambda c: c.cost)
