"""Kernels that read rows' means and deviations from the moments that a product left of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from targets.cuda import interpreted, matmul_cases, on_device
from targets.cuda.matmul_cases import BF16, F16, F32, F64, cast
from targets.cuda.rows_cases import compiles
from whet.errors import InternalError, PlanFormatError, WhetError
from whet.ir.expr import ANCHOR, Apply, Expr, Leaf
from whet.ir.graph import Graph, Value
from whet.ir.ops_region import REGION
from whet.ir.printer import format_node
from whet.ir.region import Region, Tensor, region_from_json
from whet.ir.region_eval import region_reference
from whet.ir.symbolic import Dim
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
from whet.targets.cuda.matmul_persistent import MatmulPersistent
from whet.targets.cuda.matmul_splitk import MatmulSplitK
from whet.targets.cuda.rownorm import RowNorm

TILES, H100 = MatmulTiles(), typical((9, 0))
COARSE = {F32: 2e-4, F16: 4e-3, BF16: 3e-2, F64: 2e-4}
SMALL = {"bm": 16, "bn": 32, "bk": 16, "warps": 4, "stages": 2, "group": 8, "order": ""}


def product(rows: Sequence[Dim], chunks: int, n: int = 40, k: int = 24, what: Sequence[str] = ("mean", "deviation"),
            dtype=F16, of: Sequence[Dim] | None = None, **more: object) -> Region:
    """act((x @ w - mean * u) * inverse + v), the norm of x's rows before a product; with one statistic, x @ w times it.
    of: the rows that there are moments of, which broadcast."""
    moments = Tensor.dense(F32, (2, chunks, *(rows if of is None else of)))
    terms: list[object] = [Leaf(ANCHOR, F32)]
    if len(what) == 1:
        terms += [Leaf(2, F32), Apply("mul", (0, 1), F32)]
    else:
        terms += [Leaf(2, F32), Leaf(4, F32), Apply("mul", (1, 2), F32), Apply("sub", (0, 3), F32), Leaf(3, F32),
                  Apply("mul", (4, 5), F32), Leaf(5, F32), Apply("add", (6, 7), F32),
                  Apply("gelu", (8,), F32, (("approximate", "none"),))]
    if dtype is not F32:
        terms.append(cast((len(terms) - 1,), dtype))
    extra = [moments] * len(what) + [Tensor.dense(F32, (n,), const=True)] * 2 * (len(what) - 1)
    made = matmul_cases.region((*rows, k), (k, n), dtype, anchor=F32, out=dtype, const=True, extra=extra,
                               epilogue=Expr(tuple(terms)), **more)  # type: ignore[arg-type]
    return replace(made, statistics={2 + i: (w, 0.0 if w == "mean" else 1e-5) for i, w in enumerate(what)})


def norm(rows: Sequence[Dim], chunks: int, n: int = 48, kind: str = "layernorm", dtype=F16, real=F32,
         after: bool = False, of: Sequence[Dim] | None = None, **more: object) -> Region:
    """norm(x + (residual - mean) * deviation * g), the residual normalized by statistics; after: times rms, too."""
    x, g = Tensor.dense(dtype, (*rows, n)), Tensor.dense(F32, (n,), const=True)
    scales = (g,) * (2 if kind == "layernorm" else 1)
    first = 1 + len(scales)
    moments = Tensor.dense(F32, (2, chunks, *(rows if of is None else of)))
    terms: list[object] = []

    def put(t: object) -> int:
        terms.append(t)
        return len(terms) - 1

    def leaf(k: int, d=F32) -> int:
        at = put(Leaf(k, d))
        return at if d is real else put(cast((at,), real))

    value = put(Apply("sub", (leaf(first, dtype), leaf(first + 1)), real))
    value = put(Apply("mul", (value, leaf(first + 2)), real))
    value = put(Apply("mul", (value, leaf(first + 3)), real))
    put(Apply("add", (leaf(0, dtype), value), real))
    before, terms = Expr(tuple(terms)), []  # type: ignore[arg-type]
    put(Leaf(ANCHOR, real))
    if after:
        put(Apply("mul", (0, leaf(first + 4)), real))
    if dtype is not real:
        put(cast((len(terms) - 1,), dtype))
    return Region(kind, {"axis": len(rows), "epsilon": 1e-5}, (x, *scales, x, moments, moments, g,
                  *[moments] * after), first, x, Tensor.dense(real, x.shape),
                  Expr(tuple(terms)) if len(terms) > 1 else None, {0: before},  # type: ignore[arg-type]
                  statistics={first + 1: ("mean", 0.0), first + 2: ("deviation", 1e-12),
                              **({first + 4: ("rms", 0.5)} if after else {})}, **more)  # type: ignore[arg-type]


def rows_apart(r: Region) -> Region:
    """Moments as [rows, 2, chunks] in memory."""
    def laid(t: Tensor) -> Tensor:
        each = 2 * t.shape[1]
        rows = Tensor.dense(F32, (*t.shape[2:], each)).strides[:-1]
        return replace(t, strides=(t.shape[1], 1, *rows))

    return replace(r, inputs=tuple(laid(t) if k in r.statistics else t for k, t in enumerate(r.inputs)))


N = matmul_cases.batch()
DIMS = {"batch": (0, 8, 64)}
PRODUCTS = {
    "one row, one chunk": product((1,), 1),
    "17 rows, 3 chunks": product((17,), 3),
    "65 rows, 12 chunks, bf16": product((65,), 12, dtype=BF16, compute="bf16"),
    "mean alone": product((17,), 12, what=("mean",), dtype=F32),
    "deviation alone": product((17,), 3, what=("deviation",), dtype=F32),
    "mean of squares": product((17,), 12, what=("rms",), dtype=F32),
    "mean of squares, one chunk": product((5,), 1, what=("rms",)),
    "images of rows": product((3, 17), 3),
    "images apart": rows_apart(product((2, 17), 3)),
    "rows for all images": product((3, 17), 3, of=(1, 17)),
    "one number for all": product((2, 5), 4, of=(1, 1)),
    "symbolic rows": product((N,), 3, dims=DIMS),
}
NORMED = {
    "one row, one chunk": norm((1,), 1),
    "17 rows, 3 chunks": norm((17,), 3),
    "65 rows, 12 chunks, bf16": norm((65,), 12, dtype=BF16),
    "all three": norm((17,), 12, dtype=F32, after=True),
    "rms norm": norm((5,), 3, kind="rmsnorm", after=True),
    "images apart": rows_apart(norm((2, 17), 3, after=True)),
    "rows for all images": norm((3, 5), 4, of=(1, 5)),
    "one number for all": norm((3, 5), 4, of=(1, 1)),
    "symbolic rows": norm((N,), 3, dims=DIMS),
}
WAYS = ({"rows": 1, "cols": 64, "warps": 1}, {"rows": 4, "cols": 64, "warps": 1}, {"rows": 8, "cols": 16, "warps": 1},
        {"rows": 1, "cols": 16, "warps": 1}, {"rows": 1, "cols": 16, "warps": 1, "split": True})


def arrays_of(r: Region, env: dict[str, int], seed: int = 1) -> list[np.ndarray]:
    """Inputs with the moments of rows of random numbers, the same ones for all statistics."""
    arrays = matmul_cases.random(r, seed, env)
    rng, made = np.random.default_rng(seed), None
    for k in r.statistics:
        shape = arrays[k].shape
        x = rng.normal(0.3, 1.5, (*shape[1:], 64)) + rng.normal(size=(shape[1], *shape[2:], 1))
        made = np.stack([x.mean(-1), x.var(-1) * 64]).astype(np.float32) if made is None else made
        arrays[k] = made
    return arrays


def check(r: Region, tactic, ways: Sequence[Params], run, arrays: list[np.ndarray], machine: Gpu = H100,
          env: dict[str, int] | None = None) -> np.ndarray:
    assert tactic.applies(r, machine) == ""
    with np.errstate(all="ignore"):
        want = region_reference(r, arrays, env)[0].astype(np.float64)
    tol = COARSE[r.output.dtype]
    scale = max(1.0, np.abs(want[np.isfinite(want)]).max(initial=0))
    for params in ways:
        with np.errstate(all="ignore"):
            got = run(r, tactic.implement(r, params, machine, 1), arrays, env)[0].astype(np.float64)
        np.testing.assert_allclose(got, want, tol, tol * scale, err_msg=str(params))
    return got


def products_right(name: str, run, machine: Gpu = H100, ways: Sequence[Params] = (SMALL,)) -> None:
    r = PRODUCTS[name]
    for env in ({"batch": 17}, {"batch": 0}) if r.dims else ({},):
        check(r, TILES, ways, run, arrays_of(r, env), machine, env)


def norms_right(name: str, run, machine: Gpu = H100) -> None:
    r = NORMED[name]
    for env in ({"batch": 5}, {"batch": 0}) if r.dims else ({},):
        check(r, RowNorm(), WAYS, run, arrays_of(r, env), machine, env)


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_are_right(name: str) -> None:
    products_right(name, interpreted.run)


@pytest.mark.parametrize("name", NORMED)
def test_norms_are_right(name: str) -> None:
    norms_right(name, interpreted.run)


def other_kernels(run, machine: Gpu) -> None:
    """Tiles too large to read early, the depth divided, tile after tile."""
    r = product((17,), 3, k=256)
    arrays = arrays_of(r, {})
    arrays[1] /= 16
    check(r, TILES, [{**SMALL, "bm": 64, "bn": 128, "bk": 64}], run, arrays, machine)
    check(r, MatmulSplitK(), [{**SMALL, "bk": 64, "split": 2}], run, arrays, machine)
    made = MatmulPersistent().implement(r, {**SMALL, "bk": 64, "blocks": False, "programs": 2}, machine, 1)
    want = region_reference(r, arrays)[0].astype(np.float64)
    np.testing.assert_allclose(run(r, made, arrays, {})[0].astype(np.float64), want, 4e-3, 2e-2)


def test_other_kernels_are_right() -> None:
    other_kernels(interpreted.run, H100)


@pytest.mark.parametrize("what", ["mean", "deviation", "rms"])
def test_the_reference_is_the_definition(what: str) -> None:
    """Of rows, as their moments tell, with a mean 500 times the deviation in some."""
    x = np.random.default_rng(0).normal(size=(5, 192))
    x[3] += 500
    parts = x.reshape(5, 3, 64)
    moments = np.moveaxis(np.stack([parts.mean(-1), parts.var(-1) * 64]), -1, 1).astype(np.float32)
    r = product((5,), 3, n=1, k=1, what=(what,), dtype=F32)
    r = replace(r, statistics={2: (what, 0.25)})
    (got,) = region_reference(r, [np.ones((5, 1), np.float32), np.ones((1, 1), np.float32), moments])
    want = {"mean": x.mean(-1), "deviation": 1 / np.sqrt(x.var(-1) + 0.25),
            "rms": 1 / np.sqrt((x ** 2).mean(-1) + 0.25)}[what]
    np.testing.assert_allclose(got[:, 0], want, 1e-5, 1e-7)


def odd_values(run, machine: Gpu) -> None:
    """NaN and infinity reach their row alone; a mean 500 times the deviation costs it no digits."""
    r = product((17,), 3, what=("deviation",), dtype=F32)
    arrays = arrays_of(r, {})
    arrays[2][0, :, 4] += 1000
    arrays[2][0, 1, 1], arrays[2][1, 2, 2], arrays[2][0, 0, 3] = np.nan, np.nan, np.inf
    got = check(r, TILES, [SMALL], run, arrays, machine)
    assert np.flatnonzero(np.isnan(got).any(-1)).tolist() == [1, 2, 3]
    r = replace(r, statistics={2: ("mean", 0.0)})
    got = check(r, TILES, [SMALL], run, arrays, machine)
    assert np.flatnonzero(~np.isfinite(got).all(-1)).tolist() == [1, 3]
    r = norm((5,), 3, dtype=F32)
    arrays = arrays_of(r, {})
    arrays[4][0, 1, 1], arrays[5][1, 2, 2] = np.nan, np.inf
    arrays[3][4] += 1000
    arrays[4][0, :, 4] = arrays[5][0, :, 4] = arrays[4][0, :, 4] + 1000
    got = check(r, RowNorm(), WAYS, run, arrays, machine)
    assert np.flatnonzero(np.isnan(got).any(-1)).tolist() == [1]


def test_nan_infinity_and_large_means() -> None:
    odd_values(interpreted.run, H100)


@pytest.mark.parametrize("number", [80, 90])
def test_compiles(number: int) -> None:
    compiles(TILES, product((128,), 12, 3072, 768, compute="f16"), number)
    compiles(RowNorm(), norm((128,), 12, 768), number)


def test_moments_are_read_before_the_products() -> None:
    """A load of each half of them; sums, which would hold up the first copies, come after."""
    r = product((128,), 12, 3072, 768, compute="f16")
    text = json.dumps(TILES.implement(r, {**SMALL, "bm": 32, "bn": 64}, H100, 1).steps[0].kernel.code)
    early, late = text.split("for k in tl.range", 1)
    assert early.count("tl.load(moments") == 3
    assert "tl.sum(" not in early
    assert late.count("tl.sum(") == 3
    assert "moments" not in late


def test_other_tactics_refuse() -> None:
    for r in (product((4096,), 12, 768, 3072, compute="f16"), product((4,), 12, 768, 768, compute="f16"),
              product((128,), 12, 768, 768, dtype=F32)):
        taking = {t.name for t in TACTICS["matmul"] if not t.applies(r, H100)}
        assert TILES.name in taking <= {"matmul_tiles", "matmul_splitk", "matmul_persistent"}
        assert all(t.applies(r, AVX512) for t in CPU["matmul"])
        for library in (CublasLt(), CudnnMatmul()):
            assert "moments" in library._reason(r)
    assert "moments" in CPU["layernorm"][0].applies(norm((17,), 3, dtype=F32), AVX512)
    r = norm((3, 5), 3)
    assert "other rows" in RowNorm().applies(replace(r, attrs={**r.attrs, "axis": 1}), H100)


def malformed(name: str) -> Region:
    r = PRODUCTS["deviation alone"]
    t = r.inputs[2]
    shapes = {"flat": (2, 3), "halves": (3, 3, 17), "no chunks": (2, 0, 17), "chunks": (2, 65, 17),
              "symbolic": (2, N, 17)}
    told = {"what": {2: ("variance", 0.0)}, "number": {2: (7, 0.0)}, "negative": {2: ("mean", -1.0)},
            "infinite": {2: ("mean", float("inf"))}, "nan": {2: ("mean", float("nan"))}, "text": {2: ("mean", "0")},
            "operand": {0: ("mean", 0.0)}, "absent": {3: ("mean", 0.0)}}
    match name:
        case "narrow":
            return replace(r, inputs=(*r.inputs[:2], replace(t, dtype=F16)))
        case "kind":
            return replace(r, kind="softmax")
        case "grouped":
            return replace(r, kind="matmul_grouped")
        case "prologue":
            return replace(r, prologue={0: Expr((Leaf(0, F32), Leaf(2, F32), Apply("mul", (0, 1), F32)))})
        case str() if name in shapes:
            return replace(r, inputs=(*r.inputs[:2], Tensor.dense(F32, shapes[name])))
    return replace(r, statistics=told[name])  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["narrow", "kind", "grouped", "prologue", "flat", "halves", "no chunks", "chunks",
                                  "symbolic", "what", "number", "negative", "infinite", "nan", "text", "operand",
                                  "absent"])
def test_malformed_statistics_are_typed_errors(name: str) -> None:
    r = malformed(name)
    with pytest.raises(ValueError, match="statistics"):
        region_from_json(json.loads(json.dumps(r.describe())))
    with pytest.raises(PlanFormatError, match="statistics"):
        RegionReference(json.dumps(r.describe()).encode(), "step 1")
    with pytest.raises(InternalError, match="statistics"):
        region_reference(r, matmul_cases.random(r, 0, {"batch": 3}))
    with pytest.raises(WhetError, match="statistics"):
        REGION.rule([Value(f"x{i}", t.dtype, t.shape) for i, t in enumerate(r.inputs)], {"region": r})
    if r.kind == "matmul":
        assert "statistics" in TILES.applies(r, H100)


@pytest.mark.parametrize("told", [["mean", 0.0], {"2": ["mean"]}, {"2": None}, {"x": ["mean", 0.0]},
                                  {"2": ["mean", {"a": 1, "b": 2}]}, {"2": [["mean"], 0.0]}])
def test_what_is_no_table_of_statistics_is_a_typed_error(told: object) -> None:
    plain = {**PRODUCTS["deviation alone"].describe(), "statistics": told}
    with pytest.raises(PlanFormatError):
        RegionReference(json.dumps(plain).encode(), "step 1")


def test_a_plan_keeps_them() -> None:
    for r in (PRODUCTS["symbolic rows"], NORMED["all three"]):
        again = region_from_json(json.loads(json.dumps(r.describe())))
        assert again == r
        assert again.signature() == r.signature()
    (k, _), other = next(iter(r.statistics.items())), replace(r, statistics={})
    assert "statistics" not in other.describe()
    assert other.timing_key() != r.timing_key()
    same = replace(r, statistics={**r.statistics, k: ("mean", 0.125)})
    assert same.signature() != r.signature()
    assert same.timing_key() == r.timing_key()
    moved = replace(r, statistics={**r.statistics, k: ("rms", 0.0)})
    assert moved.timing_key() != r.timing_key()


def test_they_are_printed() -> None:
    r, g = PRODUCTS["17 rows, 3 chunks"], Graph()
    y = g.add_node("region", [Value(f"x{i}", t.dtype, t.shape) for i, t in enumerate(r.inputs)], {"region": r}).output
    assert y.producer is not None
    text = format_node(y.producer)
    assert "mean(%x2)" in text
    assert "deviation(%x3)" in text


@pytest.mark.parametrize("r", [PRODUCTS["symbolic rows"], NORMED["symbolic rows"]], ids=["product", "norm"])
def test_a_batch_of_rows_stays_independent(r: Region) -> None:
    g = Graph()
    g.dims.update(r.dims)
    inputs = [Value(f"x{i}", t.dtype, t.shape) for i, t in enumerate(r.inputs)]
    x = Value("rows", F32, (N, 2, 3))
    g.inputs = [x, *(v for k, v in enumerate(inputs) if k not in r.statistics)]
    moments = g.add("transpose", [x], {"perm": (1, 2, 0)})
    inputs = [moments if k in r.statistics else v for k, v in enumerate(inputs)]
    g.outputs, g.output_names = [g.add_node("region", inputs, {"region": r}).outputs[0]], ["y"]
    assert independent(g) == ["batch"]


@on_device.needs_cuda
@pytest.mark.parametrize("name", PRODUCTS)
def test_products_on_a_gpu(name: str) -> None:
    machine, r = on_device.gpu(), PRODUCTS[name]
    products_right(name, on_device.run, machine, [SMALL, next(iter(TILES.space(r, machine, 1)))])


@on_device.needs_cuda
@pytest.mark.parametrize("name", NORMED)
def test_norms_on_a_gpu(name: str) -> None:
    norms_right(name, on_device.run, on_device.gpu())


@on_device.needs_cuda
def test_models_shapes_on_a_gpu() -> None:
    machine = on_device.gpu()
    for tactic, r in ((TILES, product((128,), 12, 3072, 768, compute="f16")), (RowNorm(), norm((128,), 12, 768)),
                      (MatmulSplitK(), product((128,), 12, 768, 3072, compute="f16"))):
        arrays = arrays_of(r, {})
        if r.kind == "matmul":
            arrays[1] = (arrays[1] / 30).astype(np.float16)
        check(r, tactic, list(tactic.space(r, machine, 1)), on_device.run, arrays, machine)


@on_device.needs_cuda
def test_odd_values_and_other_kernels_on_a_gpu() -> None:
    odd_values(on_device.run, on_device.gpu())
    other_kernels(on_device.run, on_device.gpu())
