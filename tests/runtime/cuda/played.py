"""A driver that is played: the device's memory is the host's, work is done when it is given to a stream, captured work
when its graph is launched. Enough of it to run the plans of `gpu_plans` without a GPU.

Fresh memory is full of ones: NaN as float32, so what should not be read shows.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from whet.runtime.cuda import driver
from whet.targets.cuda.gpu import typical

GPU = typical((9, 0))


class CUstream(int):
    pass


class CUevent(int):
    pass


class CUgraphExec(int):
    pass


class Played:
    """The driver's calls that the runtime makes. `graphs`: how many were made; `launched`: how many launches went to
    streams by themselves, `moves`: copies within the device."""

    CUstream = CUstream
    CUstreamCaptureMode = SimpleNamespace(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL=1)
    CUmemPoolProps = staticmethod(lambda: SimpleNamespace(location=SimpleNamespace()))
    CUmemAllocationType = SimpleNamespace(CU_MEM_ALLOCATION_TYPE_PINNED=1)
    CUmemLocationType = SimpleNamespace(CU_MEM_LOCATION_TYPE_DEVICE=1)
    CUmemPool_attribute = SimpleNamespace(CU_MEMPOOL_ATTR_RELEASE_THRESHOLD=1)
    cuuint64_t = int

    def __init__(self) -> None:
        self.memory: dict[int, Any] = {}
        self.gone: list[tuple[int, int, Any]] = []
        self.capture: list[Callable[[], None]] | None = None
        self.made: dict[int, list[Callable[[], None]]] = {}
        self.graphs = self.launched = self.moves = self._last = 0

    def work(self, go: Callable[[], None]) -> None:
        """Now, or with the graph that is being captured."""
        if self.capture is not None:
            self.capture.append(go)
        else:
            self.launched += 1
            go()

    def _number(self) -> int:
        self._last += 1
        return self._last

    def __getattr__(self, name: str) -> Any:
        if name.startswith("cu"):  # events, streams, contexts: everything is in order
            return lambda *_: (0, self._number())
        raise AttributeError(name)

    def cuCtxPushCurrent(self, _: Any) -> tuple[int]:
        return (0,)

    def cuMemAlloc(self, size: int) -> tuple[int, int]:
        raw = ctypes.create_string_buffer(b"\xff" * (size + 256), size + 256)
        address = -(-ctypes.addressof(raw) // 256) * 256
        self.memory[address] = raw
        return 0, address

    def cuMemHostAlloc(self, size: int, _: int) -> tuple[int, int]:
        return self.cuMemAlloc(size)

    def cuMemAllocFromPoolAsync(self, size: int, *_: Any) -> tuple[int, int]:
        return self.cuMemAlloc(size)

    def _free(self, address: int, *_: Any) -> tuple[int]:
        raw = self.memory.pop(address)
        self.gone.append((ctypes.addressof(raw), ctypes.addressof(raw) + len(raw), raw))  # never given out again
        return (0,)

    def there(self, *addresses: int) -> None:
        """Nothing may be read or written that has been given back."""
        for a in addresses:
            assert not any(start <= a < end for start, end, _ in self.gone), "memory that was given back"

    cuMemFree = cuMemFreeHost = cuMemFreeAsync = _free

    def _copy(self, to: int, source: int, size: int, *_: Any) -> tuple[int]:
        self.there(to, source)
        ctypes.memmove(to, source, size)
        return (0,)

    cuMemcpyHtoDAsync = cuMemcpyDtoHAsync = cuMemcpyDtoH = _copy

    def cuMemcpyDtoDAsync(self, *what: Any) -> tuple[int]:
        self.moves += 1
        return self._copy(*what)

    def cuStreamCreate(self, _: int) -> tuple[int, CUstream]:
        return 0, CUstream(self._number())

    def cuEventCreate(self, _: int) -> tuple[int, CUevent]:
        return 0, CUevent(self._number())

    def cuStreamBeginCapture(self, *_: Any) -> tuple[int]:
        self.capture = []
        return (0,)

    def cuStreamEndCapture(self, _: Any) -> tuple[int, int]:
        number = self._number()
        self.made[number], self.capture = self.capture or [], None
        return 0, number

    def cuGraphInstantiate(self, graph: int, _: int) -> tuple[int, CUgraphExec]:
        made = CUgraphExec(self._number())
        self.made[made] = self.made[graph]
        self.graphs += 1
        return 0, made

    def cuGraphLaunch(self, graph: int, _: Any) -> tuple[int]:
        for go in self.made[graph]:
            go()
        return (0,)


def device() -> driver.Device:
    """A GPU that is played."""
    d = driver.Device.__new__(driver.Device)
    d.index, d.api, d.context, d.lost, d._pool, d._lock = 0, Played(), None, None, None, threading.Lock()
    d._pid = driver.os.getpid()
    d.properties = driver.Properties(GPU.name, GPU.capability, 1, 0, 0, 80 << 30, 0.0, GPU.driver, "13.0")
    return d


class Scale:
    """The kernel of `gpu_plans.kernel`, on the host: x, w, out, columns; a tile is a row."""

    def __init__(self, api: Played) -> None:
        self.api = api

    def launch(self, stream: int, values: Sequence[int], tiles: int) -> None:
        x, w, out, columns = values

        def at(address: int, rows: int) -> np.ndarray:
            return np.ctypeslib.as_array((ctypes.c_float * (rows * columns)).from_address(address)).reshape(
                rows, columns)

        def go() -> None:
            self.api.there(x, w, out)
            at(out, tiles)[...] = at(x, tiles) * np.float32(2) + at(w, 1)

        self.api.work(go)
