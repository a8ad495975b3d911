"""Sizes, axes and parameters that are computed while the model runs: against onnx.reference, on random inputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx_cases import agree, by_onnxruntime, by_reference, by_whet, model, one

from whet.errors import InputError, ProfileError
from whet.frontends import load_model
from whet.ir import interpret, verify
from whet.ir.ops_host import HOST

F, I = np.float32, np.int64
node = helper.make_node
rng = np.random.default_rng(7)


def ints(*v: int) -> np.ndarray:
    return np.array(v, I)


def floats(*shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(F)


def check(op: str, arrays: list[np.ndarray | None], want: Any = None, free: bool = False, opset: int = 20,
          outputs: int = 1, **attrs: Any) -> None:
    """The operator with all its operands as inputs equals onnx.reference, and no node is left to that."""
    m, feeds = one(op, arrays, outputs, opset, free=free, **attrs)
    assert not any(n.op in HOST for n in load_model(m).nodes)
    agree(by_whet(m, feeds), by_reference(m, feeds) if want is None else [want])


def data_dims(m: onnx.ModelProto, **how: Any) -> dict[str, tuple[int, int, int]]:
    """The ranges of the data-dependent sizes of a model."""
    g = load_model(m, **how)
    return {n: g.dims[n] for n in g.sizes}


SLICES = [((5, 4, 3), (1, -2), (9, 4), (0, 1), (1, 1)), ((5,), (-1,), (-100,), (0,), (-2,)),
          ((5, 0), (0, 0), (3, 3), (0, 1), (2, -1)), ((7, 3), (6, -1), (0, -9), (-2, -1), (-3, -1)),
          ((4, 4), (9, 1), (12, 0), (0, 1), (1, 1)), ((3,), (0,), (np.iinfo(I).max,), (0,), (1,)),
          ((1,), (-7,), (np.iinfo(I).min,), (0,), (-1,)), ((6,), (-4,), (5,), (0,), (2,))]


@pytest.mark.parametrize("shape, starts, ends, axes, steps", SLICES)
@pytest.mark.parametrize("known", ["nothing", "axes", "steps", "both"])
def test_slice(shape: Any, starts: Any, ends: Any, axes: Any, steps: Any, known: str) -> None:
    fixed = {"nothing": (), "axes": (3,), "steps": (4,), "both": (3, 4)}[known]
    x = floats(*shape)
    m, feeds = one("Slice", [x, *(ints(*v) for v in (starts, ends, axes, steps))], constants=fixed)
    want = x
    for s, e, a, k in zip(starts, ends, axes, steps):
        n = x.shape[a]
        if k < 0:  # ONNX clamps a backward slice's start to the first element, NumPy makes it empty
            s = max(s + n if s < 0 else s, 0)
            e = None if e < -n else e
        want = want[(slice(None),) * (a % x.ndim) + (slice(s, e, k),)]
    agree(by_whet(m, feeds), [want])


def test_a_slice_is_at_most_its_dimension() -> None:
    m, _ = one("Slice", [floats(9, 4), ints(2), ints(5), ints(0), ints(1)], constants=(3, 4))
    assert sorted(data_dims(m).values()) == [(0, 0, 9), (0, 9, 9)]


@pytest.mark.parametrize("shape, to", [((2, 3, 4), (4, 6)), ((2, 3, 4), (-1, 8)), ((2, 3, 4), (0, 2, 6)), ((6,), (-1,)),
                                       ((2, 0), (0, 0)), ((1,), ()), ((0, 3), (3, -1)), ((2, 3), (3, 1, 1, 2))])
def test_reshape(shape: tuple[int, ...], to: tuple[int, ...]) -> None:
    if shape == (0, 3):
        check("Reshape", [floats(*shape), ints(*to)], np.zeros((3, 0), F))
    else:
        check("Reshape", [floats(*shape), ints(*to)])


def test_reshape_that_keeps_zeros() -> None:
    check("Reshape", [floats(0, 4), ints(4, 0)], allowzero=1)


@pytest.mark.parametrize("to", [(7,), (2, 4), (-1, -1), (4, -1)])
def test_a_reshape_that_does_not_fit_is_refused(to: tuple[int, ...]) -> None:
    m, feeds = one("Reshape", [floats(6), ints(*to)])
    with pytest.raises(InputError):
        by_whet(m, feeds)


@pytest.mark.parametrize("shape, to", [((3, 1), (2, 3, 4)), ((3, 1), (1, 1)), ((1,), (0,)), ((2, 3), (3,)),
                                       ((), (2, 2)), ((4, 1, 2), (3, 1))])
def test_expand(shape: tuple[int, ...], to: tuple[int, ...]) -> None:
    check("Expand", [floats(*shape), ints(*to)])


def test_expand_of_a_dimension_to_another_is_refused() -> None:
    m, feeds = one("Expand", [floats(3), ints(2)])
    with pytest.raises(InputError):
        by_whet(m, feeds)


@pytest.mark.parametrize("start, limit, step", [(0, 7, 1), (3, 4, 2), (5, 5, 1), (9, 0, 1), (9, -1, -3), (-3, 4, 5)])
@pytest.mark.parametrize("dtype", [np.int32, I, F, np.float64])
def test_range(start: int, limit: int, step: int, dtype: Any) -> None:
    check("Range", [np.array(v, dtype) for v in (start, limit, step)])


def test_range_of_fractions() -> None:
    check("Range", [np.array(v, F) for v in (0.5, 3.2, 0.3)])


def test_a_range_of_step_0_is_refused() -> None:
    m, feeds = one("Range", [np.array(v, I) for v in (0, 5, 0)])
    with pytest.raises(InputError):
        by_whet(m, feeds)


@pytest.mark.parametrize("shape", [(2, 3), (0, 4), ()])
def test_constant_of_shape(shape: tuple[int, ...]) -> None:
    check("ConstantOfShape", [ints(*shape)], value=onnx.numpy_helper.from_array(np.array([5], np.int32)))


@pytest.mark.parametrize("repeats", [(2, 1, 3), (1, 1, 1), (0, 2, 1)])
def test_tile(repeats: tuple[int, ...]) -> None:
    check("Tile", [floats(2, 3, 1), ints(*repeats)])


PADS = [((3, 4), (1, 0, 2, 3)), ((3, 4), (-1, 1, 0, -2)), ((3, 5), (0, 2, 0, 2)), ((4, 3), (-2, -1, -2, 0))]


@pytest.mark.parametrize("shape, pads", PADS)
@pytest.mark.parametrize("mode", ["constant", "reflect", "edge", "wrap"])
def test_pad(shape: tuple[int, ...], pads: tuple[int, ...], mode: str) -> None:
    x = floats(*shape)
    m, feeds = one("Pad", [x, ints(*pads)], mode=mode)
    fixed, less = one("Pad", [x, ints(*pads)], mode=mode, constants=(1,))
    agree(by_whet(m, feeds), by_whet(fixed, less))
    if min(pads) >= 0:
        agree(by_whet(m, feeds), by_reference(m, feeds))


def test_pad_with_axes_and_a_value_that_are_computed() -> None:
    check("Pad", [floats(2, 3, 4), ints(1, 0, 2, 3), np.array(1.5, F), ints(-1, 0)])
    check("Pad", [floats(0, 2), ints(1, 1, 2, 0), np.array(3, F)])


@pytest.mark.parametrize("sizes", [(2, 3, 1), (0, 6, 0)])
def test_split(sizes: tuple[int, ...]) -> None:
    check("Split", [floats(6, 2), ints(*sizes)], outputs=3)


@pytest.mark.parametrize("sizes", [(2, 3), (-1, 7), (9, 0)])
def test_split_sizes_that_do_not_add_up_are_refused(sizes: tuple[int, ...]) -> None:
    m, feeds = one("Split", [floats(6, 2), ints(*sizes)], outputs=2)
    with pytest.raises(InputError):
        by_whet(m, feeds)


REDUCTIONS = ["ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceLogSum",
              "ReduceSumSquare", "ReduceLogSumExp"]


@pytest.mark.parametrize("op", REDUCTIONS)
def test_reductions_over_axes_that_are_computed(op: str) -> None:
    x = np.abs(floats(3, 4, 5)) + F(0.1)
    for axes in ((1,), (-1,), (0, 2), (2, 0), (0, 1, 2), ()):
        for keep in (0, 1):
            check(op, [x, ints(*axes)], keepdims=keep)


def test_reductions_of_nothing() -> None:
    check("ReduceSum", [floats(2, 0, 4), ints(1)], keepdims=1)
    check("ReduceProd", [floats(2, 0, 4), ints(0)], keepdims=0)
    check("ReduceSum", [floats(2, 3), ints()], noop_with_empty_axes=1)


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("how", [{}, {"exclusive": 1}, {"reverse": 1}, {"exclusive": 1, "reverse": 1}])
def test_cumsum_along_an_axis_that_is_computed(axis: int, how: dict[str, int]) -> None:
    check("CumSum", [floats(3, 4), np.array(axis, np.int32)], **how)


@pytest.mark.parametrize("axes", [(0,), (-1,), (0, 3), (3, 0)])
def test_squeeze_axes_that_are_computed(axes: tuple[int, ...]) -> None:
    check("Squeeze", [floats(1, 3, 2, 1), ints(*axes)])


def test_squeezing_what_holds_more_than_one_element_is_refused() -> None:
    m, feeds = one("Squeeze", [floats(1, 3, 2), ints(1)])
    with pytest.raises(InputError):
        by_whet(m, feeds)


@pytest.mark.parametrize("shape, axes", [((3, 2), (0,)), ((3, 2), (-1,)), ((3, 2), (1, 3)), ((3, 2), (3, 0)),
                                         ((), (0, 1))])
def test_unsqueeze_axes_that_are_computed(shape: tuple[int, ...], axes: tuple[int, ...]) -> None:
    check("Unsqueeze", [floats(*shape), ints(*axes)])


@pytest.mark.parametrize("k", [0, 1, 5])
def test_topk(k: int) -> None:
    check("TopK", [floats(3, 5), ints(k)], outputs=2)


def test_more_than_there_are_is_refused() -> None:
    m, feeds = one("TopK", [floats(3, 5), ints(6)], 2)
    with pytest.raises(InputError):
        by_whet(m, feeds)
    assert [high for _, _, high in data_dims(m).values()] == [5]


@pytest.mark.parametrize("depth", [np.array(4, I), np.array(6, np.int32), np.array(3, F)])
def test_one_hot_of_a_computed_depth(depth: np.ndarray) -> None:
    check("OneHot", [ints(0, 2, -1), depth, np.array([0, 1], F)])


@pytest.mark.parametrize("k", [-9, -1, 0, 2, 7])
@pytest.mark.parametrize("upper", [0, 1])
def test_trilu_of_a_computed_diagonal(k: int, upper: int) -> None:
    check("Trilu", [floats(2, 4, 5), np.array(k, I)], upper=upper)


# -- results as large as the data says --------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 4, 5), (7,), (0, 3), (4, 0)])
@pytest.mark.parametrize("dtype", [F, np.int32, bool])
def test_nonzero(shape: tuple[int, ...], dtype: Any) -> None:
    check("NonZero", [(rng.random(shape) < 0.4).astype(dtype)], free=True)


def test_nonzero_of_everything_and_of_nothing() -> None:
    check("NonZero", [np.ones((3, 2), F)])
    check("NonZero", [np.zeros((3, 2), F)], np.zeros((2, 0), I))
    check("NonZero", [np.array([np.nan, 0, -0.0, np.inf], F)])


def test_nonzero_is_at_most_the_number_of_elements() -> None:
    m, _ = one("NonZero", [floats(3, 4)])
    assert list(data_dims(m).values()) == [(0, 6, 12)]


@pytest.mark.parametrize("axis", [None, 0, 1, -1])
def test_compress(axis: int | None) -> None:
    how = {} if axis is None else {"axis": axis}
    check("Compress", [floats(3, 4), np.array([True, False, True])], **how)
    check("Compress", [floats(3, 4), np.array([False, False])], **how)


@pytest.mark.parametrize("dtype", [F, I, np.uint8])
def test_unique(dtype: Any) -> None:
    x = rng.integers(0, 6, (4, 5)).astype(dtype)
    check("Unique", [x], outputs=4)
    check("Unique", [x[:, :3] % 3], outputs=4, axis=0)
    check("Unique", [x[:2] % 3], outputs=4, axis=1)


@pytest.mark.parametrize("shape", [(7,), (3, 6)])
def test_unique_in_the_order_of_occurrence(shape: tuple[int, ...]) -> None:
    m, feeds = one("Unique", [rng.integers(-3, 4, shape)], 4, sorted=0)
    agree(by_whet(m, feeds), by_onnxruntime(m, feeds))


# -- resize -----------------------------------------------------------------------------------

MODES = [("nearest", "asymmetric"), ("nearest", "half_pixel"), ("linear", "half_pixel"), ("linear", "align_corners"),
         ("linear", "pytorch_half_pixel"), ("cubic", "half_pixel"), ("linear", "half_pixel_symmetric"),
         ("cubic", "asymmetric")]


@pytest.mark.parametrize("mode, how", MODES)
def test_resize_by_computed_scales(mode: str, how: str) -> None:
    x = floats(1, 2, 5, 7)
    for scales in ((1, 1, 1.6, 2), (1, 1, 0.7, 0.5), (1, 1, 1, 3)):
        m, feeds = one("Resize", [x, None, np.array(scales, F)], mode=mode, coordinate_transformation_mode=how)
        right = by_onnxruntime if how == "half_pixel_symmetric" else by_reference
        agree(by_whet(m, feeds), right(m, feeds), 1e-4, 1e-4)


@pytest.mark.parametrize("mode, how", MODES)
def test_resize_to_computed_sizes(mode: str, how: str) -> None:
    for sizes in ((1, 2, 9, 4), (1, 2, 5, 7), (1, 2, 1, 1)):
        check("Resize", [floats(1, 2, 5, 7), None, None, ints(*sizes)], mode=mode, coordinate_transformation_mode=how)


def test_resize_that_leaves_out_what_lies_outside() -> None:
    check("Resize", [floats(1, 1, 4, 5), None, np.array((1, 1, 1.7, 0.6), F)], mode="cubic", exclude_outside=1)


@pytest.mark.parametrize("policy", ["not_larger", "not_smaller"])
def test_resize_that_keeps_the_aspect_ratio(policy: str) -> None:
    check("Resize", [floats(1, 1, 4, 6), None, None, ints(7, 8)], keep_aspect_ratio_policy=policy, axes=[2, 3],
          mode="linear")


@pytest.mark.parametrize("mode", ["linear", "nearest"])
def test_resize_of_a_crop(mode: str) -> None:
    check("Resize", [floats(1, 1, 5, 6), np.array([0, 0, 0.2, -0.3, 1, 1, 0.7, 1.2], F), None, ints(1, 1, 4, 8)],
          mode=mode, coordinate_transformation_mode="tf_crop_and_resize", extrapolation_value=9.0)


def test_a_scale_of_a_symbolic_dimension_that_is_no_ratio() -> None:
    x = floats(1, 1, 13, 3)
    m = model([node("Resize", ["x", "", "s"], ["y"], mode="linear")], {"x": (F, (1, 1, "h", 3))}, ["y"],
              {"s": np.array([1, 1, 0.7071, 1], F)})
    agree(by_whet(m, {"x": x}), by_reference(m, {"x": x}))


# -- models -----------------------------------------------------------------------------------


def test_elements_that_are_known_stay_known() -> None:
    nodes = [node("Shape", ["x"], ["s"]), node("Gather", ["s", "i0"], ["b"]),
             node("Concat", ["b", "n"], ["to"], axis=0), node("Reshape", ["x", "to"], ["y"])]
    m = model(nodes, {"x": (F, ("batch", 12)), "n": (I, (2,))}, ["y"], {"i0": ints(0)})
    g = load_model(m)
    verify(g)
    assert str(g.outputs[0].shape[0]) == "batch"
    x = floats(2, 12)
    assert interpret(g, {"x": x, "n": ints(3, -1)})["y"].shape == (2, 3, 4)


def test_two_sizes_from_one_value_are_one() -> None:
    nodes = [node("Expand", ["x", "s"], ["a"]), node("ConstantOfShape", ["s"], ["b"]), node("Add", ["a", "b"], ["y"])]
    m = model(nodes, {"x": (F, (1, 1)), "s": (I, (2,))}, ["y"])
    g = load_model(m)
    verify(g)
    assert len(g.sizes) == 2
    assert not g.checks
    assert interpret(g, {"x": floats(1, 1), "s": ints(2, 3)})["y"].shape == (2, 3)


def test_sizes_that_must_be_equal_are_checked() -> None:
    nodes = [node("NonZero", ["a"], ["i"]), node("NonZero", ["b"], ["j"]), node("Add", ["i", "j"], ["y"])]
    m = model(nodes, {"a": (F, ("n",)), "b": (F, ("m",))}, ["y"])
    g = load_model(m)
    verify(g)
    assert interpret(g, {"a": np.array([1, 0, 1], F), "b": np.array([1, 1], F)})["y"].tolist() == [[0, 3]]
    with pytest.raises(InputError):
        interpret(g, {"a": np.array([1, 0, 1], F), "b": np.array([1, 0], F)})


def test_a_size_that_must_be_that_of_an_input_is_checked() -> None:
    nodes = [node("NonZero", ["a"], ["i"]), node("Squeeze", ["i", "zero"], ["j"]), node("Add", ["j", "x"], ["y"])]
    m = model(nodes, {"a": (F, ("n",)), "x": (I, ("k",))}, ["y"], {"zero": ints(0)})
    g = load_model(m)
    verify(g)
    feeds = {"a": np.array([1, 0, 1], F), "x": ints(10, 20)}
    assert interpret(g, feeds)["y"].tolist() == [10, 22]
    with pytest.raises(InputError):
        interpret(g, {**feeds, "x": ints(1, 2, 3)})


def test_boxes_above_a_score_are_picked_and_counted() -> None:
    nodes = [node("Greater", ["scores", "limit"], ["keep"]), node("NonZero", ["keep"], ["i"]),
             node("Transpose", ["i"], ["t"]), node("GatherND", ["boxes", "t"], ["picked"]),
             node("Shape", ["picked"], ["s"]), node("ReduceSum", ["picked"], ["total"], keepdims=0)]
    m = model(nodes, {"scores": (F, ("n",)), "boxes": (F, ("n", 4))}, ["picked", "s", "total"],
              {"limit": np.array(0, F)})
    for n in (0, 1, 17):
        feeds = {"scores": floats(n), "boxes": floats(n, 4)}
        agree(by_whet(m, feeds), by_reference(m, feeds))


# -- profiles ---------------------------------------------------------------------------------


def _expand() -> onnx.ModelProto:
    return model([node("Expand", ["x", "s"], ["y"])], {"x": (F, (1, 1)), "s": (I, (2,))}, ["y"])


def test_a_profile_gives_the_elements_of_a_shape_input_ranges() -> None:
    assert sorted(data_dims(_expand(), profiles=[{"s": ((1, 2), (1, 8), (1, 64))}]).values()) == [(1, 1, 1), (2, 8, 64)]
    g = load_model(_expand(), profiles=[{"s": ((1, 2), (1, 8), (1, 64))}])
    assert g.contents == {"s": ((1, 1, 1), (2, 8, 64))}
    with pytest.raises(InputError):
        interpret(g, {"x": floats(1, 1), "s": ints(1, 65)})


def test_a_profile_of_a_scalar() -> None:
    m, _ = one("Range", [np.array(v, I) for v in (0, 5, 1)], constants=(0, 2))
    assert data_dims(m, profiles=[{"x1": (2, 10, 100)}]) == {"size_y0": (2, 10, 100)}


def test_a_profile_of_a_size_that_data_tells() -> None:
    m, feeds = one("NonZero", [floats(30)])
    assert data_dims(m, profiles=[{"size_y0": (0, 5, 40)}]) == {"size_y0": (0, 5, 30)}
    long, _ = one("Range", [np.array(v, I) for v in (0, 5, 1)], constants=(0, 2))
    assert data_dims(long, profiles=[{"size_y0": (1, 100, 1 << 30)}]) == {"size_y0": (1, 100, 1 << 30)}
    assert by_whet(m, feeds, profiles=[{"size_y0": (0, 5, 30)}])[0].shape == (1, 30)
    with pytest.raises(ProfileError, match="size_z"):
        load_model(m, profiles=[{"size_z": (0, 5, 30)}])


@pytest.mark.parametrize("bounds", [((1,), (1,), (1,)), ((3, 1), (2, 1), (4, 1)), (1, 2, 3),
                                    ((1, 2), (1.5, 2), (3, 3))])
def test_profiles_that_do_not_fit_a_shape_input(bounds: Any) -> None:
    with pytest.raises(ProfileError):
        load_model(_expand(), profiles=[{"s": bounds}])


@pytest.mark.parametrize("how", [{}, {"strides": [2, 1], "pads": [1, 0, 1, 2]}, {"dilations": [1, 2]}])
def test_columns_become_an_image_of_computed_sizes(how: dict[str, list[int]]) -> None:
    image, block, pads = (5, 6), (2, 3), how.get("pads", [0] * 4)
    count = 1
    for a in range(2):
        reach = how.get("dilations", [1, 1])[a] * (block[a] - 1) + 1
        count *= (image[a] + pads[a] + pads[2 + a] - reach) // how.get("strides", [1, 1])[a] + 1
    m, feeds = one("Col2Im", [floats(2, 12, count), ints(*image), ints(*block)], **how)
    assert not any(n.op in HOST for n in load_model(m).nodes)
    fixed, less = one("Col2Im", list(feeds.values()), constants=(1, 2), **how)
    agree(by_whet(m, feeds), by_whet(fixed, less))
    agree(by_whet(m, feeds), by_reference(m, feeds))
