"""cuDNN's execution plans, ready to launch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from whet import abi_cuda, abi_cudnn
from whet.errors import DeviceError, FingerprintError, InternalError, PlanFormatError
from whet.runtime.cuda.libraries import Libraries


def prepare(unit: abi_cuda.Unit, payload: memoryview, libraries: Libraries) -> Plan:
    """The execution plan, loaded. FingerprintError where this cuDNN does not take it (another version than the plan
    was made with), PlanFormatError for a malformed one, MissingExtraError without the library."""
    if not isinstance(unit, abi_cuda.Graph):
        raise InternalError(f"not an execution plan of cuDNN: {type(unit).__name__}")
    if len(set(unit.uids)) != len(unit.uids) or unit.workspace < 0:
        raise PlanFormatError("an execution plan of cuDNN is malformed", do="build the plan anew")
    frontend = abi_cudnn.module()
    version = int(frontend.backend_version())
    if version // 10000 != unit.version // 10000 or version < unit.version:
        raise FingerprintError("the plan was made with another cuDNN", why=f"{unit.version} then, {version} here",
                               do="build the plan with the version of cuDNN that is installed")
    with libraries.lock:
        return Plan(unit, bytes(payload), frontend, libraries)


class Plan:
    """A graph of operations by one of cuDNN's engines. Threads may launch it side by side."""

    def __init__(self, unit: abi_cuda.Graph, payload: bytes, frontend: Any, libraries: Libraries) -> None:
        self.unit, self._frontend, self._libraries = unit, frontend, libraries
        self._handle = libraries.cudnn()
        try:
            self._graph = frontend.pygraph(handle=self._handle)
            self._graph.deserialize(self._handle, list(payload))
            needed = int(self._graph.get_workspace_size())
        except Exception as e:  # the frontend raises RuntimeError and a type of its own
            raise FingerprintError("cuDNN does not load an execution plan", why=_said(e),
                                   do="build the plan with the version of cuDNN that is installed") from e
        if needed > unit.workspace:
            raise FingerprintError("cuDNN asks for more workspace than when the plan was built",
                                   do="build the plan with the version of cuDNN that is installed")

    def launch(self, stream: int, values: Sequence[int], tiles: int) -> None:
        """An address for each of the unit's uids, then the workspace."""
        if len(values) != len(self.unit.uids) + 1:
            raise InternalError(f"a graph of cuDNN takes {len(self.unit.uids) + 1} arguments",
                                why=f"it was given {len(values)}")
        if tiles == 0:
            return
        addresses = dict(zip(self.unit.uids, map(int, values)))
        with self._libraries.lock:  # the handle carries the stream
            try:
                self._frontend.set_stream(self._handle, int(stream))
                self._graph._execute(addresses, int(values[-1]), self._handle)
            except Exception as e:
                raise DeviceError("a graph of cuDNN failed", why=_said(e), do="see `whet doctor`") from e
            finally:  # the caller may destroy its stream, which cuDNN looks at when it is given the next one
                self._frontend.set_stream(self._handle, int(self._libraries.rest))


def _said(e: Exception) -> str:
    return " ".join(str(e).split())[:300]
