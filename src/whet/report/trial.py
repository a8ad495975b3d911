"""The reports of A/B trials and of their designs: HTML with charts, Markdown, and rows for the terminal."""

from __future__ import annotations

from html import escape
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from whet.report import elements, rows, trial_chart
from whet.report.files import write_files
from whet.report.markdown import one_line
from whet.report.trial_words import TESTS, sentence, word

if TYPE_CHECKING:
    from whet.decide.trial_record import Arm, Design, Trial

Table = tuple[str, list[str], list[list[str]]]  # title, headings, cells


def write(found: Trial | Design, encoded: bytes, folder: Path, lang: str = "en") -> tuple[Path, ...]:
    """Write trial.html, trial.md and trial.json into a folder; `encoded` is the last of these. Each appears whole or
    not at all. OutputError if the folder cannot be written to."""
    names = ("trial.html", "trial.md", "trial.json")
    write_files(dict(zip(names, (html(found, lang).encode(), markdown(found, lang).encode(), encoded))), folder)
    return tuple(folder / name for name in names)


def is_trial(found: Trial | Design) -> bool:
    """A trial that was run, not a design."""
    return hasattr(found, "state")


def title(found: Trial | Design, lang: str = "en") -> str:
    """What it is about."""
    if is_trial(found):
        return word("title", lang, a=found.a.label, b=found.b.label)  # type: ignore[union-attr]
    return word("design title", lang, margin=amount(found.margin, found, lang))


def amount(value: float | None, found: Trial | Design, lang: str = "en", digits: int = 2) -> str:
    """A loss in its unit: `0.42 points`, `3.10 %`, `1.2 ms`."""
    if value is None:
        return word("unbounded", lang)
    if found.unit == "points":
        return f"{value:.{digits}f} {word('points', lang)}"
    if found.unit == "percent":
        return f"{value:.{digits}f} %"
    if _seconds(found):
        return ("-" if value < 0 else "") + rows.seconds(abs(value))
    return f"{value:.4g}"


def findings(found: Trial | Design, lang: str = "en") -> list[str]:
    """The verdict or the size, and what comes next, in sentences."""
    return _trial_findings(found, lang) if is_trial(found) else _design_findings(found, lang)  # type: ignore[arg-type]


def _trial_findings(t: Trial, lang: str) -> list[str]:
    margin, bounds = amount(t.margin, t, lang), {"lower": amount(t.lower, t, lang), "upper": amount(t.upper, t, lang)}
    gained = t.state == "held" and t.upper is not None and t.upper < 0
    lost = t.loss is None or t.loss >= 0
    out = [word("gained" if gained else t.state, lang, b=t.b.label, margin=margin,
                gain=amount(-t.upper if gained and t.upper is not None else None, t, lang), **bounds),
           word("figures" if lost else "figures gained", lang, metric=t.metric, value_a=figure(t.a, t),
                value_b=figure(t.b, t), loss=amount(abs(t.loss) if t.loss is not None else None, t, lang))]
    if t.pairs is not None:
        p = t.pairs
        out.append(word("answered", lang, n=f"{t.n:,.0f}", discordant=f"{p.lost + p.gained:,}", lost=f"{p.lost:,}",
                        gained=f"{p.gained:,}"))
    if t.state == "undecided":
        going = t.needed is not None and t.needed == t.planned and t.stopping != "once"
        name = "next none" if t.needed is None else "next planned" if going else "next"
        out.append(word(name, lang, needed=f"{t.needed or 0:,}", more=f"{t.more or 0:,}",
                        samples=word(_samples(t.kind), lang)))
    out.append(word("sure", lang, alpha=f"{100 * (1 - t.confidence):.3g} %"))
    return out


def _design_findings(d: Design, lang: str) -> list[str]:
    out = [word("design n", lang, n=f"{d.n:,}", samples=word(_samples(d.kind), lang), margin=amount(d.margin, d, lang),
                power=f"{100 * d.power:.3g} %", loss=amount(d.loss, d, lang) if d.loss else word("nothing", lang))]
    if d.ratio != 1:
        out.append(word("design n b", lang, n=f"{round(d.n * d.ratio):,}", ratio=f"{d.ratio:g}"))
    if d.stopping == "always-valid":
        out.append(word("design always", lang, inflation=f"{d.inflation:.2f}"))
    elif d.stopping != "once":
        out.append(word("design looks", lang, looks=len(d.looks), inflation=f"{d.inflation:.3f}"))
    for name, value in d.assumed.items():
        shown = f"{100 * value:.3g} %" if name in ("discordance", "share") else f"{value:.4g}"
        out.append(word(f"assumed {name}", lang, value=shown))
    return out


def _samples(kind: str) -> str:
    return "samples" if kind in ("paired shares", "paired means", "metric") else \
        "runs each" if kind == "runs" else "samples each"


def notes(found: Trial | Design, lang: str = "en") -> list[str]:
    """What to know beside it."""
    said = [sentence(n, lang) for n in found.notes] if is_trial(found) else []  # type: ignore[union-attr]
    return [*said, word(f"stopping {found.stopping}", lang)]


