"""Engine and Context: plans that run."""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from whet.errors import InputError, PlanError
from whet.plan import Plan, PlanData, fingerprint, layout, signing
from whet.plan.manifest import HOST_TYPES, np_dtype
from whet.plan.program import Tensor
from whet.runtime.binding import Binding, evaluate
from whet.runtime.feeds import Borrowed, address_of, borrow, borrow_object, borrow_output
from whet.runtime.memory import Memory
from whet.runtime.pool import Pool
from whet.runtime.profiles import accepts, choose, contents, shape_of
from whet.runtime.program import Loaded, Times
from whet.runtime.states import States

Feeds = Mapping[str, Any]
KEPT_BINDINGS = 8  # shapes that a context remembers
KEPT_ENVIRONMENTS = 64  # shapes of which it remembers what dimensions they tell


def load(plan: str | os.PathLike[str] | Plan, *, threads: int | None = None,
         require_key: signing.Key | None = None, device: int | None = None) -> Engine:
    """An engine from a plan or a plan file.

    threads:     at most those the plan was built for; default: as many of them as this process has cores.
    require_key: an Ed25519 public key (PEM text, 64 hexadecimal digits, 32 bytes, or a file with one of
                 these): refuse any plan that its private half has not signed.
    device:      of a plan for GPUs, the number of the GPU to run on (default: 0).

    PlanFormatError, PlanVersionError: a file that cannot be used. FingerprintError: code for another machine.
    SignatureError: not signed by `require_key`. InputError: a number of threads that cannot be, a device for a plan for
    CPUs. DeviceError, MissingExtraError: no GPU, driver or library that the plan needs, or not enough memory there.
    """
    opened = plan if isinstance(plan, Plan) else Plan.open(Path(plan))
    if require_key is not None:
        signing.verify(opened.contents.root, opened.contents.trailer.signature, require_key)
    return _engine(opened, threads, device)


def load_data(data: PlanData, threads: int | None = None, device: int | None = None) -> Engine:
    """An engine straight from what the pipeline made, without a hash: to time candidates."""
    return _engine(Plan.from_data(data, hashed=False), threads, device)


def _engine(plan: Plan, threads: int | None, device: int | None) -> Engine:
    if plan.manifest.target.device is not None:
        from whet.runtime.cuda.engine import CudaEngine

        return CudaEngine(plan, threads, device or 0)
    if device is not None:
        raise InputError(f"device={device}", why="the plan is for CPUs",
                         do="leave it out, or build the plan with target='cuda'")
    return Engine(plan, threads)


