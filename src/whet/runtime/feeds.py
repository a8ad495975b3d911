"""What callers hand in and what they get: arrays by NumPy, DLPack, buffer or pointer, without copies."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from whet.errors import InputError


@dataclass(frozen=True)
class Pointer:
    """A dense row-major tensor at an address that the caller keeps alive. `dtype` as in the plan; `device` is the
    number of the GPU whose memory it is, None for the host's."""

    address: int
    shape: tuple[int, ...]
    dtype: str | np.dtype
    device: int | None = None


@dataclass(frozen=True)
class Borrowed:
    """A value for the length of a run; `owner` keeps its memory. No tensor: address 0, the value in `owner`."""

    address: int
    shape: tuple[int, ...]
    owner: Any
    dtype: np.dtype | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor."""
        return math.prod(self.shape) * (self.dtype.itemsize if self.dtype is not None else 0)

    @property
    def value(self) -> Any:
        """As an array (over the same memory), or whatever it is."""
        if self.dtype is None or isinstance(self.owner, np.ndarray):
            return self.owner
        if 0 in self.shape:
            return np.empty(self.shape, self.dtype)
        return np.ndarray(self.shape, self.dtype, memoryview((ctypes.c_char * self.nbytes).from_address(self.address)))


def _data_offset() -> int:
    """Where an array object keeps its data pointer, or 0 if it cannot be told.

    In NumPy's C interface `data` is the first field after the object header (PyArrayObject_fields). Reading
    it costs a fifth of what `a.ctypes.data` does, and the whole call has a few microseconds.
    """
    at = object.__basicsize__
    probes: list[np.ndarray] = [np.empty(3), np.empty((2, 2), np.int8)[1:], np.empty((), np.float32)]
    same = all(ctypes.c_void_p.from_address(id(a) + at).value == a.ctypes.data for a in probes)
    return at if same else 0


_OFFSET = _data_offset()


def address_of(a: np.ndarray) -> int:
    """The address of an array's first element."""
    if _OFFSET:
        return ctypes.c_size_t.from_address(id(a) + _OFFSET).value
    return a.ctypes.data


def borrow(x: Any, dtype: np.dtype, what: str) -> Borrowed:
    """x as a dense tensor of `dtype`: in place where it is contiguous, else one copy.

    Takes arrays, anything with `__dlpack__` (on the CPU), `__array_interface__` or the buffer protocol, NumPy
    scalars, and `Pointer`. InputError for anything else and for another element type; `what` names the tensor.
    """
    if isinstance(x, Pointer):
        if x.device is not None:
            raise InputError(f"{what} is not in the CPU's memory", why=f"the pointer is of GPU {x.device}",
                             do="copy it to the CPU first")
        return at_pointer(x, dtype, what)
    if not isinstance(x, np.ndarray):
        if hasattr(x, "__dlpack__") and not isinstance(x, np.generic):
            return _dlpack(x, dtype, what)
        x = _array(x, what)
    _same_type(x.dtype, dtype, what)
    if not (x.flags.c_contiguous and x.flags.aligned):
        shape = x.shape
        x = np.ascontiguousarray(x).reshape(shape)
        if not x.flags.aligned:
            x = x.copy()
    return Borrowed(address_of(x), x.shape, x, dtype)


def at_pointer(x: Pointer, dtype: np.dtype, what: str) -> Borrowed:
    """What a pointer points to. InputError for another element type."""
    _same_type(np.dtype(x.dtype) if not isinstance(x.dtype, str) else _named(x.dtype, what), dtype, what)
    return Borrowed(x.address, tuple(x.shape), None, dtype)


def borrow_object(x: Any, kind: str, what: str) -> Borrowed:
    """x as a value that no kernel takes: strings as an array of objects, a sequence as a list of arrays, an optional.

    InputError for a tensor of anything but strings where `kind` is `string`.
    """
    if kind == "string":
        a = _plain_array(x, what)
        if a.dtype.kind not in "OSUT":
            raise InputError(f"{what} has the type {a.dtype}", why="the plan takes strings", do="give an array of str")
        a = a.astype(object)
        return Borrowed(0, a.shape, a)
    if isinstance(x, (list, tuple)):
        x = [_plain_array(e, what) if e is not None and not isinstance(e, list) else e for e in x]
    elif x is not None:
        x = _plain_array(x, what)
    return Borrowed(0, (), x)


def _plain_array(x: Any, what: str) -> np.ndarray:
    try:
        return np.asarray(x)
    except (TypeError, ValueError) as e:
        raise InputError(f"{what} is no array", why=str(e), do="give a NumPy array") from e


