"""Tensors in a GPU's memory: what callers hand in (DLPack, `__cuda_array_interface__`, pointers), and what they get."""

from __future__ import annotations

import ctypes
import math
import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np

from whet.errors import InputError
from whet.runtime.cuda.driver import Device, Owned, release
from whet.runtime.feeds import Borrowed, DLTensor, Pointer, at_pointer, dense, in_capsule

_CUDA, _MANAGED = 2, 13  # of DLPack's device types
_CODES = {"i": 0, "u": 1, "f": 2, "b": 6}


@dataclass(frozen=True)
class OnDevice(Borrowed):
    """A tensor of a GPU for the length of a run."""

    device: Device | None = None

    @property
    def value(self) -> Any:
        """A copy on the host."""
        out = np.empty(self.shape, self.dtype)
        if out.nbytes:
            d = self.device
            assert d is not None
            with d.current():
                d.check(d.api.cuMemcpyDtoH(out.ctypes.data, self.address, out.nbytes), "copying to the host")
        return out


def on_device(x: Any) -> bool:
    """True for what lies in a GPU's memory."""
    if isinstance(x, np.ndarray):
        return False
    if isinstance(x, (DeviceArray, Pointer)):
        return isinstance(x, DeviceArray) or x.device is not None
    if hasattr(x, "__dlpack_device__"):
        return int(x.__dlpack_device__()[0]) in (_CUDA, _MANAGED)
    return hasattr(x, "__cuda_array_interface__")


def borrow_device(x: Any, dtype: np.dtype, device: Device, stream: int, what: str) -> OnDevice:
    """x as a dense tensor of `dtype` on the device, in place, ready for work on the stream.

    InputError: it lies on another device or not on one, has another type, or is not contiguous.
    """
    if isinstance(x, DeviceArray):
        _right_device(x.device.index, device, what)
        if x.dtype != dtype:
            raise InputError(f"{what} has the type {x.dtype}", why=f"the plan takes {dtype}",
                             do=f"convert it to {dtype}")
        return OnDevice(x.address, x.shape, x, dtype, device)
    if isinstance(x, Pointer):
        found = at_pointer(x, dtype, what)
        if found.nbytes:
            _right_device(x.device, device, what)
            kind, number = device.pointer(x.address)
            if kind != 2:
                raise InputError(f"{what} is a pointer into the memory of the host" if kind == 1 else
                                 f"{what} is a pointer that CUDA does not know", where=f"{x.address:#x}",
                                 why=f"it was said to be of GPU {x.device}", do="give memory of the GPU")
            _right_device(number, device, what)
        return OnDevice(found.address, found.shape, None, dtype, device)
    if hasattr(x, "__dlpack_device__"):
        _right_device(int(x.__dlpack_device__()[1]), device, what)
        try:
            capsule = x.__dlpack__(stream=stream)
        except (BufferError, RuntimeError, TypeError, ValueError) as e:
            raise InputError(f"{what} cannot be read through DLPack", why=str(e), do="detach it") from e
        address, shape, strides = in_capsule(capsule, dtype, what)
        if strides is not None:
            raise _scattered(what)
        return OnDevice(address, shape, (x, capsule), dtype, device)
    return _interface(x, dtype, device, what)


