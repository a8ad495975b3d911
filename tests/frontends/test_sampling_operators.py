"""Operators that read between pixels, and those about windows, run on generated kernels and are right."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from onnx_cases import agree, by_plan, by_reference, one

RNG = np.random.default_rng


@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("corners", [0, 1])
@pytest.mark.parametrize("spatial", [(5, 7), (1, 4), (3, 2, 4)])
def test_grid_sample(padding: str, mode: str, corners: int, spatial: tuple[int, ...]) -> None:
    """Far outside too, where a reflection goes back and forth several times."""
    if mode == "cubic" and (len(spatial) == 3 or 1 in spatial):
        pytest.skip("64 taps; the reference divides by the distance of the borders")
    if 1 in spatial and corners and padding == "reflection":
        pytest.skip("the reference divides by the distance of the borders")
    rng = RNG(corners)
    x = rng.normal(size=(2, 3, *spatial)).astype(np.float32)
    out = (4, 3) if len(spatial) == 2 else (2, 1, 3)
    grid = rng.uniform(-2.6, 2.6, (2, *out, len(spatial))).astype(np.float32)
    m, feeds = one("GridSample", [x, grid], mode=mode, padding_mode=padding, align_corners=corners)
    agree(by_plan(m, feeds), by_reference(m, feeds), 1e-3, 1e-4)


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_grid_sample_matches_onnx_runtime(mode: str) -> None:
    from onnx_cases import by_onnxruntime

    rng = RNG(5)
    x, grid = rng.normal(size=(2, 17, 9, 11)), rng.uniform(-1.2, 1.2, (2, 6, 5, 2))
    m, feeds = one("GridSample", [x.astype(np.float32), grid.astype(np.float32)], opset=16, mode=mode)
    agree(by_plan(m, feeds), by_onnxruntime(m, feeds), 1e-3, 1e-4)


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("how", ["half_pixel", "output_half_pixel"])
def test_roi_align(mode: str, how: str) -> None:
    """Regions inside, across the border, outside, and of no size."""
    rng = RNG(3)
    x = rng.normal(size=(2, 5, 9, 7)).astype(np.float32)
    rois = np.array([[0, 0, 6, 8], [-4, -3, 5, 4], [3, 3, 3, 3], [40, 40, 50, 50], [5.5, 2.25, 9, 9.5]], np.float32)
    batch = np.array([0, 1, 1, 0, 1])
    m, feeds = one("RoiAlign", [x, rois, batch], output_height=3, output_width=2, sampling_ratio=2, spatial_scale=0.75,
                   mode=mode, coordinate_transformation_mode=how)
    agree(by_plan(m, feeds), by_reference(m, feeds))


@pytest.mark.parametrize(("groups", "offset_groups", "masked"), [(1, 1, False), (2, 1, True), (2, 4, True)])
def test_deformable_convolution(groups: int, offset_groups: int, masked: bool) -> None:
    rng = RNG(groups)
    x, w = rng.normal(size=(2, 4, 7, 6)), rng.normal(size=(6, 4 // groups, 3, 2))
    strides, dilations, pads = (2, 1), (1, 2), (1, 0, 2, 1)
    oh, ow = (7 + 3 - 2 - 1) // 2 + 1, (6 + 1 - 2 - 1) + 1
    offset = rng.uniform(-2, 2, (2, offset_groups * 12, oh, ow))
    mask = rng.uniform(size=(2, offset_groups * 6, oh, ow)) if masked else None
    arrays = [None if a is None else a.astype(np.float32) for a in (x, w, offset, rng.normal(size=6), mask)]
    while arrays[-1] is None:
        arrays.pop()
    m, feeds = one("DeformConv", arrays, opset=19, strides=strides, dilations=dilations, pads=pads, group=groups,
                   offset_group=offset_groups, kernel_shape=(3, 2))
    agree(by_plan(m, feeds), by_reference(m, feeds), 1e-3, 1e-4)


@pytest.mark.parametrize(("shape", "kernel", "strides", "dilations", "pads"), [
    ((2, 3, 7, 5), (3, 2), (2, 1), (1, 2), (1, 1, 1, 0)), ((1, 2, 17), (4,), (3,), (1,), (2, 1)),
    ((1, 2, 4, 5, 3), (2, 2, 2), (1, 2, 1), (1, 1, 1), (0,) * 6), ((3, 4, 1, 1), (1, 1), (1, 1), (1, 1), (0,) * 4)])
@pytest.mark.parametrize("dtype", [np.float32, np.int8])
@pytest.mark.parametrize("column_major", [0, 1])
def test_maxima_and_their_places(shape: tuple[int, ...], kernel: tuple[int, ...], strides: tuple[int, ...],
                                 dilations: tuple[int, ...], pads: tuple[int, ...], dtype: Any,
                                 column_major: int) -> None:
    """The first of equals in the window's order; the least value of the type counts as any other."""
    rng = RNG(len(shape))
    x = rng.integers(-3, 3, shape).astype(dtype)
    x.reshape(-1)[::4] = -np.inf if dtype is np.float32 else -128
    m, feeds = one("MaxPool", [x], outputs=2, kernel_shape=kernel, strides=strides, dilations=dilations, pads=pads,
                   storage_order=column_major)
    rank = len(kernel)
    out = [(d + pads[a] + pads[rank + a] - (k - 1) * l - 1) // s + 1
           for a, (d, k, s, l) in enumerate(zip(shape[2:], kernel, strides, dilations))]
    best, place = np.zeros((*shape[:2], *out), dtype), np.zeros((*shape[:2], *out), np.int64)
    for at in np.ndindex(*best.shape):
        found = None
        for o in itertools.product(*(range(k) for k in kernel)):
            p = [i * s - q + j * l for i, s, q, j, l in zip(at[2:], strides, pads, o, dilations)]
            if all(0 <= i < d for i, d in zip(p, shape[2:])) and (found is None or x[(*at[:2], *p)] > found[0]):
                found = x[(*at[:2], *p)], p
        assert found is not None
        spatial = np.ravel_multi_index(found[1], shape[2:], order="F" if column_major else "C")
        best[at], place[at] = found[0], (at[0] * shape[1] + at[1]) * np.prod(shape[2:]) + spatial
    agree(by_plan(m, feeds), [best, place])


