"""Candidates, each built and run in a process of its own, which may crash or hang.

A process that has everything imported (`python -m whet.tools.debug.trial`) forks one for each. A candidate is a folder
with model.onnx and job.pickle; stage.txt there says how far it came, and verdict.json how it ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import re
import select
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from whet.errors import InternalError, WhetError

HELD = "held"


@dataclass(frozen=True)
class Verdict:
    """How a candidate ended.

    kind: `held`; `build` or `run` (an error), `differs`, `nan` (not finite where the reference is), `crash`, `hang`;
          `exit` of a command that checks; `invalid`: it could not be made.
    code: tells failures of a kind apart: an error's code and words less names and numbers, a signal, a stage.
    what: for people.
    """

    kind: str
    code: str = ""
    what: str = ""

    def same(self, other: Verdict) -> bool:
        """True if it is the same failure."""
        return (self.kind, self.code) == (other.kind, other.code)


@dataclass
class Job:
    """What is to be done with a candidate. expected: outputs by the reference, as far as they are known."""

    feeds: dict[str, Any]
    expected: dict[str, Any]
    precision: str
    tolerance: tuple[float, float]
    threads: int | None
    opt_level: int


def run(folder: Path) -> Verdict:
    """Build the model, run it, and compare."""
    from whet import pipeline
    from whet.runtime import load
    from whet.tools.debug.deviation import Tolerance, compare
    from whet.tools.debug.subject import plain

    job: Job = pickle.loads((folder / "job.pickle").read_bytes())  # the parent's own file
    stage = folder / "stage.txt"
    stage.write_text("build")
    try:
        plan = pipeline.build(folder / "model.onnx", precision=job.precision, force_precision=job.precision == "bf16",
                              threads=job.threads, opt_level=job.opt_level)
        stage.write_text("run")
        with load(plan, threads=job.threads) as engine:
            found = {k: plain(v) for k, v in engine(job.feeds).items()}
    except Exception as e:  # whatever it is, it is what is being looked for
        return Verdict(stage.read_text(), signature(e), str(e))
    stage.write_text("compare")
    for name, right in job.expected.items():
        if name in found:
            d = compare(found[name], plain(right), Tolerance(*job.tolerance))
            if not d.held:
                worse = d.nan > d.reference_nan or d.inf > d.reference_inf
                return Verdict("nan" if worse else "differs", "", f"{name}: {d.why}")
    return Verdict(HELD)


def signature(e: Exception) -> str:
    """An error's class and words, less what changes with the model: quoted names and numbers."""
    code, words = (e.code, e.what) if isinstance(e, WhetError) else ("", (str(e).splitlines() or [""])[0])
    return f"{type(e).__name__} {code} " + re.sub(r"'[^']*'|\"[^\"]*\"|\d+", "_", words)


def _kill(leader: int) -> None:
    """End a process that leads a session, and its children."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.kill(leader, signal.SIGKILL)  # it may not have its session yet


class Nursery:
    """The process that forks."""

    def __init__(self) -> None:
        self.process = subprocess.Popen([sys.executable, "-m", "whet.tools.debug.trial"], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)

    def run(self, folder: Path, timeout: float) -> int | None:
        """How a candidate's process ended: its exit code, negative for a signal; None if it took too long."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{folder}\n".encode())
        self.process.stdin.flush()
        child = self._number(None)
        try:
            code = self._number(timeout)
        except TimeoutError:
            _kill(child)
            self._number(None)
            return None
        except BaseException:  # Ctrl-C
            _kill(child)
            raise
        return code

    def _number(self, timeout: float | None) -> int:
        """The number on the next line. TimeoutError if there is none in time."""
        assert self.process.stdout is not None
        fd, line = self.process.stdout.fileno(), b""
        while not line.endswith(b"\n"):
            if not select.select([fd], [], [], timeout)[0]:
                raise TimeoutError
            byte = os.read(fd, 1)  # past Python's buffers, which `select` does not see
            if not byte:
                raise InternalError("the process that starts candidates has ended",
                                    where=f"exit code {self.process.wait()}", do="report it, with the model if you can")
            line += byte
        return int(line)

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


def serve() -> None:
    """The nursery's side: for each folder named on stdin the number of the process, then, when it has ended, how."""
    import whet.pipeline
    import whet.runtime
    import whet.tools.debug.deviation
    import whet.tools.debug.subject  # noqa: F401  (imported once instead of in each child)

    for line in sys.stdin:
        child = os.fork()
        if not child:
            os.setsid()
            _candidate(Path(line.rstrip("\n")))
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _candidate(folder: Path) -> NoReturn:
    """Run it, and end the process without what the parent registered to be done at its end."""
    code = 1
    try:
        nothing = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(nothing, fd)
        v = run(folder)
        (folder / "verdict.json").write_text(json.dumps([v.kind, v.code, v.what]))
        code = 0
    finally:
        os._exit(code)


if __name__ == "__main__":
    from whet.tools.debug import trial  # so that what is pickled is of this module by its name

    trial.serve()
