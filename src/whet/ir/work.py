"""How much arithmetic a region does."""

from __future__ import annotations

import math

from whet.ir.region import Region, Tensor
from whet.ir.symbolic import evaluate


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
