"""What a build was asked, as plain data by the names of `whet.yaml`, and the command line that asks it again."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

# What a build takes where nothing is said: not worth writing down.
DEFAULTS: Mapping[str, Any] = {
    "target": "cpu", "hardware_compat": "exact", "isa": "host", "precision": [], "force_precision": False,
    "fp32_layers": [], "calib_method": "mse", "activations": "", "prepare": [], "metric": "divergence",
    "weight_group": 128, "shapes": {}, "profiles": [], "states": {}, "opt_level": 3}
PATHS = ("model", "calib", "eval", "calib_cache", "timing_cache")  # and objects, where Python gave them
_FLAGS = {"shapes": "--shapes", "profiles": "--profile", "states": "--state", "fp32_layers": "--fp32-layer",
          "prepare": "--prepare"}


def asked(**given: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    """What was asked, by the names of `whet.yaml`, without what is None or the default; and the names of what was given
    as an object (arrays, a module), which has no place in a file.

    Absolute paths are told by their last part: a document is no place for somebody's folders.
    """
    found: dict[str, Any] = {}
    objects = []
    for name, value in given.items():
        if name in PATHS and value is not None:
            if isinstance(value, (str, os.PathLike)):
                value = _told(os.fspath(value))
            else:
                objects.append(name)
                continue
        elif name == "metric" and not isinstance(value, str):
            objects.append(name)
            continue
        if name == "precision":
            value = sorted(set(value) - {"fp32"})
        elif name == "shapes":
            value = {n: _shape(s) for n, s in (value or {}).items()}
        elif name == "profiles":
            value = [{n: "..".join(map(_shape, r)) for n, r in p.items()} for p in value or () if p]
        elif name == "states":
            value = dict(value or {})
        elif isinstance(value, tuple):
            value = list(value)
        if value is not None and value != DEFAULTS.get(name):
            found[name] = value
    return found, tuple(objects)


def build_command(asked: Mapping[str, Any], objects: tuple[str, ...] = ()) -> str:
    """`whet build MODEL -o PLAN --target cuda --fp16 ...` of what was asked. What was given as an object is a
    placeholder in capitals."""
    path = asked.get("model", "MODEL.onnx")
    output = asked.get("output", f"{Path(path).stem}.plan")
    words = ["whet", "build", path, "-o", output, "--target", asked.get("target", "cpu")]
    words += [f"--{p}" for p in asked.get("precision", ())]
    for name, value in asked.items():
        if name not in ("model", "output", "target", "precision"):
            words += _words(name, value)
    for name in objects:
        if name != "model" and (name in PATHS or name == "metric"):
            words += [_flag(name), name.upper()]
    return " ".join(map(shlex.quote, map(str, words)))


def _words(name: str, value: Any) -> Iterator[str]:
    if value is True:
        yield _flag(name)
    elif name == "profiles":
        for profile in value:
            yield from (_flag(name), ",".join(f"{n}:{r}" for n, r in profile.items()))
    elif isinstance(value, Mapping):
        for n, v in value.items():
            yield from (_flag(name), f"{n}:{v}" if name == "shapes" else f"{n}={v}")
    elif isinstance(value, list):
        for v in value:
            yield from (_flag(name), str(v))
    else:
        yield from (_flag(name), str(value))


def _flag(name: str) -> str:
    return _FLAGS.get(name, f"--{name.replace('_', '-')}")


def _told(path: str | bytes) -> str:
    text = os.fsdecode(path)
    return Path(text).name if os.path.isabs(text) else text


def _shape(shape: Any) -> str:
    return "x".join(map(str, shape)) if isinstance(shape, (tuple, list)) else str(shape)
