"""Norms that read rows of tables by indices, and add them up."""

from __future__ import annotations

import numpy as np
import pytest

from targets.cuda import interpreted, on_device
from targets.cuda.rows_cases import H100, B, D, F, H, compiles, dense
from whet.ir.dtypes import DType
from whet.ir.expr import Apply, Expr, Leaf, Term
from whet.ir.region import Region, Tensor
from whet.ir.region_eval import region_reference
from whet.ir.symbolic import symbol
from whet.targets.cuda.rownorm import RowNorm

N = symbol("n")
SIZE = 13  # rows of a table


def norm(batch, n: int, tables: int = 2, stored: DType = H, kept: bool = False, kind: str = "layernorm",
         index: DType = DType.I64, position: bool = False, real: DType = F, apart: int = 0) -> Region:
    """norm(table[ids] + ... + row): tables of rows `n + apart` elements apart; ids [batch, 5], the last [5] where
    `position`; rows of what is added [5, n]."""
    table = Tensor(stored, (SIZE, n), (n + apart, 1), const=True, aligned=(n + apart) % 8 == 0)
    scales = (dense(stored, n),) * (2 if kind == "layernorm" else 1)
    first, more = 1 + len(scales), tables - 1
    ids = [dense(index, 5) if position and k == more else dense(index, batch, 5) for k in range(tables)]
    inputs = (table, *scales, *[table] * more, dense(stored, 5, n), *ids)
    leaves = [0, *range(first, first + more + 1)]
    picks = {k: first + more + 1 + i for i, k in enumerate(leaves[:-1])}
    terms: list[Term] = []
    for k in leaves:
        before = len(terms) - 1
        terms.append(Leaf(k, stored))
        if stored is not real:
            terms.append(Apply("cast", (len(terms) - 1,), real, (("to", real),)))
        if k:
            terms.append(Apply("add", (before, len(terms) - 1), real))
    out = dense(stored, batch, 5, n)
    after = Expr((Leaf(-1, real), Apply("cast", (0,), stored, (("to", stored),))))
    return Region(kind, {"axis": 2, "epsilon": 1e-5}, inputs, first, out, dense(real, batch, 5, n),
                  after if stored is not real else None, {0: Expr(tuple(terms))}, (out,) if kept else (),
                  {"n": (1, 2, 4)} if batch is N else {}, picks=picks)


CASES = {
    "one": norm(1, 33, 1),
    "words and kinds": norm(2, 64),
    "positions": norm(3, 37, position=True, kept=True),
    "three of bf16": norm(1, 40, 3, stored=B, index=DType.I32),
    "fp32": norm(2, 19, stored=F, kept=True),
    "rms": norm(2, 48, 1, kind="rmsnorm", kept=True),
    "rows apart": norm(2, 24, apart=7),
    "doubles": norm(1, 17, stored=D, real=D),
    "any batch": norm(N, 21, kept=True),
}
WAYS = ({"rows": 1, "cols": 64, "warps": 1}, {"rows": 4, "cols": 64, "warps": 1}, {"rows": 8, "cols": 8, "warps": 1},
        {"rows": 1, "cols": 16, "warps": 1, "split": True})
TOLERANCE = {F: 2e-5, H: 4e-3, B: 3e-2, D: 1e-12}


def right(r: Region, run, machine=H100) -> None:
    """Every way, with indices from either end, outside of the tables (which are clamped), NaN and infinity."""
    env, rng = {"n": 3}, np.random.default_rng(0)
    assert RowNorm().applies(r, machine) == ""
    arrays = []
    for t in r.inputs:
        shape = [3 if d == N else int(d) for d in t.shape]  # type: ignore[call-overload]
        arrays.append(rng.integers(-SIZE - 2, SIZE + 2, shape).astype(t.dtype.np) if t.dtype.is_integer
                      else rng.standard_normal(shape).astype(t.dtype.np))
    arrays[0][2, 5], arrays[0][3, 0] = np.nan, np.inf
    with np.errstate(all="ignore"):
        want = region_reference(r, arrays, env if N in r.output.shape else {})
    for params in (*WAYS, next(iter(RowNorm().space(r, machine, 1)))):
        with np.errstate(all="ignore"):
            got = run(r, RowNorm().implement(r, params, machine, 1), arrays, env)
        for g, w, t in zip(got, want, (r.output, *r.extra_outputs), strict=True):
            tol = TOLERANCE[t.dtype]
            np.testing.assert_allclose(g.astype(np.float64), w.astype(np.float64), tol, tol, err_msg=str(params))


@pytest.mark.parametrize("name", CASES)
def test_right(name: str) -> None:
    right(CASES[name], interpreted.run)


@on_device.needs_cuda
@pytest.mark.parametrize("name", CASES)
def test_right_on_a_gpu(name: str) -> None:
    right(CASES[name], on_device.run, on_device.gpu())


@pytest.mark.parametrize("number", [80, 90])
def test_compiles(number: int) -> None:
    compiles(RowNorm(), norm(8, 768), number)
