"""Run a graph by the operators' NumPy references: slow, simple, and what everything else must equal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from whet.errors import InputError
from whet.ir.dtypes import DType
from whet.ir.graph import Graph, Node, Size, Value
from whet.ir.ops import evaluate
from whet.ir.symbolic import Sym, names, substitute, symbol
from whet.ir.symbolic import evaluate as dim_value


def bind_dims(graph: Graph, arrays: Mapping[str, Any]) -> dict[str, int]:
    """The value of every symbolic dimension that the inputs' shapes fix. InputError where they disagree."""
    dims: dict[str, int] = {}
    for v in graph.inputs:
        if v.dtype is not DType.OBJECT:
            _bind(v, arrays[v.name], dims)
    for v in graph.inputs:
        if v.dtype is DType.OBJECT:
            continue
        want = tuple(dim_value(d, dims) if names(d) <= dims.keys() else "?" for d in v.shape)
        got = np.shape(arrays[v.name])
        if any(w not in ("?", g) for w, g in zip(want, got)):
            raise InputError(f"input {v.name} has shape {got}", why=f"the model takes {v.shape}, here {want}")
    return dims


def _bind(v: Value, array: np.ndarray, dims: dict[str, int]) -> None:
    """Learn the dimensions of v that are `c*name + d` for a name that is not known yet."""
    if np.ndim(array) != v.rank:
        raise InputError(f"{v.name} has rank {np.ndim(array)}", why=f"the model takes rank {v.rank}: {v.shape}")
    for d, n in zip(v.shape, np.shape(array), strict=True):
        if isinstance(d, Sym):
            rest = substitute(d, dict(dims))
            unknown = names(rest)
            if len(unknown) == 1:
                (name,) = unknown
                zero, one = substitute(rest, {name: 0}), substitute(rest, {name: 1})
                if isinstance(zero, int) and isinstance(one, int) and one != zero \
                        and rest == symbol(name) * (one - zero) + zero:
                    dims[name] = (int(n) - zero) // (one - zero)


def interpret(graph: Graph, feeds: Mapping[str, Any], dims: Mapping[str, int] | None = None) -> dict[str, Any]:
    """The graph's outputs by name, computed with the NumPy references.

    feeds: an array for each graph input, by name (for values of type OBJECT whatever they are). dims: values of
    symbolic dimensions that no input shows. InputError for an input that is missing or does not fit.
    """
    missing = [v.name for v in graph.inputs if v.name not in feeds]
    if missing:
        raise InputError(f"no array for input {missing[0]}",
                         do=f"give one for each of {', '.join(v.name for v in graph.inputs)}")
    given = [feeds[v.name] if v.dtype is DType.OBJECT else np.asarray(feeds[v.name], v.dtype.np) for v in graph.inputs]
    output_names = graph.output_names or [v.name for v in graph.outputs]
    return dict(zip(output_names, _run(graph, given, dict(dims or {})), strict=True))


def _run(graph: Graph, given: Sequence[Any], dims: dict[str, int]) -> list[Any]:
    """The graph's outputs for these inputs, in order."""
    arrays = {v.name: x for v, x in zip(graph.inputs, given, strict=True)}
    env = {**dims, **bind_dims(graph, arrays)}
    known: dict[Value, Any] = {}
    told: dict[Value, list[tuple[str, Size]]] = {}
    for name, s in graph.sizes.items():
        told.setdefault(s.value, []).append((name, s))
    open_ = list(graph.checks)

    def learn(v: Value, x: Any) -> None:
        known[v] = x
        for name, s in told.get(v, ()):
            env[name] = int(np.shape(x)[s.at] if s.axis else np.asarray(x).reshape(-1)[s.at])
            low, _, high = graph.dims[name]
            if not low <= env[name] <= high:
                raise InputError(f"{name} is {env[name]}", where=v.producer.origin if v.producer else f"input {v.name}",
                                 why=f"it may be {low} to {high}", do="check the input that it is computed from")
        for c in [c for c in open_ if v in told and names(c.a, c.b) <= env.keys()]:
            open_.remove(c)
            if not c.holds(env):
                raise InputError(f"{dim_value(c.a, env)} {'is over' if c.most else 'is not'} {dim_value(c.b, env)}",
                                 where=c.what, do="check the input that it is computed from")

    for v in told:
        if v.data is not None:
            learn(v, v.data)
    for v in graph.inputs:
        learn(v, arrays[v.name])
    last_use = {v: i for i, n in enumerate(graph.nodes) for v in n.inputs if v is not None}
    keep = set(graph.outputs)

    def read(v: Value) -> Any:
        return v.data if v.data is not None else known[v]

    for i, node in enumerate(graph.nodes):
        xs = [None if v is None else read(v) for v in node.inputs]
        for out, r in zip(node.outputs, _CONTROL.get(node.op, evaluate)(node, xs, env), strict=True):
            learn(out, r)
        for x in node.inputs:
            if x is not None and last_use[x] == i and x not in keep:
                known.pop(x, None)
    return [read(v) for v in graph.outputs]


def _if(node: Node, xs: Sequence[Any], env: Mapping[str, int]) -> list[Any]:
    taken = node.attrs["then_branch" if bool(np.asarray(xs[0]).reshape(-1)[0]) else "else_branch"]
    return _run(taken, xs[1:], dict(env))


def _loop(node: Node, xs: Sequence[Any], env: Mapping[str, int]) -> list[Any]:
    at, body = node.attrs, node.attrs["body"]
    scans = len(at["scan_inputs"])
    states, sliced, captures = (list(xs[2:2 + at["states"]]), xs[2 + at["states"]:2 + at["states"] + scans],
                                xs[2 + at["states"] + scans:])
    count = int(np.asarray(xs[0]).reshape(-1)[0]) if xs[0] is not None else None
    if count is None and scans:
        count = np.shape(sliced[0])[at["scan_inputs"][0][0]]
    going = bool(np.asarray(xs[1]).reshape(-1)[0]) if xs[1] is not None else True
    stacked: list[list[Any]] = [[] for _ in at["scan_outputs"]]
    i = 0
    while going and (count is None or i < count):
        slices = [np.take(x, -1 - i if reverse else i, axis) for x, (axis, reverse) in zip(sliced, at["scan_inputs"])]
        out = _run(body, [np.asarray(i, np.int64), np.asarray(going), *states, *slices, *captures], dict(env))
        going, states = bool(np.asarray(out[0]).reshape(-1)[0]), list(out[1:1 + at["states"]])
        for kept, x in zip(stacked, out[1 + at["states"]:]):
            kept.append(x)
        i += 1
    return [*states, *(stack(kept, axis, reverse, v, env) for kept, (axis, reverse), v in
                       zip(stacked, at["scan_outputs"], node.outputs[at["states"]:]))]


def stack(slices: list[Any], axis: int, reverse: bool, like: Value, env: Mapping[str, int]) -> np.ndarray:
    """Slices along a new axis, last first where `reverse`; without any, an empty tensor of `like`'s type and rank."""
    if slices:
        return np.stack(slices[::-1] if reverse else slices, axis)
    shape = [dim_value(d, env) if names(d) <= env.keys() else 0 for d in like.shape]
    return np.zeros([0 if i == axis else n for i, n in enumerate(shape)], like.dtype.np)


_CONTROL: dict[str, Callable[[Node, Sequence[Any], Mapping[str, int]], list[Any]]] = {"if": _if, "loop": _loop}
