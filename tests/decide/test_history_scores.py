"""Scores against an independent library, and by what they promise."""

import numpy as np
import pytest

from whet.decide.history.predictive import P, Z
from whet.decide.history.scores import brier, coverage, crps_normal, crps_quantiles, crps_sample
from whet.errors import InputError


def test_crps_is_that_of_scoringrules() -> None:
    library = pytest.importorskip("scoringrules", reason="compares with scoringrules: pip install scoringrules")
    rng = np.random.default_rng(0)
    x, mean, deviation = rng.normal(size=20), rng.normal(size=20), rng.uniform(0.1, 3, 20)
    np.testing.assert_allclose(crps_normal(x, mean, deviation), library.crps_normal(x, mean, deviation))
    drawn = rng.normal(size=50)
    assert crps_sample(0.3, drawn) == pytest.approx(float(library.crps_ensemble(0.3, drawn)))
    happened, given = np.array([0, 1]), np.array([0.2, 0.9])
    assert brier(given, happened) == pytest.approx(np.mean(library.brier_score(happened, given)))


def test_quantiles_score_as_the_distribution_they_are_of() -> None:
    x = np.array([-3.0, 0.0, 0.5, 4.0])
    q = np.broadcast_to(1 + 2 * Z, (4, len(P)))
    np.testing.assert_allclose(crps_quantiles(x, P, q), crps_normal(x, 1, 2), rtol=1e-3)


def test_the_truth_scores_best() -> None:
    x = np.random.default_rng(1).normal(0, 1, 4000)
    scores = {s: crps_normal(x, 0, s).mean() for s in (0.5, 0.8, 1.0, 1.25, 2.0)}
    assert min(scores, key=lambda s: scores[s]) == 1.0


def test_shares_and_refusals() -> None:
    assert coverage([1, 2, 3, 4], [0, 0, 0, 0], [2, 2, 2, 5]) == 0.75
    with pytest.raises(InputError):
        crps_sample(0.0, [])
