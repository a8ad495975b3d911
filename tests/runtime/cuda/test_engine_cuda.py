"""Plans on a GPU: results, shapes, host and device tensors, threads, memory, errors."""

from __future__ import annotations

import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.cuda.gpu_plans import chain, expected, kernel
from targets.cuda.on_device import device, gpu, needs_cuda
from whet.errors import DeviceMemoryError, FingerprintError, InputError, NoDeviceError, ProfileError
from whet.plan import Plan
from whet.plan.data import ArenaArg, InputArg, IntArg, NativeStep, OutputArg, WeightArg
from whet.plan.program import Tensor
from whet.runtime import Pointer
from whet.runtime.cuda.engine import CudaEngine
from whet.runtime.engine import load, load_data

pytestmark = pytest.mark.cuda


def made(*args: Any, **options: Any) -> CudaEngine:
    engine = load_data(chain(gpu(), *args, **options))
    assert isinstance(engine, CudaEngine)
    return engine


def rows(n: int, columns: int = 5, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, columns)).astype(np.float32)


@needs_cuda
def test_runs_again_and_again_on_fresh_data() -> None:
    with made() as engine:
        for seed in range(5):
            x = rows(4, seed=seed)
            np.testing.assert_array_equal(engine({"x": x})["y"], expected(x))


@needs_cuda
@pytest.mark.parametrize("pdl", [False, True])
def test_static_shapes(pdl: bool) -> None:
    objects = {"scale": kernel(gpu().number, launch_pdl=True)} if pdl else None
    with made(20, 33, 7, objects=objects) as engine, engine.context() as ctx:
        x = rows(7, 33)
        for _ in range(3):
            np.testing.assert_array_equal(ctx.run({"x": x})["y"], expected(x, 20))


@needs_cuda
def test_every_shape_of_the_profile_many_times_over() -> None:
    with made() as engine, engine.context() as ctx:
        for n in [*range(1, 65), *range(64, 0, -7), 1, 1, 2, 2]:
            x = rows(n, seed=n)
            np.testing.assert_array_equal(ctx.run({"x": x})["y"], expected(x))
        with pytest.raises(ProfileError):
            ctx.run({"x": rows(65)})


@needs_cuda
def test_what_is_not_contiguous_is_copied_and_out_is_written() -> None:
    with made() as engine, engine.context() as ctx:
        x, y = rows(5, 4).T, np.empty((4, 5), np.float32)
        assert ctx.run({"x": x}, {"y": y})["y"] is y
        np.testing.assert_array_equal(y, expected(x))


@needs_cuda
def test_branches_run_on_several_streams() -> None:
    """x -> eight branches of two steps each -> the last sums nothing but reads one: the graph must join them all."""
    size, steps, after = 4 * 64 * 5, [], []
    for k in range(8):
        a, b = ArenaArg(2 * k * size), ArenaArg((2 * k + 1) * size)
        steps.append(NativeStep("scale", (InputArg(0), WeightArg("w"), a, IntArg(5)), 64, 1, f"a{k}"))
        after.append([])
        steps.append(NativeStep("scale", (a, WeightArg("w"), b, IntArg(5)), 64, 1, f"b{k}"))
        after.append([len(steps) - 2])
    for k in range(8):
        steps.append(NativeStep("scale", (ArenaArg((2 * k + 1) * size), WeightArg("w"), OutputArg(k), IntArg(5)), 64,
                                1, f"c{k}"))
        after.append([2 * k + 1] + ([len(steps) - 2] if k else []))
    data = chain(gpu(), steps, 5, 64, arena_bytes=16 * size,
                 outputs=[Tensor(f"y{k}", "float32", [64, 5]) for k in range(8)])
    program = data.programs[0]
    segment = replace_struct(program.segments[0], after=after)
    data.programs = [replace_struct(program, segments=[segment])]
    with load_data(data) as engine, engine.context() as ctx:
        for seed in range(3):
            x = rows(64, seed=seed)
            for y in ctx.run({"x": x}).values():
                np.testing.assert_array_equal(y, expected(x))
        assert len({p.lane for p in ctx.bind(0, 0, {}).places}) == 4


def replace_struct(s: Any, **changes: Any) -> Any:
    import msgspec

    return msgspec.structs.replace(s, **changes)


@needs_cuda
def test_threads_and_contexts() -> None:
    wrong: list[str] = []
    with made() as engine:
        before = engine.device_bytes

        def work(k: int) -> None:
            try:
                with engine.context() as ctx:
                    for i in range(40):
                        x = rows(1 + (k + i) % 9, seed=100 * k + i)
                        if not np.array_equal(ctx.run({"x": x})["y"], expected(x)):
                            wrong.append(f"{k} {i}")
            except Exception as e:
                wrong.append(repr(e))

        threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert not wrong
        assert engine.device_bytes == before


