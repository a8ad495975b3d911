"""Engine and Context: plans that run."""

from __future__ import annotations

import ctypes
import math
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

from whet.errors import InputError, PlanError, ProfileError
from whet.plan import Plan, PlanData, dims, fingerprint, layout, signing
from whet.plan.manifest import HOST_TYPES, np_dtype
from whet.plan.program import Tensor
from whet.runtime.binding import Binding, evaluate
from whet.runtime.feeds import Borrowed, address_of, borrow, borrow_object, borrow_output
from whet.runtime.memory import Memory
from whet.runtime.pool import Pool
from whet.runtime.program import Loaded, Times

Feeds = Mapping[str, Any]
KEPT_BINDINGS = 8  # shapes that a context remembers


def load(plan: str | os.PathLike[str] | Plan, *, threads: int | None = None,
         require_key: signing.Key | None = None) -> Engine:
    """An engine from a plan or a plan file.

    threads:     at most those the plan was built for; default: as many of them as this process has cores.
    require_key: an Ed25519 public key (PEM text, 64 hexadecimal digits, 32 bytes, or a file with one of
                 these): refuse any plan that its private half has not signed.

    PlanFormatError, PlanVersionError: a file that cannot be used. FingerprintError: code for another machine.
    SignatureError: not signed by `require_key`. InputError: a number of threads that cannot be.
    """
    opened = plan if isinstance(plan, Plan) else Plan.open(Path(plan))
    if require_key is not None:
        signing.verify(opened.contents.root, opened.contents.trailer.signature, require_key)
    return Engine(opened, threads)


