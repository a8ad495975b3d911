"""What whet lint says of weights and of numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from tools.lint_models import errors, found, model, node, weight
from whet.tools.lint_ranges import ranges
from whet.tools.lint_weights import statistics


def product(w: np.ndarray, **options: Any) -> dict[str, list[Any]]:
    """Findings of x @ w."""
    return found(model([node("MatMul", "x w", "y", "mm")], {"x": [2, w.shape[0]]}, ["y"], {"w": w}), **options)


# -- weights ---------------------------------------------------------------------------------------


def test_weights_that_are_no_numbers_are_found() -> None:
    w = weight(30, 40)
    w[3, 4], w[5, 6], w[7, 8] = np.nan, np.inf, -np.inf
    by_code = product(w)
    assert by_code["L303"][0].data["count"] == 1
    assert by_code["L304"][0].data["count"] == 2
    assert by_code["L304"][0].severity == "warning"


def test_a_mask_of_minus_infinity_is_only_a_note() -> None:
    mask = np.triu(np.full((8, 8), -np.inf, np.float32), 1)
    by_code = found(model([node("Add", "x m", "y")], {"x": [8, 8]}, ["y"], {"m": mask}))
    assert [f.severity for f in by_code["L304"]] == ["note"]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_subnormal_weights_are_found_by_their_share(dtype: Any) -> None:
    tiny = np.finfo(dtype).tiny
    w = np.ones((50, 20), dtype)
    w[:1] = tiny / 4
    assert statistics(w).subnormal == 20
    w[:] = tiny
    assert statistics(w).subnormal == 0


def test_statistics_are_those_of_numpy_on_odd_sizes() -> None:
    rng = np.random.default_rng(0)
    for n in (1, 2, 17, (1 << 20) + 1):
        x = rng.standard_normal(n).astype(np.float32)
        x[rng.integers(0, n, n // 10)] = 0
        x[rng.integers(0, n, n // 20)] = np.nan
        s = statistics(x)
        good = x[np.isfinite(x)]
        assert s.nan == np.isnan(x).sum()
        assert s.zero == (good == 0).sum()
        if good.size:
            assert (s.low, s.high) == (good.min(), good.max())
            assert s.smallest == np.abs(good[good != 0]).min(initial=np.inf)


def test_dead_channels_are_counted_along_the_right_dimension() -> None:
    w = weight(6, 9)
    w[:, 2] = w[:, 5] = 0
    assert product(w)["L306"][0].data == {"count": 2, "elements": 9}
    w = weight(6, 9)
    w[2] = 0  # an input that is not used: no output is dead
    assert "L306" not in product(w)
    k = weight(8, 3, 3, 3)
    k[1:4] = 0
    by_code = found(model([node("Conv", "x k", "y")], {"x": [1, 3, 5, 5]}, ["y"], {"k": k}))
    assert by_code["L306"][0].data == {"count": 3, "elements": 8}
    gemm = model([node("Gemm", "x k", "y", transB=1)], {"x": [1, 9]}, ["y"], {"k": w * 1.0})
    assert found(gemm)["L306"][0].data == {"count": 1, "elements": 6}


def test_duplicates_are_found_with_the_bytes_that_they_cost() -> None:
    w = weight(16, 32)
    other = w.copy()
    other[7, 7] += 1
    nodes = [node("MatMul", "x a", "p"), node("MatMul", "x b", "q"), node("MatMul", "x c", "r"),
             node("MatMul", "x d", "s")]
    weights = {"a": w, "b": w.copy(), "c": w.copy(), "d": other}
    by_code = found(model(nodes, {"x": [2, 16]}, ["p", "q", "r", "s"], weights))
    (f,) = by_code["L308"]
    assert f.node == "a"
    assert f.data == {"bytes": 2 * w.nbytes, "names": ["b", "c"]}


def test_weights_that_nobody_reads_are_told() -> None:
    by_code = found(model([node("Relu", "x", "y")], {"x": [2]}, ["y"], {"w": weight(10, 10)}))
    assert [(f.node, f.data["bytes"]) for f in by_code["L307"]] == [("w", 400)]


def test_missing_external_data_does_not_hide_other_faults(tmp_path: Path) -> None:
    m = model([node("MatMul", "x a", "p", "good"), node("MatMul", "p b", "q"), node("Concat", "q q", "y", "bad")],
              {"x": [2, 64]}, ["y"], {"a": weight(64, 64), "b": weight(64, 32)})
    onnx.save_model(m, tmp_path / "m.onnx", save_as_external_data=True, all_tensors_to_one_file=False, size_threshold=0)
    (tmp_path / "a").unlink()
    data = (tmp_path / "b").read_bytes()
    (tmp_path / "b").write_bytes(data[:len(data) // 2])
    assert errors(found(tmp_path / "m.onnx")) == {("L301", "a"), ("L301", "b"), ("L104", "bad")}


def test_data_that_does_not_fit_its_shape_is_found() -> None:
    m = model([node("MatMul", "x a", "p"), node("Add", "p v", "y", "bad")], {"x": [2, 4]}, ["y"],
              {"a": weight(4, 4), "v": weight(3)})
    m.graph.initializer[0].raw_data = b"1234567"
    assert errors(found(m)) == {("L302", "a"), ("L110", "bad")}


# -- numbers ---------------------------------------------------------------------------------------


def test_integers_beyond_32_bits_are_told_but_not_the_ends_of_slices() -> None:
    m = model([node("Add", "x big", "y"), node("Slice", "x start end", "z")], {"x": [4]}, ["y", "z"],
              {"big": np.array([1 << 40]), "start": np.array([0]), "end": np.array([2**63 - 1])},
              types=dict.fromkeys("xyz", TensorProto.INT64))
    assert [(f.node, f.data["greatest"]) for f in found(m)["L401"]] == [("big", 1 << 40)]


def test_casts_that_overflow_are_found_where_the_range_is_known() -> None:
    i8, u8 = TensorProto.INT8, TensorProto.UINT8
    nodes = [node("Cast", "u8", "u", "widen", to=TensorProto.FLOAT), node("Cast", "c", "a", "constant", to=i8),
             node("Mul", "u four", "v"), node("Cast", "v", "b", "scaled", to=u8), node("Cast", "x", "d", "open", to=i8),
             node("Clip", "x low high", "clipped"), node("Cast", "clipped", "e", "safe", to=i8)]
    m = model(nodes, {"x": [4], "u8": [4]}, ["a", "b", "d", "e"],
              {"c": np.array([1.0, 300.0], np.float32), "four": np.float32(4), "low": np.float32(-5),
               "high": np.float32(5)}, types={"u8": u8, "a": i8, "b": u8, "d": i8, "e": i8})
    assert {f.node: f.data["greatest"] for f in found(m)["L402"]} == {"constant": 300, "scaled": 1020}


@pytest.mark.parametrize(("value", "code"), [(-1e9, "L404"), (-3.4028235e38, "L404"), (-1e4, None), (1e-12, "L405"),
                                             (1e-6, None), (np.inf, None)])
def test_constants_that_fp16_cannot_hold_are_told(value: float, code: str | None) -> None:
    by_code = found(model([node("Add", "x c", "y", "add")], {"x": [4]}, ["y"], {"c": np.float32(value)}))
    assert [c for c in ("L404", "L405") if c in by_code] == ([code] if code else [])
    if code:
        assert "add" in by_code[code][0].what


def test_weights_that_overflow_fp16_are_told() -> None:
    w = weight(32, 32)
    w[0, 0] = 1e5
    assert product(w)["L403"][0].data["value"] == 1e5
    assert "L403" not in product(weight(32, 32))


def test_an_epsilon_that_vanishes_in_fp16_is_told() -> None:
    def norm(epsilon: float) -> onnx.ModelProto:
        return model([node("LayerNormalization", "x s", "y", "ln", epsilon=epsilon)], {"x": [2, 8]}, ["y"],
                     {"s": weight(8)})

    assert [f.node for f in found(norm(1e-12))["L405"]] == ["ln"]
    assert "L405" not in found(norm(1e-5))


def test_long_sums_are_told_with_the_mean_that_overflows() -> None:
    def total(op: str, n: int) -> onnx.ModelProto:
        return model([node(op, "x axes", "y", "sum", keepdims=0)], {"x": [2, n]}, ["y"], {"axes": np.array([1])})

    assert found(total("ReduceSum", 65504))["L406"][0].data == {"elements": 65504, "limit": 1.0}
    assert "L406" not in found(total("ReduceSum", 1000))
    assert found(total("ReduceSumSquare", 1000))["L406"][0].data["limit"] == pytest.approx((65504 / 1000) ** 0.5)


def test_a_sum_of_bounded_values_is_not_told() -> None:
    m = model([node("Sigmoid", "x", "s"), node("ReduceSum", "s", "y", "sum")], {"x": [1, 5000]}, ["y"])
    assert "L406" not in found(m)


def test_steep_functions_are_told_unless_their_input_is_bounded() -> None:
    nodes = [node("Exp", "x", "a", "free"), node("Tanh", "x", "t"), node("Exp", "t", "b", "bounded"),
             node("ReduceMax", "x", "m"), node("Sub", "x m", "d"), node("Exp", "d", "c", "shifted"),
             node("Mul", "x x", "e", "square"), node("Pow", "t two", "f", "power"),
             node("Pow", "x four", "g", "fourth")]
    by_code = found(model(nodes, {"x": [4]}, list("abcefg"), {"two": np.float32(2), "four": np.float32(4)}))
    assert {f.node: round(f.data["limit"], 2) for f in by_code["L407"]} == {"free": 11.09, "square": 255.94,
                                                                           "fourth": 16.0}


def test_scores_that_are_not_scaled_are_told() -> None:
    def attention(scaled: bool) -> onnx.ModelProto:
        nodes = [node("Mul", "q c", "qs"), node("MatMul", f"{'qs' if scaled else 'q'} k", "s"), node("Add", "s m", "t"),
                 node("Softmax", "t", "y", "softmax")]
        return model(nodes, {"q": [2, 8, 64], "k": [2, 64, 8], "m": [8, 8]}, ["y"], {"c": np.float32(0.125)})

    assert [f.node for f in found(attention(False))["L407"]] == ["softmax"]
    assert "L407" not in found(attention(True))


def test_in_a_model_of_fp16_the_risks_are_warnings() -> None:
    m = model([node("Exp", "x", "y", "exp")], {"x": [4]}, ["y"], types=dict.fromkeys("xy", TensorProto.FLOAT16))
    assert [f.severity for f in found(m)["L407"]] == ["warning"]


def test_what_overflows_on_given_inputs_is_seen() -> None:
    m = model([node("Mul", "x x", "a", "square"), node("Sqrt", "b", "c", "root"), node("Add", "a c", "y", "sum")],
              {"x": [3], "b": [3]}, ["y"])
    feeds = {"x": np.array([1, 300, 2], np.float32), "b": np.array([4, 9, 16], np.float32)}
    by_code = found(m, feeds=feeds)
    assert {f.node for f in by_code["L408"]} == {"square", "sum"}
    assert "L409" not in by_code
    assert by_code["L408"][0].data["value"] == pytest.approx(9e4, rel=1e-3)
    feeds["b"][1] = -1
    assert "root" in {f.node for f in found(m, feeds=feeds)["L409"]}


# -- bounds ----------------------------------------------------------------------------------------

UNARY = ("Relu", "Sigmoid", "Tanh", "Neg", "Abs", "Exp", "Sqrt", "Softplus", "Erf", "Softsign", "Identity", "Floor",
         "Ceil", "Round")
BINARY = ("Add", "Sub", "Mul", "Div", "Max", "Min")


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_bounds_hold_on_random_graphs(data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 1 << 30)))
    constants = {f"c{i}": (rng.standard_normal(3) * data.draw(st.sampled_from([0.1, 1, 10]))).astype(np.float32)
                 for i in range(2)}
    names, nodes = ["x", *constants], []
    for i in range(data.draw(st.integers(1, 8))):
        op = data.draw(st.sampled_from(UNARY + BINARY))
        reads = [data.draw(st.sampled_from(names)) for _ in range(2 if op in BINARY else 1)]
        nodes.append(node(op, " ".join(reads), f"v{i}"))
        names.append(f"v{i}")
    nodes.insert(0, node("Cast", "u", "x", to=TensorProto.FLOAT))
    m = model(nodes, {"u": [3]}, [n for n in names if n.startswith("v")], constants, types={"u": TensorProto.UINT8})
    u = rng.integers(0, 256, 3).astype(np.uint8)
    with np.errstate(all="ignore"):
        got = dict(zip([o.name for o in m.graph.output], ReferenceEvaluator(m).run(None, {"u": u})))
    types = {"u": helper.make_tensor_type_proto(TensorProto.UINT8, [3])}
    for name, (low, high) in ranges(m.graph, types, constants).items():
        if name in got:
            x = got[name][np.isfinite(got[name])].astype(np.float64)
            slack = 1e-5 * np.abs(x) + 1e-5
            assert (x >= low - slack).all(), (name, low, x, nodes)
            assert (x <= high + slack).all(), (name, high, x, nodes)
