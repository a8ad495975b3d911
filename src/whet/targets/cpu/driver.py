"""The native driver: a thread pool and the loop that walks a table of bound steps.

One inference is one call of `whet_run`. How the work is shared (memory layout: `whet.abi`):

- A *unit* is one step, or a stretch of neighbouring steps that one thread runs whole
  (tiles <= grain). Each unit of a run has a number, its *epoch*.
- A step's tiles are divided into one part per thread. A thread claims `grain` tiles at a time from
  its own part, so that neighbouring steps find their data in the same core's cache, then from the
  others' parts. A part's counter is `epoch << 32 | next tile`: it needs no reset, for one with an
  older epoch counts as untouched and one with a newer epoch as used up.
- A unit is complete when as many tiles as it has are done: threads wait for tiles, never for
  threads. So a run is right with any number of threads, and one that the kernel has descheduled
  holds nobody up unless it is inside a tile.
- The caller of a run asks idle workers to join. With `active` runs in progress it asks for no more
  than its share, threads / active - 1; if there are none it walks the steps alone, without atomics.
  A worker that was asked but has not woken by the end of the run is un-asked.
- Waiting is spinning for a bounded time, then sleeping on a futex; with more runs than threads,
  sleeping at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from whet import abi
from whet.targets.cpu.compile import to_object
from whet.targets.cpu.isa import Isa
from whet.targets.cpu.llvm import Fn, Val

_FUTEX = {"x86_64": 202, "aarch64": 98}
_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _XFEATURE_XTILEDATA = 158, 0x1023, 18
_WAIT, _WAKE = 128, 129  # FUTEX_*_PRIVATE
_MASK32 = 0xFFFFFFFF
_EPOCH_LIMIT = 1 << 30
_PART_SHIFT, _TAKEN = 1, 1
_COURTESY = 48  # pauses that workers leave to the caller where one thread runs a unit


def code(isa: Isa) -> str:
    """The driver's LLVM IR."""
    functions = (_now, _complete, _claim, _wake_run, _finish, _wait, _participate, _wait_job, _worker, _recruit,
                 _dismiss, _alone, _run, _create, _destroy)
    built = [f(isa) for f in functions]
    declares = {d for b in built for d in b.intrinsics()}
    return "\n".join([f'target triple = "{isa.triple}"', *sorted(declares), *(b.definition() for b in built),
                      'attributes #0 = { nounwind "frame-pointer"="none" "no-builtins" }', ""])


@cache
def to_driver_object(isa: Isa) -> bytes:
    """The driver's object code, to be linked with the kernels; compiled once a process."""
    return to_object(code(isa), isa)


