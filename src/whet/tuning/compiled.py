"""Objects that this process compiled last: plans of much the same kernels (a search over precisions, a model that is
built again) compile them once."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict

from whet.targets.cpu.isa import Isa

MOST = 1024  # objects, of some tens of kilobytes

_objects: OrderedDict[tuple[Isa, bytes], bytes] = OrderedDict()
_lock = threading.Lock()


def find(isa: Isa, code: str) -> bytes | None:
    """The object of a kernel's LLVM IR, if it was compiled here."""
    with _lock:
        found = _objects.get(_key(isa, code))
        if found is not None:
            _objects.move_to_end(_key(isa, code))
        return found


def keep(isa: Isa, code: str, made: bytes) -> None:
    """For `find`; the object that was asked for longest ago goes when there are MOST of them."""
    with _lock:
        _objects[_key(isa, code)] = made
        while len(_objects) > MOST:
            _objects.popitem(last=False)


def _key(isa: Isa, code: str) -> tuple[Isa, bytes]:
    return isa, hashlib.sha256(code.encode()).digest()