class Engine:
    """A plan ready to run: immutable, shared by threads. Close it, use it in a `with`, or let it go."""

    def __init__(self, plan: Plan, threads: int | None = None) -> None:
        fingerprint.check(plan.manifest.target)
        built = plan.contents.runtime["threads"]
        if threads is None:
            threads = min(built, len(os.sched_getaffinity(0)))
        if not 1 <= threads <= built:
            raise InputError(f"threads={threads}", why=f"the plan was built for {built}",
                             do=f"give 1 to {built}, or build the plan with threads={threads}")
        self._prepare(plan)
        self._pool = Pool(plan, threads)

    def _prepare(self, plan: Plan) -> None:
        """What engines have on any device."""
        self.plan = plan
        named = {name for p in plan.manifest.programs for b in p.blocks for _, name in b.constants}
        constants = {name: plan.weight(name) for name in sorted(named)}
        self._programs = [Loaded(plan, p, constants) for p in plan.manifest.programs]
        self._sizes = sorted({n for p in plan.manifest.programs for n in p.contents})  # inputs with ranges of elements
        self._idle: list[Context] = []
        self._contexts: weakref.WeakSet[Context] = weakref.WeakSet()
        self._closed = False
        # Bytes of activations that a context may take for sizes that depend on data.
        self.memory_limit = int(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * 0.8)

    def __call__(self, feeds: Feeds, out: Feeds | None = None) -> dict[str, Any]:
        """Run once: `{input name: array}` to `{output name: fresh array}` (or those given in `out`).

        Any number of threads may call at once; each takes a context of its own. See `Context.run`.
        """
        if self._programs[0].states:
            raise self._has_states()
        ctx = self._take()
        try:
            return ctx.run(feeds, out)
        finally:
            self._idle.append(ctx)

    def _has_states(self) -> InputError:
        return InputError("the plan keeps states from run to run",
                          why=f"they are {sorted(self._programs[0].states)}",
                          do="make a context, and run that: ctx = engine.context(); ctx.run(feeds)")

    def _take(self) -> Context:
        """A context that nobody uses, to be put back into `_idle`."""
        with contextlib.suppress(IndexError):  # another thread may take the last one between a look and a pop
            return self._idle.pop()
        return self.context()

    def context(self) -> Context:
        """A stream of work of its own: activations, and the shapes that it is bound to."""
        if self._closed:
            raise ValueError("the engine is closed")
        ctx = self._new_context()
        self._contexts.add(ctx)
        return ctx

    def _new_context(self) -> Context:
        return Context(self)

    @property
    def inputs(self) -> dict[str, tuple[str, tuple[int | str, ...]]]:
        """`{name: (dtype, shape)}`; dimensions of the profile by name."""
        return {t.name: (t.dtype, shape_of(t)) for t in self.plan.manifest.inputs}

    @property
    def outputs(self) -> dict[str, tuple[str, tuple[int | str, ...]]]:
        """`{name: (dtype, shape)}`; dimensions of the profile by name or as an expression."""
        return {t.name: (t.dtype, shape_of(t)) for t in self.plan.manifest.outputs}

    @property
    def profile(self) -> dict[str, tuple[int, int, int]]:
        """`{dimension: (min, opt, max)}`: the first profile."""
        return self.profiles[0]

    @property
    def profiles(self) -> list[dict[str, tuple[int, int, int]]]:
        """`{dimension: (min, opt, max)}` of each profile, in the order in which they are tried."""
        return [{n: r for n, r in p.program.dims.items() if n not in p.program.learnt} for p in self._programs]

    @property
    def threads(self) -> int:
        """Threads that one run may use, the caller's included."""
        return self._pool.threads

    @property
    def arena_bytes(self) -> int:
        """Activations of one context at the profiles' maximum (without what data-dependent sizes need)."""
        return self.plan.contents.runtime["arena_bytes"]

    @property
    def weight_bytes(self) -> int:
        """Constants, mapped from the plan and shared by all contexts."""
        return self.plan.contents.sections[layout.WEIGHTS][1]

    def close(self) -> None:
        """End the contexts (waiting for runs in progress) and the threads."""
        self._end_contexts()
        self._pool.close()

    def _end_contexts(self) -> None:
        self._closed = True
        self._idle.clear()
        for ctx in list(self._contexts):
            ctx.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<whet.Engine of {self.plan!r}, {self.threads} threads>"


@dataclass(frozen=True)
class StepTime:
    """How long a native step took in one run; `label` is the layer it belongs to."""

    label: str
    seconds: float


