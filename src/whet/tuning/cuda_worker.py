"""The child process that compiles and times candidates for a GPU: `python -m whet.tuning.cuda_worker`.

Many of them enumerate and compile at once (those of libraries may open the GPU); one of them times. See `worker` for
the protocol: a kernel that hangs or reads what is not there takes this process down, not the build.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np

from whet.ir.region import Region
from whet.targets.base import Candidate, Implementation, Params
from whet.targets.cuda.target import CudaTarget
from whet.tuning import store
from whet.tuning.cuda_bench import CudaBench
from whet.tuning.cuda_segment import Objects, Segment
from whet.tuning.early import Answer
from whet.tuning.in_place import Attempt, Trials
from whet.tuning.worker import serve


class CudaWorker:
    """What the parent asks for."""

    FATAL = ("LostDeviceError",)

    def __init__(self, child: bool = False) -> None:
        """`child`: in a process of its own, whose rank may change."""
        self.bench: CudaBench | None = None
        self.behind = not child

    def time(self, target: CudaTarget, region: Region, tactic: str, params: Params, objects: Mapping[str, bytes]
             ) -> tuple[float, list[np.ndarray]]:
        """A candidate's seconds, and pieces of its results."""
        return self.opened(target).time(region, target.implement(region, tactic, params), objects)

    def playoff(self, target: CudaTarget, region: Region,
                several: Sequence[tuple[str, Params, Mapping[str, bytes]]]) -> list[float]:
        """The seconds of candidates, taken in turns."""
        made = [(target.implement(region, tactic, params), objects) for tactic, params, objects in several]
        return self.opened(target).playoff(region, made)

    def in_place(self, target: CudaTarget, asked: Trials) -> list[Attempt]:
        """Other choices tried within their segment."""
        segment = Segment(self.opened(target), asked, self._compiled(target))
        try:
            return segment.run()
        finally:
            segment.close()

    def early(self, target: CudaTarget, asked: Trials) -> Answer:
        """A segment's seconds, as it is and with kernels that are launched early."""
        def forms(region: Region, tactic: str, params: Params) -> tuple[Implementation, dict[str, bytes]]:
            usual = {s.kernel.symbol for s in target.implement(region, tactic, params).steps}
            made = target.timed.implement(region, tactic, params)
            return made, {s.kernel.symbol: self.assemble(target, s.kernel.code) for s in made.steps
                          if s.kernel.symbol not in usual}

        segment = Segment(self.opened(target), asked, self._compiled(target))
        try:
            return segment.early(forms)
        finally:
            segment.close()

    def _compiled(self, target: CudaTarget) -> Objects:
        def compiled(region: Region, tactic: str, params: Params) -> tuple[Implementation, Mapping[str, bytes]]:
            made = target.implement(region, tactic, params)
            return made, {s.kernel.symbol: self.assemble(target, s.kernel.code) for s in made.steps}

        return compiled

    def open(self, target: CudaTarget) -> None:
        """Open the target's GPU, which takes a while."""
        self.opened(target)

    def opened(self, target: CudaTarget) -> CudaBench:
        """The bench on the target's GPU."""
        if self.bench is None:
            self.bench = CudaBench(target.index)
        return self.bench

    def candidates(self, target: CudaTarget, region: Region) -> list[Candidate]:
        """Everything that could implement the region."""
        return target.candidates(region)

    def compile(self, target: CudaTarget, region: Region, tactic: str, params: Params) -> dict[str, bytes]:
        """A candidate's objects, by symbol."""
        if not self.behind:  # the child that times comes first, where there are as many others as cores
            os.nice(10)
            self.behind = True
        made = target.implement(region, tactic, params)
        return {s.kernel.symbol: self.assemble(target, s.kernel.code) for s in made.steps}

    def assemble(self, target: CudaTarget, code: str) -> bytes:
        """The object of one kernel, from the disk if it was made before."""
        raw = store.get(target, code)
        if raw is None:
            raw = target.assemble(code)
            store.put(target, code, raw)
        return raw


if __name__ == "__main__":
    os.environ.setdefault("TRITON_CACHE_DIR", str(store.triton_folder()))
    serve(CudaWorker(child=True))
