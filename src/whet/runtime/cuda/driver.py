"""The CUDA driver, as much of it as plans need: devices, memory, streams, events and graphs, every call checked.

The primary context of a device is used, as all libraries do. Handles are those of `cuda.bindings.driver`, which is
imported when a device is opened, never before.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from whet.errors import DeviceError, DeviceMemoryError, DriverError, LostDeviceError, MissingExtraError, NoDeviceError

OLDEST = 12030  # CUDA version of the driver: kernels that launch early in captured graphs came with 12.3
INSTALL = 'pip install "whet[cuda]"'
# After one of these, every call in the context fails until the process ends (CUresult, from cuda.h).
STICKY = frozenset({214, 220, 226, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 721, 999})
_MEMORY, _NO_DEVICE, _NOT_INITIALIZED, _GONE = 2, 100, 3, 4
_DRIVER = frozenset({34, 222, 803, 804})  # stub library, unsupported PTX version, mismatch, compatibility not there
_KEPT = 64 << 20  # bytes of freed results that a device's pool keeps
_devices: dict[int, Device] = {}
_guard = threading.Lock()
_thread = threading.local()


def api() -> Any:
    """The module `cuda.bindings.driver`, initialized. MissingExtraError, NoDeviceError or DriverError."""
    try:
        from cuda.bindings import driver
    except ImportError as e:
        raise MissingExtraError("plans for GPUs need cuda-bindings, which is not installed", why=str(e),
                                do=INSTALL) from e
    try:
        (code,) = driver.cuInit(0)
    except Exception as e:  # each version has another class for "no libcuda"
        raise NoDeviceError("there is no NVIDIA driver", why=" ".join(str(e).split())[:300],
                            do="install NVIDIA's driver, or build the plan for the CPU") from e
    if code == _NO_DEVICE:
        raise NoDeviceError("there is no NVIDIA GPU that this process may use", why="cuInit found none",
                            do="check nvidia-smi and CUDA_VISIBLE_DEVICES")
    _check(driver, code, "cuInit")
    version = _value(driver, driver.cuDriverGetVersion(), "cuDriverGetVersion")
    if version < OLDEST:
        raise DriverError(f"the driver is for CUDA {version // 1000}.{version % 1000 // 10}",
                          why=f"plans need one for {OLDEST // 1000}.{OLDEST % 1000 // 10} or newer",
                          do="update NVIDIA's driver")
    return driver


def device_count() -> int:
    """GPUs that this process may use. Errors as of `api`."""
    d = api()
    n: int = _value(d, d.cuDeviceGetCount(), "cuDeviceGetCount")
    return n


def cuda_version(driver: Any) -> str:
    """`13.0`: the newest CUDA that the driver knows."""
    n = _value(driver, driver.cuDriverGetVersion(), "cuDriverGetVersion")
    return f"{n // 1000}.{n % 1000 // 10}"


def driver_version() -> str:
    """`580.65.06`, as the kernel's module tells it; "" where it does not."""
    with contextlib.suppress(OSError):
        for word in Path("/proc/driver/nvidia/version").read_text().split():
            if word[:1].isdigit() and word.count(".") >= 1:
                return word
    return ""


@dataclass(frozen=True)
class Properties:
    """What a GPU is. `bandwidth` in bytes a second, by its memory's clock and width; `shared_bytes` of one program;
    `driver` is its version (`580.65.06`, or ""), `cuda` the newest CUDA that it knows (`13.0`); clocks in MHz."""

    name: str
    capability: tuple[int, int]
    multiprocessors: int
    shared_bytes: int
    l2_bytes: int
    memory_bytes: int
    bandwidth: float
    driver: str
    cuda: str
    sm_clock: int = 0
    memory_clock: int = 0

    @property
    def arch(self) -> str:
        """`sm_90`."""
        return f"sm_{self.capability[0]}{self.capability[1]}"


