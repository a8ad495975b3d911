"""The command line that makes a build again, from what `build` was given."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any


def build_command(model: Any, *, target: str, precision: Iterable[str], hardware_compat: str = "exact",
                  shapes: Mapping[str, Sequence[int]] | None = None,
                  profiles: Sequence[Mapping[str, Any]] | None = None, states: Mapping[str, str] | None = None,
                  opt_level: int = 3, options: Mapping[str, Any] | None = None) -> str:
    """`whet build MODEL -o PLAN --target cuda --fp16 ...`. What was given as an object rather than by a name (arrays,
    a module) is a placeholder in capitals. `options`: further ones of the command line, by name; None, "" and False
    are left out."""
    path = Path(os.fspath(model)).name if isinstance(model, (str, os.PathLike)) else "MODEL.onnx"
    words = ["whet", "build", path, "-o", f"{Path(path).stem}.plan", "--target", target]
    words += [f"--{p}" for p in sorted(set(precision) - {"fp32"})]
    if hardware_compat != "exact":
        words += ["--hardware-compat", hardware_compat]
    for name, shape in (shapes or {}).items():
        words += ["--shapes", f"{name}:{_shape(shape)}"]
    for profile in profiles or ():
        ranges = (f"{n}:{'..'.join(map(_shape, r))}" for n, r in profile.items())
        if profile:
            words += ["--profile", ",".join(ranges)]
    for given, kept in (states or {}).items():
        words += ["--state", f"{given}={kept}"]
    if opt_level != 3:
        words += ["--opt-level", str(opt_level)]
    for name, value in (options or {}).items():
        if value is None or value is False or (isinstance(value, str) and not value):
            continue
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            words.append(flag)
        else:
            plain = isinstance(value, (str, int, float, os.PathLike))
            words += [flag, str(value) if plain else name.upper().replace("-", "_")]
    return " ".join(map(shlex.quote, words))


def _shape(shape: Any) -> str:
    return "x".join(map(str, shape)) if isinstance(shape, (tuple, list)) else str(shape)
