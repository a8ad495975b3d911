"""Products that give the moments of their rows too: each chunk's mean and sum of squared deviations from it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from targets.cuda import interpreted, matmul_cases, on_device
from targets.cuda.matmul_cases import BF16, F16, F32, F64, I8, U8, batch, linear, scaled
from targets.cuda.rows_cases import compiles
from whet.errors import InternalError, PlanFormatError, WhetError
from whet.ir.dtypes import DType
from whet.ir.graph import Graph, Value
from whet.ir.ops_region import REGION
from whet.ir.region import Region, Tensor, region_from_json
from whet.ir.region_eval import region_reference
from whet.ir.symbolic import evaluate
from whet.lowering.independent import independent
from whet.runtime.host import RegionReference
from whet.targets.base import Params
from whet.targets.cpu import TACTICS as CPU
from whet.targets.cpu.isa import AVX512
from whet.targets.cuda import TACTICS
from whet.targets.cuda.cublaslt import CublasLt
from whet.targets.cuda.cudnn import CudnnMatmul
from whet.targets.cuda.gpu import Gpu, typical
from whet.targets.cuda.matmul import MatmulTiles

TILES, H100 = MatmulTiles(), typical((9, 0))


def moments(r: Region) -> Region:
    """The region with the moments of its rows as a second result."""
    *lead, n = r.output.shape
    second = Tensor.dense(F32, (2, n // 64, *lead))
    return replace(r, attrs={**r.attrs, "moments": 64}, extra_outputs=(second,))


def product(a: Sequence[int], b: Sequence[int], out: DType = F16, **more: object) -> Region:
    return moments(matmul_cases.region(a, b, F16, anchor=F32, out=out, compute="f16", **more))  # type: ignore[arg-type]


def strided(r: Region) -> Region:
    """The output in every second place, each row's moments side by side."""
    (t,), steps = r.extra_outputs, tuple(2 * s for s in r.output.strides)
    rows = Tensor.dense(F32, (*t.shape[1:], 2)[1:] + (t.shape[1],)).strides  # [.., 2, chunk]
    return replace(r, output=replace(r.output, strides=steps),
                   extra_outputs=(replace(t, strides=(rows[-2], rows[-1], *rows[:-2])),))


CASES = {
    "one row": moments(linear(1, 48, 192, residual=True)),
    "17 rows, bf16": moments(linear(17, 40, 64, residual=True, dtype=BF16, compute="bf16")),
    "65 rows, gelu": moments(linear(65, 32, 192, "gelu", True)),
    "f32": product((17, 24), (24, 128), F32),
    "f32 by tf32": moments(linear(17, 24, 64, residual=True, dtype=F32, compute="tf32")),
    "f64 rounded": moments(matmul_cases.region((5, 19), (19, 64), F64, out=F32)),
    "codes": moments(scaled(9, 40, 64, matmul_cases.F8)),
    "integers": moments(matmul_cases.region((5, 19), (19, 64), DType.I32, out=F32)),
    "images of rows": product((2, 3, 17, 24), (24, 128)),
    "a batch of weights": product((2, 5, 16), (2, 16, 64)),
    "batches broadcast": product((3, 1, 5, 16), (2, 16, 64), BF16),
    "strides": strided(product((2, 3, 16), (16, 128))),
    "symbolic rows": moments(linear(batch(), 24, 128, dims={"batch": (0, 8, 64)})),
}


