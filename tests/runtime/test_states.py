"""States: what a context keeps from run to run, growing in place or handed on."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import whet
from whet.errors import InputError, ProfileError

HEADS, WIDTH = 3, 8
F, I = TensorProto.FLOAT, TensorProto.INT64


def cache_model(order: tuple[str, str] = ("past", "k")) -> onnx.ModelProto:
    """x [batch, seq, H*D] -> k; present = past ++ k along 2; y = softmax(q k^T) k, q = k."""
    rng = np.random.default_rng(0)
    weights = [onnx.numpy_helper.from_array(rng.standard_normal((5, HEADS * WIDTH)).astype(np.float32), "w"),
               onnx.numpy_helper.from_array(np.array([0, 0, HEADS, WIDTH]), "heads")]
    nodes = [helper.make_node("MatMul", ["x", "w"], ["kw"]), helper.make_node("Reshape", ["kw", "heads"], ["kr"]),
             helper.make_node("Transpose", ["kr"], ["k"], perm=[0, 2, 1, 3]),
             helper.make_node("Concat", list(order), ["present"], axis=2),
             helper.make_node("Transpose", ["present"], ["kt"], perm=[0, 1, 3, 2]),
             helper.make_node("MatMul", ["k", "kt"], ["scores"]),
             helper.make_node("Softmax", ["scores"], ["p"], axis=-1),
             helper.make_node("MatMul", ["p", "present"], ["y"])]
    graph = helper.make_graph(nodes, "cache", [
        helper.make_tensor_value_info("x", F, ["batch", "seq", 5]),
        helper.make_tensor_value_info("past", F, ["batch", HEADS, "past_len", WIDTH])], [
        helper.make_tensor_value_info("y", F, ["batch", HEADS, "seq", WIDTH]),
        helper.make_tensor_value_info("present", F, ["batch", HEADS, "total", WIDTH])], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


PROFILE = {"batch": (1, 1, 3), "seq": (1, 1, 7), "past_len": (0, 10, 20)}


def build(model: onnx.ModelProto, profiles: Any = None, states: Any = None) -> whet.Plan:
    return whet.build(model, opt_level=0, threads=1, profiles=profiles or [PROFILE],
                      states=states or {"past": "present"})


def sample(batch: int, seq: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((batch, seq, 5), dtype=np.float32)


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("batch", [1, 3])
def test_a_cache_grows_over_runs_as_if_it_were_handed_in(in_place: bool, batch: int) -> None:
    """Where the new part comes first the cache cannot stay in place, and is handed on whole."""
    model = cache_model(("past", "k") if in_place else ("k", "past"))
    plain = whet.load(whet.build(model, opt_level=0, threads=1, profiles=[PROFILE]))
    plan = build(model)
    assert [s.in_place for s in plan.manifest.programs[0].states] == [in_place]
    with whet.load(plan) as engine, engine.context() as ctx:
        assert list(engine.inputs) == ["x"]
        assert list(engine.outputs) == ["y"]
        for _ in range(2):
            past = np.zeros((batch, HEADS, 0, WIDTH), np.float32)
            for i, seq in enumerate((5, 1, 1, 7, 1)):
                x = sample(batch, seq, i)
                want = plain({"x": x, "past": past})
                got = ctx.run({"x": x})
                assert list(got) == ["y"]
                np.testing.assert_allclose(got["y"], want["y"], rtol=1e-5, atol=1e-6)
                past = want["present"]
                np.testing.assert_array_equal(ctx.state("past"), past)
            ctx.reset()


def test_a_cache_in_place_stays_where_it_is() -> None:
    with whet.load(build(cache_model())) as engine, engine.context() as ctx:
        ctx.run({"x": sample(1, 3, 0)})
        buffer = ctx._states._values["past"]
        address, before = buffer.ctypes.data, buffer.copy()
        ctx.run({"x": sample(1, 1, 1)})
        assert ctx._states._values["past"].ctypes.data == address
        changed = np.nonzero((buffer != before).any(axis=(0, 1, 3)))[0]
        assert changed.tolist() == [3]  # only the new row was written


def test_contexts_have_states_of_their_own_and_a_prefix_can_be_kept() -> None:
    with whet.load(build(cache_model())) as engine:
        a, b = engine.context(), engine.context()
        first = a.run({"x": sample(1, 4, 0)})["y"]
        one = a.run({"x": sample(1, 1, 1)})["y"]
        assert np.array_equal(b.run({"x": sample(1, 4, 0)})["y"], first)
        a.run({"x": sample(1, 2, 9)})
        a.reset(4)
        assert np.array_equal(a.run({"x": sample(1, 1, 1)})["y"], one)
        with pytest.raises(InputError, match="length 9"):
            a.reset(9)


def test_two_profiles_share_one_cache() -> None:
    """A prompt runs by the first, single tokens by the second."""
    prompt = {"batch": (1, 1, 1), "seq": (2, 7, 7), "past_len": (0, 0, 20)}
    token = {"batch": (1, 1, 1), "seq": (1, 1, 1), "past_len": (0, 10, 30)}
    wide = {**PROFILE, "past_len": (0, 10, 40)}
    plain = whet.load(whet.build(cache_model(), opt_level=0, threads=1, profiles=[wide]))
    with whet.load(build(cache_model(), [prompt, token])) as engine, engine.context() as ctx:
        past = np.zeros((1, HEADS, 0, WIDTH), np.float32)
        for i, seq in enumerate((7, 1, 1, 4, *[1] * 10)):
            want = plain({"x": sample(1, seq, i), "past": past})
            past = want["present"]
            np.testing.assert_allclose(ctx.run({"x": sample(1, seq, i)})["y"], want["y"], rtol=1e-5, atol=1e-6)


def test_a_state_that_is_in_place_in_one_profile_only_is_refused() -> None:
    fixed = {"batch": (1, 1, 1), "seq": (2, 7, 7), "past_len": (0, 0, 0)}
    with pytest.raises(InputError, match="not in profile 2"):
        build(cache_model(), [PROFILE, fixed])


def test_a_full_cache_and_another_batch_are_errors_that_leave_the_state_as_it_was() -> None:
    with whet.load(build(cache_model())) as engine, engine.context() as ctx:
        for i in range(3):
            ctx.run({"x": sample(2, 7, i)})
        before = ctx.state("past")
        with pytest.raises(ProfileError, match="past_len") as e:
            ctx.run({"x": sample(2, 7, 0)})
        assert "0 to 20" in e.value.why
        ctx.reset(5)
        with pytest.raises(InputError):
            ctx.run({"x": sample(1, 1, 0)})
        assert np.array_equal(ctx.state("past"), before[:, :, :5])  # type: ignore[index]


def test_an_engine_with_states_wants_a_context() -> None:
    with whet.load(build(cache_model())) as engine, pytest.raises(InputError, match="keeps states"):
        engine({"x": sample(1, 1, 0)})


@pytest.mark.parametrize("states", [{"nobody": "present"}, {"past": "nobody"}, {"x": "present"}])
def test_states_that_the_model_lacks_are_named(states: dict[str, str]) -> None:
    with pytest.raises(InputError, match="state"):
        build(cache_model(), states=states)


def test_a_counter_is_handed_on() -> None:
    """n' = n + x: no growth, the value itself is the state; it begins as zero."""
    graph = helper.make_graph([helper.make_node("Add", ["n", "x"], ["sum"])], "counter",
                              [helper.make_tensor_value_info(n, I, [2]) for n in ("x", "n")],
                              [helper.make_tensor_value_info("sum", I, [2])])
    plan = build(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), [{}], {"n": "sum"})
    with whet.load(plan) as engine, engine.context() as ctx:
        assert ctx.state("n") is None
        for i in range(3):
            assert ctx.run({"x": np.array([1, i])}) == {}
        assert ctx.state("n").tolist() == [3, 3]  # type: ignore[union-attr]


