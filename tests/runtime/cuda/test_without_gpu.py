"""What can be said of the CUDA runtime without a GPU: imports, errors, what the driver's codes mean."""

from __future__ import annotations

import ctypes
import subprocess
import sys
import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from runtime.cuda.gpu_plans import chain
from runtime.tiny_plans import chain as cpu_chain
from targets.cuda.on_device import missing
from whet import abi_cudnn
from whet.compare import devices
from whet.errors import (
    DeviceError,
    DeviceMemoryError,
    DriverError,
    FingerprintError,
    InputError,
    LostDeviceError,
    MissingExtraError,
    NoDeviceError,
    WhetError,
)
from whet.plan.manifest import np_dtype
from whet.runtime.cuda import arrays, driver, order
from whet.runtime.engine import load_data
from whet.runtime.feeds import Pointer, borrow, in_capsule
from whet.targets.cuda.gpu import typical

HEAVY = ["torch", "triton", "llvmlite", "onnx", "cupy", "cuda", "nvmath", "cudnn"]


def test_nothing_heavy_is_imported_before_a_device_is_opened() -> None:
    program = ("import sys, pkgutil, importlib, whet.runtime.cuda as c\n"
               "for m in pkgutil.iter_modules(c.__path__): importlib.import_module('whet.runtime.cuda.' + m.name)\n"
               f"print(sorted({{m.split('.')[0] for m in sys.modules}} & set({HEAVY})))")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


@pytest.mark.skipif(not missing(), reason="there is a GPU")
def test_a_plan_for_gpus_says_what_is_missing() -> None:
    with pytest.raises((NoDeviceError, MissingExtraError)) as e:
        load_data(chain(typical((9, 0))))
    assert e.value.do


def test_a_plan_for_the_cpu_has_no_device() -> None:
    with pytest.raises(InputError, match="device=1") as e:
        load_data(cpu_chain(), device=1)
    assert "cuda" in e.value.do


class Fake:
    """A driver whose every call gives this code."""

    def __init__(self, code: int) -> None:
        self.code = code

    def __getattr__(self, name: str) -> Any:
        if name in ("cuGetErrorName", "cuGetErrorString"):
            return lambda code: (0, f"{name} {int(code)}".encode())
        if name in ("cuCtxPushCurrent", "cuCtxPopCurrent"):
            return lambda *_: (0,)
        if name == "cuMemGetInfo":
            return lambda: (0, 5 << 20, 80 << 30)
        return lambda *_: (self.code, 0)


def opened(code: int) -> driver.Device:
    d = driver.Device.__new__(driver.Device)
    d.index, d.api, d.context, d.lost, d._pid, d._lock = 0, Fake(code), None, None, -1, threading.Lock()
    return d


@pytest.mark.parametrize(("code", "kind"), [
    (2, DeviceMemoryError), (3, DeviceError), (4, DeviceError), (34, DriverError), (803, DriverError), (1, DeviceError),
    (700, LostDeviceError), (719, LostDeviceError), (214, LostDeviceError)])
def test_codes_are_typed_errors(code: int, kind: type[WhetError]) -> None:
    d = opened(code)
    with pytest.raises(kind) as e:
        d.synchronize(None)
    assert type(e.value) is kind
    assert f"cuGetErrorName {code}" in e.value.why or kind is DeviceMemoryError
    assert e.value.do


def test_a_lost_device_stays_lost() -> None:
    d = opened(700)
    with pytest.raises(LostDeviceError):
        d.synchronize(None)
    d.api.code = 1
    for _ in range(2):
        with pytest.raises(LostDeviceError, match="GPU 0 was lost"):
            d.synchronize(None)
    with pytest.raises(LostDeviceError):
        d.alive()


def test_no_memory_tells_what_was_needed_and_what_is_free() -> None:
    with pytest.raises(DeviceMemoryError, match="the plan's weights") as e:
        opened(2).allocate(7 << 20, "the plan's weights")
    assert "7 MiB" in e.value.why
    assert "81920 MiB 5 are free" in e.value.why


def test_what_is_no_stream_is_refused() -> None:
    d = SimpleNamespace(api=SimpleNamespace(CUstream=int))
    assert order.stream_of(d, SimpleNamespace(cuda_stream=7)) == 7  # type: ignore[arg-type]
    assert order.stream_of(d, SimpleNamespace(ptr=8)) == 8  # type: ignore[arg-type]
    assert order.stream_of(d, SimpleNamespace(__cuda_stream__=lambda: (0, 9))) == 9  # type: ignore[arg-type]
    with pytest.raises(InputError, match="stream='x'"):
        order.stream_of(d, "x")  # type: ignore[arg-type]


def test_tensors_on_a_gpu_are_known_and_no_host_tensors() -> None:
    there = Pointer(256, (2,), "float32", device=0)
    assert arrays.on_device(there)
    assert not arrays.on_device(Pointer(256, (2,), "float32"))
    assert not arrays.on_device(np.zeros(2))
    with pytest.raises(InputError, match="CPU"):
        borrow(there, np.dtype("float32"), "x")


