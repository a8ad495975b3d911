"""A segment bound to one set of dimensions on a GPU: its launches, and the graphs that were captured of them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from whet.plan import layout
from whet.runtime.binding import Io, Tables, bind_slots, evaluate, io, outside
from whet.runtime.cuda import lanes
from whet.runtime.cuda.code import Code, Kernel, Launchable
from whet.runtime.cuda.driver import Device, DeviceMemory, Owned, capturing

KEPT_GRAPHS = 8  # of one set of dimensions, by addresses of inputs and outputs
POINTER_ALIGN = 16  # of the inputs and outputs that kernels take
ALIGN = 256  # of inputs, outputs and hidden scratch
Allocate = Callable[[int, str], DeviceMemory]


class Streams:
    """The streams that a context's graphs are captured on; the first is where it runs."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.main = Owned(device, device.stream())
        self._owned = [self.main]
        self._events: list[Owned] = []
        self.first = self.main.handle

    def lane(self, k: int) -> Any:
        """Stream k."""
        while len(self._owned) <= k:
            self._owned.append(Owned(self.device, self.device.stream()))
        return self._owned[k].handle

    def event(self, k: int) -> Any:
        """Event k, for captures."""
        while len(self._events) <= k:
            self._events.append(Owned(self.device, self.device.event()))
        return self._events[k].handle

    def close(self) -> None:
        """Give them back; the first goes when nothing refers to it: results may have to be freed in its order."""
        for x in (*self._owned[1:], *self._events):
            x.close()