class _Native(Fn):
    """A function of the driver: the kernel language, and atomics, open loops and returns."""

    def __init__(self, name: str, isa: Isa, params: list[tuple[str, str]], ret: str = "i64",
                 public: bool = False) -> None:
        super().__init__(name, isa, params, ret)
        self.linkage = "" if public else "internal "
        self.arch = isa.triple.split("-")[0]

    def definition(self) -> str:
        sig = ", ".join(f"{t} %{n}" for n, t in ((n, t) for t, n in self.params))
        return "\n".join([f"define {self.linkage}{self.ret} @{self.name}({sig}) #0 {{", "entry:", *self._allocas,
                          *self._body, "  unreachable", "}", ""])

    def intrinsics(self) -> list[str]:
        return [d for n, d in self._declares.items() if n.startswith("llvm.")]

    def ret_(self, v: Any) -> None:
        """Return v; what follows is emitted into a block that nothing reaches."""
        self.line(f"ret {self.ret} {self.coerce(v, self.ret).ref}")
        self._start(self._label("after"))

    @contextmanager
    def loop(self) -> Iterator[_Loop]:
        """An endless loop; leave it by `loop.leave_if(cond)` or a return."""
        head, done = self._label("loop"), self._label("left")
        self.line(f"br label %{head}")
        self._start(head)
        yield _Loop(self, head, done)
        self.line(f"br label %{head}")
        self._start(done)

    def get(self, base: Val, offset: int, ty: str = "i64") -> Val:
        return self.load(ty, base + offset)

    def put(self, v: Any, base: Val, offset: int, ty: str = "i64") -> None:
        self.store(self.coerce(v, ty), base + offset)

    def atomic_load(self, p: Val, ty: str = "i64") -> Val:
        return self.emit(ty, f"load atomic {ty}, ptr {p.ref} seq_cst, align {8 if ty == 'i64' else 4}")

    def atomic_store(self, v: Any, p: Val, ty: str = "i64", order: str = "seq_cst") -> None:
        v = self.coerce(v, ty)
        self.line(f"store atomic {ty} {v.ref}, ptr {p.ref} {order}, align {8 if ty == 'i64' else 4}")

    def atomic_add(self, p: Val, v: Any, ty: str = "i64") -> Val:
        """Adds; gives the value before."""
        v = self.coerce(v, ty)
        return self.emit(ty, f"atomicrmw add ptr {p.ref}, {ty} {v.ref} seq_cst")

    def swapped(self, p: Val, old: Val, new: Any) -> Val:
        """Compare and swap of an i64; true if it held `old`."""
        new = self.coerce(new, "i64")
        pair = self.emit("{ i64, i1 }", f"cmpxchg ptr {p.ref}, i64 {old.ref}, i64 {new.ref} seq_cst seq_cst")
        return self.emit("i1", f"extractvalue {{ i64, i1 }} {pair.ref}, 1")

    def pause(self) -> None:
        if self.arch == "x86_64":
            self.call("llvm.x86.sse2.pause", "void", [])
        else:
            self.call("llvm.aarch64.hint", "void", [self.const("i32", 1)])  # yield

    def shift_right(self, v: Val, by: int) -> Val:
        return self.op("lshr", v, self.i64(by))

    def shift_left(self, v: Val, by: int) -> Val:
        return v << by

    def to_int(self, p: Val) -> Val:
        return self.emit("i64", f"ptrtoint ptr {p.ref} to i64")

    def to_ptr(self, v: Val) -> Val:
        return self.emit("ptr", f"inttoptr i64 {v.ref} to ptr")

    def imported(self, pool: Val, name: str, args: list[Any], ret: str = "i64") -> Val:
        """Call a C function of the import table (integers and pointers only)."""
        f = self.load("ptr", pool + (abi.POOL_IMPORTS + 8 * abi.IMPORTS.index(name)))
        text = ", ".join(f"{a.ty} {a.ref}" for a in (self.i64(a) if isinstance(a, int) else a for a in args))
        return self.emit(ret, f"call {ret} {f.ref}({text})")

    def futex_wait(self, pool: Val, word: Val, expected: Any) -> None:
        """Sleep while the u32 at `word` is `expected` (may wake for no reason)."""
        e = expected if isinstance(expected, int) else self.cast("zext", expected, "i64")
        self.imported(pool, "syscall", [_FUTEX[self.arch], word, _WAIT, e, 0, 0, 0])

    def futex_wake(self, pool: Val, word: Val) -> None:
        self.imported(pool, "syscall", [_FUTEX[self.arch], word, _WAKE, 0x7FFFFFFF, 0, 0, 0])

    def kernel(self, step: Val, begin: Any, end: Any, scratch: Val) -> None:
        """Run the tiles [begin, end) of a step."""
        f = self.load("ptr", step + abi.STEP_KERNEL)
        args = self.load("ptr", step + abi.STEP_ARGS)
        b, e = self.i64(begin), self.i64(end)
        self.line(f"call void {f.ref}(ptr {args.ref}, i64 {b.ref}, i64 {e.ref}, ptr {scratch.ref})")

    def stamp(self, run: Val, step: Any) -> None:
        """times[step] = now, where times are wanted."""
        times = self.get(run, abi.RUN_TIMES)
        with self.if_(times.ne(0)):
            now = self.call("whet_now", "i64", [self.load("ptr", run + abi.RUN_POOL)])
            self.store(now, self.to_ptr(times) + step * 8)

    def spinning(self, pool: Val, limit: Val) -> _Spin:
        return _Spin(self, pool, limit)


