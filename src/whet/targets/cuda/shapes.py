"""What the tactics ask about a region's dimensions: values at the optimum, limits, whether offsets fit 32 bits."""

from __future__ import annotations

from collections.abc import Sequence

from whet.ir.region import Region, Tensor
from whet.ir.symbolic import Dim, Shape, evaluate, lower, names, upper

REACH = 2**31 - 1  # of int32
_UNKNOWN = 1 << 62


def ranges(region: Region) -> dict[str, tuple[int, int]]:
    """(least, greatest) of the names of symbolic dimensions, as `symbolic.upper` takes them."""
    return {k: (v[0], v[2]) for k, v in region.dims.items()}


def optimum(region: Region, d: Dim) -> int:
    """A dimension's value at the optimum shape."""
    return d if isinstance(d, int) else int(evaluate(d, {k: v[1] for k, v in region.dims.items()}))


def greatest(region: Region, d: Dim) -> int:
    """The greatest magnitude that d may have. Names in attributes alone may have no range: then it is beyond all."""
    r = ranges(region)
    if names(d) - r.keys():
        return _UNKNOWN
    return max(abs(lower(d, r)), abs(upper(d, r)))


def reach(region: Region, t: Tensor) -> int:
    """An upper bound of how many elements away from its first a tensor's last one lies."""
    r = ranges(region)
    return sum(max(0, upper(d, r) - 1) * greatest(region, s) for d, s in zip(t.shape, t.strides, strict=True))


def is_long(n: int) -> bool:
    """Whether an index or offset up to n needs 64 bits."""
    return n > REACH


def divides(n: int, d: Dim) -> bool:
    """Whether the dimension is known to be a multiple of n."""
    rest = d % n
    return isinstance(rest, int) and rest == 0


def power_of_two(n: int) -> int:
    """The least power of two that is no less than n (1 for n < 2)."""
    return 1 << max(n - 1, 0).bit_length()


def broadcast_strides(t: Tensor, rank: int) -> Shape:
    """A tensor's strides along the last of `rank` dimensions that it broadcasts to: 0 where it has one element."""
    return (0,) * (rank - len(t.shape)) + tuple(0 if d == 1 else s for d, s in zip(t.shape, t.strides, strict=True))


def operands(region: Region, known: Sequence[str]) -> dict[str, int]:
    """Indices of the region's inputs by name, of an anchor whose operands are `known` by these names, in its order;
    those that are absent are left out."""
    absent = region.attrs.get("absent", ())
    there = [name for i, name in enumerate(known) if i not in absent]
    return {name: i for i, name in enumerate(there[:region.n_anchor])}
