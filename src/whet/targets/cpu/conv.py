"""The tactics for convolutions, pools and local response normalization."""

from __future__ import annotations

from whet.targets.base import Tactic
from whet.targets.cpu.conv_implicit import ConvGemm, ConvImplicit
from whet.targets.cpu.gemm import GemmPacked

TACTICS: dict[str, tuple[Tactic, ...]] = {
    "conv": (ConvGemm(GemmPacked()), ConvImplicit()),
}
