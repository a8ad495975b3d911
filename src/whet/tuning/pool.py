"""Child processes with a time limit on every request; one that dies is replaced."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from typing import Any

from whet.tuning import worker


class WorkerDied(Exception):
    """The child crashed or was ended for taking too long; the message says which."""


class Child:
    """One worker process."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self.process = subprocess.Popen([sys.executable, "-m", "whet.tuning.worker"], stdin=subprocess.PIPE,
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
        self._start()
        return what if what.startswith("hung") else f"crashed (exit {code})"

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
