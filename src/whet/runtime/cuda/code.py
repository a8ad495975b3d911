"""A plan's code on a device: objects (`whet.abi_cuda`) by offset, ready to launch."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from whet import abi_cuda
from whet.errors import FingerprintError, InternalError, PlanFormatError
from whet.runtime.cuda.driver import Device, Owned
from whet.runtime.cuda.libraries import Libraries

# Units that a library runs, and the module whose `prepare(unit, payload, libraries)` makes them ready.
_LIBRARIES = {abi_cuda.Matmul: "whet.runtime.cuda.cublaslt", abi_cuda.Graph: "whet.runtime.cuda.cudnn"}
_WRONG_IMAGE = frozenset({200, 209, 218})  # invalid image, no binary for this GPU, invalid PTX
_SHARED = 48 << 10  # a kernel must ask for more


class Launchable(Protocol):
    """A unit of a plan's code on a device. Any number of threads may launch it, on streams of that device."""

    def launch(self, stream: int, values: Sequence[int], tiles: int) -> None:
        """Launch on a stream (its address), with the step's arguments in order. Nothing waits or allocates, so that
        it can be captured. The device's context is the thread's current one."""
        ...


class Code:
    """The code section of a plan, loaded piece by piece; shared by contexts and threads."""

    def __init__(self, device: Device, raw: bytes | memoryview, libraries: Libraries | None = None) -> None:
        self.device, self._raw = device, memoryview(raw)
        self.libraries = libraries or Libraries(device)
        self._units: dict[int, Launchable] = {}
        self._lock = threading.Lock()

    def unit(self, offset: int) -> Launchable:
        """The unit of the object at `offset`, made ready at its first use.

        PlanFormatError: there is no such object. FingerprintError: for another GPU. MissingExtraError: a library."""
        found = self._units.get(offset)
        if found is None:
            try:
                unit, payload = abi_cuda.unpack(self._raw, offset)
            except ValueError as e:
                raise PlanFormatError("the plan is malformed", why=str(e), do="build the plan anew") from e
            made = self._prepare(unit, payload)
            with self._lock:  # another thread may have been faster
                found = self._units.setdefault(offset, made)
        return found

    def close(self) -> None:
        """Unload it. Nothing may be launched any more."""
        units, self._units = self._units, {}
        for unit in units.values():
            if isinstance(unit, Kernel):
                unit.close()
        self.libraries.close()

    def _prepare(self, unit: abi_cuda.Unit, payload: memoryview) -> Launchable:
        with self.device.current():
            if isinstance(unit, abi_cuda.Cubin):
                return Kernel(self.device, unit, payload)
            if isinstance(unit, abi_cuda.Fill):
                return Fill(self.device, unit)
            made: Launchable = importlib.import_module(_LIBRARIES[type(unit)]).prepare(unit, payload, self.libraries)
            return made


