"""`whet compare --ab` of two plans: whet runs both, over samples with `--eval`, else in turns for their latency."""

from __future__ import annotations

from typing import TYPE_CHECKING

from whet.cli.ab_options import Margins, Options, labels, plain
from whet.errors import InputError

if TYPE_CHECKING:
    from whet.decide.trial import Rules
    from whet.decide.trial_record import Trial

SECONDS = 5.0  # that the slower plan is timed for


def accuracies(o: Options, margin: Margins, rules: Rules) -> Trial:
    """Both plans over the samples of `--eval`, judged by the metric."""
    from whet import measure
    from whet.cli.progress import build_progress
    from whet.compare.evaluated import evaluate
    from whet.decide import trial
    from whet.decide.outcomes import Outcomes
    from whet.plan import Plan
    from whet.precision.data import Preprocess

    if any(p.suffix.lower() != ".plan" for p in o.paths):
        raise InputError("--eval runs two plans", where=", ".join(map(str, o.paths)),
                         do="build them first: whet build model.onnx -o model.plan")
    if margin.seconds:
        plain(margin)
    first, second = labels(o.paths)
    with build_progress() as progress:
        scores = evaluate({n: Plan.open(p) for n, p in zip((first, second), o.paths)}, o.evaluation, o.metric,
                          progress=progress, preprocess=Preprocess.parse(o.preprocess) if o.preprocess else None)
    a, b = scores[first], scores[second]
    device = measure.this_device().name
    if a.outcomes is not None and b.outcomes is not None:
        plain(margin)
        return trial.shares(Outcomes(first, a.outcomes.astype(float), device=device),
                            Outcomes(second, b.outcomes.astype(float), device=device), rules, pair=True,
                            metric=a.metric.name, broken=b.broken)
    if rules.stopping != "once" or rules.confidence != 0.95:
        raise InputError(f"{a.metric.name} is judged once, at 95 %", why="its bounds are bootstrapped, and no boundary "
                         "is known for their looks", do="leave --stopping and --confidence, or choose top1")
    if margin.relative != (a.metric.unit == "percent"):
        raise InputError(f"the margin of {a.metric.name} is in {a.metric.unit or 'its own unit'}",
                         why=f"{o.margin} was given")
    return trial.from_verdict(measure.judge(a, b, margin.value), first, second, device=device, power=rules.power)


def latencies(o: Options, margin: Margins, rules: Rules) -> Trial:
    """Both plans in turns on the same random inputs, judged by a statistic of their calls' seconds."""
    from whet.cli.progress import build_progress
    from whet.compare.backends import open_whet
    from whet.decide import trial
    from whet.decide.outcomes import Outcomes
    from whet.measure import alternate, this_device
    from whet.plan import Plan
    from whet.tools.timing import random_feeds

    if not margin.relative and not margin.seconds:
        raise InputError("a trial of two plans is one of accuracy, which needs samples, or of latency, whose margin "
                         "has a unit", where=", ".join(map(str, o.paths)), why=f"{o.margin} was given",
                         do="give --eval DATA; or --margin 5% (of A's figure) or 2ms")
    if rules.stopping != "once":
        raise InputError("latencies that are measured now are judged once",
                         why="a later look would not begin with these",
                         do="leave --stopping, or give records of both: whet bench --json")
    plans = [Plan.open(p) for p in o.paths]
    opened = []
    try:
        with build_progress() as progress:
            feeds = random_feeds(plans[0])
            opened = [open_whet(plan, feeds) for plan in plans]
            progress("timing both in turns", 0, 0)
            series = alternate({"a": opened[0].run, "b": opened[1].run}, seconds=SECONDS)
    finally:
        for backend in opened:
            backend.close()
    a, b = (Outcomes(label, series[k].samples, device=this_device().name) for label, k in zip(labels(o.paths), "ab"))
    return trial.latencies([a], [b], rules, relative=margin.relative, statistic=o.statistic or "p99")
