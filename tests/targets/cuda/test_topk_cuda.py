"""The greatest and least elements, and non-maximum suppression, on GPUs: the reference's choice and order."""

from __future__ import annotations

import interpreted
import numpy as np
import pytest
from movement_regions import H100, compiles, movement, strided, values

from whet.ir.dtypes import DType
from whet.ir.region import Region, Tensor
from whet.ir.region_eval import region_reference
from whet.ir.symbolic import symbol
from whet.targets.cuda.compile import to_object
from whet.targets.cuda.nms import Nms
from whet.targets.cuda.topk import TopK

F = DType.F32
SORT, BLOCKS, COUNT = {"method": "sort", "block": 256}, {"method": "sort", "block": 16}, {"method": "count"}


def check(r: Region, x: np.ndarray, params=SORT, env=None) -> None:
    got = interpreted.run(r, TopK().implement(r, params, H100, 1), [x], env)
    want = region_reference(r, [x], env)
    np.testing.assert_array_equal(got[1], want[1])
    assert got[0].tobytes() == want[0].tobytes()


def topk(x: Tensor, k, axis=-1, largest=True, **more) -> Region:
    return movement("topk", [x], {"k": k, "axis": axis, "largest": largest}, **more)


@pytest.mark.parametrize(("params", "largest"), [(SORT, True), (BLOCKS, True), (BLOCKS, False), (COUNT, False)],
                         ids=str)
@pytest.mark.parametrize(("shape", "k", "axis"), [
    ((1,), 1, 0), ((3, 60), 5, 1), ((3, 33), 33, 1), ((7, 2, 3), 3, 0), ((2, 5), 0, 1), ((0, 5), 2, 1)])
def test_any_axis(shape, k, axis, largest, params):
    check(topk(Tensor.dense(F, shape), k, axis, largest), values(F, shape), params)


@pytest.mark.parametrize("d", [d for d in DType if d.is_float or d.is_integer], ids=lambda d: d.value)
def test_every_type(d):
    x = values(d, (2, 40))
    if d.is_integer:
        ends = np.iinfo(d.np)
        x[0] = np.random.default_rng(1).integers(ends.min, ends.max, 40, d.np, endpoint=True)
        x[1, 7], x[1, 9] = ends.min, ends.max
    for largest in (False, True) if d in (F, DType.I64) else (d.is_signed,):
        r = topk(Tensor.dense(d, x.shape), 20, 1, largest)
        for params in ((COUNT,) if d.size == 8 else (BLOCKS, COUNT)):
            check(r, x, params)
    assert next(p["method"] for p in TopK().space(r, H100, 1)) == ("count" if d.size == 8 else "sort")


@pytest.mark.parametrize("params", [SORT, BLOCKS, COUNT], ids=str)
def test_of_equal_elements_the_first_is_taken(params):
    x = np.random.default_rng(0).integers(0, 3, (4, 70)).astype(np.float32)
    x[1], x[2] = -np.inf, np.where(x[2] > 1, -0.0, 0.0)
    x[3, ::3] = np.nan
    for k in (1, 70):
        for largest in (False, True):
            check(topk(Tensor.dense(F, x.shape), k, 1, largest), x, params)


@pytest.mark.parametrize("params", [SORT, BLOCKS, COUNT], ids=str)
def test_strides_and_symbolic_sizes(params):
    check(topk(strided(F, (4, 50), 53), 7), values(F, (4, 50)), params)
    check(topk(Tensor(F, (4, 50), (1, 4)), 7, output=strided(F, (4, 7), 9)), values(F, (4, 50)), params)
    b, s = symbol("b"), symbol("s")
    most = 140 if params is BLOCKS else 256
    r = topk(Tensor.dense(F, (b, s, 3)), (s + 1) // 2, 1, dims={"b": (0, 2, 9), "s": (0, 16, most)})
    for n, w in ((1, 1), (0, 3), (1, 131), (2, 0)):
        check(r, values(F, (n, w, 3)), params, {"b": n, "s": w})


def test_it_compiles():
    compiles(topk(Tensor.dense(DType.F16, (4, 60)), 5), [90])
    r = topk(Tensor.dense(F, (1, symbol("n"))), 100, dims={"n": (100, 5000, 100000)})
    for number, step in zip((80, 90), TopK().implement(r, BLOCKS, H100, 1).steps, strict=True):
        assert to_object(step.kernel.code, number)
    compiles(nms(1, 80, 8400, 100), [90])


SCALAR = Tensor.dense(F, ())


def nms(batch, classes, n, capacity, center=False, boxes=None, scores=None, **more) -> Region:
    return movement("nms", [boxes or Tensor.dense(F, (batch, n, 4)), scores or Tensor.dense(F, (batch, classes, n)),
                            Tensor.dense(DType.I64, ()), SCALAR, SCALAR], {"capacity": capacity, "center": center},
                    **more)


def boxes_of(batch, n, seed=0):
    """Boxes that overlap much, their corners in any order."""
    rng = np.random.default_rng(seed)
    a = rng.random((batch, n, 2)) * 4
    return np.concatenate([a, a + rng.uniform(-1, 1, a.shape)], -1).astype(np.float32)


def suppress(r: Region, boxes, scores, limit, overlap, least, env=None) -> None:
    xs = [boxes, scores, np.array(limit, np.int64), np.array(overlap, np.float32), np.array(least, np.float32)]
    got = interpreted.run(r, Nms().implement(r, {"block": 16}, H100, 1), xs, env)
    for g, w in zip(got, region_reference(r, xs, env), strict=True):
        np.testing.assert_array_equal(g, w)


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize(("batch", "classes", "n", "capacity"), [
    (1, 1, 1, 1), (2, 2, 17, 17), (1, 1, 40, 5), (1, 1, 0, 0), (0, 2, 5, 3)])
def test_boxes_that_the_reference_takes(batch, classes, n, capacity, center):
    scores = np.random.default_rng(2).random((batch, classes, n)).astype(np.float32)
    suppress(nms(batch, classes, n, capacity, center), boxes_of(batch, n), scores, capacity, 0.3, 0.2)


@pytest.mark.parametrize(("limit", "overlap", "least"), [
    (-3, 0.5, 0.0), (4, 0.5, 0.0), (99, 0.0, -np.inf), (99, 0.5, 2.0)])
def test_limit_and_thresholds(limit, overlap, least):
    scores = np.random.default_rng(3).integers(-3, 4, (1, 1, 30)).astype(np.float32) / 2
    scores[0, 0, ::7] = np.nan
    suppress(nms(1, 1, 30, 30), boxes_of(1, 30), scores, limit, overlap, least)


def test_scores_by_box_as_detectors_give_them_and_numbers_known_at_run_time():
    n, c = symbol("n"), 2
    boxes, scores = Tensor(F, (2, n, 4), (n * (4 + c), 4 + c, 1)), Tensor(F, (2, c, n), (n * (4 + c), 1, 4 + c))
    r = nms(2, c, n, 8, boxes=boxes, scores=scores, dims={"n": (0, 50, 300)})
    for size in (0, 17):
        rows = np.random.default_rng(6).random((2, size, 4 + c)).astype(np.float32)
        suppress(r, rows[..., :4], rows[..., 4:].transpose(0, 2, 1), 8, 0.3, 0.2, {"n": size})
