"""The `region` operator: what fusion makes of an anchor and the expressions around it."""

from __future__ import annotations

from typing import Any

import numpy as np

from whet.ir.graph import Value
from whet.ir.ops_base import REQUIRED, Attrs, OpDef, Spec, need
from whet.ir.region import Region
from whet.ir.region_eval import region_reference


def _rule(ins: list[Value], at: Attrs) -> list[Spec]:
    region = at["region"]
    need(isinstance(region, Region), "region: the attribute `region` is a Region")
    need(len(ins) == len(region.inputs), f"region: {len(ins)} inputs for a region of {len(region.inputs)}")
    return [(t.dtype, t.shape) for t in (region.output, *region.extra_outputs)]


def _reference(xs: list[Any], at: Attrs) -> list[np.ndarray]:
    return region_reference(at["region"], xs)


REGION = OpDef("region", (0, None), _rule, _reference, {"region": REQUIRED})