@needs_cuda
def test_submitted_runs_overlap_and_stay_apart() -> None:
    with made(columns=1000, high=512) as engine, engine.context() as ctx:
        xs = [rows(1 + 61 * k % 512, 1000, seed=k) for k in range(60)]
        futures = [ctx.submit({"x": x}) for x in xs]
        direct = ctx.run({"x": xs[0]})["y"]
        for x, f in zip(xs, futures):
            np.testing.assert_array_equal(f.result(20)["y"], expected(x))
        np.testing.assert_array_equal(direct, expected(xs[0]))
        bad = ctx.submit({"z": xs[0]})
        with pytest.raises(InputError):
            bad.result(20)
        y = np.empty_like(xs[3])
        assert ctx.submit({"x": xs[3]}, {"y": y}).result(20)["y"] is y
        np.testing.assert_array_equal(y, expected(xs[3]))


@needs_cuda
def test_device_arrays_come_out_and_go_in() -> None:
    with made() as engine, engine.context() as ctx:
        x = rows(6)
        y = ctx.run({"x": x}, device=True)["y"]
        assert y.__dlpack_device__() == (2, 0)
        z = ctx.run({"x": y}, device=True)["y"]
        again = [ctx.run({"x": y})["y"] for _ in range(3)]
        np.testing.assert_array_equal(y.numpy(), expected(x))
        for got in (np.asarray(z), *again):
            np.testing.assert_array_equal(got, expected(expected(x)))


@needs_cuda
def test_torch_tensors_go_in_and_out_without_copies() -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("PyTorch without CUDA")
    with made() as engine, engine.context() as ctx:
        x = torch.randn(6, 5, device="cuda")
        want = expected(x.cpu().numpy())
        out = torch.zeros_like(x)
        for _ in range(4):
            out.zero_()
            assert ctx.run({"x": x}, {"y": out})["y"] is out
            np.testing.assert_array_equal(out.cpu().numpy(), want)
        taken = torch.from_dlpack(ctx.run({"x": x}, device=True)["y"])
        assert taken.is_cuda
        np.testing.assert_array_equal(taken.cpu().numpy(), want)
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            results = []
            for k in range(20):
                y = ctx.run({"x": x + k}, device=True, stream=stream)["y"]
                results.append(torch.from_dlpack(y) + 1)
            stream.synchronize()
        for k, r in enumerate(results):
            np.testing.assert_array_equal(r.cpu().numpy(), expected(x.cpu().numpy() + np.float32(k)) + 1)
        go = ctx.runner([x], [out])
        out.zero_()
        torch.cuda.synchronize()
        go()
        np.testing.assert_array_equal(out.cpu().numpy(), want)
        with pytest.raises(InputError, match="contiguous"):
            ctx.run({"x": torch.randn(5, 6, device="cuda").T})


@needs_cuda
def test_runner_on_host_arrays() -> None:
    with made() as engine, engine.context() as ctx:
        x, y = rows(4), np.empty((4, 5), np.float32)
        go = ctx.runner([x], [y])
        for seed in range(3):
            x[...] = rows(4, seed=seed)
            go()
            np.testing.assert_array_equal(y, expected(x))


@needs_cuda
def test_pointers_are_checked() -> None:
    d = device()
    with made() as engine, engine.context() as ctx:
        x, memory = rows(4), d.allocate(80, "x")
        with d.current():
            d.check(d.api.cuMemcpyHtoD(memory.address, x.ctypes.data, 80), "in")
        good = Pointer(memory.address, (4, 5), "float32", device=0)
        np.testing.assert_array_equal(ctx.run({"x": good})["y"], expected(x))
        with pytest.raises(InputError, match="does not know"):
            ctx.run({"x": Pointer(x.ctypes.data, (4, 5), "float32", device=0)})
        pinned = d.pinned(80)
        with pytest.raises(InputError, match="host"):
            ctx.run({"x": Pointer(pinned.address, (4, 5), "float32", device=0)})
        with pytest.raises(InputError, match="GPU 3"):
            ctx.run({"x": Pointer(memory.address, (4, 5), "float32", device=3)})
        with pytest.raises(InputError, match="overlaps"):
            ctx.run({"x": good}, {"y": good})
        np.testing.assert_array_equal(ctx.run({"x": x})["y"], expected(x))


@pytest.mark.alone
@needs_cuda
def test_ten_thousand_runs_take_no_more_memory() -> None:
    d = device()
    with made() as engine, engine.context() as ctx:
        xs = [rows(n) for n in range(1, 13)]
        for x in xs * 3:
            ctx.run({"x": x})
        ctx.run({"x": xs[0]}, device=True)
        free = d.memory()[0]
        for i in range(10_000):
            ctx.run({"x": xs[i % 12]}, device=i % 50 == 0)
        assert free - d.memory()[0] <= 4 << 20
    assert engine.device_bytes == 0


@pytest.mark.alone
@needs_cuda
def test_closing_gives_all_memory_back() -> None:
    d = device()
    data = chain(gpu(), weights={"w": np.arange(5, dtype=np.float32), "big": np.zeros(64 << 20, np.uint8)})
    load_data(data).close()
    before = d.memory()[0]
    for _ in range(3):
        engine = load_data(data)
        ctx = engine.context()
        ctx.run({"x": rows(3)})
        assert before - d.memory()[0] > 60 << 20
        del ctx, engine  # without close: garbage
    import gc

    gc.collect()
    assert before - d.memory()[0] < 8 << 20


