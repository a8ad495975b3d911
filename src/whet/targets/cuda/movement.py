"""Movement: the tactics of the kinds that pick, place, pad, pool and generate elements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from whet.targets.base import Tactic
from whet.targets.cuda.gather import Gather
from whet.targets.cuda.generate import DimValues, Iota
from whet.targets.cuda.moving import BitCast
from whet.targets.cuda.nms import Nms
from whet.targets.cuda.pad import Pad
from whet.targets.cuda.pool import Pool
from whet.targets.cuda.resize import Resize
from whet.targets.cuda.scan import CumProd, CumSum
from whet.targets.cuda.scatter import Scatter
from whet.targets.cuda.topk import TopK

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
    "pool": (Pool(),),
    "resize": (Resize(),),
    "scatter_elements": (Scatter(),),
    "scatter_nd": (Scatter(),),
    "topk": (TopK(),),
}
