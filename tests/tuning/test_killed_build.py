"""A build for a GPU that is ended in the middle: what it measured is known to the next one."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tuning.fake_gpu import Playing
from whet.ir.dtypes import DType
from whet.ir.graph import Graph, Value
from whet.ir.region import Region
from whet.lowering.storage import schedule
from whet.passes.fuse import form_regions
from whet.targets.cuda.gpu import typical
from whet.tuning import cache as caches
from whet.tuning import cuda
from whet.tuning.cache import TimingCache
from whet.tuning.found import Progress, Tuned
from whet.tuning.tuner import tune

PLAYS = {"a": [(us, "time slowly") for us in (5.0, 4.0, 7.0)], "b": [(us, "time slowly") for us in (4.2, 9.0)]}
EACH = 5  # candidates of a region
TARGET = Playing(replace(typical((9, 0)), name="NVIDIA H100", live=True), plays=PLAYS)
COUNT = 5


def regions() -> list[Region]:
    """Matmuls of different widths."""
    g = Graph("chain")
    v = Value("x", DType.F32, (8, 16))
    g.inputs = [v]
    sizes = [16, *range(20, 20 + COUNT)]
    for k, n in itertools.pairwise(sizes):
        v = g.add("matmul", [v, Value(f"w{n}", DType.F32, (k, n), data=np.ones((k, n), np.float32))])
    g.outputs = [v]
    return [l.region for l in schedule(form_regions(g), lambda region: "").launches]


def build(path: Path, progress: Callable[[Progress], None] = lambda p: None) -> Tuned:
    return tune(regions(), TARGET, TimingCache.open(path), 3, progress)


@pytest.fixture(autouse=True)
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Fake children, with two regions at a time, whose cache is written at once; what they time."""
    tests = str(Path(__file__).parents[1])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([tests, os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("FAKE_GPU_LOG", str(tmp_path / "log"))
    monkeypatch.setattr(cuda, "WORKER", "tuning.fake_gpu")
    monkeypatch.setattr(cuda, "cores", lambda: 1)
    monkeypatch.setattr(caches, "EVERY", 0.0)
    return tmp_path / "log"


def half_way(path: Path, p: Progress) -> bool:
    return p.total == COUNT * EACH and len(TimingCache.open(path).entries) >= 2


def timed(log: Path) -> Counter[str]:
    found = Counter(log.read_text().split())
    log.unlink()
    return found


def goes_on(path: Path, log: Path) -> None:
    """The build that was ended left some regions, the next one measures the others alone, and chooses likewise."""
    left = len(TimingCache.open(path).entries)
    assert 2 <= left < COUNT
    with cuda.children(TARGET):
        resumed = build(path)
        again = timed(log)
        assert len(again) == COUNT - left
        assert set(again.values()) == {EACH}
        whole = build(path.with_name("whole"))
        assert {s: (c.tactic, c.params) for s, c in resumed.choices.items()} == {
            s: (c.tactic, c.params) for s, c in whole.choices.items()}
        log.unlink()
        build(path)
        assert not log.exists(), "nothing is measured when everything is known"


def test_ctrl_c_keeps_the_regions_that_were_complete(tmp_path: Path, log: Path) -> None:
    def interrupted(p: Progress) -> None:
        if half_way(tmp_path / "timing.json", p):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "timing.json", interrupted)
    timed(log)
    goes_on(tmp_path / "timing.json", log)


def test_a_build_that_is_killed_keeps_them_too(tmp_path: Path, log: Path) -> None:
    path = tmp_path / "timing.json"
    script = textwrap.dedent(f"""
        import os
        from pathlib import Path
        from tuning import test_killed_build as t
        t.cuda.WORKER, t.cuda.cores, t.caches.EVERY = "tuning.fake_gpu", lambda: 1, 0.0
        def end(p):
            if t.half_way(Path({str(path)!r}), p):
                os.kill(os.getpid(), {int(signal.SIGKILL)})
        t.build(Path({str(path)!r}), end)
    """)
    # Its children may end a little later than it does.
    ended = subprocess.run([sys.executable, "-c", script], timeout=60, capture_output=True, text=True,
                           env={**os.environ, "FAKE_GPU_LOG": str(tmp_path / "other")})
    assert ended.returncode == -signal.SIGKILL
    assert not ended.stderr
    goes_on(path, log)
