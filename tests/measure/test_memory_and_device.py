"""Memory is that of the work, not of the imports; the device is described by what is there."""

import re
import sys

import pytest

from whet.errors import InternalError
from whet.measure import peak_memory, this_device
from whet.measure.device import caches

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@linux
def test_peak_counts_what_was_freed_again_but_not_the_imports() -> None:
    found = peak_memory("import numpy", "import sys\na = numpy.ones(int(sys.argv[1]))\ndel a", ["4000000"])
    assert 31e6 < found.peak_bytes - found.idle_bytes < 45e6


@linux
def test_a_failing_child_tells_why() -> None:
    with pytest.raises(InternalError, match="ZeroDivisionError"):
        peak_memory("", "1 / 0")


def test_device_has_a_stable_fingerprint() -> None:
    device = this_device()
    assert re.fullmatch("[0-9a-f]{12}", device.fingerprint)
    assert device.cores >= 1


def test_caches_are_read_from_the_system(tmp_path) -> None:
    for i, (kind, level, size) in enumerate([("Data", 1, "48K"), ("Unified", 2, "2048K"), ("Odd", 3, "1M")]):
        folder = tmp_path / f"index{i}"
        folder.mkdir()
        for name, value in (("type", kind), ("level", level), ("size", size)):
            (folder / name).write_text(f"{value}\n")
    found = caches(tmp_path)
    assert [(c.kind, c.level, c.bytes) for c in found] == [("data", 1, 48 << 10), ("unified", 2, 2 << 20)]
