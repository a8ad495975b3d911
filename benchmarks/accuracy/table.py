"""The accuracy table as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.tables import machine
from whet.measure import Measurement
from whet.measure.record import Accuracy
from whet.report import rows

LOSSES = Mapping[str, Mapping[str, Accuracy]]  # by model, then by calibration method


def markdown(records: Sequence[Measurement], titles: Mapping[str, str], methods: LOSSES | None = None) -> str:
    """One row for each model, backend and precision; then, where measured, int8 by calibration method."""
    out = [
        "# What a precision costs in accuracy", "",
        machine(records), "",
        "Accuracy with its 95 % interval; the loss against whet's fp32 on the same samples, in points, and at most how "
        "much is lost with 95 % confidence; `held` where that is below the budget (0.5 points of top-1, one hundredth "
        "of Spearman's coefficient). Latency: median at batch 1, all backends of a model in turns. Size: the plan "
        "with its weights and kernels. int8: every layer that can be, faster or not; best: the fastest plan found "
        "within the budget. `docs/accuracy.md` says how to read it; `python -m benchmarks.accuracy` makes it.", "",
        "| model | samples | precision | accuracy | loss | at most | verdict | latency | size |",
        "|---|---:|---|---:|---:|---:|---|---:|---:|"]
    for r in records:
        accuracy = r.accuracy
        assert accuracy is not None
        cells = [titles.get(r.model.name, r.model.name), f"{accuracy.samples:,}", rows.label(r), value(accuracy),
                 *judged(accuracy), rows.seconds(r.latency.p50.value) if r.latency else "-",
                 rows.size(r.plan.bytes) if r.plan else "-"]
        out.append(f"| {' | '.join(cells)} |")
    if methods:
        names = list(dict.fromkeys(m for losses in methods.values() for m in losses))
        out += ["", "## whet int8 by calibration method", "",
                "Points lost (at most, with 95 % confidence), every layer in int8 that can be.", "",
                f"| model | {' | '.join(names)} |", f"|---|{'---:|' * len(names)}"]
        for model, losses in methods.items():
            cells = ["-" if m not in losses else "{} ({})".format(*judged(losses[m])[:2]) for m in names]
            out.append(f"| {titles.get(model, model)} | {' | '.join(cells)} |")
    return "\n".join(out) + "\n"


def value(accuracy: Accuracy) -> str:
    """`96.31 % (95.96 to 96.63)`; `0.9987 (0.9985 to 0.9989)`."""
    if accuracy.metric.startswith("top"):
        scale, digits, sign = 100, 2, " %"
    else:
        scale, digits, sign = 1, 4, ""
    ends = ["?" if x is None else f"{scale * x:.{digits}f}" for x in (accuracy.low, accuracy.high)]
    return f"{scale * accuracy.value:.{digits}f}{sign} ({ends[0]} to {ends[1]})"


def judged(accuracy: Accuracy) -> tuple[str, str, str]:
    """Loss, its upper bound, verdict."""
    j = accuracy.judged
    if j is None:
        return "-", "-", "-"
    needs = f" (needs {j.needed:,})" if j.needed else ""
    return ("?" if j.loss is None else f"{j.loss:.2f}", "?" if j.upper is None else f"{j.upper:.2f}",
            f"{j.state}{needs}")
