"""The tables and sentences of the report of `whet compare`, as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING

from whet.report import rows
from whet.report.compare_words import label, said

if TYPE_CHECKING:
    from whet.compare.result import Difference, Result, Row
    from whet.measure.record import Judged, Measurement


REFERENCE, NO_BUILD = "reference", "no build"


@dataclass(frozen=True)
class Cell:
    """A figure, what stands below it, and the address that it is cited from."""

    text: str
    small: str = ""
    link: str = ""
    warn: bool = False


Rows = list[tuple[str, tuple[Cell, ...]]]


@dataclass(frozen=True)
class Table:
    """Headings and rows by option; the first `left` columns are words, and the last, if `remark`."""

    title: str
    head: tuple[str, ...]
    rows: Rows = field(default_factory=list)
    left: int = 1
    remark: bool = False

    def words(self, column: int) -> bool:
        """Whether a column is of words, not of figures."""
        return column < self.left or (self.remark and column == len(self.head) - 1)


def short(c: Result, row: Row) -> str:
    """The row's key without what is the same for all rows: `whet int8, batch 8`."""
    name = f"{rows.NAMES.get(row.backend, row.backend)} {row.precision}"
    if row.place != "here" and row.place not in name and " at " not in row.backend:
        name += f" on {row.place}"
    if len({r.batch for r in c.rows}) > 1:
        name += f", batch {row.batch}"
    if len({r.threads for r in c.rows if r.threads is not None}) > 1 and row.threads is not None:
        name += f", {row.threads} threads"
    return name


def summary(c: Result, lang: str = "en") -> tuple[list[str], list[tuple[str, list[str]]]]:
    """What the terminal shows: a line for each row."""
    base = c.baseline
    head = [label(t, lang) for t in ("option", "median", "P99", "throughput", "memory", "accuracy", "loss",
                                     "output error", "size", "build")]
    head += [label("against {b}", lang, b=kind(base)), label("verdict", lang), label("rank", lang)]
    ratios = {d.key: d for d in c.differences}
    ranks = {r.key: r for r in c.recommendation.ranking}
    body = []
    for r in c.rows:
        if r.record is None:
            body.append((r.key, [short(c, r), label("failed", lang), *[""] * (len(head) - 2)]))
            continue
        d = ratios.get(r.key)
        place = ranks[r.key].rank if r.key in ranks else None
        mine = f"{r.backend} {r.precision}" == base
        body.append((r.key, [
            short(c, r), *figures(r, r.record)[:8], build_time(r),
            f"{d.ratio:.2f}x" if d else "", label("baseline" if mine else d.verdict if d else "", lang),
            str(place or "")]))
    return head, body


def build_time(r: Row) -> str:
    """The seconds of a build."""
    assert r.record is not None
    seconds = r.record.cached_build_seconds if r.record.cached_build_seconds is not None else r.record.build_seconds
    if seconds is None and r.builds and r.place == "here":
        return NO_BUILD  # it loads the model as it is
    return rows.seconds(seconds) if seconds is not None else ""


def figures(r: Row, record: Measurement) -> list[str]:
    """Median, P99, throughput, memory, accuracy, loss, output error, size; empty where not measured."""
    row, judged = rows.row(record), record.accuracy.judged if record.accuracy else None
    memory = rows.size(max(0, record.memory.peak_bytes - record.memory.idle_bytes)) if record.memory else ""
    loss = "" if judged is None or judged.loss is None else f"{judged.loss:.2f}"
    if record.accuracy is not None and judged is None:
        loss = REFERENCE
    return [row.median, row.p99, row.throughput, memory, row.accuracy, loss, row.error,
            rows.size(r.size_bytes) if r.size_bytes else ""]


def origin(r: Row, lang: str) -> str:
    """`measured here`, `measured on jetson`."""
    if r.place == "here":
        return label("measured here", lang)
    return label("measured at {p}" if "://" in r.place else "measured on {p}", lang, p=r.place)


def procurement(c: Result, lang: str = "en") -> Table:
    """Every option by every column; each cell is measured or cited, or said to be not known."""
    names = ("median", "P99", "throughput", "memory", "accuracy", "loss", "output error", "size", "build", "load")
    cited_columns = list(dict.fromkeys(x.column for x in c.citations))
    extra = [n for n in cited_columns if n not in names]
    compared = next((r.record.error.reference for r in c.rows if r.record is not None and r.record.error), "")
    body: Rows = []
    for r in c.rows:
        if r.record is None:
            continue
        load = rows.seconds(r.record.load_seconds) if r.record.load_seconds is not None else ""
        found = dict(zip(names, [*figures(r, r.record), build_time(r), load]))
        found["output error"] = found["output error"] or (REFERENCE if f"{r.backend} {r.precision}" == compared else "")
        found = {n: label(v, lang) if v in (REFERENCE, NO_BUILD) else said(v, lang) for n, v in found.items()}
        cells = [Cell(said(short(c, r), lang), said(r.detail, lang))]
        for name in (*names, *extra):
            cells.append(_cell(c, (r.key, f"{r.backend} {r.precision}", r.backend), name, found.get(name, ""),
                               origin(r, lang), lang))
        body.append((r.key, tuple(cells)))
    own = {name for r in c.rows for name in (r.key, f"{r.backend} {r.precision}", r.backend)}
    for option in dict.fromkeys(x.option for x in c.citations if x.option not in own):
        body.append((option, (Cell(option), *(_cell(c, (option,), n, "", "", lang) for n in (*names, *extra)))))
    keep = [i for i, _ in enumerate((*names, *extra))
            if any(cells[i + 1].text != label("not known", lang) for _, cells in body)]
    head = [label(n, lang) for n in names] + extra
    return Table(label("Procurement", lang), (label("option", lang), *(head[i] for i in keep)),
                 [(key, (cells[0], *(cells[i + 1] for i in keep))) for key, cells in body])


