"""`whet compare --ab` of measurement records: latencies, or the accuracies that records state."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from whet.cli.ab_options import Margins, Options, labels, plain, same_hardware
from whet.errors import InputError

if TYPE_CHECKING:
    from whet.decide.trial import Rules
    from whet.decide.trial_record import Note, Trial
    from whet.measure.record import Measurement


def judge(a: list[Measurement], b: list[Measurement], o: Options, margin: Margins, rules: Rules) -> Trial:
    """Latencies, or accuracies with `--statistic accuracy`. InputError where the versions were not measured alike."""
    from whet.decide import trial
    from whet.decide.outcomes import Outcomes
    from whet.decide.trial_record import Note

    if o.higher_better:
        raise InputError("of latencies lower is better", why="--higher-better was given", do="leave it out")
    x, y = chosen(a, o, o.paths[0]), chosen(b, o, o.paths[1])
    both = [*x, *y]
    same_hardware({device(r) for r in both} if len({r.device.fingerprint for r in both}) > 1 else set(), o)
    if len({r.device.fingerprint for r in both}) > 1 and len({device(r) for r in both}) == 1 and not o.mixed_hardware:
        raise InputError("the versions ran on different hardware", why="the fingerprints differ: "
                         f"{', '.join(sorted({r.device.fingerprint for r in both}))}",
                         do="run both on one machine, or say --mixed-hardware (the result is labelled)")
    for what, told in (("shapes", {str(r.shapes) for r in both}), ("threads", {str(r.threads) for r in both}),
                       ("load", {f"{r.load.pattern} {r.load.concurrency}" for r in both})):
        if len(told) > 1:
            raise InputError(f"the versions were measured with different {what}", why="; ".join(sorted(told)),
                             do="measure both alike")
    if o.statistic == "accuracy":
        return _accuracies(x, y, o, margin, rules)
    if not margin.relative and not margin.seconds:
        raise InputError("a margin of latency needs its unit", why=f"{o.margin} was given",
                         do="give --margin 5% (of A's figure) or --margin 2ms")
    notes: list[Note] = []
    sides = []
    for path, records in zip(labels(o.paths), (x, y)):
        runs = []
        for r in records:
            if r.latency is None or not r.latency.samples:
                raise InputError("a record without samples of latency", where=path,
                                 do="measure again: whet bench --json")
            label = f"{path} ({r.backend} {r.precision})"
            runs.append(Outcomes(label, np.asarray(r.latency.samples), device=device(r)))
            if r.latency.count > len(r.latency.samples):
                notes.append(Note(code="thinned", values={"label": label, "n": f"{r.latency.count:,}"}))
        sides.append(runs)
    if len({(r.date, r.load.alternating) for r in both}) > 1 or len(both[0].load.alternating) < 2:
        notes.append(Note(code="apart"))
    if device(x[0]) != device(y[0]) and min(len(x), len(y)) > 1:
        notes.append(Note(code="mixed-hardware", values={"a": device(x[0]), "b": device(y[0])}))
    return trial.latencies(sides[0], sides[1], rules, relative=margin.relative, statistic=o.statistic or "p99",
                           notes=notes)


def device(r: Measurement) -> str:
    return ", ".join([r.device.name, *(g.name for g in r.device.gpus)])


def chosen(records: list[Measurement], o: Options, path: Path) -> list[Measurement]:
    """The records of one backend in one precision."""
    found = [r for r in records if o.backend in ("", r.backend) and o.precision in ("", r.precision)]
    if not o.backend and any(r.backend == "whet" for r in found):
        found = [r for r in found if r.backend == "whet"]
    kinds = sorted({f"{r.backend} {r.precision}" for r in found})
    if len(kinds) != 1:
        every = sorted({f"{r.backend} {r.precision}" for r in records})
        raise InputError("which of the records are the version?", where=str(path),
                         why=f"there are {', '.join(every) or 'none'}", do="choose: --backend whet --precision bf16")
    return found


def _accuracies(a: list[Measurement], b: list[Measurement], o: Options, margin: Margins, rules: Rules) -> Trial:
    import msgspec

    from whet.decide import trial
    from whet.decide.outcomes import Outcomes
    from whet.decide.trial_record import Note

    plain(margin)
    sides = []
    for path, records in zip(labels(o.paths), (a, b)):
        told = records[-1].accuracy
        if told is None or not 0 <= told.value <= 1:
            raise InputError("the record states no accuracy that is a share", where=path,
                             do="give outcomes by sample, or plans with --eval DATA")
        right = np.zeros(told.samples)
        right[:round(told.value * told.samples)] = 1
        sides.append((told.metric, Outcomes(path, right, device=device(records[-1]))))
    (metric, x), (other, y) = sides
    if metric != other:
        raise InputError("the records state different metrics", why=f"{metric} and {other}")
    found = trial.shares(x, y, rules, pair=False, ratio=None, metric=metric)
    return msgspec.structs.replace(found, notes=(*found.notes, Note(code="accuracy-of-records")))
