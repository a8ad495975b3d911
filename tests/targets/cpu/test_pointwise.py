"""The pointwise tactic: any strides, types and sizes, checked by the region's NumPy meaning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from harness import run_region

from whet.ir.dtypes import DType
from whet.ir.expr import Apply, Expr, Imm, Leaf, identity
from whet.ir.region import Region, Tensor
from whet.ir.region_eval import region_reference
from whet.ir.symbolic import Dim, symbol
from whet.targets.cpu.compile import to_assembly
from whet.targets.cpu.isa import AVX2, NEON, host
from whet.targets.cpu.pointwise import Pointwise

F = DType.F32
ISAS = [pytest.param(host(), id="host"), pytest.param(AVX2, id="avx2")]
TACTIC = Pointwise()


def region(expr: Expr, inputs: Sequence[Tensor], out: Sequence[Dim], output: Tensor | None = None,
           dims: dict[str, tuple[int, int, int]] | None = None) -> Region:
    o = output or Tensor.dense(expr.dtype, tuple(out))
    return Region("pointwise", {}, tuple(inputs), len(inputs), o, o, expr, dims=dims or {})


def values(d: DType, shape: Sequence[int], seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if d is DType.BOOL:
        return rng.integers(0, 2, shape).astype(bool)
    return (rng.normal(0, 2, shape) if d.is_float else rng.integers(0, 100, shape)).astype(d.np)


def check(r: Region, isa: Any, env: dict[str, int] | None = None, rtol: float = 2e-6) -> None:
    from whet.ir.symbolic import evaluate

    arrays = []
    for i, t in enumerate(r.inputs):
        shape = [evaluate(d, env or {}) for d in t.shape]
        small = [1 if isinstance(s, int) and s == 0 else n for n, s in zip(shape, t.strides)]
        arrays.append(np.array(np.broadcast_to(values(t.dtype, small, i + 1), shape)))
    got = run_region(r, TACTIC, {}, isa, arrays, env)[0]
    want = region_reference(r, arrays, env)[0]
    if r.output.dtype.is_float:
        rtol = {DType.BF16: 1e-2, DType.F16: 2e-3}.get(r.output.dtype, rtol)
        np.testing.assert_allclose(got.astype(np.float64), want.astype(np.float64), rtol=rtol, atol=rtol)
    else:
        np.testing.assert_array_equal(got, want)


def strided(d: DType, shape: Sequence[Dim], strides: Sequence[Dim]) -> Tensor:
    return Tensor(d, tuple(shape), tuple(strides))


def binary(op: str, a: DType = F, b: DType = F, out: DType = F) -> Expr:
    return Expr((Leaf(0, a), Leaf(1, b), Apply(op, (0, 1), out)))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("shape", [(), (0,), (1,), (17,), (64,), (1000,), (3, 0, 5), (3, 5), (2, 3, 129), (40000,)])
def test_dense_arithmetic_of_any_size(shape: tuple[int, ...], isa: Any) -> None:
    t = Tensor.dense(F, shape)
    check(region(binary("add"), [t, t], shape), isa)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("a", "b"), [
    ((4, 5, 33), (33,)), ((4, 5, 33), (5, 1)), ((4, 5, 33), ()), ((4, 1, 33), (5, 33)), ((4, 1, 1), (1, 5, 33)),
    ((1,), (4, 5, 33)), ((4, 5, 1), (1, 1, 33))])
def test_operands_broadcast(a: tuple[int, ...], b: tuple[int, ...], isa: Any) -> None:
    r = region(binary("mul"), [Tensor.dense(F, a), Tensor.dense(F, b)], (4, 5, 33))
    check(r, isa)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("d", [DType.F32, DType.BF16, DType.I8, DType.I64, DType.BOOL, DType.F64])
@pytest.mark.parametrize("perm", [(1, 0, 2), (0, 2, 1), (2, 1, 0), (1, 2, 0)])
def test_transposing_copies(perm: tuple[int, ...], d: DType, isa: Any) -> None:
    for shape in ((3, 17, 20), (16, 32, 1), (2, 3, 37), (33, 1, 5)):
        dense = Tensor.dense(d, shape)
        src = strided(d, [dense.shape[p] for p in perm], [dense.strides[p] for p in perm])
        check(region(identity(0, d), [src], src.shape), isa)


@pytest.mark.parametrize("isa", ISAS)
def test_images_change_layout(isa: Any) -> None:
    n, c, h, w = 2, 3, 9, 11
    nchw = strided(F, (n, h, w, c), (c * h * w, w, 1, h * w))
    scale = Expr((Leaf(0, DType.U8), Apply("cast", (0,), F, (("to", F),)), Leaf(1, F), Apply("mul", (1, 2), F),
                  Leaf(2, F), Apply("add", (3, 4), F)))
    u8 = strided(DType.U8, nchw.shape, nchw.strides)
    per_channel = Tensor.dense(F, (c,))
    check(region(scale, [u8, per_channel, Tensor.dense(F, (1,))], nchw.shape), isa)
    nhwc = strided(F, (n, c, h, w), (c * h * w, 1, w * c, c))
    check(region(Expr((Leaf(0, F), Apply("exp", (0,), F))), [nhwc], nhwc.shape), isa)


@pytest.mark.parametrize("isa", ISAS)
def test_slices_and_steps(isa: Any) -> None:
    check(region(identity(0, F), [strided(F, (5, 19), (100, 2))], (5, 19)), isa)
    check(region(identity(0, F), [strided(F, (5, 19), (-40, -1))], (5, 19)), isa)
    check(region(identity(0, DType.I16), [strided(DType.I16, (5, 19), (40, 2))], (5, 19)), isa)
    out = strided(F, (4, 3, 13), (90, 30, 1))
    check(region(binary("sub"), [Tensor.dense(F, (4, 3, 13)), Tensor.dense(F, (13,))], (), out), isa)


@pytest.mark.parametrize("isa", ISAS)
def test_a_transposed_and_a_plain_operand_meet(isa: Any) -> None:
    e = Expr((Leaf(0, F), Leaf(1, F), Apply("mul", (0, 1), F), Leaf(2, F), Apply("add", (2, 3), F), Leaf(3, F),
              Apply("sub", (4, 5), F)))
    a, b = strided(F, (2, 21, 35), (21 * 35, 1, 21)), Tensor.dense(F, (2, 21, 35))
    check(region(e, [a, b, Tensor.dense(F, (35,)), Tensor.dense(F, (21, 1))], b.shape), isa)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("src", "dst"), [
    (F, DType.BF16), (DType.BF16, F), (DType.F16, F), (F, DType.F16), (DType.I64, F), (DType.BOOL, F),
    (DType.U8, DType.I32), (F, DType.F64), (DType.I8, DType.I64)])
def test_conversions(src: DType, dst: DType, isa: Any) -> None:
    e = Expr((Leaf(0, src), Apply("cast", (0,), dst, (("to", dst),))))
    for n in (1, 33, 200):
        check(region(e, [Tensor.dense(src, (n,))], (n,)), isa)


def test_booleans_select() -> None:
    e = Expr((Leaf(0, F), Leaf(1, F), Apply("lt", (0, 1), DType.BOOL), Leaf(2, DType.BOOL),
              Apply("and", (2, 3), DType.BOOL), Imm(-1.0, F), Apply("where", (4, 0, 5), F)))
    mask = Tensor.dense(DType.BOOL, (37,))
    check(region(e, [Tensor.dense(F, (3, 37)), Tensor.dense(F, (3, 1)), mask], (3, 37)), host())
    masks = Expr((Leaf(0, DType.BOOL), Leaf(1, DType.BOOL), Apply("xor", (0, 1), DType.BOOL)))
    check(region(masks, [Tensor.dense(DType.BOOL, (3, 137)), Tensor.dense(DType.BOOL, (3, 1))], (3, 137)), host())


@pytest.mark.parametrize("isa", ISAS)
def test_symbolic_sizes_are_right_at_every_value(isa: Any) -> None:
    b, s = symbol("b"), symbol("s")
    dims = {"b": (0, 4, 300), "s": (1, 16, 400)}
    x, bias = Tensor.dense(F, (b, s, 24)), Tensor.dense(F, (24,))
    plain = region(binary("add"), [x, bias], x.shape, dims=dims)
    turned = region(identity(0, F), [strided(F, (b, 24, s), (s * 24, 1, 24))], (b, 24, s), dims=dims)
    for env in ({"b": 1, "s": 1}, {"b": 0, "s": 3}, {"b": 5, "s": 31}, {"b": 2, "s": 257}):
        check(plain, isa, env)
        check(turned, isa, env)


def test_a_result_that_no_column_changes_is_spread() -> None:
    e = Expr((Leaf(0, F), Apply("exp", (0,), F)))
    check(region(e, [Tensor.dense(F, (5, 1))], (5, 70)), host())


def test_a_column_between_others_is_written() -> None:
    out = strided(F, (4, 7, 1), (14, 2, 1))
    check(region(binary("sub"), [Tensor.dense(F, (4, 7, 1)), Tensor.dense(F, (7, 1))], (), out), host())
    check(region(identity(0, F), [strided(F, (4, 7, 1), (1, 4, 1))], (), out), host())


def test_strings_and_scattered_outputs_are_refused() -> None:
    t = Tensor.dense(DType.STRING, (3,))
    assert "strings" in TACTIC.applies(region(identity(0, DType.STRING), [t], (3,)), host())
    out = strided(F, (4, 5), (10, 2))
    assert "contiguous" in TACTIC.applies(region(identity(0, F), [Tensor.dense(F, (4, 5))], (), out), host())


def test_kernels_compile_for_neon() -> None:
    gelu = Expr((Leaf(0, F), Apply("gelu", (0,), F)))
    for r in (region(gelu, [Tensor.dense(F, (5, 70))], (5, 70)),
              region(identity(0, F), [strided(F, (20, 30), (1, 20))], (20, 30))):
        text = to_assembly(TACTIC.implement(r, {}, NEON, 1).steps[0].kernel.code, NEON)
        assert "\tbl\t" not in text
