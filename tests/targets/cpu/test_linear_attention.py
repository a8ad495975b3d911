"""Linear attention against its definition: every rule, odd sizes, groups of heads, strides, half precision."""

import numpy as np
import pytest
from harness import run_region, strided

from whet.ir.dtypes import DType
from whet.ir.region import Region, Tensor
from whet.ir.region_eval import region_reference
from whet.ir.symbolic import Dim, symbol
from whet.targets.cpu import isa as isas
from whet.targets.cpu.compile import to_assembly
from whet.targets.cpu.linear_attention import LinearAttention

HOST = isas.host()
ISAS = list({HOST.name: HOST, "avx2": isas.AVX2}.values())
TACTIC = LinearAttention()
F32 = DType.F32


def region(b: int, h: int, g: int, t: Dim, d: int, e: int, state: bool = False, decay: int = 0, beta: int = 0,
           dtype: DType = F32, dims: dict | None = None) -> Region:
    """decay: its last dimension (0: none); beta: its heads (0: none). q, k, v have heads side by side in memory."""
    def heads(n: int, w: int) -> Tensor:
        return Tensor(dtype, (b, n, t, w), (t * n * w, w, n * w, 1))

    ins = [heads(h, d), heads(g, d), heads(g, e)]
    absent = []
    for i, (there, tensor) in enumerate(((state, strided(F32, (b, g, d, e), 3)), (decay, heads(g, decay)),
                                         (beta, heads(beta, 1)))):
        if there:
            ins.append(tensor)
        else:
            absent.append(3 + i)
    out = heads(h, e)
    return Region("linear_attention", {"scale": 0.3, "absent": tuple(absent)}, tuple(ins), len(ins), out,
                  Tensor.dense(dtype, out.shape), extra_outputs=(strided(F32 if state else dtype, (b, g, d, e), 2),),
                  dims=dims or {})


def check(r: Region, isa: isas.Isa = HOST, env: dict[str, int] | None = None, tolerance: float = 2e-5) -> None:
    from whet.ir.symbolic import evaluate

    rng = np.random.default_rng(1)
    arrays = [(rng.standard_normal([evaluate(d, env or {}) for d in t.shape]) * 0.4).astype(t.dtype.np)
              for t in r.inputs]
    want = region_reference(r, arrays, env)
    for params in TACTIC.space(r, isa, 2):
        got = run_region(r, TACTIC, params, isa, arrays, env)
        for x, y in zip(got, want, strict=True):
            np.testing.assert_allclose(x.astype(float), y.astype(float), rtol=tolerance * 10, atol=tolerance)


RULES = [{}, {"decay": 1}, {"decay": 9}, {"beta": 2}, {"decay": 1, "beta": 2}, {"decay": 9, "beta": 1}]


@pytest.mark.parametrize("isa", ISAS, ids=lambda i: i.name)
@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("state", [False, True])
def test_every_rule(isa: isas.Isa, rule: dict, state: bool) -> None:
    check(region(2, 6, 2, 7, 9, 21, state=state, **rule), isa)


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1, 1, 1), (1, 2, 2, 3, 64, 64), (2, 4, 1, 5, 17, 33), (1, 1, 1, 0, 4, 4)])
def test_odd_sizes(sizes: tuple[int, ...]) -> None:
    b, h, g, t, d, e = sizes
    check(region(b, h, g, t, d, e, state=True, decay=1, beta=1))


def test_any_length_in_one_plan() -> None:
    r = region(1, 2, 2, symbol("t"), 16, 16, state=True, decay=16, beta=2, dims={"t": (0, 4, 30)})
    for t in (0, 1, 29):
        check(r, env={"t": t})


@pytest.mark.parametrize("dtype", [DType.F16, DType.BF16], ids=lambda d: d.value)
def test_half_precision_in_memory(dtype: DType) -> None:
    check(region(1, 2, 2, 5, 8, 20, decay=8, beta=2, dtype=dtype), tolerance=2e-2)


def test_the_same_kernel_compiles_for_neon() -> None:
    code = TACTIC.implement(region(1, 2, 2, 5, 8, 20), {"nv": 2}, isas.NEON, 4).steps[0].kernel.code
    assert "fmla" in to_assembly(code, isas.NEON)