class Context:
    """One stream of work on an engine. Calls from several threads take turns."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        pool = engine._pool
        static = all(low == high for p in engine._programs for low, _, high in p.program.dims.values())
        # Huge pages only where all of the arena will be touched: a wide profile uses little of it at its minimum.
        self._arena: Memory | None = Memory.anonymous(engine.arena_bytes, huge=static)
        self._scratch = Memory.anonymous(pool.scratch_bytes)
        self._bindings: dict[tuple[int, int], OrderedDict[tuple[int, ...], Binding]] = {}
        self._environments: OrderedDict[Any, tuple[int, dict[str, int]]] = OrderedDict()  # by shapes and sizes
        self._current: Binding | None = None  # of a plain program, for the shapes of the last call
        self._lock = threading.Lock()
        self._states = States(engine._programs)
        self._executor: ThreadPoolExecutor | None = None
        self._times: dict[tuple[int, int], tuple[list[str], np.ndarray]] | None = None  # while timing
        self._call, self._pool_address = pool.run, pool.address

    # -- running -------------------------------------------------------------------------------------

    def run(self, feeds: Feeds, out: Feeds | None = None) -> dict[str, Any]:
        """Run once on `{input name: tensor}`.

        Tensors may be NumPy arrays, anything with `__dlpack__` or a buffer, or `Pointer`s; dense ones of the
        right type are used in place, others of the right type are copied. The result is `{output name: array}`,
        fresh arrays owned by the caller, except for the names in `out`, whose tensors are written to.

        InputError: a wrong name, type, shape, or an output that overlaps an input. ProfileError: a dimension
        outside the profile. ValueError: the context is closed.
        """
        with self._lock:
            b = self._current
            if b is None or out is not None or len(feeds) != len(b.inputs):
                return self._general(feeds, out)
            io = b.io
            for t in b.inputs:
                x = feeds.get(t.name)
                if type(x) is not np.ndarray or x.shape != t.shape or x.dtype != t.dtype:
                    return self._general(feeds, out)
                flags = x.flags
                if not (flags.c_contiguous and flags.aligned):
                    return self._general(feeds, out)
                io[t.index] = address_of(x)
            results = {}
            for t in b.outputs:
                results[t.name] = y = np.empty(t.shape, t.dtype)
                io[t.index] = address_of(y)
            self._call(self._pool_address, b.address, 0, b.count)
            return results

    def submit(self, feeds: Feeds, out: Feeds | None = None) -> Future[dict[str, Any]]:
        """Run in the background, after what has been submitted before; errors come out of the future."""
        with self._lock:
            self._open()
            if self._executor is None:
                self._executor = ThreadPoolExecutor(1, "whet-context")
            return self._executor.submit(self.run, feeds, out)

    def runner(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> Callable[[], None]:
        """A function that runs on these tensors, in the plan's order, again and again: the shortest way in.

        Nothing is checked after this; the tensors stay in use as long as the function lives.
        """
        with self._lock:
            feeds = dict(zip(self.engine.inputs, inputs, strict=True))
            borrowed = self._borrow(feeds)
            which, env = self._environment(borrowed)
            lock, call, pool = self._lock, self._call, self._pool_address
            if not self.engine._programs[which].plain or self._states.inputs:
                out = dict(zip(self.engine.outputs, outputs, strict=True))

                def walk(keep: object = self) -> None:
                    with lock:
                        self._open()
                        self._execute(borrowed, out)

                return walk
            b = self._bind(which, 0, env)
            written = [borrow_output(y, t.dtype, t.shape, f"the output {t.name!r}")
                       for t, y in zip(b.outputs, outputs, strict=True)]
            addresses = np.array([x.address for x in (*borrowed, *written) if x is not None], np.int64)
            address, io, count = b.address, b.io, b.count

            def go(keep: object = (borrowed, written, self, b)) -> None:
                with lock:
                    self._open()
                    io[:] = addresses
                    call(pool, address, 0, count)

            return go

    def reset(self, length: int = 0) -> None:
        """Forget what the runs so far left in the states; or all but the first `length` elements of what grows in
        place (to go on from a common beginning, or to take back what was guessed). InputError: they are shorter."""
        with self._lock:
            self._states.reset(length)

    def state(self, name: str) -> np.ndarray | None:
        """A copy of the state that is fed as input `name`; None before the first run."""
        with self._lock:
            return self._states.read(name)

    def timed(self, feeds: Feeds) -> tuple[dict[str, Any], list[StepTime]]:
        """Run once, and tell how long each native step (until its last tile was done) and each host step took.

        What a loop's body does is counted once for all its iterations.
        """
        return self._timed(lambda host: self._execute(self._borrow(feeds), None, host))

    def _timed(self, run: Callable[[Times], dict[str, Any]]) -> tuple[dict[str, Any], list[StepTime]]:
        """As of `timed`. `run` runs once, and writes the times of host steps into what it is given."""
        with self._lock:
            self._times = {}
            host: Times = {}
            try:
                results = run(host)
                native = self._times
            finally:
                self._times = None
            out = [StepTime(l, s) for labels, seconds in native.values() for l, s in zip(labels, seconds.tolist())]
            return results, [*out, *(StepTime(label, s) for label, s in host.values())]

    def close(self) -> None:
        """Give the activations back, after the run in progress. The context cannot be used any more."""
        if self._executor is not None:
            self._executor.shutdown(wait=True)
        with self._lock:
            if self._arena is None:
                return
            arena, bindings = self._arena, self._bindings
            # First nothing leads there any more: Ctrl-C may raise between any two of these lines.
            self._arena, self._current, self._bindings = None, None, {}
            arena.close()
            self._scratch.close()
            for kept in bindings.values():
                for b in kept.values():
                    b.close()

    def __enter__(self) -> Context:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- inside --------------------------------------------------------------------------------------

    def _open(self) -> Memory:
        if self._arena is None:
            raise ValueError("the context is closed")
        return self._arena

    def _general(self, feeds: Feeds, out: Feeds | None) -> dict[str, Any]:
        try:
            return self._execute(self._borrow(feeds), out)
        except MemoryError as e:
            raise PlanError("there is no memory for this run", why=str(e) or "an array of it is too large",
                            do="give smaller inputs, or build the plan with a smaller profile") from None

    def _execute(self, borrowed: list[Borrowed | None], out: Feeds | None, times: Times | None = None
                 ) -> dict[str, Any]:
        self._open()
        out = out or {}
        specs = self.engine._programs[0].program
        if not out.keys() <= self.engine.outputs.keys():
            raise InputError(f"out has {sorted(out.keys() - self.engine.outputs.keys())}",
                             why=f"the plan's outputs are {list(self.engine.outputs)}", do="leave the others out")
        which, env = self._environment(borrowed)
        loaded = self.engine._programs[which]
        given = [self._states.lend(loaded, t, env) if x is None else x
                 for t, x in zip(loaded.program.inputs, borrowed)]
        spans = [(x.address, x.address + x.nbytes, t.name) for t, x in zip(specs.inputs, given) if x.address]
        if not loaded.plain:
            def native(segment: int, values: Sequence[Any], env: Mapping[str, int]) -> list[np.ndarray]:
                return self._native(which, segment, values, env)

            made = loaded.run([x.value for x in given], env, native, times)
            results = dict(zip((t.name for t in specs.outputs), made, strict=True))
            if self._states.inputs:
                self._states.keep(loaded, results, env)
            return {n: into(out[n], y, n, spans) if n in out else y for n, y in results.items()}
        b = self._bind(which, 0, env)
        if not self._states.inputs:
            self._current = b
        results = {}
        for t, x in zip(b.inputs, given):
            b.io[t.index] = x.address
        keep = []
        for t in b.outputs:
            if t.name in out:
                results[t.name] = out[t.name]
                y = borrow_output(out[t.name], t.dtype, t.shape, f"the output {t.name!r}")
                no_overlap(spans, y.address, t.nbytes, t.name)
                keep.append(y)
                b.io[t.index] = y.address
            else:
                results[t.name] = fresh = np.empty(t.shape, t.dtype)
                b.io[t.index] = address_of(fresh)
        self._run(which, 0, b)
        if self._states.inputs:
            self._states.keep(loaded, results, env)
        return results

    def _native(self, which: int, segment: int, values: Sequence[Any], env: Mapping[str, int]) -> list[np.ndarray]:
        """Run a segment on arrays of the program."""
        b = self._bind(which, segment, env)
        io, keep = b.io, []
        for t, x in zip(b.inputs, values):
            if type(x) is np.ndarray and x.shape == t.shape and x.dtype == t.dtype:
                flags = x.flags
                if flags.c_contiguous and flags.aligned:
                    io[t.index] = address_of(x)
                    continue
            given = borrow(x, t.dtype, t.name)
            if given.shape != t.shape:
                raise InputError(f"the value {t.name!r} has the shape {list(given.shape)}",
                                 why=f"what reads it was built for {list(t.shape)}", do="check the inputs' values")
            keep.append(given)
            io[t.index] = given.address
        results = []
        for t in b.outputs:
            results.append(np.empty(t.shape, t.dtype))
            b.io[t.index] = address_of(results[-1])
        self._run(which, segment, b)
        return results

    def _run(self, which: int, segment: int, b: Binding) -> None:
        if self._times is None:
            self._call(self._pool_address, b.address, 0, b.count)
            return
        b.timing(True)
        try:
            self._call(self._pool_address, b.address, 0, b.count)
            ends = b.times.copy()
        finally:
            b.timing(False)
        starts = np.concatenate([ends[-1:], ends[:-2]]) if b.count else ends[:0]
        seconds = np.maximum(ends[: b.count] - starts, 0) * 1e-9
        labels = self.engine._programs[which].program.segments[segment].labels
        before = self._times.get((which, segment))
        self._times[which, segment] = (labels, seconds if before is None else before[1] + seconds)

    def _borrow(self, feeds: Feeds) -> list[Borrowed | None]:
        """What the caller gives, in the plan's order; None for states."""
        self._check_names(feeds)
        return [None if t.name in self._states.inputs else borrow_one(t, feeds[t.name])
                for t in self.engine._programs[0].program.inputs]

    def _check_names(self, feeds: Feeds) -> None:
        specs, states = self.engine._programs[0].program.inputs, self._states.inputs
        names = {t.name for t in specs} - states
        if feeds.keys() != names:
            missing, extra = sorted(names - feeds.keys()), sorted(map(str, feeds.keys() - names))
            why = "; ".join([*([f"missing: {', '.join(missing)}"] if missing else []),
                             *([f"not an input: {', '.join(extra)}"] if extra else [])])
            raise InputError("these are not the plan's inputs", why=why,
                             do=f"give {accepts(self.engine._programs[0])}")

    def _environment(self, borrowed: list[Borrowed | None]) -> tuple[int, dict[str, int]]:
        """The first profile that takes these shapes, and the dimensions that they tell."""
        engine, specs = self.engine, self.engine._programs[0].program.inputs
        shapes = tuple(self._states.shape(t.name) if x is None else x.shape for t, x in zip(specs, borrowed))
        values = contents(engine._sizes, specs, borrowed) if engine._sizes else ()
        kept = self._states.known() if self._states.inputs else {}
        key = shapes, values, tuple(kept.values())
        found = self._environments.get(key)
        if found is None:
            found = choose(engine._programs, shapes, dict(zip(engine._sizes, values)), kept)
            self._environments[key] = found
            if len(self._environments) > KEPT_ENVIRONMENTS:
                self._environments.popitem(last=False)
        else:
            self._environments.move_to_end(key)
        return found[0], dict(found[1])

    def _bind(self, which: int, segment: int, env: Mapping[str, int]) -> Binding:
        """The binding of a segment for these dimensions: a remembered one, or a new one."""
        engine = self.engine
        tables = engine._programs[which].tables[segment]
        kept = self._bindings.setdefault((which, segment), OrderedDict())
        key = tuple(env[n] for n in tables.segment.dims)
        b = kept.get(key)
        if b is not None:
            kept.move_to_end(key)
            return b
        arena = self._open()
        if not isinstance(tables.segment.arena, int):  # its size depends on data
            size = evaluate(tables.segment.arena, env)
            if size > engine.memory_limit:
                raise PlanError(f"the activations would take {size >> 20} MiB for {named(tables.segment.dims, env)}",
                                why=f"the limit is {engine.memory_limit >> 20} MiB",
                                do="give smaller inputs, or set engine.memory_limit")
            if size > arena.size:
                arena = Memory.anonymous(size)
        b = Binding(tables, env, code=engine._pool.code.address, weights=engine._pool.weights.address,
                    arena=arena, scratch=self._scratch.address, threads=engine.threads)
        kept[key] = b
        if len(kept) > KEPT_BINDINGS:
            kept.popitem(last=False)
        return b


