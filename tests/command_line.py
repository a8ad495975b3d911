"""The command line, called in this process."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from whet.cli import main as cli

Whet = Callable[..., tuple[int, str, str]]


def command_line(monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes], folder: Path) -> Whet:
    """Gives exit code, what was printed, what was complained about; in `folder`, with a store and a home there."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("WHET_STORE", str(folder / "store.db"))
    monkeypatch.setenv("XDG_DATA_HOME", str(folder / "home"))

    def call(*arguments: object, stdin: bytes | None = None) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["whet", *map(str, arguments)])
        if stdin is not None:
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with pytest.raises(SystemExit) as e:
            cli.main()
        out, err = capsysbinary.readouterr()
        return int(e.value.code or 0), out.decode(), err.decode()

    return call