def of_rows(y: np.ndarray) -> np.ndarray:
    """The moments of an array's rows, in f64."""
    x = y.astype(np.float64).reshape(*y.shape[:-1], y.shape[-1] // 64, 64)
    with np.errstate(all="ignore"):
        return np.moveaxis(np.stack([x.mean(-1), x.var(-1) * 64]), -1, 1)


def settings(r: Region, machine: Gpu, some: int) -> list[Params]:
    """Of the tactic's settings, those with the smallest tiles and some of the others."""
    assert TILES.applies(r, machine) == ""
    found = sorted(TILES.space(r, machine, 1), key=lambda q: q["bm"] * q["bk"])
    assert 0 < len(found) <= 24
    assert all(q["bn"] == 64 and TILES.cost(r, q, machine, 1) > 0 for q in found)
    return found[:: max(1, len(found) // some)][:some]


def check(r: Region, run, arrays: list[np.ndarray], machine: Gpu = H100, some: int = 1,
          env: dict[str, int] | None = None) -> list[np.ndarray]:
    """The results of the last setting. Moments are exact ones of what the kernel itself has written."""
    coarse = {F32: 3e-3, F16: 3e-3, BF16: 2e-2}[r.output.dtype]
    with np.errstate(all="ignore"):
        want = region_reference(r, arrays, env)
    for params in settings(r, machine, some):
        with np.errstate(all="ignore"):
            got = run(r, TILES.implement(r, params, machine, 1), arrays, env)
        assert [x.dtype for x in got] == [x.dtype for x in want]
        y, z = (x.astype(np.float64) for x in (got[0], want[0]))
        scale = np.abs(z[np.isfinite(z)]).max(initial=1e-3)
        np.testing.assert_allclose(y, z, coarse, coarse * scale, err_msg=str(params))
        assert got[1].shape == (2, got[0].shape[-1] // 64, *got[0].shape[:-1])
        exact = of_rows(got[0])
        scale = np.abs(exact[np.isfinite(exact)]).max(initial=1e-3)
        np.testing.assert_allclose(got[1], exact, 1e-5, 1e-7 * scale, err_msg=str(params))
    return got


@pytest.mark.parametrize("name", CASES)
def test_right(name: str) -> None:
    r = CASES[name]
    for env in ({"batch": 3}, {"batch": 0}) if r.dims else ({},):
        check(r, interpreted.run, matmul_cases.random(r, 1, env), env=env)


def test_the_reference_is_the_definition() -> None:
    r = CASES["65 rows, gelu"]
    y, m = region_reference(r, matmul_cases.random(r))
    assert m.dtype == np.float32
    np.testing.assert_allclose(m, of_rows(y), 1e-6, 1e-6)


def odd(r: Region) -> list[np.ndarray]:
    """Operands with NaN and infinity in two rows of the residual."""
    arrays = matmul_cases.random(r, 2)
    arrays[3][1, 70], arrays[3][2, 3], arrays[3][2, 130] = np.nan, np.inf, -np.inf
    return arrays


def odd_rows(run, machine: Gpu) -> None:
    """NaN and infinity reach the moments of their row and chunk alone."""
    r = moments(linear(5, 32, 192, residual=True))
    _, m = check(r, run, odd(r), machine)
    want = np.zeros(m.shape, bool)
    want[:, 1, 1] = want[:, 0, 2] = want[:, 2, 2] = True
    np.testing.assert_array_equal(~np.isfinite(m), want)
    np.testing.assert_array_equal(m[0, [0, 2], 2], [np.inf, -np.inf])


def far_from_zero(run, machine: Gpu) -> None:
    """A large mean costs the deviations no digits."""
    r = product((17, 16), (16, 128), F32)
    a, b = matmul_cases.random(r, 4)
    a[:, 0], b[0], a[:, 1:] = 1000, 8, a[:, 1:] / 64  # 8000, and about 0.06 of noise
    _, m = check(r, run, [a, b], machine)
    exact = of_rows(region_reference(r, [a, b])[0])
    assert 0.01 < exact[1].min() < exact[1].max() < 5
    np.testing.assert_allclose(m[0], exact[0], 1e-6)
    np.testing.assert_allclose(m[1], exact[1], 2e-2)


def test_nan_and_infinity_stay_in_their_chunk() -> None:
    odd_rows(interpreted.run, H100)


def test_a_large_mean_costs_the_deviations_no_digits() -> None:
    far_from_zero(interpreted.run, H100)


def test_tiles_are_a_chunk_wide_and_of_few_rows() -> None:
    for machine in (typical((8, 0)), H100):
        found = list(TILES.space(moments(linear(128, 768, 768, residual=True)), machine, 1))
        assert len(found) == 24
        assert {q["bn"] for q in found} == {64}
        assert {q["bm"] for q in found} >= {16, 32}
        assert {q["bk"] for q in found} >= {64, 128, 256}
        assert {q["order"] for q in found} == {"", "nk"}
    r = CASES["f64 rounded"]
    for rows in (1, 16, 17, 4096):
        for dtype, compute in ((F64, "f32"), (F32, "f32"), (F32, "tf32"), (F16, "f16"), (BF16, "bf16")):
            r = moments(matmul_cases.region((rows, 64), (64, 64), dtype, out=F32, compute=compute))
            assert list(TILES.space(r, typical((7, 5)), 1)), (rows, dtype)


@pytest.mark.parametrize("number", [80, 90])
def test_compiles(number: int) -> None:
    compiles(TILES, moments(linear(128, 768, 768, residual=True)), number)


def test_other_tactics_refuse_the_moments() -> None:
    """Of every size and type that they would take otherwise."""
    plain = (linear(1, 768, 768, residual=True), linear(64, 768, 768, "relu"), linear(4096, 768, 3072),
             linear(128, 768, 768, residual=True, dtype=F32, compute="f32"), scaled(64, 256, 256, matmul_cases.F8),
             matmul_cases.region((16, 64), (64, 64), U8, I8), matmul_cases.region((16, 64), (64, 64), F64))
    assert all(t.applies(r, m) or "moments" in t.applies(moments(r), m)
               for tactics, m in ((TACTICS, H100), (CPU, AVX512)) for t in tactics["matmul"] for r in plain
               if t.name != TILES.name)
    taking = {t.name for t in TACTICS["matmul"] for r in plain if not t.applies(r, H100)}
    assert taking == {"matmul_rows", "matmul_splitk", "matmul_persistent", "matmul_tiles"}
    for r in plain[:3]:
        assert [t.name for t in TACTICS["matmul"] if not t.applies(moments(r), H100)] == [TILES.name]
    for library in (CublasLt(), CudnnMatmul()):
        assert "moments" in library._reason(moments(plain[0]))
    assert "u8" not in TILES.applies(plain[5], H100)
    assert "i32" in TILES.applies(moments(plain[5]), H100)


def malformed(name: str) -> Region:
    r = CASES["f32"]
    (t,) = r.extra_outputs
    second = {"narrow": replace(t, dtype=F16), "flat": Tensor.dense(F32, t.shape[:-1]),
              "short": Tensor.dense(F32, (2, 1, *t.shape[2:]))}
    match name:
        case "absent":
            return replace(r, attrs={})
        case "missing":
            return replace(r, extra_outputs=())
        case "twice":
            return replace(r, extra_outputs=(t, t))
        case "ragged":
            return replace(r, inputs=matmul_cases.region((17, 24), (24, 100)).inputs,
                           output=Tensor.dense(F32, (17, 100)), anchor=Tensor.dense(F32, (17, 100)))
        case "codes":
            return replace(r, output=replace(r.output, dtype=I8))
        case "grouped":
            return replace(r, kind="matmul_grouped")
        case str() if name in second:
            return replace(r, extra_outputs=(second[name],))
    return replace(r, attrs={"moments": {"wide": 128, "zero": 0, "text": "64", "true": True, "list": (64,)}[name]})


@pytest.mark.parametrize("name", ["absent", "missing", "twice", "ragged", "codes", "grouped", "narrow", "flat", "short",
                                  "wide", "zero", "text", "true", "list"])
def test_malformed_moments_are_typed_errors(name: str) -> None:
    r = malformed(name)
    with pytest.raises(ValueError, match="moments"):
        region_from_json(json.loads(json.dumps(r.describe())))
    with pytest.raises(PlanFormatError, match="moments"):
        RegionReference(json.dumps(r.describe()).encode(), "step 1")
    with pytest.raises(InternalError, match="moments"):
        region_reference(r, matmul_cases.random(r))
    with pytest.raises(WhetError, match="moments"):
        REGION.rule([Value(f"x{i}", t.dtype, t.shape) for i, t in enumerate(r.inputs)], {"region": r})
    if r.kind == "matmul":
        assert "moments" in TILES.applies(r, H100)


def test_a_plan_keeps_the_moments() -> None:
    r = CASES["symbolic rows"]
    again = region_from_json(json.loads(json.dumps(r.describe())))
    assert again == r
    assert evaluate(again.extra_outputs[0].shape[2], {"batch": 3}) == 3


def test_a_batch_of_rows_stays_independent() -> None:
    def claims(r: Region) -> list[str]:
        g = Graph()
        g.dims.update(r.dims)
        g.inputs = [Value(f"x{i}", t.dtype, t.shape) for i, t in enumerate(r.inputs)]
        y, *m = g.add_node("region", g.inputs, {"region": r}).outputs
        g.outputs = [y, *(g.add("transpose", [v], {"perm": (2, 0, 1)}) for v in m)]  # rows first
        g.output_names = ["y", "moments"][:len(g.outputs)]
        return independent(g)

    r = CASES["symbolic rows"]
    assert claims(r) == ["batch"]
    assert claims(replace(r, attrs={}, extra_outputs=())) == ["batch"]


@on_device.needs_cuda
@pytest.mark.parametrize("rows", [128, 197])
def test_right_on_a_gpu(rows: int) -> None:
    r = moments(linear(rows, 768, 768, residual=True))
    check(r, on_device.run, matmul_cases.random(r), on_device.gpu(), 24)


@on_device.needs_cuda
@pytest.mark.parametrize("name", CASES)
def test_every_case_on_a_gpu(name: str) -> None:
    r, env = CASES[name], {"batch": 3}
    check(r, on_device.run, matmul_cases.random(r, 1, env), on_device.gpu(), 2, env)


@on_device.needs_cuda
def test_odd_values_on_a_gpu() -> None:
    odd_rows(on_device.run, on_device.gpu())
    far_from_zero(on_device.run, on_device.gpu())
