"""Backends take turns, and each is timed the same way."""

import pytest

from whet.errors import InputError
from whet.measure.timing import alternate


class Machine:
    """A clock that backends move."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[str] = []

    def backend(self, name: str, cost: float):
        def run() -> None:
            self.calls.append(name)
            self.now += cost
        return run


def test_each_sample_is_the_cost_of_one_call() -> None:
    m = Machine()
    found = alternate({"a": m.backend("a", 0.01), "b": m.backend("b", 0.03)}, clock=lambda: m.now, sleep=lambda s: None)
    assert found["a"].samples == pytest.approx(0.01)
    assert found["b"].samples == pytest.approx(0.03)
    assert len(found["a"].rounds) == len(found["b"].rounds)


def test_turns_rotate_so_that_no_backend_always_follows_the_same_one_first() -> None:
    m = Machine()
    alternate({n: m.backend(n, 1.0) for n in "abc"}, clock=lambda: m.now, sleep=lambda s: None,
              min_rounds=3, max_rounds=3, warmup=1)
    assert "".join(m.calls[3:]) == "aabbcc" + "bbccaa" + "ccaabb"


def test_measuring_stops_when_the_slowest_had_its_time() -> None:
    m = Machine()
    found = alternate({"a": m.backend("a", 0.1), "b": m.backend("b", 0.5)}, seconds=5, min_rounds=2,
                      clock=lambda: m.now, sleep=lambda s: None)
    assert found["b"].samples.sum() == pytest.approx(5.0)


def test_nothing_to_time_is_an_error() -> None:
    with pytest.raises(InputError):
        alternate({})
