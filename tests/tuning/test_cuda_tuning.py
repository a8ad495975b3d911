"""What tuning for a GPU does before anything reaches one: children at work, what is tried, what is kept."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import Future, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tuning.fake_gpu import Playing
from whet.errors import TuningError
from whet.ir.dtypes import DType
from whet.ir.graph import Graph, Value
from whet.ir.region import Region, Tensor
from whet.lowering.storage import Launch, schedule
from whet.passes.fuse import form_regions
from whet.targets.base import Candidate, Implementation, Kernel, Step
from whet.targets.cuda.gpu import typical
from whet.targets.cuda.target import CudaTarget
from whet.tuning import cuda, in_place
from whet.tuning.cache import Entry, TimingCache, Trial
from whet.tuning.cuda import pick
from whet.tuning.found import Choice, Tuned, describe, key_of
from whet.tuning.pool import Crew, NotTriedError, WorkerDied
from whet.tuning.tuner import tune


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
    with pytest.raises(NotTriedError):
        crew.submit(30, "wait", 0, 0, unless=lambda: True).result()


def test_what_is_urgent_comes_before_what_waits(crew: Crew) -> None:
    jobs = [crew.submit(30, "wait", 0.4, i, first=i > 3) for i in range(6)]
    done = [j.result()[0] for j in as_completed(jobs)]
    assert set(done[2:4]) == {4, 5}


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


TARGET = Playing(replace(typical((9, 0)), name="NVIDIA H100", live=True))


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

    def ask(trials: in_place.Trials) -> list[in_place.Attempt]:
        asked.append(trials)
        first = trials.others[0][0]
        return [in_place.Attempt({first: ("d", {})}, 10e-6, 9e-6, True),
                in_place.Attempt({first: ("b", {})}, 9e-6, 8e-6, True),
                in_place.Attempt({first: ("c", {})}, 8e-6, 9e-6, False)]

    for _ in range(2):
        out = tuned_for(some, cache)
        in_place.refine(some, {}, TARGET, cache, 3, out, lambda p: None, ask)
        found = {(c.tactic, c.how) for c in (out.choices[l.region.signature()] for l in some)}
        assert found == {("b", "in place"), ("a", "measured")}
        assert [(t["tactic"], t["before"], t["after"], t["kept"]) for t in out.in_place] == [
            ("d", 10e-6, 9e-6, True), ("b", 9e-6, 8e-6, True), ("c", 8e-6, 9e-6, False)]
    (trials,) = asked
    heaviest, others = trials.others[0]
    assert [l.region for l in trials.launches].count(heaviest) == max(
        [l.region for l in trials.launches].count(s) for s in trials.regions)
    assert others == [("a", {}), ("b", {})], "what is far slower alone is not tried"
    assert len(trials.launches) == len(some)
    assert trials.arena > 0


def test_what_could_not_be_tried_in_place_is_tried_the_next_time() -> None:
    some, cache = launches(), TimingCache()
    answers = [None, [], []]

    def ask(trials: in_place.Trials) -> list[in_place.Attempt] | None:
        return answers.pop(0)

    for left in (2, 1, 1):
        in_place.refine(some, {}, TARGET, cache, 3, tuned_for(some, cache), lambda p: None, ask)
        assert len(answers) == left


def test_all_in_one_stream_where_that_is_faster() -> None:
    some, cache = launches(), TimingCache()

    def ask(trials: in_place.Trials) -> list[in_place.Attempt]:
        assert not trials.one_stream
        return [in_place.Attempt({}, 10e-6, 9e-6, True, one_stream=True)]

    for _ in range(2):  # the second time from the cache
        out = tuned_for(some, cache)
        in_place.refine(some, {}, TARGET, cache, 3, out, lambda p: None, ask)
        assert out.one_stream
        assert out.in_place == [{"region": "", "tactic": "one stream", "before": 10e-6, "after": 9e-6, "kept": True}]
    asked = in_place.segment(some, {}, TARGET, out, 1.0)
    assert asked is not None
    assert asked.one_stream


class Calling(Playing):
    """Of the tactics those of libraries call one."""

    def implement(self, region: Any, tactic: str, params: Any) -> Implementation:
        made = super().implement(region, tactic, params)
        kind = {"cudnn_matmul": "cudnn", "cublaslt": "cublaslt"}.get(tactic, "triton")
        return replace(made, steps=(Step(Kernel(tactic, f'{{"type": "{kind}"}}'), (), 1),))


@pytest.mark.parametrize(("times", "tried", "own"), [
    ("cudnn 10, cudnn 10.1, cublaslt 10.2, cudnn 10.3, tiles 15, tiles 15.5", "cudnn cudnn cublaslt tiles", "tiles"),
    ("cudnn 10, tiles 15.9", "cudnn tiles", "tiles"),
    ("cudnn 10, cudnn 10.1, cudnn 10.2, tiles 16.1", "cudnn cudnn cudnn", ""),
    ("cudnn 10, rows 10.1, tiles 10.2, tiles 10.3", "cudnn rows tiles", "rows"),
    ("tiles 10, tiles 10.1, rows 10.2, rows 10.3, cudnn 12, cublaslt 12.1", "tiles tiles rows cudnn cublaslt", ""),
    ("tiles 10, cudnn 16.1", "", ""),
    ("tiles 10, cudnn failed", "", ""),
    ("cudnn 10, tiles failed", "", "")])
def test_the_best_few_and_the_best_of_each_other_tactic_are_tried_in_place(
        times: str, tried: str, own: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Microseconds alone, the best first; which of them are tried, and which takes a library call's place at first."""
    monkeypatch.setitem(in_place.OTHERS, 2, 2)
    some, cache = launches(), TimingCache()
    target = Calling(TARGET.gpu)
    trials = []
    for k, (tactic, us) in enumerate(t.split() for t in times.split(", ")):
        tactic = {"cudnn": "cudnn_matmul"}.get(tactic, tactic)
        trials.append(Trial(tactic, {"k": k}, None if us == "failed" else float(us) * 1e-6, "why" * (us == "failed")))
    asked: list[in_place.Trials] = []

    def ask(given: in_place.Trials) -> list[in_place.Attempt]:
        asked.append(given)
        return []

    for _ in range(2):
        out = Tuned()
        for l in some:
            cache.put(key_of(cache, target, l.region.timing_key()), Entry("matmul", trials))
            out.choices[l.region.signature()] = Choice(trials[0].tactic, trials[0].params, "measured", 10e-6)
        in_place.refine(some, {}, target, cache, 2, out, lambda p: None, ask)
    assert len(asked) == bool(tried), "the second time it is known"
    for given in asked:
        for s, others in given.others:
            assert [tactic.removesuffix("_matmul") for tactic, _ in others] == tried.split()
            assert others == [(t.tactic, t.params) for t in trials if (t.tactic, t.params) in others], "the best first"
            assert given.own.get(s, ("",))[0] == own


