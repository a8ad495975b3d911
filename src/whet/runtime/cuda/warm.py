"""The graphs that a context has before its first run."""

from __future__ import annotations

import contextlib
import itertools
import time
from typing import TYPE_CHECKING

from whet.errors import DeviceMemoryError
from whet.runtime.cuda.buckets import MOST_KEPT

if TYPE_CHECKING:
    from whet.runtime.cuda.context import CudaContext

SECONDS = 0.25  # for the graphs of buckets
LAUNCHES = 4096  # in these graphs together: they take memory of the GPU
ROOM = 64 << 20  # bytes of inputs and outputs that are made room for before they come


def warm(context: CudaContext) -> None:
    """Capture the graph of the first profile's optimum, on the context's own inputs and outputs; then those of other
    buckets, as far as that is soon done and there is memory. What is left gets its graph when it first comes."""
    loaded, rounding = context.engine._programs[0], context._buckets[0]
    if not loaded.plain or loaded.states or not isinstance(loaded.program.segments[0].arena, int):
        return
    until = time.perf_counter() + SECONDS
    if rounding is None:
        _capture(context, {n: best for n, (_, best, _) in loaded.program.dims.items()})
        return
    most = context.bind(0, 0, rounding.largest).io_bytes
    if most <= ROOM:  # where a graph's inputs and outputs are must not change
        context.slot.least = most
    first, *others = itertools.islice(rounding.all(), MOST_KEPT)
    launches = _capture(context, first)
    with contextlib.suppress(DeviceMemoryError):
        for env in others:
            if launches > LAUNCHES or time.perf_counter() > until:
                break
            launches += _capture(context, env)


def _capture(context: CudaContext, env: dict[str, int]) -> int:
    """How many launches the graph has."""
    b = context.fit(0, env).bound
    b.graph(context.streams, context.slot.place(b).addresses)
    return b.steps
