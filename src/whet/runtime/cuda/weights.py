"""A plan's weights on the device: uploaded once, by threads that read the file straight into page-locked memory."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from whet.errors import PlanFormatError
from whet.plan import Plan, layout
from whet.runtime.cuda.driver import Device, DeviceMemory, Owned

CHUNK = 8 << 20
THREADS = 4


def upload(plan: Plan, device: Device, allocate: Callable[[int, str], DeviceMemory]) -> DeviceMemory:
    """The section of weights, as it lies in the file."""
    start, size = plan.contents.sections[layout.WEIGHTS]
    memory = allocate(size, "the plan's weights")
    fd = plan.fileno()
    chunks = [(at, min(CHUNK, size - at)) for at in range(0, size, CHUNK)]
    workers = min(THREADS, len(chunks))
    if not workers:
        return memory

    def carry(mine: list[tuple[int, int]]) -> None:
        with device.current():
            room = max(n for _, n in mine)
            pinned, stream = device.pinned(2 * room), Owned(device, device.stream())
            events = [Owned(device, device.event()) for _ in range(2)]
            for k, (at, n) in enumerate(mine):
                half = pinned.bytes[k % 2 * room :][:n]
                device.check(device.api.cuEventSynchronize(events[k % 2].handle), "uploading weights")
                _read(fd, half, start + at)
                device.check(device.api.cuMemcpyHtoDAsync(memory.address + at, half.ctypes.data, n, stream.handle),
                             "uploading weights")
                device.check(device.api.cuEventRecord(events[k % 2].handle, stream.handle), "uploading weights")
            device.synchronize(stream.handle)
            for x in (pinned, stream, *events):
                x.close()

    with ThreadPoolExecutor(workers, "whet-upload") as pool:
        for job in [pool.submit(carry, chunks[i::workers]) for i in range(workers)]:
            job.result()
    return memory


def _read(fd: int, into: object, offset: int) -> None:
    view = memoryview(into).cast("B")  # type: ignore[arg-type]
    while len(view):
        n = os.preadv(fd, [view], offset)
        if not n:
            raise PlanFormatError("the plan ends early", why="it shrank while it was open", do="copy it anew")
        view, offset = view[n:], offset + n
