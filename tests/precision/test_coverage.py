"""What calibration data lack is said, with the amount; what they do not lack is not."""

import numpy as np
import pytest

from whet.precision.batches import Batch
from whet.precision.cache import Calibration
from whet.precision.calibrate import calibrate
from whet.precision.coverage import coverage, growth, lines
from whet.precision.overflow import overflow


def calibrated(*arrays, axis=1, rows=None) -> Calibration:
    feeds = [Batch({"x": np.asarray(a, np.float32)}, 0, rows or len(a)) for a in arrays]
    return calibrate(lambda f: {"t": f["x"]}, {"t": axis}, feeds, layers={"t": "conv1"})


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def kinds(c, **of):
    return {f.kind: f for f in coverage(c, **of)}


def test_enough_data_of_the_ordinary_kind_need_no_remark():
    x = normal(200, 64)
    assert coverage(calibrated(*np.split(np.concatenate([x, x]), 20))) == []


def test_few_samples_are_told_with_the_odds():
    f = kinds(calibrated(normal(9, 64)))
    assert f["few-samples"].amount == 9
    assert "20.0%" in f["few-samples"].text
    assert "unknown-growth" in f


def test_ranges_that_grow_in_the_last_batches_are_told_by_how_much():
    x = np.tile(np.array([[-1.0], [1.0]], np.float32), (10, 1))
    c = calibrated(*[x] * 19, 2 * x)
    assert kinds(c)["grew"].amount == pytest.approx(0.5)
    assert "last 2 of 20" in kinds(c)["grew"].text
    assert "grew" not in kinds(calibrated(2 * x, *[x] * 19))
    assert growth(calibrated(x).tensors["t"], 1) == 1.0


def test_channels_that_never_change_are_counted():
    x = normal(200, 8)
    x[:, [2, 5]] = 0
    x[:, 7] = 3
    f = kinds(calibrated(x, x))["dead-channels"]
    assert (f.amount, f.layer) == (3, "conv1")
    assert "3 of 8 channels never change (2, 5, 7)" in f.text


def test_a_tensor_of_one_value_and_one_of_none():
    assert kinds(calibrated(np.full((200, 3), 2.0)))["constant"].text == "all values are 2"
    f = kinds(calibrated(np.full((200, 3), np.nan)))
    assert f["not-finite"].amount == 600
    assert "unseen" in f


def test_values_at_the_end_of_the_range_are_told():
    f = kinds(calibrated(np.clip(normal(200, 50), 0, 1)))
    assert f["piled-up"].amount > 0.2
    assert "piled-up" not in kinds(calibrated(np.maximum(normal(200, 50), 0)))


def test_what_a_method_clips_is_told():
    c = calibrated(normal(1000, 50))
    f = kinds(c, method="percentile:90")["clipped"]
    assert f.amount == pytest.approx(0.1, abs=0.01)
    assert "clipped" not in kinds(c, method="minmax")


def test_findings_are_lines():
    text = lines(coverage(calibrated(np.zeros((1, 3)))))
    assert text[0].startswith("1 samples")
    assert text[-1] == "t (conv1): all values are 0"


@pytest.mark.parametrize(("x", "kind", "dtype", "verdict"), [
    (7e4, "", "fp16", "overflows"), (2e4, "", "fp16", "near"), (1e4, "matmul", "fp16", "sum"), (1e4, "", "fp16", None),
    (7e4, "matmul", "bf16", None), (2e38, "", "bf16", "near"), (1e-6, "", "fp16", "subnormal"),
    (1e-6, "", "bf16", None),
    (0.0, "reduce", "fp16", None), (np.inf, "", "fp16", "not-finite")])
def test_what_sixteen_bits_cannot_hold_is_found(x, kind, dtype, verdict):
    c = calibrated(np.full((10, 2), x))
    found = overflow(c, {"t": kind}, dtype)
    assert [r.verdict for r in found] == ([verdict] if verdict else [])
    if found and np.isfinite(x):
        assert (found[0].tensor, found[0].layer, found[0].largest) == ("t", "conv1", pytest.approx(x))


def test_the_worst_come_first():
    c = calibrated(np.full((10, 1), 3e4))
    c.tensors["u"] = calibrated(np.full((10, 1), 1e5)).tensors["t"]
    c.tensors["v"] = calibrated(np.full((10, 1), 1e-7)).tensors["t"]
    assert [r.tensor for r in overflow(c)] == ["u", "t", "v"]
