"""Local response normalization on GPUs, in both layouts."""

from __future__ import annotations

import pytest

from targets.cuda import interpreted, on_device
from targets.cuda.rows_cases import B, D, F, H, added, check, compiles, dense
from whet.ir.region import Region, Tensor
from whet.ir.symbolic import symbol
from whet.targets.cuda.lrn import Lrn

n = symbol("n")


def lrn(x: Tensor, size: int = 5, last: bool = False, **dims) -> Region:
    attrs = {"size": size, "alpha": 0.3, "beta": 0.75, "bias": 1.5, "channels_last": last}
    return Region("lrn", attrs, (x,), 1, x, x, dims=dims)


CASES = {"first": lrn(dense(F, 2, 7, 5, 3)), "last": lrn(dense(F, 2, 5, 3, 7), last=True),
         "even": lrn(dense(F, 1, 9, 4), 4), "one": lrn(dense(F, 1, 1)),
         "halves": lrn(dense(H, 2, 7, 5)), "bf16": lrn(dense(B, 2, 7, 5), 3), "doubles": lrn(dense(D, 2, 3, 5), 7),
         "fused": added(lrn(dense(F, 2, 7, 5, 3))), "symbolic": lrn(dense(F, n, 6, n), n=(0, 4, 9))}


@pytest.mark.parametrize("name", CASES)
def test_right(name):
    check(Lrn(), CASES[name], interpreted.run, {"n": 3}, some=1)


@on_device.needs_cuda
@pytest.mark.parametrize("name", CASES)
def test_right_on_a_gpu(name):
    check(Lrn(), CASES[name], on_device.run, {"n": 3}, machine=on_device.gpu(), odd=True, some=2)


@pytest.mark.parametrize("number", [80, 90])
def test_compiles(number):
    compiles(Lrn(), CASES["halves"], number)
    compiles(Lrn(), CASES["symbolic"], number)
