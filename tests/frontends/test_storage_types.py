"""8-bit floats and the types below 8 bits: from packed tensors through quantization and movement to outputs."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import whet
from whet.frontends.protobuf import read
from whet.frontends.tensors import TO_ONNX, Tensors, element_type
from whet.ir.dtypes import DType

STORAGE = [d for d in DType if d.is_storage]
QUANTIZED = [d for d in STORAGE if d is not DType.F8E8M0FNU]
RNG = np.random.default_rng(5)


def codes(d: DType, shape: tuple[int, ...]) -> np.ndarray:
    """Random bit patterns."""
    return RNG.integers(0, 1 << d.bits, shape).astype(np.uint8).view(d.np)


def model(nodes: list[onnx.NodeProto], inputs: dict[str, tuple[int, tuple[int, ...]]], outputs: dict[str, int],
          constants: dict[str, np.ndarray]) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info(n, t, s) for n, (t, s) in inputs.items()],
        [helper.make_tensor_value_info(n, t, None) for n, t in outputs.items()],
        [numpy_helper.from_array(a, n) for n, a in constants.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 28)], ir_version=14)


def run(m: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The model's outputs, computed by generated kernels alone."""
    plan = whet.build(m, opt_level=0, threads=1)
    steps = plan.summary()["steps"]
    assert not any(steps.get(kind, 0) for kind in ("reference", "host"))
    return whet.load(plan)(feeds)


@pytest.mark.parametrize("d", STORAGE, ids=lambda d: d.value)
@pytest.mark.parametrize("n", [0, 1, 4, 7, 33])
def test_packed_tensors_are_unpacked(d: DType, n: int) -> None:
    x = codes(d, (n,))
    t = numpy_helper.from_array(x, "x")
    assert element_type(t.data_type, "x") is d
    tensors = Tensors(read(helper.make_model(helper.make_graph([], "g", [], []))))
    raw = tensors.array(t)
    assert raw.dtype == d.np
    assert n == 0 or not raw.flags.writeable
    np.testing.assert_array_equal(raw.view(np.uint8), x.view(np.uint8))
    if n:
        short = onnx.TensorProto.FromString(t.SerializeToString())
        short.raw_data = short.raw_data[:-1]
        with pytest.raises(whet.errors.GraphError, match="bytes of data"):
            tensors.array(short)


@pytest.mark.parametrize("d", STORAGE, ids=lambda d: d.value)
def test_movement_keeps_the_bits(d: DType) -> None:
    x, w = codes(d, (6, 5, 7)), codes(d, (6, 5, 7))
    one = np.asarray(1.0, np.float32).astype(d.np)
    cond = RNG.random((6, 5, 7)) < 0.5
    raw, other, unit = x.view(np.uint8), w.view(np.uint8), int(one.view(np.uint8))
    t = TO_ONNX[d]
    constants = {"w": w, "one": one, "cond": cond, "i": np.array([3, -1, 0, 5]), "pads": np.array([0, 1, 2, 0, 0, 3]),
                 "start": np.array([5]), "end": np.array([0]), "axis": np.array([0]), "step": np.array([-2]),
                 "wide": np.array([2, 6, 5, 7]), "flat": np.array([30, 7])}
    node = helper.make_node
    nodes = [node("Transpose", ["x"], ["transposed"], perm=[2, 0, 1]),
             node("Slice", ["x", "start", "end", "axis", "step"], ["sliced"]),
             node("Gather", ["x", "i"], ["gathered"], axis=2), node("Concat", ["x", "w"], ["joined"], axis=1),
             node("Pad", ["x", "pads", "one"], ["padded"]), node("Pad", ["x", "pads"], ["mirrored"], mode="reflect"),
             node("Where", ["cond", "x", "w"], ["chosen"]), node("Where", ["cond", "x", "one"], ["filled"]),
             node("Expand", ["x", "wide"], ["expanded"]), node("Reshape", ["x", "flat"], ["reshaped"])]
    want = {"transposed": raw.transpose(2, 0, 1), "sliced": raw[5:0:-2], "gathered": raw[:, :, [3, -1, 0, 5]],
            "joined": np.concatenate([raw, other], 1),
            "padded": np.pad(raw, ((0, 0), (1, 0), (2, 3)), constant_values=unit),
            "mirrored": np.pad(raw, ((0, 0), (1, 0), (2, 3)), mode="reflect"), "chosen": np.where(cond, raw, other),
            "filled": np.where(cond, raw, unit), "expanded": np.broadcast_to(raw, (2, 6, 5, 7)),
            "reshaped": raw.reshape(30, 7)}
    got = run(model(nodes, {"x": (t, x.shape)}, dict.fromkeys(want, t), constants), {"x": x})
    for name, y in want.items():
        assert got[name].dtype == d.np
        np.testing.assert_array_equal(got[name].view(np.uint8), y, err_msg=name)


