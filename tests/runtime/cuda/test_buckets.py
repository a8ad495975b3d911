"""Shape buckets: which sizes there are, and that runs of every size give what runs of the exact size would, by the
graphs of a few. On a driver that is played; `test_buckets_cuda.py` has the same on a GPU."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from runtime.cuda import played
from runtime.cuda.gpu_plans import chain, expected
from whet.errors import InputError, ProfileError
from whet.plan.program import Tensor
from whet.runtime import Pointer
from whet.runtime.cuda import buckets, code, driver, warm
from whet.runtime.cuda.engine import CudaEngine
from whet.runtime.engine import load_data


@pytest.mark.parametrize(("profile", "made"), [
    ((1, 4, 16), (1, 2, 4, 8, 16)), ((1, 24, 100), (1, 2, 4, 8, 16, 24, 32, 64, 100)), ((5, 5, 5), (5,)),
    ((0, 1, 3), (0, 1, 2, 3)), ((3, 3, 4), (3, 4))])
def test_sizes_are_powers_of_two_and_what_the_profile_names(profile: tuple[int, int, int], made: Any) -> None:
    assert buckets.sizes(*profile) == made


@pytest.mark.parametrize("high", [1, 1000, 4096, 10**6, 2**31])
def test_there_are_few_sizes_and_one_for_every_number(high: int) -> None:
    made = buckets.sizes(1, max(1, high // 3), high)
    assert len(made) <= buckets.MOST
    assert made[0] == 1
    assert made[-1] == high
    b = buckets.Buckets({"n": (1, 1, high), "m": (1, 2, 9)}, ["n"])
    for n in {1, high, high // 2 + 1, min(high, 77)}:
        up = b.up({"n": n, "m": 7})
        assert up["m"] == 7
        assert n <= up["n"] <= high


def test_the_optimum_is_the_first_of_all() -> None:
    b = buckets.Buckets({"n": (1, 3, 4), "m": (2, 2, 9), "k": (1, 5, 8)}, ["n", "m"])
    made = list(b.all())
    assert made[0] == {"n": 3, "m": 2, "k": 5}
    assert len(made) == len({tuple(e.items()) for e in made}) == b.kept == 4 * 4


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> driver.Device:
    """A GPU that is played, which is opened instead of a real one."""
    d = played.device()
    monkeypatch.setattr(driver.Device, "open", staticmethod(lambda index=0: d))
    monkeypatch.setattr(code.Code, "unit", lambda self, offset: played.Scale(d.api))
    monkeypatch.setattr(d, "pointer", lambda address: (2, 0), raising=False)
    monkeypatch.setattr(warm, "SECONDS", 60.0)  # on a busy machine the graphs of all sizes may take longer than usual
    return d


def engine(independent: bool = True, columns: int = 5, **options: Any) -> CudaEngine:
    data = chain(played.GPU, 3, columns, **options)
    if independent:
        data.programs = [msgspec.structs.replace(p, independent=["batch"]) for p in data.programs]
    made = load_data(data)
    assert isinstance(made, CudaEngine)
    return made


def rows(n: int, columns: int = 5) -> np.ndarray:
    return np.random.default_rng(n).standard_normal((n, columns)).astype(np.float32)


def lent(x: np.ndarray) -> Pointer:
    """An array as memory of the GPU, which is the host's."""
    return Pointer(x.ctypes.data, x.shape, "float32", device=0)


SIZES = [1, 3, 64, 5, 33, 17, 4, 2, 63, 9, 1, 32]


def test_every_size_by_the_graphs_that_a_context_is_made_with(gpu: driver.Device) -> None:
    with engine() as e, e.context() as ctx:
        made, alone = gpu.api.graphs, gpu.api.launched
        assert made == len(buckets.sizes(1, 4, 64)) == 7
        held = e.device_bytes
        for n in SIZES:
            y = ctx.run({"x": rows(n)})["y"]
            np.testing.assert_array_equal(y, expected(rows(n)))
            assert y.flags.owndata
        assert (gpu.api.graphs, gpu.api.launched) == (made, alone)
        assert e.device_bytes == held
        with pytest.raises(ProfileError):
            ctx.run({"x": rows(65)})


def test_shapes_that_take_turns_take_the_short_way(gpu: driver.Device, monkeypatch: pytest.MonkeyPatch) -> None:
    with engine() as e, e.context() as ctx:
        for n in SIZES:
            ctx.run({"x": rows(n)})
        with monkeypatch.context() as patch:
            patch.setattr(ctx, "general", None)
            for n in SIZES:
                np.testing.assert_array_equal(ctx.run({"x": rows(n)})["y"], expected(rows(n)))
        with pytest.raises(InputError, match="float64"):
            ctx.run({"x": rows(3).astype(np.float64)})
        with pytest.raises(InputError, match="3, 4"):
            ctx.run({"x": rows(3, 4)})


