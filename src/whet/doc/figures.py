"""The table of figures of a plan: from its measurement records and its build's search, each with its origin."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from whet.doc.parts import Mono, Table, visible
from whet.doc.words import text
from whet.measure import record as records_of
from whet.measure.record import Accuracy, Measurement, Quantile
from whet.measure.series import setting
from whet.report import rows

NONE = "–"


@dataclass(frozen=True)
class Found:
    """What a build's search measured of the plan that it chose."""

    seconds: float
    low: float | None
    high: float | None
    metric: str
    unit: str
    value: float | None
    value_low: float | None
    value_high: float | None
    loss: float | None
    bound: float | None
    samples: int
    date: str
    device: str


def of_this(records: Iterable[Measurement], plan: str) -> list[Measurement]:
    """The records of a plan, of each setting the newest, in the order of their settings."""
    newest: dict[str, Measurement] = {}
    for r in records:
        if r.plan is None or r.plan.hash != plan:
            continue
        key = setting(r).key
        if key not in newest or (r.date, identity(r)) > (newest[key].date, identity(newest[key])):
            newest[key] = r
    return sorted(newest.values(), key=lambda r: (r.backend, rows.shapes(r), r.threads or 0, r.date, identity(r)))


def identity(record: Measurement) -> str:
    """The first 12 digits of the SHA-256 of a record as whet writes it."""
    return hashlib.sha256(records_of.encode([record])).hexdigest()[:12]


def table(precision: str, found: Found | None, records: Sequence[Measurement], lang: str) -> Table:
    """A row for each figure; what nobody measured is said so."""
    def t(name: str, **values: object) -> str:
        return text(name, lang, **values)

    out: list[tuple[str, ...]] = [(t("this plan"), t("precision"), Mono(visible(precision)), NONE, t("from plan"))]
    if found is not None:
        out += [(t("at build"), *row) for row in _searched(found, lang)]
    for i, r in enumerate(records, 1):
        out += [(f"{t('measurement')} {i}", *row) for row in _measured(r, lang)]
    if not records:
        known = {"p50", "accuracy"} if found is not None else set()
        out += [(t("this plan"), t(name), t("not measured"), NONE, NONE)
                for name in ("p50", "p99", "throughput", "accuracy", "memory") if name not in known]
    return Table((t("of"), t("figure"), t("value"), t("interval"), t("origin")), tuple(out), 2)


def _searched(f: Found, lang: str) -> Iterator[tuple[str, str, str, str]]:
    origin = text("from search", lang, date=visible(f.date), device=visible(f.device))
    yield text("p50", lang), rows.seconds(f.seconds), _interval(f.seconds, f.low, f.high, lang), origin
    share = f.unit == "points"
    value = _amount(f.value, share) if f.value is not None else text("not measured", lang)
    said = text("of samples", lang, value=value, metric=visible(f.metric), samples=f.samples)
    yield text("accuracy", lang), said, _between(f.value_low, f.value_high, share, lang), origin
    if f.loss is not None:
        unit = visible(f.unit)
        bound = text("unbounded", lang)
        if f.bound is not None:
            bound = text("upper", lang, bound=f"{f.bound:.3g} {unit}".strip())
        yield text("loss", lang), f"{f.loss:.3g} {unit}".strip(), bound, origin


def _measured(r: Measurement, lang: str) -> Iterator[tuple[str, str, str, str]]:
    origin = text("from record", lang, record=identity(r), date=visible(r.date), device=visible(r.device.name))
    if r.source is not None:
        origin += "; " + text("by tool", lang, tool=visible(f"{r.source.tool} {r.source.version}".strip()))
    s = setting(r)
    threads = text("threads", lang, threads=r.threads) if r.threads else ""
    label = ", ".join(p for p in (rows.label(r), s.shapes, threads, s.load) if p)
    yield text("setting", lang), Mono(visible(label)), NONE, origin
    yield text("precision", lang), Mono(visible(r.precision)), NONE, origin
    absent = text("not measured", lang)
    for name, q in (("p50", r.latency and r.latency.p50), ("p99", r.latency and r.latency.p99)):
        yield (text(name, lang), rows.seconds(q.value) if q else absent, _quantile(q, lang) if q else NONE, origin)
    rate = f"{rows.significant(r.throughput)}/s" if r.throughput is not None else absent
    yield text("throughput", lang), rate, NONE, origin
    yield text("accuracy", lang), *_accuracy(r.accuracy, lang), origin
    yield text("memory", lang), rows.size(r.memory.peak_bytes) if r.memory else absent, NONE, origin
    if r.error is not None:
        yield text("error", lang), f"{r.error.value:.2g} ({visible(r.error.reference)})", NONE, origin
    if r.limit is not None:
        yield text("limit", lang), f"{r.limit.fraction:.1%}", NONE, origin
    for c in r.comparisons:
        peer = visible(f"{rows.NAMES.get(c.backend, c.backend)} {c.precision}")
        yield (text("against", lang, peer=peer), f"{c.ratio:.2f}x", f"{c.low:.2f} {text('to', lang)} {c.high:.2f}",
               origin)


def _quantile(q: Quantile, lang: str) -> str:
    return _interval(q.value, q.low, q.high, lang)


def _interval(value: float, low: float | None, high: float | None, lang: str) -> str:
    if low is None or high is None:
        return text("unbounded", lang)
    scale, unit = rows.unit(value)
    return f"{rows.significant(low * scale)} {text('to', lang)} {rows.significant(high * scale)} {unit}"


def _accuracy(a: Accuracy | None, lang: str) -> tuple[str, str]:
    if a is None:
        return text("not measured", lang), NONE
    share = a.judged is None or a.judged.unit == "points"
    said = text("of samples", lang, value=_amount(a.value, share), metric=visible(a.metric), samples=a.samples)
    return said, _between(a.low, a.high, share, lang)


def _amount(value: float, share: bool) -> str:
    return f"{value:.2%}" if share and -1 <= value <= 1 else f"{value:.5g}"


def _between(low: float | None, high: float | None, share: bool, lang: str) -> str:
    if low is None or high is None:
        return NONE
    return f"{_amount(low, share)} {text('to', lang)} {_amount(high, share)}"