class _Loop:
    def __init__(self, fn: _Native, head: str, done: str) -> None:
        self.fn, self.head, self.done = fn, head, done

    def leave_if(self, cond: Val) -> None:
        self._branch(cond, self.done)

    def again_if(self, cond: Val) -> None:
        self._branch(cond, self.head)

    def _branch(self, cond: Val, to: str) -> None:
        on = self.fn._label("on")
        self.fn.line(f"br i1 {cond.ref}, label %{to}, label %{on}")
        self.fn._start(on)


class _Spin:
    """Bounded spinning: `step()` pauses, and is true once `limit` ns have passed since the first look at
    the clock (every 64 pauses, for the clock is slower than a pause)."""

    def __init__(self, fn: _Native, pool: Val, limit: Val) -> None:
        self.fn, self.pool, self.limit = fn, pool, limit
        self.turns, self.deadline = fn.var("i64", 0), fn.var("i64", 0)

    def step(self) -> Val:
        k = self.fn
        k.pause()
        turn = self.turns.get() + 1
        self.turns.set(turn)
        over = k.var("i1", 0)
        with k.if_((turn & 63).eq(0)):
            now = k.call("whet_now", "i64", [self.pool])
            fresh = self.deadline.get().eq(0)
            self.deadline.set(k.select(fresh, now + self.limit, self.deadline.get()))
            over.set(now >= self.deadline.get())
        return over.get()


def _now(isa: Isa) -> _Native:
    """CLOCK_MONOTONIC in ns."""
    k = _Native("whet_now", isa, [("ptr", "pool")])
    ts = k.local(16, align=16)
    k.imported(k.p["pool"], "clock_gettime", [k.const("i32", 1), ts], ret="i32")
    k.ret_(k.get(ts, 0) * 1_000_000_000 + k.get(ts, 8))
    return k


def _complete(isa: Isa) -> _Native:
    """1 if the unit `epoch`, whose counters are at `line`, has all of its `want` tiles done."""
    k = _Native("whet_complete", isa, [("ptr", "line"), ("i64", "epoch"), ("i64", "want")])
    c = k.atomic_load(k.p["line"])
    e = k.shift_right(c, 32)
    now = e.eq(k.p["epoch"]) & (c & _MASK32).eq(k.p["want"])
    k.ret_(k.cast("zext", now | (e > k.p["epoch"]), "i64"))
    return k


def _claim(isa: Isa) -> _Native:
    """The first of up to `grain` tiles of [start, end) that now belong to the caller, or -1."""
    k = _Native("whet_claim", isa, [("ptr", "line"), *(("i64", n) for n in ("epoch", "start", "end", "grain"))])
    line, epoch, start, end = (k.p[n] for n in ("line", "epoch", "start", "end"))
    with k.loop():
        c = k.atomic_load(line)
        e = k.shift_right(c, 32)
        with k.if_(e > epoch):
            k.ret_(-1)
        first = k.select(e.eq(epoch), c & _MASK32, start)
        with k.if_(first >= end):
            k.ret_(-1)
        after = k.min(first + k.p["grain"], end)
        with k.if_(k.swapped(line, c, k.shift_left(epoch, 32) | after)):
            k.ret_(first)
    return k


def _wake_run(isa: Isa) -> _Native:
    """Wake the threads that sleep in `whet_wait`."""
    k = _Native("whet_wake_run", isa, [("ptr", "run")])
    run = k.p["run"]
    with k.if_(k.atomic_load(run + abi.RUN_SLEEPERS, "i32").ne(0)):
        k.atomic_add(run + abi.RUN_GATE, 1, "i32")
        k.futex_wake(k.load("ptr", run + abi.RUN_POOL), run + abi.RUN_GATE)
    k.ret_(0)
    return k


def _finish(isa: Isa) -> _Native:
    """Count `n` tiles of the unit as done; 1 if they were the last."""
    k = _Native("whet_finish", isa, [("ptr", "run"), ("ptr", "line"), ("i64", "epoch"), ("i64", "n"), ("i64", "want")])
    line, epoch = k.p["line"], k.p["epoch"]
    with k.loop():
        c = k.atomic_load(line)
        before = k.select(k.shift_right(c, 32).eq(epoch), c & _MASK32, 0)
        total = before + k.p["n"]
        with k.if_(k.swapped(line, c, k.shift_left(epoch, 32) | total)):
            with k.if_(total.eq(k.p["want"])):
                k.ret_(1)
            k.ret_(0)
    return k


