"""Products of 8-bit codes without AMX: exact i32 sums on every instruction set, and what epilogues make of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from conv_cases import conv_region
from harness import run_region, strided

from whet.ir.dtypes import DType
from whet.ir.expr import ANCHOR, Apply, Expr, Imm, Leaf
from whet.ir.region import Region, Tensor
from whet.ir.region_eval import region_reference
from whet.ir.symbolic import Dim, symbol
from whet.targets.base import Tactic
from whet.targets.cpu import isa as isas
from whet.targets.cpu.compile import to_assembly
from whet.targets.cpu.conv_implicit import ConvGemm
from whet.targets.cpu.conv_int8 import ConvInt8
from whet.targets.cpu.gemm_int8 import GemmInt8
from whet.targets.cpu.gemm_int8_batched import GemmInt8Batched
from whet.targets.cpu.gemm_simple import GemmSimple
from whet.targets.cpu.packing_int8 import column_sums, pack_groups
from whet.targets.cpu.target import CpuTarget

U8, I8, I32, F32 = DType.U8, DType.I8, DType.I32, DType.F32
HOST = isas.host()
SDOT = replace(isas.NEON, features=isas.NEON.features | {"dotprod"})


def runnable() -> dict[str, isas.Isa]:
    """Instruction sets that this machine can run, by how each multiplies."""
    from whet.plan.fingerprint import cpu_flags

    found = {"host": HOST}
    if HOST.name == "avx512":
        found["avx512"] = isas.AVX512
    if HOST.arch == "x86_64":
        found["avx2"] = isas.AVX2
    if "avx_vnni" in cpu_flags():
        found["avx2_vnni"] = isas.AVX2_VNNI
    return found


ISAS = runnable()
every_isa = pytest.mark.parametrize("isa", ISAS.values(), ids=ISAS)
every_code = pytest.mark.parametrize("code", [U8, I8], ids=lambda d: d.value)


def codes(dtype: DType, shape: Sequence[int], seed: int = 0) -> np.ndarray:
    """Codes of the whole range, extremes included."""
    info = np.iinfo(dtype.np)
    rng = np.random.default_rng([seed, *shape])
    out = rng.integers(info.min, info.max, shape, dtype.np, endpoint=True)
    out[rng.random(shape) < 0.1] = info.min
    out[rng.random(shape) < 0.1] = info.max
    return out


def matmul(a: Tensor, b: Tensor, out: Tensor, **more: Any) -> Region:
    return Region("matmul", {}, (a, b), 2, out, Tensor.dense(I32, out.shape), compute="int8", **more)


def conv(x: Sequence[Dim], o: int, kernel: Sequence[int], code: DType, pad_value: int = 0, **more: Any) -> Region:
    r = conv_region(x, o, kernel, dtype=code, out_dtype=I32, compute="int8", **more)
    return replace(r, inputs=(r.inputs[0], replace(r.inputs[1], dtype=I8), *r.inputs[2:]),
                   anchor=Tensor.dense(I32, r.anchor.shape), attrs={**r.attrs, "pad_value": pad_value})


def data(region: Region, env: dict[str, int] | None = None) -> list[np.ndarray]:
    from whet.ir.symbolic import evaluate

    out = []
    for i, t in enumerate(region.inputs):
        shape = [evaluate(d, env or {}) for d in t.shape]
        if t.dtype.is_float:
            out.append(np.random.default_rng(i).standard_normal(shape).astype(t.dtype.np))
        else:
            out.append(codes(t.dtype, shape, i))
    return out


def spread(space: list[dict]) -> list[dict]:
    """A few of the parameter settings, with both orders among them."""
    orders = {p["order"]: p for p in reversed(space)}
    return list({repr(p): p for p in (space[0], *orders.values())}.values())


# -- matrix products -------------------------------------------------------------------------------------


@every_isa
@every_code
@pytest.mark.parametrize("size", [(1, 1, 1), (17, 33, 49), (29, 64, 7), (0, 4, 4), (5, 0, 3)], ids=str)
def test_sums_are_exact_for_odd_sizes_static_and_symbolic(isa: isas.Isa, code: DType, size: tuple) -> None:
    m, k, n = size
    a, b = codes(code, (m, k)), codes(I8, (k, n))
    for rows in (m, symbol("m")):
        r = matmul(strided(code, (rows, k), 3), strided(I8, (k, n), const=True), strided(I32, (rows, n), 1),
                   dims={"m": (0, max(m, 1), 64)})
        params = next(iter(GemmInt8().space(r, isa, 2)))
        got, = run_region(r, GemmInt8(), params, isa, [a, b], {"m": m})
        np.testing.assert_array_equal(got, a.astype(np.int32) @ b.astype(np.int32))


@every_isa
def test_every_kind_of_parameter_gives_the_same_sums(isa: isas.Isa) -> None:
    a, b = codes(U8, (2, 45, 36)), codes(I8, (36, 100))
    r = matmul(strided(U8, (2, 45, 36)), strided(I8, (36, 100), const=True), strided(I32, (2, 45, 100)))
    space = list(GemmInt8().space(r, isa, 2))
    assert 4 <= len(space) <= 24
    for params in (*spread(space), {**space[0], "ahead": False, "unroll": 3, "copy": True}):
        got, = run_region(r, GemmInt8(), params, isa, [a, b])
        np.testing.assert_array_equal(got, a.astype(np.int32) @ b.astype(np.int32))


@every_code
def test_batches_have_matrices_of_their_own(code: DType) -> None:
    r = matmul(strided(code, (3, 5, 20)), strided(I8, (3, 20, 33), const=True), strided(I32, (3, 5, 33)))
    a, b = data(r)
    got, = run_region(r, GemmInt8(), next(iter(GemmInt8().space(r, HOST, 2))), HOST, [a, b])
    np.testing.assert_array_equal(got, a.astype(np.int32) @ b.astype(np.int32))


def test_sums_wrap() -> None:
    k = 70000  # of 255 * -128: beyond 32 bits
    r = matmul(strided(U8, (1, k)), strided(I8, (k, 1), const=True), strided(I32, (1, 1)))
    got, = run_region(r, GemmInt8(), next(iter(GemmInt8().space(r, HOST, 1))), HOST,
                      [np.full((1, k), 255, np.uint8), np.full((k, 1), -128, np.int8)])
    assert got[0, 0] == (-128 * 255 * k + 2**31) % 2**32 - 2**31


@every_isa
@every_code
@pytest.mark.parametrize("transposed", [False, True])
def test_products_of_two_activations_are_exact(isa: isas.Isa, code: DType, transposed: bool) -> None:
    b = Tensor(I8, (2, 19, 33), (19 * 33, 1, 19)) if transposed else strided(I8, (2, 19, 33), 2)
    r = matmul(strided(code, (2, 5, 19), 1), b, strided(I32, (2, 5, 33)))
    arrays = data(r)
    for tactic in (GemmSimple(), GemmInt8Batched()):
        got, = run_region(r, tactic, next(iter(tactic.space(r, isa, 2))), isa, arrays)
        np.testing.assert_array_equal(got, arrays[0].astype(np.int32) @ arrays[1].astype(np.int32))


@pytest.mark.parametrize("rows", [0, 1, 20])
def test_numbers_of_rows_and_columns_are_bound_late(rows: int) -> None:
    m = symbol("m")
    r = matmul(strided(I8, (2, m, 16)), Tensor(I8, (2, 16, m), (16 * m, 1, 16)), strided(I32, (2, m, m)),
               dims={"m": (0, 20, 64)})
    arrays = data(r, {"m": rows})
    params = next(iter(GemmInt8Batched().space(r, HOST, 2)))
    got, = run_region(r, GemmInt8Batched(), params, HOST, arrays, {"m": rows})
    np.testing.assert_array_equal(got, arrays[0].astype(np.int32) @ arrays[1].astype(np.int32))


# -- convolutions ----------------------------------------------------------------------------------------

CONVOLUTIONS: list[tuple[Any, int, Any, dict[str, Any]]] = [
    ((1, 5, 7, 3), 5, (3, 3), {"pads": (1, 1, 1, 1)}),
    ((2, 9, 8, 16), 33, (3, 3), {"strides": (2, 2), "pads": (1, 1, 1, 1)}),
    ((1, 13, 13, 3), 20, (7, 7), {"strides": (2, 2), "pads": (3, 3, 3, 3), "gap": 3}),
    ((2, 9, 17), 7, (3,), {"pads": (2, 0), "x_gap": 2}),
    ((1, 4, 5, 6, 8), 12, (3, 2, 3), {"pads": (1, 0, 1, 1, 1, 0)}),
    ((1, 9, 9, 12), 24, (3, 3), {"pads": (2, 2, 2, 2), "dilations": (2, 2), "group": 4}),
    ((2, 7, 9, 16), 20, (1, 1), {"strides": (2, 2)}),
    ((1, 2, 2, 5), 3, (3, 3), {"pads": (4, 0, 0, 4), "strides": (3, 1)}),
    ((2, 9, 9, 8), 3, (3, 3), {"pads": (-1, 1, -2, 0)}),
    ((0, 9, 9, 8), 3, (3, 3), {}),
    ((2, 5, 5, 6), 6, (3, 3), {"group": 6, "pads": (1, 1, 1, 1)}),
    ((3, 1, 1, 1), 1, (1, 1), {}),
]


@every_isa
@every_code
@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
def test_convolutions_are_exact_and_pad_with_their_value(isa: isas.Isa, code: DType, case: tuple) -> None:
    x, o, kernel, more = case
    r = conv(x, o, kernel, code, pad_value=7 if code is U8 else -3, **more)
    arrays = data(r)
    got, = run_region(r, ConvInt8(), next(iter(ConvInt8().space(r, isa, 2))), isa, arrays)
    np.testing.assert_array_equal(got, region_reference(r, arrays)[0])


@pytest.mark.parametrize("code, isa", [(U8, HOST), (I8, HOST), (U8, isas.AVX2)], ids=["u8", "i8", "widened"])
@pytest.mark.parametrize("order", ["nm", "mn"])
def test_sizes_of_images_are_bound_late(code: DType, isa: isas.Isa, order: str) -> None:
    b, h, w = symbol("b"), symbol("h"), symbol("w")
    dims = {"b": (0, 2, 4), "h": (1, 9, 20), "w": (1, 20, 40)}
    for more in ({"pads": (1, 1, 1, 1), "strides": (2, 1)}, {}):
        r = conv((b, h, w, 8), 9, (3, 3), code, pad_value=5, dims=dims, **more)
        params = {**next(iter(ConvInt8().space(r, isa, 2))), "order": order}
        for env in ({"b": 2, "h": 7, "w": 21}, {"b": 0, "h": 7, "w": 10}):
            arrays = data(r, env)
            got, = run_region(r, ConvInt8(), params, isa, arrays, env)
            np.testing.assert_array_equal(got, region_reference(r, arrays, env)[0])


@pytest.mark.parametrize("group", [1, 4])
def test_pixels_of_a_1x1_convolution_are_rows_of_a_product(group: int) -> None:
    r = conv((2, 5, 7, 24), 60, (1, 1), U8, group=group, x_gap=3, gap=5)
    arrays = data(r)
    tactic = ConvGemm(GemmInt8())
    for params in spread(list(tactic.space(r, HOST, 2))):
        got, = run_region(r, tactic, params, HOST, arrays)
        np.testing.assert_array_equal(got, region_reference(r, arrays)[0])


# -- epilogues -------------------------------------------------------------------------------------------


def scaled(first: int, *, residual: DType | None = None, act: str = "", to: DType | None = None, zero: int = 0) -> Expr:
    """act(sums * scale[n] + shift[n] (+ residual * 0.5)), as codes where `to` says which."""
    t: list[Any] = [Leaf(ANCHOR, I32), Apply("cast", (0,), F32, (("to", F32),)), Leaf(first, F32),
                    Apply("mul", (1, 2), F32), Leaf(first + 1, F32), Apply("add", (3, 4), F32)]
    if residual:
        t += [Leaf(first + 2, residual), Apply("cast", (6,), F32, (("to", F32),)), Imm(0.5, F32),
              Apply("mul", (7, 8), F32), Apply("add", (5, 9), F32)]
    if act:
        t.append(Apply(act, (len(t) - 1,), F32, (("approximate", "none"),) if act == "gelu" else ()))
    if to:
        t.append(Apply("saturate", (len(t) - 1,), to, (("zero", zero), ("to", to))))
    return Expr(tuple(t))


def check_epilogue(r: Region, tactic: Tactic, isa: isas.Isa, env: dict[str, int] | None = None) -> None:
    arrays = data(r, env)
    for i in (2, 3):  # results of some tens
        arrays[i] = (np.abs(arrays[i]) * 2e-3 if i == 2 else arrays[i] * 20).astype(np.float32)
    want = region_reference(r, arrays, env)[0]
    for params in spread(list(tactic.space(r, isa, 2))):
        got, = run_region(r, tactic, params, isa, arrays, env)
        if r.output.dtype.is_float:
            np.testing.assert_allclose(got.astype(float), want.astype(float), rtol=1e-2, atol=1e-2)
        else:
            off = np.abs(got.astype(int) - want.astype(int))
            assert off.max(initial=0) <= 1  # a product and a sum may be rounded once
            assert (off > 0).sum() <= 0.01 * off.size
            assert got.size == 0 or len(np.unique(got)) > 20


@every_isa
@pytest.mark.parametrize("to, zero, act", [(U8, 0, "relu"), (U8, 17, ""), (I8, -5, ""), (U8, 3, "gelu")])
def test_sums_leave_as_codes(isa: isas.Isa, to: DType, zero: int, act: str) -> None:
    extra = (Tensor.dense(F32, (70,), const=True), Tensor.dense(F32, (70,), const=True))
    r = matmul(strided(U8, (19, 40)), strided(I8, (40, 70), const=True), strided(to, (19, 70), 5))
    r = replace(r, inputs=(*r.inputs, *extra), epilogue=scaled(2, act=act, to=to, zero=zero))
    check_epilogue(r, GemmInt8(), isa)


@pytest.mark.parametrize("m", [0, 3, 30])
def test_codes_of_a_symbolic_number_of_rows(m: int) -> None:
    extra = (Tensor.dense(F32, (70,), const=True), Tensor.dense(F32, (70,), const=True))
    r = matmul(strided(U8, (symbol("m"), 40)), strided(I8, (40, 70), const=True), strided(U8, (symbol("m"), 70), 5),
               dims={"m": (0, 20, 64)})
    r = replace(r, inputs=(*r.inputs, *extra), epilogue=scaled(2, act="relu", to=U8))
    check_epilogue(r, GemmInt8(), HOST, {"m": m})


@every_isa
@pytest.mark.parametrize("out, residual", [(U8, U8), (DType.BF16, F32)], ids=lambda d: d.value)
def test_residual_and_activation_are_fused(isa: isas.Isa, out: DType, residual: DType) -> None:
    r = conv((2, 6, 5, 12), 45, (3, 3), U8, pads=(1, 1, 1, 1), gap=4)
    shape = r.output.shape
    extra = (Tensor.dense(F32, (45,), const=True), Tensor.dense(F32, (45,), const=True), strided(residual, shape, 2))
    r = replace(r, inputs=(*r.inputs, *extra), output=replace(r.output, dtype=out),
                epilogue=scaled(2, residual=residual, act="relu", to=U8 if out is U8 else None))
    if out is not U8:
        assert r.epilogue is not None
        terms = r.epilogue.terms
        r = replace(r, epilogue=Expr((*terms, Apply("cast", (len(terms) - 1,), out, (("to", out),)))))
    check_epilogue(r, ConvInt8(), isa)


@pytest.mark.parametrize("shape", [(2, 1, 1, 19), (2, 6, 5, 1), (6, 1, 1), (1, 1, 5, 19), ()], ids=str)
def test_operands_per_image_line_and_pixel_are_broadcast(shape: tuple[int, ...]) -> None:
    r = conv((2, 6, 5, 9), 19, (3, 3), I8, pad_value=3, pads=(1, 1, 1, 1), gap=2)
    product = Expr((Leaf(ANCHOR, I32), Apply("cast", (0,), F32, (("to", F32),)), Leaf(2, F32),
                    Apply("mul", (1, 2), F32)))
    r = replace(r, inputs=(*r.inputs, Tensor.dense(F32, shape)), output=replace(r.output, dtype=F32), epilogue=product)
    arrays = data(r)
    got, = run_region(r, ConvInt8(), next(iter(ConvInt8().space(r, HOST, 2))), HOST, arrays)
    np.testing.assert_allclose(got, region_reference(r, arrays)[0], rtol=1e-6)


def test_what_is_no_number_is_the_lowest_code() -> None:
    extra = (Tensor.dense(F32, (20,), const=True), Tensor.dense(F32, (20,), const=True))
    for to in (U8, I8):
        r = matmul(strided(U8, (3, 8)), strided(I8, (8, 20), const=True), strided(to, (3, 20)))
        r = replace(r, inputs=(*r.inputs, *extra), epilogue=scaled(2, to=to, zero=4))
        arrays = data(r)
        arrays[3][:4] = np.nan, np.inf, -np.inf, 1e30
        got, = run_region(r, GemmInt8(), next(iter(GemmInt8().space(r, HOST, 1))), HOST, arrays)
        info = np.iinfo(to.np)
        assert (got[:, :4] == [info.min, info.max, info.min, info.max]).all()


# -- code of other machines, packing, reach --------------------------------------------------------------


@pytest.mark.parametrize("isa, instruction", [(isas.NEON, "smlal"), (SDOT, "sdot"), (isas.AVX2_VNNI, "vpdpbusd"),
                                              (isas.AVX2, "vpmaddwd")], ids=["neon", "sdot", "avx_vnni", "avx2"])
@every_code
def test_every_instruction_set_multiplies_as_it_does_best(isa: isas.Isa, instruction: str, code: DType) -> None:
    r = conv((1, 8, 8, 16), 20, (3, 3), code, pads=(1, 1, 1, 1))
    made = ConvInt8().implement(r, next(iter(ConvInt8().space(r, isa, 2))), isa, 2)
    text = [to_assembly(s.kernel.code, isa) for s in made.steps]
    assert instruction in text[-1]


def test_panels_are_groups_of_rows_by_columns() -> None:
    b = np.arange(-15, 15, dtype=np.int8).reshape(6, 5)  # two runs of three
    p = pack_groups(b, 4, 2, runs=2)
    assert p.shape == (2, 2, 2, 4, 2)
    assert p[0, 1, 0, 2].tolist() == [b[3, 2], b[4, 2]]
    assert p[0, 1, 1, 2].tolist() == [b[5, 2], 0]
    assert p[1, 0, 0].tolist() == [[b[0, 4], b[1, 4]], [0, 0], [0, 0], [0, 0]]
    assert column_sums(b, 4, -128)[1].tolist() == [b[:, 4].sum(dtype=int) * -128, 0, 0, 0]


@pytest.mark.parametrize("isa", [*ISAS.values(), isas.NEON], ids=[*ISAS, "neon"])
def test_every_product_of_codes_has_a_tactic(isa: isas.Isa) -> None:
    target = CpuTarget(isa, 2)
    for x, o, kernel, more in CONVOLUTIONS:
        assert not target.accepts(conv(x, o, kernel, I8, **more))
    for const in (False, True):
        r = matmul(strided(U8, (3, 5, 20)), strided(I8, (3, 20, 33), const=const), strided(I32, (3, 5, 33)))
        assert not target.accepts(r)


def test_what_is_no_product_of_codes_is_left_to_others() -> None:
    r = matmul(strided(F32, (4, 4)), strided(F32, (4, 4), const=True), strided(F32, (4, 4)))
    assert "not u8 or i8" in GemmInt8().applies(r, HOST)
    assert "not one of" in ConvInt8().applies(conv_region((1, 4, 4, 4), 4, (1, 1)), HOST)
