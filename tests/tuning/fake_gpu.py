"""A child that plays the GPU: `python -m tuning.fake_gpu`. What a candidate does is in its parameters.

What it times it writes down, a region's signature in each line, in the file that $FAKE_GPU_LOG names.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from whet.errors import DeviceMemoryError
from whet.targets.base import Candidate, Implementation
from whet.targets.cuda.target import CudaTarget
from whet.tuning.worker import serve

RIGHT, WRONG = np.arange(8, dtype=np.float32), np.ones(8, np.float32)


@dataclass(frozen=True)
class Playing(CudaTarget):
    """A GPU whose kernels are not made. `plays`: tactic -> (microseconds, what it does) of each of its candidates."""

    plays: dict[str, list[tuple[float, str]]] = field(default_factory=dict, hash=False)

    def implement(self, region: Any, tactic: str, params: Any) -> Implementation:
        return Implementation(())


class LostDeviceError(Exception):
    """As the real one."""


class FakeGpu:
    FATAL = ("LostDeviceError",)

    def open(self, target: Any) -> None:
        """Nothing."""

    def candidates(self, target: Any, region: Any) -> list[Candidate]:
        """Of each tactic those that `target.plays` lists: (microseconds, what it does)."""
        return [Candidate(tactic, {"us": us, "does": does, "k": k}, 0.0)
                for tactic, several in target.plays.items() for k, (us, does) in enumerate(several)]

    def compile(self, target: Any, region: Any, tactic: str, params: dict[str, Any]) -> dict[str, bytes]:
        if params["does"] == "not compile":
            raise ValueError("a type that is none")
        if params["does"] == "compile slowly":
            time.sleep(1.5)
        return {f"{tactic}{params['k']}": b"object"}

    def time(self, target: Any, region: Any, tactic: str, params: dict[str, Any], objects: Any) -> Any:
        if params["does"] == "end":
            os._exit(7)
        if params["does"] == "hang":
            time.sleep(60)
        if params["does"] == "take all memory":
            raise DeviceMemoryError("GPU 0 has no memory for an operand", why="it takes 9 MiB, of 80 MiB 5 are free")
        if params["does"] == "lose":
            raise LostDeviceError("an illegal address")
        if params["does"] == "time slowly":
            time.sleep(0.03)
        if log := os.environ.get("FAKE_GPU_LOG"):
            with open(log, "a") as f:
                f.write(region.signature() + "\n")
        return params["us"] * 1e-6, [WRONG if params["does"] == "lie" else RIGHT]

    def playoff(self, target: Any, region: Any, several: Any) -> list[float]:
        return [params["us"] * 1e-6 * (3 if params["does"] == "tire" else 1) for _, params, _ in several]

    def assemble(self, target: Any, code: str) -> bytes:
        return b"object"

    def early(self, target: Any, asked: Any) -> tuple[float, float, str]:
        return 20e-6, 15e-6, ""


if __name__ == "__main__":
    serve(FakeGpu())
