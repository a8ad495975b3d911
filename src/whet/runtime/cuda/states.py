"""What a context on a GPU keeps between runs, in the GPU's memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from whet.plan.manifest import np_dtype
from whet.plan.program import Tensor
from whet.runtime.cuda.arrays import OnDevice
from whet.runtime.cuda.driver import Device, DeviceMemory
from whet.runtime.feeds import Borrowed
from whet.runtime.program import Loaded
from whet.runtime.states import States


@dataclass
class _Value:
    """A state's buffer, or the value that was handed on."""

    memory: DeviceMemory
    shape: tuple[int, ...]
    dtype: np.dtype
    device: Device

    def copy(self) -> np.ndarray:
        """On the host."""
        return np.array(OnDevice(self.memory.address, self.shape, self, self.dtype, self.device).value)

    def __getitem__(self, key: Any) -> np.ndarray:
        return self.copy()[key]


class DeviceStates(States):
    """`States` of a plan that is one segment; what is handed on goes back and forth between two buffers, so that the
    addresses are always the same."""

    def __init__(self, programs: Sequence[Loaded], device: Device, allocate: Callable[[int, str], DeviceMemory],
                 stream: Any) -> None:
        """`stream`: where the context's next run is."""
        self.device, self._allocate, self.stream = device, allocate, stream
        self._buffers: dict[tuple[str, int], DeviceMemory] = {}
        self._turn: dict[str, int] = {}
        self._next: dict[str, _Value] = {}
        super().__init__(programs)

    def lend(self, loaded: Loaded, t: Tensor, env: dict[str, int]) -> Borrowed:
        """As of `States`, on the device."""
        state, dtype = loaded.states[t.name], np_dtype(t.dtype)
        shape = self.lent_shape(loaded, t, env)
        values: dict[str, Any] = self._values
        if t.name not in values:
            whole = tuple(state.capacity) if state.in_place else shape
            values[t.name] = self._value(t.name, 0, whole, dtype, zero=True)
            self._turn[t.name] = 0
        memory = values[t.name].memory
        return OnDevice(memory.address, shape, memory, dtype, self.device)

    def place(self, loaded: Loaded, output: str, shape: tuple[int, ...], dtype: np.dtype) -> int:
        """The address for an output that is handed on."""
        name = next(n for n, s in loaded.states.items() if s.output == output)
        self._next[name] = self._value(name, 1 - self._turn.get(name, 0), shape, dtype, zero=False)
        return self._next[name].memory.address

    def keep(self, loaded: Loaded, results: dict[str, Any], env: Mapping[str, int]) -> None:
        """After a run."""
        handed = {s.output: self._next.pop(n) for n, s in loaded.states.items() if not s.in_place}
        for n, s in loaded.states.items():
            if not s.in_place:
                self._turn[n] = 1 - self._turn.get(n, 0)
        super().keep(loaded, {**results, **handed}, env)

    def close(self) -> None:
        """Give the memory back."""
        for memory in self._buffers.values():
            memory.close()
        self._buffers.clear()
        self._values.clear()

    def _value(self, name: str, which: int, shape: tuple[int, ...], dtype: np.dtype, zero: bool) -> _Value:
        size = math.prod(shape) * dtype.itemsize
        memory = self._buffers.get((name, which))
        if memory is None or memory.size < size:
            memory = self._buffers[name, which] = self._allocate(size, f"the state {name!r}")
        if zero and size:
            with self.device.current():
                self.device.check(self.device.api.cuMemsetD8Async(memory.address, 0, size, self.stream), "a state")
        return _Value(memory, shape, dtype, self.device)
