"""Running a command again and again, until something about it differs."""

from __future__ import annotations

import difflib
import hashlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from whet.errors import InputError

ABSENT = "absent"
KEPT = 1 << 20  # bytes of stdout that are kept to show what differs


@dataclass(frozen=True)
class Observation:
    """What one run of the command gave. exit_code: negative for a signal, None if it was ended for taking too long."""

    exit_code: int | None
    stdout: str  # its SHA-256
    files: dict[str, str] = field(default_factory=dict)  # SHA-256 by name, or ABSENT
    seconds: float = 0.0
    text: bytes = b""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"exit_code": self.exit_code, "stdout": self.stdout, "files": self.files,
                "seconds": round(self.seconds, 6)}


@dataclass(frozen=True)
class Repeated:
    """runs: how many there were. differs: what differs between the first and the last; empty if all were the same."""

    runs: int
    differs: list[str]
    first: Observation
    last: Observation

    @property
    def held(self) -> bool:
        """True if all runs gave the same."""
        return not self.differs

    def document(self) -> dict[str, Any]:
        """The whole as JSON has it."""
        return {"schema": 1, "held": self.held, "runs": self.runs, "differs": self.differs,
                "first": self.first.as_dict(), "last": self.last.as_dict(), "stdout": self.lines()}

    def lines(self) -> list[str]:
        """The lines of stdout that differ, as a diff."""
        if "stdout" not in self.differs:
            return []
        a, b = (x.text.decode("utf-8", "replace").splitlines() for x in (self.first, self.last))
        return list(difflib.unified_diff(a, b, "run 1", f"run {self.runs}", lineterm="", n=0))[:40]


def repeat(command: Sequence[str], times: int = 100, timeout: float | None = None, files: Sequence[str | Path] = (),
           stdout: bool = True, done: Callable[[int, Observation], None] = lambda run, seen: None) -> Repeated:
    """Run a command up to `times` times; stop at the first run that gives something else than the first run.

    timeout: seconds of a run; one that takes longer is ended, and counts as one that differs from those which end.
    files:   that the command writes; they are removed before each run and compared by their hashes.
    stdout:  whether what it prints is compared. The exit code always is.

    InputError: there is no such command, or a file is there before the first run (it would be removed).
    """
    if not command:
        raise InputError("no command is given", do="whet debug repeat -- COMMAND ...")
    names = [str(f) for f in files]
    if there := [n for n in names if Path(n).exists()]:
        raise InputError(f"{there[0]} is there already", why="it is removed before each run", do="move it away")
    first = last = _observe(command, timeout, names)
    done(1, first)
    runs = 1
    differs: list[str] = []
    while runs < times and not differs:
        for n in names:
            Path(n).unlink(missing_ok=True)
        last = _observe(command, timeout, names)
        runs += 1
        done(runs, last)
        differs = _differs(first, last, stdout)
    return Repeated(runs, differs, first, last)


def _differs(a: Observation, b: Observation, stdout: bool) -> list[str]:
    out = ["exit code"] if a.exit_code != b.exit_code else []
    if stdout and a.stdout != b.stdout:
        out.append("stdout")
    return out + [f"file {n}" for n in a.files if a.files[n] != b.files[n]]


def _observe(command: Sequence[str], timeout: float | None, files: Sequence[str]) -> Observation:
    start = time.perf_counter()
    try:
        child = subprocess.Popen(list(command), stdout=subprocess.PIPE, stdin=subprocess.DEVNULL,
                                 start_new_session=True)
    except OSError as e:
        raise InputError(f"the command cannot be run: {command[0]}", why=e.strerror or str(e),
                         do="check its name and path") from None
    try:
        text, _ = child.communicate(timeout=timeout)
        code: int | None = child.returncode
    except subprocess.TimeoutExpired:
        end(child)
        text, code = child.communicate()[0], None
    except BaseException:  # Ctrl-C
        end(child)
        raise
    return Observation(code, hashlib.sha256(text).hexdigest(), {n: _hash(Path(n)) for n in files},
                       time.perf_counter() - start, text[:KEPT])


def end(child: subprocess.Popen[Any]) -> None:
    """End a child that leads a session of its own, and its children with it."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        child.kill()
    child.wait()


def _hash(path: Path) -> str:
    try:
        with path.open("rb") as f:
            return hashlib.file_digest(f, "sha256").hexdigest()
    except OSError:
        return ABSENT
