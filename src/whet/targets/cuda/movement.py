"""Movement: the tactics of the kinds that pick, place, pad and generate elements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from whet.targets.base import Tactic
from whet.targets.cuda.gather import Gather
from whet.targets.cuda.generate import DimValues, Iota
from whet.targets.cuda.moving import BitCast
from whet.targets.cuda.pad import Pad

TACTICS: Mapping[str, Sequence[Tactic]] = {
    "bitcast": (BitCast(),),
    "dims": (DimValues(),),
    "gather": (Gather(),),
    "gather_elements": (Gather(),),
    "gather_nd": (Gather(),),
    "iota": (Iota(),),
    "pad": (Pad(),),
}
