"""Which launches of a segment have to wait for which: two of them may run at the same time unless one writes bytes that
the other reads or writes."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from whet.ir.symbolic import Shape, evaluate, upper
from whet.lowering.storage import Buffer, Launch, Storage

Ranges = Mapping[str, tuple[int, int]]


@dataclass(frozen=True)
class Access:
    """Bytes [low, high) of `space` that a launch reads or writes. `storage` (with its shape) tells which elements of a
    buffer these are, for tensors that lie between each other (slices of a concat along the last dimension)."""

    space: Hashable
    low: int
    high: int
    write: bool
    storage: Storage | None = None
    shape: Shape = ()

    def meets(self, other: Access) -> bool:
        """The one has to wait for the other."""
        return (self.space == other.space and (self.write or other.write) and self.low < other.high
                and other.low < self.high and not _interleaved(self, other))


def accesses(launches: Sequence[Launch], ranges: Ranges, place: Mapping[Buffer, int] | None = None,
             work: Mapping[int, tuple[int, int]] | None = None) -> list[list[Access]]:
    """What each launch touches, but for constants.

    place: of the temporaries in the arena; without it every buffer is a space of its own. work: each launch's
    workspace in the arena, as (first byte, bytes).
    """
    out = []
    for i, launch in enumerate(launches):
        mine = [_access(s, t.shape, write, ranges, place) for group, tensors, write in (
                    (launch.inputs, launch.region.inputs, False),
                    (launch.outputs, (launch.region.output, *launch.region.extra_outputs), True))
                for s, t in zip(group, tensors) if s.buffer.kind != "const"]
        if work and i in work:
            mine.append(Access("arena", work[i][0], sum(work[i]), True))
        out.append(mine)
    return out


def order(touched: Sequence[Sequence[Access]]) -> tuple[list[list[int]], list[int]]:
    """For each launch the earlier ones that it has to wait for, without those that these wait for themselves; and all
    that come before it, as bits."""
    waits: list[list[int]] = []
    before: list[int] = []
    for i, mine in enumerate(touched):
        bits, kept = 0, []
        for j in range(i - 1, -1, -1):
            if not bits >> j & 1 and any(a.meets(b) for a in mine for b in touched[j]):
                kept.append(j)
                bits |= before[j] | 1 << j
        waits.append(kept[::-1])
        before.append(bits)
    return waits, before


def steps_after(waits: Sequence[Sequence[int]], counts: Sequence[int]) -> list[list[int]]:
    """`plan.program.Segment.after`, from what launches wait for and how many steps each has (one after the other)."""
    out: list[list[int]] = []
    ends: list[list[int]] = []  # the steps that have to be done for a launch to be done
    for mine, count in zip(waits, counts):
        first = sorted({k for j in mine for k in ends[j]})
        at = len(out)
        out += [first if k == 0 else [at + k - 1] for k in range(count)]
        ends.append([at + count - 1] if count else first)
    return out


def _access(s: Storage, shape: Shape, write: bool, ranges: Ranges, place: Mapping[Buffer, int] | None) -> Access:
    b = s.buffer
    size = b.dtype.size
    base = place[b] if place is not None and b.kind == "temp" else 0
    space: Hashable = b if place is None else "arena" if b.kind == "temp" else (b.kind, b.index)
    if _static(s, shape):
        sizes, start = _sizes(s, shape), evaluate(s.offset, {})
        low = start + sum((d - 1) * st for d, st in sizes if st < 0)
        high = start + 1 + sum((d - 1) * st for d, st in sizes if st > 0)
        empty = any(d == 0 for d, _ in sizes)
        return Access(space, base + low * size, base + (low if empty else high) * size, write, s, shape)
    if b.kind != "temp":  # a state's buffer has more room than its shape tells
        return Access(space, 0, 1 << 62, write)
    return Access(space, base, base + max(0, upper(b.elements, ranges)) * size, write)


def _static(s: Storage, shape: Shape) -> bool:
    return all(isinstance(d, int) for d in (s.offset, *s.strides, *shape))


def _interleaved(a: Access, b: Access) -> bool:
    """Two tensors of one buffer that have no element in common: in every period of the outer strides the inner
    dimensions of the one lie beside those of the other."""
    x, y = a.storage, b.storage
    if x is None or y is None or x.buffer is not y.buffer:
        return False
    first, second = _sizes(x, a.shape), _sizes(y, b.shape)
    strides = [abs(st) for _, st in (*first, *second) if st != 0]
    for least in set(strides):
        period = math.gcd(*(st for st in strides if st >= least))
        one = _inner(evaluate(x.offset, {}), first, least, period)
        other = _inner(evaluate(y.offset, {}), second, least, period)
        if one is not None and other is not None and (one[1] <= other[0] or other[1] <= one[0]):
            return True
    return False


def _sizes(s: Storage, shape: Shape) -> list[tuple[int, int]]:
    """(size, stride) of the dimensions in which a tensor has more than one element (or none)."""
    return [(evaluate(d, {}), evaluate(st, {})) for d, st in zip(shape, s.strides) if d != 1]


def _inner(offset: int, sizes: Sequence[tuple[int, int]], least: int, period: int) -> tuple[int, int] | None:
    """The elements within a period that a tensor's dimensions of strides below `least` cover, if they do not reach
    into the next one."""
    low = offset % period
    inner = [(d, st) for d, st in sizes if abs(st) < least]
    if any(st < 0 for _, st in inner):
        return None
    high = low + 1 + sum((d - 1) * st for d, st in inner)
    return (low, high) if high <= period else None
