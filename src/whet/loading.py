"""`whet.load`: the runtime's load, and `recompile=`, which needs the compiler."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from whet.plan import Plan
from whet.runtime import Engine
from whet.runtime import load as run_load


def load(plan: str | os.PathLike[str] | Plan, *, threads: int | None = None, require_key: Any = None,
         recompile: bool = False, device: int | None = None) -> Engine:
    """An engine from a plan or a plan file; see `whet.runtime.load` for `threads`, `require_key` and `device`.

    recompile: ignore the machine code in the plan, and generate it anew from the regions and tactics that the
               plan records. Needs llvmlite. The signature, if one is required, is checked on the plan as it is.
    """
    if not recompile:
        return run_load(plan, threads=threads, require_key=require_key, device=device)
    from whet.pipeline import regenerate

    opened = plan if isinstance(plan, Plan) else Plan.open(Path(plan))
    if require_key is not None:
        from whet.plan import signing

        signing.verify(opened.contents.root, opened.contents.trailer.signature, require_key)
    return run_load(regenerate(opened), threads=threads, device=device)
