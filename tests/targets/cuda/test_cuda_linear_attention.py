"""Linear attention on GPUs against its definition: every rule, odd sizes, groups of heads, strides, half precision."""

import pytest

pytest.importorskip("triton")
from interpreted import run
from linear_attention_regions import RULES, TACTIC, check, region

from targets.cuda import on_device
from targets.cuda.on_device import needs_cuda
from whet.abi_cuda import unpack
from whet.ir.dtypes import DType
from whet.ir.symbolic import symbol
from whet.targets.cuda.compile import to_object
from whet.targets.cuda.gpu import typical

H100 = typical((9, 0))


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("state", [False, True])
def test_every_rule(rule: dict, state: bool) -> None:
    check(run, region(1, 4, 2, 3, 9, 21, state=state, **rule), H100, params={"columns": 16, "warps": 1})


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1, 1, 1), (2, 2, 1, 3, 17, 33), (1, 1, 1, 0, 4, 4)], ids=str)
def test_odd_sizes(sizes: tuple[int, ...]) -> None:
    b, h, g, t, d, e = sizes
    check(run, region(b, h, g, t, d, e, state=True, decay=1, beta=1), H100, params={"columns": 32, "warps": 1})


def test_any_length_in_one_kernel() -> None:
    r = region(1, 2, 2, symbol("t"), 16, 16, state=True, decay=16, beta=2, dims={"t": (0, 4, 30)})
    for t in (0, 1, 5):
        check(run, r, H100, env={"t": t}, params={"columns": 16, "warps": 1})


@pytest.mark.parametrize("dtype", [DType.F16, DType.BF16], ids=lambda d: d.value)
def test_half_precision_in_memory(dtype: DType) -> None:
    check(run, region(1, 2, 2, 5, 8, 20, decay=8, beta=2, dtype=dtype), H100, tolerance=2e-2,
          params={"columns": 32, "warps": 1})


@pytest.mark.parametrize("number", [80, 90])
def test_it_compiles(number: int) -> None:
    r = region(1, 8, 2, symbol("t"), 128, 128, state=True, decay=128, beta=2, dims={"t": (0, 4, 30)})
    settings = list(TACTIC.space(r, H100, 1))
    for params in (settings[0], settings[-1]):
        unpack(to_object(TACTIC.implement(r, params, H100, 1).steps[0].kernel.code, number))


@needs_cuda
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_every_rule_on_the_gpu(rule: dict) -> None:
    check(on_device.run, region(2, 6, 2, 37, 9, 21, state=True, **rule), on_device.gpu(), some=2)


@needs_cuda
@pytest.mark.parametrize("dtype", [DType.F32, DType.F16], ids=lambda d: d.value)
def test_wide_heads_on_the_gpu(dtype: DType) -> None:
    r = region(2, 8, 4, symbol("t"), 128, 128, decay=1, beta=4, dtype=dtype, dims={"t": (0, 100, 200)})
    for t in (0, 100):
        check(on_device.run, r, on_device.gpu(), env={"t": t}, tolerance=2e-2 if dtype is DType.F16 else 1e-4, some=3)
