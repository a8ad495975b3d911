"""Builds that fail: kept in the store with type, node and stack, and told, without slowing or hiding the error."""

from __future__ import annotations

import os
import platform
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from whet.cli import notify
from whet.errors import ModelError, ModelFileError, WhetError

SCHEMA = 1
SECONDS = 5.0  # that are waited for a busy store: the error is what matters
MOST_FRAMES = 60
MOST_TEXT = 20_000  # characters of a message
SECRETS = ("--webhook", "--notify-command", "--store")  # options whose values are not kept


@contextmanager
def kept(model: str, store: str, webhook: str, command: str) -> Iterator[None]:
    """Run what is inside; where it fails, keep a record of that and tell whoever is named, then let the error go on.

    The record is kept in `store`, else in `$WHET_STORE` if that is set; before anything is sent. What goes wrong with
    either is a line on stderr: the error, and the exit code, are those of the build.
    """
    notify.check(webhook, command)
    try:
        yield
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as e:
        if isinstance(e, WhetError):  # the error comes first: what follows may take seconds
            _say(str(e), "red")
            e.shown = True
        if not (isinstance(e, SystemExit) or type(e).__module__.startswith(("click", "typer"))):
            _told(e, model, store or os.environ.get("WHET_STORE", ""), webhook, command)
        raise


def of(error: BaseException, model: str, at: datetime) -> dict[str, Any]:
    """The record of a failure: what `Store.kept("failure")` gives. The stack is from the outermost call to the
    innermost; errors that led to it come after it, each with its own."""
    import whet

    found = error if isinstance(error, WhetError) else None
    node = found.where if isinstance(found, ModelError) and not isinstance(found, ModelFileError) else ""
    return {
        "schema": SCHEMA, "what": "build", "date": at.isoformat(), "model": model, "type": type(error).__name__,
        "code": found.code if found else "", "message": (found.what if found else str(error))[:MOST_TEXT],
        "where": (found.where if found else "")[:MOST_TEXT], "why": (found.why if found else "")[:MOST_TEXT],
        "do": (found.do if found else "")[:MOST_TEXT], "node": node[:MOST_TEXT], "stack": _stack(error),
        "causes": [{"type": type(e).__name__, "message": str(e)[:MOST_TEXT], "stack": _stack(e)}
                   for e in _causes(error)],
        "command": _command(), "versions": {"whet": whet.__version__, "python": platform.python_version()},
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }


def _told(error: BaseException, model: str, store: str, webhook: str, command: str) -> None:
    """Keep and tell; nothing that goes wrong here may take the place of the error."""
    try:
        at = datetime.now(UTC)
        name = Path(model).stem[:300]
        body = of(error, name, at)
        if store:
            from whet.store import spool

            try:
                number = spool.keep_result(store, "failure", body, model=name, at=at, timeout=SECONDS)
                _say(f"this failure is kept in the store as number {number}")
            except WhetError as e:
                _say(f"this failure could not be kept in the store: {e}")
        text = f"whet build of {name} failed: {error}" if isinstance(error, WhetError) else \
            f"whet build of {name} failed: {type(error).__name__}: {error}"
        for failed in notify.tell(webhook, command, text[:MOST_TEXT], {"kind": "failure", "failure": body}):
            _say(failed)
    except Exception as e:  # a fault here must not hide the build's
        _say(f"this failure could not be kept or told: {type(e).__name__}: {e}")


def _stack(error: BaseException) -> list[str]:
    """`whet/builder.py:120 in plan`: calls, the innermost last; of many, the innermost."""
    found = [f"{_place(f.filename)}:{f.lineno} in {f.name}" for f in traceback.extract_tb(error.__traceback__)]
    return found[-MOST_FRAMES:]


def _place(file: str) -> str:
    """A file by its place in its package: where that is installed concerns nobody else."""
    parts = Path(file).parts
    for root in ("whet", "site-packages"):
        if root in parts:
            return "/".join(parts[len(parts) - 1 - parts[::-1].index(root) + (root != "whet"):])
    return parts[-1] if parts else file


def _causes(error: BaseException) -> list[BaseException]:
    out: list[BaseException] = []
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    while cause is not None and cause not in out and len(out) < 5:
        out.append(cause)
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return out


def _command() -> list[str]:
    """The command line, without what may be a secret."""
    out, hidden = [], False
    for word in sys.argv[1:]:
        name, equals, _ = word.partition("=")
        out.append("..." if hidden else f"{name}=..." if equals and name in SECRETS else word[:1000])
        hidden = word in SECRETS
    return ["whet", *out]


def _say(text: str, style: str = "yellow") -> None:
    from rich.console import Console

    Console(stderr=True, highlight=False).print(text, style=style, markup=False, soft_wrap=True)

