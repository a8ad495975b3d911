"""The tactics for convolutions, pools and local response normalization."""

from __future__ import annotations

from whet.targets.base import Tactic
from whet.targets.cpu.conv_depthwise import ConvDepthwise
from whet.targets.cpu.conv_implicit import ConvGemm, ConvImplicit
from whet.targets.cpu.conv_winograd import ConvWinograd
from whet.targets.cpu.gemm import GemmPacked
from whet.targets.cpu.pool import PoolWindow

TACTICS: dict[str, tuple[Tactic, ...]] = {
    "conv": (ConvGemm(GemmPacked()), ConvDepthwise(), ConvWinograd(), ConvImplicit()),
    "pool": (PoolWindow(),),
}