def test_what_was_tried_in_place_is_known_unless_there_is_more_to_try() -> None:
    some, cache = launches(), TimingCache()
    target = Calling(TARGET.gpu)
    tiles, near, far = Trial("tiles", {}, 15e-6), Trial("cudnn_matmul", {"k": 1}, 11e-6), Trial("rows", {}, 17e-6)
    asked: list[in_place.Trials] = []

    def ask(given: in_place.Trials) -> list[in_place.Attempt]:
        asked.append(given)
        return []

    for behind, count in (([near], 1), ([near, far], 1), ([near, tiles], 2), ([near, tiles, far], 2), ([near], 2)):
        out = Tuned()
        for l in some:
            entry = Entry("matmul", [Trial("cudnn_matmul", {"k": 0}, 10e-6), *behind])
            cache.put(key_of(cache, target, l.region.timing_key()), entry)
            out.choices[l.region.signature()] = Choice("cudnn_matmul", {"k": 0}, "measured", 10e-6)
        in_place.refine(some, {}, target, cache, 2, out, lambda p: None, ask)
        assert len(asked) == count


def test_nothing_is_tried_in_place_without_a_gpu_or_time() -> None:
    some, cache = launches(), TimingCache()

    def never(trials: in_place.Trials) -> list[in_place.Attempt]:
        raise AssertionError("asked")

    for target, level in ((TARGET, 0), (TARGET, 1), (replace(TARGET, gpu=typical((9, 0))), 3)):
        in_place.refine(some, {}, target, cache, level, tuned_for(some, cache), lambda p: None, never)


def test_timings_are_of_a_gpu_its_driver_and_libraries() -> None:
    keys = {replace(TARGET, gpu=g).device_key() for g in (
        TARGET.gpu, replace(TARGET.gpu, name="NVIDIA H200"), replace(TARGET.gpu, driver="590.1"),
        replace(TARGET.gpu, libraries={"cudnn": "9.19.0"}))}
    assert len(keys) == 4


