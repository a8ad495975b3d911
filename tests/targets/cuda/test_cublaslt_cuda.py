"""Products in cuBLASLt's words mean what the region says: by NumPy here, by the library on a GPU."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from targets.cuda import matmul_cases, on_device
from targets.cuda.interpreted import _dense, _laid_out
from targets.cuda.matmul_cases import BF16, F8, F16, F32, F64, I8, U8, batch, linear, region, relu_of, scaled
from targets.cuda.test_matmul_cuda import check
from whet import abi_cublaslt as lt
from whet import abi_cuda
from whet.ir.dtypes import DType
from whet.ir.region import Region
from whet.targets.base import In, Out, Packed
from whet.targets.cuda.compile import to_object
from whet.targets.cuda.cublaslt import CublasLt, describe, variants
from whet.targets.cuda.gpu import Gpu, typical

LIVE = Gpu((9, 0), multiprocessors=132, libraries={"cublas": "13.1.0"}, live=True)
TACTIC = CublasLt()
CASES: dict[str, Region] = {
    "plain": region((24, 40), (40, 56)),
    "f32 sums of f16": region((24, 40), (40, 56), anchor=F32, compute="f16"),
    "transposed": region((24, 40), (40, 56), swap="ab"),
    "batches": region((3, 16, 32), (3, 32, 24), F32),
    "a batch by one matrix": region((3, 16, 32), (32, 24), F32),
    "one matrix by a batch": region((1, 16, 32), (3, 32, 24), F32, swap="b"),
    "bias": linear(24, 40, 56),
    "bias and relu": linear(24, 40, 56, "relu"),
    "bias and gelu by tanh": linear(24, 40, 56, "gelu_tanh"),
    "bias and a residual": linear(24, 40, 56, "", True),
    "bf16": linear(24, 40, 56, "relu", dtype=BF16, compute="bf16"),
    "f64": region((17, 19), (19, 18), F64),
    "tf32": region((32, 64), (64, 32), F32, compute="tf32"),
    "f32 weights rounded": region((24, 40), (40, 56), F16, F32, anchor=F32, const=True, compute="f16"),
    "i8": region((32, 64), (64, 32), I8, I8, const=True),
    "an epilogue of its own: exact gelu": linear(24, 40, 56, "gelu"),
    "a residual behind the activation": linear(24, 40, 56, "relu", True),
    "8-bit floats": scaled(32, 64, 48, F8),
    "codes": scaled(32, 64, 48, I8),
}
REFUSED = {
    "symbolic dimensions": region((batch(), 24), (24, 20), F32, dims={"batch": (0, 8, 64)}),
    "operands are computed on load": region((20, 24), (24, 20), prologue={0: relu_of(0, F16)}),
    "no such types of products": region((20, 24), (24, 20), U8, I8),
    "no elements": region((0, 24), (24, 20), F32),
}


def column_major(spec: tuple[int, int, int, int, int], flat: np.ndarray, batches: int) -> np.ndarray:
    """[batch, rows, columns] of a matrix as cuBLASLt sees it."""
    _, rows, columns, leading, stride = spec
    size = flat.itemsize
    return np.lib.stride_tricks.as_strided(flat, (batches, rows, columns), (stride * size, size, leading * size))


@pytest.mark.parametrize("name", CASES)
def test_a_description_computes_the_region(name: str) -> None:
    r = CASES[name]
    assert TACTIC.applies(r, LIVE) == ""
    arrays = matmul_cases.random(r, 2)
    for order, via in variants(r):
        made = describe(r, order, via)
        assert made is not None
        u = made.unit
        ins = [_laid_out(t, a, {})[1] for t, a in zip(r.inputs, arrays, strict=True)]
        packs = [np.ascontiguousarray(p.make(*(arrays[i] for i in p.sources))).reshape(-1) for p in made.packs]
        out = _laid_out(r.output, None, {})[1]
        total = np.zeros(max(1, u.d[1] * u.d[2] * u.batch), made.total.np)
        given = [ins[a.index] if isinstance(a, In) else packs[a.index] if isinstance(a, Packed) else
                 out if isinstance(a, Out) else total for a in made.args]
        a, b = (column_major(s, g, u.batch).astype(np.float64) for s, g in ((u.a, given[0]), (u.b, given[1])))
        a, b = a.swapaxes(1, 2) if u.transpose_a else a, b.swapaxes(1, 2) if u.transpose_b else b
        d = u.alpha * (a @ b)
        if u.beta:
            d = d + u.beta * column_major(u.c, given[2], u.batch).astype(np.float64)
        if u.bias_type >= 0:
            d = d + given[4].astype(np.float64)[:, None]
        kind = u.epilogue & ~lt.BIAS if u.bias_type >= 0 else u.epilogue
        if kind == lt.RELU:
            d = np.maximum(d, 0)
        elif kind == lt.GELU:
            d = 0.5 * d * (1 + np.tanh(np.sqrt(2 / np.pi) * (d + 0.044715 * d**3)))
        target = column_major(u.d, given[3], u.batch)
        target[...] = d.astype(target.dtype)
        if via:
            sums = matmul_cases.plain(r)
            check(sums, total.reshape(sums.output.shape).astype(sums.output.dtype.np),
                  matmul_cases.expected(sums, arrays[:2]))
        else:
            check(r, _dense(r.output, out, {}), matmul_cases.expected(r, arrays))


@pytest.mark.parametrize("why", REFUSED)
def test_what_the_library_does_not_do_is_refused_with_the_reason(why: str) -> None:
    assert TACTIC.applies(REFUSED[why], LIVE) == why
    assert "cannot be asked" in TACTIC.applies(REFUSED[why], typical((9, 0)))


def test_an_exact_gelu_is_not_taken_for_the_library_s() -> None:
    assert all(via for _, via in variants(CASES["an epilogue of its own: exact gelu"]))
    assert not any(via for _, via in variants(CASES["bias and gelu by tanh"]))


def test_an_object_is_the_description() -> None:
    made = TACTIC.implement(CASES["bias"], {"order": "", "via": False, "algo": "00" * 64, "workspace": 512}, LIVE, 1)
    unit, payload = abi_cuda.unpack(to_object(made.steps[0].kernel.code, 90))
    assert isinstance(unit, abi_cuda.Matmul)
    assert len(payload) == 0
    assert unit == msgspec.json.decode(made.steps[0].kernel.code, type=abi_cuda.Matmul)
    assert unit.workspace == made.workspace == 512


@on_device.needs_cuda
@pytest.mark.parametrize("name", CASES)
def test_every_proposed_algorithm_is_right(name: str) -> None:
    r = CASES[name]
    machine = on_device.gpu()
    arrays = matmul_cases.random(r, 2)
    want = matmul_cases.expected(r, arrays)
    found = list(TACTIC.space(r, machine, 1))
    assert found, "no algorithm"
    for params in [*found[:3], found[-1]]:
        got = on_device.run(r, TACTIC.implement(r, params, machine, 1), arrays)[0]
        check(r, got, want)


def test_a_gelu_in_f32_is_more_exact_than_the_library_s() -> None:
    r = region((16, 16), (16, 64), F32, epilogue=matmul_cases.gelu(F32, "tanh"))
    assert all(via for _, via in variants(r))


@on_device.needs_cuda
def test_the_library_s_gelu_is_the_one_by_tanh() -> None:
    r = region((16, 16), (16, 4096), F16, anchor=F32, out=F16, compute="f16", epilogue=matmul_cases.gelu(F32, "tanh"))
    arrays = [np.eye(16, dtype=np.float16), np.linspace(-6, 6, 16 * 4096).astype(np.float16).reshape(16, 4096)]
    machine = on_device.gpu()
    exact = matmul_cases.expected(r, arrays).astype(np.float64)
    for params in [q for q in TACTIC.space(r, machine, 1) if not q["via"]][:3]:
        got = on_device.run(r, TACTIC.implement(r, params, machine, 1), arrays)[0].astype(np.float64)
        np.testing.assert_allclose(got, exact, atol=1e-5, rtol=2e-3)


def test_types_are_numbered_as_cuda_does() -> None:
    from whet.targets.cuda.cublaslt_match import TYPES

    assert TYPES[DType.BF16] == 14
    assert TYPES[DType.F8E4M3FN] == 28
