"""Runs the steps of an implementation on the GPU, on NumPy arrays: `interpreted.run` for the real thing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, TypeVar

import numpy as np
import pytest

from targets.cuda import interpreted
from whet.errors import DeviceError, MissingExtraError
from whet.ir.region import Region, Tensor
from whet.ir.symbolic import evaluate
from whet.runtime.cuda import libraries
from whet.runtime.cuda.code import Code, Kernel
from whet.runtime.cuda.driver import Device, DeviceMemory
from whet.targets.base import Implementation, In, Int, Out, Packed, Work
from whet.targets.cuda.compile import to_object
from whet.targets.cuda.gpu import Gpu

F = TypeVar("F", bound=Callable[..., Any])


@cache
def missing() -> str:
    """Why nothing can be run on a GPU here; "" if it can."""
    try:
        Device.open()
    except (DeviceError, MissingExtraError) as e:
        return f"{e.what} ({e.why})"
    return ""


def needs_cuda(test: F) -> F:
    """A test (or class) for machines with a GPU: marked `cuda`, skipped elsewhere."""
    return pytest.mark.cuda(pytest.mark.skipif(bool(missing()), reason=missing() or "never")(test))


@cache
def device() -> Device:
    """The first GPU."""
    return Device.open()


@cache
def gpu() -> Gpu:
    """The first GPU as tactics see it, with the libraries that can be called."""
    p = device().properties
    return Gpu(p.capability, p.name, p.multiprocessors, p.shared_bytes, p.l2_bytes, p.memory_bytes, p.bandwidth,
               p.driver, libraries.versions(), live=True)


@cache
def _libraries() -> libraries.Libraries:
    return libraries.Libraries(device())


@cache
def compiled(code: str) -> bytes:
    """The object of a kernel or library call for this GPU."""
    return to_object(code, gpu().number)


def run(region: Region, made: Implementation, arrays: Sequence[np.ndarray], env: Mapping[str, int] | None = None
        ) -> list[np.ndarray]:
    """[output, *extra outputs] as dense arrays. `arrays`: of the inputs' logical shapes; they are laid out by the
    region's strides. Outputs begin poisoned (0xA5), the workspace too; what lies around every buffer must not change.
    The steps are captured in a graph, as the runtime does it, which is launched twice: the outputs must be the same."""
    env, d = dict(env or {}), device()
    specs = (region.output, *region.extra_outputs)
    ins = [_Guarded(interpreted._laid_out(t, a, env)[1]) for t, a in zip(region.inputs, arrays, strict=True)]
    outs = [_Guarded(interpreted._laid_out(t, None, env)[1]) for t in specs]
    packs = [_Guarded(np.ascontiguousarray(p.make(*(arrays[i] for i in p.sources)))) for p in made.packs]
    work = _Guarded(np.full(int(evaluate(made.workspace, env)), 0xA5, np.uint8))
    launches = []
    for step in made.steps:
        values: list[int] = []
        for a in step.args:
            match a:
                case In(k):
                    values.append(ins[k].address + _before(region.inputs[k], env))
                case Out(k):
                    values.append(outs[k].address + _before(specs[k], env))
                case Packed(k):
                    values.append(packs[k].address)
                case Work(offset):
                    values.append(work.address + int(evaluate(offset, env)))
                case Int(v):
                    values.append(int(evaluate(v, env)))
        launches.append((step.kernel.code, values, int(evaluate(step.tiles, env))))
    first: list[np.ndarray] = []
    with d.current():
        graph, keep = _capture(launches)
        stream = d.stream()
        for again in (False, True):
            for o in outs:
                o.poison()
            # A copy from ordinary host memory may still be on its way when its call returns.
            d.check(d.api.cuCtxSynchronize(), "cuCtxSynchronize")
            d.check(d.api.cuGraphLaunch(graph, stream), "cuGraphLaunch")
            d.synchronize(stream)
            found = [o.read() for o in outs]
            if again:
                for x, y in zip(first, found):
                    np.testing.assert_array_equal(x.view(np.uint8), y.view(np.uint8), "two launches differ")
            first = found
        d.check(d.api.cuGraphExecDestroy(graph), "cuGraphExecDestroy")
        d.check(d.api.cuStreamDestroy(stream), "cuStreamDestroy")
    del keep
    for b in (*ins, *packs, work):
        b.check()
    return [interpreted._dense(t, x, env) for t, x in zip(specs, first)]


def _before(t: Tensor, env: Mapping[str, int]) -> int:
    """Bytes that lie in front of a tensor's first element, where strides are negative."""
    return interpreted._reach(t, env)[3] * t.dtype.size


