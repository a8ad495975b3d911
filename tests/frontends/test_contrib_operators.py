"""ONNX Runtime's own operators: whet's generated kernels against ONNX Runtime, or against their formula where it has
no kernel for the CPU."""

import numpy as np
import pytest
from contrib_cases import agree, by_whet, model_of, normal

F32, U8, I8, I32 = np.float32, np.uint8, np.int8, np.int32


def codes(*shape: int, kind: type = np.uint8, seed: int = 0) -> np.ndarray:
    info = np.iinfo(kind)
    return np.random.default_rng([seed, *shape]).integers(info.min, info.max + 1, shape).astype(kind)


def scalar(x: float, kind: type = np.float32) -> np.ndarray:
    return np.array(x, kind)


# -- normalization ----------------------------------------------------------------------------


def test_simplified_layer_norm() -> None:
    x, g = normal(3, 5, 17), normal(17, seed=1)
    agree("SimplifiedLayerNormalization", [x, g], [(F32, 3)], {"axis": -1, "epsilon": 1e-3}, domain="")
    agree("SimplifiedLayerNormalization", [x, g], [(F32, 3), (F32, 3)], {"axis": -1}, domain="")


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(3, 5, 33), (7, 16)])
def test_skip_layer_norm(bias: bool, shape: tuple[int, ...]) -> None:
    w = shape[-1]
    ins = [normal(*shape), normal(*shape, seed=1), normal(w, seed=2), normal(w, seed=3)]
    r = len(shape)
    agree("SkipLayerNormalization", [*ins, normal(w, seed=4) if bias else None],
          [(F32, r), (F32, -1), (F32, -1), (F32, r)], {"epsilon": 1e-5})
    agree("SkipSimplifiedLayerNormalization", [*ins[:3], normal(w, seed=4) if bias else None],
          [(F32, r), (F32, -1), (F32, -1), (F32, r)], {"epsilon": 1e-5})


def test_skip_layer_norm_of_a_skip_for_every_batch() -> None:
    agree("SkipLayerNormalization", [normal(3, 5, 8), normal(1, 5, 8, seed=1), normal(8, seed=2)], [(F32, 3)])


@pytest.mark.parametrize("segments", [False, True])
def test_embed_layer_norm(segments: bool) -> None:
    ids, kinds = codes(3, 7, kind=I8) % 10, codes(3, 7, seed=1) % 2
    mask = (codes(3, 7, seed=2) > 50).astype(I32)
    ins = [np.abs(ids).astype(I32), kinds.astype(I32) if segments else None, normal(20, 16), normal(9, 16, seed=1),
           normal(2, 16, seed=2) if segments else None, normal(16, seed=3), normal(16, seed=4), mask]
    agree("EmbedLayerNormalization", ins, [(F32, 3), (I32, 1)], {"epsilon": 1e-6})


