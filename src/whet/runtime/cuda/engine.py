"""Engines of plans for GPUs."""

from __future__ import annotations

import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from whet.errors import InputError
from whet.plan import Plan, fingerprint, layout, manifest
from whet.runtime.cuda import libraries
from whet.runtime.cuda.code import Code
from whet.runtime.cuda.context import CudaContext
from whet.runtime.cuda.driver import Device, DeviceMemory
from whet.runtime.cuda.weights import upload
from whet.runtime.engine import Context, Engine, Feeds

LOADERS = 8  # threads that load kernels


class CudaEngine(Engine):
    """A plan on a GPU: its weights and code are there once, for all contexts."""

    def __init__(self, plan: Plan, threads: int | None = None, device: int = 0) -> None:
        if threads is not None and threads < 1:
            raise InputError(f"threads={threads}", why="a plan for a GPU has no threads", do="leave it out")
        built = plan.manifest.target.device
        assert built is not None
        self.device = Device.open(device)
        p = self.device.properties
        here = manifest.Device(p.name, p.capability, driver=p.driver or p.cuda,
                               libraries=libraries.versions(built.uses))
        fingerprint.check(plan.manifest.target, here)
        self._allocated: weakref.WeakSet[DeviceMemory] = weakref.WeakSet()
        self._prepare(plan)
        self.memory_limit = int(p.memory_bytes * 0.8)
        self._weights = upload(plan, self.device, self.allocate)
        self._code = Code(self.device, plan.section(layout.CODE))
        self._load_code(plan)

    def __call__(self, feeds: Feeds, out: Feeds | None = None, *, device: bool = False, stream: Any = None
                 ) -> dict[str, Any]:
        """As of `Engine`; `device` and `stream` as of `CudaContext.run`."""
        if self._programs[0].states:
            raise self._has_states()
        ctx = self._take()
        assert isinstance(ctx, CudaContext)
        try:
            return ctx.run(feeds, out, device=device, stream=stream)
        finally:
            self._idle.append(ctx)

    def allocate(self, size: int, purpose: str) -> DeviceMemory:
        """Memory of the device that counts as the engine's. DeviceMemoryError tells what it was for."""
        made = self.device.allocate(size, purpose)
        self._allocated.add(made)
        return made

    def context(self) -> Context:
        """As of `Engine`. LostDeviceError once the device was lost."""
        self.device.alive()
        return super().context()

    def _new_context(self) -> Context:
        return CudaContext(self)

    @property
    def threads(self) -> int:
        """Threads of the host that a run uses: the caller."""
        return 1

    @property
    def device_bytes(self) -> int:
        """Memory of the GPU that the engine and its contexts hold now: weights, activations, inputs, outputs, states
        (not the driver's own for code and graphs)."""
        return sum(m.size for m in list(self._allocated) if m.close.alive)

    def close(self) -> None:
        """End the contexts (waiting for runs in progress), and give the device's memory back."""
        self._end_contexts()
        self._weights.close()
        self._code.close()

    def __repr__(self) -> str:
        return f"<whet.Engine of {self.plan!r} on GPU {self.device.index}, {self.device.properties.name}>"

    def _load_code(self, plan: Plan) -> None:
        """All kernels, in threads: the first run must not wait for them one after the other."""
        offsets = sorted({int(e) for e in plan.contents.steps["entry"].tolist()})
        if not offsets:
            return
        with ThreadPoolExecutor(min(LOADERS, len(offsets)), "whet-load") as pool:
            for _ in pool.map(self._code.unit, offsets):
                pass
