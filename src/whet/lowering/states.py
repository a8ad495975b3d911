"""What a context keeps between runs: outputs that are the next run's inputs.

A key-value cache is an input `past` and an output `concat(past, new)`. Where nothing stands between the two, the input
lies in a buffer that has room for the longest, and the concat writes only what is new behind it: no copies. Where the
output is the input with rows replaced (TensorScatter, GroupQueryAttention) these are replaced where they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from whet.errors import InputError
from whet.ir.graph import Graph, Value
from whet.ir.ops_host import HOST
from whet.ir.symbolic import Shape, Sym, names, symbol, to_json, upper
from whet.lowering.storage import dense_strides
from whet.plan.program import State

Growing = dict[Value, tuple[Value, Shape]]


def one_segment(g: Graph) -> bool:
    """True if one segment does all of it: then it also copies inputs and constants that are outputs."""
    return not (g.sizes or any(n.op in HOST for n in g.nodes)
                or any(v.dtype.is_host for v in (*g.inputs, *g.outputs)))


def room_for(graphs: Sequence[Graph], states: Mapping[str, str]) -> dict[str, list[int]]:
    """The greatest shape that each state's output has in any profile: all profiles share one buffer."""
    out: dict[str, list[int]] = {}
    for g in graphs:
        ranges = {n: (low, high) for n, (low, _, high) in g.dims.items()}
        named = dict(zip(g.output_names or [v.name for v in g.outputs], g.outputs))
        for given, result in states.items():
            if result in named:
                sizes = [upper(d, ranges) for d in named[result].shape]
                known = out.get(given, sizes)
                out[given] = [max(a, b) for a, b in zip(known, sizes)]
    return out


def take_states(graph: Graph, states: Mapping[str, str], room: Mapping[str, Sequence[int]]
                ) -> tuple[list[State], Growing]:
    """The states {input name: output name} of a graph, whose outputs lose those that are kept in place, in buffers
    of the shapes `room`.

    InputError for names that the model lacks, and for an output of another type or rank than its input.
    """
    inputs = {v.name: v for v in graph.inputs}
    output_names = graph.output_names or [v.name for v in graph.outputs]
    whole = one_segment(graph)
    kept: list[State] = []
    growing: Growing = {}
    gone: set[str] = set()
    for given, result in states.items():
        if given not in inputs or result not in output_names:
            missing, having = (given, inputs) if given not in inputs else (result, output_names)
            raise InputError(f"the state {given!r} = {result!r}: there is no {missing!r}",
                             why=f"the model has {', '.join(having)}", do="name an input and an output of the model")
        past, new = inputs[given], graph.outputs[output_names.index(result)]
        if past.dtype is not new.dtype or past.rank != new.rank:
            raise InputError(f"the state {given!r} is {past}, its next value {new}", do="name two of one type and rank")
        alone = whole and graph.outputs.count(new) == 1 and all(new is not g for g, _ in growing.values())
        if alone and _replaces(graph, past, new):
            growing[past] = (new, dense_strides(tuple(room[given])))
            kept.append(State(given, result, capacity=list(room[given]), in_place=True))
            gone.add(result)
            continue
        axis = _grows(past, new) if alone else None
        if axis is None:
            kept.append(State(given, result))
            continue
        capacity = list(room[given])
        growing[past] = (new, dense_strides(tuple(capacity)))
        length = past.shape[axis]
        assert isinstance(length, Sym)
        kept.append(State(given, result, axis, capacity, next(iter(names(length))), to_json(new.shape[axis]), True))
        gone.add(result)
    graph.outputs = [v for v, n in zip(graph.outputs, output_names) if n not in gone]
    graph.output_names = [n for n in output_names if n not in gone]
    return kept, growing


def _replaces(graph: Graph, past: Value, new: Value) -> bool:
    """True if `new` is `past` with rows replaced and nobody else reads `past`; the scatter is told so."""
    p = new.producer
    region = p.attrs.get("region") if p is not None else None
    if (p is None or region is None or region.kind not in ("scatter_nd", "scatter_elements") or p.inputs[0] is not past
            or past.shape != new.shape or region.epilogue is not None or region.prologue
            or sum(past is v for n in graph.nodes for v in n.inputs) > 1 or past in graph.outputs):
        return False
    p.attrs["region"] = replace(region, attrs={**region.attrs, "in_place": True})
    return True


def agree(kept: Sequence[Sequence[State]]) -> None:
    """InputError unless each state is kept the same way in all profiles, which share its memory."""
    for ways in zip(*kept):
        if len({s.in_place for s in ways}) > 1:
            odd = [i + 1 for i, s in enumerate(ways) if not s.in_place]
            raise InputError(f"the state {ways[0].input!r} grows in place, but not in profile {odd[0]}",
                             why="there its length is fixed, or something stands between it and its next value",
                             do="give its length a range of more than one value in every profile")


def _grows(past: Value, new: Value) -> int | None:
    """The axis along which `new` is `past` and something behind it, if just that is so."""
    p = new.producer
    if p is None or p.op != "concat" or p.inputs[0] is not past or past in p.inputs[1:]:
        return None
    axis: int = p.attrs["axis"]
    length = past.shape[axis]
    plain = isinstance(length, Sym) and names(length) and length == symbol(next(iter(names(length))))
    others = [d for i, d in enumerate(past.shape) if i != axis]
    return axis if plain and others == [d for i, d in enumerate(new.shape) if i != axis] else None
