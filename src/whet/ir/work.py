"""How much arithmetic a region does, and how many bytes it must move."""

from __future__ import annotations

import math

from whet.ir.region import Region, Tensor
from whet.ir.symbolic import evaluate, names

LOOKED_UP = frozenset({"gather", "gather_nd", "gather_elements"})  # they read of their first operand what is asked for


def flops(region: Region) -> int:
    """Floating-point operations at the profile's optimum: two for each product of a convolution, matmul, attention
    or recurrent layer.

    Everything else counts as nothing, as is usual: it is bound by memory. A causal mask does not lessen the count.
    """
    env = {name: opt for name, (_, opt, _) in region.dims.items()}

    def shape(t: Tensor) -> list[int]:
        return [evaluate(d, env) for d in t.shape]

    def size(sizes: list[int]) -> int:
        return math.prod(sizes)

    match region.kind:
        case "matmul" | "matmul_grouped":
            return 2 * size(shape(region.anchor)) * shape(region.inputs[0])[-1]
        case "conv":
            return 2 * size(shape(region.anchor)) * size(shape(region.inputs[1])[1:])
        case "conv_transpose":
            return 2 * size(shape(region.inputs[0])) * size(shape(region.inputs[1])[1:])
        case "attention":
            q, k, v = (shape(t) for t in region.inputs[:3])
            return 2 * size(q[:-1]) * k[-2] * (q[-1] + v[-1])
        case "recurrent":
            return 2 * size(shape(region.inputs[0])) * shape(region.inputs[1])[-1]
    return 0


def region_bytes(region: Region) -> int:
    """Bytes that a region must read and write at the profile's optimum, each element once: one of those that are
    broadcast, of tables the rows that are looked up, of a convolution's operand what its windows cover. A tensor whose
    size is not known counts as nothing."""
    env = {name: opt for name, (_, opt, _) in region.dims.items()}

    def sizes(t: Tensor) -> list[int]:
        known = names(*t.shape) <= env.keys()
        return [1 if s == 0 else max(0, evaluate(d, env)) for d, s in zip(t.shape, t.strides)] if known else [0]

    def size(t: Tensor) -> int:
        return math.prod(sizes(t)) * t.dtype.size

    read = [size(Tensor.dense(t.dtype, region.seen(k).shape) if k in region.picks else t)
            for k, t in enumerate(region.inputs)]
    if region.kind in LOOKED_UP and read:
        read[0] = min(read[0], size(region.anchor))
    elif region.kind == "conv" and read[0]:
        x, kernel = sizes(region.inputs[0]), sizes(region.inputs[1])[2:]
        first = 1 if region.attrs.get("channels_last") else 2
        for i, (step, taps) in enumerate(zip(region.attrs["strides"], kernel), first):
            x[i] = -(-x[i] * min(step, taps) // step)
        read[0] = math.prod(x) * region.inputs[0].dtype.size
    return sum(size(t) for t in (region.output, *region.extra_outputs)) + sum(read)