def _capture(launches: Sequence[tuple[str, list[int], int]]) -> tuple[Any, list[Any]]:
    """An executable graph of these launches, and what it needs to live."""
    d, keep = device(), []
    prepared = []
    for code, values, tiles in launches:
        loaded = Code(d, compiled(code), _libraries())
        unit = loaded.unit(0)
        if isinstance(unit, Kernel) and any(unit.unit.hidden):
            sizes = unit.hidden_bytes(tiles)
            hidden = [d.allocate(n, "a test") if n else None for n in sizes]
            keep.append(hidden)
            values = [*values, *(h.address if h else 0 for h in hidden)]
        keep.append(loaded)
        prepared.append((unit, values, tiles))
    stream = d.stream()
    for unit, values, tiles in prepared:
        if not isinstance(unit, Kernel):  # libraries load at their first launch what must not be loaded in a capture
            unit.launch(int(stream), values, tiles)
    d.synchronize(stream)
    mode = d.api.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
    d.check(d.api.cuStreamBeginCapture(stream, mode), "cuStreamBeginCapture")
    for unit, values, tiles in prepared:
        unit.launch(int(stream), values, tiles)
    graph = d.check(d.api.cuStreamEndCapture(stream), "cuStreamEndCapture")
    made = d.check(d.api.cuGraphInstantiate(graph, 0), "cuGraphInstantiate")
    d.check(d.api.cuGraphDestroy(graph), "cuGraphDestroy")
    d.check(d.api.cuStreamDestroy(stream), "cuStreamDestroy")
    return made, keep


class _Guarded:
    """A copy on the device, with 256 known bytes on either side."""

    def __init__(self, a: np.ndarray) -> None:
        self.like = np.ascontiguousarray(a)
        self.memory: DeviceMemory = device().allocate(self.like.nbytes + 512, "a test")
        self.address = self.memory.address + 256
        self._fill(np.full(self.like.nbytes + 512, 0x5A, np.uint8), self.memory.address)
        if self.like.nbytes:
            self._fill(self.like.reshape(-1).view(np.uint8), self.address)

    @staticmethod
    def _fill(raw: np.ndarray, address: int) -> None:
        d = device()
        with d.current():
            d.check(d.api.cuMemcpyHtoD(address, raw.ctypes.data, raw.nbytes), "cuMemcpyHtoD")

    def poison(self) -> None:
        if self.like.nbytes:
            self._fill(np.full(self.like.nbytes, 0xA5, np.uint8), self.address)

    def check(self) -> np.ndarray:
        """All bytes between the guards, which must be what they were."""
        d = device()
        whole = np.empty(self.like.nbytes + 512, np.uint8)
        with d.current():
            d.check(d.api.cuMemcpyDtoH(whole.ctypes.data, self.memory.address, whole.nbytes), "cuMemcpyDtoH")
        assert (whole[:256] == 0x5A).all(), "written in front of a buffer"
        assert (whole[256 + self.like.nbytes:] == 0x5A).all(), "written behind a buffer"
        return whole[256 : 256 + self.like.nbytes]

    def read(self) -> np.ndarray:
        """The data, as the array was."""
        return self.check().view(self.like.dtype) if self.like.nbytes else self.like.reshape(-1)
