"""Where a run's inputs and outputs lie on the device, and the page-locked host memory that they pass through."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from whet.runtime.binding import Io
from whet.runtime.cuda.buckets import Fit
from whet.runtime.cuda.driver import Device, DeviceMemory, Owned, Pinned

Allocate = Callable[[int, str], DeviceMemory]
LARGE = 4 << 20  # bytes from which several threads copy on the host
_COPIERS = 4


class Placed:
    """A segment's inputs and outputs in a slot: `addresses` on the device, in order, and arrays over host memory."""

    def __init__(self, slot: Slot, bound: Fit) -> None:
        assert slot.memory is not None
        assert slot.pinned is not None
        self.addresses = tuple(slot.memory.address + o for o in bound.offsets)
        both = [slot.pinned.bytes[o : o + t.nbytes].view(t.dtype).reshape(t.shape)
                for t, o in zip((*bound.inputs, *bound.outputs), bound.offsets)]
        n = len(bound.inputs)
        self.inputs: Sequence[np.ndarray] = both[:n]
        self.outputs: Sequence[np.ndarray] = both[n:]
        self.generation = slot.generation
        start = bound.input_bytes
        at, end = _end(bound.inputs, bound.offsets), _end(bound.outputs, bound.offsets[n:])
        self.upload = (self.addresses[0], slot.pinned.address, at) if at else None
        self.download = (slot.pinned.address + start, slot.memory.address + start, end - start) if end > start else None


class Slot:
    """Room for one run's inputs and outputs, on the device and in page-locked memory; grows to what it has to hold."""

    def __init__(self, device: Device, allocate: Allocate) -> None:
        self.device, self._allocate = device, allocate
        self.memory: DeviceMemory | None = None
        self.pinned: Pinned | None = None
        self.generation = 0
        self.least = 0  # bytes that it has from the beginning
        self.done = Owned(device, device.event())  # the last run that used it, where nobody waited for that
        self.busy = False

    def place(self, bound: Fit) -> Placed:
        """The inputs and outputs of these launches."""
        found: Any = bound.placed.get(id(self))
        if found is not None and found.generation == self.generation:
            return found
        if self.memory is None or self.memory.size < bound.io_bytes:
            self.close()
            size = max(bound.io_bytes, self.least)
            self.memory = self._allocate(size, "inputs and outputs")
            self.pinned = self.device.pinned(size)
            self.generation += 1
        bound.placed[id(self)] = found = Placed(self, bound)
        return found

    def wait(self) -> None:
        """Until the host memory may be written to."""
        if self.busy:
            self.device.check(self.device.api.cuEventSynchronize(self.done.handle), "a run")
            self.busy = False

    def used(self, stream: Any, busy: bool) -> None:
        """Where `busy`, the host memory is read by what the stream has been given, and nobody waits for that."""
        if busy:
            self.device.check(self.device.api.cuEventRecord(self.done.handle, stream), "cuEventRecord")
        self.busy = busy

    def close(self) -> None:
        """Give the memory back."""
        if self.memory is not None and self.pinned is not None:
            self.memory.close()
            self.pinned.close()
            self.memory = self.pinned = None


def _end(tensors: Sequence[Io], offsets: Sequence[int]) -> int:
    """Where the last of them ends."""
    return offsets[len(tensors) - 1] + tensors[-1].nbytes if tensors else 0


_copiers: ThreadPoolExecutor | None = None


def copy(to: np.ndarray, source: np.ndarray) -> None:
    """The elements of an array; of a large one by several threads."""
    if to.nbytes < LARGE or not (to.flags.c_contiguous and source.flags.c_contiguous):
        to[...] = source
        return
    global _copiers
    if _copiers is None:
        _copiers = ThreadPoolExecutor(_COPIERS, "whet-copy")
    a, b = to.reshape(-1), source.reshape(-1)
    step = -(-len(a) // _COPIERS)
    parts = [_copiers.submit(np.copyto, a[i : i + step], b[i : i + step]) for i in range(0, len(a), step)]
    for p in parts:
        p.result()


def copied(source: np.ndarray) -> np.ndarray:
    """A fresh array with these elements."""
    if source.nbytes < LARGE:
        return source.copy()
    out = np.empty(source.shape, source.dtype)
    copy(out, source)
    return out


def transfer(device: Device, move: tuple[int, int, int] | None, up: bool, stream: Any) -> None:
    """Start a copy (to, from, bytes) between host and device."""
    if move is None:
        return
    api = device.api
    code = (api.cuMemcpyHtoDAsync if up else api.cuMemcpyDtoHAsync)(*move, stream)[0]
    if code:
        device.fail(code, "copying to the GPU" if up else "copying from the GPU")