def _cell(c: Result, options: Sequence[str], column: str, measured: str, where: str, lang: str) -> Cell:
    if measured:
        return Cell(measured, where)
    for option in options:
        for x in c.citations:
            if x.option == option and x.column == column:
                stale = f", {label('stale', lang)}" if x.stale else ""
                return Cell(x.value, f"{label('cited', lang)}: {x.source}, {x.date}{stale}", x.link, x.stale)
    return Cell(label("not known", lang))


def ranking(c: Result, lang: str = "en") -> Table:
    """Everything that was ranked, and why the rest was not."""
    names = ("option", "rank", "score", "first, measurements drawn", "first, weights drawn too", "mean rank", "state",
             "why")
    by_key = {r.key: r for r in c.rows}

    def number(value: float | None, form: str) -> Cell:
        return Cell("" if value is None else form.format(value))

    body: Rows = [(x.key, (Cell(short(c, by_key[x.key])), Cell(str(x.rank or "")), number(x.score, "{:.3f}"),
                     number(x.first, "{:.0%}"), number(x.first_weights, "{:.0%}"), number(x.mean_rank, "{:.1f}"),
                     Cell(label(x.state, lang)), Cell(label(x.why, lang)))) for x in c.recommendation.ranking]
    return Table(label("Ranking", lang), tuple(label(n, lang) for n in names), body, remark=True)


def differences(c: Result, lang: str = "en") -> Table:
    """Every ratio with its interval, its corrected p and what it says."""
    names = ("option", "ratio", "95 % interval", "p (Holm)", "verdict", "builds", "rounds")
    by_key = {r.key: r for r in c.rows}
    body: Rows = [(d.key, (Cell(short(c, by_key[d.key])), Cell(f"{d.ratio:.3f}"), Cell(f"{d.low:.3f} - {d.high:.3f}"),
                     Cell(f"{d.adjusted_p:.2g}" if d.adjusted_p >= 1e-4 else "< 0.0001"),
                     Cell(label(d.verdict, lang)), Cell(str(d.builds)), Cell(str(d.rounds)))) for d in c.differences]
    title = f"{label('Differences', lang)}: {label('against {b}', lang, b=kind(c.baseline))}"
    return Table(title, tuple(label(n, lang) for n in names), body)


def builds(c: Result, lang: str = "en") -> Table:
    """Each build's seconds and median, and how far the medians lie apart."""
    names = ("option", "builds", "plans", "build, each", "median, each", "spread")
    body: Rows = []
    for r in c.rows:
        if not r.builds:
            continue
        medians = [median(b.rounds) for b in r.builds]
        seconds = [rows.seconds(b.seconds) for b in r.builds if b.seconds is not None]
        plans = {b.plan for b in r.builds if b.plan}
        body.append((r.key, (Cell(short(c, r)), Cell(str(len(r.builds))), Cell(str(len(plans) or "")),
                             Cell(", ".join(seconds)), Cell(", ".join(map(rows.seconds, medians))),
                             Cell(f"{max(medians) / min(medians) - 1:.1%}" if len(medians) > 1 else ""))))
    return Table(label("Builds", lang), tuple(label(n, lang) for n in names), body)


def failures(c: Result, lang: str = "en") -> Table:
    """What failed, with type, reason and place."""
    body: Rows = [(r.key, (Cell(r.key), Cell(f"[{r.failure.code}] {r.failure.what}", r.failure.why),
                     Cell(r.failure.stack[-1] if r.failure.stack else ""))) for r in c.rows if r.failure is not None]
    return Table(label("What failed", lang), tuple(label(n, lang) for n in ("option", "what", "where")), body, left=3)


def kind(name: str) -> str:
    """`onnxruntime fp32` as `ONNX Runtime fp32`."""
    backend, _, precision = name.rpartition(" ")
    return f"{rows.NAMES.get(backend, backend)} {precision}"