BLOCKING = {"per tensor": ((), {}), "per tensor of rank 1": ((1,), {}), "per axis": ((5,), {"axis": 1}),
            "per axis from the end": ((12,), {"axis": -1}), "blocked": ((3, 5, 3), {"axis": 2, "block_size": 4}),
            "blocked along the first axis": ((2, 5, 12), {"axis": 0, "block_size": 2}),
            "blocked unevenly": ((3, 5, 3), {"axis": 2, "block_size": 5})}


@pytest.mark.parametrize("form", BLOCKING)
@pytest.mark.parametrize("real", [TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16],
                         ids=["f32", "f16", "bf16"])
@pytest.mark.filterwarnings("ignore")
def test_quantization_matches_onnx(form: str, real: int) -> None:
    shape = (3, 5, 12)
    parts, attrs = BLOCKING[form]
    kind = helper.tensor_dtype_to_np_dtype(real)
    x = (RNG.normal(0, 9, shape)).astype(kind)
    scale = np.exp2(RNG.uniform(-3, 2, parts)).astype(kind)
    nodes, constants, outputs = [], {"scale": scale}, {}
    for d in [*QUANTIZED, DType.I8, DType.U8, DType.I16]:
        zero = np.zeros(parts, d.np) if d.computed_as.is_float else RNG.integers(0, 2, parts).astype(d.np)
        constants[f"zero_{d.value}"] = zero
        q, r = f"q_{d.value}", f"r_{d.value}"
        nodes += [helper.make_node("QuantizeLinear", ["x", "scale", f"zero_{d.value}"], [q], **attrs),
                  helper.make_node("DequantizeLinear", [q, "scale", f"zero_{d.value}"], [r], **attrs)]
        outputs |= {q: TO_ONNX[d], r: real}
    m = model(nodes, {"x": (real, shape)}, outputs, constants)
    want = dict(zip(outputs, ReferenceEvaluator(m).run(None, {"x": x}), strict=True))
    got = run(m, {"x": x})
    for name in outputs:
        assert got[name].dtype == want[name].dtype
        np.testing.assert_array_equal(got[name].astype(np.float32), want[name].astype(np.float32), err_msg=name)


@pytest.mark.parametrize("saturate", [0, 1])
def test_casts_obey_saturate_in_a_model(saturate: int) -> None:
    x = np.array([1e6, -1e6, np.inf, np.nan, 0.3, 448, 464, 465, 57344, 61440, 61439], np.float32)
    to = {"a": TensorProto.FLOAT8E4M3FN, "b": TensorProto.FLOAT8E5M2, "c": TensorProto.FLOAT8E5M2FNUZ}
    nodes = [helper.make_node("Cast", ["x"], ["h"], to=TensorProto.DOUBLE)]
    nodes += [helper.make_node("Cast", ["h"], [n], to=t, saturate=saturate) for n, t in to.items()]
    m = model(nodes, {"x": (TensorProto.FLOAT, x.shape)}, to, {})
    want = dict(zip(to, ReferenceEvaluator(m).run(None, {"x": x}), strict=True))
    for name, y in run(m, {"x": x}).items():
        np.testing.assert_array_equal(y.astype(np.float32), want[name].astype(np.float32), err_msg=name)
