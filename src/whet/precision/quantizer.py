"""Plans of one model with more or fewer of its layers in 8-bit codes (int8 or fp8), and where that is faster."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from whet.ir.dtypes import DType
from whet.ir.graph import Graph
from whet.plan import Plan
from whet.precision.bias import correct
from whet.precision.insert import Inserted, Layer, insert, layers
from whet.precision.methods import Range

Keep = Callable[[Layer], str]


class Builds(Protocol):
    """What makes plans of prepared graphs (`whet.builder.Builder`)."""

    def plan(self, graphs: Sequence[Graph], compute: str = "", extra: Mapping[str, Any] | None = None,
             opt_level: int | None = None, evidence: Mapping[str, Any] | None = None) -> Plan:
        """The plan of graphs, which are used up."""
        ...


def nothing(layer: Layer) -> str:
    """Keeps no layer."""
    return ""


@dataclass
class Quantizer:
    """Quantizes copies of prepared graphs (one per profile) by calibrated ranges.

    ranges: of the values that `taps` names. fixed: layers that stay as they are, with the reason. codes: weights
    rounded by somebody else (`insert`). shifts: what biases are corrected by, by layer (`bias.shifts`). attention: it
    is a layer, too. shortcuts: as `insert` has them.
    """

    build: Builds
    graphs: Sequence[Graph]
    ranges: Mapping[str, Range]
    activations: DType = DType.U8
    fixed: Mapping[str, str] = field(default_factory=dict)
    codes: Mapping[str, np.ndarray] = field(default_factory=dict)
    shifts: Mapping[str, np.ndarray] = field(default_factory=dict)
    attention: bool = False
    shortcuts: bool = False

    @property
    def codes_name(self) -> str:
        """What layers are quantized to: `int8` or `fp8`."""
        return "fp8" if self.activations is DType.F8E4M3FN else "int8"

    @property
    def layers(self) -> list[Layer]:
        """The first profile's layers, in order."""
        return layers(self.graphs[0], self.attention)

    def quantized(self, keep: Keep = nothing) -> tuple[list[Graph], Inserted]:
        """Copies of the graphs with every layer quantized but those that `keep` gives a reason for; what was done."""
        copies = [g.copy() for g in self.graphs]
        done = [insert(g, self.ranges, lambda l: self.fixed.get(l.name, "") or keep(l), self.activations, self.codes,
                       self.attention, self.shortcuts)
                for g in copies]
        for g in copies:
            correct(g, {n: self.shifts[n] for n in done[0].quantized if n in self.shifts})
        return copies, done[0]

    def plan(self, keep: Keep = nothing, compute: str = "", extra: Mapping[str, Any] | None = None,
             opt_level: int | None = None, evidence: Mapping[str, Any] | None = None) -> tuple[Plan, Inserted]:
        """The plan of what `quantized` gives."""
        copies, done = self.quantized(keep)
        said = {self.codes_name: {"layers": done.quantized, "kept": done.kept}, **(extra or {})}
        return self.build.plan(copies, compute, said, opt_level, evidence), done

    def real(self, compute: str = "", opt_level: int | None = None) -> Plan:
        """The plan with nothing quantized."""
        return self.build.plan([g.copy() for g in self.graphs], compute, None, opt_level)


@dataclass(frozen=True)
class Speed:
    """Seconds of each layer, its conversions included, as real numbers and as codes; and of the whole model."""

    real: Mapping[str, float]
    codes: Mapping[str, float]
    whole_real: float
    whole_codes: float

    def saved(self, layer: str) -> float | None:
        """Seconds that a layer saves; None where one was not timed."""
        before, after = self.real.get(layer), self.codes.get(layer)
        return None if before is None or after is None else before - after

    def slower(self, codes: str = "int8") -> dict[str, str]:
        """Layers that are no faster as codes, with the reason."""
        return {name: f"{codes} is not faster here: {1e6 * self.codes[name]:.1f} us, {1e6 * before:.1f} in floating "
                f"point"
                for name, before in self.real.items() if name in self.codes and self.codes[name] >= before}


def speed(real: Plan, codes: Plan) -> Speed:
    """From what the tuner measured of two plans."""
    a, b = seconds_by_layer(real), seconds_by_layer(codes)
    return Speed(a, b, sum(a.values()), sum(b.values()))


def seconds_by_layer(plan: Plan) -> dict[str, float]:
    """Tuned seconds of a plan's launches by layer; empty if one was not measured (opt level 0, an empty cache)."""
    evidence = plan.evidence.get("tuning", [])
    out: dict[str, float] = {}
    for l in plan.manifest.info["layers"]:
        if "launch" not in l:
            continue
        seconds = evidence[l["launch"]].get("seconds")
        if seconds is None:
            return {}
        name = l["name"].partition(" ")[2] or l["name"]
        out[name] = out.get(name, 0.0) + seconds
    return out


def missing(plan: Plan, quantized: Sequence[str], codes: str) -> dict[str, str]:
    """The quantized layers that the target has no kernel of codes for (they run on the host), with the reason."""
    there = {(l["name"].partition(" ")[2] or l["name"]): l["reason"] for l in plan.manifest.info["layers"]
             if "launch" not in l and l.get("reason")}
    return {name: f"no {codes} kernel: {there[name.partition('#')[0]]}" for name in quantized
            if name.partition("#")[0] in there}


def faster_only(quantizer: Quantizer, compute: str = "") -> tuple[dict[str, str], Speed, Plan]:
    """(the layers that codes do not speed up on this machine, with the reason; the times; the plan without codes).

    Compares what the tuner measured of each layer. Where mixing costs more in conversions than it saves, nothing is
    kept; where everything in codes is slower than nothing, everything is.
    """
    real = quantizer.real(compute)
    codes, done = quantizer.plan(compute=compute)
    times = speed(real, codes)
    name = quantizer.codes_name
    absent = missing(codes, done.quantized, name)
    slower = {**times.slower(name), **absent}
    if not slower or not times.real:
        return absent, times, real
    mixed, _ = quantizer.plan(lambda l: slower.get(l.name, ""), compute)
    of_mixed = sum(seconds_by_layer(mixed).values())
    best = min(times.whole_real, times.whole_codes, of_mixed)
    if best == times.whole_real:
        return {l: slower.get(l, f"the model is not faster in {name} here") for l in done.quantized}, times, real
    return (absent if best == times.whole_codes else slower), times, real
