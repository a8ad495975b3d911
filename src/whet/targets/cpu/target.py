"""The CPU as a target: which tactics it has, and how their code is made."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from whet.errors import InternalError
from whet.ir.region import Region
from whet.targets.base import Candidate, Implementation, Linked, Params, Tactic, enumerate_candidates, refusals
from whet.targets.cpu import TACTICS
from whet.targets.cpu.compile import to_object
from whet.targets.cpu.driver import to_driver_object
from whet.targets.cpu.isa import Isa, host
from whet.targets.cpu.link import link


@dataclass(frozen=True)
class CpuTarget:
    """Generates code for one instruction set and number of threads."""

    isa: Isa
    threads: int

    name = "cpu"
    aligned = branches = fallback = False

    @staticmethod
    def of_host(threads: int) -> CpuTarget:
        """This machine."""
        return CpuTarget(host(), threads)

    def tactics(self, kind: str) -> Sequence[Tactic]:
        """Every tactic for a kind of region."""
        return TACTICS.get(kind, ())

    def accepts(self, region: Region) -> str:
        """"" if some tactic implements the region, else every tactic's reason why not."""
        return refusals(self.tactics(region.kind), region, self.isa)

    def candidates(self, region: Region) -> list[Candidate]:
        """Everything that could implement the region, the most promising first."""
        return enumerate_candidates(self.tactics(region.kind), region, self.isa, self.threads)

    def implement(self, region: Region, tactic: str, params: Params) -> Implementation:
        """The chosen tactic's code for the region."""
        for t in self.tactics(region.kind):
            if t.name == tactic:
                return t.implement(region, params, self.isa, self.threads)
        raise InternalError(f"no tactic {tactic!r} for {region.kind}",
                            do="delete the timing cache: it may be of another version")

    def compile(self, implementation: Implementation) -> dict[str, bytes]:
        """Object code by kernel symbol."""
        return {s.kernel.symbol: self.assemble(s.kernel.code) for s in implementation.steps}

    def assemble(self, code: str) -> bytes:
        """Object code of one kernel's LLVM IR."""
        return to_object(code, self.isa)

    def link(self, objects: Mapping[str, bytes]) -> Linked:
        """One blob of the kernels and the driver, with its entries."""
        return link([*(objects[k] for k in sorted(objects)), to_driver_object(self.isa)])

    def fields(self) -> dict[str, Any]:
        """What a plan says of the target."""
        return {"arch": self.isa.arch, "isa": self.isa.name, "features": sorted(self.isa.features)}

    def recorded(self) -> dict[str, Any]:
        """The instruction set as JSON, for `recompile`."""
        return {"isa": {**dataclasses.asdict(self.isa), "features": sorted(self.isa.features)}}

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