def borrow_one(t: Tensor, x: Any) -> Borrowed:
    """What the caller gives for an input, in the host's memory."""
    if t.dtype in HOST_TYPES:
        return borrow_object(x, t.dtype, f"the input {t.name!r}")
    return borrow(x, np_dtype(t.dtype), f"the input {t.name!r}")


def into(out: Any, y: Any, name: str, spans: list[tuple[int, int, str]]) -> Any:
    """The result copied into what the caller gave for it."""
    if not isinstance(y, np.ndarray) or y.dtype.kind == "O":
        raise InputError(f"the output {name!r} is no tensor that can be written to memory", do="leave it out of `out`")
    place = borrow_output(out, y.dtype, y.shape, f"the output {name!r}")
    no_overlap(spans, place.address, y.nbytes, name)
    ctypes.memmove(place.address, y.ctypes.data, y.nbytes)
    return out


def named(names: Sequence[str], env: Mapping[str, int]) -> str:
    """`batch = 4, length = 7`."""
    return ", ".join(f"{n} = {env[n]}" for n in names)


def no_overlap(spans: list[tuple[int, int, str]], start: int, size: int, name: str) -> None:
    """InputError if an output shares memory with one of the spans (start, end, name), to which it is added."""
    for a, z, other in spans:
        if start < z and a < start + size:
            raise InputError(f"the output {name!r} overlaps {other!r} in memory",
                             why="it is written while that is used", do="give memory of its own")
    if size:
        spans.append((start, start + size, name))
