"""What the driver is asked before anything is built, and what is said where it cannot answer."""

from __future__ import annotations

import enum
import sys
import types
from typing import Any

import pytest

from whet.errors import DriverError, InputError, MissingExtraError, NoDeviceError, WhetError
from whet.targets.cuda import device


class Code(enum.IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_NO_DEVICE = 100


class Attribute(enum.Enum):
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 9
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = 0
    CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT = 132
    CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN = 232448
    CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE = 52428800
    CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE = 2619000
    CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH = 5120


def driver(count: int = 2, version: int = 13000, init: Any = Code.CUDA_SUCCESS) -> types.ModuleType:
    """A driver's bindings for H100s."""
    made: Any = types.ModuleType("cuda.bindings.driver")
    ok = Code.CUDA_SUCCESS

    def cu_init(flags: int) -> tuple[Any]:
        if isinstance(init, Exception):
            raise init
        return (init,)

    made.cuInit = cu_init
    made.cuDriverGetVersion = lambda: (ok, version)
    made.cuDeviceGetCount = lambda: (ok, count)
    made.cuDeviceGet = lambda i: (ok, i)
    made.cuDeviceGetName = lambda size, d: (ok, b"NVIDIA H100 80GB HBM3\0\0")
    made.cuDeviceTotalMem = lambda d: (ok, 80 << 30)
    made.CUdevice_attribute = Attribute
    made.cuDeviceGetAttribute = lambda which, d: (ok, which.value)
    return made


def install(monkeypatch: pytest.MonkeyPatch, module: types.ModuleType | None) -> None:
    package: Any = types.ModuleType("cuda.bindings")
    if module is not None:
        package.driver = module
    monkeypatch.setitem(sys.modules, "cuda", types.ModuleType("cuda"))
    monkeypatch.setitem(sys.modules, "cuda.bindings", package)
    if module is not None:
        monkeypatch.setitem(sys.modules, "cuda.bindings.driver", module)
    else:
        monkeypatch.delitem(sys.modules, "cuda.bindings.driver", raising=False)


def test_a_gpu_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, driver())
    gpu = device.live(1, {"cudnn": "9.19.0"})
    assert gpu is not None
    assert (gpu.name, gpu.arch) == ("NVIDIA H100 80GB HBM3", "sm_90")
    assert (gpu.multiprocessors, gpu.shared_bytes) == (132, 232448)
    assert (gpu.memory_bytes, gpu.l2_bytes, gpu.libraries, gpu.live) == (80 << 30, 50 << 20, {"cudnn": "9.19.0"}, True)
    assert gpu.bandwidth == pytest.approx(3.35e12, rel=0.01)
    assert len(device.visible()) == 2


@pytest.mark.parametrize(("module", "error", "why"), [
    (None, MissingExtraError, ""),
    (driver(init=RuntimeError("libcuda.so.1 not found")), NoDeviceError, "libcuda.so.1 not found"),
    (driver(init=Code.CUDA_ERROR_NO_DEVICE), NoDeviceError, "CUDA_ERROR_NO_DEVICE"),
    (driver(count=0), NoDeviceError, "sees 0"),
    (driver(version=12000), DriverError, "12.3"),
])
def test_where_there_is_none_the_error_says_why(monkeypatch: pytest.MonkeyPatch, module: Any, error: type[WhetError],
                                                why: str) -> None:
    install(monkeypatch, module)
    with pytest.raises(error) as e:
        device.require()
    assert why in e.value.why
    assert e.value.do
    assert device.live() is None
    assert device.visible() == []


@pytest.mark.parametrize(("target", "want"), [
    ("cuda", 0), ("cuda:3", 3), ("cuda:sm_90", (9, 0)), ("cuda:sm_120", (12, 0))])
def test_targets_name_a_gpu_or_a_capability(target: str, want: object) -> None:
    assert device.parse(target) == want


@pytest.mark.parametrize("target", ["cuda:sm_", "cuda:sm_33", "cuda:hopper", "cuda:-1", "cuda:sm_9x"])
def test_other_names_are_refused(target: str) -> None:
    with pytest.raises(InputError):
        device.parse(target)
