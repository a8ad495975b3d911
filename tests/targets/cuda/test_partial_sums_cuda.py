"""Products in parts, and norms that add up the parts, bias and residual, and write their operand as a second result."""

from __future__ import annotations

import numpy as np
import pytest

from targets.cuda import interpreted, on_device
from targets.cuda.rows_cases import B, D, F, H, check, compiles, dense
from whet.ir.dtypes import DType
from whet.ir.expr import Apply, Expr, Leaf, Term
from whet.ir.region import Region, Tensor
from whet.ir.region_eval import region_reference
from whet.targets.cuda.gpu import typical
from whet.targets.cuda.matmul import MatmulTiles
from whet.targets.cuda.rownorm import RowNorm

H100 = typical((9, 0))


def norm(rows: int, n: int, parts: int = 2, stored: DType = H, kept: bool = True, kind: str = "layernorm",
         real: DType = F) -> Region:
    """norm(parts of a product + bias [n] + residual), as the pass `partial_sums` makes it."""
    part = Tensor(real, (rows, n), (n, 1), aligned=n * rows % 4 == 0)
    scales = (dense(stored, n),) * (2 if kind == "layernorm" else 1)
    first = 1 + len(scales)
    extra = [part] * (parts - 1) + [dense(stored, n), dense(stored, rows, n)]
    terms: list[Term] = [Leaf(0, real)]
    for k, t in enumerate(extra, first):
        at = len(terms) - 1
        terms.append(Leaf(k, t.dtype))
        if t.dtype is not real:
            terms.append(Apply("cast", (len(terms) - 1,), real, (("to", real),)))
        terms.append(Apply("add", (at, len(terms) - 1), real))
    out = dense(stored, rows, n)
    return Region(kind, {"axis": 1, "epsilon": 1e-5}, (part, *scales, *extra), first, out, dense(real, rows, n),
                  Expr((Leaf(-1, real), Apply("cast", (0,), stored, (("to", stored),)))), {0: Expr(tuple(terms))},
                  (out,) if kept else ())


CASES = {
    "one row": norm(1, 768, 6),
    "seven rows": norm(7, 768, 4, kept=False),
    "odd": norm(129, 37, 3),
    "bf16": norm(7, 100, stored=B),
    "fp32": norm(7, 33, stored=F),
    "rms": norm(5, 40, 8, kind="rmsnorm"),
    "doubles": norm(3, 19, stored=D, real=D),
}


@pytest.mark.parametrize("name", CASES)
def test_right(name: str) -> None:
    check(RowNorm(), CASES[name], interpreted.run, some=1, odd=True)


def other_ways(r: Region, run, machine) -> None:
    """Rows held several at a time, walked over by chunks, and divided among programs."""
    x = [np.random.default_rng(i).standard_normal(t.shape).astype(t.dtype.np) for i, t in enumerate(r.inputs)]
    x[0][2, 5], x[0][3, 0] = np.nan, np.inf
    with np.errstate(all="ignore"):
        want = region_reference(r, x)
    tol = {F: 2e-5, H: 4e-3, D: 1e-12}[r.output.dtype]
    assert len(want) == 2
    for params in ({"rows": 4, "cols": 64, "warps": 1}, {"rows": 8, "cols": 8, "warps": 1},
                   {"rows": 1, "cols": 16, "warps": 1, "split": True}):
        with np.errstate(all="ignore"):
            got = run(r, RowNorm().implement(r, params, machine, 1), x)
        for g, w in zip(got, want, strict=True):
            np.testing.assert_allclose(g.astype(np.float64), w.astype(np.float64), tol, tol, err_msg=str(params))


@pytest.mark.parametrize("r", [norm(7, 37), norm(5, 40, kind="rmsnorm", stored=F)], ids=["halves", "rms"])
def test_rows_walked_over_and_divided(r: Region) -> None:
    other_ways(r, interpreted.run, H100)


def product(parts: int, rows: tuple[int, ...], n: int, depth: int) -> Region:
    """A product in parts: each sees its columns of a [rows.., parts * depth] by strides."""
    k = parts * depth
    steps = dense(H, *rows, k).strides
    a = Tensor(H, (parts, *rows, depth), (depth, *steps[:-1], 1))
    w = Tensor.dense(H, (parts, *(1,) * (len(rows) - 1), depth, n), const=True)
    out = dense(F, parts, *rows, n)
    return Region("matmul", {}, (a, w), 2, out, out, compute="f16")


PRODUCTS = {"rows": product(3, (9,), 40, 64), "images": product(2, (2, 7), 33, 64)}


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_in_parts(name: str) -> None:
    check(MatmulTiles(), PRODUCTS[name], interpreted.run, some=1)


@on_device.needs_cuda
@pytest.mark.parametrize("name", [*CASES, *PRODUCTS])
def test_right_on_a_gpu(name: str) -> None:
    if name in PRODUCTS:
        check(MatmulTiles(), PRODUCTS[name], on_device.run, machine=on_device.gpu(), some=4)
    else:
        check(RowNorm(), CASES[name], on_device.run, machine=on_device.gpu(), odd=True, some=4)
        if name == "odd":
            other_ways(CASES[name], on_device.run, on_device.gpu())


@pytest.mark.parametrize("number", [80, 90])
def test_compiles(number: int) -> None:
    compiles(RowNorm(), norm(128, 768, 6), number)
    compiles(RowNorm(), norm(197, 768, 3, kept=False), number)
