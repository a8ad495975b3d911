"""`--keep`: a command's result into the measurement store, beside the measurements."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Annotated

from typer import Option

Keep = Annotated[bool, Option("--keep", help="Keep the result in the measurement store (--store).")]


def keep(kind: str, encoded: bytes, model: str, store: str) -> None:
    """Keep a result, given as the JSON that the command writes. StoreError, which says in which file it is instead."""
    from rich.console import Console

    from whet.store.spool import keep_result

    number = keep_result(store or None, kind, json.loads(encoded), model=model, at=datetime.now(UTC))
    Console(stderr=True, highlight=False).print(f"kept as result {number} in the store", markup=False, soft_wrap=True)