@pytest.mark.parametrize("wanted", [None, (2, 3, 9, 7)])
def test_unpool_puts_values_back(wanted: tuple[int, ...] | None) -> None:
    rng = RNG(0)
    x = rng.normal(size=(2, 3, 3, 2)).astype(np.float32)
    places = rng.permutation(2 * 3 * 7 * 4)[:x.size].reshape(x.shape)
    arrays = [x, places, *([np.array(wanted)] if wanted else [])]
    m, feeds = one("MaxUnpool", arrays, constants=[2], kernel_shape=(3, 2), strides=(2, 2))
    agree(by_plan(m, feeds), by_reference(m, feeds))


@pytest.mark.parametrize(("image", "block", "more"), [
    ((5, 6), (2, 3), {}), ((7, 6), (3, 2), {"strides": (2, 1), "pads": (1, 0, 1, 2), "dilations": (1, 2)}),
    ((4, 3, 5), (2, 1, 2), {}), ((11,), (4,), {"strides": (3,)})])
def test_columns_to_image(image: tuple[int, ...], block: tuple[int, ...], more: dict[str, Any]) -> None:
    rank = len(image)
    s, l, p = (more.get(k, d) for k, d in (("strides", (1,) * rank), ("dilations", (1,) * rank),
                                           ("pads", (0,) * 2 * rank)))
    blocks = [(image[a] + p[a] + p[rank + a] - l[a] * (block[a] - 1) - 1) // s[a] + 1 for a in range(rank)]
    x = RNG(1).normal(size=(2, 3 * int(np.prod(block)), int(np.prod(blocks)))).astype(np.float32)
    m, feeds = one("Col2Im", [x, np.array(image), np.array(block)], constants=[1, 2], **more)
    agree(by_plan(m, feeds), by_reference(m, feeds))


@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("exclude", [0, 1])
@pytest.mark.parametrize("how", ["half_pixel", "align_corners", "asymmetric"])
def test_resizing_with_antialiasing(mode: str, exclude: int, how: str) -> None:
    """Smaller along one axis, larger along the other; sizes and scales that are constants, and inputs."""
    x = RNG(2).normal(size=(1, 2, 13, 5)).astype(np.float32)
    for given in ([x, None, None, np.array([1, 2, 4, 7])], [x, None, np.array([1, 1, 0.4, 0.7], np.float32)]):
        want = None
        for known in (True, False):
            m, feeds = one("Resize", given, constants=[len(given) - 1] if known else [], mode=mode, antialias=1,
                           exclude_outside=exclude, coordinate_transformation_mode=how)
            want = want or by_reference(m, feeds)
            agree(by_plan(m, feeds), want, 1e-4, 1e-4)


def test_antialiasing_of_pixels() -> None:
    """Integers are rounded to the nearest, and do not wrap where a cubic kernel overshoots."""
    x = RNG(3).choice([0, 255], size=(1, 1, 17, 16)).astype(np.uint8)
    m, feeds = one("Resize", [x, None, None, np.array([1, 1, 6, 9])], constants=[3], mode="cubic", antialias=1)
    wide, more = one("Resize", [x.astype(np.float64), None, None, np.array([1, 1, 6, 9])], constants=[3], mode="cubic",
                     antialias=1)
    agree(by_plan(m, feeds), [np.clip(np.rint(by_reference(wide, more)[0]), 0, 255).astype(np.uint8)], 0, 1)
