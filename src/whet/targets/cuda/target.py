"""An NVIDIA GPU as a target: which tactics it has, and how their objects are made."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec

from whet import abi_cuda
from whet.errors import InternalError, UnsupportedError
from whet.ir.region import Region
from whet.targets.base import Candidate, Implementation, Linked, Params, Tactic, enumerate_candidates, refusals
from whet.targets.cuda import TACTICS, compile
from whet.targets.cuda.compile import early, to_object
from whet.targets.cuda.gpu import Gpu

COMPAT = ("exact", "same-cc")


@dataclass(frozen=True)
class CudaTarget:
    """Generates code for one GPU, or for a capability.

    compat: `exact`: for this GPU and its libraries' versions. `same-cc`: what runs on every GPU of the capability, so
            no library calls, whose choices are those of one GPU and version.
    index:  the number of the GPU that candidates are timed on.
    early:  kernels begin while the one before them ends, where the GPU can do that (`compile.early`).
    """

    gpu: Gpu
    compat: str = "exact"
    index: int = 0
    early: bool = False

    name = "cuda"
    threads = 1
    aligned = branches = fallback = True

    @property
    def launches_early(self) -> bool:
        """True for a GPU whose kernels can begin while the one before them ends."""
        return self.gpu.capability >= (9, 0)

    @property
    def timed(self) -> CudaTarget:
        """With the form of kernels that candidates are timed in: launched early, where the GPU can do that. A kernel
        then finds the one before it still running, as in a plan, and what it does before its wait costs nothing."""
        return dataclasses.replace(self, early=self.launches_early)

    @property
    def machine(self) -> Gpu:
        """The GPU as tactics are to see it."""
        return self.gpu if self.compat == "exact" else dataclasses.replace(self.gpu, libraries={})

    def tactics(self, kind: str) -> Sequence[Tactic]:
        """Every tactic for a kind of region."""
        return TACTICS.get(kind, ())

    def accepts(self, region: Region) -> str:
        """"" if some tactic implements the region, else every tactic's reason why not."""
        return refusals(self.tactics(region.kind), region, self.machine)

    def candidates(self, region: Region) -> list[Candidate]:
        """Everything that could implement the region, the most promising first. May open the GPU, where it is live."""
        return enumerate_candidates(self.tactics(region.kind), region, self.machine, self.threads)

    def implement(self, region: Region, tactic: str, params: Params) -> Implementation:
        """The chosen tactic's code for the region."""
        for t in self.tactics(region.kind):
            if t.name == tactic:
                made = t.implement(region, params, self.machine, self.threads)
                return early(made) if self.early and self.launches_early else made
        raise InternalError(f"no tactic {tactic!r} for {region.kind}",
                            do="delete the timing cache: it may be of another version")

    def assemble(self, code: str) -> bytes:
        """The object of one kernel or library call. UnsupportedError for one that wants more than this GPU has."""
        raw = to_object(code, self.gpu.number)
        unit, _ = abi_cuda.unpack(raw)
        if isinstance(unit, abi_cuda.Cubin) and unit.shared > self.gpu.shared_bytes > 0:
            raise UnsupportedError(f"the kernel {unit.name} needs {unit.shared} bytes of shared memory",
                                   why=f"a program on {self.gpu.arch} has {self.gpu.shared_bytes}")
        return raw

    def object_key(self, code: str) -> str:
        """Names what the object of this code depends on besides the code."""
        if library_of(code):
            return self.device_key()
        try:
            version = metadata.version("triton")
        except metadata.PackageNotFoundError:
            version = ""
        return f"{self.gpu.arch}|triton {version}|{_compiler_hash()}"

    def link(self, objects: Mapping[str, bytes]) -> Linked:
        """The objects one after another, equal ones once."""
        code = bytearray()
        places: dict[bytes, int] = {}
        symbols: dict[str, int] = {}
        for symbol in sorted(objects):
            raw = objects[symbol]
            if raw not in places:
                code += bytes(-len(code) % abi_cuda.ALIGN)
                places[raw] = len(code)
                code += raw
            symbols[symbol] = places[raw]
        return Linked(bytes(code), symbols)

    def fields(self) -> dict[str, Any]:
        """What a plan says of the target; `device` as its JSON."""
        exact = self.compat == "exact" and self.gpu.live
        return {"arch": "cuda", "isa": self.gpu.arch, "features": [], "device": {
            "name": self.gpu.name if exact else "", "capability": list(self.gpu.capability),
            "driver": self.gpu.driver if exact else "", "libraries": dict(self.machine.libraries),
            "compat": self.compat}}

    def recorded(self) -> dict[str, Any]:
        """The GPU as JSON, for `recompile`."""
        return {"gpu": dataclasses.asdict(self.gpu), "compat": self.compat, "index": self.index,
                **({"early": True} if self.early else {})}

    @staticmethod
    def of_record(recorded: Mapping[str, Any]) -> CudaTarget:
        """The inverse of `recorded`. KeyError, TypeError or ValueError for anything malformed."""
        gpu = dict(recorded["gpu"])
        major, minor = gpu.pop("capability")
        return CudaTarget(Gpu((int(major), int(minor)), **gpu), str(recorded["compat"]), int(recorded["index"]),
                          bool(recorded.get("early", False)))

    def device_key(self) -> str:
        """Names what timings depend on: the GPU, its driver, the libraries, and the kernels' own source."""
        g = self.gpu
        libraries = ",".join(f"{k} {v}" for k, v in sorted(self.machine.libraries.items()))
        return f"{g.name or g.arch}|{g.arch}|{g.driver}|{libraries}|{source_hash()}"


@cache
def _compiler_hash() -> str:
    """A short hash of the source that makes an object of a kernel's text."""
    return hashlib.sha256(Path(compile.__file__).read_bytes()).hexdigest()[:12]


@cache
def source_hash() -> str:
    """A short hash of this package's source: timings of other kernels do not count."""
    h = hashlib.sha256()
    for f in sorted(Path(__file__).parent.glob("*.py")):
        h.update(f.read_bytes())
    return h.hexdigest()[:12]


class _Kind(msgspec.Struct):
    type: str


def library_of(code: str) -> str:
    """`cublas` or `cudnn` for the code of a library call, "" for a kernel of our own."""
    return {"cublaslt": "cublas", "cudnn": "cudnn"}.get(msgspec.json.decode(code, type=_Kind).type, "")
