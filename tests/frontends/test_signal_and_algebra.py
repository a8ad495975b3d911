"""Transforms, scans, einsum and determinants run on generated kernels, as float64 has them."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from onnx import helper
from onnx_cases import agree, by_plan, by_reference, model, one

RNG = np.random.default_rng


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("length", [None, 4, 11])
@pytest.mark.parametrize(("parts", "inverse", "onesided"), [(1, 0, 0), (2, 0, 0), (2, 1, 0), (1, 0, 1), (2, 1, 1)])
def test_fourier_transform(axis: int, length: int | None, parts: int, inverse: int, onesided: int) -> None:
    """Shorter and longer than the signal, which is cut or padded with zeros."""
    x = RNG(axis).normal(size=(7, 5, 6, parts)).astype(np.float32)
    wide = x[..., 0].astype(np.float64) if parts == 1 else x[..., 0] + 1j * x[..., 1].astype(np.float64)
    if inverse and onesided:
        want = np.fft.irfft(wide, length, axis)[..., None]
    else:
        y = (np.fft.ifft if inverse else np.fft.rfft if onesided else np.fft.fft)(wide, length, axis)
        want = np.stack([y.real, y.imag], -1)
    arrays = [x, None if length is None else np.asarray(length), np.asarray(axis)]
    m, feeds = one("DFT", arrays, constants=[1, 2], inverse=inverse, onesided=onesided)
    agree(by_plan(m, feeds), [want.astype(np.float32)], 1e-4, 1e-4)


@pytest.mark.parametrize("axis", [0, 1, -2])
def test_fourier_transform_along_an_axis_that_is_an_input(axis: int) -> None:
    x = RNG(0).normal(size=(3, 4, 2)).astype(np.float32)
    m, feeds = one("DFT", [x, None, np.asarray(axis)])
    agree(by_plan(m, feeds), by_reference(m, feeds), 1e-4, 1e-4)


@pytest.mark.parametrize(("length", "window", "parts", "onesided"),
                         [(8, False, 1, 1), (7, True, 1, 1), (6, True, 2, 0)])
@pytest.mark.parametrize("known", [True, False])
def test_short_time_fourier_transform(length: int, window: bool, parts: int, onesided: int, known: bool) -> None:
    rng = RNG(length)
    x = rng.normal(size=(2, 37, parts)).astype(np.float32)
    w = rng.uniform(size=length).astype(np.float32) if window else None
    wide = x[..., 0].astype(np.float64) if parts == 1 else x[..., 0] + 1j * x[..., 1].astype(np.float64)
    frames = np.stack([wide[:, i:i + length] for i in range(0, 37 - length + 1, 5)], 1) * (1 if w is None else w)
    y = np.fft.rfft(frames) if onesided else np.fft.fft(frames)
    m, feeds = one("STFT", [x, np.asarray(5), w, np.asarray(length)], constants=[1, 3] if known else [],
                   onesided=onesided)
    agree(by_plan(m, feeds), [np.stack([y.real, y.imag], -1).astype(np.float32)], 1e-4, 1e-4)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32])
@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("op", ["CumSum", "CumProd"])
def test_scans_along_axes_known_and_not(op: str, known: bool, dtype: Any) -> None:
    x = RNG(1).integers(-3, 4, (3, 17, 5)).astype(dtype)
    for axis, exclusive, reverse in itertools.product((0, 1, -1), (0, 1), (0, 1)):
        m, feeds = one(op, [x, np.asarray(axis)], opset=28, constants=[1] if known else [], exclusive=exclusive,
                       reverse=reverse)
        along = np.flip(x, axis) if reverse else x
        want = (np.cumsum if op == "CumSum" else np.cumprod)(along, axis, dtype=dtype)
        if exclusive:
            want = np.roll(want, 1, axis)
            np.moveaxis(want, axis, 0)[0] = op == "CumProd"
        agree(by_plan(m, feeds), [np.flip(want, axis) if reverse else want])


def test_products_carry_nan_and_infinity() -> None:
    x = np.array([2, np.inf, 3, 0, 5, np.nan, 1], np.float32)
    m, feeds = one("CumProd", [x, np.asarray(0)], opset=28, constants=[1])
    with np.errstate(all="ignore"):
        agree(by_plan(m, feeds), [np.cumprod(x)])


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 17])
def test_determinants(n: int) -> None:
    """One of a singular matrix among them, one that needs rows exchanged."""
    x = RNG(n).normal(size=(2, 3, n, n)).astype(np.float32)
    x[0, 0, 0] = 0
    x[1, 1] = np.roll(np.eye(n), 1, 0)
    m, feeds = one("Det", [x])
    agree(by_plan(m, feeds), [np.linalg.det(x.astype(np.float64)).astype(np.float32)], 1e-3, 1e-4)


@pytest.mark.parametrize(("equation", "shapes"), [
    ("ii->i", [(5, 5)]), ("...ii->...i", [(2, 3, 4, 4)]), ("bii->b", [(3, 7, 7)]), ("iji,jk->ik", [(3, 4, 3), (4, 5)]),
    ("ij,jk", [(1, 4), (4, 5)]), ("bij,bjk->bik", [(1, 2, 3), (4, 3, 5)]), ("...ij,...jk", [(2, 1, 2, 3), (4, 3, 5)]),
    ("i,j,k->kij", [(2,), (3,), (5,)]), ("ab,bc,cd->ad", [(2, 3), (3, 4), (4, 5)]), ("ij->", [(3, 4)]),
    ("ij->ji", [(1, 7)]), ("a,a->a", [(1,), (17,)]), ("iii->", [(3, 3, 3)]), ("abc,cb->a", [(2, 3, 4), (4, 3)])])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_einsum(equation: str, shapes: list[tuple[int, ...]], dtype: Any) -> None:
    rng = RNG(len(equation))
    arrays = [rng.normal(size=s).astype(dtype) for s in shapes]
    m, feeds = one("Einsum", arrays, equation=equation)
    agree(by_plan(m, feeds), [np.einsum(equation, *arrays)])


@pytest.mark.parametrize(("batch", "time"), [(1, 0), (0, 1)])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int8])
def test_sequences_are_reversed_up_to_their_lengths(batch: int, time: int, dtype: Any) -> None:
    x = RNG(0).normal(size=(5, 5, 3)).astype(dtype)
    m, feeds = one("ReverseSequence", [x, np.array([0, 1, 5, 3, 2])], batch_axis=batch, time_axis=time)
    want = np.moveaxis(x, (batch, time), (0, 1)).copy()
    for i, n in enumerate([0, 1, 5, 3, 2]):
        want[i, :n] = want[i, :n][::-1].copy()
    agree(by_plan(m, feeds), [np.moveaxis(want, (0, 1), (batch, time))])


@pytest.mark.parametrize("shape", [(4, 3, 5, 2), (7, 3), (2, 3, 17)])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_batch_normalization_in_training(shape: tuple[int, ...], dtype: Any) -> None:
    rng = RNG(0)
    x = rng.normal(2, 3, shape).astype(dtype)
    s, b, mean = (rng.normal(size=3).astype(np.float32) for _ in range(3))
    m, feeds = one("BatchNormalization", [x, s.astype(dtype), b.astype(dtype), mean, np.abs(mean)], outputs=3,
                   training_mode=1, momentum=0.8)
    wide, axes = x.astype(np.float64), tuple(i for i in range(len(shape)) if i != 1)
    at = (1, 3, *(1,) * (len(shape) - 2))
    scale, bias = (v.astype(dtype).astype(np.float64).reshape(at) for v in (s, b))
    y = (wide - wide.mean(axes, keepdims=True)) / np.sqrt(wide.var(axes, keepdims=True) + 1e-5) * scale + bias
    want = [y.astype(dtype), (mean * 0.8 + wide.mean(axes) * 0.2).astype(np.float32),
            (np.abs(mean) * 0.8 + wide.var(axes) * 0.2).astype(np.float32)]
    agree(by_plan(m, feeds), want, 1e-2 if dtype is np.float16 else 1e-4, 1e-2 if dtype is np.float16 else 1e-5)


def test_slopes_are_per_channel_before_opset_7() -> None:
    """Where the last dimension is as long as the channels, too."""
    x, slope = RNG(0).normal(size=(2, 3, 4, 3)).astype(np.float32), np.array([0.1, 0.5, 2], np.float32)
    node = helper.make_node("PRelu", ["x", "slope"], ["y"])
    m = model([node], {"x": (np.float32, x.shape)}, ["y"], {"slope": slope}, opset=6)
    m.graph.output[0].type.tensor_type.elem_type = 1
    agree(by_plan(m, {"x": x}), [np.where(x < 0, x * slope.reshape(3, 1, 1), x)])
