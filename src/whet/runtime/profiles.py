"""Which profile takes a run's shapes, and the dimensions that they tell."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping, Sequence

import numpy as np

from whet.errors import InputError, PlanFormatError, ProfileError
from whet.plan import dims
from whet.plan.manifest import np_dtype
from whet.plan.program import Tensor
from whet.runtime.feeds import Borrowed
from whet.runtime.program import Loaded

Shapes = Sequence[tuple[int, ...] | None]  # None: of a state that the context keeps


def choose(programs: Sequence[Loaded], shapes: Shapes, values: Mapping[str, Sequence[int]], kept: Mapping[str, int]
           ) -> tuple[int, dict[str, int]]:
    """The first profile that takes these shapes, and the dimensions.

    `values`: the elements of inputs that are sizes; `kept`: dimensions that the context knows. ProfileError names the
    profile, the dimension and its range; InputError for shapes that no profile could take.
    """
    refused: list[ProfileError] = []
    for i, loaded in enumerate(programs):
        try:
            name = f"profile {i + 1} of {len(programs)}"
            env = environment(loaded, shapes, name, len(programs) > 1, kept)
            _check_contents(loaded, values, name)
        except ProfileError as e:
            refused.append(e)
            continue
        return i, env
    if len(refused) > 1:
        refused[0].why = "; ".join(f"{e.what}: {e.why}" for e in refused)
        refused[0].what = "these shapes are in none of the plan's profiles"
    raise refused[0]


def contents(names: Sequence[str], specs: Sequence[Tensor], borrowed: Sequence[Borrowed | None]
             ) -> tuple[tuple[int, ...], ...]:
    """The elements of these inputs."""
    out = []
    for name in names:
        t, x = next((t, x) for t, x in zip(specs, borrowed) if t.name == name)
        assert x is not None
        dtype = np_dtype(t.dtype)
        raw = ctypes.string_at(x.address, math.prod(x.shape) * dtype.itemsize)
        out.append(tuple(np.frombuffer(raw, dtype).tolist()))
    return tuple(out)


def _check_contents(loaded: Loaded, values: Mapping[str, Sequence[int]], name: str) -> None:
    """ProfileError unless the elements of inputs that are sizes lie within the profile that messages call `name`."""
    for n, ranges in loaded.program.contents.items():
        for k, (v, (low, _, high)) in enumerate(zip(values[n], ranges)):
            if not low <= v <= high:
                raise ProfileError(f"element {k} of the input {n!r} is {v}", why=f"{name} allows {low} to {high}",
                                   do="build the plan with a profile that has it")


def environment(loaded: Loaded, shapes: Shapes, name: str, several: bool, kept: Mapping[str, int]) -> dict[str, int]:
    """Dimensions from the inputs' shapes, checked against each other and the profile, which messages call `name`."""
    profile = loaded.program.dims
    env = {**loaded.fixed, **kept}
    for dim, n in kept.items():
        low, _, high = profile.get(dim, (n, n, n))
        if not low <= n <= high:
            raise ProfileError(f"the dimension {dim}, which the context's states have, is {n}",
                               why=f"{name} allows {low} to {high}",
                               do="reset the context, or build the plan with a profile that has it")
    tensors = [(t, shape) for t, shape in zip(loaded.program.inputs, shapes) if t.dtype != "object"
               and shape is not None]
    for t, shape in tensors:
        if len(shape) != len(t.shape):
            raise _wrong_shape(t, shape, loaded)
    plain = {dims.plain_name(d) for t, _ in tensors for d in t.shape}
    for i, k, dim in dims.tellers([t.shape for t, _ in tensors], env.keys() - (plain - kept.keys())):
        t, shape = tensors[i]
        try:
            value = dims.solve(t.shape[k], dim, shape[k], env)
        except ZeroDivisionError as e:
            raise PlanFormatError("the plan is malformed", why="a division by zero in its expressions",
                                  do="build the plan anew") from e
        if value is None:
            raise _wrong_shape(t, shape, loaded, env)
        low, _, high = profile[dim]
        if not low <= value <= high:
            raise ProfileError(f"the dimension {dim} is {value}", where=f"the input {t.name!r}, {list(shape)}",
                               why=f"{name} allows {low} to {high}",
                               do="build the plan with a profile that has it")
        env[dim] = value
    for t, shape in tensors:
        if several and any(isinstance(d, int) and d != n for d, n in zip(t.shape, shape)):
            raise ProfileError(f"the input {t.name!r} has the shape {list(shape)}",
                               why=f"{name} takes {brackets(shape_of(t))}", do=f"give {accepts(loaded)}")
        for d, n in zip(t.shape, shape):
            if dims.names(d) <= env.keys() and dims.evaluate(d, env) != n:
                raise _wrong_shape(t, shape, loaded, env)
    return env


def _wrong_shape(t: Tensor, shape: tuple[int, ...], loaded: Loaded, env: Mapping[str, int] | None = None) -> InputError:
    given = f" with {', '.join(f'{k} = {v}' for k, v in env.items())}" if env else ""
    return InputError(f"the input {t.name!r} has the shape {list(shape)}",
                      why=f"the plan takes {brackets(shape_of(t))}{given}", do=f"give {accepts(loaded)}")


def accepts(loaded: Loaded) -> str:
    """For messages: the inputs that a caller gives, and their shapes."""
    return ", ".join(f"{t.name}: {t.dtype} {brackets(shape_of(t))}" for t in loaded.program.inputs
                     if t.name not in loaded.states) or "nothing"


def shape_of(t: Tensor) -> tuple[int | str, ...]:
    """Its dimensions, symbolic ones as text."""
    return tuple(d if isinstance(d, int) else dims.show(d) for d in t.shape)


def brackets(shape: Sequence[int | str]) -> str:
    """`[batch, 3]`."""
    return f"[{', '.join(map(str, shape))}]"
