"""The tactics for convolutions and transposed convolutions."""

from __future__ import annotations

from whet.targets.base import Tactic
from whet.targets.cuda.conv import ConvImplicit, ConvMatmul
from whet.targets.cuda.conv_depthwise import ConvDepthwise
from whet.targets.cuda.cudnn import CudnnConv
from whet.targets.cuda.matmul import MatmulTiles

TACTICS: dict[str, tuple[Tactic, ...]] = {
    "conv": (ConvImplicit(), ConvDepthwise(), ConvMatmul(MatmulTiles()), CudnnConv()),
}