class Device:
    """A GPU of this process, opened once. `index` as CUDA counts (CUDA_VISIBLE_DEVICES included)."""

    @staticmethod
    def open(index: int = 0) -> Device:
        """The device of that number. NoDeviceError where there are fewer; LostDeviceError if it was lost before."""
        with _guard:
            found = _devices.get(index)
            if found is None or found._pid != os.getpid():
                d = api()
                count = _value(d, d.cuDeviceGetCount(), "cuDeviceGetCount")
                if not 0 <= index < count:
                    raise NoDeviceError(f"there is no GPU {index}", why=f"this process sees {count}",
                                        do="check the number, and CUDA_VISIBLE_DEVICES")
                found = _devices[index] = Device(index, d)
        found.alive()
        return found

    def __init__(self, index: int, driver: Any) -> None:
        self.index, self.api, self._pid = index, driver, os.getpid()
        self.lost: LostDeviceError | None = None
        self._pool: Any = None
        self._lock = threading.Lock()
        self.handle = _value(driver, driver.cuDeviceGet(index), "cuDeviceGet")
        code, self.context = driver.cuDevicePrimaryCtxRetain(self.handle)
        if code == _MEMORY:
            raise DeviceMemoryError(f"GPU {index} has no memory left even for a context", why="others use it",
                                    do="end what uses it (nvidia-smi lists it)")
        _check(driver, code, "cuDevicePrimaryCtxRetain")
        self.properties = self._properties()

    def _properties(self) -> Properties:
        d, a = self.api, self.api.CUdevice_attribute

        def attribute(name: str) -> int:
            which = getattr(a, f"CU_DEVICE_ATTRIBUTE_{name}")
            return int(_value(d, d.cuDeviceGetAttribute(which, self.handle), name))

        name = _value(d, d.cuDeviceGetName(128, self.handle), "cuDeviceGetName")
        clock, width = attribute("MEMORY_CLOCK_RATE"), attribute("GLOBAL_MEMORY_BUS_WIDTH")
        return Properties(
            name.split(b"\0")[0].decode(),
            (attribute("COMPUTE_CAPABILITY_MAJOR"), attribute("COMPUTE_CAPABILITY_MINOR")),
            attribute("MULTIPROCESSOR_COUNT"), attribute("MAX_SHARED_MEMORY_PER_BLOCK_OPTIN"),
            attribute("L2_CACHE_SIZE"), int(_value(d, d.cuDeviceTotalMem(self.handle), "cuDeviceTotalMem")),
            2e3 * clock * width / 8, driver_version(), cuda_version(d), attribute("CLOCK_RATE") // 1000, clock // 1000)

    # -- calls ---------------------------------------------------------------------------------------

    def alive(self) -> None:
        """LostDeviceError if the device was lost."""
        if self.lost is not None:
            raise LostDeviceError(self.lost.what, where=self.lost.where, why=self.lost.why, do=self.lost.do)

    def check(self, result: tuple[Any, ...], what: str) -> Any:
        """What a driver's call gave besides its code; `what` names the call. The DeviceError of the code."""
        if result[0]:
            self.fail(result[0], what)
        return result[1] if len(result) == 2 else result[1:]

    def fail(self, code: Any, what: str) -> None:
        """Raise what a code other than 0 means."""
        if int(code) in STICKY:
            name, words = _text(self.api, code)
            self.lost = LostDeviceError(
                f"GPU {self.index} was lost", where=what, why=f"{words} ({name})",
                do="start the process anew; if it happens again, report the plan")
        self.alive()
        if int(code) == _MEMORY:
            free, total = self.memory()
            raise DeviceMemoryError(f"GPU {self.index} is out of memory", where=what,
                                    why=f"{free >> 20} MiB of {total >> 20} are free",
                                    do="end what else uses it, or build the plan for smaller shapes")
        _check(self.api, code, what)

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """Within this, the calling thread works on this device; then on the one from before."""
        d = self.api
        code = d.cuCtxPushCurrent(self.context)[0]
        if code:
            self.fail(code, "cuCtxPushCurrent")
        try:
            yield
        finally:
            d.cuCtxPopCurrent()

    def memory(self) -> tuple[int, int]:
        """Free bytes and all, (0, 0) if it cannot be told."""
        with contextlib.suppress(DeviceError), self.current():
            code, free, total = self.api.cuMemGetInfo()
            return (0, 0) if code else (int(free), int(total))
        return 0, 0

    # -- what is made --------------------------------------------------------------------------------

    def allocate(self, size: int, purpose: str) -> DeviceMemory:
        """`size` bytes, not cleared, at a multiple of 256. DeviceMemoryError tells what was needed and what is free."""
        d = self.api
        with self.current():
            code, address = d.cuMemAlloc(max(size, 1))
            if code == _MEMORY:
                free, total = self.memory()
                raise DeviceMemoryError(
                    f"GPU {self.index} has no memory for {purpose}",
                    why=f"it takes {-(-size >> 20)} MiB, of {total >> 20} MiB {free >> 20} are free",
                    do="end what else uses the GPU, or build the plan for smaller shapes")
            if code:
                self.fail(code, "cuMemAlloc")
        return DeviceMemory(self, int(address), size)

    def allocate_ordered(self, size: int, stream: Any) -> int:
        """The address of `size` bytes for work on a stream, from a pool that keeps what it has got; to be given back by
        cuMemFreeAsync or cuMemFree. The device's context is current."""
        d = self.api
        with self._lock:
            if self._pool is None:
                about = d.CUmemPoolProps()
                about.allocType = d.CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_PINNED
                about.location.type = d.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
                about.location.id = self.index
                self._pool = self.check(d.cuMemPoolCreate(about), "cuMemPoolCreate")
                keep = d.CUmemPool_attribute.CU_MEMPOOL_ATTR_RELEASE_THRESHOLD
                self.check(d.cuMemPoolSetAttribute(self._pool, keep, d.cuuint64_t(_KEPT)), "cuMemPoolSetAttribute")
        return int(self.check(d.cuMemAllocFromPoolAsync(max(size, 1), self._pool, stream), "memory for a result"))

    def pinned(self, size: int) -> Pinned:
        """Host memory that the device reads and writes directly."""
        with self.current():
            address = self.check(self.api.cuMemHostAlloc(max(size, 1), 1), "cuMemHostAlloc")  # 1: of all contexts
        return Pinned(self, int(address), size)

    def stream(self) -> Any:
        """A stream that does not wait for the default one; goes with what `owner` of it keeps (see `Owned`)."""
        with self.current():
            return self.check(self.api.cuStreamCreate(1), "cuStreamCreate")  # CU_STREAM_NON_BLOCKING

    def event(self, timing: bool = False, blocking: bool = False) -> Any:
        """An event; `timing`: one that tells times; `blocking`: who waits for it sleeps instead of spinning."""
        with self.current():
            flags = (0 if timing else 2) | (1 if blocking else 0)  # CUevent_flags
            return self.check(self.api.cuEventCreate(flags), "cuEventCreate")

    def synchronize(self, stream: Any) -> None:
        """Wait until a stream has done all that it was given."""
        code = self.api.cuStreamSynchronize(stream)[0]
        if code:
            self.fail(code, "a run")

    def probe(self, stream: Any) -> None:
        """LostDeviceError if the device is lost; work in progress is not waited for."""
        code = self.api.cuStreamQuery(stream)[0]
        if code and int(code) in STICKY:
            self.fail(code, "a run")

    def pointer(self, address: int) -> tuple[int, int]:
        """(memory type: 1 of the host, 2 of a device, 0 unknown to CUDA; number of the device)."""
        d, a = self.api, self.api.CUpointer_attribute
        with self.current():
            code, kind = d.cuPointerGetAttribute(a.CU_POINTER_ATTRIBUTE_MEMORY_TYPE, address)
            if code:
                return 0, -1
            code, managed = d.cuPointerGetAttribute(a.CU_POINTER_ATTRIBUTE_IS_MANAGED, address)
            if not code and int(managed):
                return 2, self.index
            number = self.check(d.cuPointerGetAttribute(a.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, address),
                                "cuPointerGetAttribute")
        return int(kind), int(number)


class _Held:
    """A resource that goes with the object, in the process that made it."""

    def __init__(self, device: Device, how: str, handle: Any) -> None:
        self.close = weakref.finalize(self, release, device, how, handle)
        self.close.atexit = False  # the end of the process frees all of it


class DeviceMemory(_Held):
    """Bytes at `address` of a device; freed by `close()` or with the object."""

    def __init__(self, device: Device, address: int, size: int) -> None:
        self.device, self.address, self.size = device, address, size
        super().__init__(device, "cuMemFree", address)


class Pinned(_Held):
    """Page-locked host memory; `bytes` is an array over it."""

    def __init__(self, device: Device, address: int, size: int) -> None:
        self.address, self.size = address, size
        self.bytes: np.ndarray = np.ctypeslib.as_array((ctypes.c_uint8 * max(size, 1)).from_address(address))[:size]
        super().__init__(device, "cuMemFreeHost", address)


class Owned(_Held):
    """A stream, event or graph that goes with this object; `handle` is the driver's."""

    def __init__(self, device: Device, handle: Any) -> None:
        self.handle = handle
        super().__init__(device, _RELEASE[type(handle).__name__], handle)


_RELEASE = {"CUstream": "cuStreamDestroy", "CUevent": "cuEventDestroy", "CUgraph": "cuGraphDestroy",
            "CUgraphExec": "cuGraphExecDestroy", "CUmodule": "cuModuleUnload"}


def release(device: Device, how: str, *handle: Any) -> None:
    """Give a resource back by that call. While this thread captures a graph, where the garbage collector may come, that
    would break the capture: it is put off."""
    if os.getpid() != device._pid:
        return  # a forked child has no context
    put_off = getattr(_thread, "put_off", None)
    if put_off is not None:
        put_off.append((device, how, *handle))
        return
    with contextlib.suppress(DeviceError), device.current():
        getattr(device.api, how)(*handle)  # of a lost device nothing can be freed


@contextlib.contextmanager
def capturing() -> Iterator[None]:
    """Within this the calling thread gives nothing back."""
    _thread.put_off = []
    try:
        yield
    finally:
        put_off, _thread.put_off = _thread.put_off, None
        for what in put_off:
            release(*what)


def _text(driver: Any, code: Any) -> tuple[str, str]:
    """A code's name, and the driver's words for it."""
    name, words = driver.cuGetErrorName(code), driver.cuGetErrorString(code)
    return tuple((r[1].decode() if not r[0] and r[1] else f"code {int(code)}") for r in (name, words))  # type: ignore


def _check(driver: Any, code: Any, what: str) -> None:
    if not code:
        return
    name, words = _text(driver, code)
    number = int(code)
    if number in (_NOT_INITIALIZED, _GONE):
        raise DeviceError("the GPU cannot be used here", where=what,
                          why=f"{words} ({name}): a forked process cannot use what its parent opened",
                          do="load the plan in the child, and start that by spawn")
    if number in _DRIVER:
        raise DriverError("the driver does not fit", where=what, why=f"{words} ({name})", do="update NVIDIA's driver")
    raise DeviceError("a call of the GPU's driver failed", where=what, why=f"{words} ({name})",
                      do="see `whet doctor`")


def _value(driver: Any, result: tuple[Any, ...], what: str) -> Any:
    _check(driver, result[0], what)
    return result[1]
