"""The hash tree of a plan file, on all threads."""

from __future__ import annotations

import hashlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor

from whet.errors import PlanFormatError
from whet.plan import layout


def root(fd: int, body_bytes: int, header: bytes) -> bytes:
    """The root over an open file (see `layout`); `header` is its first page, whatever its root field holds.

    Read with pread into a small buffer per thread rather than through a mapping: no page faults, and
    the process does not grow by pages that the run never touches (embedding tables).
    """
    spans = [(a, min(layout.CHUNK, body_bytes - a)) for a in range(layout.PAGE, body_bytes, layout.CHUNK)]
    local = threading.local()

    def leaf(span: tuple[int, int]) -> bytes:
        start, size = span
        if not hasattr(local, "buffer"):
            local.buffer = memoryview(bytearray(layout.CHUNK))
        got = 0
        while got < size:
            n = os.preadv(fd, [local.buffer[got:size]], start + got)
            if n == 0:
                raise PlanFormatError("the plan ends early", why="it shrank while it was read", do="copy it anew")
            got += n
        return hashlib.sha256(local.buffer[:size]).digest()

    workers = min(len(os.sched_getaffinity(0)), len(spans))
    if workers < 2:
        leaves = [leaf(s) for s in spans]
    else:
        with ThreadPoolExecutor(workers) as pool:
            leaves = list(pool.map(leaf, spans))
    top = hashlib.sha256(layout.DOMAIN)
    at = layout.ROOT_OFFSET
    top.update(header[:at] + bytes(32) + header[at + 32 : layout.PAGE])
    for d in leaves:
        top.update(d)
    return top.digest()
