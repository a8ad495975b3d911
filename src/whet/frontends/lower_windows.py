"""Lowerings of what belongs to sliding windows: the inverse of a pool of maxima, and columns to images."""

from __future__ import annotations

import numpy as np

from whet.frontends.call import Call, NeedsReferenceError, lowers
from whet.frontends.dynamic_windows import columns_to_image
from whet.frontends.formulas import Formula, formula
from whet.frontends.lower_nn import per_axis
from whet.ir.dtypes import DType
from whet.ir.graph import Value
from whet.ir.symbolic import Shape, product


@lowers("MaxUnpool")
def _max_unpool(c: Call) -> Value:
    """Zeros, and the values at their places in the shape that the window implies; output_shape adds zeros at the end
    of each axis, as in onnx.reference."""
    x, places = formula(c, 0), formula(c, 1)
    rank = x.rank - 2
    kernel, strides = per_axis(c, "kernel_shape", rank), per_axis(c, "strides", rank)
    pads = c.attr("pads") or [0] * (2 * rank)
    shape: Shape = (*x.shape[:2], *((d - 1) * s - pads[a] - pads[rank + a] + k for a, (d, k, s)
                                    in enumerate(zip(x.shape[2:], kernel, strides))))
    n = product(x.shape)
    zeros = Formula(c, c.like(x.value, 0)).expand(product(shape))
    y = zeros.apply("scatter_elements", places.to(DType.I64).reshape(n), x.reshape(n), axis=0).reshape(*shape)
    if not c.has(2):
        return y.value
    wanted = c.dims(2, "output_shape")
    return y.apply("pad", pads=(*(0,) * y.rank, *(w - d for w, d in zip(wanted, y.shape)))).value


@lowers("Col2Im")
def _col2im(c: Call) -> Value:
    """The transpose of taking columns: a transposed convolution whose kernels each hold one 1."""
    x = formula(c, 0)
    sizes = c.dims(1, "image_shape"), c.dims(2, "block_shape")
    rank = len(sizes[1])
    strides, dilations = per_axis(c, "strides", rank), per_axis(c, "dilations", rank)
    pads = tuple(c.attr("pads") or (0,) * (2 * rank))
    if c.computed(1) or c.computed(2) or not x.dtype.is_float:
        return columns_to_image(c, c.x(0), *sizes, strides, dilations, pads)
    image, block = c.ints(1, "image_shape"), c.ints(2, "block_shape")
    taken = int(np.prod(block))
    n, deep, _ = x.shape
    if not isinstance(deep, int):
        raise NeedsReferenceError("with a dynamic number of channels")
    channels = deep // taken
    blocks = [(d + pads[a] + pads[rank + a] - l * (k - 1) - 1) // s + 1
              for a, (d, k, s, l) in enumerate(zip(image, block, strides, dilations))]
    weight = np.tile(np.eye(taken).reshape(taken, 1, *block), (channels, 1, *(1,) * rank))
    reach = [(b - 1) * s + (k - 1) * l + 1 - pads[a] - pads[rank + a]
             for a, (b, k, s, l) in enumerate(zip(blocks, block, strides, dilations))]
    y = c.emit("conv_transpose", x.reshape(n, deep, *blocks).value, c.constant(weight, x.dtype), strides=strides,
               dilations=dilations, pads=pads, group=channels,
               output_padding=tuple(d - r for d, r in zip(image, reach)))
    return y
