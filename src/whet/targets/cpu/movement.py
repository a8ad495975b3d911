"""Movement: the tactics of the kinds that pick, place, pad and generate elements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from whet.targets.base import Tactic
from whet.targets.cpu.bitcast import BitCast
from whet.targets.cpu.gather import Gather
from whet.targets.cpu.generate import DimValues, Iota
from whet.targets.cpu.nms import Nms
from whet.targets.cpu.pad import Pad
from whet.targets.cpu.resize import Resize
from whet.targets.cpu.scan import CumProd, CumSum
from whet.targets.cpu.scatter import Scatter
from whet.targets.cpu.topk import TopK

TACTICS: Mapping[str, Sequence[Tactic]] = {
    "bitcast": (BitCast(),),
    "cumprod": (CumProd(),),
    "cumsum": (CumSum(),),
    "dims": (DimValues(),),
    "gather": (Gather(),),
    "gather_elements": (Gather(),),
    "gather_nd": (Gather(),),
    "iota": (Iota(),),
    "nms": (Nms(),),
    "pad": (Pad(),),
    "resize": (Resize(),),
    "scatter_elements": (Scatter(),),
    "scatter_nd": (Scatter(),),
    "topk": (TopK(),),
}
