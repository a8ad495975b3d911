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

from functools import cache

from whet import abi
from whet.targets.cpu.compile import to_object
from whet.targets.cpu.isa import Isa
from whet.targets.cpu.llvm import Val
from whet.targets.cpu.native import Native

_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _XFEATURE_XTILEDATA = 158, 0x1023, 18
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


def _now(isa: Isa) -> Native:
    """CLOCK_MONOTONIC in ns."""
    k = Native("whet_now", isa, [("ptr", "pool")])
    ts = k.local(16, align=16)
    k.imported(k.p["pool"], "clock_gettime", [k.const("i32", 1), ts], ret="i32")
    k.ret_(k.get(ts, 0) * 1_000_000_000 + k.get(ts, 8))
    return k


def _complete(isa: Isa) -> Native:
    """1 if the unit `epoch`, whose counters are at `line`, has all of its `want` tiles done."""
    k = Native("whet_complete", isa, [("ptr", "line"), ("i64", "epoch"), ("i64", "want")])
    c = k.atomic_load(k.p["line"])
    e = k.shift_right(c, 32)
    now = e.eq(k.p["epoch"]) & (c & _MASK32).eq(k.p["want"])
    k.ret_(k.cast("zext", now | (e > k.p["epoch"]), "i64"))
    return k


def _claim(isa: Isa) -> Native:
    """The first of up to `grain` tiles of [start, end) that now belong to the caller, or -1."""
    k = Native("whet_claim", isa, [("ptr", "line"), *(("i64", n) for n in ("epoch", "start", "end", "grain"))])
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


def _wake_run(isa: Isa) -> Native:
    """Wake the threads that sleep in `whet_wait`."""
    k = Native("whet_wake_run", isa, [("ptr", "run")])
    run = k.p["run"]
    with k.if_(k.atomic_load(run + abi.RUN_SLEEPERS, "i32").ne(0)):
        k.atomic_add(run + abi.RUN_GATE, 1, "i32")
        k.futex_wake(k.load("ptr", run + abi.RUN_POOL), run + abi.RUN_GATE)
    k.ret_(0)
    return k


def _finish(isa: Isa) -> Native:
    """Count `n` tiles of the unit as done; 1 if they were the last."""
    k = Native("whet_finish", isa, [("ptr", "run"), ("ptr", "line"), ("i64", "epoch"), ("i64", "n"), ("i64", "want")])
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


def _wait(isa: Isa) -> Native:
    """Return when the unit is complete."""
    k = Native("whet_wait", isa, [("ptr", "run"), ("ptr", "line"), ("i64", "epoch"), ("i64", "want")])
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


def _participate(isa: Isa) -> Native:
    """Walk the steps of a run as thread `part`; gives the epoch after the last unit."""
    k = Native("whet_participate", isa, [("ptr", "run"), ("i64", "part"), ("ptr", "own")])
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


def _wait_job(isa: Isa) -> Native:
    """A worker waits for a job: the job's word."""
    k = Native("whet_wait_job", isa, [("ptr", "worker")])
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


def _worker(isa: Isa) -> Native:
    """A worker thread's life."""
    k = Native("whet_worker", isa, [("ptr", "worker")], ret="ptr")
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


def _recruit(isa: Isa) -> Native:
    """Ask idle workers to join until there are `parts` threads; gives how many there are."""
    k = Native("whet_recruit", isa, [("ptr", "pool"), ("ptr", "run"), ("i64", "parts")])
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


def _dismiss(isa: Isa) -> Native:
    """Un-ask the workers that have not joined, and wait until those that have are out of the run."""
    k = Native("whet_dismiss", isa, [("ptr", "pool"), ("ptr", "run")])
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


def _alone(isa: Isa) -> Native:
    """Walk the steps without other threads."""
    k = Native("whet_alone", isa, [("ptr", "run"), ("i64", "first"), ("i64", "stop")])
    run = k.p["run"]
    steps, own = k.load("ptr", run + abi.RUN_STEPS), k.load("ptr", run + abi.RUN_SCRATCH)
    for i in k.range(k.p["first"], k.p["stop"]):
        st = steps + i * abi.STEP_BYTES
        k.kernel(st, 0, k.get(st, abi.STEP_TILES), own)
        k.stamp(run, i)
    k.ret_(0)
    return k


def _run(isa: Isa) -> Native:
    k = Native(abi.ENTRY_RUN, isa, [("ptr", "pool"), ("ptr", "run"), ("i64", "first"), ("i64", "count")], public=True)
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


def _create(isa: Isa) -> Native:
    k = Native(abi.ENTRY_CREATE, isa, [("ptr", "pool"), ("ptr", "imports"), ("i64", "workers"), ("i64", "flags"),
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


def _destroy(isa: Isa) -> Native:
    k = Native(abi.ENTRY_DESTROY, isa, [("ptr", "pool")], public=True)
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
