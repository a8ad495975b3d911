"""The linter of claims: figures that cannot be, and sentences that do not follow."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decide.roi_scenarios import WORKED, worked
from whet.decide import claims, scenario
from whet.decide.words import LANGUAGES, TEXTS


def said(text: str) -> list[tuple[str, float]]:
    return [(f.code, round(float(f.say.values.get("found", 0)), 1)) for f in claims.lint_text(text)]


@pytest.mark.parametrize(("text", "found"), [
    ("800 -> 200 ms is 60 %", [("C103", 75.0)]), ("from 800 ms to 200 ms, a drop of 60%", [("C103", 75.0)]),
    ("延迟从 800 ms 降到 200 ms,降低 60%", [("C103", 75.0)]), ("15 ms cannot serve 60 FPS", [("C104", 66.7)]),
    ("15 ms 无法达到 60 帧", [("C104", 66.7)]), ("20 ms serves 60 FPS easily", [("C104", 50.0)]),
    ("8 x 45 QPS = 400 QPS", [("C108", 360.0)]), ("GPU utilization of 100 %", [("C101", 0.0)]),
    ("利用率达到 105%", [("C101", 0.0)]), ("1,800 -> 900 QPS (30 % less)", [("C103", 50.0)])])
def test_claims_that_do_not_follow(text: str, found: list[tuple[str, float]]) -> None:
    assert said(text) == found


@pytest.mark.parametrize("text", [
    "800 -> 200 ms is 75 % less", "P99 68 -> 42 ms (down 38 %)", "100 -> 300 QPS, 200 % more",
    "100 -> 300, 300 % of the old",
    "the median of 12 to 1 with 4 %", "at a utilization of 100 % a queue grows without bound",
    "15 ms serves 60 FPS", "20 ms cannot serve 60 FPS", "8 x 45 QPS = 360 QPS", "utilization 89 %", "",
    "99.3 % to 98.9 %, 0.4 points", "P99 of 42 ms, 1,800 QPS", "version 1.2 -> 1.3 in 60 % of cases of 5 %",
    "from 800 ms to 200 ms", "0 -> 5 ms, 60 %"])
def test_claims_that_follow_are_left_alone(text: str) -> None:
    assert said(text) == []


def test_lines_are_named() -> None:
    (found,) = claims.lint_text("all is well\n800 -> 200 ms is 60 %\n", "report.md")
    assert found.where == "report.md, line 2"


@given(st.floats(1, 1e6), st.floats(1, 1e6))
def test_a_right_percentage_is_never_flagged(first: float, second: float) -> None:
    a, b = round(first, 1), round(second, 1)
    assert said(f"{a} -> {b} ms is {round(100 * abs(b - a) / a, 1)} %") == []


@given(st.text(max_size=200))
def test_no_text_breaks_the_linter(text: str) -> None:
    claims.lint_text(text)


def lint(**changes: Any) -> list[tuple[str, str]]:
    return [(f.code, f.say.code) for f in claims.lint(scenario.build(worked(**changes)))]


def option(**fields: Any) -> list[dict[str, Any]]:
    return [{"name": "PyTorch", "throughput": 45, "p99_ms": 320, "price_per_hour": 0.4} | fields,
            {k: v for k, v in WORKED["options"][1].items() if k != "instances"}]


@pytest.mark.parametrize(("fields", "found"), [
    ({"instances": 8}, [("C101", "utilization")]), ({"instances": 7}, [("C101", "utilization")]),
    ({"instances": 9}, []),
    ({"utilization": 1.0}, [("C101", "utilization-stated")]), ({"instances": 9, "utilization": 0.5},
                                                               [("C106", "utilization-other")]),
    ({"latency_ms": 22, "concurrency": 1}, []), ({"latency_ms": 100, "concurrency": 1}, [("C102", "littles-law")]),
    ({"latency_ms": 22, "concurrency": 4}, [("C102", "littles-law-idle")]),
    ({"latency_ms": 330}, [("C107", "p99-below-mean")]), ({"p99_ms": 400}, [("C107", "stated-p99-over")]),
    ({"instances": 9, "monthly_cost": 2592}, []), ({"instances": 9, "monthly_cost": 2304}, [("C106", "monthly-cost")])])
def test_figures_of_an_option(fields: dict[str, Any], found: list[tuple[str, str]]) -> None:
    assert lint(options=option(**fields)) == found


@pytest.mark.parametrize(("stated", "found"), [
    ({"payback_months": 2.894, "ratio": 0.3456, "period_months": 1}, []), ({"roi": 3.147, "period_months": 12}, []),
    ({"ratio": 0.3456, "period_months": 12}, [("C105", "period-fits")]), ({"roi": 3.147, "period_months": 24},
                                                                          [("C105", "period-fits")]),
    ({"roi": 9.9, "period_months": 12}, [("C105", "period-none")]),
    ({"payback_months": 2}, [("C105", "payback-other")])])
def test_returns_that_somebody_states(stated: dict[str, float], found: list[tuple[str, str]]) -> None:
    assert [x for x in lint(stated=stated) if x[0] == "C105"] == found


def test_a_period_that_fits_is_named() -> None:
    source = scenario.build(worked(stated={"ratio": 0.3456, "period_months": 12}))
    found = next(f for f in claims.lint(source) if f.code == "C105")
    assert found.say.values["fitting"] == 1
    assert found.say.values["found"] == pytest.approx(1728 * 12 / 5000)


def test_every_text_is_there_in_every_language() -> None:
    for code, texts in TEXTS.items():
        assert len(texts) == len(LANGUAGES), code
        fields = [sorted(part.split(":")[0].split("}")[0] for part in t.split("{")[1:]) for t in texts]
        assert set(fields[0]) == set(fields[1]), code