class Exported:
    """As arrays of CUDA say where they are."""

    def __init__(self, device: int, **told: Any) -> None:
        self.device = device
        self.__cuda_array_interface__ = {"shape": (2, 3), "typestr": "<f4", "data": (0, False), "version": 3} | told

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, self.device


def test_a_tensor_of_another_gpu_says_what_to_do() -> None:
    with pytest.raises(InputError, match="on GPU 1") as e:
        arrays.borrow_device(Exported(1), np.dtype("float32"), opened(0), 0, "the input 'x'")
    assert "device=1" in e.value.do


def test_the_array_interface_is_read() -> None:
    d, kind = opened(0), np.dtype("float32")
    assert arrays._interface(Exported(0), kind, d, "x").shape == (2, 3)
    assert arrays._interface(Exported(0, strides=(12, 4)), kind, d, "x").shape == (2, 3)
    with pytest.raises(InputError, match="contiguous"):
        arrays._interface(Exported(0, strides=(4, 8)), kind, d, "x")
    with pytest.raises(InputError, match="float64"):
        arrays._interface(Exported(0, typestr="<f8"), kind, d, "x")


def test_devices_are_numbers_or_all() -> None:
    assert devices.parse("0, 2") == [0, 2]
    for wrong in ("", "x", "0,0", "-1"):
        with pytest.raises(InputError, match="--devices"):
            devices.parse(wrong)


def test_a_plan_for_another_gpu_is_told_by_its_record() -> None:
    from whet.plan import fingerprint, manifest

    built = manifest.Device("NVIDIA H100", (9, 0), rebuild="whet build m.onnx --target cuda")
    target = manifest.Target("linux", "cuda", "sm_90", [], built)
    with pytest.raises(FingerprintError, match="H100") as e:
        fingerprint.check(target, manifest.Device("NVIDIA A100", (8, 0)))
    assert built.rebuild in e.value.do


def exported(dtype: str = "float32") -> arrays.DeviceArray:
    """A result as it would be on a GPU; the memory is the host's."""
    made = arrays.DeviceArray.__new__(arrays.DeviceArray)
    made.device, made.shape, made.dtype, made.address, made.nbytes = opened(0), (2, 3), np_dtype(dtype), 0x1000, 24
    made._exported, made.ready = [False], None
    return made


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int64", "uint8", "bool"])
def test_a_capsule_has_the_tensor_and_keeps_its_memory(dtype: str) -> None:
    before, y = len(arrays._exports), exported(dtype)
    capsule = y.__dlpack__(stream=1, max_version=(1, 0))
    assert y._exported == [True], "freeing must wait for what others do with it"
    assert in_capsule(capsule, np_dtype(dtype), "y") == (0x1000, (2, 3), None)
    assert len(arrays._exports) == before + 1
    del capsule  # nobody took it
    assert len(arrays._exports) == before


def test_who_takes_a_tensor_gives_it_back() -> None:
    """As DLPack's consumers do: rename the capsule, and call the deleter when done."""
    before = len(arrays._exports)
    capsule = exported().__dlpack__()
    managed = ctypes.pythonapi.PyCapsule_GetPointer
    managed.restype, managed.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    address = managed(capsule, b"dltensor")
    name = ctypes.create_string_buffer(b"used_dltensor")
    rename = ctypes.pythonapi.PyCapsule_SetName
    rename.argtypes = (ctypes.py_object, ctypes.c_void_p)
    assert rename(capsule, ctypes.addressof(name)) == 0
    del capsule
    assert len(arrays._exports) == before + 1
    deleter = arrays._Managed.from_address(address).deleter
    ctypes.CFUNCTYPE(None, ctypes.c_void_p)(deleter)(address)
    assert len(arrays._exports) == before


def test_results_of_eight_bit_floats_have_no_capsule() -> None:
    with pytest.raises(BufferError, match="float8"):
        exported("float8_e4m3fn").__dlpack__()
    with pytest.raises(BufferError, match="copy"):
        exported().__dlpack__(copy=True)


def test_what_cudnn_opens_by_name_is_loaded_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def load(name: str) -> None:
        asked.append(name)
        raise RuntimeError("not found")

    monkeypatch.setitem(sys.modules, "cuda.pathfinder", SimpleNamespace(load_nvidia_dynamic_lib=load))
    abi_cudnn._preload()  # those that are not there are no error
    assert asked == ["cudart", "nvrtc", "cublasLt"]


def test_cudnn_that_is_not_there_names_its_wheel_and_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch
                                                                               ) -> None:
    def none(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(abi_cudnn.ctypes, "CDLL", none)
    with pytest.raises(MissingExtraError, match="cuDNN") as e:
        abi_cudnn._library()
    assert "nvidia-cudnn-cu13" in e.value.where
    assert e.value.do == 'pip install "whet[cuda]"'
