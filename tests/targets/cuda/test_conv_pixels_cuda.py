"""Convolutions of few pixels, and what they refuse."""

from __future__ import annotations

import itertools

import pytest
from conv_regions import F16, F32, SM90, Chain, check, compiles, conv
from interpreted import run
from on_device import gpu, needs_cuda
from on_device import run as run_on_device

from whet.ir.dtypes import DType
from whet.ir.symbolic import symbol
from whet.targets.cuda.conv_pixels import ConvPixels

TACTIC = ConvPixels()
N = symbol("n")
P = {"bo": 4, "bk": 32, "warps": 1}
CASES = [
    (Chain(conv((1, 1, 1, 96), 20, (1, 1), bias=True)).unary("silu").done(), None),
    (Chain(conv((3, 1, 1, 20), 51, (1, 1), bias=True)).unary("sigmoid").done(), None),
    (conv((2, 3, 4, 33), 5, (1, 1), strides=(2, 3), gap=2), None),
    (conv((1, 1, 1, 40), 7, (1, 1), dtype=F32), None),
    (conv((1, 1, 40), 7, (1,), dtype=F32, compute="f16", out=F16), None),
    (conv((1, 1, 1, 40), 7, (1, 1), dtype=DType.U8), None),
    (conv((1, 1, 1, 40), 7, (1, 1), dtype=DType.F64), None),
    (conv((1, 1, 1, 40), 7, (1, 1), dtype=DType.F8E4M3FN), None),
    (Chain(conv((N, 1, 1, 40), 6, (1, 1), dims={"n": (0, 2, 9)})).residual().done(), {"n": 3}),
    (conv((N, 1, 1, 40), 6, (1, 1), dims={"n": (0, 2, 9)}), {"n": 0}),
]


@pytest.mark.parametrize("i", range(len(CASES)))
def test_types_and_shapes(i):
    check(run, TACTIC, CASES[i][0], P, CASES[i][1])


def test_many_pixels_and_windows_are_left_to_others():
    assert "more than" in TACTIC.applies(conv((1, 9, 9, 8), 8, (1, 1)), SM90)
    assert "more than" in TACTIC.applies(conv((N, 1, 1, 8), 8, (1, 1), dims={"n": (1, 1, 999)}), SM90)
    assert "single" in TACTIC.applies(conv((1, 3, 3, 8), 8, (3, 3)), SM90)


def test_compiles():
    compiles(TACTIC, CASES[0][0])


@needs_cuda
@pytest.mark.parametrize("i", range(len(CASES)))
def test_on_the_gpu(i):
    for params in itertools.islice(TACTIC.space(CASES[i][0], gpu(), 1), 0, None, 4):
        check(run_on_device, TACTIC, CASES[i][0], params, CASES[i][1], machine=gpu())
