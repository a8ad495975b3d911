"""The back-test's readers and peers: what a table may hold, and that halves are halves."""

import sys
from pathlib import Path

import numpy as np
import pytest

from whet.errors import InputError

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import forecast_data as data
import forecast_judge
import forecast_peers as peers
import forecast_race


def test_the_sample_is_whole_and_its_halves_share_no_benchmark() -> None:
    series = data.histories(data.SAMPLE / data.HISTORY)
    fitted, judged = data.split(series, 0)
    assert sorted(fitted + judged) == list(range(len(series)))
    assert not {series[i].group for i in fitted} & {series[i].group for i in judged}
    assert data.split(series, 1) != (fitted, judged)


def test_a_table_may_have_gaps_and_dates_in_any_order(tmp_path: Path) -> None:
    rows = [f"{s},b{s},p,3,2020-01-{d:02},{v}" for s in range(4) for d, v in ((3, 3.0), (1, 1.0), (2, ""), (4, -1))]
    path = tmp_path / "t.csv"
    path.write_text("series,benchmark,parameters,python,date,seconds\n" + "\n".join(rows), "utf-8")
    found = data.histories(path)
    assert [s.dropped for s in found] == [2] * 4
    np.testing.assert_allclose(np.exp(found[0].y), [1.0, 3.0])


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "series,benchmark,date,seconds\n0,b,2020-01-01,fast\n",
                                  "series,benchmark,date,seconds\n0,b,2020-01-01,1\n"])
def test_a_table_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text, "utf-8")
    with pytest.raises(InputError):
        data.histories(path)


def test_a_race_has_tracks_and_no_dates_that_go_back(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text("record,minutes,date\n1,9,2024-01-02\n2,8,2024-01-02\n2,8.5,2024-02-01\n1,7,2023-01-01\n", "utf-8")
    assert [t.values for t in data.race(path)] == [(9.0, 8.0, 8.5), (7.0,)]
    path.write_text("record,minutes,date\n1,9,2024-01-02\n2,8,2024-01-01\n", "utf-8")
    with pytest.raises(InputError, match="go back"):
        data.race(path)


def test_a_race_that_is_too_short_is_not_judged() -> None:
    found = forecast_race.judge([data.Track("one", (0.0, 1.0), (2.0, 1.0))])
    assert found["rows"] == []
    assert "to judge on" in found["why"]


def test_the_local_level_is_that_of_statsmodels() -> None:
    api = pytest.importorskip("statsmodels.tsa.api", reason="compares with statsmodels, which is too large for [test]")
    rng = np.random.default_rng(2)
    y = np.cumsum(rng.normal(0, 0.3, 150)) + rng.normal(0, 1, 150)
    forecast = api.UnobservedComponents(y, "llevel").fit(disp=0).get_forecast(20)
    for h in (1, 20):
        mean, deviation = peers.local_level(y).at(np.array([149]), h)
        assert mean[0] == pytest.approx(forecast.predicted_mean[h - 1], abs=0.1)
        assert deviation[0] == pytest.approx(forecast.se_mean[h - 1], rel=0.1)


def test_short_series_are_judged_where_they_can_be() -> None:
    rng = np.random.default_rng(4)
    series = [data.History(str(i), str(i), rng.normal(0, 0.02, n), 0) for i, n in enumerate((2, 3, 5, 9, 14, 30) * 2)]
    found = forecast_judge.judge(series, 0, origins=4)
    assert {m["h"] for m in found["methods"]} >= {1, 5}
    assert all(np.isfinite(m["crps"]) for m in found["methods"])
