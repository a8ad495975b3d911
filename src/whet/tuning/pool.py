"""Child processes with a time limit on every request; one that dies is replaced. `Crew`: several of them at work."""

from __future__ import annotations

import heapq
import itertools
import os
import queue
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from whet.tuning import worker


class WorkerDied(Exception):
    """The child crashed or was ended for taking too long; the message says which."""


class NotTriedError(Exception):
    """A request was not made: when its turn came there was no more need or time for it."""


class Child:
    """One worker process, which runs `module` (see `worker.serve`)."""

    def __init__(self, module: str = "whet.tuning.worker") -> None:
        self.module, self.closed = module, False
        self._start()

    def _start(self) -> None:
        self.process = subprocess.Popen([sys.executable, "-m", self.module], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, start_new_session=True)  # Ctrl-C is the parent's

    def ask(self, *message: Any) -> None:
        """Send a request; fetch its reply with `reply`."""
        assert self.process.stdin is not None
        try:
            worker.send(self.process.stdin, message)
        except OSError as e:
            raise WorkerDied(self._restart("crashed")) from e

    def reply(self, timeout: float) -> Any:
        """The reply to the oldest open request. WorkerDied if there is none in time; RuntimeError
        with the child's error text if the request failed there."""
        deadline = time.monotonic() + timeout
        try:
            ok, value = worker.unpack(lambda size: self._read(size, deadline))
        except TimeoutError as e:
            raise WorkerDied(self._restart(f"hung (over {timeout:.0f} s)")) from e
        except EOFError as e:
            raise WorkerDied(self._restart("crashed")) from e
        if not ok:
            raise RuntimeError(value)
        return value

    def _read(self, size: int, deadline: float) -> bytes:
        """So many bytes of the child's answer, past Python's buffers: what lies in those, `select` does not see."""
        assert self.process.stdout is not None
        fd, parts = self.process.stdout.fileno(), []
        while size:
            if not select.select([fd], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise TimeoutError
            part = os.read(fd, size)
            if not part:
                raise EOFError
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def _restart(self, what: str) -> str:
        if self.process.poll() is None and what.startswith("hung"):
            self.process.kill()
        code = self.process.wait()
        if not self.closed:
            self._start()
        return what if what.startswith("hung") else f"crashed (exit {code})"

    def replace(self) -> None:
        """End the process, and start another."""
        self.process.kill()
        self._restart("replaced")

    def close(self) -> None:
        """End the process."""
        self.closed = True
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


class Crew:
    """Children that work on requests as they come, each one at a time. They start with the first request.

    fatal: names of errors after which a child ends by itself, and is replaced.
    """

    def __init__(self, size: int, module: str, fatal: Sequence[str] = ()) -> None:
        self.size, self.module, self.fatal = size, module, tuple(fatal)
        self._pool = ThreadPoolExecutor(size, "whet-crew")
        self._idle: queue.SimpleQueue[Child] = queue.SimpleQueue()
        self._children: list[Child] = []
        self._waiting: list[tuple[bool, int, Future[Any], tuple[float, tuple[Any, ...], Callable[[], bool]]]] = []
        self._serial = itertools.count()
        self._lock = threading.Lock()
        self._closed = False
        self.busy: dict[str, float] = {}  # seconds that children worked, by kind of request

    def submit(self, timeout: float, *message: Any, unless: Callable[[], bool] = lambda: False, first: bool = False
               ) -> Future[Any]:
        """The reply to a request, to come. Its exception is WorkerDied, RuntimeError with the child's error, or
        NotTriedError if `unless` said so when its turn came. `first`: before those that wait and are not."""
        out: Future[Any] = Future()
        with self._lock:
            heapq.heappush(self._waiting, (not first, next(self._serial), out, (timeout, message, unless)))
        self._pool.submit(self._next)
        return out

    def _next(self) -> None:
        with self._lock:
            _, _, out, request = heapq.heappop(self._waiting)
        try:
            answer = self._do(*request)
        except BaseException as e:
            out.set_exception(e)
        else:
            out.set_result(answer)

    def _do(self, timeout: float, message: tuple[Any, ...], unless: Callable[[], bool]) -> Any:
        if unless():
            raise NotTriedError
        child = self._child()
        start = time.monotonic()
        try:
            child.ask(*message)
            return child.reply(timeout)
        except RuntimeError as e:
            if str(e).startswith(self.fatal) and self.fatal:
                child.replace()
            raise
        finally:
            with self._lock:
                self.busy[message[0]] = self.busy.get(message[0], 0.0) + time.monotonic() - start
            self._idle.put(child)

    def _child(self) -> Child:
        try:
            return self._idle.get_nowait()
        except queue.Empty:
            with self._lock:
                if self._closed:
                    raise WorkerDied("ended") from None
                child = Child(self.module)
                self._children.append(child)
                return child

    def close(self) -> None:
        """End the children, and whatever they are at."""
        with self._lock:
            self._closed = True
        self._pool.shutdown(wait=False, cancel_futures=True)
        for child in self._children:
            child.closed = True
            child.process.kill()
        self._pool.shutdown(wait=True)
        for _, _, out, _ in self._waiting:
            out.cancel()
        for child in self._children:
            child.close()

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
