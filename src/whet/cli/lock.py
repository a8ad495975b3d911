"""`whet lock`: the matrix of tool versions, written, or held against what is here."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from whet.cli import options

if TYPE_CHECKING:
    from whet.lock import Check

STDOUT = "-"
Option = typer.Option


def command(
    output: Annotated[str, Option("-o", "--output", metavar="FILE", help="The lock to write, or with --check to read; "
                                                                         "- is stdout.")] = "whet.lock",
    check: Annotated[bool, Option("--check", help="Write nothing: say what differs from the lock. Exit code 1 if "
                                                  "something does.")] = False,
    machine: Annotated[bool, Option("--machine", help="With --check: processor and system count, too.")] = False,
    constraints: Annotated[Path | None, Option(
        "--constraints", metavar="FILE", help="Write the packages as a constraints file for pip install -c: those of "
                                              "this environment, or with --check those of the lock.")] = None,
    json: options.AsJson = False,
) -> None:
    """Write the versions of all tools that figures depend on into a lock, or hold this environment against one.

    Every measurement carries these versions, and the hash of the whet.lock of the folder that it was made in (or of
    $WHET_LOCK).

    Examples: whet lock

    whet lock --check

    whet lock -o ci/whet.lock --constraints ci/constraints.txt
    """
    from whet import lock
    from whet.cli.files import check_output, write_bytes
    from whet.errors import InputError

    if output == STDOUT and check:
        raise InputError("--check reads a lock", why="- is stdout", do="name a file")
    if machine and not check:
        raise InputError("--machine goes with --check", why="a lock always has the machine in it", do="add --check")
    locked = lock.read(Path(output)) if check else None
    if constraints is not None:
        check_output(constraints, "the constraints")
    found = lock.here()
    if constraints is not None:
        write_bytes(constraints, (locked or found).constraints().encode())
    if locked is not None:
        result = lock.check(locked, found, machine)
        if json:
            sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")
        else:
            _show(result, output, machine)
        raise typer.Exit(0 if result.held else 1)
    data = found.encode()
    if output != STDOUT:
        write_bytes(Path(output), data)
    if json or output == STDOUT:
        sys.stdout.buffer.write(data)
        return
    brings = ", ".join(f"{name} {version}" for name, version in sorted(found.libraries.items()))
    Console(highlight=False).print(
        f"{escape(output)}: Python {found.python}, {len(found.packages)} packages, {escape(brings)}; SHA-256 "
        f"{hashlib.sha256(data).hexdigest()[:16]}. Measurements that are made in this folder carry it.", soft_wrap=True)


def _show(result: Check, name: str, machine: bool) -> None:
    out = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    counted = [d for d in result.differences if machine or d.kind != "machine"]
    noted = [d for d in result.differences if d not in counted]
    out.print(f"{escape(name)}: " + ("everything is as it is locked." if result.held else
                                     f"{len(counted)} version{'s' * (len(counted) > 1)} differ"
                                     f"{'s' * (len(counted) == 1)}."), soft_wrap=True)
    if result.differences:
        table = Table("", "", "locked", "here", box=None, padding=(0, 2, 0, 0), header_style="bold")
        for d in (*counted, *noted):
            table.add_row(d.kind, escape(d.name), escape(d.locked) or "-", escape(d.found) or "-",
                          style="dim" if d in noted else "")
        out.print(table)
    if noted:
        out.print("Differences of the machine do not count without --machine.")
    for line in result.restore:
        out.print(escape(line), style="bold", soft_wrap=True)
    if any(d.kind == "python" for d in counted):
        wanted = next(d.locked for d in counted if d.kind == "python")
        out.print(f"Python itself is not pip's: make an environment with {escape(wanted)}.")
