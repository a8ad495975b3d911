"""What holds for every movement kernel."""

from __future__ import annotations

import re
from typing import Any

import pytest
from movement_cases import movement, tactic

from whet.ir.dtypes import DType
from whet.ir.region import Region, Tensor
from whet.ir.symbolic import symbol
from whet.targets.cpu.compile import to_assembly
from whet.targets.cpu.isa import AVX2, AVX512, NEON, Isa
from whet.targets.cpu.movement import TACTICS

N = symbol("n")
DIMS = {"n": (1, 8, 64)}


def regions(d: DType) -> dict[str, Region]:
    """One of each kind, with symbolic sizes."""
    x, i = Tensor.dense(d, (N, 6, 24)), Tensor.dense(DType.I64, (5, 1))

    def make(kind: str, inputs: list[Tensor], **attrs: Any) -> Region:
        return movement(kind, inputs, attrs, dims=DIMS)

    like, scalar = Tensor.dense(DType.I64, x.shape), Tensor.dense(DType.F32, ())
    boxes, scores = Tensor.dense(DType.F32, (1, N, 4)), Tensor.dense(DType.F32, (1, 3, N))
    same_bits = {1: DType.I8, 2: DType.I16, 4: DType.I32, 8: DType.U64}
    return {
        "bitcast": make("bitcast", [x], to=same_bits[d.size]),
        "cumprod": make("cumprod", [x], axis=1),
        "nms": make("nms", [boxes, scores, Tensor.dense(DType.I64, ()), scalar, scalar], capacity=7),
        "dims": make("dims", [], values=(N, 3), shape=(2,)),
        "iota": make("iota", [], size=N, dtype=d),
        "gather": make("gather", [x, i], axis=1),
        "gather_nd": make("gather_nd", [x, i]),
        "gather_elements": make("gather_elements", [x, like], axis=1),
        "pad": make("pad", [x], pads=(0, 1, 2, 0, 1, 0), mode="reflect"),
        "resize": make("resize", [x], shape=(N * 2, 9, 30), mode="linear"),
        "cumsum": make("cumsum", [x], axis=1),
        "scatter_nd": make("scatter_nd", [x, i, Tensor.dense(d, (5, 6, 24))], reduction="max"),
        "scatter_elements": make("scatter_elements", [x, like, x], axis=1, reduction="add"),
        "topk": make("topk", [x], k=3, axis=2),
    }


@pytest.mark.parametrize("isa", [AVX2, AVX512, NEON], ids=lambda i: i.name)
@pytest.mark.parametrize("kind", TACTICS)
def test_no_kernel_calls_a_function(kind: str, isa: Isa) -> None:
    for d in (DType.F32, DType.BF16, DType.F16, DType.F64, DType.U8, DType.I64):
        r = regions(d)[kind]
        for params in tactic(kind).space(r, isa, 2):
            for step in tactic(kind).implement(r, params, isa, 2).steps:
                text = to_assembly(step.kernel.code, isa)
                assert not re.search(r"^\s+(bl|call\w*)\s", text, re.MULTILINE), f"{kind} of {d.value}"


def test_every_kind_has_a_case() -> None:
    assert regions(DType.F32).keys() == TACTICS.keys()
