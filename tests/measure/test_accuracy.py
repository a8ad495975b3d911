"""Errors are measured on what outputs say, not on what they share."""

import numpy as np
import pytest

from whet.measure import centred_error, relative_l2


def test_a_shared_constant_hides_an_error_until_it_is_removed() -> None:
    rng = np.random.default_rng(0)
    right, wrong = rng.standard_normal((2, 4, 10))
    assert relative_l2(1e6 + wrong, 1e6 + right) < 1e-5
    assert centred_error(1e6 + wrong, 1e6 + right) > 0.5


def test_centring_over_the_batch_removes_what_samples_share() -> None:
    rng = np.random.default_rng(0)
    shared = 1e6 * rng.standard_normal(10)
    right, wrong = rng.standard_normal((2, 4, 10))
    assert centred_error(shared + wrong, shared + right, axis=-1) < 1e-5
    assert centred_error(shared + wrong, shared + right, axis=0) > 0.5


def test_equal_arrays_have_no_error_even_if_not_finite() -> None:
    x = np.array([1.0, np.nan, np.inf])
    assert relative_l2(x, x) == 0
    assert relative_l2(np.zeros(3), np.zeros(3)) == 0
    assert centred_error(np.zeros((0, 3)), np.zeros((0, 3))) == 0


@pytest.mark.parametrize("ours", [[1.0, np.nan], [1.0], [np.inf, 2.0]])
def test_what_cannot_be_compared_is_infinitely_wrong(ours) -> None:
    assert relative_l2(ours, [1.0, 2.0]) == np.inf
