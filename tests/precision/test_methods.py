"""Ranges are those that a search by brute force finds, and the quantization that follows from them is right."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whet.errors import InputError
from whet.ir.dtypes import DType
from whet.precision import methods
from whet.precision.histogram import Observer
from whet.precision.methods import Range, choose, divergence, parse_method, qparams

N = 200_000


def seen(x) -> Observer:
    o = Observer()
    o.update(np.asarray(x, np.float32))
    return o


def sample(name: str, n: int = N, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    z = rng.standard_normal(n)
    x = {"normal": z, "laplace": rng.laplace(size=n), "uniform": rng.uniform(-1, 3, n), "relu": np.maximum(z, 0),
         "negative": -rng.exponential(size=n), "gelu": z * (1 + np.tanh(0.8 * (2 * z))),
         "outliers": np.concatenate([z[10:], np.full(10, 60.0)])}[name]
    return x.astype(np.float32)


def quantized(x: np.ndarray, r: Range, levels: int = 256) -> np.ndarray:
    low, high = min(r.low, 0), max(r.high, 0)
    scale = (high - low) / (levels - 1)
    zero = round(-low / scale)
    return (np.clip(np.rint(x / scale) + zero, 0, levels - 1) - zero) * scale


def error(x, r, levels=256) -> float:
    return float(np.mean((quantized(x.astype(np.float64), r, levels) - x) ** 2))


def symmetric_error(x, t, steps) -> float:
    s = t / steps
    return float(np.mean((np.clip(np.rint(x / s), -steps, steps) * s - x) ** 2))


def test_minmax_is_the_range_with_zero_in_it():
    assert choose(seen([3.0, 5.0]), "minmax") == Range(0.0, 5.0)
    assert choose(seen([-3.0, -1.0]), "minmax") == Range(-3.0, 0.0)
    assert choose(seen([-3.0, 1.0]), "minmax", symmetric=True) == Range(-3.0, 3.0)
    assert choose(seen([1.0, 2.0]), "minmax", symmetric=True) == Range(-2.0, 2.0)


@pytest.mark.parametrize("name", ["normal", "laplace", "relu", "negative", "uniform", "outliers"])
@pytest.mark.parametrize("p", [99.0, 99.9, 99.99])
def test_percentile_is_numpys(name, p):
    x = sample(name)
    o = seen(x)
    r = choose(o, f"percentile:{p}")
    two_sided = x.min() < 0 < x.max()
    tail = (100 - p) / 2 if two_sided else 100 - p
    low = np.percentile(x, tail) if x.min() < 0 else 0.0
    high = np.percentile(x, 100 - tail) if x.max() > 0 else 0.0
    # between the values next to the quantile, a bin on each side
    slack = float(2 * o.width + 0.02 * (x.max() - x.min()) * (p > 99.95))
    assert r.low == pytest.approx(float(low), abs=slack)
    assert r.high == pytest.approx(float(high), abs=slack)


def test_the_whole_is_the_hundredth_percentile():
    x = sample("normal", 1000)
    assert choose(seen(x), "percentile:100") == choose(seen(x), "minmax")


@pytest.mark.parametrize("levels", [16, 256])
@pytest.mark.parametrize("name", ["normal", "laplace", "relu", "negative", "gelu", "outliers"])
def test_mse_is_near_the_best_range_by_brute_force(name, levels):
    x = sample(name, 20_000)
    r = choose(seen(x), "mse", levels=levels)
    low, high = min(x.min(), 0), max(x.max(), 0)
    shares = np.geomspace(1, 0.02, 24)
    best = min(error(x, Range(a * low, b * high), levels)
               for b in (shares if high else [1]) for a in (shares if low else [1]))
    assert error(x, r, levels) <= 1.03 * best


@pytest.mark.parametrize(("name", "bits", "best"),
                         [("normal", 4, 2.55), ("normal", 3, 2.15), ("laplace", 4, 5.03)])
def test_symmetric_mse_is_near_the_published_optimum(name, bits, best):
    # Banner, Nahshan, Soudry 2019, for 2**bits levels over -t..t; ours are 2**bits - 1 around zero.
    r = choose(seen(sample(name, 1_000_000)), "mse", symmetric=True, levels=1 << bits)
    assert r.high == pytest.approx(best, rel=0.1)
    assert r.low == -r.high


@pytest.mark.parametrize("name", ["normal", "laplace", "relu", "gelu", "outliers"])
def test_symmetric_mse_is_near_the_best_by_brute_force(name):
    x = sample(name, 20_000)
    r = choose(seen(x), "mse", symmetric=True)
    best = min(symmetric_error(x, t, 127) for t in np.geomspace(np.abs(x).max(), 0.02 * np.abs(x).max(), 60))
    assert symmetric_error(x, r.high, 127) <= 1.05 * best


def published_divergence(counts, low, high, levels) -> float:
    """As the published method has it, in loops."""
    p = [float(c) for c in counts[low:high]]
    p[0] += float(sum(counts[:low]))
    p[-1] += float(sum(counts[high:]))
    n = high - low
    q = [0.0] * n
    for k in range(levels):
        members = [i for i in range(n) if i * levels // n == k]
        full = [i for i in members if counts[low + i] > 0]
        for i in full:
            q[i] = sum(float(counts[low + j]) for j in members) / len(full)

    def smooth(d):
        empty = sum(1 for v in d if v == 0)
        if empty == n:
            return [1 / n] * n
        keep = 1 - 1e-4 * empty / sum(d)
        d = [1e-4 if v == 0 else v * keep for v in d]
        return [v / sum(d) for v in d]

    p, q = smooth(p), smooth(q)
    return sum(a * math.log(a / b) for a, b in zip(p, q))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 50), min_size=10, max_size=60), st.data())
def test_divergence_is_the_published_formula(counts, data):
    levels = data.draw(st.integers(2, 8))
    low = data.draw(st.integers(0, len(counts) - levels))
    high = data.draw(st.integers(low + levels, len(counts)))
    got = divergence(np.array(counts, float), low, high, levels)
    if sum(counts) > 0:
        assert got == pytest.approx(published_divergence(counts, low, high, levels), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_entropy_of_one_sided_data_is_the_best_of_all_candidates(seed):
    counts = np.histogram(np.random.default_rng(seed).exponential(size=5000), bins=100)[0].astype(float)
    edges = np.arange(101) / 10
    r = methods.least_divergence(edges, counts, 16)
    best = min(range(16, 101), key=lambda b: (published_divergence(counts, 0, b, 16), -b))
    assert (r.low, r.high) == (0, pytest.approx(best / 10))
    mirrored = methods.least_divergence(-edges[::-1], counts[::-1], 16)
    assert (mirrored.low, mirrored.high) == (pytest.approx(-best / 10, abs=2.0), 0)  # levels fall otherwise on the bins


@pytest.mark.parametrize("seed", range(3))
def test_entropy_of_two_sided_data_is_near_the_best_of_all_pairs(seed):
    x = np.random.default_rng(seed).gamma(2.0, size=4000) - 1
    counts, edges = np.histogram(x, bins=np.arange(-10, 81) / 10)
    counts = counts.astype(float)
    r = methods.least_divergence(edges, counts, 16)
    of = {(a, b): divergence(counts, a, b, 16) for a in range(11) for b in range(max(10, a + 16), 91)}
    found = of[round((r.low + 1) * 10), round((r.high + 1) * 10)]
    assert found <= of[0, 90]
    assert found <= 1.5 * min(of.values()) + 1e-4


def test_entropy_cuts_outliers_off():
    r = choose(seen(sample("outliers")), "entropy")
    assert 3 < r.high < 30
    assert choose(seen(sample("outliers")), "entropy", symmetric=True).high < 30


def test_entropy_keeps_what_is_uniform():
    r = choose(seen(sample("uniform")), "entropy")
    assert r.low == pytest.approx(-1, abs=0.05)
    assert r.high == pytest.approx(3, abs=0.05)


@pytest.mark.parametrize("method", ["mse", "entropy"])
def test_exact_zeros_do_not_move_the_range(method):
    x = np.abs(sample("normal", 50_000))
    assert choose(seen(np.concatenate([x, np.zeros(500_000)])), method) == choose(seen(x), method)


@pytest.mark.parametrize("method", methods.METHODS)
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("x", [[], [np.nan], [0.0, 0.0], [5.0] * 10, [-5.0], [1e-42], [3.4e38, -3.4e38],
                               [1e-30, 1e30], [1.0, 2.0, -0.5]])
def test_any_data_has_a_range_that_can_be_quantized(method, symmetric, x):
    o = seen(x)
    r = choose(o, method, symmetric)
    assert r.low <= 0 <= r.high
    if o.count and not symmetric:
        assert r.low >= min(o.low, 0)
        assert r.high <= max(o.high, 0)
    for kind in (DType.U8, DType.I8):
        scale, zero = qparams(r, kind, symmetric)
        assert math.isfinite(scale)
        assert math.isfinite(float(np.float32(1) / np.float32(scale)))
        assert scale > 0
        assert (0 if kind is DType.U8 else -128) <= zero <= (255 if kind is DType.U8 else 127)


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), st.sampled_from([DType.U8, DType.I8]), st.booleans())
def test_quantization_is_within_half_a_step_inside_the_range(a, b, kind, symmetric):
    low, high = min(a, b), max(a, b)
    scale, zero = qparams(Range(low, high), kind, symmetric)
    assert np.float32(scale) == scale
    least, most = (0, 255) if kind is DType.U8 else (-128, 127)
    x = np.linspace(min(low, 0), max(high, 0), 57)
    q = np.clip(np.rint(x / scale) + zero, least, most)
    back = (q - zero) * scale
    # the ends may lie half a step outside, as the zero point is an integer
    assert np.abs(back - x).max() <= 1.01 * scale
    assert (np.clip(np.rint(0 / scale) + zero, least, most) - zero) * scale == 0
    if symmetric:
        assert zero == (128 if kind is DType.U8 else 0)


def test_ranges_that_are_not_finite_are_refused():
    for r in (Range(0, math.inf), Range(math.nan, 1), Range(2, 1)):
        with pytest.raises(InputError, match="W200"):
            qparams(r, DType.U8)


def test_methods_are_named_with_their_argument():
    assert parse_method("percentile") == ("percentile", 99.99)
    assert parse_method("percentile:99.5") == ("percentile", 99.5)
    for bad in ("", "kl", "percentile:x", "percentile:40", "mse:3", "percentile:nan"):
        with pytest.raises(InputError):
            parse_method(bad)


@pytest.mark.parametrize("name", ["normal", "relu", "outliers", "gelu"])
@pytest.mark.parametrize("method", ["minmax", "mse", "percentile:99.9"])
def test_ranges_for_8_bit_floats(name, method):
    x = sample(name, 20_000)
    r = choose(seen(x), method, floats=True)
    assert r.low == -r.high
    scale, zero = qparams(r, DType.F8E4M3FN)
    assert zero == 0
    assert scale == pytest.approx(r.high / 448, rel=1e-6)

    def error(scale: float) -> float:
        q = np.clip(x / scale, -448, 448).astype(DType.F8E4M3FN.np).astype(np.float64)
        return float(np.mean((q * scale - x) ** 2))

    if method == "minmax":
        assert r.high == np.abs(x).max()
    if method == "mse":  # no worse than another by more than the histogram's own grain
        assert error(scale) <= 1.02 * min(error(np.abs(x).max() / 448 * s) for s in np.geomspace(1, 1 / 8, 25))
