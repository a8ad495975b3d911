"""Movement on a real GPU: every kind, its settings, sizes of models, awkward sizes, symbolic ones."""

from __future__ import annotations

import numpy as np
import pytest
from movement_regions import check, indices, movement, strided, values
from on_device import needs_cuda, run

from whet.ir.dtypes import DType
from whet.ir.ops_resize import COORDINATES
from whet.ir.region import Region, Tensor
from whet.ir.symbolic import symbol

F, H, I64 = DType.F32, DType.F16, DType.I64
N, M = symbol("n"), symbol("m")
DIMS = {"n": (0, 40, 5000), "m": (0, 16, 3000)}


def finite(d: DType, shape, seed=0) -> np.ndarray:
    x = values(d, shape, seed)
    return np.where(np.isfinite(x.astype(np.float64)), x, 1).astype(d.np)


def on_gpu(r: Region, arrays, env=None, tolerance=0.0, most=2) -> None:
    check(r, arrays, env, tolerance, most, run)


@needs_cuda
@pytest.mark.parametrize("d", [DType.U8, H, F, I64], ids=lambda d: d.value)
def test_gathers(d):
    for shape, of, axis in (((3000, 768), (2, 128), 0), ((37, 129), (5,), 0), ((5, 70, 9), (4, 3), 1),
                            ((6,), (1000,), 0)):
        r = movement("gather", [Tensor.dense(d, shape), Tensor.dense(I64, of)], {"axis": axis})
        on_gpu(r, [values(d, shape), indices(of, shape[axis])])
    i = indices((5, 33, 17), 33)
    r = movement("gather_elements", [Tensor.dense(d, (5, 33, 17)), Tensor.dense(I64, (5, 33, 17))], {"axis": 1})
    on_gpu(r, [values(d, (5, 33, 17)), i], most=2)
    r = movement("gather_nd", [Tensor.dense(d, (5, 33, 17)), Tensor.dense(I64, (40, 2))], {})
    on_gpu(r, [values(d, (5, 33, 17)), np.stack([indices((40,), 5), indices((40,), 33)], -1)], most=2)


@needs_cuda
def test_gathers_of_symbolic_and_strided_data():
    r = movement("gather", [Tensor.dense(H, (N, 64)), Tensor.dense(I64, (2, M))], {"axis": 0}, dims=DIMS)
    for n, m in ((1, 1), (4999, 2999), (0, 0), (5, 1000)):
        i = indices((2, m), n) if n else np.zeros((2, m), np.int64)
        on_gpu(r, [values(H, (n, 64)), i], {"n": n, "m": m}, most=2)
    r = movement("gather", [strided(F, (8, 19), 24), Tensor(I64, (4, 3), (1, -4))], {"axis": 1},
                 output=Tensor(F, (8, 4, 3), (12, 3, 1)))
    on_gpu(r, [values(F, (8, 19)), indices((4, 3), 19)])


@needs_cuda
@pytest.mark.parametrize("mode", ["constant", "reflect", "edge", "wrap"])
def test_pads(mode):
    for d, shape, pads in ((H, (2, 14, 14, 64), (0, 1, 2, 0, 0, 3, 1, 0)), (F, (3, 5, 7), (1, 2, 3, 0, 4, 5)),
                           (DType.U8, (2, 5), (9, 12, 8, 11)), (DType.U64, (2000,), (1500, 700))):
        on_gpu(movement("pad", [Tensor.dense(d, shape)], {"pads": pads, "mode": mode, "value": 3}), [values(d, shape)])
    r = movement("pad", [Tensor.dense(F, (N, 3, M))], {"pads": (1, 0, 2, 0, 2, N), "mode": mode}, dims=DIMS)
    on_gpu(r, [values(F, (40, 3, 7))], {"n": 40, "m": 7}, most=2)