def _wait(isa: Isa) -> _Native:
    """Return when the unit is complete."""
    k = _Native("whet_wait", isa, [("ptr", "run"), ("ptr", "line"), ("i64", "epoch"), ("i64", "want")])
    run, line = k.p["run"], k.p["line"]

    def complete() -> Val:
        return k.call("whet_complete", "i64", [line, k.p["epoch"], k.p["want"]]).ne(0)

    pool = k.load("ptr", run + abi.RUN_POOL)
    with k.if_(complete()):
        k.ret_(0)
    threads = k.get(pool, abi.POOL_WORKERS) + 1
    crowded = k.atomic_load(pool + abi.POOL_ACTIVE) > threads
    spin = k.spinning(pool, k.select(crowded, k.i64(0), k.get(pool, abi.POOL_SPIN_STEP)))
    with k.loop() as loop:
        with k.if_(complete()):
            k.ret_(0)
        loop.leave_if(spin.step())
    # Announce first, look again, then sleep: whoever completes the unit looks at `sleepers` afterwards.
    k.atomic_add(run + abi.RUN_SLEEPERS, 1, "i32")
    with k.loop() as loop:
        gate = k.atomic_load(run + abi.RUN_GATE, "i32")
        loop.leave_if(complete())
        k.futex_wait(pool, run + abi.RUN_GATE, gate)
    k.atomic_add(run + abi.RUN_SLEEPERS, -1, "i32")
    k.ret_(0)
    return k


def _participate(isa: Isa) -> _Native:
    """Walk the steps of a run as thread `part`; gives the epoch after the last unit."""
    k = _Native("whet_participate", isa, [("ptr", "run"), ("i64", "part"), ("ptr", "own")])
    run, part, own = k.p["run"], k.p["part"], k.p["own"]
    current = k.atomic_load(run + abi.RUN_CURRENT)
    step, epoch = k.var("i64", current & _MASK32), k.var("i64", k.shift_right(current, 32))
    stop, parts = k.get(run, abi.RUN_STOP), k.get(run, abi.RUN_PARTS)
    steps, lines = k.load("ptr", run + abi.RUN_STEPS), k.load("ptr", run + abi.RUN_LINES)
    ring_bytes = (k.get(run, abi.RUN_THREADS) + 1) * abi.LINE
    after, mine, other, turns = k.var("i64"), k.var("i64"), k.var("i64"), k.var("i64")

    with k.loop() as units:
        s, e = step.get(), epoch.get()
        units.leave_if(s >= stop)
        at = steps + s * abi.STEP_BYTES
        tiles, grain = k.get(at, abi.STEP_TILES), k.get(at, abi.STEP_GRAIN)
        line = lines + (e & (abi.RING - 1)) * ring_bytes
        with k.if_(part.eq(0)):  # for those who join late
            k.atomic_store(k.shift_left(e, 32) | s, run + abi.RUN_CURRENT, order="release")
        after.set(s + 1)
        whole = tiles <= grain
        want = k.select(whole, k.i64(1), tiles)
        mine.set(0)

        def count() -> None:
            """Tell of the tiles in `mine`; whoever brings the last ones wakes the sleepers."""
            with k.if_(mine.get().ne(0)):
                last = k.call("whet_finish", "i64", [run, line, e, mine.get(), want])
                with k.if_(last.ne(0)):
                    with k.if_(tiles > grain):
                        k.stamp(run, s)
                    k.call("whet_wake_run", "i64", [run])

        with k.if_(whole):
            with k.loop() as stretch:
                stretch.leave_if(after.get() >= stop)
                n = steps + after.get() * abi.STEP_BYTES
                stretch.leave_if(k.get(n, abi.STEP_TILES) > k.get(n, abi.STEP_GRAIN))
                after.set(after.get() + 1)
            # The caller has the first grab at it: a race would cost both a cache miss, and it has the data.
            turns.set(k.select(part.eq(0), k.i64(0), k.i64(_COURTESY)))
            with k.loop() as courtesy:
                courtesy.leave_if(turns.get() <= 0)
                courtesy.leave_if(k.call("whet_complete", "i64", [line, e, want]).ne(0))
                k.pause()
                turns.set(turns.get() - 1)
            first = k.call("whet_claim", "i64", [line + abi.LINE, e, k.i64(0), k.i64(1), k.i64(1)])
            with k.if_(first.eq(0)):
                for i in k.range(s, after.get()):
                    st = steps + i * abi.STEP_BYTES
                    k.kernel(st, 0, k.get(st, abi.STEP_TILES), own)
                    k.stamp(run, i)
                mine.set(1)
            count()
        with k.if_(tiles > grain):
            turns.set(0)
            with k.loop() as shares:
                other.set(part + turns.get())
                o = k.select(other.get() >= parts, other.get() - parts, other.get())
                start, end = tiles * o // parts, tiles * (o + 1) // parts
                claims = line + (o + 1) * abi.LINE
                with k.loop() as take:
                    t = k.call("whet_claim", "i64", [claims, e, start, end, grain])
                    take.leave_if(t < 0)
                    till = k.min(t + grain, end)
                    k.kernel(at, t, till, own)
                    mine.set(mine.get() + (till - t))
                # Count after each part, before looking at the others': the last to finish sees that all is done, and
                # the others' counters stay in their own caches.
                count()
                mine.set(0)
                turns.set(turns.get() + 1)
                shares.leave_if(turns.get() >= parts)
                shares.leave_if(k.call("whet_complete", "i64", [line, e, want]).ne(0))
        k.call("whet_wait", "i64", [run, line, e, want])
        step.set(after.get())
        epoch.set(e + 1)
    k.ret_(epoch.get())
    return k