def load_data(data: PlanData, threads: int | None = None) -> Engine:
    """An engine straight from what the pipeline made, without a hash: to time candidates."""
    return Engine(Plan.from_data(data, hashed=False), threads)


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
        self.plan = plan
        named = {name for p in plan.manifest.programs for b in p.blocks for _, name in b.constants}
        constants = {name: plan.weight(name) for name in sorted(named)}
        self._programs = [Loaded(plan, p, constants) for p in plan.manifest.programs]
        self._sizes = sorted({n for p in plan.manifest.programs for n in p.contents})  # inputs with ranges of elements
        self._pool = Pool(plan, threads)
        self._idle: list[Context] = []
        self._contexts: weakref.WeakSet[Context] = weakref.WeakSet()
        self._closed = False
        # Bytes of activations that a context may take for sizes that depend on data.
        self.memory_limit = int(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * 0.8)

    def __call__(self, feeds: Feeds, out: Feeds | None = None) -> dict[str, Any]:
        """Run once: `{input name: array}` to `{output name: fresh array}` (or those given in `out`).

        Any number of threads may call at once; each takes a context of its own. See `Context.run`.
        """
        try:
            ctx = self._idle.pop()
        except IndexError:
            ctx = self.context()
        try:
            return ctx.run(feeds, out)
        finally:
            self._idle.append(ctx)

    def context(self) -> Context:
        """A stream of work of its own: activations, and the shapes that it is bound to."""
        if self._closed:
            raise ValueError("the engine is closed")
        ctx = Context(self)
        self._contexts.add(ctx)
        return ctx

    @property
    def inputs(self) -> dict[str, tuple[str, tuple[int | str, ...]]]:
        """`{name: (dtype, shape)}`; dimensions of the profile by name."""
        return {t.name: (t.dtype, _shape(t)) for t in self.plan.manifest.inputs}

    @property
    def outputs(self) -> dict[str, tuple[str, tuple[int | str, ...]]]:
        """`{name: (dtype, shape)}`; dimensions of the profile by name or as an expression."""
        return {t.name: (t.dtype, _shape(t)) for t in self.plan.manifest.outputs}

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
        self._closed = True
        self._idle.clear()
        for ctx in list(self._contexts):
            ctx.close()
        self._pool.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<whet.Engine of {self.plan!r}, {self.threads} threads>"

    def accepts(self) -> str:
        """For messages: the inputs and their shapes."""
        return ", ".join(f"{t.name}: {t.dtype} {_brackets(_shape(t))}" for t in self.plan.manifest.inputs) or "nothing"


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
            specs = self.engine.plan.manifest
            feeds = {t.name: x for t, x in zip(specs.inputs, inputs, strict=True)}
            borrowed = self._borrow(feeds)
            which, env = self._environment(borrowed)
            lock, call, pool = self._lock, self._call, self._pool_address
            if not self.engine._programs[which].plain:
                out = {t.name: y for t, y in zip(specs.outputs, outputs, strict=True)}

                def walk(keep: object = self) -> None:
                    with lock:
                        self._open()
                        self._execute(borrowed, out)

                return walk
            b = self._bind(which, 0, env)
            written = [borrow_output(y, t.dtype, t.shape, f"the output {t.name!r}")
                       for t, y in zip(b.outputs, outputs, strict=True)]
            addresses = np.array([x.address for x in (*borrowed, *written)], np.int64)
            address, io, count = b.address, b.io, b.count

            def go(keep: object = (borrowed, written, self, b)) -> None:
                with lock:
                    self._open()
                    io[:] = addresses
                    call(pool, address, 0, count)

            return go

    def timed(self, feeds: Feeds) -> tuple[dict[str, Any], list[StepTime]]:
        """Run once, and tell how long each native step (until its last tile was done) and each host step took.

        What a loop's body does is counted once for all its iterations.
        """
        with self._lock:
            self._times = {}
            host: Times = {}
            try:
                results = self._execute(self._borrow(feeds), None, host)
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
            self._current = None
            self._arena.close()
            self._scratch.close()
            for kept in self._bindings.values():
                for b in kept.values():
                    b.close()
            self._bindings.clear()
            self._arena = None

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
        return self._execute(self._borrow(feeds), out)

    def _execute(self, borrowed: list[Borrowed], out: Feeds | None, times: Times | None = None) -> dict[str, Any]:
        self._open()
        out = out or {}
        specs = self.engine.plan.manifest
        names = [t.name for t in specs.outputs]
        if not out.keys() <= set(names):
            raise InputError(f"out has {sorted(out.keys() - set(names))}", why=f"the plan's outputs are {names}",
                             do="leave the others out")
        which, env = self._environment(borrowed)
        loaded = self.engine._programs[which]
        spans = [(x.address, x.address + x.nbytes, t.name) for t, x in zip(specs.inputs, borrowed) if x.address]
        if not loaded.plain:
            def native(segment: int, values: Sequence[Any], env: Mapping[str, int]) -> list[np.ndarray]:
                return self._native(which, segment, values, env)

            made = loaded.run([x.value for x in borrowed], env, native, times)
            return {n: _into(out[n], y, n, spans) if n in out else y for n, y in zip(names, made)}
        b = self._current = self._bind(which, 0, env)
        results: dict[str, Any] = {}
        for t, x in zip(b.inputs, borrowed):
            b.io[t.index] = x.address
        keep = []
        for t in b.outputs:
            if t.name in out:
                results[t.name] = out[t.name]
                y = borrow_output(out[t.name], t.dtype, t.shape, f"the output {t.name!r}")
                _no_overlap(spans, y.address, t.nbytes, t.name)
                keep.append(y)
                b.io[t.index] = y.address
            else:
                results[t.name] = fresh = np.empty(t.shape, t.dtype)
                b.io[t.index] = address_of(fresh)
        self._run(which, 0, b)
        return results

    def _native(self, which: int, segment: int, values: Sequence[Any], env: Mapping[str, int]) -> list[np.ndarray]:
        """Run a segment on arrays of the program."""
        b = self._bind(which, segment, env)
        keep = []
        for t, x in zip(b.inputs, values, strict=True):
            given = borrow(x, t.dtype, t.name)
            if given.shape != t.shape:
                raise InputError(f"the value {t.name!r} has the shape {list(given.shape)}",
                                 why=f"what reads it was built for {list(t.shape)}", do="check the inputs' values")
            keep.append(given)
            b.io[t.index] = given.address
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

    def _borrow(self, feeds: Feeds) -> list[Borrowed]:
        specs = self.engine.plan.manifest.inputs
        names = {t.name for t in specs}
        if feeds.keys() != names:
            missing, extra = sorted(names - feeds.keys()), sorted(map(str, feeds.keys() - names))
            why = "; ".join([*([f"missing: {', '.join(missing)}"] if missing else []),
                             *([f"not an input: {', '.join(extra)}"] if extra else [])])
            raise InputError("these are not the plan's inputs", why=why, do=f"give {self.engine.accepts()}")
        return [borrow(feeds[t.name], np_dtype(t.dtype), f"the input {t.name!r}") if t.dtype not in HOST_TYPES
                else borrow_object(feeds[t.name], t.dtype, f"the input {t.name!r}") for t in specs]

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
                raise PlanError(f"the activations would take {size >> 20} MiB for {_named(tables.segment.dims, env)}",
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

    def _environment(self, borrowed: list[Borrowed]) -> tuple[int, dict[str, int]]:
        """The first profile that takes these shapes, and the dimensions that they tell."""
        shapes = tuple(x.shape for x in borrowed)
        values = self._contents(borrowed)
        key = shapes, values
        known = self._environments.get(key)
        if known is not None:
            self._environments.move_to_end(key)
            return known
        refused: list[ProfileError] = []
        programs = self.engine._programs
        for i, loaded in enumerate(programs):
            try:
                name = f"profile {i + 1} of {len(programs)}"
                env = environment(loaded, shapes, self.engine, name)
                _check_contents(loaded, dict(zip(self.engine._sizes, values)), name)
            except ProfileError as e:
                refused.append(e)
                continue
            self._environments[key] = (i, env)
            if len(self._environments) > KEPT_BINDINGS:
                self._environments.popitem(last=False)
            return i, env
        if len(refused) > 1:
            refused[0].why = "; ".join(f"{e.what}: {e.why}" for e in refused)
            refused[0].what = "these shapes are in none of the plan's profiles"
        raise refused[0]


    def _contents(self, borrowed: list[Borrowed]) -> tuple[tuple[int, ...], ...]:
        """The elements of the inputs that are sizes and have ranges of their own."""
        if not self.engine._sizes:
            return ()
        specs = self.engine.plan.manifest.inputs
        out = []
        for name in self.engine._sizes:
            t, x = next((t, x) for t, x in zip(specs, borrowed) if t.name == name)
            dtype = np_dtype(t.dtype)
            raw = ctypes.string_at(x.address, math.prod(x.shape) * dtype.itemsize)
            out.append(tuple(np.frombuffer(raw, dtype).tolist()))
        return tuple(out)


def _check_contents(loaded: Loaded, values: Mapping[str, Sequence[int]], name: str) -> None:
    """ProfileError unless the elements of inputs that are sizes lie within the profile that messages call `name`."""
    for n, ranges in loaded.program.contents.items():
        for k, (v, (low, _, high)) in enumerate(zip(values[n], ranges)):
            if not low <= v <= high:
                raise ProfileError(f"element {k} of the input {n!r} is {v}", why=f"{name} allows {low} to {high}",
                                   do="build the plan with a profile that has it")


def environment(loaded: Loaded, shapes: Sequence[tuple[int, ...]], engine: Engine, name: str) -> dict[str, int]:
    """Dimensions from the inputs' shapes, checked against each other and the profile, which messages call `name`."""
    specs, profile = loaded.program.inputs, loaded.program.dims
    env = dict(loaded.fixed)
    tensors = [(t, shape) for t, shape in zip(specs, shapes) if t.dtype != "object"]
    for t, shape in tensors:
        if len(shape) != len(t.shape):
            raise _wrong_shape(t, shape, engine)
    plain = {dims.plain_name(d) for t, _ in tensors for d in t.shape}
    for i, k, dim in dims.tellers([t.shape for t, _ in tensors], env.keys() - plain):
        t, shape = tensors[i]
        value = dims.solve(t.shape[k], dim, shape[k], env)
        if value is None:
            raise _wrong_shape(t, shape, engine, env)
        low, _, high = profile[dim]
        if not low <= value <= high:
            raise ProfileError(f"the dimension {dim} is {value}", where=f"the input {t.name!r}, {list(shape)}",
                               why=f"{name} allows {low} to {high}",
                               do="build the plan with a profile that has it")
        env[dim] = value
    for t, shape in tensors:
        if len(engine._programs) > 1 and any(isinstance(d, int) and d != n for d, n in zip(t.shape, shape)):
            raise ProfileError(f"the input {t.name!r} has the shape {list(shape)}",
                               why=f"{name} takes {_brackets(_shape(t))}", do=f"give {engine.accepts()}")
        for d, n in zip(t.shape, shape):
            if dims.names(d) <= env.keys() and dims.evaluate(d, env) != n:
                raise _wrong_shape(t, shape, engine, env)
    return env


def _into(out: Any, y: Any, name: str, spans: list[tuple[int, int, str]]) -> Any:
    """The result copied into what the caller gave for it."""
    if not isinstance(y, np.ndarray) or y.dtype.kind == "O":
        raise InputError(f"the output {name!r} is no tensor that can be written to memory", do="leave it out of `out`")
    place = borrow_output(out, y.dtype, y.shape, f"the output {name!r}")
    _no_overlap(spans, place.address, y.nbytes, name)
    ctypes.memmove(place.address, y.ctypes.data, y.nbytes)
    return out


def _named(names: Sequence[str], env: Mapping[str, int]) -> str:
    return ", ".join(f"{n} = {env[n]}" for n in names)


def _wrong_shape(t: Tensor, shape: tuple[int, ...], engine: Engine, env: Mapping[str, int] | None = None) -> InputError:
    given = f" with {', '.join(f'{k} = {v}' for k, v in env.items())}" if env else ""
    return InputError(f"the input {t.name!r} has the shape {list(shape)}",
                      why=f"the plan takes {_brackets(_shape(t))}{given}", do=f"give {engine.accepts()}")


def _no_overlap(spans: list[tuple[int, int, str]], start: int, size: int, name: str) -> None:
    for a, z, other in spans:
        if start < z and a < start + size:
            raise InputError(f"the output {name!r} overlaps {other!r} in memory",
                             why="it is written while that is used", do="give memory of its own")
    if size:
        spans.append((start, start + size, name))


def _shape(t: Tensor) -> tuple[int | str, ...]:
    return tuple(d if isinstance(d, int) else dims.show(d) for d in t.shape)


def _brackets(shape: Sequence[int | str]) -> str:
    return f"[{', '.join(map(str, shape))}]"


