"""Random operands and attributes: the imported graph computes what ONNX Runtime computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_cases import by_onnxruntime, by_whet, one

from whet.frontends import load_model

pytest.importorskip("onnxruntime")
relaxed = settings(max_examples=40, deadline=None)


def array(data: st.DataObject, *shape: int) -> np.ndarray:
    return np.random.default_rng(data.draw(st.integers(0, 1 << 20))).standard_normal(shape).astype(np.float32)


def agree(case: tuple[onnx.ModelProto, dict[str, np.ndarray]], tolerance: float = 1e-4) -> None:
    m, feeds = case
    for a, b in zip(by_whet(m, feeds), by_onnxruntime(m, feeds), strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def window(data: st.DataObject, rank: int, kernel: list[int]) -> dict[str, Any]:
    """Strides, and either pads or auto_pad; a stride above the kernel's size with SAME is where runtimes differ."""
    pad = data.draw(st.sampled_from(["none", "pads", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    if pad.startswith("SAME"):
        return {"strides": [data.draw(st.integers(1, k)) for k in kernel], "auto_pad": pad}
    attrs: dict[str, Any] = {"strides": [data.draw(st.integers(1, 3)) for _ in range(rank)]}
    if pad == "pads":
        attrs["pads"] = [data.draw(st.integers(0, k // 2)) for k in kernel] * 2
    elif pad == "VALID":
        attrs["auto_pad"] = pad
    return attrs


@relaxed
@given(st.data())
def test_conv(data: st.DataObject) -> None:
    rank, groups = data.draw(st.integers(1, 3)), data.draw(st.sampled_from([1, 1, 2, 3]))
    kernel = [data.draw(st.integers(1, 3)) for _ in range(rank)]
    attrs = window(data, rank, kernel)
    if "auto_pad" not in attrs:
        attrs["dilations"] = [data.draw(st.integers(1, 2)) for _ in range(rank)]
    x = array(data, data.draw(st.integers(1, 2)), 2 * groups, *(data.draw(st.integers(5, 9)) for _ in range(rank)))
    w = array(data, 3 * groups, 2, *kernel)
    bias = [array(data, 3 * groups)] if data.draw(st.booleans()) else []
    agree(one("Conv", [x, w, *bias], constants=(1, 2), free=data.draw(st.booleans()), group=groups, **attrs))


@relaxed
@given(st.data())
def test_conv_transpose(data: st.DataObject) -> None:
    rank, groups = data.draw(st.integers(1, 3)), data.draw(st.sampled_from([1, 1, 2, 3]))
    strides = [data.draw(st.integers(1, 3)) for _ in range(rank)]
    attrs = {"strides": strides, "group": groups, "dilations": [data.draw(st.integers(1, 2)) for _ in range(rank)],
             "pads": [data.draw(st.integers(0, 1)) for _ in range(2 * rank)],
             "output_padding": [data.draw(st.integers(0, s - 1)) for s in strides]}
    x = array(data, 2, 2 * groups, *(data.draw(st.integers(3, 6)) for _ in range(rank)))
    w = array(data, 2 * groups, 3, *(data.draw(st.integers(2, 3)) for _ in range(rank)))
    agree(one("ConvTranspose", [x, w], constants=(1,), free=data.draw(st.booleans()), **attrs))


@relaxed
@given(st.data())
def test_a_single_window_beyond_the_data_pools_what_there_is(data: st.DataObject) -> None:
    op = data.draw(st.sampled_from(["MaxPool", "AveragePool", "LpPool"]))
    sizes = [data.draw(st.integers(1, 7)) for _ in range(2)]
    dilations = [data.draw(st.integers(1, 2)) for _ in range(2)] if op == "MaxPool" else [1, 1]
    pads = [l * data.draw(st.integers(0, 2)) for l in dilations]
    kernel = [(d + p - 1) // l + 1 + data.draw(st.integers(0, 40)) for d, p, l in zip(sizes, pads, dilations)]
    ends = [(k - 1) * l + 1 - d - p for k, l, d, p in zip(kernel, dilations, sizes, pads)]
    whole = data.draw(st.booleans()) and all(e >= 0 for e in ends)  # the end pads are written, or come of rounding up
    x = array(data, 2, 3, *sizes)
    more = {"dilations": dilations} if op == "MaxPool" else {}
    m, feeds = one(op, [x], opset=19, kernel_shape=kernel, strides=[k * l + 9 for k, l in zip(kernel, dilations)],
                   pads=[*pads, *(ends if whole else (0, 0))], ceil_mode=int(not whole), **more)
    (y,) = by_whet(m, feeds)
    inside = x[:, :, ::dilations[0], ::dilations[1]].astype(np.float64)
    expected = {"MaxPool": inside.max((2, 3)), "AveragePool": inside.mean((2, 3)),
                "LpPool": np.sqrt((inside ** 2).sum((2, 3)))}[op]
    assert y.shape == (2, 3, 1, 1)
    np.testing.assert_allclose(y[:, :, 0, 0], expected, rtol=1e-5, atol=1e-6)  # means may be of nothing but rounding


def test_a_global_pool_by_a_window_is_a_reduction() -> None:
    m, _ = one("AveragePool", [np.ones((1, 16, 7, 7), np.float32)], opset=19, kernel_shape=[1280, 1280],
               strides=[1280, 1280], ceil_mode=1)
    kinds = [n.op for n in load_model(m.SerializeToString()).nodes]
    assert "reduce" in kinds or "reduce_mean" in kinds, kinds
    assert "pool" not in kinds


@relaxed
@given(st.data())
def test_pool(data: st.DataObject) -> None:
    op, rank = data.draw(st.sampled_from(["MaxPool", "AveragePool", "LpPool"])), data.draw(st.integers(1, 3))
    kernel = [data.draw(st.integers(1, 3)) for _ in range(rank)]
    attrs: dict[str, Any] = {"kernel_shape": kernel, **window(data, rank, kernel)}
    if "auto_pad" not in attrs:
        attrs["ceil_mode"] = data.draw(st.integers(0, 1))
    if op == "AveragePool":
        attrs["count_include_pad"] = data.draw(st.integers(0, 1))
    if op == "LpPool":
        attrs["p"] = data.draw(st.integers(1, 3))
    x = array(data, 2, 2, *(data.draw(st.integers(4, 9)) for _ in range(rank)))
    agree(one(op, [x], free=data.draw(st.booleans()), **attrs))


@relaxed
@given(st.data())
def test_reductions(data: st.DataObject) -> None:
    op = data.draw(st.sampled_from(["Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "LogSumExp", "SumSquare"]))
    rank = data.draw(st.integers(1, 4))
    x = array(data, *(data.draw(st.integers(1, 4)) for _ in range(rank)))
    axes = data.draw(st.lists(st.integers(0, rank - 1), max_size=rank, unique=True))
    shift = rank if data.draw(st.booleans()) else 0
    agree(one(f"Reduce{op}", [x, np.array(axes, np.int64) - shift], constants=(1,), opset=18,
              free=data.draw(st.booleans()), keepdims=data.draw(st.integers(0, 1)),
              noop_with_empty_axes=data.draw(st.integers(0, 1))))


@relaxed
@given(st.data())
def test_slice(data: st.DataObject) -> None:
    rank = data.draw(st.integers(1, 3))
    x = array(data, *(data.draw(st.integers(1, 6)) for _ in range(rank)))
    axes = data.draw(st.lists(st.integers(0, rank - 1), min_size=1, max_size=rank, unique=True))
    steps = [data.draw(st.sampled_from([1, 1, 2, -1, -2])) for _ in axes]
    starts = [data.draw(st.integers(-7, 7)) for _ in axes]
    ends = [data.draw(st.one_of(st.integers(-7, 7), st.just((1 << 63) - 1 if k > 0 else -(1 << 63)))) for k in steps]
    operands = [np.array(v, np.int64) for v in (starts, ends, axes, steps)]
    agree(one("Slice", [x, *operands], constants=(1, 2, 3, 4), free=data.draw(st.booleans())))


@relaxed
@given(st.data())
def test_pad(data: st.DataObject) -> None:
    mode, rank = data.draw(st.sampled_from(["constant", "reflect", "edge"])), data.draw(st.integers(1, 3))
    x = array(data, *(data.draw(st.integers(2, 5)) for _ in range(rank)))
    least = -1 if mode == "constant" else 0
    pads = np.array([data.draw(st.integers(least, 1)) for _ in range(2 * rank)], np.int64)
    agree(one("Pad", [x, pads], constants=(1,), opset=18, mode=mode, free=data.draw(st.booleans())))


@relaxed
@given(st.data())
def test_resize_by_whole_factors(data: st.DataObject) -> None:
    mode = data.draw(st.sampled_from(["nearest", "linear", "cubic"]))
    attrs: dict[str, Any] = {"mode": mode, "coordinate_transformation_mode": data.draw(st.sampled_from(
        ["half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel"]))}
    if mode == "nearest":
        attrs["nearest_mode"] = data.draw(st.sampled_from(["floor", "ceil"]))
    x = array(data, 1, 2, data.draw(st.integers(3, 7)), data.draw(st.integers(3, 7)))
    scales = np.array([1, 1, *(data.draw(st.sampled_from([1, 2, 4])) for _ in range(2))], np.float32)
    agree(one("Resize", [x, None, scales], constants=(2,), opset=18, free=data.draw(st.booleans()), **attrs), 1e-3)


@pytest.mark.parametrize(("equation", "shapes"), [
    ("bij,bjk->bik", [(2, 3, 4), (2, 4, 5)]), ("bhid,bhjd->bhij", [(2, 2, 3, 4), (2, 2, 5, 4)]), ("ij->ji", [(3, 4)]),
    ("ij,kj->ik", [(3, 4), (5, 4)]), ("...ij,...jk->...ik", [(2, 3, 4), (2, 4, 2)]), ("bi,bi->b", [(3, 4), (3, 4)]),
    ("i,j->ij", [(3,), (4,)]), ("ijk->j", [(2, 3, 4)]), ("bnd,dhk->bnhk", [(2, 3, 4), (4, 2, 5)]),
    ("ab,bc,cd->ad", [(2, 3), (3, 4), (4, 5)]), ("ij,jk", [(2, 3), (3, 4)]), ("bid,ijd->bij", [(2, 3, 4), (3, 5, 4)]),
])
def test_einsum(equation: str, shapes: list[tuple[int, ...]]) -> None:
    rng = np.random.default_rng(0)
    agree(one("Einsum", [rng.standard_normal(s).astype(np.float32) for s in shapes], equation=equation))


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "Hardmax"])
@pytest.mark.parametrize("axis", [-2, 0, 1, 2])
@pytest.mark.parametrize("opset", [11, 13])
def test_softmax_before_opset_13_takes_all_later_dimensions_as_one(op: str, axis: int, opset: int) -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
    agree(one(op, [x], opset=opset, axis=axis))


ACTIVATIONS = ["Elu", "Selu", "Celu", "LeakyRelu", "HardSigmoid", "HardSwish", "Softplus", "Mish", "Gelu", "Sigmoid",
               "ThresholdedRelu", "Relu", "Tanh", "Erf"]


@pytest.mark.parametrize("op", ACTIVATIONS)
def test_activations_at_extremes(op: str) -> None:
    x = np.array([-1e38, -1000, -88, -20, -1, -1e-3, -0.0, 0.0, 1e-3, 1, 20, 88, 1000, 1e38, np.nan], np.float32)
    m, feeds = one(op, [x])
    (got,), (want,) = by_whet(m, feeds), by_onnxruntime(m, feeds)
    finite = np.isfinite(want)
    np.testing.assert_allclose(got[finite], want[finite], rtol=1e-5, atol=1e-6)
    assert np.isnan(got[-1]) == (op != "ThresholdedRelu")  # which gives 0 for what is not above its threshold
    assert not np.isnan(got[:-1]).any()