def test_what_is_not_captured_at_once_is_when_it_comes(gpu: driver.Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm, "SECONDS", -1.0)
    with engine() as e, e.context() as ctx:
        assert gpu.api.graphs == 1
        for _ in range(2):
            for n in SIZES:
                np.testing.assert_array_equal(ctx.run({"x": rows(n)})["y"], expected(rows(n)))
        assert gpu.api.graphs == 7


def test_tensors_on_the_device_are_copied_into_the_bucket(gpu: driver.Device) -> None:
    with engine() as e, e.context() as ctx:
        made = gpu.api.graphs
        for n in (3, 5, 33, 3):
            before = gpu.api.moves
            x, y = rows(n), np.full((n + 1, 5), 7, np.float32)
            got = ctx.run({"x": lent(x)}, {"y": lent(y[:n])})["y"]
            assert isinstance(got, Pointer)
            np.testing.assert_array_equal(y[:n], expected(x))
            assert (y[n] == 7).all(), "nothing is written behind it"
            assert gpu.api.moves == before + 2, "one copy in, one out"
            there = ctx.run({"x": lent(x)}, device=True)["y"]
            assert there.shape == (n, 5)
            np.testing.assert_array_equal(there.numpy(), expected(x))
            np.testing.assert_array_equal(ctx.run({"x": lent(x)})["y"], expected(x))
        assert gpu.api.graphs == made


def test_tensors_of_a_buckets_size_are_used_in_place(gpu: driver.Device) -> None:
    x = np.zeros((4 + 4, 5), np.float32).reshape(-1)
    x = x[(-x.ctypes.data % 16) // 4 :][: 4 * 5].reshape(4, 5)
    x[...] = rows(4)
    with engine() as e, e.context() as ctx:
        for _ in range(3):
            np.testing.assert_array_equal(ctx.run({"x": lent(x)})["y"], expected(x))
        before = gpu.api.moves
        np.testing.assert_array_equal(ctx.run({"x": lent(x)})["y"], expected(x))
        assert gpu.api.moves == before


def test_out_on_the_host_and_submitted_runs(gpu: driver.Device) -> None:
    with engine() as e, e.context() as ctx:
        y = np.empty((3, 5), np.float32)
        assert ctx.run({"x": rows(3)}, {"y": y})["y"] is y
        np.testing.assert_array_equal(y, expected(rows(3)))
        with pytest.raises(InputError):
            ctx.run({"x": rows(3)}, {"y": np.empty((4, 5), np.float32)})
        futures = [(n, ctx.submit({"x": rows(n)})) for n in SIZES * 2]
        for n, f in futures:
            np.testing.assert_array_equal(f.result(10)["y"], expected(rows(n)))
        x, out = rows(6), np.empty((6, 5), np.float32)
        go = ctx.runner([x], [out])
        go()
        np.testing.assert_array_equal(out, expected(x))


def test_a_plan_without_independent_dimensions_runs_at_exact_shapes(gpu: driver.Device) -> None:
    with engine(independent=False) as e, e.context() as ctx:
        assert gpu.api.graphs == 1
        for n in SIZES:
            np.testing.assert_array_equal(ctx.run({"x": rows(n)})["y"], expected(rows(n)))
        fit = ctx.fit(0, {"batch": 3})  # type: ignore[attr-defined]
        assert fit.inputs[0].shape == (3, 5)
        assert fit is fit.bound


def test_places_that_grow_are_forgotten(gpu: driver.Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph's inputs must not be written where they have been before there was more room."""
    monkeypatch.setattr(warm, "ROOM", 0)
    monkeypatch.setattr(warm, "SECONDS", -1.0)
    with engine() as e, e.context() as ctx:
        np.testing.assert_array_equal(ctx.run({"x": rows(3)})["y"], expected(rows(3)))
        x = rows(64)
        ctx.run({"x": lent(x)}, device=True)
        np.testing.assert_array_equal(ctx.run({"x": rows(3)})["y"], expected(rows(3)))


def test_inputs_without_the_dimension_keep_their_place(gpu: driver.Device) -> None:
    inputs = [Tensor("x", "float32", [[[1, ["batch"]]], 5]), Tensor("z", "float32", [2, 2])]
    with engine(inputs=inputs) as e, e.context() as ctx:
        z = rows(2, 2)
        for n in (3, 4, 33):
            x = rows(n)
            for given in (z, lent(z)):
                for _ in range(3):
                    np.testing.assert_array_equal(ctx.run({"x": lent(x), "z": given})["y"], expected(x))


def test_no_rows_at_all(gpu: driver.Device) -> None:
    with engine(dims={"batch": (0, 2, 8)}) as e, e.context() as ctx:
        for n in (0, 3, 0, 1):
            np.testing.assert_array_equal(ctx.run({"x": rows(n)})["y"], expected(rows(n)))
