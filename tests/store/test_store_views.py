"""What a page asks of the store, on both engines: models, newest points, points in columns, results."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np

from record_samples import measurement
from whet.measure.record import Figure, Model
from whet.store import Filters, Store

START = datetime(2026, 1, 1, 12, 0, 0, 250_000, tzinfo=UTC)


def records(name: str, values: list[float], precision: str = "fp32", days: int = 0) -> list:
    return [measurement(model=Model(name=name), precision=precision,
                        date=(START + timedelta(days=days + i)).isoformat(),
                        figures={"x": Figure(value=v, unit="s", low=v - 1 if i else None)})
            for i, v in enumerate(values)]


def test_pages_over_either_engine(place: str) -> None:
    with Store(place) as store:
        assert store.models() == ([], 0)
        assert store.size() == (0, 0)
        store.add([*records("a_b", [1.0, 2.0, 3.0]), *records("a_b", [9.0], "bf16"), *records("axb", [5.0], days=9)])
        found, total = store.models()
        assert [(m.name, m.settings, m.newest) for m in found] == [
            ("axb", 1, START + timedelta(days=9)), ("a_b", 2, START + timedelta(days=2))]
        assert total == 2
        assert [m.name for m in store.models("A_", limit=5)[0]] == ["a_b"]  # `_` is no wildcard, case does not count
        assert [m.name for m in store.models(offset=1, limit=1)[0]] == ["a_b"]
        assert store.size() == (3, 5)
        newest = {(s.setting.precision, s.metric): (s.at, s.value, s.unit) for s in store.latest(["a_b"])}
        assert newest == {("fp32", "x"): (START + timedelta(days=2), 3.0, "s"), ("bf16", "x"): (START, 9.0, "s")}
        assert store.latest([]) == []
        ids = [s.id for s in store.latest(["a_b"]) if s.setting.precision == "fp32"]
        marks = store.marks(ids)
        assert marks.value.tolist() == [1.0, 2.0, 3.0]
        assert np.isnan(marks.low[0])
        assert marks.low[1:].tolist() == [1.0, 2.0]
        assert np.isnan(marks.high).all()
        assert np.allclose(marks.at, [(START + timedelta(days=i)).timestamp() for i in range(3)], atol=1)
        assert store.marks(ids, last=2).value.tolist() == [2.0, 3.0]
        assert store.marks(ids, Filters(until=START + timedelta(days=1))).value.tolist() == [1.0]
        assert len(store.marks([], Filters())) == 0


def test_a_page_of_results_and_one_by_its_number(place: str) -> None:
    with Store(place) as store:
        numbers = [store.keep("gate", {"n": i}, model="m" if i % 2 else "*", at=START + timedelta(days=i))
                   for i in range(5)]
        found, total = store.results("gate", offset=1, limit=2)
        assert ([k.body["n"] for k in found], total) == ([3, 2], 5)
        assert [k.body["n"] for k in store.results(model="*")[0]] == [4, 2, 0]  # a name, not a pattern
        assert store.results("roi") == ([], 0)
        one = store.result(numbers[3])
        assert one is not None
        assert (one.body, one.model, one.id) == ({"n": 3}, "m", numbers[3])
        assert store.result(10**9) is None
