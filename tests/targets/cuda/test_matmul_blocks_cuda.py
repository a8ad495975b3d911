"""Products whose operands are loaded as whole blocks, one tile of a program."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from targets.cuda import interpreted, matmul_cases, on_device
from targets.cuda.matmul_cases import BF16, F8, F16, F32, batch, linear, region, scaled
from targets.cuda.test_matmul_cuda import check
from whet import abi_cuda
from whet.ir.region import Region
from whet.targets.cuda import TACTICS
from whet.targets.cuda.compile import early, to_object
from whet.targets.cuda.gpu import typical
from whet.targets.cuda.matmul_blocks import MatmulBlocks

SM80, SM90, BLOCKS = typical((8, 0)), typical((9, 0)), MatmulBlocks()


def parts(rows: int, depth: int, columns: int, count: int) -> Region:
    """Parts of a product's depth as batches, seen by strides (`passes.partial_sums`)."""
    each = depth // count
    r = region((count, rows, each), (count, each, columns), F16, anchor=F32, out=F32, compute="f16", const=True)
    return replace(r, inputs=(replace(r.inputs[0], strides=(each, depth, 1)), r.inputs[1]))


CASES = {
    "odd rows and columns": linear(65, 72, 136, "relu", True),
    "weights packed": linear(33, 40, 131, "gelu", True),
    "one step of depth": linear(64, 64, 64),
    "bf16": linear(40, 72, 64, "relu", False, BF16, compute="bf16"),
    "parts of the depth": parts(40, 288, 64, 3),
    "8-bit floats": scaled(48, 80, 48, F8),
    "a transposed operand": region((40, 64), (64, 72), swap="b"),
    "symbolic rows": linear(batch(), 64, 72, "relu", True, dims={"batch": (0, 64, 200)}),
}


@pytest.mark.parametrize("name", CASES)
def test_right(name: str) -> None:
    r = CASES[name]
    assert BLOCKS.applies(r, SM90) == ""
    found = sorted(BLOCKS.space(r, SM90, 1), key=lambda q: q["bm"] * q["bn"] * q["bk"])
    assert found
    for env in ({"batch": 70}, {"batch": 0}) if r.dims else ({},):
        arrays = matmul_cases.random(r, 1, env)
        got = interpreted.run(r, BLOCKS.implement(r, found[0], SM90, 1), arrays, env)[0]
        check(r, got, matmul_cases.expected(r, arrays, env))


def test_nan_and_infinity_stay_in_their_rows_and_columns() -> None:
    r = linear(33, 72, 40)
    arrays = matmul_cases.random(r, 3)
    arrays[0][1, 5], arrays[0][2, 7] = np.nan, np.inf
    params = next(iter(BLOCKS.space(r, SM90, 1)))
    got = interpreted.run(r, BLOCKS.implement(r, params, SM90, 1), arrays)[0]
    assert sorted(set(np.nonzero(~np.isfinite(got))[0])) == [1, 2]


@pytest.mark.parametrize("name", ["odd rows and columns", "parts of the depth", "8-bit floats"])
def test_descriptors_are_made_before_the_kernel_waits(name: str) -> None:
    r = CASES[name]
    params = next(iter(BLOCKS.space(r, SM90, 1)))
    made = early(BLOCKS.implement(r, params, SM90, 1))
    (step,) = made.steps
    unit, _ = abi_cuda.unpack(to_object(step.kernel.code, 90))
    assert isinstance(unit, abi_cuda.Cubin)
    assert unit.dependent
    assert unit.hidden[0] == 256, "two descriptors of each program"
    assert step.kernel.code.index("make_tensor_descriptor") < step.kernel.code.index("#: wait")


def test_what_is_left_to_others() -> None:
    assert "accelerator" in BLOCKS.applies(linear(128, 768, 768), SM80)
    assert BLOCKS.applies(linear(16, 768, 768), SM90) == "too few rows"
    assert BLOCKS.applies(linear(4096, 768, 3072), SM90) == "many tiles"
    assert BLOCKS.applies(region((64, 64), (64, 64), F32), SM90) == "products of wide types"
    assert "no matrices" in BLOCKS.applies(region((64, 63), (63, 65), F16), SM90)  # rows that begin anywhere
    assert BLOCKS.name in [t.name for t in TACTICS["matmul"]]


@on_device.needs_cuda
@pytest.mark.parametrize("name", [*CASES, "large", "large parts"])
def test_right_on_a_gpu(name: str) -> None:
    machine = on_device.gpu()
    if machine.capability < (9, 0):
        pytest.skip("the tensor memory accelerator needs sm_90")
    r = {**CASES, "large": linear(197, 768, 3072, "gelu", True), "large parts": parts(128, 3072, 768, 6)}[name]
    for env in ({"batch": 150}, {"batch": 0}) if r.dims else ({},):
        arrays = matmul_cases.random(r, 1, env)
        want = matmul_cases.expected(r, arrays, env)
        for params in list(BLOCKS.space(r, machine, 1))[:4]:
            for made in (BLOCKS.implement(r, params, machine, 1), early(BLOCKS.implement(r, params, machine, 1))):
                check(r, on_device.run(r, made, arrays, env)[0], want)
