"""Building for GPUs without one: kernels are compiled for a capability, nothing is tuned; what is missing is named."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import whet
from whet import abi_cuda
from whet.builder import RECIPE, regenerate
from whet.errors import DeviceError, FingerprintError, InputError, MissingExtraError, UnsupportedError, WhetError
from whet.ir.region import region_from_json
from whet.ir.region_eval import region_reference
from whet.plan import Plan, layout
from whet.runtime.host import prepare
from whet.targets.cuda import device
from whet.targets.cuda import target as cuda_target
from whet.targets.cuda.gpu import typical
from whet.targets.cuda.target import CudaTarget
from whet.tuning import cuda as tuning
from whet.tuning.cache import TimingCache

pytest.importorskip("triton", reason="kernels for GPUs are compiled by Triton")
pytestmark = pytest.mark.usefixtures("own_cache")


def tiny() -> onnx.ModelProto:
    """x [n, 24] -> relu(x) @ w -> softmax, and a second branch that is added."""
    rng = np.random.default_rng(0)
    w = [helper.make_tensor(f"w{i}", TensorProto.FLOAT, (24, 24), rng.standard_normal(576).astype(np.float32))
         for i in range(2)]
    nodes = [helper.make_node("MatMul", ["x", "w0"], ["a"], "first"), helper.make_node("Relu", ["a"], ["r"], "act"),
             helper.make_node("MatMul", ["x", "w1"], ["b"], "second"), helper.make_node("Add", ["r", "b"], ["s"]),
             helper.make_node("Softmax", ["s"], ["y"], "soft", axis=-1)]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 24]) for n in ("x", "y")]
    graph = helper.make_graph(nodes, "tiny", ends[:1], ends[1:], w)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


PROFILE = [{"x": ((1, 24), (4, 24), (64, 24))}]


def build(target: str = "cuda:sm_90", **options: object) -> Plan:
    return whet.build(tiny(), target=target, timing_cache=TimingCache(), **{"profiles": PROFILE, **options})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def plan(own_cache: Path) -> Plan:
    build().save(own_cache / "tiny.plan")
    return Plan.open(own_cache / "tiny.plan")


def test_a_plan_for_a_capability_says_what_it_is_for(plan: Plan) -> None:
    built = plan.manifest.target.device
    assert built is not None
    assert (built.name, built.capability, built.uses) == ("", (9, 0), [])
    assert plan.manifest.target.isa == "sm_90"
    assert built.rebuild == "whet build MODEL.onnx -o MODEL.plan --target cuda:sm_90 --profile x:1x24..4x24..64x24"
    assert plan.summary()["steps"]["reference"] == 0
    assert "nothing was tuned" in plan.summary()["untuned"]
    assert {e["how"] for e in plan.evidence["tuning"]} == {"model"}


def test_its_steps_are_kernels_with_the_arguments_that_they_take(plan: Plan) -> None:
    code = plan.section(layout.CODE)
    for entry in plan.contents.steps["entry"].tolist():
        unit, payload = abi_cuda.unpack(code, entry)
        assert isinstance(unit, abi_cuda.Cubin)
        assert bytes(payload[:4]) == b"\x7fELF"


def test_branches_that_do_not_need_each_other_do_not_wait(plan: Plan) -> None:
    (segment,) = plan.manifest.programs[0].segments
    assert segment.after is not None
    assert len(segment.after) == segment.count


def test_it_is_no_plan_for_this_machine_without_a_gpu(plan: Plan) -> None:
    if device.visible():
        pytest.skip("there is a GPU")
    with pytest.raises((DeviceError, FingerprintError, MissingExtraError)):
        whet.load(plan)


def test_what_was_compiled_before_is_not_compiled_again(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("a kernel is compiled again")

    before = plan.section(layout.CODE)
    start = time.perf_counter()
    objects = tuning.store.folder()
    known = {p: p.stat().st_mtime_ns for p in objects.glob("*/*")}
    again = build()
    assert again.section(layout.CODE) == before
    assert set(objects.glob("*/*")) == set(known)
    assert time.perf_counter() - start < 20
    monkeypatch.setattr(tuning, "Crew", never)
    assert regenerate(plan).section(layout.CODE) == before


def test_a_damaged_object_on_the_disk_is_made_anew(plan: Plan) -> None:
    made = CudaTarget(typical((9, 0)))
    launch = json.loads(plan.blob(RECIPE))["launches"][0]
    step = made.implement(region_from_json(launch["region"]), launch["tactic"], launch["params"]).steps[0]
    assert tuning.store.get(made, step.kernel.code) is not None
    path = tuning.store._path(made, step.kernel.code)
    path.write_bytes(path.read_bytes()[:-1])
    assert tuning.store.get(made, step.kernel.code) is None
    assert tuning.compile_all({step.kernel.symbol: step.kernel.code}, made)
    assert tuning.store.get(made, step.kernel.code) is not None


def test_same_cc_plans_name_no_gpu_and_call_no_library() -> None:
    built = build(hardware_compat="same-cc").manifest.target.device
    assert built is not None
    assert (built.compat, built.libraries, built.uses) == ("same-cc", {}, [])
    assert "--hardware-compat same-cc" in built.rebuild
    gpu = typical((9, 0))
    live = CudaTarget(gpu.__class__(**{**vars(gpu), "name": "NVIDIA H100", "live": True, "libraries": {"cudnn": "9"}}),
                      "same-cc")
    assert live.machine.libraries == {}
    assert live.fields()["device"]["name"] == ""


def test_a_region_without_a_kernel_runs_on_the_host_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    fewer = {k: v for k, v in cuda_target.TACTICS.items() if k != "softmax"}
    monkeypatch.setattr(cuda_target, "TACTICS", fewer)
    plan = build()
    summary = plan.summary()
    assert summary["steps"]["reference"] == 1
    (layer,) = [l for l in summary["layers"] if l["tactic"] == "reference"]
    assert layer["reason"] == "no tactic for softmax"
    (host,) = [s for s in plan.manifest.programs[0].blocks[0].steps if type(s).__name__ == "Host"]
    assert host.kind == "region"
    region = region_from_json(json.loads(plan.blob(host.payload)))
    x = np.random.default_rng(1).standard_normal((5, 24), np.float32)
    (got,) = prepare("region", plan.blob(host.payload), host.label)([x])
    np.testing.assert_array_equal(got, region_reference(region, [x])[0])


def test_a_kernel_that_does_not_compile_gives_way_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model's first choice may want more than there is."""
    small = CudaTarget(typical((9, 0)).__class__(**{**vars(typical((9, 0))), "shared_bytes": 20000}))
    monkeypatch.setattr("whet.pipeline._cuda", lambda target, compat: small)
    built = build(profiles=[{"x": ((1, 24), (4, 24), (64, 24))}])
    code = built.section(layout.CODE)
    units = [abi_cuda.unpack(code, e)[0] for e in built.contents.steps["entry"].tolist()]
    assert all(isinstance(u, abi_cuda.Cubin) and u.shared <= 20000 for u in units)


@pytest.mark.parametrize(("target", "kind"), [
    ("cuda:sm_12", InputError), ("cuda:gpu", InputError), ("cuda:sm_", InputError), ("tpu", UnsupportedError)])
def test_targets_that_are_none_are_refused(target: str, kind: type[WhetError]) -> None:
    with pytest.raises(kind) as e:
        build(target)
    assert e.value.do


def test_compatibility_is_a_matter_of_gpus() -> None:
    with pytest.raises(InputError, match="it speaks of GPUs"):
        build("cpu", hardware_compat="same-cc")
    with pytest.raises(InputError, match="exact, same-cc"):
        build(hardware_compat="any")


def test_this_machines_gpu_where_there_is_none_is_a_clear_error() -> None:
    if device.visible():
        pytest.skip("there is a GPU")
    with pytest.raises(WhetError) as e:
        build("cuda")
    assert "--target cuda:sm_90" in e.value.do
    assert device.live() is None


def test_without_triton_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WHET_CACHE", str(tmp_path))
    monkeypatch.setattr(tuning.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="Triton") as e:
        build()
    assert "whet[cuda]" in e.value.do