@needs_cuda
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("kind", ["max", "average", "lp"])
def test_pools(kind, last):
    for d, shape, kernel, more, tolerance in (
            (H, (2, 64, 56, 56), (3, 3), {"strides": (2, 2), "pads": (1, 1, 1, 1)}, 2e-3),
            (F, (1, 33, 7, 7), (7, 7), {}, 3e-6), (F, (2, 3, 4, 5, 6), (3, 2, 3), {"pads": (1, 0, 1, 1, 1, 0)}, 3e-6),
            (DType.BF16, (1, 5, 40, 40), (13, 11), {"dilations": (2, 1), "pads": (3, 5, 9, 5)}, 8e-3),
            (DType.F64, (1, 2, 300), (7,), {"pads": (2, 3)}, 1e-13)):
        for p in ((1, 2, 3) if kind == "lp" else (2,)):
            if last:
                shape = (shape[0], *shape[2:], shape[1])
            at = {"kind": kind, "kernel": kernel, "channels_last": last, "p": p, **more}
            on_gpu(movement("pool", [Tensor.dense(d, shape)], at), [values(d, shape)], tolerance=tolerance,
                   most=5 if shape[1] == 33 else 1)
            if last:
                shape = (shape[0], shape[-1], *shape[1:-1])
    if kind != "lp":
        at = {"kind": kind, "kernel": (3, 3), "pads": (1, 1, 1, 1), "channels_last": last}
        shape = (N, 9, M, 7) if not last else (N, M, 7, 9)
        r = movement("pool", [Tensor.dense(F, shape)], at, dims={"n": (0, 2, 9), "m": (1, 9, 90)})
        for n, m in ((2, 1), (3, 31), (0, 5)):
            on_gpu(r, [values(F, (n, 9, m, 7) if not last else (n, m, 7, 9))], {"n": n, "m": m}, 3e-6, 2)


@needs_cuda
@pytest.mark.parametrize("d", [DType.I8, DType.U8, DType.I32, DType.U64, DType.I16], ids=lambda d: d.value)
def test_maxima_of_integers(d):
    for kernel in ((3, 3), (6, 6)):
        at = {"kind": "max", "kernel": kernel, "pads": (1, 1, 1, 1)}
        on_gpu(movement("pool", [Tensor.dense(d, (1, 3, 19, 19))], at), [values(d, (1, 3, 19, 19))], most=1)


@needs_cuda
@pytest.mark.parametrize("reduction", ["none", "add", "mul", "max", "min"])
def test_scatters(reduction):
    for d in (F, H, DType.U8):
        tolerance = {F: 1e-5, H: 1e-3}.get(d, 0.0)
        r = movement("scatter_nd", [Tensor.dense(d, (50, 33)), Tensor.dense(I64, (700, 1)), Tensor.dense(d, (700, 33))],
                     {"reduction": reduction})
        u = np.ones((700, 33), d.np) if reduction == "mul" else values(d, (700, 33), 2)
        if reduction == "add":
            u = finite(d, (700, 33), 2)
        on_gpu(r, [values(d, (50, 33)), indices((700, 1), 50), u], tolerance=tolerance, most=1)
    for axis in (0, 1, 2):
        of = [4, 6, 17]
        of[axis] = 150
        x, u = Tensor.dense(F, (4, 6, 17)), Tensor.dense(F, tuple(of))
        i = Tensor.dense(DType.I32, tuple(of))
        r = movement("scatter_elements", [x, i, u], {"axis": axis, "reduction": reduction})
        arrays = [finite(F, x.shape), indices(of, x.shape[axis], DType.I32), finite(F, of, 7) / 2]
        on_gpu(r, arrays, tolerance=1e-5, most=1)
    r = movement("scatter_nd", [Tensor.dense(F, (N, M)), Tensor.dense(I64, (M, 2)), Tensor.dense(F, (M,))],
                 {"reduction": reduction}, dims=DIMS)
    for n, m in ((4, 3000), (1, 1), (0, 0), (7, 5)):
        i = np.stack([indices((m,), n), indices((m,), m)], -1) if n and m else np.zeros((m, 2), np.int64)
        on_gpu(r, [finite(F, (n, m)), i, finite(F, (m,), 3)], {"n": n, "m": m}, 1e-5, 1)


@needs_cuda
@pytest.mark.parametrize("kind", ["cumsum", "cumprod"])
def test_running_sums_and_products(kind):
    for d, tolerance in ((F, 1e-4), (H, 2e-2), (DType.F64, 1e-11), (I64, 0), (DType.U8, 0), (DType.U32, 0)):
        for shape, axis in (((3, 5000), 1), ((700, 33), 0)):
            for exclusive, reverse in ((axis == 0, axis == 0),):
                r = movement(kind, [Tensor.dense(d, shape)], {"axis": axis, "exclusive": exclusive, "reverse": reverse})
                x = finite(d, shape) if kind == "cumsum" else np.ones(shape, d.np)
                on_gpu(r, [x], tolerance=tolerance * 10, most=4 if d is F else 1)
    r = movement(kind, [Tensor.dense(F, (N, M))], {"axis": 1}, dims=DIMS)
    for n, m in ((4, 3000), (1, 1), (0, 3), (7, 0)):
        on_gpu(r, [np.ones((n, m), np.float32)], {"n": n, "m": m}, 0, 2)


