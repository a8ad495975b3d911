"""LSTM, GRU and RNN with random options against ONNX Runtime, and PyTorch's modules as it exports them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import whet
from whet.errors import GraphError, UnsupportedError
from whet.ir.ops_recurrent import FUNCTIONS, GATES

F32, F16, F64, I32 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.INT32
INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
STEADY = ["Relu", "Tanh", "Sigmoid", "Affine", "LeakyRelu", "ThresholdedRelu", "ScaledTanh", "HardSigmoid", "Elu",
          "Softsign", "Softplus"]


def model(op: str, feeds: dict[str, np.ndarray], constants: dict[str, np.ndarray], outputs: list[str],
          symbolic: bool = False, opset: int = 14, **attrs: Any) -> onnx.ModelProto:
    """One node; dimensions of X and of what goes with it are named where `symbolic` (layout 0)."""
    named = {"X": ("t", "b"), "sequence_lens": ("b",), "initial_h": (2, "b"), "initial_c": (2, "b")}
    given = []
    for name, a in feeds.items():
        shape = (*named[name], *a.shape[len(named[name]):]) if symbolic else a.shape
        given.append(helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(a.dtype), shape))
    kind = given[0].type.tensor_type.elem_type
    results = [helper.make_tensor_value_info(n, kind, [None] * (4 if n == "Y" else 3)) for n in outputs if n]
    there = feeds.keys() | constants.keys()
    names = [n if n in there else "" for n in INPUTS[:8 if op == "LSTM" else 6]]
    node = helper.make_node(op, names, outputs, **attrs)
    weights = [numpy_helper.from_array(a, n) for n, a in constants.items()]
    return helper.make_model(helper.make_graph([node], op, given, results, weights), ir_version=8,
                             opset_imports=[helper.make_opsetid("", opset)])


def generated(m: onnx.ModelProto, **options: Any) -> Any:
    plan = whet.build(m, opt_level=0, threads=1, **options)
    steps = plan.summary()["steps"]
    assert not steps["reference"] + steps["host"], steps
    return whet.load(plan)


def runtime(m: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    ort = pytest.importorskip("onnxruntime")
    return ort.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feeds)


def operands(op: str, rng: np.random.Generator, n: int, t: int, b: int, size: int, width: int) -> dict[str, np.ndarray]:
    g = GATES[op.lower()]
    shapes = {"X": (t, b, width), "W": (n, g * size, width), "R": (n, g * size, size), "B": (n, 2 * g * size),
              "initial_h": (n, b, size), "initial_c": (n, b, size), "P": (n, 3 * size)}
    found = {k: (rng.standard_normal(s) * 0.5).astype(np.float32) for k, s in shapes.items()}
    found["sequence_lens"] = rng.integers(1, t + 1, b).astype(np.int32)
    found["sequence_lens"][0] = t
    return {k: found[k] for k in INPUTS[:8 if op == "LSTM" else 6]}


@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("seed", range(12))
def test_any_combination_matches_onnx_runtime(op: str, seed: int) -> None:
    rng = np.random.default_rng(seed)

    def maybe(p: float) -> bool:
        return bool(rng.random() < p)

    direction = ["forward", "reverse", "bidirectional"][seed % 3]
    n = 2 if direction == "bidirectional" else 1
    t, b, size, width = (int(rng.integers(1, m)) for m in (8, 6, 40, 9))
    all_ = operands(op, rng, n, t, b, size, width)
    kept = {k: v for k, v in all_.items() if k in ("X", "W", "R") or maybe(0.5)}
    fixed = {"W", "R", "B", "P"} if maybe(0.8) else set()
    attrs: dict[str, Any] = {"hidden_size": size, "direction": direction}
    if maybe(0.3):
        attrs["clip"] = 0.6
    if op == "GRU" and maybe(0.5):
        attrs["linear_before_reset"] = 1
    if op == "LSTM" and maybe(0.3):
        attrs["input_forget"] = 1
    if maybe(0.4):
        attrs["activations"] = [str(a) for a in rng.choice(STEADY, FUNCTIONS[op.lower()] * n)]
        attrs["activation_alpha"], attrs["activation_beta"] = [0.3, 0.4, 0.2, 0.7, 0.5, 0.6], [0.2, 0.6, 0.3] * 2
    outputs = ["Y", "Y_h", "Y_c"][:3 if op == "LSTM" else 2]
    feeds = {k: v for k, v in kept.items() if k not in fixed}
    constants = {k: v for k, v in kept.items() if k in fixed}
    m = model(op, feeds, constants, outputs, **attrs)
    with generated(m) as engine:
        got = engine(feeds)
    for name, want in zip(outputs, runtime(m, feeds), strict=True):
        largest = max(1.0, float(np.abs(want).max()))  # gates without bounds make numbers grow
        np.testing.assert_allclose(got[name], want, rtol=2e-4, atol=2e-5 * largest,
                                   err_msg=f"{name} {attrs} {list(kept)}")


@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("outputs", [["Y"], ["", "Y_h"], ["Y", "Y_h"]], ids=str)
def test_outputs_that_nobody_wants_may_be_left_out(op: str, outputs: list[str]) -> None:
    all_ = operands(op, np.random.default_rng(1), 2, 3, 2, 5, 4)
    feeds = {"X": all_.pop("X")}
    m = model(op, feeds, all_, outputs, hidden_size=5, direction="bidirectional")
    with generated(m) as engine:
        got = engine(feeds)
    for name, want in zip([o for o in outputs if o], runtime(m, feeds), strict=True):
        np.testing.assert_allclose(got[name], want, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
def test_batch_first_is_the_same_transposed(op: str) -> None:
    all_ = operands(op, np.random.default_rng(2), 2, 4, 3, 6, 5)
    names = [n for n in ("X", "sequence_lens", "initial_h", "initial_c") if n in all_]
    feeds = {n: all_[n] for n in names}
    turned = {n: a if a.ndim == 1 else np.ascontiguousarray(np.swapaxes(a, 0, 1)) for n, a in feeds.items()}
    constants = {n: a for n, a in all_.items() if n not in names}
    attrs = {"hidden_size": 6, "direction": "bidirectional"}
    with generated(model(op, feeds, constants, ["Y", "Y_h"], **attrs)) as engine:
        want = engine(feeds)
    with generated(model(op, turned, constants, ["Y", "Y_h"], layout=1, **attrs)) as engine:
        got = engine(turned)
    np.testing.assert_array_equal(got["Y"], np.transpose(want["Y"], (2, 0, 1, 3)))
    np.testing.assert_array_equal(got["Y_h"], np.swapaxes(want["Y_h"], 0, 1))


@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
def test_one_plan_takes_every_batch_and_length_even_none(op: str) -> None:
    all_ = operands(op, np.random.default_rng(3), 2, 4, 3, 6, 5)
    constants = {n: all_[n] for n in ("W", "R", "B")}
    outputs = ["Y", "Y_h", "Y_c"][:3 if op == "LSTM" else 2]
    attrs = {"hidden_size": 6, "direction": "bidirectional"}
    given = ("X", "sequence_lens", "initial_h", "initial_c")
    m = model(op, {n: all_[n] for n in given if n in all_}, constants, outputs, symbolic=True, **attrs)
    with generated(m, profiles=[{"t": (0, 5, 9), "b": (0, 3, 9)}]) as engine:
        for t, b in ((4, 3), (1, 1), (9, 8), (0, 2), (3, 0)):
            now = operands(op, np.random.default_rng(t), 2, t or 1, b or 1, 6, 5)
            feeds = {n: now[n] for n in given if n in now}
            feeds["X"] = feeds["X"][:t, :b]
            feeds = {n: a if n == "X" else (a[:b] if a.ndim == 1 else a[:, :b]) for n, a in feeds.items()}
            got = engine(feeds)
            assert got["Y"].shape == (t, 2, b, 6)
            if t and b:
                for name, want in zip(outputs, runtime(m, feeds), strict=True):
                    np.testing.assert_allclose(got[name], want, rtol=2e-4, atol=2e-5)
            else:  # no step is taken
                np.testing.assert_array_equal(got["Y_h"], feeds["initial_h"])


def test_half_precision_is_computed_in_single() -> None:
    all_ = operands("LSTM", np.random.default_rng(4), 1, 5, 2, 7, 4)
    half = {n: a.astype(np.float16) for n, a in all_.items() if n in ("X", "W", "R", "B")}
    full = {n: a.astype(np.float32) for n, a in half.items()}
    with generated(model("LSTM", {"X": full.pop("X")}, full, ["Y"], hidden_size=7)) as engine:
        want = engine({"X": half["X"].astype(np.float32)})["Y"]
    x = half.pop("X")
    with generated(model("LSTM", {"X": x}, half, ["Y"], hidden_size=7)) as engine:
        got = engine({"X": x})["Y"]
    assert got.dtype == np.float16
    np.testing.assert_array_equal(got, want.astype(np.float16))


def test_double_precision_is_left_to_the_reference() -> None:
    all_ = {n: a.astype(np.float64) for n, a in operands("RNN", np.random.default_rng(5), 1, 3, 2, 4, 3).items()
            if n in "XWR"}
    x = all_.pop("X")
    plan = whet.build(model("RNN", {"X": x}, all_, ["Y"], hidden_size=4), opt_level=0, threads=1)
    assert plan.summary()["steps"]["reference"] == 1


def test_an_activation_that_has_no_default_alpha_needs_one() -> None:
    all_ = {n: a for n, a in operands("RNN", np.random.default_rng(5), 1, 3, 2, 4, 3).items() if n in "XWR"}
    m = model("RNN", {"X": all_.pop("X")}, all_, ["Y"], hidden_size=4, activations=["Affine"])
    with pytest.raises(GraphError, match="no alpha"):
        whet.build(m, opt_level=0, threads=1)


def test_weights_of_the_wrong_shape_are_refused() -> None:
    all_ = operands("GRU", np.random.default_rng(6), 1, 3, 2, 4, 3)
    x = all_.pop("X")
    constants = {"W": all_["W"], "R": all_["R"][:, :-1]}
    with pytest.raises(GraphError, match="GRU"):
        whet.build(model("GRU", {"X": x}, constants, ["Y"], hidden_size=4), opt_level=0, threads=1)


@pytest.mark.models
@pytest.mark.filterwarnings("ignore")  # of its exporter
@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
def test_modules_as_pytorch_exports_them(name: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    module = getattr(torch.nn, name)(10, 33, num_layers=2, bidirectional=True, batch_first=True).eval()
    path = tmp_path / "m.onnx"
    torch.onnx.export(module, (torch.zeros(2, 7, 10),), str(path), dynamo=False, opset_version=17, input_names=["x"],
                      output_names=["y", "h", "c"][:3 if name == "LSTM" else 2],
                      dynamic_axes={"x": {0: "b", 1: "t"}})
    with generated(onnx.load(path), profiles=[{"b": (1, 2, 8), "t": (1, 7, 30)}]) as engine:
        for b, t in ((2, 7), (1, 1), (5, 30)):
            x = np.random.default_rng(b).standard_normal((b, t, 10)).astype(np.float32)
            with torch.no_grad():
                y, states = module(torch.from_numpy(x))
            got = engine({"x": x})
            np.testing.assert_allclose(got["y"], y.numpy(), rtol=1e-4, atol=1e-5)
            for key, want in zip(("h", "c"), states if name == "LSTM" else (states,)):
                np.testing.assert_allclose(got[key], want.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("attrs", [{"clip": 1.0}, {"activations": ["Relu"]}, {"direction": "reverse"}])
def test_what_the_reference_kernel_leaves_out_is_refused_in_float64(attrs: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    weights = {"W": rng.standard_normal((1, 3, 4)), "R": rng.standard_normal((1, 3, 3))}
    x = {"X": rng.standard_normal((5, 2, 4))}
    with pytest.raises(UnsupportedError, match=r"f64"):
        whet.build(model("RNN", x, weights, ["Y"], hidden_size=3, **attrs), opt_level=0, threads=1)
    plan = whet.build(model("RNN", x, weights, ["Y"], hidden_size=3), opt_level=0, threads=1)
    h = np.zeros((2, 3))
    for t, y in enumerate(whet.load(plan)(x)["Y"]):
        h = np.tanh(x["X"][t] @ weights["W"][0].T + h @ weights["R"][0].T)
        np.testing.assert_allclose(y[0], h, rtol=1e-10)
