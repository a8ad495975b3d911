"""The plan's code and its thread pool."""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Callable

import numpy as np

from whet import abi
from whet.errors import FingerprintError, PlanError
from whet.plan import Plan, layout
from whet.runtime.memory import Memory

_pools: weakref.WeakSet[Pool] = weakref.WeakSet()


class Pool:
    """Code mapped from a plan, and the threads that run it: `threads` - 1 workers and whoever calls."""

    def __init__(self, plan: Plan, threads: int) -> None:
        runtime, sections = plan.contents.runtime, plan.contents.sections
        self.threads = threads
        self.code = Memory.of_file(plan.fileno(), *sections[layout.CODE], executable=True)
        self.weights = Memory.of_file(plan.fileno(), *sections[layout.WEIGHTS])
        workers = threads - 1
        self._state = Memory.anonymous(abi.POOL_BYTES + workers * abi.WORKER_BYTES)
        self.scratch_bytes = -(-runtime["scratch_bytes"] // layout.ALIGN) * layout.ALIGN
        self._scratch = Memory.anonymous(workers * self.scratch_bytes)
        self.address = self._state.address
        word, pointer = ctypes.c_int64, ctypes.c_void_p

        def entry(name: str, *arguments: type) -> Callable[..., int]:
            return ctypes.CFUNCTYPE(word, *arguments)(self.code.address + runtime[name])

        create = entry("create", pointer, pointer, word, word, pointer, word)
        self._destroy = entry("destroy", pointer)
        self.run = entry("run", word, word, word, word)  # (address, run, first step, number of steps)
        libc = ctypes.CDLL(None)
        imports = np.array([ctypes.cast(getattr(libc, n), pointer).value for n in abi.IMPORTS], np.int64)
        flags = abi.FLAG_AMX if runtime["flags"] & layout.FLAG_AMX else 0
        # Before the workers start: Ctrl-C may raise as soon as `create` returns, and their memory must outlive them.
        # At exit all stays as it is: a daemon thread may still be within a run.
        used = self._state, self._scratch, self.code, self.weights
        for m in used:
            m.hold()
        self.close = weakref.finalize(self, _end, self._destroy, *used)
        self.close.atexit = False
        failed = create(self.address, imports.ctypes.data, workers, flags, self._scratch.address, self.scratch_bytes)
        if failed:
            self.close()
            if failed == 1 and flags:
                raise FingerprintError("the plan uses AMX, which this system does not permit",
                                       why="arch_prctl(ARCH_REQ_XCOMP_PERM) failed",
                                       do="build the plan on this machine, or load it with recompile=True")
            raise PlanError(f"{workers} threads cannot be started", why=os.strerror(failed),
                            do="load it with threads=1")
        _pools.add(self)

    def forget_workers(self) -> None:
        """After a fork the child has no workers: runs go on with the caller alone."""
        words = self._state.bytes[: abi.POOL_BYTES].view(np.int64)
        words[abi.POOL_WORKERS // 8] = words[abi.POOL_STARTED // 8] = words[abi.POOL_ACTIVE // 8] = 0


def _end(destroy: Callable[[int], int], state: Memory, *others: Memory) -> None:
    """End the workers and give the memory back; called once. KeyboardInterrupt may come before `destroy` or after it:
    where the workers have not ended, their memory stays mapped."""
    started = state.bytes[: abi.POOL_BYTES].view(np.int64)[abi.POOL_STARTED // 8 :]
    try:
        destroy(state.address)
    finally:
        if not started[0]:
            del started
            for m in (state, *others):
                m.close()


def _after_fork() -> None:
    for pool in list(_pools):
        if pool.close.alive:
            pool.forget_workers()


os.register_at_fork(after_in_child=_after_fork)
