"""What a target owes: tactics. The pipeline and the tuner know nothing else about hardware."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from whet.ir.region import Region
from whet.ir.symbolic import Dim

Params = dict[str, Any]  # JSON values only: it lives in the timing cache


@dataclass(frozen=True)
class Kernel:
    """Generated code: one function `void symbol(i64* args, i64 begin, i64 end, i8* scratch)`.

    It does the tiles [begin, end) of its step. `scratch` is the calling thread's own, 64-byte
    aligned, uninitialized, at least `scratch_bytes` long. Kernels with the same symbol are the same.
    """

    symbol: str
    code: str  # LLVM IR of a whole module
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
    workspace: Dim = 0  # bytes, shared by the steps, 64-byte aligned


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