class Kernel:
    """A kernel that was compiled by Triton."""

    def __init__(self, device: Device, unit: abi_cuda.Cubin, payload: memoryview) -> None:
        d = device.api
        self.device, self.name, self.unit = device, unit.name, unit
        image = bytes(payload)
        code, module = d.cuModuleLoadData(image)
        if code and int(code) in _WRONG_IMAGE:
            raise FingerprintError(f"the plan's kernels do not run on GPU {device.index}",
                                   why=f"it is a {device.properties.name} ({device.properties.arch}) with the driver "
                                       f"{device.properties.driver or 'of an unknown version'}",
                                   do="build the plan on this machine, or update the driver")
        device.check((code,), f"loading the kernel {unit.name}")
        self._module = Owned(device, module)
        self._function = device.check(d.cuModuleGetFunction(module, unit.name.encode()), f"the kernel {unit.name}")
        if unit.shared > _SHARED:
            attribute = d.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            device.check(d.cuFuncSetAttribute(self._function, attribute, unit.shared),
                         f"{unit.shared} bytes of shared memory for {unit.name}")
        if unit.dependent:
            # A multiprocessor's memory is divided into cache and shared memory for one kernel at a time: all that begin
            # beside one another ask for the same, or the next one's programs pile up where nothing runs.
            attribute = d.CUfunction_attribute.CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT
            device.check(d.cuFuncSetAttribute(self._function, attribute, 100), f"shared memory beside {unit.name}")
        if unit.ctas > 8:
            attribute = d.CUfunction_attribute.CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED
            device.check(d.cuFuncSetAttribute(self._function, attribute, 1), f"clusters of {unit.name}")
        device.check(d.cuFuncLoad(self._function), f"loading {unit.name}")  # not lazily: never in a capture
        self._attributes = self._launch_attributes()

    def close(self) -> None:
        """Unload it."""
        self._module.close()

    def hidden_bytes(self, tiles: int) -> list[int]:
        """Bytes behind each of Triton's own parameters for a launch on that many tiles; addresses of them follow the
        step's arguments, unless all are 0."""
        return [size * tiles * self.unit.ctas for size in self.unit.hidden]

    def launch(self, stream: int, values: Sequence[int], tiles: int, early: bool = True) -> None:
        unit = self.unit
        n, hidden = len(unit.args), len(unit.hidden)
        if len(values) not in (n, n + hidden) or (len(values) == n and any(unit.hidden)):
            raise InternalError(f"the kernel {unit.name} takes {n} arguments", why=f"it was given {len(values)}")
        slots = np.zeros(n + hidden, np.int64)
        slots[: len(values)] = values
        places = np.arange(n + hidden, dtype=np.int64) * 8 + slots.ctypes.data
        self.start(stream, places.ctypes.data, tiles, early)

    def start(self, stream: Any, parameters: int, tiles: int, early: bool = True) -> None:
        """Launch with the addresses of the parameters' values (Triton's own included) in a table at `parameters`; all
        are read before this returns. `early`: the kernel may begin while what runs before it on the stream ends, if it
        knows how to wait."""
        if tiles == 0:
            return
        d, unit = self.device.api, self.unit
        attributes = self._attributes if early else self._attributes[unit.dependent:]
        if not attributes:
            code = d.cuLaunchKernel(self._function, tiles, 1, 1, 32 * unit.warps, 1, 1, unit.shared, stream, parameters,
                                    0)[0]
        else:
            config = d.CUlaunchConfig()
            config.gridDimX, config.gridDimY, config.gridDimZ = tiles * unit.ctas, 1, 1
            config.blockDimX, config.blockDimY, config.blockDimZ = 32 * unit.warps, 1, 1
            config.sharedMemBytes, config.hStream = unit.shared, d.CUstream(int(stream))
            config.attrs, config.numAttrs = attributes, len(attributes)
            code = d.cuLaunchKernelEx(config, self._function, parameters, 0)[0]
        if code:
            self.device.fail(code, f"launching {unit.name} on {tiles} tiles")

    def _launch_attributes(self) -> list[Any]:
        d, ids, made = self.device.api, self.device.api.CUlaunchAttributeID, []
        if self.unit.dependent:
            a = d.CUlaunchAttribute()
            a.id = ids.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
            a.value.programmaticStreamSerializationAllowed = 1
            made.append(a)
        if self.unit.ctas > 1:
            a = d.CUlaunchAttribute()
            a.id = ids.CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION
            a.value.clusterDim.x, a.value.clusterDim.y, a.value.clusterDim.z = self.unit.ctas, 1, 1
            made.append(a)
            a = d.CUlaunchAttribute()
            a.id = ids.CU_LAUNCH_ATTRIBUTE_CLUSTER_SCHEDULING_POLICY_PREFERENCE
            a.value.clusterSchedulingPolicyPreference = d.CUclusterSchedulingPolicy.CU_CLUSTER_SCHEDULING_POLICY_SPREAD
            made.append(a)
        return made


class Fill:
    """Bytes set to a value."""

    def __init__(self, device: Device, unit: abi_cuda.Fill) -> None:
        self.device, self.unit = device, unit

    def launch(self, stream: int, values: Sequence[int], tiles: int) -> None:
        if len(values) != 1:
            raise InternalError("a fill takes one address", why=f"it was given {len(values)} values")
        if self.unit.bytes and tiles:
            code = self.device.api.cuMemsetD8Async(values[0], self.unit.value, self.unit.bytes, stream)[0]
            if code:
                self.device.fail(code, f"setting {self.unit.bytes} bytes")

