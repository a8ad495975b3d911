"""Names of tensors, nodes and dimensions changed, one by one or by pattern."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from whet.errors import InputError
from whet.tools.surgeon.model import OnnxModel, check_valid
from whet.tools.surgeon.names import defined, graphs, rename_all, unknown


def rename(model: OnnxModel, tensors: Mapping[str, str] | None = None, nodes: Mapping[str, str] | None = None,
           dimensions: Mapping[str, str] | None = None, *, pattern: bool = False) -> OnnxModel:
    """The model with other names: {old: new} for tensors (inputs, outputs and weights too), nodes, dimensions.

    pattern: the old names are regular expressions (Python's `re`) that are searched in every name, and what they match
    is replaced by the new ones, in which \\1 stands for the first group.

    InputError for a name that is not there, a pattern that matches nothing, and two things that would have one name.
    """
    out = OnnxModel.open(model)
    g = out.proto.graph
    new = _mapping("tensor", tensors or {}, sorted(defined(g)), pattern, model.name)
    rename_all(g, new)
    every = [n for x in graphs(g) for n in x.node]
    by_node = _mapping("node", nodes or {}, sorted({n.name for n in every if n.name}), pattern, model.name)
    for n in every:
        n.name = by_node.get(n.name, n.name)
    shapes = [v.type.tensor_type.shape.dim for x in graphs(g) for v in (*x.input, *x.output, *x.value_info)
              if v.type.WhichOneof("value") == "tensor_type"]
    there = sorted({d.dim_param for s in shapes for d in s if d.dim_param})
    by_dim = _mapping("dimension", dimensions or {}, there, pattern, model.name)
    for s in shapes:
        for d in s:
            if d.dim_param:
                d.dim_param = by_dim.get(d.dim_param, d.dim_param)
    check_valid(out.proto)
    out.notes.append(f"{len(new)} tensors, {len(by_node)} nodes, {len(by_dim)} dimensions renamed")
    return out


def _mapping(kind: str, wanted: Mapping[str, str], there: Iterable[str], pattern: bool, where: str) -> dict[str, str]:
    """{old: new} of the names that change."""
    there = list(there)
    out: dict[str, str] = {}
    for old, new in wanted.items():
        if not pattern:
            if old not in there:
                raise unknown(kind, old, there, where)
            out[old] = new
            continue
        try:
            changed = {name: re.sub(old, new, name) for name in there if re.search(old, name)}
        except (re.error, IndexError) as e:
            raise InputError(f"not a pattern: {old!r} to {new!r}", why=str(e), do="see Python's re") from None
        if not changed:
            raise InputError(f"no {kind}'s name matches {old!r}", where=where, do="check the pattern")
        out |= changed
    final = [out.get(name, name) for name in there]
    if empty := [o for o, n in out.items() if not n]:
        raise InputError(f"the {kind} {empty[0]!r} would have no name", where=where, do="give it one")
    twice = sorted({n for n in final if final.count(n) > 1}) if len(set(final)) < len(final) else []
    if twice:
        raise InputError(f"two {kind}s would be called {twice[0]!r}", where=where, do="give each a name of its own")
    return {o: n for o, n in out.items() if o != n}