def chosen(monkeypatch: pytest.MonkeyPatch, plays: dict[str, list[tuple[float, str]]], level: int = 3
           ) -> tuple[Choice, Tuned, Entry]:
    tests = str(Path(__file__).parents[1])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([tests, os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setattr(cuda, "WORKER", "tuning.fake_gpu")
    region = launches()[0].region
    target, cache = Playing(TARGET.gpu, plays=plays), TimingCache()
    out = tune([region], target, cache, level)
    entry = cache.get(key_of(cache, target, region.timing_key()))
    assert entry is not None
    return out.choices[region.signature()], out, entry


def test_the_fastest_that_is_right_wins_and_those_that_fail_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    choice, out, entry = chosen(monkeypatch, {
        "good": [(5, ""), (4, ""), (4.1, "tire")], "crashing": [(1, "end"), (9, "")], "reaching": [(1, "lose")],
        "lying": [(1, "lie")], "odd": [(1, "not compile")], "large": [(1, "take all memory")]})
    assert (choice.tactic, choice.params["us"], choice.how, choice.seconds) == ("good", 4, "measured", 4e-6)
    failed = {t.tactic: t.failed for t in entry.trials if t.seconds is None}
    assert "exit 7" in failed["crashing"]
    assert "an illegal address" in failed["reaching"]
    assert "differs from" in failed["lying"]
    assert "a type that is none" in failed["odd"]
    assert "no memory for an operand" in failed["large"]
    assert set(out.failed) == set(failed)
    assert [t.params["us"] for t in entry.trials if t.seconds][:2] == [4, 5], "the one that tires is behind"
    assert out.objects.keys() >= {"good1"}


def test_what_hangs_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "RUN_TIMEOUT", 1.5)
    begin = time.monotonic()
    choice, out, entry = chosen(monkeypatch, {"hanging": [(1, "hang")] * 8, "good": [(5, ""), (4, "")]})
    assert time.monotonic() - begin < 12
    assert choice.tactic == "good"
    assert [t.failed for t in entry.trials if t.tactic == "hanging"] == ["hung (over 2 s)"]
    assert out.notes == ["hanging hung (over 2 s): no other of its sort was tried"]


def test_a_tactic_that_is_far_behind_is_not_tried_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "cores", lambda: 1)
    plays = {"fast": [(1.0 + 0.01 * k, "") for k in range(12)], "slow": [(9.0, "")] * 12}
    plays["slow"][2] = 9.0, "compile slowly"  # until then some have been timed
    _, _, entry = chosen(monkeypatch, plays)
    tried = [t.tactic for t in entry.trials]
    assert tried.count("fast") == 12
    assert cuda.SURE <= tried.count("slow") < 12


def test_when_nothing_works_the_error_says_how(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TuningError, match="every candidate") as e:
        chosen(monkeypatch, {"a": [(1, "lose")], "b": [(1, "not compile")]})
    assert "an illegal address" in e.value.why
    assert "a type that is none" in e.value.why


def test_builds_within_one_another_share_their_children() -> None:
    with cuda.children(TARGET) as outer:
        with cuda.children(TARGET) as inner:
            assert inner is outer
        with cuda.children(replace(TARGET, index=1)) as other:
            assert other is not outer
        assert outer.users == 1
    with cuda.children(TARGET) as later:
        assert later is not outer


def test_a_library_that_ends_the_child_costs_its_candidates_alone() -> None:
    target = CudaTarget(replace(typical((9, 0)), live=True, libraries={"cudnn": "9.19"}))
    region = Region("matmul", {}, (Tensor.dense(DType.F16, (9, 16)), Tensor.dense(DType.F16, (16, 8))), 2,
                    Tensor.dense(DType.F32, (9, 8)), Tensor.dense(DType.F32, (9, 8)), compute="f16")

    class Ending:
        def submit(self, timeout: float, method: str, target: CudaTarget, region: Region) -> Future[list[Candidate]]:
            job: Future[list[Candidate]] = Future()
            if target.gpu.libraries:
                job.set_exception(WorkerDied("crashed (exit -11)"))
            else:
                job.set_result([Candidate("matmul_tiles", {}, 1.0)])
            return job

    out = Tuned()
    found = cuda._candidates([region], target, Ending(), out, lambda _: None)
    assert [c.tactic for _, given in found for c in given] == ["matmul_tiles"]
    assert out.notes == [f"libraries gave no candidates for {describe(region)}: crashed (exit -11)"]
