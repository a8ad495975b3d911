"""Stands in for the children that compile for a GPU: the suite's processes, of which there is one for each core,
compile what they need themselves. Starting a child for each of two thousand models would take most of the time."""

from __future__ import annotations

import struct
from concurrent.futures import Future
from typing import Any

from whet import abi_cuda
from whet.targets.base import Params
from whet.targets.cuda.compile import recipe_of
from whet.targets.cuda.target import CudaTarget
from whet.tuning import cuda
from whet.tuning.cuda_worker import CudaWorker

# The least that a plan takes for machine code: an ELF header of GPU code, and one section without contents.
NO_CODE = struct.pack("<16sHHIQQQI6H", b"\x7fELF\2\1\1", 2, 190, 1, 0, 0, 64, 0, 64, 0, 0, 64, 1, 0) + bytes(64)


class InProcess:
    """A `Crew` that does everything at once, here."""

    worker: Any = CudaWorker()

    def __init__(self, *_: Any) -> None:
        self.busy: dict[str, float] = {}

    def __enter__(self) -> InProcess:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def close(self) -> None:
        """There is nobody to end."""

    def submit(self, timeout: float, what: str, *args: Any, unless: Any = None) -> Future[Any]:
        """What a child would answer, and RuntimeError for its errors."""
        out: Future[Any] = Future()
        try:
            out.set_result(getattr(self.worker, what)(*args))
        except Exception as e:
            out.set_exception(RuntimeError(f"{type(e).__name__}: {e}"))
        return out


class Uncompiled:
    """Objects without machine code: what a plan consists of can be told from them."""

    def compile(self, target: CudaTarget, region: Any, tactic: str, params: Params) -> dict[str, bytes]:
        """The objects of a candidate's kernels, by symbol."""
        made = target.implement(region, tactic, params)
        return {s.kernel.symbol: self.assemble(target, s.kernel.code) for s in made.steps}

    def assemble(self, target: CudaTarget, code: str) -> bytes:
        """The object of one kernel."""
        r = recipe_of(code)
        letters = "".join("p" if t.startswith("*") else "l" if t == "i64" else "i" for t in r.types)
        return abi_cuda.pack(abi_cuda.Cubin(r.name, letters, r.warps, 0, []), NO_CODE)


def use(compiled: bool = True) -> None:
    """Build for GPUs in this process from now on; without `compiled`, no kernel is compiled."""
    InProcess.worker = CudaWorker() if compiled else Uncompiled()
    cuda.Crew = InProcess  # type: ignore[misc,assignment]
