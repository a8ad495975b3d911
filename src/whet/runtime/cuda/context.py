"""Contexts on GPUs: one CUDA graph per set of shapes, replayed; host arrays pass through page-locked memory."""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from whet.errors import DeviceError, DeviceMemoryError, InputError, LostDeviceError, PlanError
from whet.plan.manifest import HOST_TYPES, np_dtype
from whet.plan.program import Tensor
from whet.runtime.binding import evaluate
from whet.runtime.cuda import buckets, hot, plain, runner, steptimes
from whet.runtime.cuda.arrays import DeviceArray, borrow_device, on_device, same_shape
from whet.runtime.cuda.bound import POINTER_ALIGN, Bound, Streams
from whet.runtime.cuda.buckets import Fit
from whet.runtime.cuda.driver import DeviceMemory
from whet.runtime.cuda.order import Order, stream_of
from whet.runtime.cuda.pipeline import Pipeline
from whet.runtime.cuda.staging import Placed, Slot, copied, copy, transfer
from whet.runtime.cuda.states import DeviceStates
from whet.runtime.cuda.warm import warm
from whet.runtime.engine import KEPT_BINDINGS, Context, Feeds, StepTime, borrow_one, into, named
from whet.runtime.feeds import Borrowed, borrow
from whet.runtime.program import Loaded, Times
from whet.runtime.states import States

if TYPE_CHECKING:
    from whet.runtime.cuda.engine import CudaEngine

Given = list[Borrowed | None]
KEPT_KEYS = 16  # addresses that were seen once


