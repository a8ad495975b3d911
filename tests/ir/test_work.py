"""The arithmetic and the bytes that regions are counted for."""

from dataclasses import replace

import pytest

from whet.ir.dtypes import DType
from whet.ir.region import Region, Tensor
from whet.ir.symbolic import symbol
from whet.ir.work import flops, region_bytes

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


@pytest.mark.parametrize(("kernel", "step", "rows"), [(1, 1, 8), (1, 2, 4), (3, 2, 8), (2, 3, 6)])
@pytest.mark.parametrize("last", [True, False])
def test_a_convolution_reads_what_its_windows_cover(kernel: int, step: int, rows: int, last: bool) -> None:
    n = (8 - kernel) // step + 1
    x, out = ((2, 8, 8, 6), (2, n, n, 5)) if last else ((2, 6, 8, 8), (2, 5, n, n))
    made = region("conv", [x, (5, 6, kernel, kernel)], out, {"strides": (step, step), "channels_last": last})
    assert region_bytes(made) == 4 * (2 * rows * rows * 6 + 5 * 6 * kernel**2 + 2 * n * n * 5)


def test_what_is_broadcast_or_looked_up_is_read_once() -> None:
    row = Tensor(F, (7, 5), (0, 1))
    assert region_bytes(replace(region("softmax", [(7, 5), (5,)], (7, 5)), inputs=(Tensor.dense(F, (7, 5)), row))) \
        == 4 * (35 + 5 + 35)
    table, ids = Tensor.dense(F, (1000, 5)), Tensor.dense(DType.I64, (7,))
    norm = replace(region("layernorm", [(7, 5)], (7, 5)), inputs=(Tensor.dense(F, (7, 5)), table, ids), picks={1: 2})
    assert region_bytes(norm) == 4 * (35 + 35 + 35) + 8 * 7
    n = symbol("n")
    assert region_bytes(region("softmax", [(n, 5)], (n, 5), dims={"n": (1, 6, 9)})) == 4 * 2 * 30
    assert region_bytes(region("softmax", [(n, 5)], (3, 5))) == 4 * 15
