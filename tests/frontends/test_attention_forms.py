"""ONNX's Attention, RotaryEmbedding and TensorScatter with random options, against onnx.reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

import whet

F32, I64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
TYPES = {np.dtype(np.float32): F32, np.dtype(np.int64): I64, np.dtype(bool): BOOL}


def compare(op: str, inputs: dict[str, np.ndarray], order: list[str], outputs: list[str], ranks: list[int],
            attrs: dict[str, Any], atol: float = 2e-6) -> None:
    """whet on generated kernels against the reference; outputs "" are not asked for."""
    given = [helper.make_tensor_value_info(n, TYPES[a.dtype], a.shape) for n, a in inputs.items()]
    results = [helper.make_tensor_value_info(n, F32, [None] * r) for n, r in zip(outputs, ranks) if n]
    while order and order[-1] not in inputs:
        order = order[:-1]
    node = helper.make_node(op, [n if n in inputs else "" for n in order], outputs, **attrs)
    model = helper.make_model(helper.make_graph([node], op, given, results), ir_version=10,
                              opset_imports=[helper.make_opsetid("", 25)])
    onnx.checker.check_model(model)
    with np.errstate(all="ignore"):
        want = ReferenceEvaluator(model).run(None, inputs)
    plan = whet.build(model, opt_level=0, threads=1)
    steps = plan.summary()["steps"]
    assert not steps["reference"], steps
    assert not steps["host"], steps
    got = whet.load(plan)(inputs)
    for r, w in zip(results, want, strict=True):
        np.testing.assert_allclose(got[r.name], w, rtol=1e-4, atol=atol, err_msg=f"{r.name} {attrs}")


@pytest.mark.parametrize("seed", range(40))
def test_attention_in_any_combination(seed: int) -> None:
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    def maybe(p: float) -> bool:
        return bool(rng.random() < p)

    b, g, n, s = (int(rng.integers(1, m)) for m in (4, 4, 4, 9))
    h, d, e, t = g * n, int(rng.integers(1, 20)), int(rng.integers(1, 20)), int(rng.integers(1, 20))
    flat, cached, external = maybe(0.5), maybe(0.4), maybe(0.3)
    attrs: dict[str, Any] = {"is_causal": int(maybe(0.5))}
    if flat:
        attrs |= {"q_num_heads": h, "kv_num_heads": g}
    if maybe(0.3):
        attrs["softcap"] = 1.5
    if maybe(0.3):
        attrs["scale"] = 0.7
    for side in ("left", "right"):
        if maybe(0.25):
            attrs[f"{side}_window_size"] = int(rng.integers(0, 6))

    def heads(count: int, length: int, width: int) -> np.ndarray:
        return normal(b, length, count * width) if flat else normal(b, count, length, width)

    inputs = {"q": heads(h, s, d), "k": heads(g, t, d), "v": heads(g, t, e)}
    past = int(rng.integers(0, 9)) if cached else 0
    if cached:
        inputs |= {"past_k": normal(b, g, past, d), "past_v": normal(b, g, past, e)}
    total = t + past
    if maybe(0.6):
        placed = attrs["is_causal"] or any(k.endswith("window_size") for k in attrs)
        rows = s if placed else 1  # the reference takes the number of queries from the mask
        shapes = [(s, total), (h, s, total), (b, 1, s, total), (1, h, rows, total), (b, h, s, total)]
        m = normal(*shapes[int(rng.integers(5))])
        inputs["mask"] = m > -0.8 if maybe(0.5) else np.where(m > 1.2, -np.inf, m).astype(np.float32)
    if external and not cached:
        inputs["lengths"] = rng.integers(0, t + 1, b)
    shown = maybe(0.3)
    if shown:  # 0 is capped in the reference
        attrs["qk_matmul_output_mode"] = int(rng.integers(1 if "softcap" in attrs else 0, 4))
    outputs = ["y", *(["present_k", "present_v"] if cached else ["", ""] if shown else []), *(["qk"] if shown else [])]
    compare("Attention", inputs, ["q", "k", "v", "mask", "past_k", "past_v", "lengths"], outputs,
            [3 if flat else 4, 4, 4, 4], attrs)


@pytest.mark.parametrize("seed", range(8))
def test_rotary_embedding_in_any_combination(seed: int) -> None:
    rng = np.random.default_rng(seed)
    b, h, s, half, more = (int(rng.integers(1, m)) for m in (3, 4, 7, 9, 5))
    flat, whole, placed = (bool(rng.random() < 0.5) for _ in range(3))
    d = 2 * half + (0 if whole else 2 * more)
    x = rng.standard_normal((b, s, h * d) if flat else (b, h, s, d)).astype(np.float32)
    lead = (30,) if placed else (b, s)
    inputs = {"x": x, "cos": rng.standard_normal((*lead, half)).astype(np.float32),
              "sin": rng.standard_normal((*lead, half)).astype(np.float32)}
    if placed:
        inputs["ids"] = rng.integers(0, 30, (b, s))
    attrs: dict[str, Any] = {"interleaved": int(rng.random() < 0.5), **({"num_heads": h} if flat else {}),
                             **({} if whole else {"rotary_embedding_dim": 2 * half})}
    compare("RotaryEmbedding", inputs, ["x", "cos", "sin", "ids"], ["y"], [x.ndim], attrs)


@pytest.mark.parametrize("axis", [1, 2, -2, -1])
@pytest.mark.parametrize("mode", ["linear", "circular"])
def test_caches_are_written_along_any_axis(axis: int, mode: str) -> None:
    rng = np.random.default_rng(axis + 9)
    cache = rng.standard_normal((2, 5, 6, 7)).astype(np.float32)
    shape = list(cache.shape)
    shape[axis] = 3
    inputs = {"cache": cache, "update": rng.standard_normal(shape).astype(np.float32),
              "start": np.array([1, 2 if mode == "linear" else cache.shape[axis] - 1])}
    compare("TensorScatter", inputs, ["cache", "update", "start"], ["y"], [4], {"axis": axis, "mode": mode})
