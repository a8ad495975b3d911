"""64-bit integers keep all their bits: no operator computes them in doubles, in 32 bits, or traps on them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import whet
from whet.frontends.tensors import TO_ONNX
from whet.ir.dtypes import DType

TYPES = [np.int64, np.uint64, np.int32, np.uint32]
ROWS, COLUMNS = 5, 37


def run(nodes: list[onnx.NodeProto], feeds: dict[str, np.ndarray], outputs: dict[str, int],
        constants: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The outputs of a model of these nodes, computed by generated kernels alone."""
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info(n, TO_ONNX[DType.of(a.dtype)], a.shape) for n, a in feeds.items()],
        [helper.make_tensor_value_info(n, t, None) for n, t in outputs.items()],
        [numpy_helper.from_array(a, n) for n, a in constants.items()])
    plan = whet.build(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)], ir_version=11),
                      opt_level=0, threads=1)
    steps = plan.summary()["steps"]
    assert not any(steps.get(kind, 0) for kind in ("reference", "host"))
    return whet.load(plan)(feeds)


def operands(t: type) -> tuple[np.ndarray, np.ndarray]:
    """Two matrices with the type's limits in them; the second has a 0."""
    rng, info = np.random.default_rng(1), np.iinfo(t)
    a, b = (rng.integers(info.min, info.max, (ROWS, COLUMNS), t, endpoint=True) for _ in range(2))
    a.flat[:8] = [info.max, info.max - 1, info.min, info.min + 1, 0, 1, info.max // 2, info.max // 2 + 1]
    b[0, :6], b[2] = [0, 1, 0, 3, 2, info.max], rng.integers(1, 9, COLUMNS)
    return a, b


def quotient(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Truncated towards zero by Python's integers; 0 by 0."""
    def one(x: int, y: int) -> int:
        q = abs(x) // abs(y) if y else 0
        return q if (x < 0) == (y < 0) else -q
    return np.array([one(int(x), int(y)) for x, y in zip(a.flat, b.flat)], object).astype(a.dtype).reshape(a.shape)


Case = tuple[list[str], dict, np.ndarray]


def cases(a: np.ndarray, b: np.ndarray, large: np.ndarray) -> dict[str, Case]:
    """{operator and number: (its inputs, its attributes, what it should give)}."""
    flat = {"axis0": 0, "axis1": 1}
    binary: dict[str, Callable] = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Max": np.maximum,
                                   "Min": np.minimum, "Less": np.less, "Greater": np.greater, "Equal": np.equal,
                                   "LessOrEqual": np.less_equal, "Mod": np.mod, "Div": quotient,
                                   "BitwiseAnd": np.bitwise_and, "BitwiseXor": np.bitwise_xor}
    out: dict[str, Case] = {}
    with np.errstate(all="ignore"):
        for op, f in binary.items():
            out[f"{op} a"] = (["a", "b"], {}, f(a, b))
            out[f"{op} b"] = (["a", "large"], {}, f(a, np.broadcast_to(large, a.shape)))
        out["Mod c"] = (["a", "b"], {"fmod": 1}, np.fmod(a, b))
        out["Clip"] = (["a", "third", "large"], {}, np.clip(a, large // 3, large))
        out["Where"] = (["Less a", "a", "large"], {}, np.where(a < b, a, large))
        out["Abs"], out["Sign"] = (["a"], {}, np.abs(a)), (["a"], {}, np.sign(a))
        out["Pow"] = (["a", "three"], {}, np.power(a, a.dtype.type(3)))
        out["Pad"] = (["a", "pads", "large"], {}, np.pad(a, ((1, 0), (0, 2)), constant_values=large))
        out["MatMul"] = (["a", "turned"], {}, a @ b.T)
        out["Transpose"] = (["b"], {}, b.T)
        for name, axis in flat.items():
            keep = {"keepdims": 0}
            out[f"ReduceSum {axis}"] = (["a", name], keep, a.sum(axis, a.dtype))
            out[f"ReduceProd {axis}"] = (["a", name], keep, a.prod(axis, a.dtype))
            out[f"ReduceMax {axis}"] = (["a", name], keep, a.max(axis))
            out[f"ReduceMin {axis}"] = (["a", name], keep, a.min(axis))
            out[f"ReduceSumSquare {axis}"] = (["a", name], keep, (a * a).sum(axis, a.dtype))
            out[f"ReduceL1 {axis}"] = (["a", name], keep, np.abs(a).sum(axis, a.dtype))
            out[f"ArgMax {axis}"] = (["a"], {"axis": axis, **keep}, a.argmax(axis))
            out[f"ArgMin {axis}"] = (["a"], {"axis": axis, **keep}, a.argmin(axis))
            out[f"CumSum {axis}"] = (["a", f"scalar{axis}"], {}, a.cumsum(axis, a.dtype))
            out[f"TopK {axis}"] = (["a", "k"], {"axis": axis}, np.take(np.flip(np.sort(a, axis), axis), range(3), axis))
        for i, reduction in enumerate(("none", "add", "mul", "max", "min")):
            fold = {"none": lambda x, y: y, "add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}
            row = fold[reduction](a[:1], b[:1])
            out[f"ScatterElements {i}"] = (["a", "first", "row"], {"axis": 0, "reduction": reduction},
                                           np.concatenate([row, a[1:]]))
        for t in (np.int64, np.uint64, np.int32, np.int8, np.bool_, np.float32, np.float64):
            out[f"Cast {t.__name__}"] = (["a"], {"to": TO_ONNX[DType.of(t)]}, a.astype(t))
    return out


@pytest.mark.parametrize("t", TYPES, ids=lambda t: t.__name__)
def test_every_bit_counts(t: type) -> None:
    a, b = operands(t)
    large = np.array(np.iinfo(t).max - 2, t)
    todo = cases(a, b, large)
    constants = {"large": large, "third": large // t(3), "three": np.array(3, t), "axis0": np.array([0]),
                 "axis1": np.array([1]), "scalar0": np.array(0), "scalar1": np.array(1), "k": np.array([3]),
                 "pads": np.array([1, 0, 0, 2]), "first": np.zeros((1, COLUMNS), np.int64)}
    nodes = [helper.make_node(op, inputs, [name, f"{name} places"] if op == "TopK" else [name], **attrs)
             for name, (inputs, attrs, _) in todo.items() for op in name.split()[:1]]
    got = run(nodes, {"a": a, "b": b, "turned": np.ascontiguousarray(b.T), "row": b[:1]},
              {n: TO_ONNX[DType.of(w.dtype)] for n, (_, _, w) in todo.items()}, constants)
    for name, (_, _, want) in todo.items():
        assert got[name].dtype == want.dtype
        np.testing.assert_array_equal(got[name], want, err_msg=name)


@pytest.mark.parametrize("t", [np.int64, np.int32])
def test_division_never_traps(t: type) -> None:
    least = np.iinfo(t).min
    a, b = np.array([least, least, 7, -7, 0], t), np.array([-1, 0, 0, -1, -1], t)
    kind = TO_ONNX[DType.of(t)]
    got = run([helper.make_node("Div", ["a", "b"], ["q"]), helper.make_node("Mod", ["a", "b"], ["r"])],
              {"a": a, "b": b}, {"q": kind, "r": kind}, {})
    np.testing.assert_array_equal(got["q"], [least, 0, 0, 7, 0])
    np.testing.assert_array_equal(got["r"], [0, 0, 0, 0, 0])


@pytest.mark.parametrize("t", [np.int32, np.uint32])
def test_the_mean_of_32_bits_does_not_wrap(t: type) -> None:
    a, _ = operands(t)
    got = run([helper.make_node("ReduceMean", ["a", "axis"], ["y"], keepdims=0)], {"a": a},
              {"y": TO_ONNX[DType.of(t)]}, {"axis": np.array([1])})
    want = [abs(s) // COLUMNS * (1 if s >= 0 else -1) for s in (sum(map(int, row)) for row in a)]
    np.testing.assert_array_equal(got["y"], np.array(want, t))


@pytest.mark.parametrize("t", TYPES, ids=lambda t: t.__name__)
@pytest.mark.parametrize("real", [np.float32, np.float64])
def test_floats_in_range_become_the_integer_below_them(t: type, real: type) -> None:
    info, rng = np.iinfo(t), np.random.default_rng(3)
    x = rng.uniform(0.99 * info.min, 0.99 * info.max, 200).astype(real)
    got = run([helper.make_node("Cast", ["x"], ["y"], to=TO_ONNX[DType.of(t)])], {"x": x},
              {"y": TO_ONNX[DType.of(t)]}, {})
    np.testing.assert_array_equal(got["y"], x.astype(t))


def test_indices_that_are_valid_only_in_their_lowest_32_bits_are_clamped() -> None:
    x = np.arange(77, dtype=np.float32).reshape(7, 11)
    i = np.array([1 << 32, -(1 << 32) - 1, (1 << 62) + 3, -(1 << 62), 3, -2])
    place = np.clip(np.where(i < 0, i + 7, i), 0, 6)
    nodes = [helper.make_node("Gather", ["x", "i"], ["rows"], axis=0),
             helper.make_node("GatherElements", ["x", "wide"], ["elements"], axis=0),
             helper.make_node("GatherND", ["x", "deep"], ["points"])]
    got = run(nodes, {"x": x, "i": i, "wide": np.repeat(i[:, None], 11, 1), "deep": i[:, None]},
              dict.fromkeys(("rows", "elements", "points"), TensorProto.FLOAT), {})
    for name in got:
        np.testing.assert_array_equal(got[name], x[place], err_msg=name)


def test_a_range_near_the_limit() -> None:
    start = np.iinfo(np.int64).max - 50
    constants = {"start": np.array(start), "limit": np.array(start + 45), "delta": np.array(9)}
    got = run([helper.make_node("Range", list(constants), ["r"]), helper.make_node("Add", ["r", "zero"], ["y"])],
              {"zero": np.zeros(5, np.int64)}, {"y": TensorProto.INT64}, constants)
    np.testing.assert_array_equal(got["y"], start + 9 * np.arange(5))


def test_f64_is_rounded_to_f16_once() -> None:
    half = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    half = half[np.isfinite(half)].astype(np.float64)
    middle = (half[1:] + half[:-1]) / 2
    x = np.concatenate([half, middle, np.nextafter(middle, np.inf), np.nextafter(middle, -np.inf),
                        [65519.99999, 65520, 1e300, -1e-300, np.inf, np.nan, 2.0**-25 * (1 + 2.0**-50)]])
    got = run([helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT16)], {"x": x},
              {"y": TensorProto.FLOAT16}, {})
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(got["y"], x.astype(np.float16))


def test_an_odd_exponent_stays_odd() -> None:
    x = np.array([-1, -1, 2, -3], np.float32)
    e = np.array([(1 << 24) + 1, 1 << 25, 10, 3])
    nodes = [helper.make_node("Pow", ["x", "e"], ["y"]), helper.make_node("Pow", ["x", "known"], ["z"])]
    got = run(nodes, {"x": x, "e": e}, dict.fromkeys("yz", TensorProto.FLOAT), {"known": e})
    for name in got:
        np.testing.assert_array_equal(got[name], np.array([-1, 1, 1024, -27], np.float32), err_msg=name)
