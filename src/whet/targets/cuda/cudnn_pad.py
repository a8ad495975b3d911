"""A copy of a convolution's input as cuDNN wants it: channels last, padded with zeros, in the type of the products."""

from __future__ import annotations

from whet.ir.region import Tensor
from whet.ir.symbolic import ceildiv, product
from whet.targets.base import In, Step, Work
from whet.targets.cuda.conv_write import Pixels, times
from whet.targets.cuda.kernel import REGISTER, Source

PIXELS = 256  # of a program


def pad_step(x: Tensor, to: Tensor) -> Step:
    """x [n, spatial.., c], input 0 of the region, into the dense tensor `to` at the beginning of the workspace, whose
    further channels become 0."""
    s = Source("pad_channels")
    source, target = s.pointer(In(0), x.dtype, x.aligned), s.pointer(Work(0), to.dtype)
    channels, given = to.shape[-1], x.shape[-1]
    assert isinstance(channels, int)
    assert isinstance(given, int)
    lead = x.shape[:-1]
    pixels = product(lead)
    wide = 1 << max(0, (channels - 1).bit_length())
    block = max(16, PIXELS * 8 // max(8, wide))
    s.line(f"row = tl.program_id(0).to(tl.int64) * {block} + tl.arange(0, {block})")
    s.line(f"m = tl.minimum(row, {s.integer(pixels)} - 1)")
    s.line(f"channel = tl.arange(0, {wide})")
    near = Pixels(s, lead, "m").offset(x.strides[:-1]) or "m * 0"
    s.line(f"x = tl.load({source} + ({near})[:, None] + ({times(s, 'channel', x.strides[-1])})[None, :], "
           f"mask=(channel < {given})[None, :], other={0 if x.dtype.is_integer else 0.0})")
    s.line(f"tl.store({target} + m[:, None] * {channels} + channel[None, :], x.to(tl.{REGISTER[to.dtype]}), "
           f"mask=(row < {s.integer(pixels)})[:, None] & (channel < {channels})[None, :])")
    return s.step(ceildiv(pixels, block), 4, 1)
