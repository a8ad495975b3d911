"""Weights of a few bits stay so: MatMulNBits against ONNX Runtime, DequantizeLinear with blocks before products."""

from typing import Any

import numpy as np
import onnx
import pytest
from contrib_cases import agree, by_onnxruntime, by_whet, model_of, normal
from onnx import TensorProto, helper, numpy_helper

import whet
from whet.errors import GraphError
from whet.frontends import load_model
from whet.ir.dtypes import DType
from whet.ir.graph import Graph
from whet.passes import manager

F32 = np.float32


def codes(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).integers(0, 256, shape).astype(np.uint8)


def nbits(m: int, n: int, k: int, block: int, bits: int, zero: bool, extra: dict[int, np.ndarray] | None = None,
          **attrs: Any) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    blocks = -(-k // block)
    inputs: list[np.ndarray | None] = [normal(m, k), codes(n, blocks, block * bits // 8),
                                       np.abs(normal(n, blocks, seed=1)) * F32(0.1)]
    inputs += [codes(n, -(-blocks * bits // 8), seed=2) if zero else None, None, None]
    for i, a in (extra or {}).items():
        inputs[i] = a
    while inputs[-1] is None:
        inputs.pop()
    constant = [i for i in range(1, len(inputs)) if inputs[i] is not None]
    return model_of("MatMulNBits", inputs, [(F32, 2)], {"K": k, "N": n, "bits": bits, "block_size": block, **attrs},
                    constant)


def kinds(graph: Graph) -> list[str]:
    return [n.attrs["region"].kind for n in graph.nodes if n.op == "region"]


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("size", [(4, 1, 130, 256, 128), (4, 9, 33, 100, 32), (8, 3, 20, 64, 16)])
def test_it_agrees_with_onnxruntime_and_keeps_its_bits(size: tuple[int, ...], zero: bool) -> None:
    bits, m, n, k, block = size
    model, feeds = nbits(m, n, k, block, bits, zero)
    want, got = by_onnxruntime(model, feeds), by_whet(model, feeds)
    np.testing.assert_allclose(got[0], want[0], rtol=1e-4, atol=2e-4)
    assert kinds(manager.run(load_model(model))) == ["matmul_grouped"]


def test_a_bias_and_an_activation_join_the_product() -> None:
    model, feeds = nbits(5, 40, 64, 32, 4, True, {5: normal(40, seed=7)})
    model.graph.node[0].output[0] = "z"
    model.graph.node.append(helper.make_node("Relu", ["z"], ["y0"]))
    assert kinds(manager.run(load_model(model))) == ["matmul_grouped"]
    np.testing.assert_allclose(by_whet(model, feeds)[0], by_onnxruntime(model, feeds)[0], rtol=1e-4, atol=2e-4)


def test_rows_in_the_order_of_their_blocks_are_gathered() -> None:
    """g_idx as GPTQ's act-order writes it: every block has its full number of rows, wherever they are."""
    k, block = 64, 16
    order = np.random.default_rng(3).permutation(np.arange(k) // block).astype(np.int32)
    agree("MatMulNBits", [normal(2, k), codes(9, 4, 8), np.abs(normal(9, 4, seed=1)), None, order], [(F32, 2)],
          {"K": k, "N": 9, "bits": 4, "block_size": block}, (1, 2, 4), rtol=1e-3, atol=1e-3)
    model, _ = nbits(2, 9, k, block, 4, False, {4: order})
    assert set(kinds(manager.run(load_model(model)))) == {"gather", "matmul_grouped"}
    uneven = order.copy()
    uneven[0] = (uneven[0] + 1) % 4
    for groups, kind in ((order, "matmul_grouped"), (uneven, "matmul")):  # ONNX Runtime takes no zero points with g_idx
        model, feeds = nbits(2, 9, k, block, 4, True, {4: groups})
        b, z, scale = codes(9, 4, 8), codes(9, 2, seed=2), np.abs(normal(9, 4, seed=1)) * F32(0.1)
        q, zero = (np.stack([v & 15, v >> 4], -1).reshape(9, -1).astype(F32) for v in (b, z))
        w = (q - zero[:, groups]) * scale[:, groups]
        assert kinds(manager.run(load_model(model)))[-1] == kind
        np.testing.assert_allclose(by_whet(model, feeds)[0], feeds["x0"] @ w.T, rtol=1e-3, atol=1e-3)


def test_half_precision_activations_come_back_as_such() -> None:
    model, feeds = model_of("MatMulNBits", [normal(3, 64).astype(np.float16), codes(20, 2, 16),
                                            np.abs(normal(20, 2, seed=1)).astype(np.float16)], [(np.float16, 2)],
                            {"K": 64, "N": 20, "bits": 4, "block_size": 32}, (1, 2))
    got, = by_whet(model, feeds)
    assert got.dtype == np.float16
    np.testing.assert_allclose(got.astype(F32), by_onnxruntime(model, feeds)[0].astype(F32), rtol=1e-2, atol=5e-2)


@pytest.mark.parametrize("change", [{"bits": 3}, {"K": 63}, {"N": 21}])
def test_what_does_not_fit_is_an_error(change: dict[str, int]) -> None:
    model, _ = nbits(2, 20, 64, 32, 4, False)
    for a in model.graph.node[0].attribute:
        if a.name in change:
            a.i = change[a.name]
    with pytest.raises(GraphError, match="MatMulNBits"):
        load_model(model)
    model, _ = nbits(2, 20, 64, 32, 4, False, {4: np.full(64, 9, np.int32)})
    with pytest.raises(GraphError, match="does not fit"):
        load_model(model)


# -- DequantizeLinear ----------------------------------------------------------------------------

TYPES = {DType.I4: TensorProto.INT4, DType.U4: TensorProto.UINT4, DType.I8: TensorProto.INT8,
         DType.U8: TensorProto.UINT8}


def blocked(dtype: DType, k: int, n: int, block: int, zero: bool, transposed: bool, m: int = 3,
            block_size: bool = True) -> tuple[onnx.ModelProto, dict[str, np.ndarray], np.ndarray]:
    """y = x @ dequantized(w) by MatMul, or by Gemm with w [N, K]; the model, its feeds and the weights."""
    rng = np.random.default_rng(0)
    low, high = {4: (-8, 8), 8: (-128, 128)}[dtype.bits]
    low, high = (0, high - low) if dtype in (DType.U4, DType.U8) else (low, high)
    blocks = -(-k // block)
    q, z = rng.integers(low, high, (k, n)), rng.integers(low, high, (blocks, n))
    scale = rng.uniform(0.01, 0.1, (blocks, n)).astype(F32)
    rows = np.arange(k) // block
    w = (q - (z[rows] if zero else 0)) * scale[rows]
    arrays: dict[str, np.ndarray] = {"q": q, "s": scale, "z": z}
    if transposed:
        arrays = {name: a.T for name, a in arrays.items()}

    def tensor(name: str) -> onnx.TensorProto:
        a = np.ascontiguousarray(arrays[name])
        if name == "s":
            return numpy_helper.from_array(a, name)
        return helper.make_tensor(name, TYPES[dtype], a.shape, a.reshape(-1).tolist())

    axis: dict[str, Any] = {"axis": int(transposed if block_size else not transposed)}
    if block_size:
        axis["block_size"] = block
    nodes = [helper.make_node("DequantizeLinear", ["q", "s", "z"][:3 if zero else 2], ["w"], **axis)]
    nodes += [helper.make_node("Gemm", ["x", "w"], ["y"], transB=1) if transposed else
              helper.make_node("MatMul", ["x", "w"], ["y"])]
    if not block_size:
        arrays["s"], arrays["z"] = arrays["s"].reshape(-1), arrays["z"].reshape(-1)
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [m, k])],
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, [m, n])],
                              [tensor(t) for t in ("q", "s", "z")[:3 if zero else 2]])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return model, {"x": normal(m, k)}, w


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("dtype", "zero"), [(DType.I4, False), (DType.U4, True), (DType.I8, True), (DType.U8, False)])
def test_blocks_before_a_product_stay_codes(dtype: DType, zero: bool, transposed: bool) -> None:
    model, feeds, w = blocked(dtype, 96, 40, 32, zero, transposed)
    assert kinds(manager.run(load_model(model), verify=True)) == ["matmul_grouped"]
    np.testing.assert_allclose(by_whet(model, feeds)[0], feeds["x"] @ w, rtol=1e-4, atol=1e-3)


def test_blocks_across_the_columns_are_widened() -> None:
    model, feeds, _ = blocked(DType.I4, 64, 40, 16, True, False)
    model.graph.node[0].attribute[0].i = 1  # scales per row and block of columns
    q = np.random.default_rng(0).integers(-8, 8, (64, 40))
    for t in model.graph.initializer:
        if t.name in "sz":
            row = [0.5, 2.0, 1.0] if t.name == "s" else [1, 2, 3]
            t.CopyFrom(helper.make_tensor(t.name, t.data_type, [64, 3], row * 64))
    w = (q - np.repeat([[1, 2, 3]], 16, 1)[:, :40]) * np.repeat([[0.5, 2.0, 1.0]], 16, 1)[:, :40]
    assert kinds(manager.run(load_model(model))) == ["matmul"]
    np.testing.assert_allclose(by_whet(model, feeds)[0], feeds["x"] @ w, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("dtype", "zero"), [(DType.I8, False), (DType.U8, True), (DType.I4, True)])
def test_a_scale_per_column_before_a_product_of_floats(dtype: DType, zero: bool, transposed: bool) -> None:
    model, feeds, w = blocked(dtype, 64, 24, 64, zero, transposed, block_size=False)
    assert kinds(manager.run(load_model(model), verify=True)) == ["matmul_grouped"]
    np.testing.assert_allclose(by_whet(model, feeds)[0], feeds["x"] @ w, rtol=1e-4, atol=1e-3)


def test_products_of_codes_are_left_to_the_integers() -> None:
    """Where the activation is dequantized too, even if it was reshaped since."""
    model, feeds, w = blocked(DType.I8, 64, 24, 64, False, False, m=4, block_size=False)
    graph = model.graph
    for name, value in (("xs", F32(0.05)), ("xz", np.uint8(120)), ("shape", np.array([4, 64]))):
        graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    product = graph.node.pop()
    product.input[0] = "flat"
    graph.node.extend([helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["xq"]),
                       helper.make_node("DequantizeLinear", ["xq", "xs", "xz"], ["xd"]),
                       helper.make_node("Reshape", ["xd", "shape"], ["flat"]), product])
    graph.input[0].CopyFrom(helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 2, 64]))
    assert "matmul_grouped" not in kinds(manager.run(load_model(model)))
    x = feeds["x"].reshape(2, 2, 64)
    want = (np.clip(np.rint(x / F32(0.05)) + 120, 0, 255) - 120).reshape(4, 64) * 0.05 @ w
    np.testing.assert_allclose(by_whet(model, {"x": x})[0], want, rtol=1e-4, atol=1e-2)


def test_what_no_product_reads_is_arithmetic() -> None:
    """Blocks that are gathered (an embedding), uneven ones included."""
    for k in (96, 90):
        model, _, w = blocked(DType.U4, k, 40, 32, True, False)
        model.graph.node[1].CopyFrom(helper.make_node("Gather", ["w", "x"], ["y"]))
        model.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", TensorProto.INT64, [3]))
        got = by_whet(model, {"x": np.array([5, 0, k - 1])})[0]
        np.testing.assert_allclose(got, w[[5, 0, k - 1]], rtol=1e-6)


def test_the_plan_holds_four_bits_a_weight() -> None:
    model, _ = nbits(1, 512, 1024, 128, 4, True)
    plan = whet.build(model, opt_level=0, threads=1)
    assert plan.summary()["memory"]["weights"] <= 0.14 * 4 * 512 * 1024
