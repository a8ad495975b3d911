"""The lowerings of computed sizes, axes and parameters as generated kernels: what onnx.reference gives, also for
tensors without elements."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

import whet
from whet.tuning.cache import TimingCache

F, I, B = np.float32, np.int64, np.bool_
node = helper.make_node
rng = np.random.default_rng(11)


def ints(*v: int) -> np.ndarray:
    return np.array(v, I)


def floats(*shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(F)


def check(nodes: list[onnx.NodeProto], runs: list[dict[str, np.ndarray]], free: str = "") -> None:
    """One plan gives what onnx.reference does on all these inputs; the dimensions of inputs named in `free` vary."""
    shown = runs[0]
    infos = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype),
                                           [f"{n}{i}" for i in range(a.ndim)] if n in free else a.shape)
             for n, a in shown.items()]
    outputs = [onnx.ValueInfoProto(name=o) for o in nodes[-1].output]
    m = helper.make_model(helper.make_graph(nodes, "test", infos, outputs),
                          opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    profiles = [{f"{n}{i}": (0, 4, 64) for n, a in shown.items() if n in free for i in range(a.ndim)}] if free else None
    plan = whet.build(m, opt_level=0, threads=1, profiles=profiles, timing_cache=TimingCache())
    assert plan.summary()["steps"]["reference"] == 0
    with whet.load(plan) as engine:
        for feeds in runs:
            want = ReferenceEvaluator(m).run(None, feeds)
            for got, w in zip(engine(feeds).values(), want, strict=True):
                assert (got.dtype, got.shape) == (w.dtype, w.shape)
                np.testing.assert_allclose(got, w, rtol=1e-4, atol=1e-5)


def test_slices() -> None:
    n = [node("Slice", ["x", "s", "e", "a", "k"], ["y"])]
    x = floats(7, 5)
    check(n, [{"x": x, "s": ints(*s), "e": ints(*e), "a": ints(0, -1), "k": ints(*k)} for s, e, k in (
        ((1, 0), (6, 9), (2, 1)), ((-1, 4), (-9, 0), (-3, -1)), ((5, 3), (5, 2), (1, 1)), ((0, -3), (7, -1), (1, 1)))])


def test_slices_by_known_steps_are_views() -> None:
    n = [node("Slice", ["x", "s", "e"], ["v"]), node("Add", ["v", "v"], ["y"])]
    check(n, [{"x": floats(*shape), "s": ints(*s), "e": ints(*e)} for shape, s, e in (
        ((7, 5), (1, 0), (6, 9)), ((3, 4), (-2, 2), (9, -1)), ((0, 4), (0, 1), (5, 3)), ((6, 6), (3, 3), (3, 1)))], "x")


def test_a_view_of_a_tensor_without_elements() -> None:
    nodes = [node("Relu", ["x"], ["r"]), node("Split", ["r"], ["a", "b"], axis=1, num_outputs=2),
             node("Concat", ["b", "a"], ["y"], axis=1)]
    check(nodes, [{"x": floats(*s)} for s in ((3, 4), (0, 4), (2, 0))], "x")


def test_reshapes_expansions_and_tiles() -> None:
    check([node("Reshape", ["x", "s"], ["v"]), node("Neg", ["v"], ["y"])],
          [{"x": floats(4, 6), "s": ints(*s)} for s in ((-1, 8), (3, 8), (24, 1), (0, -1))])
    check([node("Expand", ["x", "s"], ["y"])],
          [{"x": floats(3, 1), "s": ints(*s)} for s in ((2, 3, 5), (1, 1, 4), (1, 3, 0))])
    check([node("Tile", ["x", "r"], ["y"])], [{"x": floats(2, 3), "r": ints(*r)} for r in ((2, 3), (1, 1), (0, 2))])


@pytest.mark.parametrize("dtype", [np.int32, I, F])
def test_ranges(dtype: Any) -> None:
    check([node("Range", ["a", "b", "c"], ["y"])],
          [dict(zip("abc", (np.array(v, dtype) for v in r))) for r in ((0, 9, 2), (5, -4, -3), (3, 3, 1), (9, 2, 1))])


def test_pads() -> None:
    for mode in ("constant", "edge", "reflect"):
        check([node("Pad", ["x", "p"], ["y"], mode=mode)],
              [{"x": floats(4, 5), "p": ints(*p)} for p in ((1, 0, 2, 3), (0, 0, 0, 0), (3, 2, 0, 1))])
    check([node("Pad", ["x", "p", "v"], ["y"])],
          [{"x": floats(2, 0), "p": ints(*p), "v": np.array(2, F)} for p in ((0, 1, 1, 2), (0, 0, 0, 0))])


def test_splits() -> None:
    check([node("Split", ["x", "s"], ["a", "b", "c"], axis=1)],
          [{"x": floats(3, 7), "s": ints(*s)} for s in ((2, 4, 1), (0, 7, 0), (3, 0, 4))])


@pytest.mark.parametrize("op", ["ReduceSum", "ReduceMean", "ReduceMax", "ReduceLogSumExp", "ReduceL2"])
@pytest.mark.parametrize("keep", [0, 1])
def test_reductions(op: str, keep: int) -> None:
    check([node(op, ["x", "a"], ["y"], keepdims=keep)],
          [{"x": floats(3, 4, 5), "a": ints(*a)} for a in ((0, 2), (1, -1), (2, 0))])
    check([node(op, ["x", "a"], ["y"], keepdims=keep)], [{"x": floats(3, 4), "a": ints(a)} for a in (0, 1, -1)])


def test_reductions_of_nothing() -> None:
    check([node("ReduceSum", ["x", "a"], ["y"])],
          [{"x": floats(*s), "a": ints(1)} for s in ((2, 3), (2, 0), (0, 3))], "x")


def test_axes() -> None:
    check([node("CumSum", ["x", "a"], ["y"])], [{"x": floats(3, 4), "a": np.array(a, I)} for a in (0, 1, -2)])
    check([node("Squeeze", ["x", "a"], ["y"])], [{"x": floats(1, 3, 1), "a": ints(a)} for a in (0, 2, -1)])
    check([node("Unsqueeze", ["x", "a"], ["y"])],
          [{"x": floats(3, 2), "a": ints(*a)} for a in ((0, 1), (3, 0), (-1, 1))])


def test_numbers_of_things() -> None:
    check([node("TopK", ["x", "k"], ["v", "i"])], [{"x": floats(3, 6), "k": ints(k)} for k in (1, 6, 0)])
    check([node("OneHot", ["i", "d", "v"], ["y"])],
          [{"i": ints(0, 3, -1), "d": np.array(d, I), "v": np.array([1, 5], F)} for d in (4, 7)])
    check([node("Trilu", ["x", "k"], ["y"])], [{"x": floats(4, 5), "k": np.array(k, I)} for k in (0, -2, 9)])


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_resizes(mode: str) -> None:
    check([node("Resize", ["x", "", "s"], ["y"], mode=mode)],
          [{"x": floats(1, 2, 5, 6), "s": np.array(s, F)} for s in ((1, 1, 1.5, 2), (1, 1, 0.6, 1), (1, 1, 1, 1))])
    check([node("Resize", ["x", "", "", "s"], ["y"], mode=mode)],
          [{"x": floats(1, 2, 5, 6), "s": ints(*s)} for s in ((1, 2, 8, 3), (1, 2, 5, 6), (1, 2, 1, 1))])


def test_what_is_not_zero() -> None:
    check([node("NonZero", ["x"], ["i"]), node("Transpose", ["i"], ["t"]), node("GatherND", ["x", "t"], ["y"])],
          [{"x": (rng.random(s) < 0.4) * floats(*s)} for s in ((3, 4), (5, 1), (0, 7), (6, 0), (9, 9))], "x")
    check([node("Compress", ["x", "c"], ["v"], axis=0), node("Relu", ["v"], ["y"])],
          [{"x": floats(4, 3), "c": np.array(c)} for c in ([True, False, True, True], [False] * 4, [True] * 4)])


def test_what_is_unique() -> None:
    check([node("Unique", ["x"], ["v", "first", "inverse", "count"])],
          [{"x": rng.integers(0, 5, n).astype(F)} for n in (1, 9, 40)], "x")


def test_boxes_are_suppressed_scored_and_sorted() -> None:
    nodes = [node("NonMaxSuppression", ["boxes", "scores", "limit", "overlap", "least"], ["taken"]),
             node("GatherND", ["scores", "taken"], ["score"]), node("Shape", ["score"], ["n"]),
             node("TopK", ["score", "n"], ["sorted", "order"]), node("Gather", ["taken", "order"], ["y"])]
    runs = []
    for n, limit in ((40, 10), (40, 0), (40, 99)):
        low = rng.random((2, n, 2)) * 4
        runs.append({"boxes": np.concatenate([low, low + rng.random((2, n, 2))], -1).astype(F),
                     "scores": rng.random((2, 3, n)).astype(F), "limit": np.array([limit], I),
                     "overlap": np.array([0.3], F), "least": np.array([0.4], F)})
    check(nodes, runs)