@needs_cuda
@pytest.mark.parametrize("largest", [True, False])
def test_topk(largest):
    for d in (F, H, DType.BF16, DType.I8, DType.U32, I64, DType.F64, DType.U64):
        for shape, k, axis in (((5, 1000), 7, 1), ((64, 33), 33, 0), ((2, 3000), 3000, 1)):
            r = movement("topk", [Tensor.dense(d, shape)], {"k": k, "axis": axis, "largest": largest})
            on_gpu(r, [values(d, shape)], most=3 if d is F and k == 7 else 1)
    r = movement("topk", [Tensor.dense(F, (1, 100000))], {"k": 100, "axis": 1, "largest": largest})
    on_gpu(r, [np.round(values(F, (1, 100000)), 2)])
    r = movement("topk", [Tensor.dense(F, (N, M))], {"k": (M + 1) // 2, "axis": 1, "largest": largest}, dims=DIMS)
    for n, m in ((4, 3000), (1, 1), (0, 3), (7, 0)):
        on_gpu(r, [values(F, (n, m))], {"n": n, "m": m})


@needs_cuda
def test_non_maximum_suppression():
    rng = np.random.default_rng(0)
    for n, classes, capacity in ((1, 1, 1), (3000, 5, 200), (77, 2, 77)):
        a = rng.random((2, n, 2)) * 40
        boxes = np.concatenate([a, a + rng.uniform(-9, 9, a.shape)], -1).astype(np.float32)
        scores = rng.random((2, classes, n)).astype(np.float32)
        s = Tensor.dense(F, ())
        for center in (False, True):
            tensors = [Tensor.dense(F, boxes.shape), Tensor.dense(F, scores.shape), Tensor.dense(I64, ()), s, s]
            r = movement("nms", tensors, {"capacity": capacity, "center": center})
            on_gpu(r, [boxes, scores, np.array(150), np.float32(0.3), np.float32(0.1)])


@needs_cuda
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_resizes(mode):
    for coordinate in COORDINATES:
        r = movement("resize", [Tensor.dense(F, (1, 5, 8, 20))],
                     {"shape": (1, 5, 13, 35), "mode": mode, "coordinate": coordinate})
        on_gpu(r, [finite(F, (1, 5, 8, 20))], tolerance=3e-6, most=1)
        r = movement("resize", [Tensor.dense(F, (1, N, M, 20))],
                     {"shape": (1, 2 * N, 13, 20), "mode": mode, "coordinate": coordinate}, dims=DIMS)
        on_gpu(r, [finite(F, (1, 5, 8, 20))], {"n": 5, "m": 8}, 3e-6, 1)
    for d, tolerance in ((H, 2e-3), (DType.BF16, 1e-2), (DType.F64, 1e-13), (DType.U8, 0), (DType.I32, 0)):
        r = movement("resize", [Tensor.dense(d, (1, 20, 20, 64))], {"shape": (1, 40, 31, 64), "mode": mode})
        on_gpu(r, [finite(d, (1, 20, 20, 64))], tolerance=tolerance, most=1)
    if mode != "nearest":
        for shape, out in (((2, 3, 40, 33), (2, 3, 7, 33)), ((30, 700), (30, 70))):
            r = movement("resize", [Tensor.dense(F, shape)], {"shape": out, "mode": mode, "antialias": True})
            on_gpu(r, [finite(F, shape)], tolerance=3e-6, most=2)
        r = movement("resize", [Tensor.dense(F, (N, 3))], {"shape": (M, 3), "mode": mode, "antialias": True}, dims=DIMS)
        on_gpu(r, [finite(F, (500, 3))], {"n": 500, "m": 33}, 3e-6, 1)


@needs_cuda
def test_generators_and_casts_of_bits():
    for d in (I64, DType.U8, F, H, DType.BF16, DType.F64):
        start, step = (0.25, 1.5) if d.is_float else (-3, 7)
        r = movement("iota", [], {"start": start, "step": step, "size": N, "dtype": d}, dims=DIMS)
        for n in (0, 1, 3000):
            on_gpu(r, [], {"n": n})
    on_gpu(movement("dims", [], {"values": (N, 3, N * M - 2, -7), "shape": (2, 2)}, dims=DIMS), [], {"n": 5, "m": 4})
    x = Tensor(F, (50, 33), (1, 50))
    on_gpu(movement("bitcast", [x], {"to": DType.I32}), [values(F, x.shape)])
