"""A child that waits, fails and ends as it is told: `python -m tuning.busy`."""

from __future__ import annotations

import os
import time

from whet.tuning.worker import serve


class LostError(Exception):
    """After which nothing works in the process."""


class Busy:
    FATAL = ("LostError",)

    def wait(self, seconds: float, value: int) -> tuple[int, int]:
        """The value, and who gives it."""
        time.sleep(seconds)
        return value, os.getpid()

    def lose(self) -> None:
        raise LostError("an illegal address")

    def end(self) -> None:
        os._exit(3)


if __name__ == "__main__":
    serve(Busy())