def difference(c: Result, d: Difference, lang: str) -> str:
    """A difference as a sentence."""
    name, values = short(c, next(r for r in c.rows if r.key == d.key)), {
        "b": kind(c.baseline), "r": rows.significant(d.ratio), "lo": rows.significant(d.low),
        "hi": rows.significant(d.high)}
    if d.verdict == "undecided":
        return label("{key} against {b}: undecided ({r}, 95 % interval {lo} to {hi}).", lang, key=name, **values)
    if d.verdict == "no difference that matters":
        return label("{key} is not told apart from {b} by enough to matter.", lang, key=name, **values)
    return label("{key} is {v}: {r} times the speed of {b} (95 % interval {lo} to {hi}).", lang, key=name,
                 v=label(d.verdict, lang), **values)


def findings(c: Result, lang: str = "en") -> list[str]:
    """What was found, in sentences."""
    out = []
    if c.mixed_hardware:
        out.append(label("DIFFERENT HARDWARE: these rows were not measured on one machine, and differ in more than "
                         "their backends.", lang))
    fastest = max(c.differences, key=lambda d: d.ratio, default=None)
    for d in c.differences:
        if d.key == c.recommendation.chosen or (c.recommendation.chosen is None and d is fastest):
            out.append(difference(c, d, lang))
    unsure = sum(d.verdict == "undecided" for d in c.differences)
    if unsure:
        out.append(label("{n} of {m} differences are undecided: too few rounds, or too much noise.", lang, n=unsure,
                         m=len(c.differences)))
    seen: set[tuple[str, str]] = set()
    states: dict[str, list[tuple[str, Judged]]] = {}
    for r in c.rows:
        if r.failure is not None:
            out.append(label("{key} failed: {what}", lang, key=short(c, r), what=r.failure.what))
        if r.record is None:
            continue
        error, mine = r.record.error, f"{r.backend} {r.precision}"
        if error is not None and error.limit is not None and error.value > error.limit and ("wrong", mine) not in seen:
            seen.add(("wrong", mine))
            out.append(label("{key}: outputs are off by {x}, more than the {y} that its precision is allowed.", lang,
                             key=short(c, r), x=f"{error.value:.1e}", y=f"{error.limit:.0e}"))
        judged = r.record.accuracy.judged if r.record.accuracy else None
        if judged is not None and ("judged", mine) not in seen:
            seen.add(("judged", mine))
            states.setdefault(judged.state, []).append((kind(mine), judged))
    for state, found in states.items():
        unit = f" {label(found[0][1].unit, lang)}" if found[0][1].unit else ""
        losses = [j.loss for _, j in found if j.loss is not None]
        most = [j.upper for _, j in found if j.upper is not None]
        spread = "?" if not losses else f"{min(losses):.2f}" if max(losses) - min(losses) < 0.005 else \
            f"{min(losses):.2f} - {max(losses):.2f}"
        out.append(label("Accuracy is {s} for {names}: a loss of {l}, at most {u}, of the {b} that may be lost.", lang,
                         s=label(state, lang), names=", ".join(n for n, _ in found), l=f"{spread}{unit}",
                         u=f"{max(most):.2f}{unit}" if most else "?", b=f"{found[0][1].max_drop:g}{unit}"))
    return out


def tidy(c: Result) -> tuple[list[str], list[tuple[object, ...]]]:
    """One figure a line: option, where, column, value in SI units, its interval, unit, origin, date, link."""
    head = ["option", "backend", "precision", "batch", "threads", "device", "column", "value", "low", "high", "unit",
            "origin", "date", "link"]
    body: list[tuple[object, ...]] = []
    for r in c.rows:
        if r.record is None:
            continue
        record = r.record
        before = (r.key, r.backend, r.precision, r.batch, r.threads, record.device.name)
        after = ("measured here" if r.place == "here" else f"measured: {r.place}", record.date, "")
        latency, accuracy = record.latency, record.accuracy
        if latency is not None:
            for name in ("p50", "p90", "p99"):
                q = getattr(latency, name)
                body.append((*before, f"latency {name}", q.value, q.low, q.high, "s", *after))
        if accuracy is not None:
            body.append((*before, f"accuracy {accuracy.metric}", accuracy.value, accuracy.low, accuracy.high, "",
                         *after))
            if accuracy.judged is not None:
                body.append((*before, "loss", accuracy.judged.loss, None, accuracy.judged.upper, accuracy.judged.unit,
                             *after))
        singles: tuple[tuple[str, float | None, str], ...] = (
            ("throughput", record.throughput, "1/s"),
            ("output error", record.error.value if record.error else None, ""),
            ("memory", max(0, record.memory.peak_bytes - record.memory.idle_bytes) if record.memory else None, "bytes"),
            ("size", r.size_bytes, "bytes"), ("build", record.build_seconds, "s"),
            ("build, cached", record.cached_build_seconds, "s"), ("load", record.load_seconds, "s"))
        body += [(*before, name, value, None, None, unit, *after) for name, value, unit in singles if value is not None]
    for x in c.citations:
        body.append((x.option, "", "", None, None, "", x.column, x.value, None, None, "", f"cited: {x.source}", x.date,
                     x.link))
    return head, body
