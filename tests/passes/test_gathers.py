"""Gathers by indices that count evenly become views, exactly; all others stay."""

import numpy as np
import pytest
from building import Building, ops, rewritten

from whet.ir.dtypes import DType
from whet.ir.interpreter import interpret
from whet.ir.symbolic import symbol
from whet.passes import constants, dead, movement

VIEWS = {"slice", "reshape", "transpose", "expand"}
CASES = range(60)


def progression(rng: np.random.Generator, shape: tuple[int, ...], axes: tuple[int, ...], size: int) -> np.ndarray:
    """Indices into `size` elements that count along these axes of a shape, forwards or backwards, from the beginning
    or the end."""
    count = int(np.prod([shape[a] for a in axes], dtype=int))
    step = int(rng.choice([s for s in (1, 2, 3, -1, -2) if abs(s) * (count - 1) < size]))
    reach = abs(step) * (count - 1)
    first = int(rng.integers(0, size - reach)) + (reach if step < 0 else 0)
    line = first + step * np.arange(count)
    grid = line.reshape([shape[a] if a in axes else 1 for a in range(len(shape))])
    return np.broadcast_to(grid, shape) - (size if rng.random() < 0.4 else 0)


def checked(b: Building, y, views: bool = True) -> None:
    g = rewritten(b.done(y), constants.fold_constants, movement.simplify, dead.remove_dead, rtol=0, atol=0)
    assert (set(ops(g)) <= VIEWS) == views


@pytest.mark.parametrize("seed", CASES)
def test_a_gather_by_a_progression_along_some_dimensions_of_its_indices_is_a_view(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = (int(rng.integers(1, 4)), int(rng.integers(12, 30)), int(rng.integers(1, 4)))
    shape = tuple(int(d) for d in rng.integers(1, 4, int(rng.integers(0, 4))))
    axes = tuple(a for a in range(len(shape)) if rng.random() < 0.6 and np.prod(shape) <= 12)
    b = Building()
    index = progression(rng, shape, axes, x[1]).astype(rng.choice([np.int32, np.int64]))
    checked(b, b.gather(b.input("x", x), index, axis=1))


@pytest.mark.parametrize("seed", CASES)
def test_a_grid_whose_components_count_along_dimensions_of_their_own_is_a_view(seed: int) -> None:
    rng = np.random.default_rng(seed)
    batch, depth = int(rng.integers(0, 2)), int(rng.integers(1, 4))
    lead = tuple(int(d) for d in rng.integers(1, 4, depth + int(rng.integers(0, 2))))
    owner = rng.integers(-1, depth, len(lead))  # of each dimension of the grid, -1: no component changes along it
    sizes = tuple(int(d) for d in rng.integers(27, 33, depth))
    start = (2,) * batch
    columns = [progression(rng, start + lead, tuple(batch + a for a in range(len(lead)) if owner[a] == c), sizes[c])
               for c in range(depth)]
    b = Building()
    x = b.input("x", (*start, *sizes, 2), DType.BOOL if seed % 3 == 0 else DType.F32)
    checked(b, b.gather_nd(x, np.stack(columns, -1), batch_dims=batch))


@pytest.mark.parametrize("seed", range(20))
def test_elements_picked_by_their_place_along_the_axis_alone_are_a_slice(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = tuple(int(d) for d in rng.integers(9, 12, 3))
    shape, axis = tuple(int(rng.integers(1, 4 if d else 9)) for d in range(3)), int(rng.integers(0, 3))
    b = Building()
    checked(b, b.gather_elements(b.input("x", x), progression(rng, shape, (axis,), x[axis]).copy(), axis=axis))


def test_indices_that_do_not_count_evenly_stay() -> None:
    for index in ([0, 1, 3], [[0, 1], [1, 0]], [0, 0, 1]):
        b = Building()
        checked(b, b.gather(b.input("x", (4, 3)), np.array(index), axis=0), views=False)


def test_the_diagonal_of_a_grid_stays() -> None:
    b = Building()
    checked(b, b.gather_nd(b.input("x", (3, 3)), np.repeat(np.arange(3)[:, None], 2, 1), batch_dims=0), views=False)


def test_what_differs_from_one_batch_to_the_next_stays() -> None:
    b = Building()
    checked(b, b.gather_nd(b.input("x", (3, 3)), np.arange(3)[:, None], batch_dims=1), views=False)


def test_indices_that_lie_outside_stay() -> None:
    for index in ([3, 4, 5], [-5, -4], [4]):
        for op in ("gather", "gather_nd"):
            b = Building()
            i = np.array(index)
            g = b.done(b.gather(b.input("x", (4, 3)), i, axis=0) if op == "gather"
                       else b.gather_nd(b.input("x", (4, 3)), i[:, None], batch_dims=0))
            movement.simplify(g)
            assert ops(g) == {op: 1}


def test_places_counted_from_either_end_of_a_dynamic_dimension_are_slices_where_it_is_long_enough() -> None:
    n = symbol("n")  # 1 to 8 in tests
    for index, views in (([0], True), ([1], False), ([-1], True), ([-2, -1], False)):
        b = Building()
        x = b.input("x", (2, n))
        g = b.done(b.gather(x, np.array(index), axis=1))
        movement.simplify(g)
        assert (set(ops(g)) == {"slice"}) == views
        if views:
            got = interpret(g, {"x": np.arange(10.0).reshape(2, 5).astype(np.float32)})["y0"]
            np.testing.assert_array_equal(got, np.arange(10.0).reshape(2, 5)[:, index])


def test_the_mask_of_a_dynamic_batch_that_an_exporter_indexes_by_a_grid_is_a_view() -> None:
    n = symbol("n")
    b = Building()
    mask = b.input("mask", (n, 7), DType.BOOL)
    rows = b.expand(b.reshape(b.iota(start=0, step=1, size=n, dtype=DType.I64), shape=(n, 1, 1, 1, 1)),
                    shape=(n, 1, 5, 7, 1))
    keys = b.expand(np.arange(7).reshape(1, 1, 1, 7, 1), shape=(n, 1, 5, 7, 1))
    checked(b, b.gather_nd(mask, b.concat(rows, keys, axis=4), batch_dims=0))
