"""The tactics for convolutions and transposed convolutions."""

from __future__ import annotations

from whet.targets.base import Tactic
from whet.targets.cuda import matmuls
from whet.targets.cuda.conv import ConvImplicit, ConvMatmul
from whet.targets.cuda.conv_depthwise import ConvDepthwise
from whet.targets.cuda.conv_pixels import ConvPixels
from whet.targets.cuda.conv_transpose import ConvTransposePhases
from whet.targets.cuda.cudnn import CudnnConv, CudnnMatmul

TACTICS: dict[str, tuple[Tactic, ...]] = {
    "conv": (ConvImplicit(), ConvDepthwise(), ConvPixels(),
             *(ConvMatmul(t) for t in matmuls.TACTICS["matmul"] if not isinstance(t, CudnnMatmul)), CudnnConv()),
    "conv_transpose": (ConvTransposePhases(),),
}
