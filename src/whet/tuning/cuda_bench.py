"""Candidates on the GPU: run from a captured graph, with constants that the caches do not hold."""

from __future__ import annotations

import statistics
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

import numpy as np

from whet.errors import DeviceMemoryError
from whet.ir.dtypes import DType
from whet.ir.region import Region, Tensor
from whet.ir.symbolic import evaluate
from whet.runtime.cuda import lanes
from whet.runtime.cuda.bound import Streams, fork_and_join
from whet.runtime.cuda.code import Code, Kernel, Launchable
from whet.runtime.cuda.driver import Device, DeviceMemory, Owned, capturing
from whet.runtime.cuda.libraries import Libraries
from whet.targets.base import Implementation, In, Int, Out, Packed, Work
from whet.tuning.bench import random_array

SPAN = 1e-3  # seconds that one graph should take
LAUNCHES = (3, 100)  # of the region in one graph: at least, at most
REPLAYS = 5
GIVE_UP = 2.5  # a candidate whose first run takes this many times the best is not measured further
FIRST = 12e-6  # seconds that a first run takes besides, at most
POISON = 0xA5
SAMPLE, PIECES = 1 << 18, 4  # bytes of a result that are compared, and in how many pieces
GAP = 256
KEPT = 8  # an eighth of the memory is for operands of regions that may come again
CHUNK = 1 << 20  # random numbers that are made


Launch = tuple[Launchable, list[int], int]  # a unit, its arguments, its tiles


@dataclass
class Prepared:
    """A candidate with all that it needs on the device: `runs` are its launches, for each copy of the constants."""

    runs: list[list[Launch]]
    memory: list[DeviceMemory]
    spare: Spare

    def close(self) -> None:
        for m in self.memory:
            self.spare.give(m)


def _launch(unit: Launchable, values: Sequence[int], tiles: int) -> Callable[[Any, bool], None]:
    def go(stream: Any, early: bool) -> None:
        if isinstance(unit, Kernel):
            unit.launch(int(stream), values, tiles, early)
        else:
            unit.launch(int(stream), values, tiles)

    return go


