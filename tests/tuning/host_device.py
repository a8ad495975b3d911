"""A GPU of host memory: copies and launches happen at once, graphs remember launches. For tests of the bench.

A unit's object is its name and microseconds, `name:us`; `doings` has what a name does with a launch's values.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from whet.runtime.cuda.driver import DeviceMemory


class CUstream:
    def __int__(self) -> int:
        return 1


class CUevent:
    time = 0.0


class CUgraphExec(list):  # type: ignore[type-arg]
    """Launches."""


class Api:
    """As much of `cuda.bindings.driver` as the bench calls."""

    CUstreamCaptureMode = SimpleNamespace(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL=1)

    def __init__(self, device: HostDevice) -> None:
        self.device = device

    def __getattr__(self, name: str) -> Callable[..., tuple[int]]:
        return lambda *_: (0,)

    def cuMemcpyHtoDAsync(self, to: int, source: int, size: int, stream: Any) -> tuple[int]:
        self.device.inside(to, size)
        ctypes.memmove(to, source, size)
        return (0,)

    def cuMemcpyDtoDAsync(self, to: int, source: int, size: int, stream: Any) -> tuple[int]:
        self.device.inside(to, size)
        self.device.inside(source, size)
        ctypes.memmove(to, source, size)
        return (0,)

    def cuMemcpyDtoH(self, to: int, source: int, size: int) -> tuple[int]:
        self.device.inside(source, size)
        ctypes.memmove(to, source, size)
        return (0,)

    def cuMemsetD8Async(self, to: int, value: int, size: int, stream: Any) -> tuple[int]:
        self.device.inside(to, size)
        ctypes.memset(to, value, size)
        return (0,)

    def cuMemFree(self, address: int) -> tuple[int]:
        del self.device.blocks[address]
        return (0,)

    def cuStreamBeginCapture(self, stream: Any, mode: int) -> tuple[int]:
        self.device.captured = []
        return (0,)

    def cuStreamEndCapture(self, stream: Any) -> tuple[int, Any]:
        done, self.device.captured = self.device.captured, None
        return 0, done

    def cuGraphInstantiate(self, graph: Any, flags: int) -> tuple[int, CUgraphExec]:
        return 0, CUgraphExec(graph)

    def cuEventRecord(self, event: CUevent, stream: Any) -> tuple[int]:
        event.time = self.device.clock
        return (0,)

    def cuEventElapsedTime(self, begin: CUevent, end: CUevent) -> tuple[int, float]:
        return 0, (end.time - begin.time) * 1e3

    def cuGraphLaunch(self, graph: CUgraphExec, stream: Any) -> tuple[int]:
        for go in graph:
            go()
        return (0,)


class HostDevice:
    """In the place of `runtime.cuda.driver.Device`."""

    def __init__(self, l2_bytes: int = 1 << 16) -> None:
        self.api, self._pid, self.index = Api(self), os.getpid(), 0
        self.properties = SimpleNamespace(l2_bytes=l2_bytes, memory_bytes=1 << 24)
        self.blocks: dict[int, np.ndarray] = {}
        self.captured: list[Callable[[], None]] | None = None
        self.clock = 0.0
        self.most = 0

    def allocate(self, size: int, purpose: str) -> DeviceMemory:
        a = np.zeros(max(size, 1), np.uint8)
        self.blocks[a.ctypes.data] = a
        self.most = max(self.most, sum(b.nbytes for b in self.blocks.values()))
        return DeviceMemory(self, a.ctypes.data, size)  # type: ignore[arg-type]

    def inside(self, address: int, size: int) -> None:
        """Bytes that are touched must be of one block."""
        assert any(at <= address and address + size <= at + b.nbytes for at, b in self.blocks.items()), "outside"

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        yield

    def check(self, result: tuple[Any, ...], what: str) -> Any:
        assert result[0] == 0, what
        return result[1] if len(result) == 2 else result[1:]

    def stream(self) -> CUstream:
        return CUstream()

    def event(self, timing: bool = False) -> CUevent:
        return CUevent()

    def synchronize(self, stream: Any) -> None:
        pass


class HostCode:
    """In the place of `runtime.cuda.code.Code`."""

    doings: dict[str, Callable[[HostDevice, Sequence[int], int], None]] = {}

    def __init__(self, device: HostDevice, raw: bytes, libraries: Any) -> None:
        self.device, self.raw = device, raw

    def unit(self, offset: int) -> Any:
        name, us = self.raw.decode().split(":")
        return HostUnit(self.device, HostCode.doings[name], float(us))


class HostUnit:
    def __init__(self, device: HostDevice, does: Callable[[HostDevice, Sequence[int], int], None], us: float) -> None:
        self.device, self.does, self.us = device, does, us

    def launch(self, stream: int, values: Sequence[int], tiles: int) -> None:
        values = list(values)

        def go() -> None:
            self.does(self.device, values, tiles)
            self.device.clock += self.us * 1e-6

        if self.device.captured is None:
            go()
        else:
            self.device.captured.append(go)
