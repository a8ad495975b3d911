"""Triton's matmul kernels: in the interpreter on small shapes, compiled for two generations of GPUs, and on a GPU."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from targets.cuda import interpreted, matmul_cases, on_device
from targets.cuda.matmul_cases import BF16, F8, F16, F32, F64, I8, U8, batch, linear, region, relu_of, scaled, times
from whet import abi_cuda
from whet.ir.dtypes import DType
from whet.ir.region import Region
from whet.targets.base import Implementation, Tactic
from whet.targets.cuda.compile import _waiting, recipe_of, to_object
from whet.targets.cuda.gpu import Gpu, typical
from whet.targets.cuda.matmul import MatmulTiles
from whet.targets.cuda.matmul_persistent import MatmulPersistent
from whet.targets.cuda.matmul_rows import MatmulRows
from whet.targets.cuda.matmul_splitk import MatmulSplitK

SM80, SM90 = typical((8, 0)), typical((9, 0))
TILES, SPLIT, ROWS, PERSISTENT = MatmulTiles(), MatmulSplitK(), MatmulRows(), MatmulPersistent()
DIMS = {"batch": (0, 8, 64)}

CASES: dict[str, tuple[Tactic, Region]] = {
    "odd sizes": (TILES, region((35, 40), (40, 50))),
    "even sizes": (TILES, region((64, 64), (64, 32))),
    "both operands lie transposed": (TILES, region((35, 40), (40, 50), swap="ab")),
    "batches broadcast": (TILES, region((3, 1, 17, 33), (2, 33, 20), F32)),
    "a batch of weights": (TILES, region((2, 17, 16), (2, 16, 20), BF16, compute="bf16")),
    "f64": (TILES, region((17, 19), (19, 18), F64)),
    "i64 wraps": (TILES, region((17, 19), (19, 18), DType.I64)),
    "u8 by i8": (TILES, region((17, 39), (39, 18), U8, I8)),
    "u8 by constant i8": (TILES, region((17, 39), (39, 18), U8, I8, const=True)),
    "i8 by i8": (TILES, region((17, 64), (64, 18), I8, I8, const=True)),
    "bias, gelu and a residual": (TILES, linear(33, 48, 40, "gelu", True)),
    "codes, factors, codes": (TILES, scaled(20, 40, 24, U8)),
    "codes with a zero point": (TILES, scaled(20, 40, 24, I8, 3)),
    "8-bit floats": (TILES, scaled(20, 40, 24, F8)),
    "operands computed on load": (TILES, region((20, 24), (24, 20),
                                                prologue={0: relu_of(0, F16), 1: times(1, F16, 0.5)})),
    "symbolic rows": (TILES, region((batch(), 24), (24, 20), F32, dims=DIMS)),
    "symbolic depth": (TILES, region((20, batch()), (batch(), 20), F32, dims=DIMS)),
    "f32 by f16": (TILES, region((20, 24), (24, 20), F32, F16, anchor=F32)),
    "f32 weights rounded to f16": (TILES, region((20, 24), (24, 20), F32, compute="f16", const=True)),
    "one column": (TILES, region((3, 17, 5), (5, 1), F32)),
    "one row and one column": (TILES, region((1, 40), (40, 1), F64)),
    "no depth": (TILES, region((20, 0), (0, 20), F32)),
    "split": (SPLIT, region((33, 300), (300, 50))),
    "split evenly": (SPLIT, region((64, 512), (512, 32), compute="f16")),
    "split with batches": (SPLIT, region((2, 17, 333), (2, 333, 20), F32)),
    "split codes": (SPLIT, region((17, 599), (599, 18), U8, I8)),
    "split with an epilogue": (SPLIT, linear(33, 480, 40, "relu", True)),
    "split symbolic rows": (SPLIT, region((batch(), 300), (300, 20), F32, dims=DIMS)),
    "one row": (ROWS, region((1, 300), (300, 50))),
    "one row by constants": (ROWS, linear(1, 256, 64, "relu", True)),
    "three rows by a transposed operand": (ROWS, region((3, 256), (256, 50), swap="b")),
    "rows of codes": (ROWS, region((1, 299), (299, 18), U8, I8)),
    "rows of codes, factors, codes": (ROWS, scaled(1, 72, 18, I8)),
    "rows of batches": (ROWS, region((3, 1, 33), (3, 33, 20), DType.I64)),
    "rows of 8-bit floats": (ROWS, scaled(2, 40, 24, F8)),
    "one row by one column": (ROWS, region((1, 5, 16), (3, 16, 1), F32, const=True)),
    "symbolic few rows": (ROWS, region((batch(), 300), (300, 20), F32, dims={"batch": (0, 2, 64)})),
}


def implementation(tactic: Tactic, r: Region, machine: Gpu, most: int = 1) -> list[Implementation]:
    """Of the settings with the smallest tiles (which the interpreter is fastest with)."""
    assert tactic.applies(r, machine) == ""
    found = list(tactic.space(r, machine, 1))
    assert 0 < len(found) <= 24
    assert all(tactic.cost(r, q, machine, 1) > 0 for q in found)
    found.sort(key=lambda q: q.get("bm", 1) * q["bn"] * q["bk"])
    return [tactic.implement(r, q, machine, 1) for q in found[:most]]


def check(r: Region, got: np.ndarray, want: np.ndarray) -> None:
    assert got.dtype == want.dtype
    if not r.output.dtype.is_float:
        off = np.abs(got.astype(np.int64) - want.astype(np.int64))
        assert off.max(initial=0) <= (r.epilogue is not None)
        return
    coarse = {F16: 2e-3, BF16: 2e-2, F32: 2e-5, F64: 1e-13}[r.output.dtype]
    if r.compute in ("f16", "tf32", "bf16", "f8"):
        coarse = max(coarse, 3e-3 if r.compute in ("f16", "tf32") else 2e-2)
    scale = np.abs(want[np.isfinite(want)].astype(np.float64)).max(initial=1e-3)
    np.testing.assert_allclose(got.astype(np.float64), want.astype(np.float64), rtol=coarse, atol=coarse * scale)


@pytest.mark.parametrize("name", CASES)
def test_interpreted_kernels_match_the_reference(name: str) -> None:
    tactic, r = CASES[name]
    for env in ({"batch": 19}, {"batch": 0}) if r.dims else ({},):
        arrays = matmul_cases.random(r, 1, env)
        (made,) = implementation(tactic, r, SM90)
        check(r, interpreted.run(r, made, arrays, env)[0], matmul_cases.expected(r, arrays, env))


@pytest.mark.parametrize("name", ["odd sizes", "f64", "u8 by constant i8", "8-bit floats", "split with an epilogue",
                                  "one row by constants", "symbolic rows"])
@pytest.mark.parametrize("machine", [SM80, SM90], ids=lambda g: g.arch)
def test_kernels_compile(name: str, machine: Gpu) -> None:
    tactic, r = CASES[name]
    if r.compute == "f8" and not machine.has_fp8:
        assert "8-bit floats" in tactic.applies(r, machine)
        return
    (made,) = implementation(tactic, r, machine)
    for step in made.steps:
        assert len(to_object(step.kernel.code, machine.number)) > 1000


def instructions(raw: bytes, folder: Path) -> str:
    """The machine code of an object, by the disassembler that comes with Triton."""
    triton = pytest.importorskip("triton")
    (folder / "kernel.cubin").write_bytes(raw[raw.index(b"\x7fELF"):])
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/nvdisasm"
    return subprocess.run([tool, folder / "kernel.cubin"], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("machine", [SM80, SM90], ids=lambda g: g.arch)
def test_codes_are_stored_as_they_are(machine: Gpu, tmp_path: Path) -> None:
    """ptxas 12.8 stores a byte of what an operation of floats wrote as that float converted to a byte: here one program
    of 18, whose codes were all -1."""
    r = scaled(1, 72, 18, I8)
    found = list(ROWS.space(r, machine, 1))
    assert {"rows": 1, "bn": 16, "bk": 128, "warps": 8} in [{k: q[k] for k in q if k != "order"} for q in found]
    for q in found:
        (step,) = ROWS.implement(r, q, machine, 1).steps
        text = instructions(to_object(step.kernel.code, machine.number), tmp_path)
        assert "I2F" in text
        assert "F2I" not in text, q


@on_device.needs_cuda
def test_every_setting_for_rows_of_codes_on_the_device() -> None:
    machine, r = on_device.gpu(), scaled(1, 72, 18, I8)
    arrays = matmul_cases.random(r, 1)
    arrays[2] *= 1e-3
    want = matmul_cases.expected(r, arrays)
    assert len(np.unique(want)) > 8
    for q in ROWS.space(r, machine, 1):
        check(r, on_device.run(r, ROWS.implement(r, q, machine, 1), arrays)[0], want)


EARLY = {"rows of weights": (TILES, linear(33, 48, 40, "relu", True), ""),
         "columns of weights": (TILES, linear(33, 48, 40, "relu", True), "nk"),
         "parts": (SPLIT, linear(33, 480, 40), ""), "one row": (ROWS, linear(1, 256, 64), "nk")}


@pytest.mark.parametrize("name", EARLY)
def test_kernels_launched_early_bring_weights_into_the_cache_before_they_wait(name: str) -> None:
    tactic, r, order = EARLY[name]
    params = next(q for q in tactic.space(r, SM90, 1) if q["order"] == order)
    for step in tactic.implement(r, params, SM90, 1).steps:
        recipe = recipe_of(step.kernel.code)
        early = msgspec.structs.replace(recipe, options={**recipe.options, "launch_pdl": True})
        unit, _ = abi_cuda.unpack(to_object(msgspec.json.encode(early).decode(), 90))
        assert isinstance(unit, abi_cuda.Cubin)
        assert unit.dependent
        text = _waiting(early).text
        assert text.count("gdc_wait()") == text.count("gdc_launch_dependents()") == 1
        if recipe.name != "matmul_sum":
            assert "prefetch.global.L2" in text.split("gdc_wait()")[0]


@pytest.mark.parametrize("tactic", [TILES, SPLIT, ROWS], ids=lambda t: t.name)
def test_nan_and_infinity_stay_in_their_rows_and_columns(tactic: Tactic) -> None:
    r = region((7, 261), (261, 19), F32)
    a, b = matmul_cases.random(r, 3)
    a[1, 5], a[2, 7], b[9, 3] = np.nan, np.inf, -np.inf
    (made,) = implementation(tactic, r, SM90)
    got, want = interpreted.run(r, made, [a, b])[0], matmul_cases.expected(r, [a, b])
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    np.testing.assert_array_equal(np.isposinf(got), np.isposinf(want))
    check(r, got[np.isfinite(want)], want[np.isfinite(want)])


BLOCKS = {"bm": 64, "bn": 64, "bk": 64, "warps": 4, "stages": 3, "group": 8, "order": "", "blocks": True, "programs": 2}
PERSISTENT_CASES: dict[str, tuple[Region, dict[str, Any]]] = {
    "blocks": (linear(130, 128, 136, "relu", True), BLOCKS),
    "blocks of packed weights": (linear(130, 120, 131, "relu", True), {**BLOCKS, "order": "nk"}),
    "blocks of a transposed operand": (region((136, 128), (128, 136), swap="a"), BLOCKS),
    "blocks of 8-bit floats": (scaled(130, 240, 136, F8), {**BLOCKS, "order": "nk", "bk": 128}),
    "pointers": (linear(130, 120, 133, "relu", True), {**BLOCKS, "blocks": False}),
    "symbolic rows in blocks": (region((batch(), 64), (64, 72), dims={"batch": (0, 8, 200)}), BLOCKS),
}


@pytest.mark.parametrize("name", PERSISTENT_CASES)
def test_persistent_kernels_match_the_reference(name: str) -> None:
    r, params = PERSISTENT_CASES[name]
    for env in ({"batch": 150}, {"batch": 0}) if r.dims else ({},):
        arrays = matmul_cases.random(r, 1, env)
        made = PERSISTENT.implement(r, params, SM90, 1)
        check(r, interpreted.run(r, made, arrays, env)[0], matmul_cases.expected(r, arrays, env))


def test_blocks_are_loaded_by_the_memory_accelerator() -> None:
    (step,) = PERSISTENT.implement(*PERSISTENT_CASES["blocks"], SM90, 1).steps
    unit, _ = abi_cuda.unpack(to_object(step.kernel.code, 90))
    assert isinstance(unit, abi_cuda.Cubin)
    assert unit.hidden[0] > 0  # where each program writes its descriptors


def test_persistent_programs_are_for_many_tiles() -> None:
    large = linear(4096, 768, 3072, "gelu")
    assert PERSISTENT.applies(large, SM90) == ""
    assert {q["blocks"] for q in PERSISTENT.space(large, SM90, 1)} == {True, False}
    assert not any(q["blocks"] for q in PERSISTENT.space(large, SM80, 1))
    assert PERSISTENT.applies(linear(128, 768, 768), SM90) == "too few tiles"


@on_device.needs_cuda
@pytest.mark.parametrize("name", PERSISTENT_CASES)
def test_persistent_kernels_match_float64_on_the_device(name: str) -> None:
    r, params = PERSISTENT_CASES[name]
    machine = on_device.gpu()
    if params["blocks"] and machine.capability < (9, 0):
        pytest.skip("tensor descriptors need sm_90")
    for env in ({"batch": 150}, {"batch": 0}) if r.dims else ({},):
        arrays = matmul_cases.random(r, 1, env)
        got = on_device.run(r, PERSISTENT.implement(r, params, machine, 1), arrays, env)[0]
        check(r, got, matmul_cases.expected(r, arrays, env))


def test_space_is_stable_and_serializable() -> None:
    import json

    for tactic, r in CASES.values():
        found = list(tactic.space(r, SM90, 1))
        assert json.loads(json.dumps(found)) == found == list(tactic.space(r, SM90, 1))


DEVICE: dict[str, Any] = {
    **CASES,
    "large and odd": (TILES, linear(515, 777, 1031, "gelu_tanh", True)),
    "large and even": (TILES, linear(512, 768, 1024, "relu")),
    "large f32": (TILES, region((300, 513), (513, 260), F32)),
    "large tf32": (TILES, region((300, 513), (513, 260), F32, compute="tf32", const=True)),
    "large codes": (TILES, scaled(300, 520, 264, U8)),
    "large 8-bit floats": (TILES, scaled(300, 512, 264, F8)),
    "split large": (SPLIT, linear(128, 3072, 768, "", True)),
    "one row, large": (ROWS, linear(1, 768, 2304)),
}


@on_device.needs_cuda
@pytest.mark.parametrize("name", DEVICE)
def test_kernels_match_float64_on_the_device(name: str) -> None:
    tactic, r = DEVICE[name]
    machine = on_device.gpu()
    for env in ({"batch": 19}, {"batch": 0}) if r.dims else ({},):
        arrays = matmul_cases.random(r, 1, env)
        want = matmul_cases.expected(r, arrays, env)
        for made in implementation(tactic, r, machine, 2 if "large" in name else 1):
            got = on_device.run(r, made, arrays, env)[0]
            check(r, got, want)
