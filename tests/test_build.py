"""Whole builds, on the demo's model: repeatable, stoppable, for less than this machine, used from many threads."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from onnx import helper, numpy_helper

import whet
from whet import demo
from whet.frontends import load_model
from whet.ir import interpret
from whet.measure import centred_error
from whet.plan import Plan
from whet.targets.cpu.isa import host
from whet.tuning.cache import TimingCache

LIMITS = {"fp32": 1e-4, "bf16": 5e-2}
SHAPE = (1, 8, 8)
PROFILE = {"image": ((1, *SHAPE), (2, *SHAPE), (24, *SHAPE))}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    f = tmp_path_factory.mktemp("build")
    (f / "digits.onnx").write_bytes(demo.model_bytes())
    (f / "small.onnx").write_bytes(small_model())
    return f


def small_model() -> bytes:
    """A convolution and a product, which are tuned sooner than the demo's model."""
    rng = np.random.default_rng(0)
    weights = {"w": rng.standard_normal((4, 1, 3, 3)), "v": rng.standard_normal((4 * 36, 10))}
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "w"], ["c"]), helper.make_node("Relu", ["c"], ["r"]),
         helper.make_node("Flatten", ["r"], ["f"]), helper.make_node("MatMul", ["f", "v"], ["logits"])], "small",
        [helper.make_tensor_value_info("image", 1, ["batch", *SHAPE])],
        [helper.make_tensor_value_info("logits", 1, ["batch", 10])],
        [numpy_helper.from_array(w.astype(np.float32), name) for name, w in weights.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return demo.test_set()[0]


@pytest.fixture(scope="module")
def logits(images: np.ndarray) -> np.ndarray:
    return interpret(load_model(demo.model_bytes()), {"image": images})["logits"]


def build(precision: str = "fp32", model: bytes | None = None, **options: Any) -> Plan:
    return whet.build(model or demo.model_bytes(), precision=precision, profiles=[PROFILE],
                      **{"opt_level": 0, "timing_cache": TimingCache(), "threads": 2, **options})


def how(plan: Plan) -> set[str]:
    """Where the choices of the plan's kernels come from."""
    return {e["how"] for e in plan.evidence["tuning"]}


@pytest.mark.parametrize("precision", LIMITS)
@pytest.mark.parametrize("isa", ["host", "avx2"])
def test_agrees_with_the_reference(isa: str, precision: str, images: np.ndarray, logits: np.ndarray) -> None:
    if host().arch != "x86_64" and isa != "host":
        pytest.skip("x86 only")
    plan = build(precision, isa=isa)
    if isa == "avx2":
        assert plan.summary()["target"]["isa"] == "avx2"
        assert plan.summary()["precision"]["compute"] == "fp32", "AVX2 has no bf16 products"
    with whet.load(plan) as engine:
        for n in (1, 3, 24):
            found = engine({"image": images[:n]})["logits"]
            assert centred_error(found, logits[:n]) < LIMITS[plan.summary()["precision"]["compute"]]


def test_one_engine_from_eight_threads(images: np.ndarray, logits: np.ndarray) -> None:
    with whet.load(build()) as engine:
        def work(seed: int) -> float:
            rng, worst = np.random.default_rng(seed), 0.0
            with engine.context() as context:
                for _ in range(25):
                    first, n = int(rng.integers(0, 500)), int(rng.integers(1, 25))
                    found = context.run({"image": images[first:first + n]})["logits"]
                    worst = max(worst, centred_error(found, logits[first:first + n]))
            return worst

        with ThreadPoolExecutor(8) as pool:
            assert max(pool.map(work, range(8))) < LIMITS["fp32"]


def test_same_inputs_and_timing_cache_give_the_same_plan(folder: Path) -> None:
    assert "measured" in how(build(model=small_model(), opt_level=1, timing_cache=folder / "timing.json"))
    code = ("import sys, whet, json; p = whet.build(sys.argv[1], opt_level=1, timing_cache=sys.argv[2], threads=2,"
            "profiles=[json.loads(sys.argv[4])]); p.save(sys.argv[3])")
    bodies = []
    for seed in ("1", "2"):
        out = folder / f"{seed}.plan"
        subprocess.run([sys.executable, "-c", code, folder / "small.onnx", folder / "timing.json", out,
                        json.dumps(PROFILE)],
                       env={**os.environ, "PYTHONHASHSEED": seed}, check=True, timeout=120)
        plan = Plan.open(out)
        assert how(plan) <= {"cache", "model"}
        bodies.append(out.read_bytes()[:plan.contents.body_bytes])
    assert bodies[0] == bodies[1]


def test_dump_writes_the_graph_after_each_pass_numbered(folder: Path) -> None:
    build(dump=folder / "dump")
    names = sorted(p.name for p in (folder / "dump").iterdir())
    assert len(names) > 10
    numbers = [int(n.split("-")[0].split("_")[0]) for n in names]
    assert numbers == sorted(numbers)
    assert all((folder / "dump" / n).stat().st_size for n in names)


def test_ctrl_c_keeps_what_was_measured_and_leaves_no_process(folder: Path) -> None:
    cache = folder / "stopped.json"
    started = subprocess.Popen(
        [sys.executable, "-m", "whet.cli.main", "build", folder / "digits.onnx", "-o", folder / "stopped.plan",
         "--opt-level", "2", "--timing-cache", cache], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))  # a background job ignores it
    try:
        until = time.monotonic() + 100
        while not cache.exists() and started.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
        assert started.poll() is None, "the build was over before it could be stopped"
        children = psutil.Process(started.pid).children(recursive=True)
        started.send_signal(signal.SIGINT)
        _, said = started.communicate(timeout=60)
    finally:
        started.kill()
    assert started.returncode == 130
    assert "timing cache" in said
    assert "Traceback" not in said
    assert not (folder / "stopped.plan").exists()
    assert not [p for p in folder.iterdir() if p.name.startswith(".")], "a temporary file was left"
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive
    learnt = TimingCache.open(cache)
    assert learnt.entries
    assert all(e.trials[0].seconds for e in learnt.entries.values())


def test_a_complete_cache_needs_no_place_to_write(folder: Path) -> None:
    complete = TimingCache()
    assert "measured" in how(build(model=small_model(), opt_level=1, timing_cache=complete))
    complete.path = Path("/proc/nowhere/timing.json")
    complete.dirty = False
    assert how(build(model=small_model(), opt_level=1, timing_cache=complete)) <= {"cache", "model"}


@pytest.mark.models
@pytest.mark.filterwarnings("ignore::FutureWarning")  # of PyTorch's exporter
def test_a_torch_module_is_built_from_example_inputs() -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Flatten(),
                                 torch.nn.Linear(8 * 25, 7)).eval()
    x = torch.randn(2, 3, 5, 5)
    plan = whet.build(module, (x,), opt_level=0, timing_cache=TimingCache())
    with whet.load(plan) as engine, torch.no_grad():
        (name,) = engine.inputs
        (found,) = engine({name: x.numpy()}).values()
        assert centred_error(found, module(x).numpy()) < LIMITS["fp32"]
