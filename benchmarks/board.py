"""How soon the board shows something, over a store of a million records.

    python benchmarks/board.py                          makes the store first, which takes a while
    python benchmarks/board.py --store FILE             one that is there; it is made there if it is not
    python benchmarks/board.py --records 20000          a small one

Nine tenths of the records are those of `benchmarks/store.py`: 1,000 settings of 50 models, a day apart. The last tenth
is one setting measured every five minutes, with three changes of level in it: a long history.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import chain
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import msgspec
import numpy as np
from rich.progress import Progress

from benchmarks.store import records as of_the_store
from whet.measure import stats, this_device
from whet.measure.record import Measurement, Model
from whet.store import Store

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
START = datetime(2022, 1, 1, tzinfo=UTC)
LONG = "nightly"  # the model with the long history
LEVELS = (0.0125, 0.0110, 0.0117, 0.0074)  # seconds; the history changes from one to the next


def long_history(count: int) -> Iterator[Measurement]:
    """One setting, every five minutes."""
    rng = np.random.default_rng(2)
    samples = 0.01 * rng.lognormal(0, 0.04, 32)
    latency, levels = stats.latency(samples), np.repeat(LEVELS, -(-count // len(LEVELS)))
    base = Measurement(date="", model=Model(name=LONG, sha256="5" * 64), backend="whet", precision="bf16", threads=2,
                       shapes={"input": (8, 3, 224, 224)}, device=this_device(), versions={"whet": "0.1.0"})
    for i in range(count):
        factor = float(levels[i] / 0.01 * rng.lognormal(0, 0.03))
        moved = msgspec.structs.replace(
            latency, mean=latency.mean * factor, minimum=latency.minimum * factor, samples=(),
            **{name: _times(getattr(latency, name), factor) for name in ("p50", "p90", "p99")})
        yield msgspec.structs.replace(base, latency=moved, throughput=8 / moved.p50.value,
                                      date=(START + timedelta(minutes=5 * i)).isoformat())


def _times(quantile: msgspec.Struct, factor: float) -> msgspec.Struct:
    return msgspec.structs.replace(quantile, **{name: getattr(quantile, name) * factor
                                                for name in ("value", "low", "high")
                                                if getattr(quantile, name) is not None})


def fill(place: str, count: int) -> None:
    """A store of `count` records."""
    long = count // 10
    with Store(place) as store, Progress() as bar:
        task = bar.add_task("filling the store", total=count)
        store.add(chain(of_the_store(count - long), long_history(long)),
                  progress=lambda done: bar.update(task, completed=done))


if __name__ == "__main__":
    fill(sys.argv[1], int(sys.argv[2]))
