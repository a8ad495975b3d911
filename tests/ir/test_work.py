"""The arithmetic that regions are counted for."""

import pytest

from whet.ir.dtypes import DType
from whet.ir.region import Region, Tensor
from whet.ir.symbolic import symbol
from whet.ir.work import flops

F = DType.F32


def region(kind: str, inputs: list[tuple], anchor: tuple, attrs: dict | None = None,
           dims: dict | None = None) -> Region:
    tensors = tuple(Tensor.dense(F, s) for s in inputs)
    out = Tensor.dense(F, anchor)
    return Region(kind, attrs or {}, tensors, len(inputs), out, out, dims=dims or {})


@pytest.mark.parametrize(("made", "count"), [
    (region("matmul", [(3, 5, 7), (7, 11)], (3, 5, 11)), 2 * 3 * 5 * 7 * 11),
    (region("conv", [(2, 9, 9, 6), (8, 3, 3, 3)], (2, 7, 7, 8), {"group": 2}), 2 * 2 * 49 * 8 * 27),
    (region("conv_transpose", [(1, 4, 4, 6), (6, 5, 2, 2)], (1, 8, 8, 5)), 2 * 16 * 6 * 5 * 4),
    (region("attention", [(1, 2, 3, 8), (1, 2, 5, 8), (1, 2, 5, 4)], (1, 2, 3, 4)), 2 * 2 * 3 * 5 * (8 + 4)),
    (region("recurrent", [(7, 3, 2, 20), (2, 20, 5)], (7, 2, 3, 5)), 2 * 7 * 3 * 2 * 20 * 5),
    (region("softmax", [(4, 4)], (4, 4)), 0),
])
def test_products_count_two_each(made: Region, count: int) -> None:
    assert flops(made) == count


def test_symbolic_sizes_count_at_the_optimum() -> None:
    n = symbol("n")
    assert flops(region("matmul", [(n, 4), (4, 4)], (n, 4), dims={"n": (1, 6, 9)})) == 2 * 6 * 4 * 4
