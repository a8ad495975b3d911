"""Steps of a graph on a few streams: which step runs on which, and what it waits for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MOST = 4  # streams; branches beyond that take turns


@dataclass(frozen=True)
class Place:
    """Where a step runs: its lane, the steps of other lanes that it waits for, and whether others wait for it."""

    lane: int
    waits: tuple[int, ...]
    noted: bool


def schedule(after: Sequence[Sequence[int]] | None, count: int, most: int = MOST) -> list[Place]:
    """A place for each of `count` steps, in the order in which they are launched; lane 0 is the first.

    after: for each step the earlier ones that it waits for; None: the one before. A step goes to the lane of one that
    it waits for if that is the lane's last, else to a fresh lane, or where there is none to the one that has been idle
    the longest. What a lane's order implies is not waited for, neither what another wait implies.
    """
    if after is None:
        return [Place(0, (), False)] * count
    lanes: list[int] = []  # of each step
    last: list[int] = []  # the last step on each lane
    before: list[int] = []  # for each step a set (bits) of the steps that are done before it begins
    waits: list[tuple[int, ...]] = []
    for step in range(count):
        needs = sorted(set(after[step]), reverse=True)
        lane = next((lanes[k] for k in needs if last[lanes[k]] == k), None)
        if lane is None:
            # A lane whose steps are all done before this step anyway costs nothing.
            known = 0
            for k in needs:
                known |= before[k] | 1 << k
            lane = next((i for i, k in enumerate(last) if known >> k & 1), None)
        if lane is None and len(last) < most:
            lane = len(last)
            last.append(-1)
        if lane is None:
            lane = min(range(len(last)), key=lambda i: last[i])
        done = before[last[lane]] | 1 << last[lane] if last[lane] >= 0 else 0
        mine = []
        for k in needs:
            if not done >> k & 1:
                mine.append(k)
                done |= before[k] | 1 << k
        lanes.append(lane)
        before.append(done)
        waits.append(tuple(mine))
        last[lane] = step
    noted = {k for w in waits for k in w}
    return [Place(lanes[i], waits[i], i in noted) for i in range(count)]


def ends(places: Sequence[Place]) -> list[int]:
    """The last step of each lane but the first, which joins them in the end."""
    last = {p.lane: i for i, p in enumerate(places)}
    return [i for lane, i in sorted(last.items()) if lane]