def borrow_output(x: Any, dtype: np.dtype, shape: tuple[int, ...], what: str) -> Borrowed:
    """x as memory to write an output of this type and shape to. InputError unless it is just that."""
    if isinstance(x, np.ndarray):
        _same_type(x.dtype, dtype, what)
        if not x.flags.carray:
            raise InputError(f"{what} cannot be written to this array",
                             why="it is not contiguous, aligned and writable", do="give a fresh array")
        b = Borrowed(address_of(x), x.shape, x, dtype)
    elif isinstance(x, Pointer) or hasattr(x, "__dlpack__"):
        b = borrow(x, dtype, what)
        if isinstance(b.owner, np.ndarray):  # a copy
            raise InputError(f"{what} cannot be written to this tensor", why="it is not contiguous",
                             do="give a contiguous one")
    else:
        raise InputError(f"{what} cannot be written to a {type(x).__name__}",
                         do="give an array, a DLPack tensor or a Pointer")
    if b.shape != shape:
        raise InputError(f"{what} has the shape {list(shape)}", why=f"the array given for it has {list(b.shape)}",
                         do="give an array of that shape")
    return b


def _array(x: Any, what: str) -> np.ndarray:
    try:
        if isinstance(x, np.generic) or hasattr(x, "__array_interface__") or hasattr(x, "__array__"):
            return np.asarray(x)
        return np.asarray(memoryview(x))
    except (TypeError, ValueError, BufferError) as e:
        raise InputError(f"{what} is a {type(x).__name__}", why="that is not an array",
                         do="give a NumPy array, a DLPack tensor or a buffer") from e


def _named(name: str, what: str) -> np.dtype:
    from whet.errors import PlanFormatError
    from whet.plan.manifest import np_dtype

    try:
        return np_dtype(name)
    except PlanFormatError as e:
        raise InputError(f"{what} has the unknown type {name!r}") from e


def _same_type(got: np.dtype, want: np.dtype, what: str) -> None:
    if got != want:
        raise InputError(f"{what} has the type {got}", why=f"the plan takes {want}",
                         do=f"convert it: x.astype({str(want)!r})")


# ---- DLPack --------------------------------------------------------------------------------------
# The structures of dlpack.h (DMLC, version 0.8 and, inside DLManagedTensorVersioned, 1.x). NumPy's own
# from_dlpack has no bfloat16 and refuses some read-only tensors.


class DLTensor(ctypes.Structure):
    """`DLTensor` of dlpack.h."""

    _fields_ = [("data", ctypes.c_void_p), ("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32),
                ("ndim", ctypes.c_int32), ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8),
                ("lanes", ctypes.c_uint16), ("shape", ctypes.POINTER(ctypes.c_int64)),
                ("strides", ctypes.POINTER(ctypes.c_int64)), ("byte_offset", ctypes.c_uint64)]


_CPU = 1
_KINDS = {0: "int", 1: "uint", 2: "float", 4: "bfloat", 5: "complex", 6: "bool"}

_capsule_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_capsule_pointer.restype, _capsule_pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)


def _dlpack(x: Any, dtype: np.dtype, what: str) -> Borrowed:
    try:
        device = x.__dlpack_device__()[0] if hasattr(x, "__dlpack_device__") else _CPU
        if int(device) != _CPU:
            raise InputError(f"{what} is not in the CPU's memory", why=f"its DLPack device is {int(device)}",
                             do="copy it to the CPU first")
        capsule = x.__dlpack__()
    except (BufferError, RuntimeError, TypeError, ValueError) as e:
        raise InputError(f"{what} cannot be read through DLPack", why=str(e),
                         do="detach it, or convert it to NumPy") from e
    address, shape, steps = in_capsule(capsule, dtype, what)
    if steps is None:
        return Borrowed(address, shape, (x, capsule), dtype)
    strides = tuple(s * dtype.itemsize for s in steps)
    low = sum(s * (n - 1) for s, n in zip(strides, shape) if s < 0)
    high = sum(s * (n - 1) for s, n in zip(strides, shape) if s > 0) + dtype.itemsize
    raw = (ctypes.c_char * (high - low)).from_address(address + low)
    copied = np.ndarray(shape, dtype, memoryview(raw), -low, strides).copy()
    return Borrowed(address_of(copied), shape, copied, dtype)


def in_capsule(capsule: Any, dtype: np.dtype, what: str) -> tuple[int, tuple[int, ...], tuple[int, ...] | None]:
    """Address, shape and, unless it is dense, strides in elements of the tensor in a DLPack capsule, which must live as
    long as they are used. InputError for another element type."""
    # The capsule is never renamed, so its own destructor gives the tensor back when it goes.
    t = DLTensor.from_address(_capsule_pointer(capsule, b"dltensor"))
    kind = _KINDS.get(t.code, f"code {t.code} ")
    name = "bool" if kind == "bool" else f"{kind}{t.bits}"
    got = "bfloat16" if name == "bfloat16" else name
    if got != dtype.name or t.lanes != 1:
        raise InputError(f"{what} has the type {got}", why=f"the plan takes {dtype}", do=f"convert it to {dtype}")
    shape = tuple(t.shape[i] for i in range(t.ndim))
    address = (t.data or 0) + t.byte_offset
    strides = tuple(t.strides[i] for i in range(t.ndim)) if t.strides else None
    return address, shape, None if strides is None or dense(shape, strides) else strides


def dense(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """True if these strides, in elements, are those of a row-major tensor."""
    expected = 1
    if 0 in shape:
        return True
    for n, s in zip(reversed(shape), reversed(strides)):
        if n != 1 and s != expected:
            return False
        expected *= n
    return True
