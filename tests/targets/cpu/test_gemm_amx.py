"""Matmul on AMX tiles against float64 products of bf16-rounded operands."""

import numpy as np
import pytest
from harness import run_region, strided

from whet.ir.dtypes import DType
from whet.ir.expr import ANCHOR, Apply, Expr, Leaf
from whet.ir.region import Region, Tensor
from whet.ir.symbolic import symbol
from whet.targets.cpu import isa as isas
from whet.targets.cpu.gemm_amx import GemmAmx

HOST = isas.host()
AMX = GemmAmx()
F32, BF16 = DType.F32, DType.BF16

pytestmark = pytest.mark.skipif(not HOST.amx_bf16, reason="no AMX")


def matmul(a: Tensor, b: Tensor, out: Tensor, **more: object) -> Region:
    return Region("matmul", {}, (a, b), 2, out, Tensor.dense(F32, out.shape), compute="bf16", **more)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a.astype(BF16.np).astype(float) @ b.astype(BF16.np).astype(float)


@pytest.mark.parametrize("size", [(1, 1, 1), (17, 33, 49), (65, 160, 100), (29, 7, 5), (0, 4, 3), (4, 0, 3)])
@pytest.mark.parametrize("symbolic", [False, True])
@pytest.mark.parametrize("dtype", [F32, BF16, DType.F16], ids=lambda d: d.value)
def test_odd_sizes_and_rounds_of_depth(size: tuple, symbolic: bool, dtype: DType) -> None:
    m, k, n = size
    rows = symbol("m") if symbolic else m
    r = matmul(strided(dtype, (rows, k), 3), strided(F32, (k, n), const=True), strided(F32, (rows, n), 1),
               dims={"m": (0, max(m, 1), 100)} if symbolic else {})
    a, b = normal(m, k).astype(dtype.np), normal(k, n)
    for depth in (0, 2):
        params = {"mt": 2, "nt": 2, "depth": depth, "direct": False, "ahead": depth == 0}
        got, = run_region(r, AMX, params, HOST, [a, b], {"m": m})
        np.testing.assert_allclose(got, product(a, b), rtol=1e-4, atol=1e-4)


def test_whole_bf16_tiles_are_read_where_they_are() -> None:
    r = matmul(strided(BF16, (2, 32, 64), 2), strided(F32, (64, 40), const=True), strided(BF16, (2, 32, 40)))
    assert any(p["direct"] for p in AMX.space(r, HOST, 2))
    a, b = normal(2, 32, 64).astype(BF16.np), normal(64, 40)
    got, = run_region(r, AMX, {"mt": 1, "nt": 1, "depth": 1, "direct": True, "ahead": True}, HOST, [a, b])
    np.testing.assert_allclose(got.astype(float), product(a, b), rtol=1e-2, atol=1e-3)


def test_batches_weights_per_batch_and_an_epilogue() -> None:
    expr = Expr((Leaf(ANCHOR, F32), Leaf(2, F32), Apply("add", (0, 1), F32), Apply("relu", (2,), F32)))
    r = Region("matmul", {}, (strided(F32, (2, 3, 19, 40)), strided(F32, (3, 40, 50), const=True), strided(F32, (50,))),
               2, strided(F32, (2, 3, 19, 50)), strided(F32, (2, 3, 19, 50)), expr, compute="bf16")
    a, b, c = normal(2, 3, 19, 40), normal(3, 40, 50), normal(50)
    for p in list(AMX.space(r, HOST, 2))[:2]:
        got, = run_region(r, AMX, p, HOST, [a, b, c])
        np.testing.assert_allclose(got, np.maximum(product(a, b) + c, 0), rtol=1e-4, atol=1e-4)


def test_reasons_name_what_is_in_the_way() -> None:
    a, b, o = strided(F32, (4, 8)), strided(F32, (8, 8), const=True), strided(F32, (4, 8))
    assert "f32" in AMX.applies(Region("matmul", {}, (a, b), 2, o, o), HOST)
    assert "no AMX" in AMX.applies(matmul(a, b, o), isas.AVX2)
    assert "constant" in AMX.applies(matmul(a, strided(F32, (8, 8)), o), HOST)