def figure(arm: Arm, t: Trial) -> str:
    """A version's figure: a share in percent, a latency in its unit."""
    return _figure(arm.value, t)


def _figure(value: float, t: Trial) -> str:
    if t.unit == "points":
        return f"{100 * value:.2f} %"
    return rows.seconds(value) if _seconds(t) and value >= 0 else f"{value:.4g}"


def _seconds(found: Trial | Design) -> bool:
    return getattr(found, "metric", "").startswith("latency")


def tables(found: Trial | Design, lang: str = "en") -> list[Table]:
    """All tables that are not empty."""
    out: list[Table] = []
    if is_trial(found):
        t: Trial = found  # type: ignore[assignment]
        head = [word(w, lang) for w in ("version", "n", "figure", "interval", "device")]
        out.append((word("versions", lang), head, [
            [x.label, f"{x.n:,}", figure(x, t),
             "" if x.low is None or x.high is None else f"{_figure(x.low, t)} – {_figure(x.high, t)}", x.device]
            for x in (t.a, t.b)]))
        beside = [[f"{TESTS[s.method]}, 95 %", amount(s.low, t, lang), amount(s.high, t, lang), "", ""]
                  for s in t.intervals]
        beside += [[TESTS[x.name], "", "", "" if x.statistic is None else f"{x.statistic:.3f}", _p(x.p)]
                   for x in t.tests]
        if beside:
            head = [word(w, lang) for w in ("method", "low", "high", "statistic", "p")]
            out.append((word("tests", lang), head, beside))
    else:
        head = [word(w, lang) for w in ("n", "power", "least margin")]
        out.append((word("sizes", lang), head, [[f"{s.n:,}", f"{100 * s.power:.1f} %", amount(s.margin, found, lang, 3)]
                                                for s in found.sizes]))  # type: ignore[union-attr]
    if any(x.boundary is not None for x in found.looks):
        head = [word(w, lang) for w in ("look", "n", "fraction", "boundary", "spent")]
        out.append((word("looks", lang), head, [
            [str(i + 1), f"{x.n:,.0f}", f"{100 * x.fraction:.1f} %", "" if x.boundary is None else f"{x.boundary:.3f}",
             "" if x.spent is None else f"{100 * x.spent:.3g} %"] for i, x in enumerate(found.looks)]))
    return out


def _p(p: float) -> str:
    return f"{p:.4f}" if p >= 1e-4 else f"{p:.1e}"


def markdown(found: Trial | Design, lang: str = "en") -> str:
    """The report as Markdown."""
    out = [f"# {one_line(title(found, lang))}", "", word(found.kind, lang), "",
           *(f"- {one_line(line)}" for line in findings(found, lang))]
    for name, head, body in tables(found, lang):
        out += ["", f"## {name}", "", f"| {' | '.join(head)} |", "|---|" + "---:|" * (len(head) - 1)]
        out += [f"| {' | '.join(one_line(c).replace('|', chr(92) + '|') or '-' for c in row)} |" for row in body]
    out += ["", f"## {word('notes', lang)}", "", *(f"- {one_line(n)}" for n in notes(found, lang)), "",
            f"## {word('how', lang)}", "", word(f"how {found.kind}", lang)]
    return "\n".join(out) + "\n"


def html(found: Trial | Design, lang: str = "en") -> str:
    """The report as one page that fetches nothing."""
    style = resources.files("whet.report").joinpath("style.css").read_text("utf-8")
    parts = [f'<!doctype html>\n<html lang="{lang}"><head><meta charset="utf-8">'
             '<meta name="viewport" content="width=device-width, initial-scale=1">'
             f"<title>{escape(title(found, lang))}</title><style>{style}{trial_chart.STYLE}</style></head><body><main>"
             f"<h1>{escape(title(found, lang))}</h1>"
             f'<p class="soft">{escape(word(found.kind, lang))}</p>', elements.findings(findings(found, lang))]
    if is_trial(found):
        drawn = trial_chart.losses(_spans(found, lang), found.margin, word("chart loss", lang),  # type: ignore[arg-type]
                                   lambda v: amount(v, found, lang))
        name = "chart loss"
    else:
        drawn = trial_chart.power([(s.n, s.power) for s in found.sizes], found.power,  # type: ignore[union-attr]
                                  word("chart power", lang), word("n", lang))
        name = "chart power"
    if drawn:
        parts.append(elements.figure(word(name, lang), word(f"{name} note", lang), drawn))
    for heading, head, body in tables(found, lang):
        parts += [f"<h2>{escape(heading)}</h2>", elements.table(head, body)]
    parts += [f"<h2>{escape(word('notes', lang))}</h2>", elements.findings(notes(found, lang)),
              f"<h2>{escape(word('how', lang))}</h2><p>{escape(word(f'how {found.kind}', lang))}</p>"]
    return "".join(parts) + "</main></body></html>\n"


def _spans(t: Trial, lang: str) -> list[trial_chart.Span]:
    spans = [trial_chart.Span(word("decides", lang), t.loss, t.lower, t.upper, True)]
    return spans + [trial_chart.Span(f"{TESTS[s.method]}, 95 %", t.loss, s.low, s.high, False) for s in t.intervals]
