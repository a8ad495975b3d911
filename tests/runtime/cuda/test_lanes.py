"""Steps on streams: whatever a step needs is done before it, with few streams and no wait that another implies."""

from __future__ import annotations

import random

import pytest

from whet.runtime.cuda.lanes import MOST, ends, schedule


def reached(places: list, step: int) -> set[int]:
    """The steps that are done before `step` begins: earlier ones of its lane, those waited for, and so on."""
    todo, found = [step], set()
    while todo:
        k = todo.pop()
        mine = [i for i in range(k) if places[i].lane == places[k].lane][-1:]
        for i in (*mine, *places[k].waits):
            if i not in found:
                found.add(i)
                todo.append(i)
    return found


@pytest.mark.parametrize("seed", range(60))
def test_every_step_runs_after_what_it_needs(seed: int) -> None:
    rng = random.Random(seed)
    n = rng.randrange(1, 40)
    after = [rng.sample(range(i), min(i, rng.randrange(4))) for i in range(n)]
    places = schedule(after, n)
    assert max(p.lane for p in places) < MOST
    for i, p in enumerate(places):
        assert set(after[i]) <= reached(places, i)
        for w in p.waits:
            assert places[w].lane != p.lane
            assert places[w].noted
            others = [k for k in p.waits if k != w]
            mine = [k for k in range(i) if places[k].lane == p.lane][-1:]
            assert not any(w in reached(places, k) for k in (*others, *mine)), "another wait implies this one"


def test_a_line_stays_on_one_stream() -> None:
    assert {p.lane for p in schedule(None, 5)} == {0}
    assert {p.lane for p in schedule([[], [0], [1], [2]], 4)} == {0}


def test_branches_go_to_streams_of_their_own_and_are_joined() -> None:
    places = schedule([[], [0], [0], [0], [1, 2, 3]], 5)
    assert [p.lane for p in places[:4]] == [0, 0, 1, 2]
    assert len(places[4].waits) == 2
    assert len(ends(places)) == 2


def test_streams_are_used_again() -> None:
    after: list[list[int]] = [[]]
    for k in range(6):  # forks of two, joined again
        base = 3 * k
        after += [[base], [base], [base + 1, base + 2]]
    assert max(p.lane for p in schedule(after, len(after))) == 1
