"""Memory that native code uses: anonymous, or mapped from a plan."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os

import numpy as np

from whet.errors import PlanError

_HUGE = 2 << 20
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


class Memory:
    """A stretch of memory at `address` (page aligned), `size` bytes; unmapped by `close()` or with the object."""

    def __init__(self, mapping: mmap.mmap, size: int, skip: int = 0) -> None:
        self._map = mapping
        self.size = size
        self.bytes: np.ndarray = np.frombuffer(mapping, np.uint8, size, skip)
        self.address: int = self.bytes.ctypes.data
        self._held = False

    @classmethod
    def anonymous(cls, size: int, *, huge: bool = False) -> Memory:
        """Zeros, given by the kernel page by page as they are touched.

        `huge` asks for 2 MiB pages, for memory that will be touched whole (fewer TLB misses).
        PlanError if there is not so much address space.
        """
        huge = huge and size >= 2 * _HUGE
        try:
            mapping = mmap.mmap(-1, max(size, 1) + (_HUGE if huge else 0), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
                                | getattr(mmap, "MAP_NORESERVE", 0))
        except (OSError, OverflowError, ValueError) as e:
            raise PlanError(f"there is no memory for {size} bytes of activations", why=str(e),
                            do="build the plan with a smaller profile, or free memory") from e
        skip = 0
        if huge and hasattr(mmap, "MADV_HUGEPAGE"):
            start = np.frombuffer(mapping, np.uint8).ctypes.data
            skip = -start % _HUGE
            mapping.madvise(mmap.MADV_HUGEPAGE)
        return cls(mapping, size, skip)

    @classmethod
    def of_file(cls, fd: int, offset: int, size: int, *, executable: bool = False) -> Memory:
        """A stretch of a file, read only (and executable), at an offset that is a multiple of 4096."""
        if size == 0:
            return cls.anonymous(0)
        skip = offset % mmap.ALLOCATIONGRANULARITY
        prot = mmap.PROT_READ | (mmap.PROT_EXEC if executable else 0)
        try:
            return cls(mmap.mmap(fd, size + skip, mmap.MAP_PRIVATE, prot, offset=offset - skip), size, skip)
        except OSError as e:
            if executable and e.errno in (errno.EPERM, errno.EACCES):
                return cls._executable_copy(os.pread(fd, size, offset))
            raise PlanError("the plan cannot be mapped", why=e.strerror or str(e)) from e

    @classmethod
    def _executable_copy(cls, code: bytes) -> Memory:
        """Code of a file that lies on a file system mounted noexec. Never writable and executable at once."""
        mapping = mmap.mmap(-1, len(code), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        mapping.write(code)
        memory = cls(mapping, len(code))
        if _libc.mprotect(memory.address, len(code), mmap.PROT_READ | mmap.PROT_EXEC):
            raise PlanError("the plan's code cannot be made executable", why=os.strerror(ctypes.get_errno()),
                            do="put the plan on a file system that is not mounted noexec")
        return memory

    def hold(self) -> None:
        """Keep it mapped until `close`, even where the object goes or the interpreter ends: native threads use it."""
        self._held = True
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._map))

    def close(self) -> None:
        """Give the memory back. Nothing may use it any more."""
        del self.bytes
        if self._held:
            self._held = False
            ctypes.pythonapi.Py_DecRef(ctypes.py_object(self._map))
        with contextlib.suppress(BufferError):  # somebody holds a view: the memory goes with the last of them
            self._map.close()
