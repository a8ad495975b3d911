"""Running a plan over evaluation data: what it gives, and how fast it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from whet.errors import InputError
from whet.measure.scores import Metric, Scores
from whet.measure.stats import latency
from whet.measure.timing import alternate
from whet.plan import Plan
from whet.precision.batches import Data
from whet.precision.result import Timing
from whet.runtime import load


class Evaluation:
    """Samples that every plan is run over, in the same order. `output`: the one that is judged ("": the first)."""

    def __init__(self, data: Data, output: str = "") -> None:
        self.data, self.output = data, output
        self.labels: np.ndarray | None = None  # known after the first run

    def outputs(self, plan: Plan, progress: Callable[[int], None] = lambda samples: None) -> np.ndarray:
        """The judged output for all samples, [samples, ...]."""
        engine = load(plan)
        found: list[np.ndarray] = []
        labels: list[np.ndarray] = []
        for batch in self.data.batches():
            out = engine(batch.feeds)
            name = self.output or next(iter(out))
            if name not in out:
                raise InputError(f"the model has no output {name!r}", why=f"it has {', '.join(out)}",
                                 do="choose one of these")
            found.append(np.asarray(out[name])[:batch.count])
            if batch.labels is not None:
                labels.append(batch.labels)
            progress(batch.first + batch.count)
        if self.labels is None and labels:
            self.labels = np.concatenate(labels)
        return np.concatenate(found)

    def scores(self, metric: Metric, outputs: np.ndarray, reference: np.ndarray) -> Scores:
        """The metric of outputs: against labels, or against the reference plan's outputs."""
        return metric.evaluate(outputs, self.labels, reference)


def timed(plans: Mapping[str, Plan], feeds: Mapping[str, np.ndarray], seconds: float = 1.0) -> dict[str, Timing]:
    """Median seconds of one call of each plan on the same inputs, in turns."""
    engines = {name: load(plan) for name, plan in plans.items()}
    data = dict(feeds)
    series = alternate({name: partial(e, data) for name, e in engines.items()}, seconds=seconds, min_rounds=6)
    out = {}
    for name, s in series.items():
        p50 = latency(s.samples).p50
        out[name] = Timing(seconds=p50.value, low=p50.low, high=p50.high)
    return out
