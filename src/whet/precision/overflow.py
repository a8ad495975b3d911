"""Where 16-bit floats would overflow or lose small values, by what calibration saw."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from whet.precision.cache import Calibration, Tensor

FP16_MAX = 65504.0
BF16_MAX = 3.3895313892515355e38
MARGIN = 4.0  # data that were not seen may be so many times as large
SUBNORMAL = 0.1  # of the values that are not zero
# Operators that add many numbers up: a sum inside them may be larger than what comes out.
SUMS = frozenset({"matmul", "conv", "conv_transpose", "reduce", "layernorm", "rmsnorm", "groupnorm", "softmax",
                  "attention", "linear_attention", "cumsum"})


@dataclass(frozen=True)
class Risk:
    """A tensor that is not to be kept, or not to be accumulated, in the type.

    verdict: overflows, near, sum, subnormal, not-finite.
    """

    tensor: str
    layer: str
    largest: float
    verdict: str
    reason: str


def overflow(c: Calibration, kinds: Mapping[str, str] | None = None, dtype: str = "fp16",
             margin: float = MARGIN) -> list[Risk]:
    """The tensors that need fp32 where the rest is `dtype` ("fp16" or "bf16"), the worst first.

    kinds: the operator that makes each tensor, as far as known: for those of `SUMS` twice the margin is kept, since
    partial sums of terms of both signs may be larger than the result.
    """
    if dtype not in ("fp16", "bf16"):
        raise ValueError(f"not a 16-bit float: {dtype}")
    most = FP16_MAX if dtype == "fp16" else BF16_MAX
    order = ("not-finite", "overflows", "near", "sum", "subnormal")
    found = [r for n, t in c.tensors.items() if (r := _risk(n, t, (kinds or {}).get(n, ""), dtype, most, margin))]
    return sorted(found, key=lambda r: (order.index(r.verdict), -r.largest))


def layers_beyond(c: Calibration, kinds: Mapping[str, str] | None = None) -> dict[str, str]:
    """The layers that fp16 does not suit, as the model calls them, with the reason: what they read was seen to be too
    large for it, or so large that other data may be."""
    found: dict[str, str] = {}
    for r in overflow(c, kinds):
        if r.verdict != "subnormal":
            found |= {name.partition("#")[0]: r.reason for name in r.layer.split(", ") if name}
    return found


def _risk(name: str, t: Tensor, kind: str, dtype: str, most: float, margin: float) -> Risk | None:
    o = t.seen
    largest, count = o.largest, o.count - o.zeros

    def risk(verdict: str, reason: str) -> Risk:
        return Risk(name, t.layer, largest, verdict, reason)

    if o.nan or o.inf:
        return risk("not-finite", f"{o.nan} NaN and {o.inf} infinite values in fp32 already")
    if largest > most:
        return risk("overflows", f"{largest:.4g} is beyond {dtype}'s {most:.5g}")
    if largest * margin > most:
        return risk("near", f"{largest:.4g} is within a factor of {margin:g} of {dtype}'s {most:.5g}")
    if kind in SUMS and largest * margin * 2 > most:
        return risk("sum", f"{largest:.4g} out of a {kind}: its partial sums may pass {dtype}'s {most:.5g}")
    if dtype == "fp16" and count and o.tiny >= SUBNORMAL * count:
        return risk("subnormal", f"{o.tiny / count:.0%} of the values lie below 6.1e-05, where fp16 has fewer digits")
    return None
