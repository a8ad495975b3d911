"""A target whose first candidates crash, hang and raise: what a generator's fault may do to a build.

It is imported by the tuner's child processes too, so it must be on their path.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from whet.ir.region import Region
from whet.targets.base import Implementation, In, Kernel, Out, Params, Step, Tactic
from whet.targets.cpu.target import CpuTarget

_HEAD = "define void @{symbol}(ptr %args, i64 %begin, i64 %end, ptr %scratch) {{\nentry:\n"
_BODIES = {
    "crashes": "  store volatile i32 0, ptr inttoptr (i64 64 to ptr)\n  ret void\n}}\n",
    "hangs": "  br label %again\nagain:\n  store volatile i32 0, ptr %scratch\n  br label %again\n}}\n",
}


@dataclass(frozen=True)
class Unruly:
    """A tactic that promises to be the fastest, and fails as its name says."""

    name: str

    def applies(self, region: Region, machine: Any) -> str:
        return ""

    def space(self, region: Region, machine: Any, threads: int) -> Iterable[Params]:
        return [{}]

    def cost(self, region: Region, params: Params, machine: Any, threads: int) -> float:
        return 0.0

    def implement(self, region: Region, params: Params, machine: Any, threads: int) -> Implementation:
        if self.name == "raises":
            raise ValueError("an odd shape")
        if self.name == "crashes_compiling":
            os.kill(os.getpid(), signal.SIGSEGV)
        code = (_HEAD + _BODIES[self.name]).format(symbol=self.name)
        return Implementation((Step(Kernel(self.name, code, 64), (In(0), Out(0)), 1),))


@dataclass(frozen=True)
class UnrulyTarget(CpuTarget):
    """The CPU with `faults` put before its own tactics; without `honest`, these are all there is."""

    faults: tuple[str, ...] = ()
    honest: bool = True

    def tactics(self, kind: str) -> Sequence[Tactic]:
        return [*(Unruly(n) for n in self.faults), *(super().tactics(kind) if self.honest else ())]
