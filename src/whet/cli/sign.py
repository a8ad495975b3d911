"""`whet sign`: sign a plan, or make a pair of keys."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.markup import escape

from whet.cli.files import write_bytes
from whet.errors import InputError, OutputError
from whet.plan import generate_keys
from whet.plan import sign as sign_plan


def sign(plan: Path, key: Path) -> None:
    """Sign a plan file with a private key. SignatureError, PlanFormatError or OutputError as `whet.plan.sign`."""
    sign_plan(plan, key)
    Console(highlight=False).print(f"{escape(str(plan))} is signed. Load it with require_key=, or run it with "
                                   "--require-key and the public key.", soft_wrap=True)


def new_keys(folder: Path) -> None:
    """Write `private.pem` (readable by its owner alone) and `public.pem`; keys that are there stay.

    InputError if there are keys already; OutputError if the folder cannot be written to.
    """
    private, public = folder / "private.pem", folder / "public.pem"
    for path in (private, public):
        if path.exists():
            raise InputError("there is a key already", where=str(path), why="keys are never overwritten",
                             do="name another folder, or remove the pair")
    secret, shared = generate_keys()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise OutputError("the folder for the keys cannot be made", where=str(folder), why=e.strerror or str(e),
                          do="name a folder that can be written to") from e
    write_bytes(private, secret.encode(), mode=0o600)
    write_bytes(public, shared.encode())
    Console(highlight=False).print(f"{escape(str(private))} signs plans: keep it secret.\n{escape(str(public))} checks "
                                   "them: give it to whoever loads them.", soft_wrap=True)
