"""Convolutions of single pixels that compute their input as they load it: x * s of each image and channel, batch norm
and ReLU."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from conv_regions import BF16, F16, F32, SM80, SM90, TOLERANCE, Chain, compiles, conv, data, error, strided
from interpreted import run
from on_device import gpu, needs_cuda
from on_device import run as run_on_device

from whet.ir.dtypes import DType
from whet.ir.expr import Apply, Expr, Imm, Leaf
from whet.ir.region import Tensor
from whet.ir.region_eval import region_reference
from whet.ir.symbolic import symbol
from whet.targets.cuda import TACTICS
from whet.targets.cuda.conv import ConvImplicit, ConvMatmul
from whet.targets.cuda.matmul import MatmulTiles
from whet.targets.cuda.matmul_persistent import MatmulPersistent
from whet.targets.cuda.matmul_rows import MatmulRows
from whet.targets.cuda.matmul_splitk import MatmulSplitK
from whet.targets.cuda.target import CudaTarget

TILES = ConvMatmul(MatmulTiles())
P = {"bm": 16, "bn": 16, "bk": 32, "warps": 4, "stages": 2, "group": 8, "order": ""}
N, H = symbol("n"), symbol("h")
DIMS = {"n": (0, 2, 5), "h": (1, 7, 20)}


def _wide(terms, i, t):
    terms.append(Leaf(i, t.dtype))
    if t.dtype in (F16, BF16):
        terms.append(Apply("cast", (len(terms) - 1,), F32, (("to", F32),)))
    return len(terms) - 1


def excited(region, dtype=F16, s=None):
    """x * s[n, 1.., c]."""
    x = region.inputs[0]
    s = s or Tensor.dense(dtype, (x.shape[0], *[1] * (len(x.shape) - 2), x.shape[-1]))
    terms: list = []
    a, b = _wide(terms, 0, x), _wide(terms, len(region.inputs), s)
    terms.append(Apply("mul", (a, b), terms[a].dtype))
    return replace(region, inputs=(*region.inputs, s), prologue={0: Expr(tuple(terms))})


def activated(region, dtype=F32):
    """relu(x * scale[c] + shift[c]) + 0.5: not 0 where x is, as it is behind a mask."""
    c, k = region.inputs[0].shape[-1], len(region.inputs)
    more = Tensor.dense(dtype, (c,), const=True), Tensor.dense(dtype, (1, 1, c), const=True)
    terms: list = []
    at = _wide(terms, 0, region.inputs[0])
    for i, (op, t) in enumerate(zip(("mul", "add"), more, strict=True)):
        other = _wide(terms, k + i, t)
        terms.append(Apply(op, (at, other), F32))
        at = len(terms) - 1
    terms += [Apply("relu", (at,), F32), Imm(0.5, F32), Apply("add", (at + 1, at + 2), F32)]
    return replace(region, inputs=(*region.inputs, *more), prologue={0: Expr(tuple(terms))})


def check(runner, tactic, region, params=None, env=None, machine=SM90, arrays=None):
    reason = tactic.applies(region, machine)
    assert not reason, reason
    params = params or next(iter(tactic.space(region, machine, 1)))
    arrays = arrays or data(region, env)
    got = runner(region, tactic.implement(region, params, machine, 1), arrays, env)[0]
    (want,) = region_reference(region, arrays, env)
    np.testing.assert_array_equal(np.isfinite(got), np.isfinite(want))
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    inside = np.isfinite(want)
    limit = 1e-3 if region.compute == "tf32" else max(TOLERANCE[region.output.dtype], 3e-6)
    assert error(got[inside], want[inside]) <= limit, params


def rich(region):
    return Chain(region).per_channel("mul").residual(gap=3).unary("silu").done()


CASES = [  # region, values of names
    ("squeeze and excite", excited(rich(conv((3, 5, 7, 40), 21, (1, 1), bias=True))), None),
    ("one image", excited(rich(conv((1, 7, 7, 37), 24, (1, 1)))), None),
    ("one pixel", excited(conv((5, 1, 1, 32), 24, (1, 1))), None),
    ("scale in f32", excited(conv((2, 4, 4, 32), 16, (1, 1)), F32), None),
    ("batch norm and relu", activated(rich(conv((2, 5, 3, 40), 33, (1, 1), gap=8))), None),
    ("batch norm in f16", activated(conv((2, 5, 3, 19), 17, (1, 1)), F16), None),
    ("bf16", excited(conv((2, 3, 5, 33), 17, (1, 1), dtype=BF16), BF16), None),
    ("f32", activated(conv((2, 3, 5, 33), 17, (1, 1), dtype=F32)), None),
    ("f32 into f16", activated(conv((2, 3, 5, 33), 17, (1, 1), dtype=F32, w_dtype=F16, compute="f16", out=F16)), None),
    ("tf32", excited(conv((2, 3, 5, 33), 17, (1, 1), dtype=F32, compute="tf32"), F32), None),
    ("f64", excited(conv((2, 3, 5, 9), 7, (1, 1), dtype=DType.F64), DType.F64), None),
    ("strides", excited(conv((2, 5, 6, 32), 17, (1, 1), strides=(2, 3))), None),
    ("strides of a map", excited(conv((2, 5, 6, 32), 17, (1, 1), strides=(2, 3)), s=strided(F16, (2, 5, 6, 1), 3)),
     None),
    ("1-D", excited(conv((3, 17, 8), 5, (1,), bias=True)), None),
    ("symbolic", excited(conv((N, H, 5, 24), 9, (1, 1), dims=DIMS)), {"n": 3, "h": 4}),
    ("symbolic, one", activated(conv((N, H, 5, 24), 9, (1, 1), dims=DIMS)), {"n": 1, "h": 1}),
    ("symbolic, none", excited(conv((N, H, 5, 24), 9, (1, 1), dims=DIMS)), {"n": 0, "h": 3}),
]


@pytest.mark.parametrize(("region", "env"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_types_shapes_and_strides(region, env):
    check(run, TILES, region, P, env)


@pytest.mark.parametrize(("tactic", "params"), [
    (ConvMatmul(MatmulSplitK()), {**P, "split": 2}),
    (ConvMatmul(MatmulPersistent()), {**P, "blocks": False, "programs": 3}),
    (ConvMatmul(MatmulRows()), {"rows": 4, "bn": 16, "bk": 128, "warps": 4, "order": "nk"})],
    ids=["split depth", "persistent", "rows"])
@pytest.mark.parametrize("make", [excited, activated])
def test_every_product_of_ours_takes_it(tactic, params, make):
    region = make(rich(conv((1, 6, 5, 70), 20, (1, 1))))
    arrays = data(region)
    got = run(region, tactic.implement(region, params, SM90, 1), arrays)[0]
    assert error(got, region_reference(region, arrays)[0]) <= TOLERANCE[F16]


def test_nan_and_infinity_stay_where_they_are_met():
    region = excited(conv((2, 3, 5, 19), 17, (1, 1)))
    arrays = data(region)
    arrays[0][0, 1, 1, 3], arrays[0][1, 2, 0, 0], arrays[2][1, 0, 0, 7] = np.nan, np.inf, np.inf
    check(run, TILES, region, P, arrays=arrays)
    region = activated(conv((2, 3, 5, 19), 17, (1, 1)))
    arrays = data(region)
    arrays[0][0, 1, 1, 3], arrays[0][1, 2, 0, 0] = np.nan, -np.inf
    check(run, TILES, region, P, arrays=arrays)


def test_libraries_windows_and_few_pixels_leave_it_to_products():
    region = excited(conv((2, 6, 6, 32), 16, (1, 1)))
    assert "on load" in ConvImplicit().applies(region, SM90)
    why = {t.name: t.applies(region, replace(SM90, live=True, libraries={"cublas": "1", "cudnn": "1"}))
           for t in TACTICS["conv"]}
    assert {k for k, v in why.items() if not v} == {"conv_matmul_tiles"}, why
    assert "on load" in why["conv_cublaslt"]
    padded = excited(conv((2, 6, 6, 32), 16, (1, 1), pads=(1, 1, 1, 1)))
    assert CudaTarget(SM90).accepts(padded), "padding is zero after the prologue, not before"
    weights = conv((2, 6, 6, 32), 16, (1, 1))
    other = replace(weights, prologue={1: Expr((Leaf(1, F16),))})
    assert "on load" in TILES.applies(other, SM90)


@pytest.mark.parametrize("region", [
    excited(rich(conv((32, 14, 14, 480), 112, (1, 1)))), excited(conv((1, 7, 7, 1152), 320, (1, 1))),
    activated(conv((1, 28, 28, 256), 128, (1, 1))), excited(conv((N, H, H, 24), 17, (1, 1), dims=DIMS))],
    ids=["a batch", "an image", "batch norm", "symbolic"])
def test_compiles(region):
    compiles(TILES, region, (SM80, SM90))


@needs_cuda
@pytest.mark.parametrize(("region", "env"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_on_the_gpu(region, env):
    check(run_on_device, TILES, region, None, env, gpu())


@needs_cuda
@pytest.mark.parametrize("region", [excited(rich(conv((3, 14, 13, 240), 80, (1, 1)))),
                                    activated(rich(conv((1, 28, 27, 256), 128, (1, 1))))], ids=["excited", "activated"])
def test_every_setting_on_the_gpu(region):
    for tactic in TACTICS["conv"]:
        if not tactic.applies(region, gpu()):
            for params in tactic.space(region, gpu(), 1):
                check(run_on_device, tactic, region, params, machine=gpu())
