"""Static memory planning: temporaries with known lifetimes packed into one arena."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from whet.ir.symbolic import Dim, Sym, ceildiv

ALIGN = 256  # what cuBLASLt asks of a workspace; a CPU's cache line and widest vector divide it


@dataclass(frozen=True)
class Lifetime:
    """A temporary of `size` bytes that is needed from step `first` to step `last`, inclusive."""

    size: int
    first: int
    last: int


def plan_memory(items: Sequence[Lifetime], apart: Callable[[int, int], bool] | None = None) -> tuple[list[int], int]:
    """Byte offsets (multiples of 256) in one arena so that no two temporaries alive at once overlap,
    and the arena's size.

    Greedy by size: the largest first, each into the tightest gap among those it lives with. It is
    within a few per cent of the lower bound on real networks (Pisarchyk and Lee, "Efficient Memory
    Management for Deep Neural Net Inference", 2020).

    apart: whether two of them are never alive at once, where lifetimes do not tell it: steps may run side by side.
    """
    offsets = [0] * len(items)
    placed = _Placed(max((it.last for it in items), default=0) + 1)
    total = 0
    done: list[int] = []
    for i in sorted(range(len(items)), key=lambda j: (-items[j].size, items[j].first, j)):
        me = items[i]
        size = -(-me.size // ALIGN) * ALIGN
        others = sorted([(offsets[j], offsets[j] + -(-items[j].size // ALIGN) * ALIGN)
                         for j in (placed.with_(me) if apart is None else [j for j in done if not apart(i, j)])])
        best, best_gap, end = None, None, 0
        for lo, hi in others:
            gap = lo - end
            if gap >= size and (best_gap is None or gap < best_gap):
                best, best_gap = end, gap
            end = max(end, hi)
        offsets[i] = end if best is None else best
        total = max(total, offsets[i] + size)
        placed.add(i, me)
        done.append(i)
    return offsets, total


class _Placed:
    """Temporaries by lifetime: those alive together with another are found without looking at the rest.

    They are alive at its first step (a segment tree over steps, each lifetime in O(log steps) nodes), or begin after.
    """

    def __init__(self, steps: int) -> None:
        self.leaves = 1 << (steps - 1).bit_length()
        self.tree: list[list[int]] = [[] for _ in range(2 * self.leaves)]
        self.starts: list[tuple[int, int]] = []  # (first step, temporary), sorted

    def add(self, i: int, it: Lifetime) -> None:
        bisect.insort(self.starts, (it.first, i))
        low, high = it.first + self.leaves, it.last + self.leaves + 1
        while low < high:
            if low & 1:
                self.tree[low].append(i)
                low += 1
            if high & 1:
                high -= 1
                self.tree[high].append(i)
            low, high = low >> 1, high >> 1

    def with_(self, it: Lifetime) -> list[int]:
        """The temporaries that are alive in one of its steps."""
        begin, end = (bisect.bisect_left(self.starts, (at + 1,)) for at in (it.first, it.last))
        out = [i for _, i in self.starts[begin:end]]
        node = it.first + self.leaves
        while node:
            out += self.tree[node]
            node >>= 1
        return out


def plan_symbolic(sizes: Sequence[Dim], items: Sequence[Lifetime]) -> tuple[list[Dim], Dim]:
    """Offsets and the arena's size as dims, for temporaries whose sizes have no useful bound.

    A temporary takes the place of one of the same size that is no longer needed, else a new place at the end.
    `items` give the lifetimes.
    """
    offsets: list[Dim] = [0] * len(items)
    free: dict[Dim, list[tuple[int, Dim]]] = {}  # by size: (last use, offset)
    end: Dim = 0
    for i in sorted(range(len(items)), key=lambda j: (items[j].first, j)):
        places = free.setdefault(sizes[i], [])
        reused = next((p for p in places if p[0] < items[i].first), None)
        if reused is not None:
            places.remove(reused)
            offsets[i] = reused[1]
        else:
            offsets[i] = end
            whole = sizes[i] % ALIGN == 0 if isinstance(sizes[i], Sym) else False
            end = end + (sizes[i] if whole else ceildiv(sizes[i], ALIGN) * ALIGN)
        places.append((items[i].last, offsets[i]))
    return offsets, end
