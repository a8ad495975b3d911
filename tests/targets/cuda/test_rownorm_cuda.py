"""Layer norm, RMS norm and group norm on GPUs: rows in registers, walked over, and divided among programs."""

from __future__ import annotations

import numpy as np
import pytest

from targets.cuda import interpreted, on_device
from targets.cuda.rows_cases import H100, B, D, F, H, added, check, compiles, dense, expected, order
from whet.ir.region import Region, Tensor
from whet.ir.symbolic import symbol
from whet.targets.cuda.rownorm import GroupNorm, RowNorm

n = symbol("n")


def norm(x: Tensor, axis: int = -1, bias: bool = True, kind: str = "layernorm", scale=None, **dims) -> Region:
    tail = x.shape[axis % len(x.shape):]
    w = dense(x.dtype, *(scale or tail))
    ins = (x, w, w) if bias and kind == "layernorm" else (x, w)
    out = Tensor.dense(x.dtype, x.shape)
    return Region(kind, {"axis": axis, "epsilon": 1e-5}, ins, len(ins), out, out, dims=dims)


def rms(x: Tensor, axis: int = -1, **dims) -> Region:
    return norm(x, axis, kind="rmsnorm", **dims)


def group(x: Tensor, groups: int, last: bool = False) -> Region:
    w = dense(x.dtype, x.shape[-1 if last else 1])
    out = Tensor(x.dtype, x.shape, x.strides)
    return Region("groupnorm", {"groups": groups, "epsilon": 1e-5, "channels_last": last}, (x, w, w), 3, out, out)


CASES = {
    "rows": norm(dense(F, 5, 33)),
    "no bias": norm(dense(F, 5, 33), bias=False),
    "one": norm(dense(F, 3, 1)),
    "one row": norm(dense(H, 100)),
    "halves": norm(dense(H, 2, 3, 24)),
    "bf16": norm(dense(B, 6, 24)),
    "doubles": norm(dense(D, 6, 19)),
    "two axes": norm(dense(F, 4, 5, 6), 1),
    "a scale that broadcasts": norm(dense(F, 4, 5, 6), 1, scale=(5, 1)),
    "other order": norm(order(dense(F, 4, 5, 16), 1, 0, 2)),
    "rms": rms(dense(F, 5, 40)),
    "rms of halves": rms(dense(H, 5, 40)),
    "fused": added(norm(dense(F, 6, 24))),
    "fused halves": added(norm(dense(H, 6, 24))),
    "fused rms": added(rms(dense(H, 6, 24))),
    "symbolic": norm(dense(F, n, 24), n=(0, 16, 40)),
    "symbolic length": rms(dense(F, 3, n), n=(1, 16, 40)),
    "for many rows": norm(dense(H, n, 37), n=(0, 4096, 8192)),
}
GROUPS = {
    "groups": group(dense(F, 2, 6, 5, 3), 3),
    "one group": group(dense(F, 2, 6, 7), 1),
    "each its own": group(dense(H, 2, 6, 5), 6),
    "channels last": group(dense(F, 2, 5, 3, 12), 3, True),
    "channels last by strides": group(order(dense(F, 2, 6, 5, 3), 0, 2, 3, 1), 2),
    "fused groups": added(group(dense(F, 2, 6, 5, 4), 3)),
}
ALL = {**CASES, **GROUPS}


def tactic(r: Region) -> RowNorm:
    return GroupNorm() if r.kind == "groupnorm" else RowNorm()


@pytest.mark.parametrize("name", ALL)
def test_right(name):
    check(tactic(ALL[name]), ALL[name], interpreted.run, {"n": 13}, some=1)


def test_many_rows_are_taken_by_single_warps_that_wait_for_none():
    first = [next(iter(RowNorm().space(norm(dense(H, rows, 768)), H100, 1))) for rows in (128, 4096)]
    assert [q["warps"] > 1 for q in first] == [True, False]
    short = next(iter(RowNorm().space(norm(dense(H, 1056, 16)), H100, 1)))
    assert 1056 // short["rows"] >= 132, "and all multiprocessors have some"


def other_ways(r: Region, run, machine) -> None:
    """Rows walked over by chunks of 8 columns, and divided among programs of as many."""
    x = [np.random.default_rng(i).standard_normal([13 if d == n else d for d in t.shape]).astype(t.dtype.np)
         for i, t in enumerate(r.inputs)]
    want, = expected(r, x, {})
    tol = {F: 2e-5, H: 4e-3, B: 2e-2, D: 1e-12}[r.output.dtype]
    for params in ({"rows": 8, "cols": 8, "warps": 1}, {"rows": 1, "cols": 16, "warps": 1, "split": True}):
        got, = run(r, tactic(r).implement(r, params, machine, 1), x, {"n": 13})
        np.testing.assert_allclose(got.astype(np.float64), want.astype(np.float64), tol, tol, err_msg=str(params))


@pytest.mark.parametrize("name", ["rows", "one", "one row", "two axes", "fused rms", "symbolic length", "groups",
                                  "channels last"])
def test_walked_and_divided(name):
    other_ways(ALL[name], interpreted.run, H100)


@on_device.needs_cuda
@pytest.mark.parametrize("name", ALL)
def test_right_on_a_gpu(name):
    check(tactic(ALL[name]), ALL[name], on_device.run, {"n": 13}, machine=on_device.gpu(), odd=True, some=4)
    other_ways(ALL[name], on_device.run, on_device.gpu())


@on_device.needs_cuda
@pytest.mark.parametrize("r", [
    added(norm(dense(H, 128, 768))), added(norm(dense(H, 4097, 768))), rms(dense(H, 3, 8192)),
    group(dense(H, 2, 320, 64, 64), 32), norm(dense(F, 2, 100003)), group(dense(H, 1, 32, 32, 640), 32, True)],
    ids=lambda r: f"{r.kind}{r.inputs[0].shape}")
def test_large_on_a_gpu(r):
    check(tactic(r), r, on_device.run, machine=on_device.gpu())


@pytest.mark.parametrize("number", [80, 90])
def test_compiles(number):
    for r in (CASES["fused halves"], CASES["doubles"], CASES["symbolic length"], GROUPS["channels last"],
              norm(dense(F, 2, 100003))):
        compiles(tactic(r), r, number)
