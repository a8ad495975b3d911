"""What a concat joins is written into its place as often as it can be."""

import numpy as np
import pytest
from building import Building, ops, rewritten, weights

from whet.ir.dtypes import DType
from whet.ir.symbolic import symbol
from whet.passes import constants, dead, joins

CLEAN = (joins.simplify, constants.fold_constants, dead.remove_dead)


def patches(b: Building, batch=1, reshaped: bool = True):
    """A class token, then the patches of an image."""
    x = b.conv(b.input("x", (batch, 8, 8, 3)), weights(6, 3, 4, 4), strides=(4, 4), channels_last=True)
    x = b.reshape(x, shape=(batch, 4, 6)) if reshaped else x
    return b.concat(b.expand(weights(1, 1, 6), shape=(batch, 1, 6)) if batch != 1 else weights(1, 1, 6), x, axis=1)


@pytest.mark.parametrize("shape", [(1, 5, 6), (5, 6), (1, 5, 1), (6,), ()])
def test_positions_after_a_class_token_are_added_where_the_patches_are_made(shape: tuple[int, ...]) -> None:
    b = Building()
    g = rewritten(b.done(b.add_(patches(b), np.asarray(weights(*shape), np.float32))), *CLEAN)
    assert [n.op for n in g.nodes] == ["conv", "add", "reshape", "concat"]


def test_positions_that_every_image_of_a_batch_shares_stay_behind_the_concat() -> None:
    b = Building()
    g = rewritten(b.done(b.add_(patches(b, symbol("n")), weights(1, 5, 6))), *CLEAN)
    assert [n.op for n in g.nodes if n.op in ("add", "concat")] == ["concat", "add"]


def test_what_others_read_or_no_epilogue_takes_stays() -> None:
    b = Building()
    x = b.conv(b.input("x", (1, 4, 4, 3)), weights(6, 3, 1, 1), channels_last=True)
    rewritten(g := b.done(b.add_(b.concat(weights(1, 1, 4, 6), x, axis=1), weights(5, 4, 6)), b.relu(x)), *CLEAN)
    assert ops(g)["add"] == 1
    assert g.nodes[-1].op != "concat"
    b = Building()
    x = b.gather(weights(9, 6), b.input("i", (1, 4), DType.I64))
    g = rewritten(b.done(b.add_(b.concat(weights(1, 1, 6), x, axis=1), weights(5, 6))), *CLEAN)
    assert g.nodes[-1].op == "add"


@pytest.mark.parametrize("seed", range(20))
def test_indices_joined_of_numbers_and_given_places_are_chosen_in_one_step(seed: int) -> None:
    rng = np.random.default_rng(seed)
    b = Building()
    rank = int(rng.integers(1, 4))
    axis = int(rng.integers(0, rank))
    shape = tuple(int(d) for d in rng.integers(1, 4, rank))
    one = tuple(1 if a == axis else d for a, d in enumerate(shape))
    parts: list[object] = [rng.integers(0, 9, shape) for _ in range(int(rng.integers(1, 3)))]
    for k in range(int(rng.integers(1, 4))):
        given = b.expand(b.reshape(b.input(f"p{k}", (1,), DType.I64), shape=(1,) * rank), shape=one)
        parts.insert(int(rng.integers(0, len(parts) + 1)), given)
    g = rewritten(b.done(b.concat(*parts, axis=axis)), *CLEAN, rtol=0, atol=0)
    assert "concat" not in ops(g)


def test_what_is_large_or_written_into_its_place_is_joined() -> None:
    b = Building()
    i = b.input("i", (1, 3), DType.I64)
    made = b.concat(np.arange(3)[None], b.add_(i, np.int64(1)), axis=0)
    large = b.concat(np.zeros((1, 1 << 14), np.int64), b.expand(b.slice(i, starts=(0, 0), sizes=(1, 1), steps=(1, 1)),
                                                              shape=(1, 1 << 14)), axis=0)
    g = rewritten(b.done(made, large), *CLEAN)
    assert ops(g)["concat"] == 2