def _wait_job(isa: Isa) -> _Native:
    """A worker waits for a job: the job's word."""
    k = _Native("whet_wait_job", isa, [("ptr", "worker")])
    w = k.p["worker"]
    pool = k.load("ptr", w + abi.WORKER_POOL)
    threads = k.get(pool, abi.POOL_WORKERS) + 1
    crowded = k.atomic_load(pool + abi.POOL_ACTIVE) >= threads
    spin = k.spinning(pool, k.select(crowded, k.i64(0), k.get(pool, abi.POOL_SPIN_IDLE)))
    with k.loop() as loop:
        job = k.atomic_load(w + abi.WORKER_JOB)
        with k.if_(job.ne(0)):
            k.ret_(job)
        loop.leave_if(spin.step())
    with k.loop():
        k.atomic_store(1, w + abi.WORKER_PARKED, "i32")
        job = k.atomic_load(w + abi.WORKER_JOB)
        with k.if_(job.ne(0)):
            k.atomic_store(0, w + abi.WORKER_PARKED, "i32")
            k.ret_(job)
        k.futex_wait(pool, w + abi.WORKER_PARKED, 1)
    return k


def _worker(isa: Isa) -> _Native:
    """A worker thread's life."""
    k = _Native("whet_worker", isa, [("ptr", "worker")], ret="ptr")
    w = k.p["worker"]
    pool, own = k.load("ptr", w + abi.WORKER_POOL), k.load("ptr", w + abi.WORKER_SCRATCH)
    with k.loop() as loop:
        job = k.call("whet_wait_job", "i64", [w])
        with k.if_(job.eq(abi.JOB_QUIT)):
            k.ret_(0)
        loop.again_if(k.swapped(w + abi.WORKER_JOB, job, job | _TAKEN).eq(0))  # un-asked meanwhile
        run = k.to_ptr(job & -abi.PAGE)
        part = k.shift_right(job & (abi.PAGE - 1), _PART_SHIFT)
        k.call("whet_participate", "i64", [run, part, own])
        k.atomic_store(0, w + abi.WORKER_JOB)  # from here on the run may be gone
        with k.if_(k.atomic_load(w + abi.WORKER_WAITER, "i32").ne(0)):
            k.atomic_store(0, w + abi.WORKER_WAITER, "i32")
            k.futex_wake(pool, w + abi.WORKER_WAITER)
    return k


