"""The GPUs of this machine, asked of the driver without opening them: no context is made, no memory taken."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from whet.errors import DeviceError, DriverError, InputError, MissingExtraError, NoDeviceError
from whet.targets.cuda.gpu import Gpu, typical

OLDEST = 12030  # CUDA version of the driver (`runtime.cuda.driver` asks for the same)
INSTALL = 'pip install "whet[cuda]"'
ELSEWHERE = "build for a capability without a GPU (--target cuda:sm_90 --opt-level 0), or for the CPU"


def live(index: int = 0, libraries: Mapping[str, str] | None = None) -> Gpu | None:
    """The GPU of that number (as CUDA counts, CUDA_VISIBLE_DEVICES included), or None where there is none to use.

    libraries: versions of what can be called at run time (`cublas`, `cudnn`), for library tactics.
    """
    try:
        return require(index, libraries)
    except (DeviceError, MissingExtraError):
        return None


def visible(libraries: Mapping[str, str] | None = None) -> list[Gpu]:
    """Every GPU that this process may use."""
    try:
        d = _driver()
        count = int(_value(d, d.cuDeviceGetCount(), "counting GPUs"))
    except (DeviceError, MissingExtraError):
        return []
    return [_gpu(d, i, libraries or {}) for i in range(count)]


def require(index: int = 0, libraries: Mapping[str, str] | None = None) -> Gpu:
    """`live`, with the reason where there is none.

    MissingExtraError: no bindings. NoDeviceError: no driver, no GPU of that number. DriverError: too old a driver.
    """
    d = _driver()
    count = int(_value(d, d.cuDeviceGetCount(), "counting GPUs"))
    if not 0 <= index < count:
        raise NoDeviceError(f"there is no GPU {index}", why=f"this process sees {count}",
                            do="check the number, and CUDA_VISIBLE_DEVICES")
    return _gpu(d, index, libraries or {})


def parse(target: str) -> int | tuple[int, int]:
    """`cuda` -> 0, `cuda:1` -> 1 (a GPU of this machine), `cuda:sm_90` -> (9, 0) (a capability). InputError."""
    _, _, rest = target.partition(":")
    if not rest:
        return 0
    if rest.isdigit():
        return int(rest)
    digits = rest.removeprefix("sm_")
    try:
        capability = int(digits[:-1]), int(digits[-1])
        typical(capability)
    except (ValueError, KeyError, IndexError) as e:
        raise InputError(f"no target {target!r}", why="GPUs are named by number (cuda:0) or capability (cuda:sm_90), "
                         "from sm_75 on", do="use target='cuda' for this machine's GPU") from e
    return capability


def _driver() -> Any:
    try:
        from cuda.bindings import driver
    except ImportError as e:
        raise MissingExtraError("building for GPUs needs cuda-bindings, which is not installed", why=str(e),
                                do=f"{INSTALL}, or {ELSEWHERE}") from e
    try:
        (code,) = driver.cuInit(0)
    except Exception as e:  # each version has another class for "no libcuda"
        raise NoDeviceError("there is no NVIDIA driver", why=" ".join(str(e).split())[:300],
                            do=f"install NVIDIA's driver, or {ELSEWHERE}") from e
    if code:
        raise NoDeviceError("there is no NVIDIA GPU that this process may use", why=f"cuInit: {code.name}",
                            do=f"check nvidia-smi and CUDA_VISIBLE_DEVICES, or {ELSEWHERE}")
    version = int(_value(driver, driver.cuDriverGetVersion(), "the driver's version"))
    if version < OLDEST:
        raise DriverError(f"the driver is for CUDA {_version(version)}", why=f"plans need {_version(OLDEST)} or newer",
                          do="update NVIDIA's driver")
    return driver


def _gpu(d: Any, index: int, libraries: Mapping[str, str]) -> Gpu:
    handle = _value(d, d.cuDeviceGet(index), "cuDeviceGet")

    def attribute(name: str) -> int:
        which = getattr(d.CUdevice_attribute, f"CU_DEVICE_ATTRIBUTE_{name}")
        return int(_value(d, d.cuDeviceGetAttribute(which, handle), name))

    name = _value(d, d.cuDeviceGetName(128, handle), "cuDeviceGetName").split(b"\0")[0].decode()
    return Gpu((attribute("COMPUTE_CAPABILITY_MAJOR"), attribute("COMPUTE_CAPABILITY_MINOR")), name,
               attribute("MULTIPROCESSOR_COUNT"), attribute("MAX_SHARED_MEMORY_PER_BLOCK_OPTIN"),
               attribute("L2_CACHE_SIZE"), int(_value(d, d.cuDeviceTotalMem(handle), "cuDeviceTotalMem")),
               2e3 * attribute("MEMORY_CLOCK_RATE") * attribute("GLOBAL_MEMORY_BUS_WIDTH") / 8, driver_version(),
               dict(libraries), True)


def driver_version() -> str:
    """`580.65.06`, as the kernel's module tells it; "" where it does not."""
    with contextlib.suppress(OSError):
        for word in Path("/proc/driver/nvidia/version").read_text().split():
            if word[:1].isdigit() and "." in word:
                return word
    return ""


def _version(n: int) -> str:
    return f"{n // 1000}.{n % 1000 // 10}"


def _value(d: Any, result: tuple[Any, ...], what: str) -> Any:
    if result[0]:
        raise DeviceError("a call of the GPU's driver failed", where=what, why=result[0].name, do="see `whet doctor`")
    return result[1]
