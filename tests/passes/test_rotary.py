"""Rotary embeddings as exporters write them are computed half by half."""

import pytest
from building import Building, ops, rewritten

from whet.ir.symbolic import symbol
from whet.passes import dead, movement, rotary

S, B = symbol("s"), symbol("b")


def part(b: Building, x, start: int, size: int):
    return b.slice(x, starts=(0,) * (x.rank - 1) + (start,), sizes=(*x.shape[:-1], size), steps=(1,) * x.rank)


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("partial", [False, True])
def test_the_rotated_copy_goes(swapped: bool, partial: bool) -> None:
    b = Building()
    whole = b.input("x", (B, 4, S, 24))
    x = part(b, whole, 0, 16) if partial else part(b, whole, 4, 16)
    cos, sin = b.input("cos", (1, 1, S, 16)), b.input("sin", (1, 1, S, 16))
    rotated = b.concat(b.neg(part(b, x, 8, 8)), part(b, x, 0, 8), axis=3)
    y = b.add_(b.mul(rotated, sin), b.mul(x, cos)) if swapped else b.add_(b.mul(x, cos), b.mul(rotated, sin))
    g = rewritten(b.done(y), movement.simplify, rotary.recognize, dead.remove_dead)
    assert ops(g)["neg"] == 0
    assert ops(g)["concat"] == 1


@pytest.mark.parametrize("wrong", ["order", "other", "sign"])
def test_what_only_looks_like_it_stays(wrong: str) -> None:
    b = Building()
    x, z = b.input("x", (B, S, 16)), b.input("z", (B, S, 16))
    cos, sin = b.input("cos", (S, 16)), b.input("sin", (S, 16))
    first, second = part(b, x, 8, 8), part(b, z if wrong == "other" else x, 0, 8)
    if wrong == "order":
        first, second = second, first
    rotated = b.concat(b.exp(first) if wrong == "sign" else b.neg(first), second, axis=2)
    g = rewritten(b.done(b.add_(b.mul(x, cos), b.mul(rotated, sin))), movement.simplify, rotary.recognize)
    assert ops(g)["sub"] == 0
