"""From what a plan records of its build to a configuration that builds it again."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from whet.config.builds import SCHEMA


def exported(asked: Mapping[str, Any], objects: Sequence[str] = (), name: str = "", plan: str = "") -> str:
    """The text of a `whet.yaml` with one build; what was given as an object in Python is a comment.

    asked, objects: as `whet.plan.built.Built` has them. name: of the build; plan: the file that it writes.
    """
    import yaml

    build = {"model": "MODEL.onnx", **asked, "output": plan or asked.get("output", "model.plan")}
    safe = re.sub(r"[^A-Za-z0-9_.-]+", "-", name).lstrip("_.-")[:80] or "build"
    said = yaml.safe_dump({"schema": SCHEMA, "builds": {safe: build}}, sort_keys=False, allow_unicode=True,
                          default_flow_style=False, width=1 << 20)
    notes = [f"# {o} was given as an object in Python: say where {'it is' if o == 'model' else 'its data are'}\n"
             for o in objects]
    return "".join(notes) + said
