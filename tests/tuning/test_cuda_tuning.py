"""What tuning for a GPU does before anything reaches one: children at work, what is tried, what is kept."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from whet.ir.dtypes import DType
from whet.ir.graph import Graph, Value
from whet.lowering.storage import Launch, schedule
from whet.passes.fuse import form_regions
from whet.targets.base import Candidate, Implementation
from whet.targets.cuda.gpu import typical
from whet.targets.cuda.target import CudaTarget
from whet.tuning import in_place
from whet.tuning.cache import Entry, TimingCache, Trial
from whet.tuning.cuda import pick
from whet.tuning.found import Choice, Tuned, key_of
from whet.tuning.pool import Crew, OutOfTimeError, WorkerDied


@pytest.fixture
def crew(monkeypatch: pytest.MonkeyPatch) -> Iterator[Crew]:
    tests = str(Path(__file__).parents[1])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([tests, os.environ.get("PYTHONPATH", "")]))
    with Crew(2, "tuning.busy", ("LostError",)) as c:
        yield c


def test_children_work_side_by_side_and_those_that_end_are_replaced(crew: Crew) -> None:
    jobs = [crew.submit(30, "wait", 0.3, i) for i in range(4)]
    assert [j.result()[0] for j in jobs] == [0, 1, 2, 3]
    assert len({j.result()[1] for j in jobs}) == 2
    lost, ended = crew.submit(30, "lose"), crew.submit(30, "end")
    with pytest.raises(RuntimeError, match="an illegal address"):
        lost.result()
    with pytest.raises(WorkerDied, match="exit 3"):
        ended.result()
    assert [crew.submit(30, "wait", 0, i).result()[0] for i in range(4)] == [0, 1, 2, 3]
    with pytest.raises(WorkerDied, match="hung"):
        crew.submit(0.3, "wait", 30, 0).result()
    with pytest.raises(OutOfTimeError):
        crew.submit(30, "wait", 0, 0, until=time.monotonic() - 1).result()


def test_a_crew_that_is_closed_leaves_no_process_and_no_request(crew: Crew) -> None:
    jobs = [crew.submit(60, "wait", 60, i) for i in range(6)]
    time.sleep(0.5)
    children = list(crew._children)
    start = time.monotonic()
    crew.close()
    assert time.monotonic() - start < 10
    assert all(c.process.poll() is not None for c in children)
    assert all(j.done() for j in jobs)


def test_every_tactic_is_tried_with_its_own_best_first() -> None:
    def some(tactic: str, costs: list[float]) -> list[Candidate]:
        return [Candidate(tactic, {"k": i}, c) for i, c in enumerate(costs)]

    ranked = sorted([*some("a", [1, 2, 3, 4]), *some("library", [9, 9, 9])], key=lambda c: c.cost)
    assert [(c.tactic, c.params["k"]) for c in pick(ranked, 2)] == [("a", 0), ("library", 0), ("a", 1), ("library", 1)]
    assert len(pick(ranked, 1000)) == 7


class Target(CudaTarget):
    """A GPU that is there, whose kernels are not made."""

    def implement(self, region: Any, tactic: str, params: Any) -> Implementation:
        return Implementation(())


TARGET = Target(replace(typical((9, 0)), name="NVIDIA H100", live=True))


def launches() -> list[Launch]:
    """Two equal matmuls and one of another shape, in a chain."""
    g = Graph("chain")
    v = Value("x", DType.F32, (8, 16))
    g.inputs = [v]
    for n in (16, 16, 4):
        v = g.add("matmul", [v, Value(f"w{n}", DType.F32, (16, n), data=np.ones((16, n), np.float32))])
    g.outputs = [v]
    return schedule(form_regions(g), lambda region: "").launches


def tuned_for(some: list[Launch], cache: TimingCache) -> Tuned:
    out = Tuned()
    for l in some:
        r = l.region
        trials = [Trial("a", {}, 1e-6), Trial("b", {}, 1.1e-6), Trial("c", {}, 5e-6), Trial("d", {}, None, "failed")]
        cache.put(key_of(cache, TARGET, r.timing_key()), Entry(r.kind, trials))
        out.choices[r.signature()] = Choice("a", {}, "measured", 1e-6)
    return out


def test_what_is_faster_in_place_is_kept_and_known_the_next_time() -> None:
    some, cache = launches(), TimingCache()
    asked: list[in_place.Trials] = []

    def ask(trials: in_place.Trials) -> dict[str, Any]:
        asked.append(trials)
        return {trials.others[0][0]: ("b", {}, 9e-6)}

    for _ in range(2):
        out = tuned_for(some, cache)
        in_place.refine(some, {}, TARGET, cache, 3, out, lambda p: None, ask)
        how = [out.choices[l.region.signature()].how for l in some]
        assert sorted(set(how)) == ["in place", "measured"]
    (trials,) = asked
    heaviest, others = trials.others[0]
    assert [l.region for l in trials.launches].count(heaviest) == max(
        [l.region for l in trials.launches].count(s) for s in trials.regions)
    assert others == [("b", {})], "what is far slower alone is not tried"
    assert len(trials.launches) == len(some)
    assert trials.arena > 0


def test_nothing_is_tried_in_place_without_a_gpu_or_time() -> None:
    some, cache = launches(), TimingCache()

    def never(trials: in_place.Trials) -> dict[str, Any]:
        raise AssertionError("asked")

    for target, level in ((TARGET, 0), (TARGET, 1), (replace(TARGET, gpu=typical((9, 0))), 3)):
        in_place.refine(some, {}, target, cache, level, tuned_for(some, cache), lambda p: None, never)


def test_timings_are_of_a_gpu_its_driver_and_libraries() -> None:
    keys = {replace(TARGET, gpu=g).device_key() for g in (
        TARGET.gpu, replace(TARGET.gpu, name="NVIDIA H200"), replace(TARGET.gpu, driver="590.1"),
        replace(TARGET.gpu, libraries={"cudnn": "9.19.0"}))}
    assert len(keys) == 4
