"""Attention with its output projection, by heads: the parts that the sum over the heads would add up."""

from __future__ import annotations

from typing import Any

import numpy as np

from whet.ir.dtypes import DType
from whet.ir.ops_anchor import ANCHORS
from whet.ir.ops_base import Attrs, OpDef, Spec, equal, in_f32, need

_ATTENTION = ANCHORS["attention"]


def _rule(ins: list[Any], at: Attrs) -> list[Spec]:
    w = ins[3]
    need(ins[0].dtype.is_float and w.dtype.is_float, "attention_parts takes real numbers")
    ((dtype, (batch, heads, queries, e)),) = _ATTENTION.rule([*ins[:3], *ins[4:]], at)
    need(w.rank == 3, "attention_parts takes w of rank 3")
    equal(w.shape[0], heads, "attention_parts' heads of q and w")
    equal(w.shape[1], e, "attention_parts' head sizes of v and w")
    return [(DType.F64 if dtype is DType.F64 else DType.F32, (batch, heads, queries, w.shape[2]))]


def _reference(xs: list[Any], at: Attrs) -> list[np.ndarray]:
    (y,) = _ATTENTION.reference([*xs[:3], *xs[4:]], at)
    return [np.matmul(y, in_f32(xs[3]))]


OPERANDS = ("q", "k", "v", "w", "mask", "lengths")
ATTENTION_PARTS = OpDef("attention_parts", (4, 6), _rule, _reference, _ATTENTION.attrs, optional=(4,))
