"""Candidates that crash, hang or raise are recorded and skipped; the build goes on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tuning.unruly import UnrulyTarget
from whet.errors import TuningError
from whet.ir.dtypes import DType
from whet.ir.region import Region, Tensor
from whet.targets.cpu.isa import host
from whet.tuning import tuner
from whet.tuning.cache import TimingCache
from whet.tuning.pool import Child, WorkerDied

FAULTS = ("crashes", "hangs", "raises", "crashes_compiling")


@pytest.fixture(autouse=True)
def children_find_the_unruly(monkeypatch: pytest.MonkeyPatch) -> None:
    tests = str(Path(__file__).parents[1])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([tests, os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setattr(tuner, "RUN_TIMEOUT", 3.0)


def softmax(rows: int) -> Region:
    t = Tensor.dense(DType.F32, (rows, 37))
    return Region("softmax", {"axis": 1, "log": False}, (t,), 1, t, t)


def test_faulty_candidates_are_recorded_and_skipped() -> None:
    cache = TimingCache()
    regions = [softmax(5), softmax(6)]
    target = UnrulyTarget(host(), 2, FAULTS)
    found = tuner.tune(regions, target, cache, opt_level=1)
    for region in regions:
        choice = found.choices[region.signature()]
        assert choice.how == "measured"
        assert choice.tactic not in FAULTS
        entry = cache.get(cache.key(target.device_key(), 2, region.signature()))
        assert entry is not None
        assert entry.trials[0].seconds is not None
        failed = {t.tactic: t.failed for t in entry.trials if t.seconds is None}
        assert set(failed) == set(FAULTS)
        assert "crashed (exit -11)" in failed["crashes"]
        assert "hung" in failed["hangs"]
        assert "ValueError: an odd shape" in failed["raises"]
        assert failed["crashes_compiling"] == "compile: crashed (exit -11)"
    again = tuner.tune(regions, target, cache, opt_level=1)
    assert {c.how for c in again.choices.values()} == {"cache"}


def test_when_all_candidates_fail_the_error_says_how() -> None:
    target = UnrulyTarget(host(), 1, ("raises", "crashes"), honest=False)
    with pytest.raises(TuningError, match="every candidate") as e:
        tuner.tune([softmax(5)], target, TimingCache(), opt_level=1)
    assert "an odd shape" in e.value.why
    assert "crashed" in e.value.why


def test_the_model_alone_chooses_at_level_0() -> None:
    target = UnrulyTarget(host(), 2)
    found = tuner.tune([softmax(5)], target, TimingCache(), opt_level=0)
    (choice,) = found.choices.values()
    assert choice.how == "model"
    assert choice.tactic == target.candidates(softmax(5))[0].tactic


def test_a_child_that_died_is_replaced() -> None:
    child = Child()
    try:
        first = child.process.pid
        child.process.kill()
        child.process.wait()
        with pytest.raises(WorkerDied, match="crashed"):
            child.ask("forget")
        assert child.process.pid != first
        child.ask("forget")
        assert child.reply(30) is None
        child.ask("no such method")
        with pytest.raises(RuntimeError, match="AttributeError"):
            child.reply(30)
    finally:
        child.close()
    assert child.process.poll() is not None
