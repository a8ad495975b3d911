"""The child process that compiles and times candidates: `python -m whet.tuning.worker`.

It speaks length-prefixed pickles over its own stdin and stdout with the parent that started it (a
private pipe between two processes of one program; nothing from outside comes this way). A kernel
that crashes or hangs takes this process down, not the build.
"""

from __future__ import annotations

import os
import pickle
import struct
import sys
import time
from collections.abc import Callable
from typing import IO, Any

from whet.ir.region import Region
from whet.targets.base import Implementation, Params, Target
from whet.targets.cpu.target import CpuTarget

MIN_SECONDS = 0.012  # of measuring, per candidate
MAX_RUNS = 200


def send(pipe: IO[bytes], message: Any) -> None:
    """Write one message."""
    data = pickle.dumps(message)
    pipe.write(struct.pack("<Q", len(data)) + data)
    pipe.flush()


def receive(pipe: IO[bytes]) -> Any:
    """Read one message; EOFError at the end."""
    def read(size: int) -> bytes:
        data = pipe.read(size)
        if len(data) < size:
            raise EOFError
        return data

    return unpack(read)


def unpack(read: Callable[[int], bytes]) -> Any:
    """A message, from a function that gives exactly as many bytes as asked for."""
    return pickle.loads(read(struct.unpack("<Q", read(8))[0]))


class Worker:
    """Holds what it compiled until the parent takes it or says to forget."""

    def __init__(self) -> None:
        self.made: dict[int, tuple[CpuTarget, Region, Implementation, dict[str, bytes]]] = {}

    def compile(self, ticket: int, target: CpuTarget, region: Region, tactic: str, params: Params) -> dict[str, bytes]:
        """Generate and compile a candidate; its objects."""
        made = target.implement(region, tactic, params)
        objects = target.compile(made)
        self.made[ticket] = (target, region, made, objects)
        return objects

    def assemble(self, target: Target, code: str) -> bytes:
        """The object of one kernel."""
        return target.assemble(code)

    def time(self, ticket: int, limit: float) -> float:
        """Least seconds of a run of a compiled candidate on random data.

        Stops after the first run when that alone took more than `limit` seconds.
        """
        from whet.tuning.bench import single

        target, region, made, objects = self.made[ticket]
        bench = single(target, region, made, objects)
        try:
            run = bench.engine.context().runner(bench.feeds, bench.outs)
            run()  # faults pages in, fills caches
            samples: list[float] = []
            start = time.perf_counter()
            while True:
                t = time.perf_counter()
                run()
                now = time.perf_counter()
                samples.append((now - t) / bench.copies)
                enough = now - start >= MIN_SECONDS and len(samples) >= 3
                if enough or len(samples) >= MAX_RUNS or (samples[0] > limit and len(samples) >= 2):
                    return min(samples)
        finally:
            bench.engine.close()

    def forget(self) -> None:
        """Drop everything compiled."""
        self.made.clear()


def serve(worker: Any) -> None:
    """Serve requests (method of `worker`, *args) until stdin ends, or until one failed in a way after which nothing
    works in this process (its error's name is in the worker's FATAL)."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # stray prints must not enter the protocol
    requests = sys.stdin.buffer
    while True:
        try:
            method, *args = receive(requests)
        except EOFError:
            return
        try:
            send(replies, (True, getattr(worker, method)(*args)))
        except BrokenPipeError:  # whoever asked was ended
            return
        except Exception as e:
            send(replies, (False, f"{type(e).__name__}: {e}"))
            if type(e).__name__ in getattr(worker, "FATAL", ()):
                return


if __name__ == "__main__":
    serve(Worker())
