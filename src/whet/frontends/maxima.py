"""Where in a window the greatest element is."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence

import numpy as np

from whet.frontends.call import Call, NeedsReferenceError
from whet.frontends.formulas import Formula, iota, number
from whet.ir.dtypes import DType
from whet.ir.graph import Value
from whet.ir.ops_base import spatial_out
from whet.ir.symbolic import Dim, product

MAX_WINDOW = 128  # elements of a window whose places are compared one by one


def max_with_places(c: Call, x: Formula, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int],
                    pads: Sequence[Dim]) -> list[Value]:
    """The greatest of each window, and where in the flattened x it is; the first of equals.

    Every element of a window is a strided slice of x, so all comparisons are one pointwise expression.
    """
    rank = len(kernel)
    if math.prod(kernel) > MAX_WINDOW:
        raise NeedsReferenceError("windows of so many places")
    spatial = x.shape[2:]
    out = tuple(spatial_out(d, k, s, l, pads[a] + pads[rank + a])
                for a, (d, k, s, l) in enumerate(zip(spatial, kernel, strides, dilations)))
    lowest = -np.inf if x.dtype.is_float else int(np.iinfo(x.dtype.np).min)
    wide = x.value
    if any(p != 0 for p in pads):
        wide = c.emit("pad", wide, pads=(0, 0, *pads[:rank], 0, 0, *pads[rank:]), value=lowest)
    sizes = [number(c, d, DType.I64) for d in spatial]
    starts = []
    for a, (n, s) in enumerate(zip(out, strides)):
        first = pads[a] if isinstance(pads[a], int) else number(c, pads[a], DType.I64)
        starts.append((iota(c, n) * s - first).reshape(*(n if b == a else 1 for b in range(rank))))
    order = list(range(rank))[::-1] if c.attr("storage_order", 0) else list(range(rank))
    best: Formula | None = None
    place: Formula | None = None
    for offset in itertools.product(*(range(k) for k in kernel)):
        here = Formula(c, c.emit("slice", wide, starts=(0, 0, *(o * l for o, l in zip(offset, dilations))),
                                 sizes=(*wide.shape[:2], *out), steps=(1, 1, *strides)))
        at = [s + o * l for s, o, l in zip(starts, offset, dilations)]
        inside = functools.reduce(lambda p, q: p & q, [(p >= 0) & (p < d) for p, d in zip(at, sizes)])
        flat = functools.reduce(lambda sofar, a: sofar * sizes[a] + at[a], order[1:], at[order[0]])
        if best is None or place is None:
            best, place = here, inside.where(flat, -1)
            continue
        better = (here > best) | (place < 0)
        if x.dtype.is_float:
            better = better | here.apply("isnan")
        better = better & inside
        best, place = better.where(here, best), better.where(flat, place)
    assert best is not None
    assert place is not None
    planes = iota(c, product(x.shape[:2])).reshape(*x.shape[:2], *(1,) * rank)
    return [best.value, (place + planes * number(c, product(spatial), DType.I64)).expand(*best.shape).value]
