"""Two plans over the same samples: what a trial between them is judged by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from whet.errors import InputError
from whet.measure.metrics import by_name
from whet.measure.scores import Metric, Scores
from whet.plan import Plan
from whet.precision.data import Preprocess, open_data
from whet.precision.specs import of_plan
from whet.precision.trial import Evaluation

BATCH = 64  # samples of a run, where the plan takes so many


def evaluate(plans: Mapping[str, Plan], data: Any, metric: str = "top1", *, preprocess: Preprocess | None = None,
             labels: Any = None, output: str = "",
             progress: Callable[[str, int, int], None] = lambda what, done, total: None) -> dict[str, Scores]:
    """Scores of plans on the same samples, by name; the first plan is the reference of metrics that need no labels.

    data, preprocess, labels: as of `precision.open_data`. output: the one that is judged ("": the first). InputError
    where the plans take different inputs, or the data do not fit them.
    """
    wanted = {name: of_plan(plan) for name, plan in plans.items()}
    first, *others = wanted
    for name in others:
        for x, y in zip(wanted[first], wanted[name]):
            if (x.name, x.dtype, len(x.shape)) != (y.name, y.dtype, len(y.shape)):
                raise InputError("the plans take different inputs", where=f"{first}, {name}", why=f"{x.name} is {x}, "
                                 f"{y.name} is {y}", do="compare two versions that answer the same samples")
        if len(wanted[first]) != len(wanted[name]):
            raise InputError("the plans take different inputs", where=f"{first}, {name}",
                             why=f"{len(wanted[first])} and {len(wanted[name])} inputs")
    outputs: dict[str, np.ndarray] = {}
    judged: dict[str, Evaluation] = {}
    kind: Metric | None = None
    for name, plan in plans.items():
        extent = wanted[name][0].shape[0] if wanted[name] and wanted[name][0].shape else None
        batch = None if extent is None else max(extent.best, min(extent.most, BATCH))
        needs = by_name(metric, np.zeros((1, 2))).needs_labels
        given = open_data(data, wanted[name], preprocess=preprocess, batch=batch, labels=labels, need_labels=needs)
        judged[name] = Evaluation(given, output)

        def tell(done: int, name: str = name, total: int = given.samples or 0) -> None:
            progress(f"running {name}", done, total)

        outputs[name] = judged[name].outputs(plan, tell)
        kind = kind or by_name(metric, outputs[first])
    assert kind is not None
    return {name: judged[name].scores(kind, outputs[name], outputs[first]) for name in plans}
