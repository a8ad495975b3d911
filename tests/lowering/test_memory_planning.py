"""No two temporaries that live at once overlap, and the arena is as small as the peak demands."""

import random

import pytest

from whet.lowering.memory import ALIGN, Lifetime, plan_memory


@pytest.mark.parametrize("seed", range(20))
def test_live_temporaries_never_overlap(seed: int) -> None:
    rng = random.Random(seed)
    items = []
    for _ in range(rng.randint(1, 60)):
        first = rng.randint(0, 40)
        items.append(Lifetime(rng.choice([0, 1, 63, 64, 65, 1000, 4096]), first, first + rng.randint(0, 10)))
    offsets, total = plan_memory(items)
    for i, a in enumerate(items):
        assert offsets[i] % ALIGN == 0
        assert offsets[i] + a.size <= total
        for j in range(i):
            b = items[j]
            if a.first <= b.last and b.first <= a.last:
                assert offsets[i] + a.size <= offsets[j] or offsets[j] + b.size <= offsets[i]


def test_a_chain_needs_two_buffers_only() -> None:
    offsets, total = plan_memory([Lifetime(3 * ALIGN, i, i + 1) for i in range(10)])
    assert total == 6 * ALIGN
    assert set(offsets) == {0, 3 * ALIGN}
