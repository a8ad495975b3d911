"""One comparison: the same model, inputs and threads in several backends, checked, then run in alternation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from whet.compare.backends import Backend, Outputs
from whet.compare.limits import Limits
from whet.measure import Measurement, alternate, centred_error, relative_l2, stats
from whet.measure.device import gpus, with_gpus
from whet.measure.record import Comparison, Limit, Load, Memory, Model, OutputError, now
from whet.measure.tools import stamp

# Relative L2 from an fp32 reference. Of int8 the error is stated alone: random inputs lie outside calibrated ranges;
# accuracy is judged with data (`whet build --eval`).
ALLOWED = {"fp32": 1e-4, "tf32": 5e-3, "fp16": 1e-2, "bf16": 5e-2}
NOT_COMPARABLE = 1e300  # stands for infinity, which JSON does not have


@dataclass(frozen=True)
class Reference:
    """Outputs that are taken for right, and whose they are: `onnxruntime fp32`."""

    name: str
    outputs: Outputs


def compare(backends: Sequence[Backend], feeds: Mapping[str, np.ndarray], model: Model, *, threads: int,
            seconds: float = 5.0, reference: Reference | None = None, limits: Limits | None = None,
            memory: Mapping[str, Memory] | None = None,
            on_error: Callable[[Backend, OutputError], None] = lambda backend, error: None) -> list[Measurement]:
    """A record for each backend, in order. Outputs are compared with the reference before anything is timed.

    feeds:    what the backends are bound to. The first dimension of the first input is the batch that throughput
              (samples per second) counts; a scalar counts as one.
    seconds:  that the slowest backend is timed for.
    limits:   what the CPU can do: a fraction of it is stated for backends on it whose FLOPs some plan counted.
    memory:   by backend key, where it was measured.
    on_error: called for every backend with how far its outputs are from the reference's.
    """
    made = stamp()  # before anything is timed: a lock that is not there is told now
    errors: dict[str, OutputError] = {}
    if reference is not None:
        for b in (b for b in backends if b.key != reference.name):
            errors[b.key] = output_error(b.run(), reference, ALLOWED.get(b.precision))
            on_error(b, errors[b.key])
    series = alternate({b.key: b.run for b in backends}, seconds=seconds, turn_seconds=0.05)
    first = next(iter(feeds.values()), np.zeros(()))
    batch = first.shape[0] if first.ndim else 1
    flops = max((b.flops for b in backends), default=0)
    versions = {b.name: b.version for b in backends} | {"numpy": np.__version__}
    records = []
    for b in backends:
        latency = stats.latency(series[b.key].samples)
        records.append(Measurement(
            date=now(), model=model, backend=b.name, precision=b.precision, threads=threads,
            shapes={k: tuple(v.shape) for k, v in feeds.items()}, device=with_gpus(gpus(b.gpus)), versions=versions,
            load=Load(alternating=tuple(o.key for o in backends)), plan=b.plan, latency=latency,
            throughput=batch / latency.p50.value, memory=(memory or {}).get(b.key), error=errors.get(b.key),
            limit=None if b.gpus else _limit(flops, limits, b.precision, latency.p50.value),
            comparisons=tuple(_comparison(o, b, series) for o in backends if o.name != b.name) if b.plan else (),
            build_seconds=b.build_seconds, load_seconds=b.load_seconds, **made))
    return records


def output_error(found: Outputs, reference: Reference, allowed: float | None) -> OutputError:
    """The worst over all outputs; centred over the last dimension, where there is more than one value in it."""
    worst = 0.0
    for name, right in reference.outputs.items():
        worst = max(worst, _distance(found.get(name), right))
    return OutputError(reference=reference.name, measure="centred-relative-l2", limit=allowed,
                       value=min(worst, NOT_COMPARABLE))


def _distance(ours: Any, right: Any) -> float:
    a, b = np.asarray(ours), np.asarray(right)
    if a.dtype == object or (b.dtype.kind not in "fiub" and b.dtype.name != "bfloat16"):
        return 0.0 if np.array_equal(a, b) else float("inf")
    # Of one value, nothing would be left without its mean.
    return centred_error(a, b) if b.ndim and b.shape[-1] > 1 and a.shape == b.shape else relative_l2(a, b)


def _limit(flops: int, limits: Limits | None, precision: str, median: float) -> Limit | None:
    if limits is None or flops == 0:
        return None
    rate = limits.flops(precision)
    return Limit(flops=float(flops), flops_per_second=rate, bytes_per_second=limits.copy, seconds=flops / rate,
                 fraction=flops / rate / median)


def _comparison(other: Backend, ours: Backend, series: Mapping[str, Any]) -> Comparison:
    theirs, mine = series[other.key].rounds, series[ours.key].rounds
    r = stats.ratio_of_medians(theirs, mine)
    return Comparison(backend=other.name, precision=other.precision, ratio=r.value, low=r.low, high=r.high,
                      rounds=len(mine))