def _interface(x: Any, dtype: np.dtype, device: Device, what: str) -> OnDevice:
    """By `__cuda_array_interface__` (version 3 of Numba's specification)."""
    told = x.__cuda_array_interface__
    shape, address = tuple(told["shape"]), int(told["data"][0])
    if np.dtype(told["typestr"]) != dtype:
        raise InputError(f"{what} has the type {np.dtype(told['typestr'])}", why=f"the plan takes {dtype}",
                         do=f"convert it to {dtype}")
    strides = told.get("strides")
    if strides is not None and not dense(shape, [s // dtype.itemsize for s in strides]):
        raise _scattered(what)
    if address:
        _right_device(device.pointer(address)[1], device, what)
    if told.get("stream"):  # work that it is still waiting for
        device.synchronize(device.api.CUstream(int(told["stream"])))
    return OnDevice(address, shape, x, dtype, device)


def same_shape(x: Borrowed, shape: tuple[int, ...], what: str) -> None:
    """InputError unless that is its shape."""
    if x.shape != shape:
        raise InputError(f"{what} has the shape {list(shape)}", why=f"the tensor given for it has {list(x.shape)}",
                         do="give a tensor of that shape")


def _scattered(what: str) -> InputError:
    return InputError(f"{what} is not contiguous", why="tensors on a GPU are used in place", do="give x.contiguous()")


def _right_device(index: int | None, device: Device, what: str) -> None:
    if index != device.index:
        raise InputError(f"{what} is on GPU {index}", why=f"the plan runs on GPU {device.index}",
                         do=f"copy it there, or load the plan with device={index}")


class DeviceArray:
    """A result on a GPU: dense, row-major. Taken over by `torch.from_dlpack(y)` or `cupy.from_dlpack(y)`, copied to
    the host by `y.numpy()`.

    Attributes:
        shape, dtype: as NumPy's; nbytes: of all elements.
        device: the GPU; address: of the first element.
    """

    def __init__(self, device: Device, shape: tuple[int, ...], dtype: np.dtype, stream: Any, owned: Owned | None
                 ) -> None:
        """Fresh memory, allocated in the order of the stream, and given back in it if it is `owned` by us."""
        self.device, self.shape, self.dtype = device, shape, dtype
        self.nbytes = math.prod(shape) * dtype.itemsize
        self._exported = [owned is None]
        with device.current():
            self.address = device.allocate_ordered(self.nbytes, stream)
        self._close = weakref.finalize(self, _free, device, self.address, owned, self._exported)
        self._close.atexit = False
        self.ready: Any = None  # an event, where the stream is the caller's

    def follow(self, stream: Any) -> None:
        """It is there when the stream has done what it has been given."""
        self.ready = Owned(self.device, self.device.event())
        self.device.check(self.device.api.cuEventRecord(self.ready.handle, stream), "cuEventRecord")

    def numpy(self) -> np.ndarray:
        """A copy on the host."""
        out = np.empty(self.shape, self.dtype)
        if self.nbytes:
            api = self.device.api
            with self.device.current():
                self._settle()
                self.device.check(api.cuMemcpyDtoH(out.ctypes.data, self.address, self.nbytes), "copying to the host")
        return out

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        made = self.numpy()
        return made if dtype is None else made.astype(dtype)

    def _settle(self) -> None:
        if self.ready is not None:
            self.device.check(self.device.api.cuEventSynchronize(self.ready.handle), "a run")
            self.ready = None

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        if self.dtype.kind == "V" or self.dtype.isbuiltin != 1:
            raise AttributeError(f"{self.dtype} has no name in this protocol; use DLPack")
        self._settle()
        self._exported[0] = True
        return {"shape": self.shape, "typestr": self.dtype.str, "data": (self.address, False), "version": 3,
                "strides": None, "stream": None}

    def __dlpack_device__(self) -> tuple[int, int]:
        return _CUDA, self.device.index

    def __dlpack__(self, *, stream: Any = None, max_version: Any = None, dl_device: Any = None, copy: Any = None
                   ) -> Any:
        if copy or (dl_device is not None and tuple(dl_device) != self.__dlpack_device__()):
            raise BufferError("whet's results on a GPU are given as they are: copy them afterwards")
        if self.ready is not None and stream != -1:
            with self.device.current():
                api = self.device.api
                self.device.check(api.cuStreamWaitEvent(api.CUstream(stream or 1), self.ready.handle, 0), "a result")
        self._exported[0] = True
        code = 4 if self.dtype.name == "bfloat16" else _CODES.get(self.dtype.kind)
        if code is None:
            raise BufferError(f"DLPack has no type {self.dtype}")
        return _capsule(self, code)

    def __repr__(self) -> str:
        return f"<whet array {list(self.shape)} of {self.dtype} on GPU {self.device.index}>"


def _free(device: Device, address: int, owned: Owned | None, exported: list[bool]) -> None:
    # Others may still work on what they were given, on streams of theirs: cuMemFree waits for that.
    if exported[0] or owned is None:
        release(device, "cuMemFree", address)
    else:
        release(device, "cuMemFreeAsync", address, owned.handle)


# ---- DLPack out ----------------------------------------------------------------------------------


class _Managed(ctypes.Structure):
    """DLManagedTensor of dlpack.h."""

    _fields_ = [("tensor", DLTensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p)]


_exports: dict[int, tuple[Any, ...]] = {}  # by address of the structure: what lives as long as somebody has it
_new = ctypes.pythonapi.PyCapsule_New
_new.restype, _new.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
# Of a capsule that is being destroyed: by address, since it must not be referred to any more.
_valid = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_IsValid", ctypes.pythonapi))
_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi))
_NAME = ctypes.create_string_buffer(b"dltensor")  # capsules keep the pointer


@ctypes.CFUNCTYPE(None, ctypes.c_void_p)
def _deleted(managed: int) -> None:
    _exports.pop(managed, None)


@ctypes.PYFUNCTYPE(None, ctypes.c_void_p)
def _dropped(capsule: int) -> None:
    if _valid(capsule, b"dltensor"):  # nobody took the tensor over
        _exports.pop(_pointer(capsule, b"dltensor"), None)


def _capsule(array: DeviceArray, code: int) -> Any:
    n = len(array.shape)
    shape = (ctypes.c_int64 * max(n, 1))(*array.shape)
    managed = _Managed()
    t = managed.tensor
    t.data, t.device_type, t.device_id, t.ndim = array.address, _CUDA, array.device.index, n
    t.code, t.bits, t.lanes = code, 8 * array.dtype.itemsize, 1
    t.shape, t.strides, t.byte_offset = ctypes.cast(shape, ctypes.POINTER(ctypes.c_int64)), None, 0
    managed.deleter = ctypes.cast(_deleted, ctypes.c_void_p).value
    at = ctypes.addressof(managed)
    _exports[at] = (managed, shape, array)
    return _new(at, ctypes.addressof(_NAME), ctypes.cast(_dropped, ctypes.c_void_p).value)


