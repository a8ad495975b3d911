"""A histogram that is gathered in parts is the histogram of the whole."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whet.precision import histogram
from whet.precision.histogram import BINS, Observer, exponent_for

FLOATS = st.floats(width=32, allow_nan=True, allow_infinity=True)
FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
BATCHES = st.lists(st.lists(FLOATS, max_size=20), min_size=1, max_size=6)


def observed(*batches, axis=None) -> Observer:
    o = Observer(axis=axis)
    for b in batches:
        o.update(np.asarray(b, np.float32))
    return o


def same(a: Observer, b: Observer) -> None:
    for field in ("count", "nan", "inf", "zeros", "tiny", "low", "high"):
        assert getattr(a, field) == getattr(b, field), field
    assert (a.exponent, a.first, a.counts.tolist()) == (b.exponent, b.first, b.counts.tolist())
    if math.isfinite(a.total) and a.count:
        scale = a.largest * a.count
        assert a.total == pytest.approx(b.total, abs=1e-5 * scale + 1e-40)
        assert a.squares == pytest.approx(b.squares, rel=1e-4, abs=1e-40)


@settings(deadline=None, max_examples=150)
@given(BATCHES, st.integers(0, 6))
def test_merging_parts_gives_the_whole(batches, cut):
    whole = observed(*batches)
    merged = observed(*batches[:cut]).merge(observed(*batches[cut:]))
    same(whole, merged)
    assert whole.growth == merged.growth
    assert whole.batches == merged.batches
    same(whole, observed([x for b in batches for x in b]))


@settings(deadline=None, max_examples=60)
@given(BATCHES, BATCHES, BATCHES)
def test_merging_is_associative(a, b, c):
    x, y, z = observed(*a), observed(*b), observed(*c)
    left, right = x.merge(y).merge(z), x.merge(y.merge(z))
    same(left, right)
    assert left.growth == right.growth


@settings(deadline=None, max_examples=100)
@given(BATCHES)
def test_every_finite_value_is_in_its_bin(batches):
    o = observed(*batches)
    values = np.array([x for b in batches for x in b if math.isfinite(x)], np.float64)
    assert o.counts.sum() == o.count == values.size
    assert o.counts.size <= BINS
    want: dict[int, int] = {}
    for x in values:
        i = math.trunc(math.ldexp(x, -o.exponent))
        want[i] = want.get(i, 0) + 1
    assert {i + o.first: int(n) for i, n in enumerate(o.counts) if n} == want
    assert o.nan + o.inf + o.count == sum(len(b) for b in batches)
    edges, counts = o.bins()
    assert counts.sum() == values.size
    if values.size:
        assert edges[0] <= min(values.min(), 0)
        assert edges[-1] >= values.max()


@given(FINITE, FINITE)
def test_the_bins_are_the_narrowest_that_hold_the_range(a, b):
    low, high = min(a, b, 0.0), max(a, b, 0.0)
    e = exponent_for(low, high)
    bins = lambda e: math.trunc(math.ldexp(high, -e)) - math.trunc(math.ldexp(low, -e)) + 1
    assert bins(e) <= BINS
    if low < high and e > histogram._LEAST_EXPONENT:
        assert bins(e - 1) > BINS
        assert bins(e) > BINS // 2 - 1


def test_many_chunks_count_as_one_array():
    rng = np.random.default_rng(0)
    x = rng.standard_normal(3 * histogram.CHUNK + 17).astype(np.float32)
    x[-1] = 100.0  # the bins double in the last chunk
    o = observed(x)
    i = np.trunc(np.ldexp(x.astype(np.float64), -o.exponent)).astype(int)
    assert np.array_equal(o.counts, np.bincount(i - i.min(), minlength=o.counts.size))
    assert o.mean == pytest.approx(x.mean(dtype=np.float64), abs=1e-6)
    assert o.std == pytest.approx(x.std(dtype=np.float64), rel=1e-5)


def test_nan_and_infinities_are_counted_and_left_out():
    o = observed([1.0, np.nan, np.inf, -np.inf, -2.0], [np.nan])
    assert (o.nan, o.inf, o.count, o.low, o.high) == (2, 2, 2, -2.0, 1.0)
    assert o.mean == -0.5


def test_zeros_and_values_below_the_normal_range_of_fp16_are_counted():
    o = observed([0.0, -0.0, 2.0**-14, 2.0**-15, -1e-30, 1e-42, 3.0])
    assert (o.zeros, o.tiny) == (2, 3)


def test_large_values_do_not_overflow_the_sums():
    o = observed(np.full(100, 3e38), np.full(100, -3e38))
    assert o.count == 200
    assert o.total == pytest.approx(0, abs=1e33)
    assert o.std == pytest.approx(3e38, rel=1e-6)


@pytest.mark.parametrize(("shape", "axis"), [((3, 5, 4, 4), 1), ((2, 7, 5), -1), ((5,), 0), ((4, 3), 0),
                                             ((2, 0, 3), 1), ((0, 3), 1)])
def test_channels_have_their_own_ranges_and_means(shape, axis):
    rng = np.random.default_rng(1)
    parts = [rng.standard_normal(shape).astype(np.float32) for _ in range(3)]
    o = observed(*parts, axis=axis)
    each = 3 * math.prod(shape) // max(shape[axis], 1)
    x = np.moveaxis(np.stack(parts), axis % len(shape) + 1, 0).reshape(shape[axis], each)
    c = o.channels
    assert c is not None
    np.testing.assert_array_equal(c.count, x.shape[1])
    if x.shape[1]:
        np.testing.assert_array_equal(c.low, x.min(1))
        np.testing.assert_array_equal(c.high, x.max(1))
        np.testing.assert_allclose(c.mean, x.mean(1, dtype=np.float64), atol=1e-6)
        np.testing.assert_array_equal(c.largest, np.abs(x).max(1))


def test_channels_leave_out_what_is_not_finite():
    o = observed([[1.0, np.nan], [3.0, 5.0], [np.inf, 7.0]], axis=1)
    c = o.channels
    assert c.count.tolist() == [2, 2]
    assert c.low.tolist() == [1, 5]
    assert c.high.tolist() == [3, 7]
    assert c.mean.tolist() == [2, 6]


def test_channels_that_change_in_number_are_refused():
    with pytest.raises(ValueError, match="channels"):
        observed(np.ones((2, 3)), np.ones((2, 4)), axis=1)


def test_growth_tells_when_the_range_grew():
    o = observed([0.0, 1.0], [0.5], [2.0], [-1.0, 1.0])
    assert [(g.batch, g.low, g.high) for g in o.growth] == [(0, 0, 1), (2, 0, 2), (3, -1, 2)]


def test_other_types_are_taken_as_float32():
    for kind in (np.float64, np.float16, np.int32, np.uint8, bool):
        assert observed(np.array([0, 1, 1]).astype(kind)).high == 1.0
    o = Observer()
    o.update(np.array([0, 1, 2], np.float64))
    o.update(np.float32(7.0))  # no axes
    assert (o.count, o.high) == (4, 7.0)
