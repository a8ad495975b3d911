"""Parsing of `name:1x3x224x224`, of numbers with units, and of input files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from whet.errors import InputError

Shape = tuple[int, ...]


def parse_shape(text: str) -> tuple[str, Shape]:
    """`input:0:1x3` -> ("input:0", (1, 3)); `x:` is a scalar. It splits at the last colon."""
    name, colon, dims = text.rpartition(":")
    try:
        shape = tuple(int(d) for d in dims.split("x")) if dims else ()
        if not colon or not name or any(d < 0 for d in shape):
            raise ValueError
    except ValueError:
        raise InputError(f"not a shape: {text!r}", why="a shape is NAME:DIMxDIMx..., with whole numbers",
                         do="for example --shapes input:8x3x224x224") from None
    return name, shape


def parse_shapes(texts: Iterable[str]) -> dict[str, Shape]:
    """Several, also joined by commas as `a:1x3,b:2`."""
    out: dict[str, Shape] = {}
    for text in texts:
        for part in text.split(","):
            name, shape = parse_shape(part)
            if name in out:
                raise InputError(f"the shape of {name!r} is given twice", do="give each input one shape")
            out[name] = shape
    return out


def parse_profile(low: Iterable[str], opt: Iterable[str],
                  high: Iterable[str]) -> dict[str, tuple[Shape, Shape, Shape]] | None:
    """--min-shapes, --opt-shapes and --max-shapes as {name: (min, opt, max)}; None where none is given.

    A missing bound is the optimum's.
    """
    lo, op, hi = parse_shapes(low), parse_shapes(opt), parse_shapes(high)
    if not (lo or op or hi):
        return None
    out = {}
    for name in {**op, **lo, **hi}:
        o = op.get(name) or hi.get(name) or lo[name]
        out[name] = (lo.get(name, o), o, hi.get(name, o))
    return out


def load_inputs(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file. InputError if it is not one, or holds Python objects."""
    try:
        with np.load(path, allow_pickle=False) as f:
            return {k: f[k] for k in f.files}
    except FileNotFoundError:
        raise InputError("the input file is not there", where=str(path), do="check the path") from None
    except (OSError, ValueError, KeyError, AttributeError) as e:
        raise InputError("the input file is not a readable .npz", where=str(path), why=str(e),
                         do="write it with numpy.savez(path, name=array, ...)") from e
