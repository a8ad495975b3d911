"""Memory for native code: huge pages, code on noexec file systems, files mapped at any page."""

from __future__ import annotations

import ctypes
import os

import numpy as np
from tiny_plans import ISA, linked, scale_kernel

from whet.runtime.memory import Memory
from whet.targets.cpu.compile import to_object
from whet.targets.cpu.link import link


def test_anonymous_memory_is_zero_writable_and_aligned() -> None:
    for size, huge in ((0, False), (1, False), (5000, True), (9 << 20, True)):
        m = Memory.anonymous(size, huge=huge)
        assert m.address % 4096 == 0
        assert m.bytes.size == m.size == size
        assert not m.bytes.any()
        m.bytes[:] = 7
        if huge and size > 8 << 20:
            assert m.address % (2 << 20) == 0
        m.close()


def test_a_file_is_mapped_from_any_page() -> None:
    fd = os.memfd_create("pages")
    os.write(fd, bytes(range(256)) * 64)
    for offset in (0, 4096, 8192):
        m = Memory.of_file(fd, offset, 1000)
        assert bytes(m.bytes) == (bytes(range(256)) * 64)[offset : offset + 1000]
        assert m.address == m.bytes.ctypes.data
        assert not m.bytes.flags.writeable
    os.close(fd)


def test_code_runs_from_a_copy_where_the_file_cannot_be_executed() -> None:
    made = link([to_object(scale_kernel(), ISA)])
    m = Memory._executable_copy(made.code)
    f = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)(
        m.address + made.symbols["scale"])
    x, w, y = np.ones(5, np.float32), np.arange(5, dtype=np.float32), np.zeros(5, np.float32)
    args = np.array([x.ctypes.data, w.ctypes.data, y.ctypes.data, 5], np.int64)
    f(args.ctypes.data, 0, 1, None)
    assert np.array_equal(y, 2 * x + w)
    with open("/proc/self/maps") as maps:
        line = next(l for l in maps if _within(m.address, l))  # the kernel may have joined it to its neighbour
    assert line.split()[1].startswith("r-x")
    assert len(linked().code) % 4096 == 0


def _within(address: int, line: str) -> bool:
    """Whether a line of /proc/self/maps covers an address."""
    low, high = (int(part, 16) for part in line.split()[0].split("-"))
    return low <= address < high
