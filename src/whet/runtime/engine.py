"""Engine and Context: plans that run."""

from __future__ import annotations

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

from whet.errors import InputError, ProfileError
from whet.plan import Plan, PlanData, dims, fingerprint, layout, signing
from whet.plan.manifest import Tensor, np_dtype
from whet.runtime.binding import Binding, HostCall, Tables
from whet.runtime.feeds import Borrowed, address_of, borrow, borrow_output
from whet.runtime.host import prepare
from whet.runtime.memory import Memory
from whet.runtime.pool import Pool

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
        self._tables = Tables(plan.contents)
        m = plan.manifest
        host_labels = [l for l, k in zip(m.labels, plan.contents.steps["kind"]) if k == layout.STEP_HOST]
        self._host = [prepare(h.kind, plan.blob(h.payload), l) for h, l in zip(m.host, host_labels)]
        self._fixed = {n: low for n, (low, _, high) in m.dims.items() if low == high}
        self._pool = Pool(plan, threads)
        self._idle: list[Context] = []
        self._contexts: weakref.WeakSet[Context] = weakref.WeakSet()
        self._closed = False

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
        """`{dimension: (min, opt, max)}`."""
        return dict(self.plan.manifest.dims)

    @property
    def threads(self) -> int:
        """Threads that one run may use, the caller's included."""
        return self._pool.threads

    @property
    def arena_bytes(self) -> int:
        """Activations of one context at the profile's maximum."""
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
        static = all(low == high for low, _, high in engine.plan.manifest.dims.values())
        # Huge pages only where all of the arena will be touched: a wide profile uses little of it at its minimum.
        self._arena: Memory | None = Memory.anonymous(engine.arena_bytes, huge=static)
        self._scratch = Memory.anonymous(pool.scratch_bytes)
        self._bindings: OrderedDict[tuple[tuple[int, ...], ...], Binding] = OrderedDict()
        self._current: Binding | None = None
        self._lock = threading.Lock()
        self._executor: ThreadPoolExecutor | None = None
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
            if b.single is not None:
                self._call(self._pool_address, b.address, 0, b.single)
            else:
                self._walk(b)
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
            b = self._bind(borrowed)
            written = [borrow_output(y, t.dtype, t.shape, f"the output {t.name!r}")
                       for t, y in zip(b.outputs, outputs, strict=True)]
            addresses = np.array([x.address for x in (*borrowed, *written)], np.int64)
            lock, call, pool = self._lock, self._call, self._pool_address
            address, io, single = b.address, b.io, b.single

            def go(keep: object = (borrowed, written, self)) -> None:
                with lock:
                    self._open()
                    io[:] = addresses
                    if single is not None:
                        call(pool, address, 0, single)
                    else:
                        self._walk(b)

            return go

    def timed(self, feeds: Feeds) -> tuple[dict[str, Any], list[StepTime]]:
        """Run once, and tell how long each native step took (until its last tile was done)."""
        with self._lock:
            borrowed = self._borrow(feeds)
            b = self._bind(borrowed)
            b.timing(True)
            try:
                results = self._execute(b, borrowed, None)
                ends = b.times.copy()
            finally:
                b.timing(False)
            labels = self.engine._tables.labels
            starts = np.concatenate([ends[-1:], ends[:-2]]) if labels else ends[:0]
            return results, [StepTime(l, max(0, int(e - s)) * 1e-9) for l, s, e in zip(labels, starts, ends)]

    def close(self) -> None:
        """Give the activations back, after the run in progress. The context cannot be used any more."""
        if self._executor is not None:
            self._executor.shutdown(wait=True)
        with self._lock:
            if self._arena is None:
                return
            self._current = None
            for m in (self._arena, self._scratch, *(b.memory for b in self._bindings.values())):
                m.close()
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
        borrowed = self._borrow(feeds)
        return self._execute(self._bind(borrowed), borrowed, out)

    def _execute(self, b: Binding, borrowed: list[Borrowed], out: Feeds | None) -> dict[str, Any]:
        for t, x in zip(b.inputs, borrowed):
            b.io[t.index] = x.address
        results: dict[str, Any] = {}
        out = out or {}
        if not out.keys() <= {t.name for t in b.outputs}:
            raise InputError(f"out has {sorted(out.keys() - {t.name for t in b.outputs})}",
                             why=f"the plan's outputs are {[t.name for t in b.outputs]}", do="leave the others out")
        spans = [(x.address, x.address + t.nbytes, t.name) for t, x in zip(b.inputs, borrowed)]
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
        self._walk(b)
        return results

    def _walk(self, b: Binding) -> None:
        for c in b.calls:
            if isinstance(c, HostCall):
                b.run_host(c)
            else:
                self._call(self._pool_address, b.address, c[0], c[1])

    def _borrow(self, feeds: Feeds) -> list[Borrowed]:
        specs = self.engine.plan.manifest.inputs
        names = {t.name for t in specs}
        if feeds.keys() != names:
            missing, extra = sorted(names - feeds.keys()), sorted(map(str, feeds.keys() - names))
            why = "; ".join([*([f"missing: {', '.join(missing)}"] if missing else []),
                             *([f"not an input: {', '.join(extra)}"] if extra else [])])
            raise InputError("these are not the plan's inputs", why=why, do=f"give {self.engine.accepts()}")
        return [borrow(feeds[t.name], np_dtype(t.dtype), f"the input {t.name!r}") for t in specs]

    def _bind(self, borrowed: list[Borrowed]) -> Binding:
        """The binding for these shapes: a remembered one, or a new one."""
        key = tuple(x.shape for x in borrowed)
        b = self._bindings.get(key)
        if b is None:
            env = self._environment(key)
            engine = self.engine
            b = Binding(engine._tables, env, code=engine._pool.code.address, weights=engine._pool.weights.address,
                        arena=self._open(), scratch=self._scratch.address, threads=engine.threads, host=engine._host)
            self._bindings[key] = b
            if len(self._bindings) > KEPT_BINDINGS:
                self._bindings.popitem(last=False)
        else:
            self._bindings.move_to_end(key)
        self._open()
        self._current = b
        return b

    def _environment(self, shapes: tuple[tuple[int, ...], ...]) -> dict[str, int]:
        """Dimensions from the inputs' shapes, checked against each other and the profile."""
        specs, profile = self.engine.plan.manifest.inputs, self.engine.plan.manifest.dims
        env = dict(self.engine._fixed)
        told: dict[str, str] = {}
        for t, shape in zip(specs, shapes):
            if len(shape) != len(t.shape):
                raise _wrong_shape(t, shape, self.engine)
            for d, n in zip(t.shape, shape):
                name = dims.plain_name(d)
                if name is None or name in told:
                    continue
                low, _, high = profile[name]
                if not low <= n <= high:
                    raise ProfileError(f"the dimension {name} is {n}", where=f"the input {t.name!r}, {list(shape)}",
                                       why=f"the plan's profile allows {low} to {high}",
                                       do="build the plan with a profile that has it")
                env[name], told[name] = n, t.name
        for t, shape in zip(specs, shapes):
            for d, n in zip(t.shape, shape):
                if dims.evaluate(d, env) != n:
                    raise _wrong_shape(t, shape, self.engine, env)
        return env


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


