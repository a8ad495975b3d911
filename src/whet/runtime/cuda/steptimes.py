"""How long each step takes on the device, by events around its launch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from whet.runtime.cuda.bound import Bound
from whet.runtime.cuda.driver import Device, Owned

AT_ONCE = 128  # launches that wait in a stream: it holds about a thousand things


def measure(device: Device, bound: Bound, addresses: Sequence[int], stream: Any) -> np.ndarray:
    """Seconds of each step of one run, which is done twice: first to load what libraries load when it is first used.

    The stream is held until some launches are in it, so that the device never waits for the host.
    """
    api, check = device.api, device.check
    steps = bound.each(addresses, stream)
    for go in steps:
        go()
    device.synchronize(stream)
    seconds = np.zeros(len(steps))
    events = [Owned(device, device.event(timing=True)) for _ in range(min(AT_ONCE, len(steps)) + 1)]
    gate = device.pinned(4)
    word = gate.bytes.view(np.uint32)
    for first in range(0, len(steps), AT_ONCE):
        part = steps[first : first + AT_ONCE]
        word[0] = 0
        api.cuStreamWaitValue32(stream, gate.address, 1, 0)  # until it is >= 1; where that cannot be, times are rougher
        try:
            check(api.cuEventRecord(events[0].handle, stream), "cuEventRecord")
            for k, go in enumerate(part):
                go()
                check(api.cuEventRecord(events[k + 1].handle, stream), "cuEventRecord")
        finally:
            word[0] = 1
        device.synchronize(stream)
        for k in range(len(part)):
            took = check(api.cuEventElapsedTime(events[k].handle, events[k + 1].handle), "cuEventElapsedTime")
            seconds[first + k] = took * 1e-3
    for x in (*events, gate):
        x.close()
    return seconds
