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


def parse_profiles(texts: Iterable[str]) -> list[dict[str, tuple[Shape, Shape, Shape]]]:
    """`ids:1x8..1x128..8x512,mask:...` as {name: (min, opt, max)}, one for each text."""
    out = []
    for text in texts:
        profile = {}
        for part in text.split(","):
            name, colon, bounds = part.rpartition(":")
            shapes = bounds.split("..")
            if not colon or len(shapes) != 3:
                raise InputError(f"not a profile: {part!r}", why="a profile is NAME:MIN..OPT..MAX, joined by commas",
                                 do="for example --profile ids:1x8..1x128..8x512,mask:1x8..1x128..8x512")
            low, opt, high = (parse_shape(f"{name}:{s}")[1] for s in shapes)
            profile[name] = (low, opt, high)
        out.append(profile)
    return out


def parse_states(texts: Iterable[str], inputs: Iterable[str], outputs: Iterable[str]) -> dict[str, str]:
    """`past.*=present.*` as {input: output}: each input that fits the left, whatever the star stands for."""
    inputs, outputs = list(inputs), set(outputs)
    out: dict[str, str] = {}
    for text in texts:
        left, equals, right = text.partition("=")
        if not equals or left.count("*") > 1 or left.count("*") != right.count("*"):
            raise InputError(f"not a state: {text!r}", why="a state is INPUT=OUTPUT, each with one star or none",
                             do="for example --state 'past.*=present.*'")
        before, star, after = left.partition("*")
        found = [n for n in inputs if n == left or (star and n.startswith(before) and n.endswith(after)
                                                    and len(n) >= len(before) + len(after))]
        for name in found:
            result = right.replace("*", name[len(before): len(name) - len(after)]) if star else right
            if result not in outputs:
                raise InputError(f"the state {text!r}: the model has no output {result!r}",
                                 why=f"it has {', '.join(sorted(outputs))}", do="name what the input becomes")
            out[name] = result
        if not found:
            raise InputError(f"the state {text!r}: no input of the model fits {left!r}",
                             why=f"it has {', '.join(inputs)}", do="name inputs of the model")
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