def test_rows_of_a_cache_of_fixed_size_are_replaced_where_they_are() -> None:
    """TensorScatter writes keys at a place of each sequence; the buffer does not move, and only its rows change."""
    nodes = [helper.make_node("TensorScatter", ["cache", "x", "at"], ["cache2"], axis=1),
             helper.make_node("ReduceSum", ["cache2"], ["y"], keepdims=0)]
    graph = helper.make_graph(nodes, "scatter", [
        helper.make_tensor_value_info("x", F, ["batch", "seq", 4]), helper.make_tensor_value_info("at", I, ["batch"]),
        helper.make_tensor_value_info("cache", F, ["batch", 10, 4])], [
        helper.make_tensor_value_info("y", F, []), helper.make_tensor_value_info("cache2", F, ["batch", 10, 4])])
    plan = build(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)]),
                 [{"batch": (1, 2, 3), "seq": (1, 1, 5)}], {"cache": "cache2"})
    (state,) = plan.manifest.programs[0].states
    assert (state.in_place, state.length) == (True, "")
    want = np.zeros((2, 10, 4), np.float32)
    with whet.load(plan) as engine, engine.context() as ctx:
        for at, seq in ((0, 3), (3, 1), (4, 5), (9, 1), (2, 2)):
            x = np.random.default_rng(at).standard_normal((2, seq, 4)).astype(np.float32)
            want[:, at:at + seq] = x
            got = ctx.run({"x": x, "at": np.array([at, at])})["y"]
            np.testing.assert_allclose(got, want.sum(), rtol=1e-5, atol=1e-4)
            assert np.array_equal(ctx.state("cache"), want)  # type: ignore[arg-type]
        buffer = ctx._states._values["cache"]
        buffer[0, 7] = 77  # what no run touches stays
        ctx.run({"x": x[:, :1], "at": np.array([0, 0])})
        assert (buffer[0, 7] == 77).all()
        assert ctx._states._values["cache"] is buffer
        ctx.reset()
        assert ctx.state("cache") is None