def group_norm(x: np.ndarray, gamma: np.ndarray, beta: np.ndarray, groups: int) -> np.ndarray:
    n, h, w, ch = x.shape
    g = x.astype(np.float64).reshape(n, h * w, groups, ch // groups)
    d = g - g.mean((1, 3), keepdims=True)
    return (d / np.sqrt((d * d).mean((1, 3), keepdims=True) + 1e-5)).reshape(x.shape) * gamma + beta


@pytest.mark.parametrize("silu", [0, 1])
def test_group_norm_channels_last(silu: int) -> None:
    x, gamma, beta = normal(2, 5, 3, 12), normal(12, seed=1), normal(12, seed=2)
    model, feeds = model_of("GroupNorm", [x, gamma, beta], [(F32, 4)], {"groups": 4, "activation": silu}, (1, 2))
    want = group_norm(x, gamma, beta, 4)
    np.testing.assert_allclose(by_whet(model, feeds)[0], want / (1 + np.exp(-want)) if silu else want, atol=1e-5)
    skip, bias = normal(2, 12, seed=3), normal(12, seed=4)
    model, feeds = model_of("SkipGroupNorm", [x, gamma, beta, skip, bias], [(F32, 4), (F32, 4)], {"groups": 4}, (1, 2))
    y, total = by_whet(model, feeds)
    np.testing.assert_allclose(total, x + skip[:, None, None] + bias, atol=1e-5)
    np.testing.assert_allclose(y, group_norm(x + skip[:, None, None] + bias, gamma, beta, 4), atol=1e-5)


# -- activations ------------------------------------------------------------------------------


@pytest.mark.parametrize(("op", "operands"), [("Gelu", 1), ("FastGelu", 1), ("FastGelu", 2), ("BiasGelu", 2),
                                              ("QuickGelu", 1)])
def test_gelus(op: str, operands: int) -> None:
    agree(op, [normal(3, 7, 19) * 3, normal(19, seed=1)][:operands], [(F32, 3)])


def test_bias_split_gelu_and_bias_add() -> None:
    from math import erf

    x, b = normal(2, 5, 18), normal(18, seed=1)
    model, feeds = model_of("BiasSplitGelu", [x, b], [(F32, 3)], {})
    left, right = np.split((x + b).astype(np.float64), 2, axis=2)
    want = left * right * 0.5 * (1 + np.vectorize(erf)(right / np.sqrt(2)))
    np.testing.assert_allclose(by_whet(model, feeds)[0], want, atol=1e-5)
    model, feeds = model_of("BiasAdd", [x, b, x], [(F32, 3)], {})
    np.testing.assert_allclose(by_whet(model, feeds)[0], 2 * x + b, atol=1e-5)


@pytest.mark.parametrize(("axis", "inner", "bias"), [(3, 0, (4, 5)), (3, 1, (2, 5)), (2, 0, (4, 5))])
def test_bias_softmax(axis: int, inner: int, bias: tuple[int, ...]) -> None:
    x, b = normal(2, 3, 4, 5), normal(*bias, seed=1)
    model, feeds = model_of("BiasSoftmax", [x, b], [(F32, 4)], {"axis": axis, "is_inner_broadcast": inner})
    s = (x + (b.reshape(2, 1, 1, 5) if inner else b)).astype(np.float64).reshape(*x.shape[:axis], -1)
    e = np.exp(s - s.max(-1, keepdims=True))
    np.testing.assert_allclose(by_whet(model, feeds)[0], (e / e.sum(-1, keepdims=True)).reshape(x.shape), atol=1e-6)


# -- products and convolutions ----------------------------------------------------------------


@pytest.mark.parametrize("flip", [(0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (1, 1, 0, 0), (0, 0, 1, 0), (0, 0, 1, 1),
                                  (1, 1, 1, 1)])
def test_fused_matmul(flip: tuple[int, ...]) -> None:
    ta, tb, ba, bb = flip

    def operand(batch: tuple[int, ...], m: int, k: int, swap: int, lead: int, seed: int) -> np.ndarray:
        if lead:
            return normal(*((k if swap else m), *batch, (m if swap else k)), seed=seed)
        return normal(*batch, *((k, m) if swap else (m, k)), seed=seed)

    a, b = operand((2, 3), 5, 7, ta, ba, 0), operand((2, 3), 7, 4, tb, bb, 1)
    agree("FusedMatMul", [a, b], [(F32, 4)], {"transA": ta, "transB": tb, "transBatchA": ba, "transBatchB": bb,
                                             "alpha": 0.37}, constant=(1,) if not bb else ())


@pytest.mark.parametrize("activation", ["Relu", "Tanh", "Sigmoid", "LeakyRelu"])
def test_fused_gemm(activation: str) -> None:
    extra = {"activation_alpha": 0.2} if activation == "LeakyRelu" else {}
    agree("FusedGemm", [normal(5, 7), normal(9, 7, seed=1), normal(9, seed=2)], [(F32, 2)],
          {"transB": 1, "alpha": 0.5, "beta": 2.0, "activation": activation, **extra})


@pytest.mark.parametrize(("activation", "params"), [("Relu", []), ("Tanh", []), ("Sigmoid", []), ("LeakyRelu", [0.3]),
                                                    ("Clip", [-0.5, 0.75]), ("HardSigmoid", [0.3, 0.4])])
def test_fused_conv(activation: str, params: list[float]) -> None:
    ins = [normal(2, 4, 9, 7), normal(6, 2, 3, 3, seed=1), normal(6, seed=2)]
    attrs = {"activation": activation, "group": 2, "pads": [1, 1, 1, 1], "kernel_shape": [3, 3]}
    agree("FusedConv", ins, [(F32, 4)], {**attrs, **({"activation_params": params} if params else {})}, (1, 2))


def test_fused_conv_adds_before_it_activates() -> None:
    z = normal(1, 6, 7, 5, seed=3)
    agree("FusedConv", [normal(1, 4, 9, 7), normal(6, 4, 3, 3, seed=1), normal(6, seed=2), z], [(F32, 4)],
          {"activation": "Relu", "kernel_shape": [3, 3]}, (1, 2))


@pytest.mark.models
def test_nhwc_conv() -> None:
    torch = pytest.importorskip("torch")

    x, w, b = normal(2, 9, 7, 4), normal(6, 3, 3, 2, seed=1), normal(6, seed=2)
    model, feeds = model_of("NhwcConv", [x, w, b], [(F32, 4)], {"group": 2, "pads": [1, 1, 1, 1], "strides": [2, 1]},
                            (1, 2))
    want = torch.nn.functional.conv2d(torch.tensor(x).permute(0, 3, 1, 2), torch.tensor(w).permute(0, 3, 1, 2),
                                      torch.tensor(b), (2, 1), 1, groups=2).permute(0, 2, 3, 1)
    np.testing.assert_allclose(by_whet(model, feeds)[0], want.numpy(), atol=1e-5)


def test_cdist() -> None:
    for metric in ("sqeuclidean", "euclidean"):
        agree("CDist", [normal(7, 5), normal(9, 5, seed=1)], [(F32, 2)], {"metric": metric})


def test_trilu_is_the_standard_one() -> None:
    agree("Trilu", [normal(2, 5, 7), np.array(1, np.int64)], [(F32, 3)], {"upper": 0}, (1,))


@pytest.mark.parametrize(("mode", "padding"), [("bilinear", "zeros"), ("bilinear", "border"), ("nearest", "border"),
                                               ("bicubic", "zeros")])
def test_grid_sample_is_the_standard_one(mode: str, padding: str) -> None:
    grid = np.clip(normal(2, 5, 7, 2, seed=1) * 0.6, -1.2, 1.2)
    agree("GridSample", [normal(2, 3, 6, 8), grid], [(F32, 4)], {"mode": mode, "padding_mode": padding}, atol=1e-4)


@pytest.mark.parametrize("zero", ["none", "packed", "float"])
@pytest.mark.parametrize(("bits", "k", "block"), [(4, 64, 16), (4, 40, 32), (8, 64, 32), (2, 64, 32)])
def test_matmul_of_weights_of_a_few_bits(bits: int, k: int, block: int, zero: str) -> None:
    n, blocks = 7, -(-k // block)
    b = codes(n, blocks, block * bits // 8)
    scales = np.abs(normal(n, blocks, seed=1)) * 0.1
    zeros = {"none": None, "packed": codes(n, -(-blocks * bits // 8), seed=2),
             "float": codes(n, blocks, seed=3).astype(F32) % 2**bits}[zero]
    model, feeds = model_of("MatMulNBits", [normal(2, 3, k), b, scales, zeros, None, normal(n, seed=4)], [(F32, 3)],
                            {"K": k, "N": n, "bits": bits, "block_size": block}, (1, 2, 3, 5))
    parts = np.stack([(b >> s) & (2**bits - 1) for s in range(0, 8, bits)], -1).reshape(n, blocks, block)
    if zero == "packed":
        z = np.stack([(zeros >> s) & (2**bits - 1) for s in range(0, 8, bits)], -1).reshape(n, -1)[:, :blocks]
    else:
        z = np.full((n, blocks), 2**(bits - 1)) if zeros is None else zeros
    w = ((parts.astype(float) - z[..., None]) * scales[..., None]).reshape(n, -1)[:, :k]
    want = feeds["x0"].astype(float) @ w.T + normal(n, seed=4)
    np.testing.assert_allclose(by_whet(model, feeds)[0], want, rtol=1e-4, atol=1e-4)
    if zero != "float" and bits != 2:
        agree("MatMulNBits", [normal(2, 3, k), b, scales, zeros], [(F32, 3)],
              {"K": k, "N": n, "bits": bits, "block_size": block}, (1, 2, 3), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("bits", [4, 8])
def test_rows_of_a_quantized_table(bits: int, zero: bool) -> None:
    rows, blocks, block = 11, 3, 16
    data, scales = codes(rows, blocks * block * bits // 8), np.abs(normal(rows, blocks, seed=1)) * 0.1
    points = codes(rows, -(-blocks * bits // 8), seed=2) if zero else None
    agree("GatherBlockQuantized", [data, np.array([[1, 7, 0], [10, 3, 3]], np.int64), scales, points], [(F32, 3)],
          {"bits": bits, "block_size": block, "gather_axis": 0, "quantize_axis": 1}, (0, 2, 3))


def test_max_pool_channels_last() -> None:
    agree("NhwcMaxPool", [codes(2, 9, 7, 5)], [(U8, 4)], {"kernel_shape": [3, 2], "strides": [2, 1],
                                                         "pads": [1, 0, 1, 1]})


# -- quantized operators ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", [U8, I8])
@pytest.mark.parametrize("op", ["QLinearAdd", "QLinearMul"])
def test_quantized_sums_and_products(op: str, kind: type) -> None:
    for b in (codes(3, 5, 17, kind=kind, seed=1), codes(17, kind=kind, seed=1)):
        agree(op, [codes(3, 5, 17, kind=kind), scalar(0.013), scalar(5, kind), b, scalar(0.029), scalar(9, kind),
                   scalar(0.04), scalar(11, kind)], [(kind, 3)], constant=(1, 2, 4, 5, 6, 7))


@pytest.mark.parametrize("kind", [U8, I8])
@pytest.mark.parametrize("op", ["QLinearSigmoid", "QLinearLeakyRelu"])
def test_quantized_activations(op: str, kind: type) -> None:
    attrs = {"alpha": 0.2} if op == "QLinearLeakyRelu" else {}
    agree(op, [codes(3, 5, 17, kind=kind), scalar(0.03), scalar(5, kind), scalar(0.011), scalar(3, kind)], [(kind, 3)],
          attrs, (1, 2, 3, 4))


@pytest.mark.parametrize("last", [0, 1])
def test_quantized_pooling(last: int) -> None:
    x = codes(2, 6, 9, 7)
    ins = [x.transpose(0, 2, 3, 1).copy() if last else x, scalar(0.0307), scalar(5, U8), scalar(0.0217), scalar(3, U8)]
    agree("QLinearAveragePool", ins, [(U8, 4)], {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1],
                                                "channels_last": last}, (1, 2, 3, 4))
    agree("QLinearGlobalAveragePool", ins, [(U8, 4)], {"channels_last": last}, (1, 2, 3, 4))


def test_quantized_concat_softmax_where() -> None:
    a, b = codes(2, 3, 5), codes(2, 4, 5, seed=1)
    agree("QLinearConcat", [scalar(0.02), scalar(7, U8), a, scalar(0.01), scalar(3, U8), b, scalar(0.03),
                            scalar(9, U8)], [(U8, 3)], {"axis": 1}, (0, 1, 3, 4, 6, 7))
    for opset in (12, 13):
        agree("QLinearSoftmax", [a, scalar(0.05), scalar(7, U8), scalar(1 / 256), scalar(0, U8)], [(U8, 3)],
              {"axis": 1, "opset": opset}, (1, 2, 3, 4))
    agree("QLinearWhere", [codes(2, 3, 5, seed=4) > 99, a, scalar(0.02), scalar(7, U8), codes(2, 3, 5, seed=2),
                           scalar(0.03), scalar(9, U8), scalar(0.04), scalar(5, U8)], [(U8, 3)], {},
          (2, 3, 5, 6, 7, 8))


@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("k", [16, 300])
def test_integer_products_to_float(columns: bool, k: int) -> None:
    n = 9
    scale = np.abs(normal(n, seed=5)) if columns else scalar(0.02)
    zero = codes(n, kind=I8, seed=6) if columns else scalar(3, I8)
    a, b, bias = codes(3, 5, k), codes(k, n, kind=I8, seed=1), normal(n, seed=2)
    agree("MatMulIntegerToFloat", [a, b, scalar(0.01), scale, scalar(100, U8), zero, bias], [(F32, 3)], {},
          (1, 3, 5, 6), atol=1e-3)
    agree("DynamicQuantizeMatMul", [normal(3, 5, k), b, scale, zero, bias], [(F32, 3)], {}, (1, 2, 3, 4), rtol=1e-3,
          atol=1e-3)


@pytest.mark.parametrize("quantized", [False, True])
def test_quantized_gemm(quantized: bool) -> None:
    k, n = 24, 7
    ins = [codes(5, k), scalar(0.02), scalar(7, U8), codes(n, k, kind=I8, seed=1), np.abs(normal(n, seed=2)) * 0.01,
           np.zeros(n, I8), codes(n, kind=I8, seed=4).astype(I32)]
    if quantized:
        ins += [scalar(0.03), scalar(100, U8)]
    agree("QGemm", ins, [(U8 if quantized else F32, 2)], {"transB": 1}, tuple(range(1, len(ins)))[2:])


def test_quantized_convolution_channels_last() -> None:
    x, w = codes(1, 7, 6, 4), codes(5, 4, 3, 3, kind=I8, seed=1)
    agree("QLinearConv", [x, scalar(0.02), scalar(7, U8), w, np.abs(normal(5, seed=2)) * 0.01, np.zeros(5, I8),
                          scalar(0.03), scalar(100, U8), codes(5, kind=I8, seed=4).astype(I32)], [(U8, 4)],
          {"channels_last": 1, "kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}, tuple(range(1, 9)))
