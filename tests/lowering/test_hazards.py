"""What may run side by side: launches wait for those whose bytes they touch, and for no others."""

from __future__ import annotations

import itertools
import random

import numpy as np

from whet.ir.dtypes import DType
from whet.ir.expr import identity
from whet.ir.graph import Graph, Node, Value
from whet.ir.region import Region, Tensor
from whet.lowering.assemble import Weights, assemble
from whet.lowering.hazards import Access, order, steps_after
from whet.lowering.storage import Buffer, Launch, Storage, schedule
from whet.passes.fuse import form_regions
from whet.targets.base import Implementation, In, Kernel, Out, Pack, Packed, Step


def elements(s: Storage, shape: tuple[int, ...]) -> set[int]:
    return {int(s.offset) + sum(i * int(k) for i, k in zip(at, s.strides)) for at in np.ndindex(*shape)}


def access(s: Storage, shape: tuple[int, ...], write: bool) -> Access:
    found = elements(s, shape)
    return Access(s.buffer, min(found, default=0), max(found, default=-1) + 1, write, s, shape)


def test_tensors_that_share_an_element_always_meet() -> None:
    rng = random.Random(0)
    missed = apart = 0
    for _ in range(3000):
        shape = [rng.randint(1, 4) for _ in range(rng.randint(1, 4))]
        dense = Tensor.dense(DType.F32, tuple(shape)).strides
        b = Buffer("temp", DType.F32, int(np.prod(shape)))
        pair = []
        for _ in range(2):
            low = [rng.randrange(d) for d in shape]
            size = tuple(rng.randint(1, d - l) for d, l in zip(shape, low))
            perm = rng.sample(range(len(shape)), len(shape))
            s = Storage(b, sum(l * st for l, st in zip(low, dense)), tuple(dense[p] for p in perm))
            pair.append(access(s, tuple(size[p] for p in perm), True))
        shared = elements(pair[0].storage, pair[0].shape) & elements(pair[1].storage, pair[1].shape)
        if shared:
            assert pair[0].meets(pair[1])
            assert pair[1].meets(pair[0])
        else:
            apart += 1
            missed += pair[0].meets(pair[1])
    assert missed < apart / 4, "most tensors that lie between each other are told apart"


def test_slices_of_a_concat_along_the_last_dimension_do_not_meet() -> None:
    b = Buffer("temp", DType.F32, 2 * 5 * 5 * 12)
    strides = Tensor.dense(DType.F32, (2, 5, 5, 12)).strides
    parts = [access(Storage(b, at, strides), (2, 5, 5, n), True) for at, n in ((0, 4), (4, 2), (6, 6))]
    assert not any(x.meets(y) for x, y in itertools.combinations(parts, 2))
    whole = access(Storage(b, 0, strides), (2, 5, 5, 12), False)
    assert all(whole.meets(p) for p in parts)
    assert not whole.meets(whole), "two readers"


def test_only_those_are_named_that_no_other_implies() -> None:
    def touch(reads: str, writes: str) -> list[Access]:
        return [*(Access(c, 0, 1, False) for c in reads), *(Access(c, 0, 1, True) for c in writes)]

    # a; b and c read it; d reads both; a is overwritten by e
    waits, before = order([touch("x", "a"), touch("a", "b"), touch("a", "c"), touch("bc", "d"), touch("y", "a")])
    assert waits == [[], [0], [0], [1, 2], [1, 2]]
    assert before[3] == 0b0111
    assert steps_after(waits, [1, 2, 0, 1, 1]) == [[], [0], [1], [0, 2], [0, 2]]


def fork(n: int) -> Graph:
    """x -> n chains of two matmuls -> concat."""
    g = Graph("fork")
    x = Value("x", DType.F32, (8, 16))
    g.inputs = [x]
    ends = []
    for i in range(n):
        w = Value(f"w{i}", DType.F32, (16, 16), data=np.full((16, 16), i, np.float32))
        (a,) = [g.add("matmul", [x, w])]
        ends.append(g.add("matmul", [a, w]))
    g.outputs = [g.add("concat", ends, {"axis": 1})]
    return form_regions(g)


def implementation(region: Region) -> Implementation:
    args = (*(In(i) for i in range(len(region.inputs))), Out(0))
    return Implementation((Step(Kernel(f"k{region.signature()}", ""), args, 1),))


def test_parallel_chains_wait_for_nothing_of_each_other_and_share_no_memory() -> None:
    g = fork(3)
    plan = schedule(g, lambda region: "")
    made = [implementation(l.region) for l in plan.launches]
    body = assemble(plan.launches, made, {}, Weights(), branches=True)
    assert body.after is not None
    firsts = [i for i, ks in enumerate(body.after) if not ks]
    assert len(firsts) == 3
    assert sum(len(ks) for ks in body.after) == 3
    alone = assemble(plan.launches, made, {}, Weights())
    assert alone.after is None
    assert isinstance(body.arena, int)
    assert body.arena >= 3 * 8 * 16 * 4 > alone.arena  # type: ignore[operator]


def test_a_chain_takes_no_more_memory_for_it() -> None:
    g = Graph("chain")
    v = Value("x", DType.F32, (8, 16))
    g.inputs = [v]
    w = Value("w", DType.F32, (16, 16), data=np.ones((16, 16), np.float32))
    for _ in range(6):
        v = g.add("matmul", [v, w])
    g.outputs = [v]
    plan = schedule(form_regions(g), lambda region: "")
    made = [implementation(l.region) for l in plan.launches]
    one, other = (assemble(plan.launches, made, {}, Weights(), branches=b) for b in (True, False))
    assert one.arena == other.arena
    assert one.after == [[], *([i] for i in range(len(plan.launches) - 1))]


def test_what_grows_in_place_is_waited_for() -> None:
    t = Tensor.dense(DType.F32, (4,))
    region = Region("pointwise", {}, (t,), 0, t, t, identity(0, DType.F32))
    state, x = Buffer("input", DType.F32, 16, 0), Buffer("input", DType.F32, 4, 1)
    y = Buffer("output", DType.F32, 4, 0)
    write = Launch(Node("region", [], [], {}, "new row"), [Storage(x, 0, (1,))], [Storage(state, 8, (1,))], region)
    read = Launch(Node("region", [], [], {}, "reader"), [Storage(state, 6, (1,))], [Storage(y, 0, (1,))], region)
    body = assemble([write, read], [implementation(region)] * 2, {}, Weights(), branches=True)
    assert body.after == [[], [0]]


def test_constants_that_are_only_packed_are_not_kept_as_they_were() -> None:
    g = fork(1)
    plan = schedule(g, lambda region: "")
    pack = Pack((1,), lambda w: w + 1)
    made = [Implementation((Step(Kernel("k", ""), (In(0), Packed(0), Out(0)), 1),), (pack,)) for _ in plan.launches]
    weights = Weights()
    assemble(plan.launches, made, {}, weights, branches=True)
    assert [a.max() for a in weights.arrays.values()] == [1.0]
