"""What is finished of a comparison, one JSON line each: a run that is ended goes on behind the last of them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import msgspec

from whet.errors import InputError, OutputError

FORMAT = 1
MOST_BYTES = 1 << 30


class Journal:
    """A file of lines `{"key": ..., "value": ...}` behind a first line that says what is compared.

    Each line is written in one piece and synced before it counts; a line that was cut short (by a kill, a full disk) is
    dropped when the file is opened again. One process at a time: the file is locked.
    """

    def __init__(self, path: Path, settings: Any) -> None:
        """Opens or begins the file. InputError if it is that of another comparison, or none; OutputError if it cannot
        be read or written, or if another process has it open."""
        self.path = path
        self.found: dict[str, Any] = {}
        head = json.dumps({"journal": FORMAT, "settings": msgspec.to_builtins(settings)}, sort_keys=True)
        try:
            self.file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as e:
            raise _failed(path, e) from e
        try:
            self._lock()
            if os.fstat(self.file).st_size > MOST_BYTES:
                raise InputError("the journal is too large", where=str(path), do="choose another folder")
            kept = self._read(head)
            os.ftruncate(self.file, kept)
            os.lseek(self.file, 0, os.SEEK_END)
            if kept == 0:
                self._append(head)
        except OSError as e:
            os.close(self.file)
            raise _failed(path, e) from e
        except BaseException:
            os.close(self.file)
            raise

    def _lock(self) -> None:
        try:
            import fcntl
        except ImportError:  # no such locks on this system
            return
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            raise OutputError("another comparison writes here", where=str(self.path), why="its journal is locked",
                              do="wait for it, or choose another folder") from e

    def _read(self, head: str) -> int:
        """Takes in the finished lines; how many bytes they are."""
        with open(self.file, "rb", closefd=False) as f:
            data = f.read()
        lines = data.split(b"\n")[:-1]  # what follows the last line end was cut short
        if not lines:
            return 0
        first = _parsed(lines[0])
        if not isinstance(first, dict) or first.get("journal") != FORMAT:
            raise InputError("this is no journal of a comparison", where=str(self.path), do="choose another folder")
        if lines[0].decode() != head:
            changed = _differs(first.get("settings"), json.loads(head)["settings"])
            raise InputError("the folder holds another comparison", where=str(self.path),
                             why=f"it differs in {changed}", do="choose another folder, or give --fresh")
        size = len(lines[0]) + 1
        for line in lines[1:]:
            row = _parsed(line)
            if not isinstance(row, dict) or set(row) != {"key", "value"} or not isinstance(row["key"], str):
                break  # and all behind it: nothing whole follows a damaged line
            self.found[row["key"]] = row["value"]
            size += len(line) + 1
        return size

    def __contains__(self, key: str) -> bool:
        return key in self.found

    def get(self, key: str, kind: Any) -> Any:
        """The value, as of that type. InputError if it is of another."""
        try:
            return msgspec.convert(self.found[key], kind)
        except msgspec.ValidationError as e:
            raise InputError("the journal is damaged", where=f"{self.path}, {key}", why=str(e),
                             do="give --fresh") from e

    def add(self, key: str, value: Any) -> None:
        """Write a line. OutputError where that fails; the line then does not count."""
        row = msgspec.to_builtins(value)
        try:
            self._append(json.dumps({"key": key, "value": row}))
        except OSError as e:
            raise _failed(self.path, e) from e
        self.found[key] = row

    def _append(self, line: str) -> None:
        data = (line + "\n").encode()
        while data:
            data = data[os.write(self.file, data):]
        os.fsync(self.file)

    def close(self) -> None:
        """Let others have the file."""
        os.close(self.file)


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _differs(before: Any, after: dict[str, Any]) -> str:
    if not isinstance(before, dict):
        return "its settings"
    return ", ".join(k for k in after if before.get(k) != after[k]) or "its settings"


def _failed(path: Path, e: OSError) -> OutputError:
    return OutputError("the journal cannot be written", where=str(path), why=e.strerror or str(e),
                       do="name a folder that can be written to, with room on its disk")
