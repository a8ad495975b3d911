"""Bits taken for another type: every bit is kept, those of signalling NaN too."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from harness import strided
from movement_cases import ISAS, check, movement

from whet.errors import GraphError
from whet.ir.dtypes import DType
from whet.ir.region import Tensor
from whet.ir.symbolic import symbol

RNG = np.random.default_rng(2)
PAIRS = [(DType.I32, DType.F32), (DType.F32, DType.I32), (DType.U16, DType.F16), (DType.F16, DType.BF16),
         (DType.I64, DType.F64), (DType.BOOL, DType.U8), (DType.U8, DType.F8E4M3FN), (DType.I4, DType.F4E2M1FN)]


def noise(d: DType, shape: tuple[int, ...]) -> np.ndarray:
    if d is DType.BOOL:
        return RNG.random(shape) < 0.5
    raw = RNG.integers(0, 1 << min(d.bits, 63), shape, np.uint64).astype(f"u{d.size}")
    return raw.view(d.np)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("src", "dst"), PAIRS)
def test_every_bit_is_kept(src: DType, dst: DType, isa: Any) -> None:
    for shape in ((), (0,), (1,), (67,), (3, 5, 19)):
        check(movement("bitcast", [Tensor.dense(src, shape)], {"to": dst}), isa, [noise(src, shape)])


@pytest.mark.parametrize("isa", ISAS)
def test_strides_and_symbolic_sizes(isa: Any) -> None:
    check(movement("bitcast", [strided(DType.F16, (4, 19), 3)], {"to": DType.I16}), isa, [noise(DType.F16, (4, 19))])
    r = movement("bitcast", [Tensor.dense(DType.F16, (symbol("n"), 19))], {"to": DType.I16}, dims={"n": (0, 4, 9)})
    for n in (0, 5):
        check(r, isa, [noise(DType.F16, (n, 19))], {"n": n})


def test_the_number_of_bits_must_agree() -> None:
    with pytest.raises(GraphError, match="keeps the number of bits"):
        movement("bitcast", [Tensor.dense(DType.I4, (3,))], {"to": DType.I8})
