"""Run a graph by the operators' NumPy references: slow, simple, and what everything else must equal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from whet.errors import InputError
from whet.ir.graph import Graph, Value
from whet.ir.ops import evaluate
from whet.ir.symbolic import Sym, names, substitute, symbol
from whet.ir.symbolic import evaluate as dim_value


def bind_dims(graph: Graph, arrays: Mapping[str, np.ndarray]) -> dict[str, int]:
    """The value of every symbolic dimension that the inputs' shapes fix. InputError where they disagree."""
    dims: dict[str, int] = {}
    for v in graph.inputs:
        _bind(v, arrays[v.name], dims)
    for v in graph.inputs:
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


def interpret(graph: Graph, feeds: Mapping[str, Any], dims: Mapping[str, int] | None = None) -> dict[str, np.ndarray]:
    """The graph's outputs by name, computed with the NumPy references.

    feeds: an array for each graph input, by name. dims: values of symbolic dimensions that no input shows.
    InputError for an input that is missing or whose rank or shape does not fit.
    """
    missing = [v.name for v in graph.inputs if v.name not in feeds]
    if missing:
        raise InputError(f"no array for input {missing[0]}",
                         do=f"give one for each of {', '.join(v.name for v in graph.inputs)}")
    arrays = {v.name: np.asarray(feeds[v.name], v.dtype.np) for v in graph.inputs}
    env = {**(dims or {}), **bind_dims(graph, arrays)}
    known: dict[Value, np.ndarray] = {v: arrays[v.name] for v in graph.inputs}
    last_use = {v: i for i, n in enumerate(graph.nodes) for v in n.inputs if v is not None}
    keep = set(graph.outputs)

    def read(v: Value) -> np.ndarray:
        return v.data if v.data is not None else known[v]

    for i, node in enumerate(graph.nodes):
        results = evaluate(node, [None if v is None else read(v) for v in node.inputs], env)
        for out, r in zip(node.outputs, results, strict=True):
            known[out] = r
            _bind(out, r, env)  # data-dependent sizes become known here
        for v in node.inputs:
            if v is not None and last_use[v] == i and v not in keep:
                known.pop(v, None)
    output_names = graph.output_names or [v.name for v in graph.outputs]
    return {name: read(v) for name, v in zip(output_names, graph.outputs, strict=True)}
