"""Which convolutions compute their input on load, instead of reading what a step of its own writes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from whet.ir.dtypes import DType
from whet.ir.graph import Node, Value
from whet.ir.symbolic import Dim, Shape, evaluate, is_static

COLUMNS = 512  # output channels up to which 16-bit (or tf32) products gain whatever their size
SMALL = 1 << 28  # multiply-adds that take no longer than a launch
OPERATORS = 8  # that are computed on load at most
LEAST_ROWS = 16  # pixels: for fewer there are kernels of vectors, which read what lies in memory
_TENSOR_CORES = ("fp16", "bf16", "tf32")
_REAL = (DType.F32, DType.F16, DType.BF16)
_CODES = {DType.I8: DType.I8, DType.U8: DType.I8, DType.F8E4M3FN: DType.F8E4M3FN}  # of x: of weights
FIRST, TAPS = 4, 192  # input channels and taps (of rows filled up to powers of two) of a first convolution


@dataclass(frozen=True)
class OnLoad:
    """The rule for GPUs; `compute` is the precision that is built for (`passes.run`).

    A product of single pixels (a convolution of 1x1, no padding, one group) may compute its input x [N, .., C] as it
    loads it: `x * s[N, 1, C]` of squeeze-and-excitation, batch norm and ReLU of DenseNet. Other windows may not: each
    tap would compute it anew, and padding is zero after it, not before.

    What is gained is a launch (1.3 us), and for each element of x a write and a read: 4 bytes of 3e12 a second in 16
    bits, 1.3 ps. What is lost is the libraries' kernels, which compute nothing on load, and the computation again for
    every tile of columns: together at most about as long as the product takes at a library's rate (3.5e14 multiply-adds
    a second in 16 bits), so O / 3.5e14 s for each element of x with O output channels: the same at O = 460. tf32 takes
    twice as long for elements twice as large. Without tensor cores (2e13 a second in fp32) the same is reached at
    O = 53. And whatever O, a product is not slower by more than a launch where all of it takes no longer than that.

    A network's first convolution over codes, of up to four channels, has a kernel that copies the image into another
    layout first; what makes codes of the image is computed there, once, and padding comes after it.
    """

    compute: str = "fp32"

    def takes(self, conv: Node, dims: Mapping[str, tuple[int, int, int]]) -> bool:
        """True for a convolution that should compute its input on load, were there something to compute.

        dims: (min, opt, max) of symbolic dimensions.
        """
        if conv.op != "conv" or not conv.attrs.get("channels_last"):
            return False
        x, w, a = conv.input(0), conv.input(1), conv.attrs
        if not w.is_const or not is_static(w.shape):
            return False
        if x.dtype in _CODES:
            return w.dtype is _CODES[x.dtype] and is_first(a, w.shape)
        if x.dtype not in _REAL or w.dtype not in _REAL:
            return False
        if a["group"] != 1 or any(d != 1 for d in w.shape[2:]) or any(a["pads"]) or any(s != 1 for s in a["strides"]):
            return False
        columns, depth = (_at(d, dims) for d in w.shape[:2])
        rows = 1
        for d in conv.output.shape[:-1]:
            rows *= _at(d, dims)
        fast = self.compute in _TENSOR_CORES or x.dtype is not DType.F32
        return rows >= LEAST_ROWS and (columns <= (COLUMNS if fast else COLUMNS // 8)
                                       or rows * columns * depth <= (SMALL if fast else SMALL // 16))

    def suits(self, x: Value, members: Sequence[Node], leaves: Sequence[Value]) -> bool:
        """True if x, which the pointwise nodes `members` compute from `leaves`, is cheap enough to be computed again
        for every tile of columns: few operators, of one tensor of its shape and smaller ones (a number for each channel
        or image, say), so that no more is read than x itself would be."""
        whole = sum(v.shape == x.shape for v in leaves)
        return len(members) <= OPERATORS and whole == 1 and all(v.dtype in _REAL for v in leaves)


def is_first(attrs: Mapping[str, Any], weights: Shape) -> bool:
    """True for a convolution like a network's first, with attributes and weights [O, I, k..]: windows of one or two
    dimensions over few channels, whose taps lie side by side along the last one."""
    if not is_static(weights) or attrs["group"] != 1 or len(weights) not in (3, 4):
        return False
    _, channels, *rows, taps = (int(d) for d in weights)  # type: ignore[arg-type]
    filled = math.prod(rows) * (1 << (taps - 1).bit_length())
    return channels <= FIRST and math.prod((*rows, taps)) > 1 and filled <= TAPS and \
        tuple(attrs["dilations"])[-1:] in ((), (1,))


def _at(d: Dim, dims: Mapping[str, tuple[int, int, int]]) -> int:
    """A dimension's value at the optimum."""
    return d if isinstance(d, int) else int(evaluate(d, {k: v[1] for k, v in dims.items()}))
