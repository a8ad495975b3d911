"""Whether kernels are launched early is measured once, and holds for the whole plan."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from onnx import TensorProto, helper

import whet
from whet import abi_cuda, builder
from whet.builder import regenerate
from whet.ir.dtypes import DType
from whet.ir.graph import Graph, Value
from whet.lowering.storage import Launch, schedule
from whet.passes.fuse import form_regions
from whet.plan import Plan, layout
from whet.targets.cuda.compile import recipe_of
from whet.targets.cuda.gpu import typical
from whet.targets.cuda.target import CudaTarget
from whet.tools.inspect import inspect_plan
from whet.tuning import cuda, early, in_place
from whet.tuning.cache import TimingCache
from whet.tuning.found import Choice, EarlyLaunch, Tuned
from whet.tuning.tuner import chosen

TARGET = CudaTarget(replace(typical((9, 0)), name="NVIDIA H100", live=True, libraries={}))


def launches(widths: tuple[int, ...] = (16, 16, 4)) -> list[Launch]:
    g = Graph("chain")
    v = Value("x", DType.F32, (8, 16))
    g.inputs = [v]
    for n in widths:
        v = g.add("matmul", [v, Value(g.fresh("w"), DType.F32, (16, n), data=np.ones((16, n), np.float32))])
    g.outputs = [v]
    return schedule(form_regions(g), lambda region: "").launches


def tuned_for(some: list[Launch], nth: int = 0) -> Tuned:
    out = Tuned()
    for l in some:
        c = TARGET.candidates(l.region)[nth]
        out.choices[l.region.signature()] = Choice(c.tactic, c.params, "measured", 1e-6)
    return out


class Asked:
    """In the place of the device."""

    def __init__(self, *answers: early.Answer | None) -> None:
        self.answers = list(answers)
        self.codes: Mapping[str, str] = {}

    def __call__(self, trials: in_place.Trials, codes: Mapping[str, str]) -> early.Answer | None:
        self.codes = codes
        return self.answers.pop(0)


def decided(some: list[Launch], cache: TimingCache, ask: Asked, target: CudaTarget = TARGET, level: int = 3,
            nth: int = 0) -> EarlyLaunch | None:
    out = tuned_for(some, nth)
    early.decide(some, {}, target, cache, level, out, lambda p: None, ask)
    assert chosen(target, out) == replace(target, early=out.early is not None and out.early.used)
    return out.early


def test_children_compile_and_one_times_unless_that_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    tests = str(Path(__file__).parents[1])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([tests, os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setattr(cuda, "WORKER", "tuning.fake_gpu")
    monkeypatch.setattr(cuda, "cores", lambda: 1)
    some = launches()
    with cuda.children(TARGET):
        monkeypatch.setitem(early.BUDGET, 3, 1e-3)
        out = tuned_for(some)
        cuda.launch_early(some, {}, TARGET, TimingCache(), 3, out, lambda p: None)
        assert out.early is None
        assert "4 kernels were not compiled" in out.notes[0]
        monkeypatch.setitem(early.BUDGET, 3, 30.0)
        cuda.launch_early(some, {}, TARGET, TimingCache(), 3, out, lambda p: None)
        assert out.early == EarlyLaunch(True, 20e-6, 15e-6)


@pytest.mark.parametrize(("answer", "used"), [
    ((100e-6, 98e-6, ""), True), ((100e-6, 99.5e-6, ""), False), ((100e-6, 120e-6, ""), False),
    ((100e-6, None, "wrong: the results of a matmul differ"), False), ((None, None, "it does not compile"), False)])
def test_the_faster_form_is_taken_and_known_the_next_time(answer: early.Answer, used: bool) -> None:
    some, cache = launches(), TimingCache()
    for ask in (Asked(answer), Asked()):
        assert decided(some, cache, ask) == EarlyLaunch(used, *answer)


def test_both_forms_of_each_kernel_are_compiled_once() -> None:
    ask = Asked((1.0, 0.9, ""))
    decided(launches(), TimingCache(), ask)
    recipes = [recipe_of(c) for c in ask.codes.values()]
    assert len(recipes) == 4, "of three launches two are equal, and each has two forms"
    assert sum(bool(r.options.get("launch_pdl")) for r in recipes) == 2


def test_a_segment_with_other_choices_is_measured_itself() -> None:
    some, cache = launches(), TimingCache()
    assert decided(some, cache, Asked((1.0, 0.9, ""))) == EarlyLaunch(True, 1.0, 0.9)
    assert decided(some, cache, Asked((1.0, 1.1, "")), nth=1) == EarlyLaunch(False, 1.0, 1.1)
    assert decided(launches((16, 8)), cache, Asked((1.0, 1.2, ""))) == EarlyLaunch(False, 1.0, 1.2)


def test_what_could_not_be_measured_is_off_and_asked_again() -> None:
    some, cache = launches(), TimingCache()
    assert decided(some, cache, Asked(None)) is None
    assert decided(some, cache, Asked((1.0, 0.9, ""))) == EarlyLaunch(True, 1.0, 0.9)


def test_nothing_is_measured_without_a_gpu_that_can_or_time() -> None:
    some = launches()
    for target, level in ((TARGET, 0), (TARGET, 1), (replace(TARGET, gpu=typical((9, 0))), 3),
                          (replace(TARGET, gpu=replace(TARGET.gpu, capability=(8, 0))), 3)):
        assert decided(some, TimingCache(), Asked(), target, level) is None
    assert decided(some[:1], TimingCache(), Asked()) is None


def test_only_what_can_be_launched_early_is_changed() -> None:
    region = launches()[0].region
    c = TARGET.candidates(region)[0]
    old = replace(TARGET, gpu=replace(TARGET.gpu, capability=(8, 0)))
    assert replace(old, early=True).implement(region, c.tactic, c.params).steps == \
        old.implement(region, c.tactic, c.params).steps
    assert CudaTarget.of_record(replace(TARGET, early=True).recorded()).early
    assert not CudaTarget.of_record(TARGET.recorded()).early


@pytest.fixture
def plan(monkeypatch: pytest.MonkeyPatch) -> Plan:
    """A plan for sm_90 whose kernels were found to be faster when they are launched early."""
    pytest.importorskip("triton")

    def refine(launches: object, dims: object, target: object, cache: object, level: object, tuned: Tuned,
               progress: object) -> None:
        tuned.early = EarlyLaunch(True, 20e-6, 15e-6)

    monkeypatch.setattr(builder, "refine", refine)
    monkeypatch.setattr(cuda, "cores", lambda: 1)
    w = [helper.make_tensor(f"w{i}", TensorProto.FLOAT, (24, 24), np.ones(576, np.float32)) for i in range(2)]
    nodes = [helper.make_node("MatMul", ["x", "w0"], ["a"]), helper.make_node("MatMul", ["a", "w1"], ["y"])]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [4, 24]) for n in "xy")
    model = helper.make_model(helper.make_graph(nodes, "g", [x], [y], w), opset_imports=[helper.make_opsetid("", 17)])
    return whet.build(model, target="cuda:sm_90", opt_level=0)


def test_a_plan_says_so_and_is_regenerated_alike(plan: Plan) -> None:
    code = plan.section(layout.CODE)
    units = [abi_cuda.unpack(code, e)[0] for e in plan.contents.steps["entry"].tolist()]
    assert len(units) == 2
    assert all(isinstance(u, abi_cuda.Cubin) and u.dependent for u in units)
    said = {"used": True, "plain_seconds": 20e-6, "early_seconds": 15e-6, "failed": ""}
    assert plan.summary()["early_launch"] == msgspec.to_builtins(plan.evidence["early_launch"]) == said
    assert ("early launch", "yes: 15.0 us with it, 20.0 us without") in inspect_plan(plan).facts
    assert regenerate(plan).section(layout.CODE) == code
