"""Linear attention regions and their check against the definition, in the interpreter and on the GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
from attention_regions import Runner, strided

from whet.ir.dtypes import DType
from whet.ir.ops_linear_attention import OPERANDS
from whet.ir.region import Region, Tensor
from whet.ir.region_eval import region_reference
from whet.ir.symbolic import Dim, evaluate
from whet.targets.base import Params
from whet.targets.cuda.gpu import Gpu
from whet.targets.cuda.linear_attention import LinearAttention

F32 = DType.F32
TACTIC = LinearAttention()
RULES: list[dict[str, Any]] = [{}, {"decay": 1}, {"decay": 9}, {"beta": 2}, {"decay": 1, "beta": 2},
                               {"decay": 9, "beta": 1}]


def region(b: int, h: int, g: int, t: Dim, d: int, e: int, state: bool = False, decay: int = 0, beta: int = 0,
           dtype: DType = F32, dims: dict[str, Any] | None = None) -> Region:
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


def check(run: Runner, r: Region, machine: Gpu, env: dict[str, int] | None = None, tolerance: float = 2e-5,
          some: int = 1, params: Params | None = None) -> None:
    rng = np.random.default_rng(1)
    arrays = [rng.standard_normal([evaluate(d, env or {}) for d in t.shape]) for t in r.inputs]
    names = [name for i, name in enumerate(OPERANDS) if i not in r.attrs["absent"]]
    for name, a in zip(names, arrays, strict=True):  # keys of length 1, states that fade: rounding does not grow
        if name == "k":
            a /= np.maximum(np.linalg.norm(a, axis=-1, keepdims=True), 1e-9)
        if name == "decay":
            a[...] = -np.abs(a)
        if name == "beta":
            a[...] = 1 / (1 + np.exp(-a))
    arrays = [a.astype(t.dtype.np) for a, t in zip(arrays, r.inputs, strict=True)]
    want = region_reference(r, arrays, env)
    assert TACTIC.applies(r, machine) == ""
    for f in [params] if params else list(TACTIC.space(r, machine, 1))[:some]:
        got = run(r, TACTIC.implement(r, f, machine, 1), arrays, env)
        for x, y in zip(got, want, strict=True):
            np.testing.assert_allclose(x.astype(float), y.astype(float), rtol=tolerance * 10, atol=tolerance)
