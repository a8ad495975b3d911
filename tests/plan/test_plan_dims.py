"""The runtime's evaluator of symbolic integers agrees with the IR's, and refuses what is malformed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whet.ir import symbolic
from whet.plan import dims

ENV = {"a": 3, "b": 7, "c": 0}


def exprs() -> st.SearchStrategy[Any]:
    leaf = st.one_of(st.integers(-50, 50), st.sampled_from([symbolic.symbol(n) for n in ENV]))

    def more(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        pair = st.tuples(inner, inner)
        return st.one_of(
            pair.map(lambda p: p[0] + p[1]), pair.map(lambda p: p[0] * p[1]), pair.map(lambda p: p[0] - p[1]),
            st.tuples(inner, st.integers(1, 9)).map(lambda p: p[0] // p[1]),
            st.tuples(inner, st.integers(1, 9)).map(lambda p: p[0] % p[1]),
            pair.map(lambda p: symbolic.minimum(*p)), pair.map(lambda p: symbolic.maximum(*p)))

    return st.recursive(leaf, more, max_leaves=6)


@given(exprs())
def test_values_agree_with_the_ir(d: Any) -> None:
    j = symbolic.to_json(d)
    assert dims.check(j, ENV) == ""
    assert dims.evaluate(j, ENV) == symbolic.evaluate(d, ENV)
    assert dims.names(j) == symbolic.names(d)


def test_plain_names_are_recognized() -> None:
    assert dims.plain_name(symbolic.to_json(symbolic.symbol("a"))) == "a"
    for d in (3, symbolic.to_json(2 * symbolic.symbol("a")), symbolic.to_json(symbolic.symbol("a") + 1)):
        assert dims.plain_name(d) is None


@pytest.mark.parametrize("bad", [
    None, True, "a", 1.5, [1], [[1]], [[1, "a"]], [[1, [2]]], [["1", ["a"]]], [[1, ["z"]]], [[1, [["pow", 1, 2]]]],
    [[1, [["min", 1]]]], 1 << 70, [[1, [["min", 1, None]]]], [[True, []]],
])
def test_what_is_not_a_dim_is_refused(bad: Any) -> None:
    assert dims.check(bad, ENV)


def test_nesting_and_size_are_limited() -> None:
    deep: Any = 1
    for _ in range(dims.MAX_DEPTH + 2):
        deep = [[1, [["min", deep, 1]]]]
    assert "too large" in dims.check(deep, ENV)
    assert "too large" in dims.check([[1, ["a"]]] * (dims.MAX_NODES + 1), ENV)


def test_a_dim_is_shown_as_people_write_it() -> None:
    a, b = symbolic.symbol("a"), symbolic.symbol("b")
    assert dims.show(symbolic.to_json(2 * a + 1)) == "2*a + 1"
    assert dims.show(symbolic.to_json((a + 7) // 8)) == "(a + 7)//8"
    assert dims.show(symbolic.to_json(symbolic.maximum(a, b))) == "max(a, b)"


def test_a_dimension_that_is_linear_in_one_unknown_name_tells_it() -> None:
    a, b, c = (symbolic.symbol(n) for n in "abc")
    shapes = [[symbolic.to_json(d) for d in shape] for shape in ((2 * a + b, 4 * b + 1, b), (3, c // 2))]
    told = dims.tellers(shapes, ())
    assert told == [(0, 2, "b"), (0, 0, "a")]  # c is not told
    env: dict[str, int] = {}
    for i, k, name in told:
        value = dims.solve(shapes[i][k], name, (17, 21, 5)[k], env)
        assert value is not None
        env[name] = value
    assert env == {"a": 6, "b": 5}


@pytest.mark.parametrize("size", [31, 33, -32, 0])
def test_a_size_that_no_whole_number_gives_has_no_solution(size: int) -> None:
    d = symbolic.to_json(32 * symbolic.symbol("a") + 32)
    assert dims.solve(d, "a", size, {}) is None
    assert dims.solve(d, "a", 96, {}) == 2
