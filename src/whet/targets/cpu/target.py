"""The CPU as a target: which tactics it has, and how their code is made."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from whet.errors import InternalError
from whet.ir.region import Region
from whet.targets.base import Implementation, Params, Tactic
from whet.targets.cpu import TACTICS
from whet.targets.cpu.compile import to_object
from whet.targets.cpu.driver import to_driver_object
from whet.targets.cpu.isa import Isa, host
from whet.targets.cpu.link import Linked, link


@dataclass(frozen=True)
class Candidate:
    """A tactic with its parameters, and what the cost model expects of it in seconds."""

    tactic: str
    params: Params
    cost: float


@dataclass(frozen=True)
class CpuTarget:
    """Generates code for one instruction set and number of threads."""

    isa: Isa
    threads: int

    @staticmethod
    def of_host(threads: int) -> CpuTarget:
        """This machine."""
        return CpuTarget(host(), threads)

    def tactics(self, kind: str) -> Sequence[Tactic]:
        """Every tactic for a kind of region."""
        return TACTICS.get(kind, ())

    def accepts(self, region: Region) -> str:
        """"" if some tactic implements the region, else every tactic's reason why not."""
        reasons = []
        for t in self.tactics(region.kind):
            why = t.applies(region, self.isa)
            if not why:
                return ""
            reasons.append(f"{t.name}: {why}")
        return "; ".join(reasons) or f"no tactic for {region.kind}"

    def candidates(self, region: Region) -> list[Candidate]:
        """Everything that could implement the region, the most promising first."""
        found = [Candidate(t.name, p, t.cost(region, p, self.isa, self.threads))
                 for t in self.tactics(region.kind) if not t.applies(region, self.isa)
                 for p in t.space(region, self.isa, self.threads)]
        return sorted(found, key=lambda c: c.cost)

    def implement(self, region: Region, tactic: str, params: Params) -> Implementation:
        """The chosen tactic's code for the region."""
        for t in self.tactics(region.kind):
            if t.name == tactic:
                return t.implement(region, params, self.isa, self.threads)
        raise InternalError(f"no tactic {tactic!r} for {region.kind}",
                            do="delete the timing cache: it may be of another version")

    def compile(self, implementation: Implementation) -> dict[str, bytes]:
        """Object code by kernel symbol."""
        return {s.kernel.symbol: to_object(s.kernel.code, self.isa) for s in implementation.steps}

    def link(self, objects: Mapping[str, bytes]) -> Linked:
        """One blob of the kernels and the driver, with its entries."""
        return link([*(objects[k] for k in sorted(objects)), to_driver_object(self.isa)])

    def device_key(self) -> str:
        """Names what timings depend on: the CPU, what it may use, and the kernels' own source."""
        return f"{cpu_model()}|{self.isa.name}|{','.join(sorted(self.isa.features))}|{source_hash()}"


@cache
def cpu_model() -> str:
    """The CPU's name as the kernel tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("model name", "Processor", "CPU part")):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    import platform

    return platform.processor() or platform.machine()


@cache
def source_hash() -> str:
    """A short hash of this package's source: timings of other kernels do not count."""
    h = hashlib.sha256()
    for f in sorted(Path(__file__).parent.glob("*.py")):
        h.update(f.read_bytes())
    return h.hexdigest()[:12]
