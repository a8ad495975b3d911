"""Depthwise convolution of codes: exact sums for every shape, padding value, sign and instruction set."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from conv_cases import conv_region
from harness import run_region, strided
from int8_isas import AVX_VNNI, HOST, ISAS, OTHERS, TWO

from whet.ir.dtypes import DType
from whet.ir.expr import ANCHOR, Apply, Expr, Imm, Leaf
from whet.ir.region import Region, Tensor
from whet.ir.region_eval import region_reference
from whet.ir.symbolic import symbol
from whet.targets.cpu.compile import to_assembly
from whet.targets.cpu.conv_depthwise import window_of
from whet.targets.cpu.conv_depthwise_dot import ConvDepthwiseDot
from whet.targets.cpu.conv_depthwise_int8 import MOST_TAPS, ConvDepthwiseCodes
from whet.targets.cpu.depthwise_order import Taps, blocks_of, order
from whet.targets.cpu.isa import AVX2, AVX512, NEON, Isa

F, U8, I8, I32 = DType.F32, DType.U8, DType.I8, DType.I32
CODES, DOT = ConvDepthwiseCodes(), ConvDepthwiseDot()
CASES = [
    ((1, 5, 7, 3), 3, (3, 3), {"pads": (1, 1, 1, 1)}),
    ((2, 9, 8, 17), 17, (3, 3), {"strides": (2, 2), "pads": (1, 1, 1, 1), "gap": 5}),
    ((1, 7, 13, 33), 33, (5, 2), {"strides": (2, 1), "pads": (2, 1, 2, 1)}),
    ((2, 29, 17), 17, (3,), {"pads": (2, 0), "x_gap": 2}),
    ((1, 4, 5, 6, 8), 8, (3, 2, 3), {"pads": (1, 0, 1, 1, 1, 0)}),
    ((1, 5, 9, 6), 12, (1, 2), {"pads": (0, 1, 0, 1)}),
    ((1, 2, 2, 16), 16, (3, 3), {"pads": (4, 4, 4, 4), "dilations": (4, 4)}),
    ((1, 19, 19, 1), 1, (7, 7), {"pads": (3, 3, 3, 3)}),
]


def codes(x: Any, o: int, kernel: Any, dtype: DType = U8, pad_value: int = 0, **more: Any) -> Region:
    """An integer depthwise region."""
    r = conv_region(x, o, kernel, group=x[-1], dtype=dtype, compute="int8", **more)
    inputs = (r.inputs[0], replace(r.inputs[1], dtype=I8), *r.inputs[2:])
    return replace(r, attrs={**r.attrs, "pad_value": pad_value}, inputs=inputs,
                   anchor=replace(r.anchor, dtype=I32), output=replace(r.output, dtype=I32))


def requantized(r: Region, to: DType = U8, zero: int = 3, clip: bool = True, residual: bool = False) -> Region:
    """The region with what follows in a quantized network: scale, bias, ReLU6, rounding to codes."""
    n, c = len(r.inputs), r.output.shape[-1]
    column = Tensor.dense(F, (c,), const=True)
    terms: list[Any] = [Leaf(ANCHOR, I32), Apply("cast", (0,), F, (("to", F),)), Leaf(n, F), Apply("mul", (1, 2), F),
                        Leaf(n + 1, F), Apply("add", (3, 4), F)]
    inputs = (*r.inputs, column, column)
    if residual:
        terms += [Leaf(n + 2, U8), Apply("cast", (len(terms),), F, (("to", F),)),
                  Apply("add", (len(terms) - 1, len(terms) + 1), F)]
        inputs = (*inputs, strided(U8, r.output.shape, 2))
    if clip:
        terms += [Imm(0.0, F), Apply("max", (len(terms) - 1, len(terms)), F), Imm(90.0, F),
                  Apply("min", (len(terms) + 1, len(terms) + 2), F)]
    terms.append(Apply("saturate", (len(terms) - 1,), to, (("to", to), ("zero", zero))))
    return replace(r, inputs=inputs, epilogue=Expr(tuple(terms)), output=replace(r.output, dtype=to))


def contents(r: Region, env: dict[str, int] | None = None) -> list[np.ndarray]:
    """Codes over their whole range, the extremes among them; scales that spread the sums over the codes."""
    from whet.ir.symbolic import evaluate

    rng = np.random.default_rng(3)
    out = []
    for i, t in enumerate(r.inputs):
        shape = [evaluate(d, env or {}) for d in t.shape]
        if t.dtype.is_float:
            out.append((rng.uniform(0.001, 0.02, shape) if i == r.n_anchor else rng.normal(0, 30, shape)).astype("f"))
            continue
        info = np.iinfo(t.dtype.np)
        a = rng.integers(info.min, info.max, shape, t.dtype.np, endpoint=True)
        out.append(np.where(rng.random(shape) < 0.2, rng.choice([info.min, info.max], shape), a).astype(t.dtype.np))
    return out


def check(r: Region, tactic: Any, isa: Isa, params: Any = None, env: dict[str, int] | None = None) -> None:
    arrays = contents(r, env)
    params = params or next(iter(tactic.space(r, isa, 2)))
    got = run_region(r, tactic, params, isa, arrays, env, threads=2)[0]
    np.testing.assert_array_equal(got, region_reference(r, arrays, env)[0])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_sums_are_exact_for_every_shape(case: Any, isa: Isa) -> None:
    x, o, kernel, more = case
    for dtype, pad in ((U8, 0), (I8, -7)):
        r = codes(x, o, kernel, dtype, pad, **more)
        check(r, CODES, isa, {"width": 3, "rows": 2, "splits": 2})


@pytest.mark.parametrize("isa", ISAS)
def test_the_epilogue_makes_codes_again(isa: Isa) -> None:
    r = codes((2, 6, 5, 19), 19, (3, 3), U8, 131, pads=(1, 1, 1, 1), gap=4)
    for to, zero, clip, residual in ((U8, 3, True, False), (I8, -5, False, True)):
        check(requantized(r, to, zero, clip, residual), CODES, isa)


@pytest.mark.parametrize(("h", "w"), [(1, 1), (7, 10)])
def test_symbolic_sizes_are_bound_late(h: int, w: int) -> None:
    dims = {"b": (0, 2, 4), "h": (1, 9, 20), "w": (1, 9, 20)}
    r = codes((symbol("b"), symbol("h"), symbol("w"), 20), 20, (3, 3), U8, 9, pads=(1, 1, 1, 1), dims=dims)
    for b in (0, 2):
        check(r, CODES, HOST, env={"b": b, "h": h, "w": w})


def test_windows_that_f32_does_not_hold_are_summed_in_integers() -> None:
    r = codes((1, 20, 20, 5), 5, (19, 19), U8, 255, pads=(3, 3, 3, 3))
    assert MOST_TAPS < 19 * 19
    check(r, CODES, HOST, {"width": 4, "rows": 1, "splits": 1})


def test_neon_code_is_made() -> None:
    r = codes((1, 6, 6, 5), 5, (3, 3), U8, 3, pads=(1, 1, 1, 1))
    impl = CODES.implement(r, next(iter(CODES.space(r, NEON, 2))), NEON, 2)
    assert "mla" in to_assembly(impl.steps[0].kernel.code, NEON)


# -- dot products down the columns -----------------------------------------------------------------------------

DOTS = [
    ((2, 7, 9, 96), (3, 3), {"pads": (1, 1, 1, 1)}),
    ((1, 8, 9, 144), (3, 3), {"pads": (1, 1, 1, 1), "strides": (2, 2), "gap": 3, "x_gap": 5}),
    ((1, 6, 9, 17), (3, 3), {"pads": (1, 0, 0, 2)}),
    ((1, 7, 8, 64), (5, 5), {"pads": (2, 2, 2, 2), "strides": (1, 2)}),
    ((1, 6, 9, 40), (3, 2), {"pads": (2, 2, 2, 2), "dilations": (2, 3)}),
    ((1, 3, 1, 33), (1, 1), {}),
]


@pytest.mark.parametrize("c", [1, 16, 17, 40, 64, 96, 100, 144, 192])
def test_blocks_hold_every_channel_and_packs_undo_their_order(c: int) -> None:
    for columns in (1, 3, 50):
        blocks = blocks_of(c, HOST, columns)
        assert {x for b in blocks for x in b.channels()} - {-1} == set(range(c))
        assert all(len(b.channels()) == HOST.width and b.parts <= columns for b in blocks)
    quarters = np.array(order(64)).reshape(4, 4, 4)  # vector, lane, element
    assert quarters.transpose(1, 0, 2).reshape(-1).tolist() == list(range(64))


def test_every_row_of_the_window_is_taken_once() -> None:
    w = window_of(codes((1, 9, 9, 16), 16, (5, 3), pads=(2, 1, 2, 1), strides=(2, 1), dilations=(2, 1)))
    taps = Taps.of(w, 3)
    for r in range(3):
        taken = {taps.rows[m]: i for g, row, rows in taps.uses if row == r
                 for m, i in zip(taps.groups[g], rows, strict=True) if i is not None}
        assert taken == {r * 2 + i * 2: i for i in range(5)}


@pytest.mark.parametrize("isa", TWO)
@pytest.mark.parametrize("case", DOTS, ids=str)
def test_dot_products_are_exact_for_every_shape(case: Any, isa: Isa) -> None:
    x, kernel, more = case
    for dtype, pad in ((U8, 200), (I8, -7)):
        r = codes(x, x[-1], kernel, dtype, pad, **more)
        space = list(DOT.space(r, isa, 2))
        check(requantized(r, U8, 5), DOT, isa, space[0])
        check(requantized(r, I8, -9, residual=True) if pad > 0 else r, DOT, isa, {**space[-1], "splits": 2})


def test_instructions_are_what_the_cpu_has() -> None:
    r = requantized(codes((1, 4, 5, 96), 96, (3, 3), pads=(1, 1, 1, 1)))
    for isa, name in ((AVX512, "vpmaddwd"), (AVX2, "vpmaddwd"), (AVX_VNNI, "vpdpbusd")):
        (step,) = DOT.implement(r, {"rows": 1, "width": 2, "splits": 1}, isa, 1).steps
        code = to_assembly(step.kernel.code, isa)
        assert name in code
        assert "vpackuswb" in code


@pytest.mark.parametrize("c", [64, 96, 17])
@pytest.mark.parametrize("isa", OTHERS)
def test_other_instructions_give_the_same(isa: Isa, c: int) -> None:
    for dtype, pad in ((U8, 200), (I8, -7)):
        r = codes((1, 4, 5, c), c, (3, 3), dtype, pad, pads=(1, 1, 1, 1), strides=(1, 2))
        check(requantized(r, U8, 5), DOT, isa, {"rows": 1, "width": 2, "splits": 1})


def test_a_residual_of_codes_and_a_real_result_are_taken() -> None:
    r = codes((1, 5, 6, 80), 80, (3, 3), U8, 3, pads=(1, 1, 1, 1))
    real = Expr((Leaf(ANCHOR, I32), Apply("cast", (0,), F, (("to", F),)), Imm(0.25, F), Apply("mul", (1, 2), F)))
    check(replace(r, epilogue=real, output=replace(r.output, dtype=F)), DOT, HOST)


@pytest.mark.parametrize("h", [2, 9])
def test_the_height_may_be_symbolic(h: int) -> None:
    dims = {"b": (0, 2, 4), "h": (2, 9, 20)}
    r = codes((symbol("b"), symbol("h"), 9, 70), 70, (3, 3), U8, 9, pads=(1, 1, 1, 1), dims=dims)
    assert {p["rows"] for p in DOT.space(r, HOST, 2)} >= {2}
    for b in (0, 2):
        check(requantized(r), DOT, HOST, {"rows": 2, "width": 2, "splits": 1}, {"b": b, "h": h})
