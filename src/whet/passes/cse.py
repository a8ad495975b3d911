"""Common subexpressions: equal operators on equal operands run once."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from whet.ir.graph import Graph, Value
from whet.ir.ops_host import HOST
from whet.passes.rewrite import freeze

CONST_BYTES = 1 << 16  # constants up to this size are compared by content, larger ones by identity
IMPURE = frozenset({"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial",
                    "Bernoulli", "Dropout", "If", "Loop", "Scan", "SequenceMap", ""})


def merge_common(graph: Graph) -> None:
    """Let nodes with the same operator, operands, attributes and precision share one result."""
    names: dict[Value, object] = {}
    contents: dict[object, Value] = {}
    seen: dict[object, list[Value]] = {}
    replaced: dict[Value, Value] = {}

    def name(v: Value | None) -> object:
        if v is None:
            return None
        if v not in names:
            key: object = id(v)
            if v.data is not None and v.data.nbytes <= CONST_BYTES and v.data.dtype.kind != "O":
                digest = hashlib.blake2b(np_bytes(v), digest_size=16).digest()
                key = (v.dtype, v.shape, digest)
                first = contents.setdefault(key, v)
                if first is not v:
                    replaced[v] = first
            names[v] = key
        return names[v]

    kept = []
    for n in graph.nodes:
        n.inputs = [replaced.get(v, v) if v is not None else None for v in n.inputs]
        keys = tuple(name(v) for v in n.inputs)
        n.inputs = [replaced.get(v, v) if v is not None else None for v in n.inputs]
        if is_impure(n.op, n.attrs):
            kept.append(n)
            continue
        key = (n.op, n.compute, keys, freeze(n.attrs))
        if key in seen:
            replaced.update(zip(n.outputs, seen[key], strict=True))
        else:
            seen[key] = n.outputs
            kept.append(n)
    graph.nodes = kept
    graph.outputs = [replaced.get(v, v) for v in graph.outputs]
    graph.sizes = {n: replace(s, value=replaced.get(s.value, s.value)) for n, s in graph.sizes.items()}


def is_impure(op: str, attrs: dict[str, object]) -> bool:
    """True for host nodes that need not give the same result twice, or whose bodies may not."""
    if op != "onnx":
        return op in HOST
    return attrs.get("name", "") in IMPURE


def np_bytes(v: Value) -> bytes:
    """A constant's content as bytes."""
    assert v.data is not None
    return v.data.tobytes()