class Spare:
    """Memory that candidates had and others may have next: taking it from the driver and giving it back waits for the
    device, and takes longer than most kernels."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.most = device.properties.memory_bytes // KEPT
        self._free: list[DeviceMemory] = []  # what was given back last comes last

    def allocate(self, size: int, purpose: str) -> DeviceMemory:
        """So many bytes from the driver, which gets back what nobody has now if it needs that."""
        try:
            return self.device.allocate(size, purpose)
        except DeviceMemoryError:
            while self._free:
                self._free.pop().close()
            return self.device.allocate(size, purpose)

    def take(self, size: int, purpose: str) -> DeviceMemory:
        """At least so many bytes, at most twice as many if others had them before."""
        fit = [m for m in self._free if size <= m.size <= max(2 * size, SAMPLE)]
        if not fit:
            return self.allocate(size, purpose)
        best = min(fit, key=lambda m: m.size)
        self._free.remove(best)
        return best

    def give(self, memory: DeviceMemory) -> None:
        """What work on the bench's stream may still use: the next user's comes after it there."""
        self._free.append(memory)
        while sum(m.size for m in self._free) > self.most:
            self._free.pop(0).close()


class Operands:
    """A region's operands, random, on the host."""

    def __init__(self, region: Region) -> None:
        self.region = region
        self.env = {n: opt for n, (_, opt, _) in region.dims.items()}

    def array(self, k: int) -> np.ndarray:
        """Operand k as it lies in memory: random numbers, repeated where there are many."""
        t = self.region.inputs[k]
        n = reach(t, self.env)
        some = random_array(t.dtype, CHUNK, k % 4)
        return some[:n] if n <= CHUNK else np.resize(some, n)

    def start(self, t: Tensor) -> int:
        """Bytes from the lowest address of a tensor to its first element: not 0 where a stride is negative."""
        sizes = [(int(evaluate(d, self.env)), int(evaluate(s, self.env))) for d, s in zip(t.shape, t.strides)]
        return sum((d - 1) * -s for d, s in sizes if s < 0) * t.dtype.size

    def logical(self, k: int) -> np.ndarray:
        """Operand k as the array that packing takes."""
        t = self.region.inputs[k]
        shape = [int(evaluate(d, self.env)) for d in t.shape]
        strides = [int(evaluate(s, self.env)) * t.dtype.size for s in t.strides]
        first = self.array(k)[self.start(t) // t.dtype.size:]
        return np.lib.stride_tricks.as_strided(first, shape, strides, writeable=False)


class Buffers(Operands):
    """A region's operands and results on the device."""

    def __init__(self, bench: CudaBench, region: Region) -> None:
        super().__init__(region)
        self.inputs = [bench.upload(self.array(k)) for k in range(len(region.inputs))]
        self.results = (region.output, *region.extra_outputs)
        self.outputs = [bench.spare.allocate(reach(t, self.env) * t.dtype.size, "a result") for t in self.results]

    @property
    def size(self) -> int:
        """Bytes on the device."""
        return sum(m.size for m in (*self.inputs, *self.outputs))

    def close(self) -> None:
        for m in (*self.inputs, *self.outputs):
            m.close()


def reach(t: Tensor, env: Mapping[str, int]) -> int:
    """Elements from a tensor's lowest to its highest."""
    shape = [int(evaluate(d, env)) for d in t.shape]
    strides = [int(evaluate(d, env)) for d in t.strides]
    return 1 + sum((d - 1) * abs(s) for d, s in zip(shape, strides)) if all(shape) else 0


class CudaBench:
    """Times candidates, one after the other."""

    def __init__(self, index: int) -> None:
        self.device = Device.open(index)
        self.libraries = Libraries(self.device)
        self.streams = Streams(self.device)
        self.stream = self.streams.first
        self.events = self.device.event(timing=True), self.device.event(timing=True)
        self.buffers: Buffers | None = None  # of the region that is being timed
        self._kept: OrderedDict[str, Buffers] = OrderedDict()  # by region
        self.best: dict[str, float] = {}  # by region
        self.begun: WeakSet[Any] = WeakSet()  # units of libraries that have been launched
        self.spare = Spare(self.device)

    def time(self, region: Region, made: Implementation, objects: Mapping[str, bytes]
             ) -> tuple[float, list[np.ndarray]]:
        """(seconds of a run, pieces of its results).

        In a network every layer finds its weights evicted by the others' and its activations just written: so the
        constants are there several times, more than twice what the second-level cache holds, the activations once.
        """
        prepared = self._prepare(region, made, objects)
        try:
            return self._time(region.signature(), prepared)
        finally:
            prepared.close()

    def playoff(self, region: Region, several: Sequence[tuple[Implementation, Mapping[str, bytes]]]) -> list[float]:
        """The candidates' median times, taken in turns: what disturbs one disturbs all."""
        prepared = [self._prepare(region, *c) for c in several]
        try:
            graphs = []
            for p in prepared:
                once = self.capture(p.runs[:1])
                n = self._count(min(self.replay(once) for _ in range(3)))
                graphs.append((self.capture([p.runs[i % len(p.runs)] for i in range(n)]), n))
            times: list[list[float]] = [[] for _ in graphs]
            for _ in range(2 * REPLAYS + 1):
                for found, (graph, n) in zip(times, graphs):
                    found.append(self.replay(graph) / n)
            return [statistics.median(t[1:]) for t in times]
        finally:
            for p in prepared:
                p.close()

    # -- pieces --------------------------------------------------------------------------------------

    def upload(self, a: np.ndarray) -> DeviceMemory:
        """An array's bytes on the device, for this bench's launches."""
        raw = np.ascontiguousarray(a).reshape(-1).view(np.uint8)
        memory = self.spare.allocate(raw.nbytes, "an operand")
        self._write(memory.address, raw)
        return memory

    def _write(self, address: int, raw: np.ndarray) -> None:
        if raw.nbytes:
            with self.device.current():
                self.device.check(self.device.api.cuMemcpyHtoDAsync(address, raw.ctypes.data, raw.nbytes, self.stream),
                                  "an operand")

    def fill(self, address: int, size: int, source: DeviceMemory) -> None:
        """Repeat what lies in `source`."""
        with self.device.current():
            for at in range(0, size, source.size):
                n = min(source.size, size - at)
                self.device.check(self.device.api.cuMemcpyDtoDAsync(address + at, source.address, n, self.stream),
                                  "an operand")

    def clear(self, address: int, size: int, value: int = 0) -> None:
        """Set bytes."""
        if size:
            with self.device.current():
                self.device.check(self.device.api.cuMemsetD8Async(address, value, size, self.stream), "clearing")

    # -- inside --------------------------------------------------------------------------------------

    def _time(self, name: str, p: Prepared) -> tuple[float, list[np.ndarray]]:
        assert self.buffers is not None
        for m in self.buffers.outputs:
            self.clear(m.address, m.size, POISON)
        once = self.capture(p.runs[:1])
        self.replay(once)
        sample = [piece for m, t in zip(self.buffers.outputs, self.buffers.results)
                  for piece in self.pieces(m.address, m.size, t.dtype)]
        first = min(self.replay(once) for _ in range(2))
        best = self.best.get(name)
        if best is not None and first > GIVE_UP * best + FIRST:
            return first, sample
        n = self._count(first)
        graph = self.capture([p.runs[i % len(p.runs)] for i in range(n)])
        self.replay(graph)
        seconds = statistics.median(self.replay(graph) for _ in range(REPLAYS)) / n
        self.best[name] = min(seconds, self.best.get(name, seconds))
        return seconds, sample

    @staticmethod
    def _count(seconds: float) -> int:
        return max(LAUNCHES[0], min(LAUNCHES[1], int(SPAN / max(seconds, 1e-6))))

    def _prepare(self, region: Region, made: Implementation, objects: Mapping[str, bytes]) -> Prepared:
        b = self.buffers = self._buffers(region)
        memory: list[DeviceMemory] = []
        try:
            return self._with_memory(b, made, objects, memory)
        except BaseException:
            for m in memory:
                m.close()
            raise

    def _buffers(self, region: Region) -> Buffers:
        """A region's operands and results: those from before, if there was room for them since."""
        name = region.signature()
        found = self._kept.get(name)
        if found is None:
            room = self.device.properties.memory_bytes // KEPT
            while self._kept and sum(b.size for b in self._kept.values()) > room:
                self._kept.popitem(last=False)[1].close()
            found = self._kept[name] = Buffers(self, region)
        self._kept.move_to_end(name)
        return found

    def _with_memory(self, b: Buffers, made: Implementation, objects: Mapping[str, bytes],
                     memory: list[DeviceMemory]) -> Prepared:
        read = {a.index for s in made.steps for a in s.args if isinstance(a, In) and b.region.inputs[a.index].const}
        packs = [np.ascontiguousarray(p.make(*(b.logical(i) for i in p.sources))) for p in made.packs]
        parts = {("in", k): b.array(k) for k in sorted(read)} | {("pack", k): a for k, a in enumerate(packs)}
        places, size = {}, 0
        for key, a in parts.items():
            places[key] = size
            size += -(-a.nbytes // GAP) * GAP
        copies = max(1, min(LAUNCHES[1], -(-2 * self.device.properties.l2_bytes // size))) if size else 1
        constants = self._copies(parts, places, size, copies, memory)
        work = self.spare.take(int(evaluate(made.workspace, b.env)), "a workspace")
        memory.append(work)
        units: dict[str, Launchable] = {}
        for s in made.steps:
            if s.kernel.symbol not in units:
                units[s.kernel.symbol] = Code(self.device, objects[s.kernel.symbol], self.libraries).unit(0)
        steps = [(units[s.kernel.symbol], s.args, int(evaluate(s.tiles, b.env))) for s in made.steps]
        # For each copy, as for each launch of a plan: a kernel that begins early may write there before it waits.
        hidden = [[self.hidden(unit, tiles, memory) for unit, _, tiles in steps] for _ in range(copies)]

        def value(a: Any, copy: int) -> int:
            match a:
                case In(k) if k in read:
                    return constants + copy * size + places["in", k] + b.start(b.region.inputs[k])
                case In(k):
                    return b.inputs[k].address + b.start(b.region.inputs[k])
                case Out(k):
                    return b.outputs[k].address
                case Packed(k):
                    return constants + copy * size + places["pack", k]
                case Work(offset):
                    return work.address + int(evaluate(offset, b.env))
                case Int(v):
                    return int(evaluate(v, b.env))
            raise TypeError(f"an argument {a!r}")

        runs = [[(unit, [*(value(a, c) for a in args), *more], tiles)
                 for (unit, args, tiles), more in zip(steps, hidden[c])] for c in range(copies)]
        return Prepared(runs, memory, self.spare)

    def _copies(self, parts: Mapping[Any, np.ndarray], places: Mapping[Any, int], size: int, copies: int,
                memory: list[DeviceMemory]) -> int:
        """The address of the constants' first copy; the others follow, `size` bytes apart."""
        d = self.device
        whole = self.spare.take(size * copies, "constants")
        memory.append(whole)
        for key, a in parts.items():
            self._write(whole.address + places[key], np.ascontiguousarray(a).reshape(-1).view(np.uint8))
        done = 1
        while done < copies and size:
            more = min(done, copies - done)
            with d.current():
                d.check(d.api.cuMemcpyDtoDAsync(whole.address + done * size, whole.address, more * size, self.stream),
                        "constants")
            done += more
        return whole.address

    def hidden(self, unit: Launchable, tiles: int, memory: list[DeviceMemory]) -> list[int]:
        """Addresses of what a kernel wants besides its arguments."""
        if not isinstance(unit, Kernel) or not any(unit.unit.hidden):
            return []
        out = []
        for n in unit.hidden_bytes(tiles):
            if n:
                memory.append(self.device.allocate(n, "a kernel's scratch"))
            out.append(memory[-1].address if n else 0)
        return out

    def capture(self, runs: Sequence[Sequence[Launch]], after: Sequence[Sequence[int]] | None = None) -> Owned:
        """An executable graph of these launches: one after the other, or as `after` says (see `plan.program.Segment`).
        Libraries load at their first launch what must not be loaded in a capture, so theirs are launched before."""
        d, api = self.device, self.device.api
        steps = [step for run in runs for step in run]
        with d.current():
            for unit, values, tiles in steps:
                if not isinstance(unit, Kernel) and unit not in self.begun:
                    self.begun.add(unit)
                    unit.launch(int(self.stream), values, tiles)
                    d.synchronize(self.stream)
            with capturing():
                mode = api.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
                d.check(api.cuStreamBeginCapture(self.stream, mode), "cuStreamBeginCapture")
                try:
                    fork_and_join(self.streams, lanes.schedule(after, len(steps)), [_launch(*step) for step in steps])
                finally:
                    code, graph = api.cuStreamEndCapture(self.stream)
            d.check((code,), "cuStreamEndCapture")
            made = Owned(d, d.check(api.cuGraphInstantiate(graph, 0), "cuGraphInstantiate"))
            d.check(api.cuGraphDestroy(graph), "cuGraphDestroy")
        return made

    def replay(self, graph: Owned) -> float:
        """Seconds that a graph takes on the device."""
        d, api = self.device, self.device.api
        begin, end = self.events
        with d.current():
            d.check(api.cuEventRecord(begin, self.stream), "cuEventRecord")
            d.check(api.cuGraphLaunch(graph.handle, self.stream), "cuGraphLaunch")
            d.check(api.cuEventRecord(end, self.stream), "cuEventRecord")
            d.synchronize(self.stream)
            return float(d.check(api.cuEventElapsedTime(begin, end), "cuEventElapsedTime")) * 1e-3

    def pieces(self, address: int, size: int, dtype: DType) -> list[np.ndarray]:
        """Parts of a result of so many bytes, from its beginning to its end."""
        size = size // dtype.size * dtype.size
        if size <= SAMPLE:
            spans = [(0, size)]
        else:
            length = SAMPLE // PIECES // dtype.size * dtype.size
            last = (size - length) // dtype.size
            spans = [(i * last // (PIECES - 1) * dtype.size, length) for i in range(PIECES)]
        out = []
        with self.device.current():
            for at, length in spans:
                raw = np.empty(length, np.uint8)
                if length:
                    self.device.check(self.device.api.cuMemcpyDtoH(raw.ctypes.data, address + at, length),
                                      "cuMemcpyDtoH")
                out.append(raw.view(dtype.np))
        return out
