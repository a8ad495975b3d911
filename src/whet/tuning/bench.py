"""A plan of one region, on random data: what the tuner times."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import numpy as np

from whet.ir.dtypes import DType
from whet.ir.graph import Node, Value
from whet.ir.region import Region, Tensor
from whet.ir.symbolic import evaluate, to_json
from whet.lowering.assemble import Weights, assemble, spec
from whet.lowering.storage import Buffer, Launch, Storage
from whet.plan.data import PlanData
from whet.plan.program import straight
from whet.targets.base import Implementation, Pack
from whet.targets.cpu.target import CpuTarget

COLD = 8 << 20  # bytes that one call goes through: more than the caches of a core or two keep


@dataclass
class Single:
    """A plan that runs one region `copies` times in a row, each time with constants of its own."""

    engine: Any
    feeds: list[np.ndarray]
    outs: list[np.ndarray]
    copies: int


def single(target: CpuTarget, region: Region, made: Implementation, objects: dict[str, bytes]) -> Single:
    """An engine that runs just this region, with its inputs (random) and outputs as flat arrays.

    Non-constant operands become inputs as long as their strides reach; symbolic dimensions take the
    profile's optimum. In a network every layer finds its weights evicted by the others' and its
    activations just written: so the constants are there several times, the activations once.
    """
    from whet.plan import Plan
    from whet.runtime import load

    env = {n: opt for n, (_, opt, _) in region.dims.items()}
    inputs: list[Value] = []
    outputs: list[Value] = []
    feeds: list[np.ndarray] = []
    outs: list[np.ndarray] = []

    def flat(t: Tensor) -> tuple[int, tuple[int, ...]]:
        shape = [evaluate(d, env) for d in t.shape]
        strides = tuple(evaluate(d, env) for d in t.strides)
        reach = 1 + sum((d - 1) * s for d, s in zip(shape, strides)) if all(shape) else 0
        return reach, strides

    ins = []
    for i, t in enumerate(region.inputs):
        n, strides = flat(t)
        data = random_array(t.dtype, n, i)
        if t.const:
            ins.append(Storage(Buffer("const", t.dtype, n, data=data), 0, strides))
        else:
            ins.append(Storage(Buffer("input", t.dtype, n, len(inputs)), 0, strides))
            inputs.append(Value(f"x{i}", t.dtype, (n,)))
            feeds.append(data)
    results = []
    for i, t in enumerate((region.output, *region.extra_outputs)):
        n, strides = flat(t)
        results.append(Storage(Buffer("output", t.dtype, n, i), 0, strides))
        outputs.append(Value(f"y{i}", t.dtype, (n,)))
        outs.append(np.zeros(n, t.dtype.np))
    constants = sum(s.buffer.data.nbytes for s in ins if s.buffer.data is not None)
    touched = constants + sum(a.nbytes for a in (*feeds, *outs))
    copies = max(1, min(8, -(-COLD // touched))) if constants else 1
    node = Node("region", [], [], {}, region.kind)
    launches = [Launch(node, [_renewed(s, c) for s in ins], results, region) for c in range(copies)]
    fixed = {n: (v, v, v) for n, v in env.items()}
    packed: dict[int, np.ndarray] = {}
    weights = Weights()
    body = assemble(launches, [_packing_once(made, c, packed) for c in range(copies)], fixed, weights)
    linked = target.link(objects)
    program = straight([spec(v) for v in inputs], [spec(v) for v in outputs], fixed, [n.label for n in body.steps],
                       to_json(body.arena))
    plan = PlanData([program], body.steps, weights.arrays, linked.code, linked.symbols, body.scratch_bytes,
                    target.threads, **target.fields())
    return Single(load(Plan.from_data(plan, hashed=False)), feeds, outs, copies)


def _renewed(s: Storage, copy: int) -> Storage:
    """The storage over another constant of the same size (equal ones would be stored once)."""
    data = s.buffer.data
    if data is None or not data.size or copy == 0:
        return s
    fresh = data.copy()
    fresh[0] = copy
    return replace(s, buffer=Buffer("const", s.buffer.dtype, s.buffer.elements, data=fresh))


def _packing_once(made: Implementation, copy: int, packed: dict[int, np.ndarray]) -> Implementation:
    """The implementation with its constants packed for the first copy, and derived from that for the others."""
    def make(i: int, *arrays: np.ndarray) -> np.ndarray:
        if i not in packed:
            packed[i] = np.ascontiguousarray(made.packs[i].make(*arrays))
        if copy == 0 or not packed[i].size:
            return packed[i]
        other = packed[i].copy()
        other.reshape(-1)[0] = copy
        return other

    return replace(made, packs=tuple(Pack(p.sources, partial(make, i)) for i, p in enumerate(made.packs)))


@lru_cache(maxsize=16)
def random_array(dtype: DType, n: int, seed: int) -> np.ndarray:
    """Normal floats; small integers that are legal indices of anything with two rows; bools. Not to be written to."""
    rng = np.random.default_rng(seed)
    if dtype.is_float:
        return rng.standard_normal(n, dtype=np.float32).astype(dtype.np)
    return rng.integers(0, 2, n).astype(dtype.np)
