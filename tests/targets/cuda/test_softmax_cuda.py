"""Softmax on GPUs: any axis, length and layout; rows in registers and rows that are walked over."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from targets.cuda import interpreted, on_device
from targets.cuda.rows_cases import H100, B, D, F, H, added, check, compiles, dense, order
from whet.ir.expr import ANCHOR, Apply, Expr, Leaf
from whet.ir.region import Region, Tensor
from whet.ir.region_eval import region_reference
from whet.ir.symbolic import symbol
from whet.targets.cuda.softmax import Softmax

n = symbol("n")


def softmax(x: Tensor, axis: int = -1, log: bool = False, out: Tensor | None = None, **dims) -> Region:
    out = out or Tensor.dense(x.dtype, x.shape)
    return Region("softmax", {"axis": axis, "log": log}, (x,), 1, out, Tensor.dense(x.dtype, x.shape), dims=dims)


TO_HALF = Expr((Leaf(ANCHOR, D), Apply("cast", (0,), H, (("to", H),))))
CASES = {
    "rows": softmax(dense(F, 5, 33)),
    "one": softmax(dense(F, 3, 1)),
    "one row": softmax(dense(H, 100)),
    "log": softmax(dense(F, 4, 129), log=True),
    "halves": softmax(dense(H, 2, 3, 20)),
    "bf16": softmax(dense(B, 2, 3, 20), log=True),
    "doubles": softmax(dense(D, 7, 19)),
    "doubles to halves": replace(softmax(dense(D, 7, 19)), epilogue=TO_HALF, output=dense(H, 7, 19)),
    "another axis": softmax(dense(F, 3, 10, 40), 1),
    "first axis": softmax(dense(F, 10, 40), 0, log=True),
    "channels last": softmax(order(dense(F, 2, 6, 5, 4), 0, 2, 3, 1), 1, out=order(dense(F, 2, 6, 5, 4), 0, 2, 3, 1)),
    "a part": softmax(Tensor(F, (4, 9), (20, 1))),
    "fused": added(softmax(dense(F, 6, 24))),
    "fused halves": added(softmax(dense(H, 6, 24))),
    "symbolic": softmax(dense(F, n, n), n=(1, 16, 40)),
}


@pytest.mark.parametrize("name", CASES)
def test_right(name):
    check(Softmax(), CASES[name], interpreted.run, {"n": 37}, some=3)


@on_device.needs_cuda
@pytest.mark.parametrize("name", CASES)
def test_right_on_a_gpu(name):
    check(Softmax(), CASES[name], on_device.run, {"n": 37}, machine=on_device.gpu(), odd=True, some=8)


@on_device.needs_cuda
@pytest.mark.parametrize("r", [softmax(dense(F, 3, 50257)), softmax(dense(H, 128, 1000)), softmax(dense(F, 1000, 77)),
                               softmax(dense(H, 12, 197, 197))], ids=lambda r: str(r.inputs[0].shape))
def test_large_on_a_gpu(r):
    check(Softmax(), r, on_device.run, machine=on_device.gpu())


SPECIAL = np.array([[-np.inf] * 6, [1, 2, np.inf, 0, 0, 0], [1, np.nan, 2, 3, 4, 5], [-np.inf, 1, -np.inf, 2, 3, 4],
                    [3e38, -3e38, 0, 1, 2, 3]], np.float32)


def special(run, machine) -> None:
    for more in ({"cols": 8}, {"cols": 2}, {"cols": 4, "split": True}):
        for log in (False, True):
            r = softmax(dense(F, 5, 6), log=log)
            with np.errstate(all="ignore"):
                want, = region_reference(r, [SPECIAL])
                rows = 1 if "split" in more else 4
                made = Softmax().implement(r, {"rows": rows, "warps": 1, **more}, machine, 1)
                np.testing.assert_allclose(run(r, made, [SPECIAL])[0], want, 1e-5)


def test_infinities_and_nan():
    special(interpreted.run, H100)


@on_device.needs_cuda
def test_infinities_and_nan_on_a_gpu():
    special(on_device.run, on_device.gpu())


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("cols", [8, 16])
def test_walked_and_divided(cols, split):
    r = added(softmax(dense(F, 5, 33)))
    x = [np.random.default_rng(i).standard_normal(t.shape).astype(np.float32) for i, t in enumerate(r.inputs)]
    made = Softmax().implement(r, {"rows": 1, "cols": cols, "warps": 1, "split": split}, H100, 1)
    np.testing.assert_allclose(interpreted.run(r, made, x)[0], region_reference(r, x)[0], 1e-5, 1e-6)


@pytest.mark.parametrize("number", [80, 90])
def test_compiles(number):
    for name in ("halves", "log", "fused", "symbolic", "doubles", "doubles to halves"):
        compiles(Softmax(), CASES[name], number)
    compiles(Softmax(), softmax(dense(F, 1, 50257)), number)
