"""Windows whose sizes are computed while the model runs."""

from __future__ import annotations

from collections.abc import Sequence

from whet.frontends.call import Call
from whet.frontends.scalars import Scalars
from whet.ir.dtypes import DType
from whet.ir.graph import Value
from whet.ir.symbolic import Dim, product


def columns_to_image(c: Call, x: Value, image: Sequence[Dim], block: Sequence[Dim], strides: Sequence[int],
                     dilations: Sequence[int], pads: Sequence[int]) -> Value:
    """Col2Im of x [N, channels * elements of a block, blocks]: each element is added at its place in the image
    [N, channels, *image]; places in the padding fall to one that is cut off."""
    calc, rank = Scalars(c), len(block)
    n, deep, count = x.shape
    blocks = [(d + pads[a] + pads[rank + a] - l * (k - 1) - 1) // s + 1
              for a, (d, k, s, l) in enumerate(zip(image, block, strides, dilations))]
    taken, size = product(block), product(image)
    channels = deep // taken
    calc.check(channels * taken, deep, "the elements of a block")
    calc.check(product(blocks), count, "the blocks of the image")
    place: Value | None = None
    inside: Value | None = None
    for a in range(rank):
        within = _coordinate(c, calc, block, a)  # [taken, 1]
        start = c.transpose(_coordinate(c, calc, blocks, a), (1, 0))  # [1, blocks]
        at = c.emit("add", c.emit("mul", within, c.constant(dilations[a], DType.I64)),
                    c.emit("sub", c.emit("mul", start, c.constant(strides[a], DType.I64)),
                           c.constant(pads[a], DType.I64)))
        there = c.emit("and", c.emit("ge", at, c.constant(0, DType.I64)), c.emit("lt", at, calc.value(image[a])))
        inside = there if inside is None else c.emit("and", inside, there)
        place = at if place is None else c.emit("add", c.emit("mul", place, calc.value(image[a])), at)
    assert place is not None
    assert inside is not None
    places = c.reshape(c.emit("where", inside, place, calc.value(size)), (1, taken * product(blocks)))
    rows = n * channels
    empty = c.expand(c.like(x, 0), (rows, size + 1))
    y = c.emit("scatter_elements", empty, c.expand(places, (rows, taken * product(blocks))),
               c.reshape(x, (rows, taken * product(blocks))), axis=1, reduction="add")
    return c.reshape(c.slice(y, 1, 0, size), (n, channels, *image))


def _coordinate(c: Call, calc: Scalars, shape: Sequence[Dim], axis: int) -> Value:
    """The coordinate along an axis of each element of a tensor of this shape: [elements, 1]."""
    total = product(shape)
    i = c.emit("iota", start=0, step=1, size=total, dtype=DType.I64)
    i = c.emit("div", i, calc.value(calc.maximum(product(shape[axis + 1:]), 1)))
    i = c.emit("mod", i, calc.value(calc.maximum(shape[axis], 1))) if axis else i
    return c.reshape(i, (total, 1))
