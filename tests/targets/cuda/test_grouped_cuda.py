"""Products by weights of a few bits: in the interpreter, compiled, and on a GPU."""

from __future__ import annotations

import numpy as np
import pytest

from targets.cuda import interpreted, matmul_cases, on_device
from targets.cuda.test_matmul_cuda import check
from whet.ir.dtypes import DType
from whet.ir.expr import ANCHOR, Apply, Expr, Leaf
from whet.ir.region import Region, Tensor
from whet.ir.symbolic import Dim
from whet.targets.base import Implementation, Tactic
from whet.targets.cuda.compile import to_object
from whet.targets.cuda.gpu import Gpu, typical
from whet.targets.cuda.matmul_grouped import GroupedRows, GroupedTiles, codes_of

F32, F16 = DType.F32, DType.F16
TILES, ROWS = GroupedTiles(), GroupedRows()


def region(m: Dim, k: int, n: int, q: DType, group: int, zero: bool, a: DType = F32, compute: str = "f32") -> Region:
    """relu(A @ W + bias)."""
    groups = -(-k // group)
    weights = [Tensor.dense(q, (k, n), const=True), Tensor.dense(F32, (groups, n), const=True)]
    weights += [Tensor.dense(q, (groups, n), const=True)] if zero else []
    e = Expr((Leaf(ANCHOR, F32), Leaf(len(weights) + 1, F32), Apply("add", (0, 1), F32), Apply("relu", (2,), F32)))
    dims = {} if isinstance(m, int) else {"batch": (0, 2, 64)}
    return Region("matmul_grouped", {"group": group}, (Tensor.dense(a, (m, k)), *weights, Tensor.dense(F32, (n,))),
                  len(weights) + 1, Tensor.dense(F32, (m, n)), Tensor.dense(F32, (m, n)), e, {}, (), dims, compute)


CASES: dict[str, tuple[Tactic, Region]] = {
    "4 bits": (TILES, region(17, 128, 40, DType.U4, 32, True)),
    "4 bits, f16": (TILES, region(20, 128, 64, DType.I4, 64, False, F16, "f16")),
    "8 bits, odd sizes": (TILES, region(17, 75, 19, DType.I8, 20, True)),
    "2 bits, odd sizes": (TILES, region(5, 70, 19, DType.U2, 16, False)),
    "symbolic rows": (TILES, region(matmul_cases.batch(), 64, 24, DType.I4, 32, False)),
    "a row of 4 bits": (ROWS, region(1, 256, 40, DType.U4, 32, True)),
    "rows of 4 bits, odd sizes": (ROWS, region(3, 150, 19, DType.I4, 50, True, F16)),
    "a row of 8 bits": (ROWS, region(1, 256, 24, DType.U8, 128, False, F16, "f16")),
    "a row of 2 bits": (ROWS, region(1, 256, 24, DType.I2, 64, True)),
    "symbolic few rows": (ROWS, region(matmul_cases.batch(), 64, 24, DType.I4, 32, False)),
}


def arrays_for(r: Region, env: dict[str, int]) -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    out = []
    for t in r.inputs:
        shape = [d if isinstance(d, int) else env[str(d)] for d in t.shape]
        if t.dtype in (F32, F16):
            out.append(rng.normal(size=shape).astype(t.dtype.np))
        else:
            low = -(1 << (t.dtype.bits - 1)) if t.dtype in (DType.I8, DType.I4, DType.I2) else 0
            out.append(rng.integers(low, low + (1 << t.dtype.bits), shape).astype(t.dtype.np))
    return out


def implementation(tactic: Tactic, r: Region, machine: Gpu) -> Implementation:
    assert tactic.applies(r, machine) == ""
    found = list(tactic.space(r, machine, 1))
    assert all(tactic.cost(r, q, machine, 1) > 0 for q in found)
    return tactic.implement(r, found[0], machine, 1)


@pytest.mark.parametrize("name", CASES)
def test_interpreted_kernels_match_the_reference(name: str) -> None:
    tactic, r = CASES[name]
    for env in ({"batch": 7}, {"batch": 0}) if r.dims else ({},):
        arrays = arrays_for(r, env)
        got = interpreted.run(r, implementation(tactic, r, typical((9, 0))), arrays, env)[0]
        check(r, got, matmul_cases.expected(r, arrays, env))


@pytest.mark.parametrize("name", ["4 bits, f16", "2 bits, odd sizes", "a row of 4 bits"])
def test_kernels_compile(name: str) -> None:
    tactic, r = CASES[name]
    for capability in ((8, 0), (9, 0)):
        machine = typical(capability)
        for step in implementation(tactic, r, machine).steps:
            assert len(to_object(step.kernel.code, machine.number)) > 1000


def test_nan_stays_in_its_row() -> None:
    tactic, r = CASES["rows of 4 bits, odd sizes"]
    arrays = arrays_for(r, {})
    arrays[0][1, 149] = np.nan
    got = interpreted.run(r, implementation(tactic, r, typical((9, 0))), arrays)[0]
    np.testing.assert_array_equal(np.isnan(got), np.isnan(matmul_cases.expected(r, arrays)))


def test_codes_are_packed_without_loss() -> None:
    r = CASES["rows of 4 bits, odd sizes"][1]
    c = codes_of(r, 32, 2, True)
    q = arrays_for(r, {})[1]
    raw = c.pack(q).T.reshape(c.chunks, c.stretch, -1)
    rows = np.stack([(raw >> (c.bits * i)) & 15 for i in range(c.per)], 1).reshape(-1, q.shape[1])
    np.testing.assert_array_equal(rows[: len(q)].astype(np.int16) - c.half, q.astype(np.int16))


@on_device.needs_cuda
@pytest.mark.parametrize("name", [*CASES, "large"])
def test_kernels_match_the_reference_on_the_device(name: str) -> None:
    tactic, r = CASES.get(name, (TILES, region(200, 1024, 512, DType.U4, 128, True, F16, "f16")))
    for env in ({"batch": 7}, {"batch": 0}) if r.dims else ({},):
        arrays = arrays_for(r, env)
        got = on_device.run(r, implementation(tactic, r, on_device.gpu()), arrays, env)[0]
        check(r, got, matmul_cases.expected(r, arrays, env))
