"""The tactics for convolutions, pools and local response normalization."""

from __future__ import annotations

from whet.targets.base import Tactic
from whet.targets.cpu.conv_amx import ConvAmx
from whet.targets.cpu.conv_depthwise import ConvDepthwise
from whet.targets.cpu.conv_depthwise_dot import ConvDepthwiseDot
from whet.targets.cpu.conv_depthwise_int8 import ConvDepthwiseCodes
from whet.targets.cpu.conv_direct import ConvDirect
from whet.targets.cpu.conv_implicit import ConvGemm, ConvImplicit
from whet.targets.cpu.conv_int8 import ConvInt8
from whet.targets.cpu.conv_tiles import ConvTiles
from whet.targets.cpu.conv_transpose import ConvTransposePhases
from whet.targets.cpu.conv_windows import ConvWindows
from whet.targets.cpu.conv_winograd import ConvWinograd
from whet.targets.cpu.gemm import GemmPacked
from whet.targets.cpu.gemm_amx import GemmAmx
from whet.targets.cpu.gemm_int8 import GemmInt8
from whet.targets.cpu.gemm_tiles import GemmTiles
from whet.targets.cpu.lrn import Lrn
from whet.targets.cpu.pool import PoolWindow

TACTICS: dict[str, tuple[Tactic, ...]] = {
    "conv": (ConvGemm(GemmAmx()), ConvAmx(), ConvGemm(GemmTiles()), ConvTiles(), ConvWindows(),
             ConvGemm(GemmPacked()), ConvDepthwise(), ConvWinograd(), ConvDepthwiseDot(), ConvDepthwiseCodes(),
             ConvImplicit(), ConvDirect("conv"), ConvGemm(GemmInt8()), ConvInt8()),
    "conv_transpose": (ConvTransposePhases(), ConvDirect("conv_transpose")),
    "lrn": (Lrn(),),
    "pool": (PoolWindow(),),
}