def _recruit(isa: Isa) -> _Native:
    """Ask idle workers to join until there are `parts` threads; gives how many there are."""
    k = _Native("whet_recruit", isa, [("ptr", "pool"), ("ptr", "run"), ("i64", "parts")])
    pool, run = k.p["pool"], k.p["run"]
    have = k.var("i64", 1)
    zero = k.i64(0)
    for i in k.range(0, k.get(pool, abi.POOL_WORKERS)):
        with k.if_(have.get() < k.p["parts"]):
            w = pool + (i * abi.WORKER_BYTES + abi.POOL_BYTES)
            with k.if_(k.atomic_load(w + abi.WORKER_JOB).eq(0)):
                job = k.to_int(run) | k.shift_left(have.get(), _PART_SHIFT)
                with k.if_(k.swapped(w + abi.WORKER_JOB, zero, job)):
                    have.set(have.get() + 1)
                    with k.if_(k.atomic_load(w + abi.WORKER_PARKED, "i32").ne(0)):
                        k.atomic_store(0, w + abi.WORKER_PARKED, "i32")
                        k.futex_wake(pool, w + abi.WORKER_PARKED)
    k.ret_(have.get())
    return k


def _dismiss(isa: Isa) -> _Native:
    """Un-ask the workers that have not joined, and wait until those that have are out of the run."""
    k = _Native("whet_dismiss", isa, [("ptr", "pool"), ("ptr", "run")])
    pool, me = k.p["pool"], k.to_int(k.p["run"])
    for i in k.range(0, k.get(pool, abi.POOL_WORKERS)):
        w = pool + (i * abi.WORKER_BYTES + abi.POOL_BYTES)
        spin = k.spinning(pool, k.get(pool, abi.POOL_SPIN_STEP))
        with k.loop() as loop:
            job = k.atomic_load(w + abi.WORKER_JOB)
            loop.leave_if((job & -abi.PAGE).ne(me))
            with k.if_((job & _TAKEN).eq(0)):
                loop.leave_if(k.swapped(w + abi.WORKER_JOB, job, 0))
            loop.again_if(spin.step().eq(0))
            k.atomic_store(1, w + abi.WORKER_WAITER, "i32")
            loop.leave_if((k.atomic_load(w + abi.WORKER_JOB) & -abi.PAGE).ne(me))
            k.futex_wait(pool, w + abi.WORKER_WAITER, 1)
    k.ret_(0)
    return k


def _alone(isa: Isa) -> _Native:
    """Walk the steps without other threads."""
    k = _Native("whet_alone", isa, [("ptr", "run"), ("i64", "first"), ("i64", "stop")])
    run = k.p["run"]
    steps, own = k.load("ptr", run + abi.RUN_STEPS), k.load("ptr", run + abi.RUN_SCRATCH)
    for i in k.range(k.p["first"], k.p["stop"]):
        st = steps + i * abi.STEP_BYTES
        k.kernel(st, 0, k.get(st, abi.STEP_TILES), own)
        k.stamp(run, i)
    k.ret_(0)
    return k


