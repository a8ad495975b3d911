"""The memory that the native driver shares with its caller: offsets in bytes, all fields little endian.

The driver is machine code inside a plan (`targets.cpu.driver` emits it); its callers are
`whet.runtime` and any C program (`examples/c/run_plan.c`). Its entries:

    i64 whet_pool_create(u8 *pool, i64 *imports, i64 workers, i64 flags, u8 *scratch, i64 scratch_stride)
        Starts the worker threads. `pool`: POOL_BYTES + workers * WORKER_BYTES zeroed bytes at a page
        boundary. `imports`: addresses of the C functions in IMPORTS, in that order (copied). `scratch`: for
        each worker scratch_stride bytes, 64-byte aligned. Returns 0 or an errno; after an error
        whet_pool_destroy is still due.
    i64 whet_run(u8 *pool, u8 *run, i64 first, i64 count)
        Runs steps [first, first + count) of `run` on the calling thread and idle workers. 0.
    i64 whet_pool_destroy(u8 *pool)
        Ends and joins the workers. No run may be in progress. 0.

A run (RUN_BYTES zeroed bytes at a page boundary, then filled in) describes one bound context; one
thread at a time may run it. Steps are rows of STEP_BYTES: u8* kernel, i64* arguments, i64 tiles
(0 .. 2^31 - 1), i64 grain (>= 1). Before step 0, each patch (PATCH_BYTES: i64 slot, i64 io, i64 offset)
stores io[patch.io] + offset in slots[patch.slot].
"""

from __future__ import annotations

PAGE = 4096
LINE = 128  # two cache lines: the adjacent-line prefetcher makes neighbours share

IMPORTS = ("pthread_create", "pthread_join", "syscall", "clock_gettime")
FLAG_AMX = 1  # ask the kernel for the right to use AMX tiles
MAX_THREADS = 1024  # a run's address (page aligned) carries the worker's part in its low bits

# The pool.
POOL_IMPORTS = 0
POOL_WORKERS = 32  # i64: worker threads (the caller is one more)
POOL_SPIN_IDLE = 40  # i64 ns: how long a worker looks for a new run before it sleeps
POOL_SPIN_STEP = 48  # i64 ns: how long a thread waits for the others at the end of a step before it sleeps
POOL_SCRATCH = 56
POOL_SCRATCH_STRIDE = 64
POOL_STARTED = 72  # i64: workers that have been started
POOL_ACTIVE = 128  # i64 atomic: runs in progress
POOL_BYTES = 256

WORKER_JOB = 0  # i64 atomic: 0 idle; else run | part << 1 | taken
WORKER_PARKED = 8  # u32 futex: 1 while the worker sleeps
WORKER_WAITER = 12  # u32 futex: 1 while somebody sleeps until the worker has left its run
WORKER_POOL = 128
WORKER_SCRATCH = 136
WORKER_THREAD = 144  # pthread_t
WORKER_BYTES = 256
JOB_QUIT = 1

DEFAULT_SPIN_IDLE_NS = 100_000
DEFAULT_SPIN_STEP_NS = 1_000_000

# A run.
RUN_STEPS = 0
RUN_N_STEPS = 8
RUN_SLOTS = 16
RUN_IO = 24
RUN_PATCHES = 32
RUN_N_PATCHES = 40
RUN_SCRATCH = 48  # the calling thread's
RUN_TIMES = 56  # null, or i64[n_steps + 1]: ns at the end of each step; the last one: at the start
RUN_PARALLEL = 64  # i64: the most threads that can have work
RUN_LINES = 72  # run_lines_bytes(threads) zeroed bytes, LINE aligned
RUN_EPOCH = 80  # the driver's own from here on
RUN_PARTS = 88
RUN_STOP = 96
RUN_POOL = 104
RUN_THREADS = 112  # i64: 1 + workers, as `lines` was sized for (filled in by the caller)
RUN_CURRENT = 128  # i64 atomic: epoch << 32 | step that the caller is at
RUN_SLEEPERS = 256  # u32 atomic
RUN_GATE = 260  # u32 futex
RUN_BYTES = 512

RING = 4  # steps whose counters exist at once


def run_lines_bytes(threads: int) -> int:
    """Bytes at RUN_LINES: for each step in the ring a `done` line and one claim line per thread."""
    return RING * (threads + 1) * LINE


STEP_KERNEL, STEP_ARGS, STEP_TILES, STEP_GRAIN = 0, 8, 16, 24
STEP_BYTES = 32
PATCH_SLOT, PATCH_IO, PATCH_OFFSET = 0, 8, 16
PATCH_BYTES = 24

ENTRY_CREATE, ENTRY_DESTROY, ENTRY_RUN = "whet_pool_create", "whet_pool_destroy", "whet_run"