@needs_cuda
def test_weights_of_any_size_arrive() -> None:
    big = np.random.default_rng(0).integers(0, 255, (37 << 20) + 5, dtype=np.uint8)
    data = chain(gpu(), weights={"big": big, "w": np.arange(5, dtype=np.float32)})
    with load_data(data) as engine:
        assert isinstance(engine, CudaEngine)
        got = np.empty_like(big)
        d = engine.device
        with d.current():
            d.check(d.api.cuMemcpyDtoH(got.ctypes.data, engine._weights.address, got.nbytes), "out")
        np.testing.assert_array_equal(got, big)


@pytest.mark.alone
@needs_cuda
def test_no_room_for_the_weights_at_load() -> None:
    d = device()
    free = d.memory()[0]
    hog = d.allocate(free - (512 << 20), "a test")
    data = chain(gpu(), weights={"w": np.arange(5, dtype=np.float32), "big": np.zeros(600 << 20, np.uint8)})
    try:
        with pytest.raises(DeviceMemoryError, match="weights") as e:
            load_data(data)
        assert "it takes 601 MiB" in e.value.why
        assert "free" in e.value.why
    finally:
        hog.close()


@needs_cuda
def test_no_room_for_the_activations() -> None:
    with made(arena_bytes=1 << 45) as engine, pytest.raises(DeviceMemoryError, match="activations") as e:
        engine.context()
    assert f"it takes {1 << 25} MiB" in e.value.why
    assert engine.device_bytes == 0


@needs_cuda
def test_a_plan_for_another_gpu_and_a_gpu_that_is_not_there(tmp_path: Path) -> None:
    data = chain(gpu())
    assert data.device is not None
    other = replace(data, device=replace_struct(data.device, name="NVIDIA Other", rebuild="whet build m.onnx"))
    with pytest.raises(FingerprintError, match="NVIDIA Other") as e:
        load_data(other)
    assert "whet build m.onnx" in e.value.do
    path = tmp_path / "m.plan"
    Plan.from_data(data).save(path)
    with pytest.raises(NoDeviceError, match="GPU 9"):
        load(path, device=9)
    with load(path, device=0) as engine:
        np.testing.assert_array_equal(engine({"x": rows(2)})["y"], expected(rows(2)))


@needs_cuda
def test_times_of_steps() -> None:
    with made(3) as engine, engine.context() as ctx:
        x = rows(4)
        results, times = ctx.timed({"x": x})
        np.testing.assert_array_equal(results["y"], expected(x))
        assert [t.label for t in times] == ["layer0", "layer1", "layer2"]
        assert all(0 < t.seconds < 1 for t in times)


LOST = """
import sys, numpy as np
sys.path[:0] = {paths!r}
from runtime.cuda.gpu_plans import chain, kernel
from targets.cuda.on_device import gpu
from whet.errors import LostDeviceError
from whet.plan.data import IntArg, InputArg, NativeStep, OutputArg, WeightArg, ArenaArg
from whet.runtime.engine import load_data
good = load_data(chain(gpu()))
x = np.zeros((4, 5), np.float32)
ctx = good.context()
ctx.run(dict(x=x))
# A unit whose columns run far beyond all memory of the input.
bad = load_data(chain(gpu(), [NativeStep("scale", (InputArg(0), WeightArg("w"), OutputArg(0), IntArg(2**31 - 512)),
                                         4, 1, "bad")], rows=4))
said = []
for call in (lambda: bad(dict(x=x)), lambda: bad(dict(x=x)), lambda: ctx.run(dict(x=x)), lambda: good.context(),
             lambda: load_data(chain(gpu())), lambda: ctx.submit(dict(x=x)).result(5)):
    try:
        call()
        said.append("no error")
    except LostDeviceError as e:
        said.append(e.code)
bad.close(); good.close()
print(*said, "alive")
"""


@needs_cuda
def test_a_lost_device_is_told_at_every_call_and_the_process_lives() -> None:
    paths = [p for p in sys.path if p]
    done = subprocess.run([sys.executable, "-c", LOST.format(paths=paths)], capture_output=True, text=True, timeout=120,
                          check=False)
    assert done.stdout.split() == ["W804-lost-device"] * 6 + ["alive"], done.stdout + done.stderr[-3000:]


ALONE = """
import sys, numpy as np
import whet
engine = whet.load({path!r})
y = engine(dict(x=np.ones((2, 5), np.float32)))["y"]
wrong = sorted({{m.split(".")[0] for m in sys.modules}} & {{"torch", "triton", "llvmlite", "onnx", "cupy"}})
print(y.shape, wrong)
"""


@needs_cuda
def test_a_plan_runs_without_compilers(tmp_path: Path) -> None:
    path = tmp_path / "m.plan"
    Plan.from_data(chain(gpu())).save(path)
    done = subprocess.run([sys.executable, "-c", ALONE.format(path=str(path))], capture_output=True, text=True,
                          timeout=120, check=False)
    assert done.stdout.strip() == "(2, 5) []", done.stdout + done.stderr[-3000:]