class CudaContext(Context):
    """One stream of work on a GPU. Calls from several threads take turns."""

    def __init__(self, engine: CudaEngine) -> None:
        self.engine: CudaEngine = engine  # type: ignore[assignment]
        self.device = d = engine.device
        self._lock = threading.Lock()
        self._executor: ThreadPoolExecutor | None = None
        self._pipeline: Pipeline | None = None
        self._closed = False
        self._times: dict[tuple[int, int], tuple[list[str], np.ndarray]] | None = None  # type: ignore[assignment]
        self._environments = OrderedDict()
        self._bound: dict[tuple[int, int], OrderedDict[tuple[int, ...], Bound]] = {}
        self._seen: OrderedDict[tuple[int, ...], None] = OrderedDict()  # addresses that a run had no graph for
        self._lent: tuple[Loaded, dict[str, int]] | None = None  # the states of a runner
        self._buckets = [buckets.of(p) for p in engine._programs]
        self._most_bound = [KEPT_BINDINGS if b is None else b.kept + KEPT_BINDINGS for b in self._buckets]
        self.hot: hot.Ready | None = None  # of the last run on host arrays
        self.hots: OrderedDict[tuple[Any, ...], hot.Ready] = OrderedDict()  # of buckets, by shapes
        with d.current():
            self.streams = Streams(d)
            self._memory: DeviceMemory | None = engine.allocate(engine.arena_bytes, "a context's activations")
            self.order = Order(d, self.streams.first)
            self.slot = Slot(d, engine.allocate)
            self._states: States = (DeviceStates(engine._programs, d, engine.allocate, self.streams.first)
                                    if engine._programs[0].plain else States(engine._programs))
            warm(self)

    # -- running -------------------------------------------------------------------------------------

    def run(self, feeds: Feeds, out: Feeds | None = None, *, device: bool = False, stream: Any = None
            ) -> dict[str, Any]:
        """Run once on `{input name: tensor}`, as `Context.run`, on tensors of the host or of this GPU (DLPack,
        `__cuda_array_interface__`, `Pointer` with a device), which are used in place where they are contiguous.

        device: give outputs as `DeviceArray`s, which `torch.from_dlpack` takes over, instead of NumPy arrays. Tensors
                in `out` are written to wherever they are.
        stream: run in the order of this CUDA stream (an address, or an object with `cuda_stream`, `ptr` or
                `__cuda_stream__`), without waiting for the end if all outputs are on the device. Without it inputs by
                DLPack are waited for, and the outputs are there when this returns.

        InputError: as of `Context.run`, and for tensors of another GPU, host memory given as a device's, and device
        tensors that are not contiguous. LostDeviceError: the GPU failed; the engine is closed then.
        """
        with self._lock:
            last = self.hot
            if last is None or out is not None or device or stream is not None:
                return self.general(feeds, out, device, stream)
            bound, placed, graph = last
            if self.order.elsewhere or len(feeds) != len(bound.inputs):
                return self.general(feeds, out, device, stream)
            for t, view in zip(bound.inputs, placed.inputs):
                x = feeds.get(t.name)
                if type(x) is not np.ndarray or x.shape != t.shape or x.dtype != t.dtype:
                    return hot.turn(self, feeds)
                copy(view, x)
            return hot.replay(self, bound, placed, graph)

    def submit(self, feeds: Feeds, out: Feeds | None = None) -> Future[dict[str, Any]]:
        """Run in the background, after what has been submitted before; errors come out of the future. Copies of
        one run overlap with what the others compute. The arrays are read until the future is done."""
        with self._lock:
            self.check_open()
            if self._executor is None:
                self._executor = ThreadPoolExecutor(1, "whet-context")
                if self._programs_plain and not self._states.inputs:
                    self._pipeline = Pipeline(self.device, self.engine.allocate, self.slot.least)
            if self._pipeline is None:
                return self._executor.submit(self.run, feeds, out)
            future: Future[dict[str, Any]] = Future()
            self._executor.submit(self._pipeline.feed, self, feeds, out, future)
            return future

    def runner(self, inputs: Sequence[Any], outputs: Sequence[Any], stream: Any = None) -> Callable[[], None]:
        """As of `Context`, on tensors of the host or this GPU. With a `stream`, which must live as long as the context,
        calls do not wait for the run's end; the tensors must be on the device then."""
        with self._lock, self.device.current():
            self.check_open()
            feeds = dict(zip(self.engine.inputs, inputs, strict=True))
            out = dict(zip(self.engine.outputs, outputs, strict=True))
            s = self._stream_of(stream)
            borrowed = self._borrow_all(feeds, s)
            which, env = self._environment(borrowed)
            if not self._programs_plain or not self._states_stay:
                def walk() -> None:
                    with self._lock:
                        self.guarded(lambda: self._run_borrowed(borrowed, out, None, False, stream))

                return walk
            self.order.switch(s)
            loaded = self.engine._programs[which]
            given = [self._lend(loaded, t, env, s) if x is None else x for t, x in zip(loaded.program.inputs, borrowed)]
            made = runner.make(self, self.bind(which, 0, env), given, out, s)
            if self._states.inputs:
                self._states.keep(loaded, {}, env)
                self._lent = (loaded, env)
            return made

    def state(self, name: str) -> np.ndarray | None:
        """A copy of the state that is fed as input `name`; None before the first run."""
        with self._lock:
            with self.device.current():
                self.order.settle()
            return self._states.read(name)

    def timed(self, feeds: Feeds) -> tuple[dict[str, Any], list[StepTime]]:
        """Run once, launch by launch, and tell how long each step took by the GPU's own clock, and each host step.

        What a loop's body does is counted once for all its iterations."""
        return self._timed(
            lambda host: self.guarded(lambda: self._run_borrowed(self._borrow(feeds), None, host, False, None)))

    def close(self) -> None:
        """Give the memory back, after the run in progress. The context cannot be used any more."""
        if self._executor is not None:
            self._executor.shutdown(wait=True)
        if self._pipeline is not None:
            self._pipeline.close()
        with self._lock:
            if self._closed:
                return
            self._closed, self.hot = True, None
            self.hots.clear()
            with contextlib.suppress(DeviceError), self.device.current():  # a lost device has nothing to wait for
                self.order.settle()
            for kept in self._bound.values():
                for b in kept.values():
                    b.close()
            self._bound.clear()
            self.slot.close()
            self.order.close()
            if isinstance(self._states, DeviceStates):
                self._states.close()
            if self._memory is not None:
                self._memory.close()
            self.streams.close()

    # -- inside --------------------------------------------------------------------------------------

    @property
    def states_gone(self) -> bool:
        """True if a runner's states have been reset: they begin as zeros again."""
        return self._lent is not None and any(n not in self._states._values for n in self._states.inputs)

    def lend_states(self, stream: Any) -> None:
        """Fill a runner's states with zeros where they have been reset, in the stream's order."""
        assert self._lent is not None
        loaded, env = self._lent
        for t in loaded.program.inputs:
            if t.name in self._states.inputs:
                self._lend(loaded, t, dict(env), stream)
        self._states.keep(loaded, {}, env)

    def can_replay(self, b: Bound, placed: Placed) -> bool:
        """True if host arrays of these shapes need nothing but copies and a graph that is there."""
        return self._times is None and b.has_graph(placed.addresses)

    @property
    def _states_stay(self) -> bool:
        """True if no run changes where the states are and how large: rows of them are replaced."""
        return all(s.in_place and not s.length for s in self.engine._programs[0].states.values())

    def _lend(self, loaded: Loaded, t: Tensor, env: dict[str, int], stream: Any) -> Borrowed:
        if isinstance(self._states, DeviceStates):
            self._states.stream = stream
        return self._states.lend(loaded, t, env)

    @property
    def _programs_plain(self) -> bool:
        return self.engine._programs[0].plain

    def check_open(self) -> None:
        """LostDeviceError, or ValueError for a context that is closed."""
        self.device.alive()
        if self._closed:
            raise ValueError("the context is closed")

    def lose(self) -> None:
        """The device was lost: this context and the engine are of no more use. What they hold cannot be freed."""
        self._closed, self.hot = True, None
        self.engine._closed = True

    def _is_lost(self, error: DeviceError) -> bool:
        """True if the device was lost: libraries have errors of their own for that."""
        if not isinstance(error, (LostDeviceError, DeviceMemoryError)):
            with contextlib.suppress(DeviceError):
                self.device.probe(self.streams.first)
        return self.device.lost is not None

    def general(self, feeds: Feeds, out: Feeds | None, device: bool, stream: Any) -> dict[str, Any]:
        def go() -> dict[str, Any]:
            with self.device.current():
                borrowed = self._borrow_all(feeds, self._stream_of(stream))
            return self._run_borrowed(borrowed, out, None, device, stream)

        return self.guarded(go)

    def guarded(self, go: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        self.check_open()
        try:
            return go()
        except DeviceError as e:
            if self._is_lost(e):
                self.lose()
                self.device.alive()
            raise
        except MemoryError as e:
            raise PlanError("there is no memory for this run", why=str(e) or "an array of it is too large",
                            do="give smaller inputs, or build the plan with a smaller profile") from None

    def _borrow(self, feeds: Feeds) -> Given:
        with self.device.current():
            return self._borrow_all(feeds, self.streams.first)

    def _borrow_all(self, feeds: Feeds, stream: Any) -> Given:
        """What the caller gives, in the plan's order; None for states."""
        self._check_names(feeds)
        specs, states, sizes = self.engine._programs[0].program.inputs, self._states.inputs, self.engine._sizes
        out: Given = []
        for t in specs:
            x = feeds.get(t.name)
            if t.name in states:
                out.append(None)
            elif t.dtype not in HOST_TYPES and on_device(x):
                got = borrow_device(x, np_dtype(t.dtype), self.device, int(stream), f"the input {t.name!r}")
                if t.name in sizes or not self._programs_plain:  # the host reads it
                    self.device.synchronize(stream)
                    out.append(borrow(got.value, np_dtype(t.dtype), f"the input {t.name!r}"))
                else:
                    out.append(got)
            else:
                out.append(borrow_one(t, x))
        return out

    def _stream_of(self, stream: Any) -> Any:
        return self.streams.first if stream is None else stream_of(self.device, stream)

    def _run_borrowed(self, borrowed: Given, out: Feeds | None, times: Times | None, device: bool, stream: Any
                      ) -> dict[str, Any]:
        out = out or {}
        if not out.keys() <= self.engine.outputs.keys():
            raise InputError(f"out has {sorted(out.keys() - self.engine.outputs.keys())}",
                             why=f"the plan's outputs are {list(self.engine.outputs)}", do="leave the others out")
        which, env = self._environment(borrowed)
        loaded = self.engine._programs[which]
        with self.device.current():
            s = self._stream_of(stream) if loaded.plain else self.streams.first
            self.order.switch(s)
            given = [self._lend(loaded, t, env, s) if x is None else x for t, x in zip(loaded.program.inputs, borrowed)]
            if loaded.plain:
                return plain.run(self, which, env, given, out, device, s)
            spans = [(x.address, x.address + x.nbytes, t.name)
                     for t, x in zip(loaded.program.inputs, given) if x.address]

            def native(segment: int, values: Sequence[Any], env: Mapping[str, int]) -> list[np.ndarray]:
                return self._run_segment(which, segment, values, env)

            made = loaded.run([x.value for x in given], env, native, times)
        results = dict(zip((t.name for t in loaded.program.outputs), made, strict=True))
        if self._states.inputs:
            self._states.keep(loaded, results, env)
        return {n: self._hand_over(out.get(n), y, n, spans, device) for n, y in results.items()}

    def go(self, b: Bound, home: Sequence[int], wanted: Sequence[int], stream: Any) -> None:
        """Run on the tensors at `wanted`, with a graph where there is one or it pays; where addresses are seen for
        the first time, through copies in the places at `home`."""
        if self._times is not None and _aligned(wanted):
            self._note(b, steptimes.measure(self.device, b, wanted, stream))
            return
        key = tuple(wanted)
        if home != wanted and not b.has_graph(key) and (key not in self._seen or not _aligned(wanted)):
            self._seen[key] = None
            if len(self._seen) > KEPT_KEYS:
                self._seen.popitem(last=False)
            plain.through(self, b, home, wanted, stream)
            return
        if b.runs == 0 and not b.again and not b.has_graph(key):
            b.runs += 1  # a capture costs some hundred microseconds: for shapes that come again
            b.launch(self.streams, wanted, stream)
            return
        code = self.device.api.cuGraphLaunch(b.graph(self.streams, key).handle, stream)[0]
        if code:
            self.device.fail(code, "a run")

    def _run_segment(self, which: int, segment: int, values: Sequence[Any], env: Mapping[str, int]
                     ) -> list[np.ndarray]:
        """Run a segment on arrays of the program."""
        b = self.bind(which, segment, env)
        placed = self.slot.place(b)
        self.slot.wait()
        for t, x, view in zip(b.inputs, values, placed.inputs):
            given = borrow(x, t.dtype, t.name)
            if given.shape != t.shape:
                raise InputError(f"the value {t.name!r} has the shape {list(given.shape)}",
                                 why=f"what reads it was built for {list(t.shape)}", do="check the inputs' values")
            copy(view, given.value)
        stream, home = self.streams.first, list(placed.addresses)
        transfer(self.device, placed.upload, True, stream)
        self.go(b, home, home, stream)
        transfer(self.device, placed.download, False, stream)
        self.device.synchronize(stream)
        return [copied(y) for y in placed.outputs]

    def _hand_over(self, out: Any, y: Any, name: str, spans: list[tuple[int, int, str]], device: bool) -> Any:
        """A result of a program with host steps, to where the caller wants it."""
        if (out is None and not device) or not isinstance(y, np.ndarray) or y.dtype.kind == "O":
            return y if out is None else into(out, y, name, spans)
        if out is not None and not on_device(out):
            return into(out, y, name, spans)
        d, stream = self.device, self.streams.first
        what = f"the output {name!r}"
        with d.current():
            made = DeviceArray(d, y.shape, y.dtype, stream, self.streams.main) if out is None else out
            place = borrow_device(made, y.dtype, d, int(stream), what)
            same_shape(place, y.shape, what)
            if y.nbytes:
                d.check(d.api.cuMemcpyHtoDAsync(place.address, y.ctypes.data, y.nbytes, stream), "copying to the GPU")
                d.synchronize(stream)
        return made

    def _note(self, b: Bound, seconds: np.ndarray) -> None:
        assert self._times is not None
        for key, kept in self._bound.items():
            if any(x is b for x in kept.values()):
                before = self._times.get(key)
                self._times[key] = (b.labels, seconds if before is None else before[1] + seconds)

    def fit(self, which: int, env: Mapping[str, int]) -> Fit:
        """The launches of a plain program for these dimensions, or those of the bucket that they are a part of."""
        rounding = self._buckets[which]
        if rounding is None:
            return self.bind(which, 0, env)
        size = rounding.up(env)
        b = self.bind(which, 0, size)
        b.again = True
        return b if size == env else rounding.part(b, env)

    def bind(self, which: int, segment: int, env: Mapping[str, int]) -> Bound:
        """The launches of a segment for these dimensions: remembered ones, or new ones."""
        engine = self.engine
        tables = engine._programs[which].tables[segment]
        kept = self._bound.setdefault((which, segment), OrderedDict())
        key = tuple(env[n] for n in tables.segment.dims)
        b = kept.get(key)
        if b is not None:
            kept.move_to_end(key)
            return b
        self._room(evaluate(tables.segment.arena, env), tables.segment.dims, env)
        assert self._memory is not None
        b = Bound(tables, env, engine._code, engine._weights, self._memory, engine.allocate)
        kept = self._bound.setdefault((which, segment), kept)
        kept[key] = b
        if len(kept) > self._most_bound[which]:
            kept.popitem(last=False)  # graphs and scratch go with it, unless a runner has it
            self.hots.clear()
        return b

    def _room(self, size: int, names: Sequence[str], env: Mapping[str, int]) -> None:
        """Make the activations' memory that large."""
        if self._memory is not None and size <= self._memory.size:
            return
        engine = self.engine
        if size > engine.memory_limit:
            raise PlanError(f"the activations would take {size >> 20} MiB for {named(names, env)}",
                            why=f"the limit is {engine.memory_limit >> 20} MiB",
                            do="give smaller inputs, or set engine.memory_limit")
        self.order.settle()
        self.hot = None
        self.hots.clear()
        self._bound.clear()
        self._memory = None  # given back before there is more, unless a runner uses it
        self._memory = engine.allocate(size, "a context's activations")


def _aligned(addresses: Sequence[int]) -> bool:
    return all(a % POINTER_ALIGN == 0 for a in addresses)
