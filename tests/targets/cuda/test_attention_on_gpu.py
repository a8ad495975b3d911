"""Attention on the GPU against float64: every type, several settings of both tactics, what a row sees."""

from typing import Any

import numpy as np
import pytest

pytest.importorskip("triton")
from attention_regions import BF16, F16, F32, I8, arrays_of, check, region, strided

from targets.cuda.on_device import gpu, needs_cuda, run
from whet.ir.dtypes import DType
from whet.ir.region import Region
from whet.ir.symbolic import symbol
from whet.targets.base import Implementation
from whet.targets.cuda.attention import Attention
from whet.targets.cuda.attention_decode import AttentionDecode

TACTICS = (Attention(), AttentionDecode())
past = symbol("past")
ROOM: Any = 1023 - past
REGIONS: dict[str, tuple[Region, dict[str, int]]] = {
    "bert": (region(2, 12, 12, 128, 128, 64, 64, strided(F16, (2, 1, 1, 128)), dtype=F16, compute="f16"), {}),
    "vit": (region(2, 3, 3, 197, 197, 64, 64, dtype=F16, compute="f16"), {}),
    "bf16 80": (region(1, 3, 3, 70, 77, 80, 96, dtype=BF16, compute="bf16"), {}),
    "f32": (region(1, 2, 2, 65, 131, 40, 64), {}),
    "tf32": (region(1, 2, 2, 65, 131, 64, 40, compute="tf32"), {}),
    "f64": (region(1, 2, 2, 33, 70, 32, 16, dtype=DType.F64), {}),
    "odd widths": (region(1, 2, 1, 37, 53, 3, 5, strided(F32, (37, 53))), {}),
    "codes": (region(1, 2, 2, 101, 130, 64, 40, strided(DType.BOOL, (101, 130)), dtype=I8, compute="int8"), {}),
    "window": (region(1, 4, 2, 130, 150, 64, 64, causal=True, offset=20, window=33, softcap=2.0, dtype=F16,
                      compute="f16"), {}),
    "groups": (region(2, 8, 2, 150, 150, 128, 128, causal=True, dtype=F16, compute="f16"), {}),
    "gpt": (region(2, 12, 12, 1, past + 1, 64, 64, causal=True, offset=past, dtype=F16, compute="f16", room=ROOM,
                   dims={"past": (0, 511, 1023)}), {"past": 777}),
    "gpt begins": (region(1, 4, 4, 1, past + 1, 64, 64, causal=True, offset=past, room=ROOM,
                          dims={"past": (0, 511, 1023)}), {"past": 0}),
    "llama": (region(1, 32, 8, 1, 1000, 128, 128, dtype=BF16, compute="bf16"), {}),
    "few rows f32": (region(1, 4, 2, 3, 500, 48, 33, strided(DType.BOOL, (3, 500))), {}),
}


def _check(made: Implementation, r: Region, env: dict[str, int]) -> str:
    try:
        check(run, r, made, env)
        return ""
    except Exception as e:
        return f"{type(e).__name__}: {str(e)[:300]}"


@needs_cuda
@pytest.mark.parametrize("tactic", TACTICS, ids=lambda t: t.name)
@pytest.mark.parametrize("name", REGIONS)
def test_settings_match_float64(name: str, tactic: Any) -> None:
    r, env = REGIONS[name]
    if tactic.applies(r, gpu()):
        pytest.skip(tactic.applies(r, gpu()))
    settings = list(tactic.space(r, gpu(), 1))
    settings = settings[:3] + settings[3::9]
    wrong = {str(f): told for f in settings if (told := _check(tactic.implement(r, f, gpu(), 1), r, env))}
    assert not wrong


@needs_cuda
@pytest.mark.parametrize("tactic", TACTICS, ids=lambda t: t.name)
def test_special_numbers(tactic: Any) -> None:
    r = region(1, 1, 1, 18, 90, 16, 16, strided(F32, (18, 90)), masked_zero=True)
    arrays = arrays_of(r, {})
    arrays[0][0, 0, 4, 2], arrays[2][0, 0, 30, 1] = np.nan, np.inf
    arrays[3][2], arrays[3][5, :70], arrays[3][7, 3], arrays[3][8] = -np.inf, -np.inf, np.nan, -3.4e38
    for f in list(tactic.space(r, gpu(), 1))[:3]:
        check(run, r, tactic.implement(r, f, gpu(), 1), arrays=arrays, tolerance=3e-5)