class Bound:
    """The launches of a segment for one set of dimensions.

    `inputs`, `outputs` say what lies at the addresses that `graph` and `launch` take, in this order. `offsets` are
    the places of each in a buffer that holds all of them: the inputs' part is `input_bytes` long, the rest is the
    outputs'. The caller holds the context's lock, and the device's context is current.
    """

    def __init__(self, tables: Tables, env: Mapping[str, int], code: Code, weights: DeviceMemory, arena: DeviceMemory,
                 allocate: Allocate) -> None:
        self.device = code.device
        values = np.array([*(evaluate(e, env) for e in tables.expressions), 0], np.int64)
        self.inputs = [io(t, env, i) for i, t in enumerate(tables.segment.inputs)]
        self.outputs = [io(t, env, len(self.inputs) + i) for i, t in enumerate(tables.segment.outputs)]
        self.offsets, self.input_bytes, self.io_bytes = _offsets(self.inputs, self.outputs)
        self.segment, self.labels = tables.segment, tables.segment.labels
        self._arena = arena
        self._units = [code.unit(int(e)) for e in tables.steps["entry"].tolist()]
        tiles = tables.steps["value"] + values[tables.step_expr]
        if np.any((tiles < 0) | (tiles > layout.MAX_TILES)):
            raise outside("a step with too many tiles")
        self._tiles: list[int] = tiles.tolist()
        self._bind_slots(tables, values, weights, arena)
        self._scratch = self._hidden_scratch(allocate)
        self._launches = self._prepare()
        self.places = lanes.schedule(getattr(tables.segment, "after", None), len(self._units))
        self._graphs: OrderedDict[tuple[int, ...], Owned] = OrderedDict()
        self.runs = 0  # without a graph
        self.placed: dict[int, Any] = {}  # by slot: what staging keeps for these shapes
        self.parts: OrderedDict[tuple[int, ...], Any] = OrderedDict()  # of a bucket: smaller shapes that it runs
        self.again = False  # these shapes are going to come again: a graph pays at once
        self.partial: frozenset[int] = frozenset()  # as of `buckets.Part`: inputs and outputs smaller than bound

    @property
    def bound(self) -> Bound:
        """Itself: as of `buckets.Part`."""
        return self

    @property
    def steps(self) -> int:
        """Launches of one run."""
        return len(self._units)

    def launch(self, streams: Streams, addresses: Sequence[int], stream: Any = None) -> None:
        """Launch all steps one after the other on one stream (default: the context's). The first waits for what is
        before it: where that is the run before, the steps would share their scratch."""
        self._patch(addresses)
        s = streams.first if stream is None else stream
        for k, go in enumerate(self._launches):
            go(s, k > 0)

    def each(self, addresses: Sequence[int], stream: Any) -> Sequence[Callable[[], None]]:
        """A function for each step, that launches it on the stream."""
        self._patch(addresses)
        return [lambda go=go, k=k: go(stream, k > 0)  # type: ignore[misc]
                for k, go in enumerate(self._launches)]

    def graph(self, streams: Streams, addresses: tuple[int, ...]) -> Owned:
        """The graph for these addresses: a remembered one, or a new one."""
        found = self._graphs.get(addresses)
        if found is None:
            found = self._graphs[addresses] = self.capture(streams, addresses)
            if len(self._graphs) > KEPT_GRAPHS:
                self._graphs.popitem(last=False)
        else:
            self._graphs.move_to_end(addresses)
        return found

    def has_graph(self, addresses: tuple[int, ...]) -> bool:
        """True if a graph for these addresses is remembered."""
        return addresses in self._graphs

    def capture(self, streams: Streams, addresses: Sequence[int]) -> Owned:
        """A new graph, not remembered. Libraries load at their first launch, and may at their first on a stream, what
        must not be loaded in a capture, so where they are called and nothing has run yet, the steps run once, on the
        streams that they are captured on."""
        self._patch(addresses)
        if self.runs == 0 and not all(isinstance(u, Kernel) for u in self._units):
            fork_and_join(streams, self.places, self._launches)
            self.device.synchronize(streams.first)
            self.runs += 1
        d, api = self.device, self.device.api
        mode = api.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        with capturing():
            d.check(api.cuStreamBeginCapture(streams.first, mode), "cuStreamBeginCapture")
            try:
                fork_and_join(streams, self.places, self._launches)
            except BaseException:
                code, graph = api.cuStreamEndCapture(streams.first)
                if not code and int(graph):
                    api.cuGraphDestroy(graph)
                raise
            graph = d.check(api.cuStreamEndCapture(streams.first), "cuStreamEndCapture")
            try:
                made = Owned(d, d.check(api.cuGraphInstantiate(graph, 0), "cuGraphInstantiate"))
            finally:
                api.cuGraphDestroy(graph)
        d.check(api.cuGraphUpload(made.handle, streams.first), "cuGraphUpload")
        return made

    def close(self) -> None:
        """Give the graphs and scratch back."""
        for g in self._graphs.values():
            g.close()
        self._graphs.clear()
        if self._scratch is not None:
            self._scratch.close()

    # -- inside --------------------------------------------------------------------------------------

    def _bind_slots(self, tables: Tables, values: np.ndarray, weights: DeviceMemory, arena: DeviceMemory) -> None:
        """One array has each step's arguments and behind them Triton's own, another the address of each of these."""
        counts = tables.steps["n_args"].astype(np.int64)
        hidden = np.array([len(u.unit.hidden) if isinstance(u, Kernel) else 0 for u in self._units], np.int64)
        before = np.cumsum(hidden) - hidden
        places = np.arange(len(tables.args)) + np.repeat(before, counts)  # of the arguments, in the array
        numbers = np.zeros(len(tables.args), np.int64)
        bind_slots(tables, numbers, values, weights.address, arena)
        self._slots = np.zeros(len(numbers) + int(hidden.sum()), np.int64)
        self._slots[places] = numbers
        self._pointers = self._slots.ctypes.data + 8 * np.arange(len(self._slots), dtype=np.int64)
        self._firsts: list[int] = (tables.first_arg + before).tolist()
        self._counts: list[int] = counts.tolist()
        offsets = tables.args["value"][tables.io_slots] + values[tables.arg_expr[tables.io_slots]]
        both = self.inputs + self.outputs
        limits = np.array([tables.capacities.get(t.index, t.nbytes) for t in both] or [0], np.int64)
        if np.any(offsets < 0):
            raise outside("an address outside an input or output")
        self._io_offsets = np.minimum(offsets, limits[tables.io_index])  # a view of no elements may begin behind them
        self._io_slots, self._io_index = places[tables.io_slots], tables.io_index

    def _patch(self, addresses: Sequence[int]) -> None:
        if len(self._io_slots):
            self._slots[self._io_slots] = np.array(addresses, np.int64)[self._io_index] + self._io_offsets

    def _hidden_scratch(self, allocate: Allocate) -> DeviceMemory | None:
        """Memory behind Triton's own parameters, a piece for each step, since steps may overlap."""
        wanted = []  # slot, place in the memory
        at = 0
        for unit, tiles, first, count in zip(self._units, self._tiles, self._firsts, self._counts):
            if isinstance(unit, Kernel) and any(unit.unit.hidden):
                for k, size in enumerate(unit.hidden_bytes(tiles)):
                    if size:
                        wanted.append((first + count + k, at))
                        at += -(-size // ALIGN) * ALIGN
        if not wanted:
            return None
        memory = allocate(at, "the kernels' scratch")
        for slot, place in wanted:
            self._slots[slot] = memory.address + place
        return memory

    def _prepare(self) -> list[Callable[[Any, bool], None]]:
        """A function for each step: (stream, whether it may begin early)."""
        out: list[Callable[[Any, bool], None]] = []
        table = self._pointers.ctypes.data
        for unit, tiles, first, count in zip(self._units, self._tiles, self._firsts, self._counts):
            if isinstance(unit, Kernel):
                out.append(_kernel(unit, table + 8 * first, tiles))
            else:
                out.append(_library(unit, self._slots[first : first + count], tiles))
        return out


def fork_and_join(streams: Streams, places: Sequence[lanes.Place], launches: Sequence[Callable[[Any, bool], None]]
                  ) -> None:
    """Launch steps at their places (`lanes.schedule`), whether or not the first stream is captured. A launch is a
    function of (stream, whether it may begin early): a lane's first waits for all before it, as does one that waits for
    other lanes."""
    api, check = streams.device.api, streams.device.check
    begun: set[int] = set()  # lanes that have steps
    start = streams.event(0)
    if any(p.lane for p in places):
        check(api.cuEventRecord(start, streams.first), "cuEventRecord")
    marks: dict[int, Any] = {}

    def mark(step: int) -> None:
        marks[step] = streams.event(1 + len(marks))
        check(api.cuEventRecord(marks[step], streams.lane(places[step].lane)), "cuEventRecord")

    last = set(lanes.ends(places))
    for i, (go, p) in enumerate(zip(launches, places)):
        stream = streams.lane(p.lane)
        first = p.lane not in begun
        if first and p.lane:
            check(api.cuStreamWaitEvent(stream, start, 0), "cuStreamWaitEvent")
        for k in p.waits:
            check(api.cuStreamWaitEvent(stream, marks[k], 0), "cuStreamWaitEvent")
        go(stream, not first and not p.waits)
        begun.add(p.lane)
        if p.noted or i in last:
            mark(i)
    for i in last:
        check(api.cuStreamWaitEvent(streams.first, marks[i], 0), "cuStreamWaitEvent")


def _kernel(unit: Kernel, parameters: int, tiles: int) -> Callable[[Any, bool], None]:
    """The launch of a kernel, whose parameters are read where they lie."""
    return lambda stream, early: unit.start(stream, parameters, tiles, early)


def _library(unit: Launchable, part: np.ndarray, tiles: int) -> Callable[[Any, bool], None]:
    return lambda stream, early: unit.launch(int(stream), part.tolist(), tiles)


def _offsets(inputs: Sequence[Io], outputs: Sequence[Io]) -> tuple[list[int], int, int]:
    offsets, at, inputs_end = [], 0, 0
    for t in (*inputs, *outputs):
        if t.index == len(inputs):
            inputs_end = at
        offsets.append(at)
        at += -(-t.nbytes // ALIGN) * ALIGN
    return offsets, inputs_end if outputs else at, at