def _run(isa: Isa) -> _Native:
    k = _Native(abi.ENTRY_RUN, isa, [("ptr", "pool"), ("ptr", "run"), ("i64", "first"), ("i64", "count")], public=True)
    pool, run, first = k.p["pool"], k.p["run"], k.p["first"]
    k.store(pool, run + abi.RUN_POOL)
    stop = first + k.p["count"]
    k.put(stop, run, abi.RUN_STOP)
    with k.if_(first.eq(0)):
        slots, io = k.load("ptr", run + abi.RUN_SLOTS), k.load("ptr", run + abi.RUN_IO)
        patches = k.load("ptr", run + abi.RUN_PATCHES)
        for i in k.range(0, k.get(run, abi.RUN_N_PATCHES)):
            p = patches + i * abi.PATCH_BYTES
            address = k.get(io + k.get(p, abi.PATCH_IO) * 8, 0) + k.get(p, abi.PATCH_OFFSET)
            k.store(address, slots + k.get(p, abi.PATCH_SLOT) * 8)
    active = k.atomic_add(pool + abi.POOL_ACTIVE, 1) + 1
    k.stamp(run, k.get(run, abi.RUN_N_STEPS))
    share = (k.get(pool, abi.POOL_WORKERS) + 1) // active
    parts = k.min(share, k.get(run, abi.RUN_PARALLEL))
    have = k.var("i64", 1)
    with k.if_(parts > 1):
        with k.if_(k.get(run, abi.RUN_EPOCH) > _EPOCH_LIMIT):  # nobody else is in the run now
            lines = k.load("ptr", run + abi.RUN_LINES)
            for i in k.range(0, (k.get(run, abi.RUN_THREADS) + 1) * (abi.RING * abi.LINE // 8)):
                k.put(0, lines + i * 8, 0)
            k.put(0, run, abi.RUN_EPOCH)
        epoch = k.get(run, abi.RUN_EPOCH) + 1
        k.put(parts, run, abi.RUN_PARTS)
        k.atomic_store(k.shift_left(epoch, 32) | first, run + abi.RUN_CURRENT)
        have.set(k.call("whet_recruit", "i64", [pool, run, parts]))
        with k.if_(have.get() > 1):
            own = k.load("ptr", run + abi.RUN_SCRATCH)
            k.put(k.call("whet_participate", "i64", [run, k.i64(0), own]), run, abi.RUN_EPOCH)
            k.call("whet_dismiss", "i64", [pool, run])
    with k.if_(have.get().eq(1)):
        k.call("whet_alone", "i64", [run, first, stop])
    k.atomic_add(pool + abi.POOL_ACTIVE, -1)
    k.ret_(0)
    return k


def _create(isa: Isa) -> _Native:
    k = _Native(abi.ENTRY_CREATE, isa, [("ptr", "pool"), ("ptr", "imports"), ("i64", "workers"), ("i64", "flags"),
                                        ("ptr", "spare"), ("i64", "stride")], public=True)
    pool, workers = k.p["pool"], k.p["workers"]
    for i in range(len(abi.IMPORTS)):
        k.put(k.get(k.p["imports"], 8 * i), pool, abi.POOL_IMPORTS + 8 * i)
    k.put(workers, pool, abi.POOL_WORKERS)
    k.put(abi.DEFAULT_SPIN_IDLE_NS, pool, abi.POOL_SPIN_IDLE)
    k.put(abi.DEFAULT_SPIN_STEP_NS, pool, abi.POOL_SPIN_STEP)
    k.store(k.p["spare"], pool + abi.POOL_SCRATCH)
    k.put(k.p["stride"], pool, abi.POOL_SCRATCH_STRIDE)
    if k.arch == "x86_64":
        with k.if_((k.p["flags"] & abi.FLAG_AMX).ne(0)):
            refused = k.imported(pool, "syscall", [_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _XFEATURE_XTILEDATA, 0, 0, 0, 0])
            with k.if_(refused.ne(0)):
                k.ret_(1)  # EPERM
    for i in k.range(0, workers):
        w = pool + (i * abi.WORKER_BYTES + abi.POOL_BYTES)
        k.store(pool, w + abi.WORKER_POOL)
        k.store(k.p["spare"] + i * k.p["stride"], w + abi.WORKER_SCRATCH)
        worker = Val(k, "ptr", "@whet_worker")
        null = k.const("ptr", 0)
        failed = k.imported(pool, "pthread_create", [w + abi.WORKER_THREAD, null, worker, w], ret="i32")
        with k.if_(failed.ne(0)):
            k.ret_(k.cast("sext", failed, "i64"))
        k.put(i + 1, pool, abi.POOL_STARTED)
    k.ret_(0)
    return k


def _destroy(isa: Isa) -> _Native:
    k = _Native(abi.ENTRY_DESTROY, isa, [("ptr", "pool")], public=True)
    pool = k.p["pool"]
    for i in k.range(0, k.get(pool, abi.POOL_STARTED)):
        w = pool + (i * abi.WORKER_BYTES + abi.POOL_BYTES)
        with k.loop() as loop:  # a worker may still be on its way out of a run
            loop.leave_if(k.swapped(w + abi.WORKER_JOB, k.i64(0), abi.JOB_QUIT))
            k.pause()
        k.atomic_store(0, w + abi.WORKER_PARKED, "i32")
        k.futex_wake(pool, w + abi.WORKER_PARKED)
        k.imported(pool, "pthread_join", [k.get(w, abi.WORKER_THREAD), k.const("ptr", 0)], ret="i32")
    k.put(0, pool, abi.POOL_STARTED)
    k.ret_(0)
    return k
