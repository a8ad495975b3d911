"""The report of two plans of one model: HTML, Markdown, and rows for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whet.report import charts, rows
from whet.report.files import write_files
from whet.report.markdown import one_line
from whet.report.plan_diff_words import word

if TYPE_CHECKING:
    from whet.compare.diff import Form, Layer, PlanDiff

Table = tuple[str, list[str], list[list[str]]]  # title, headings, cells


def write(found: PlanDiff, encoded: bytes, folder: Path, lang: str = "en") -> tuple[Path, ...]:
    """Write plan-diff.html, plan-diff.md and plan-diff.json into a folder; `encoded` is the last of these. Each appears
    whole or not at all. OutputError if the folder cannot be written to."""
    names = ("plan-diff.html", "plan-diff.md", "plan-diff.json")
    write_files(dict(zip(names, (html(found, lang).encode(), markdown(found, lang).encode(), encoded))), folder)
    return tuple(folder / name for name in names)


def title(found: PlanDiff, lang: str = "en") -> str:
    """`What changed from A to B`."""
    return word("title", lang, a=found.a.label, b=found.b.label)


def findings(found: PlanDiff, lang: str = "en") -> list[str]:
    """What changed, in sentences."""
    a, b = found.a, found.b
    out = []
    if found.same_model is not True:
        of_a, of_b = (f"{s.model} {s.model_sha256[:12]}" for s in (a, b))
        out.append(word("unknown model", lang) if found.same_model is None else
                   word("other model", lang, a=of_a, b=of_b))
    if a.hash == b.hash:
        out.append(word("identical", lang))
    if found.speed is not None:
        t = found.speed
        name = "faster" if t.low > 1 else "slower" if t.high < 1 else "as fast"
        out.append(word(name, lang, a=a.label, b=b.label, ratio=f"{t.ratio:.2f}", low=f"{t.low:.2f}",
                        high=f"{t.high:.2f}", rounds=t.rounds))
    out.append(word("layers line", lang, n=len(found.layers), same=found.count("same"), changed=found.count("changed"),
                    only_a=found.count("only a"), only_b=found.count("only b"), a=a.label, b=b.label))
    if (a.bytes, a.weights) != (b.bytes, b.weights):
        out.append(word("size line", lang, a_size=rows.size(a.bytes), b_size=rows.size(b.bytes),
                        a_weights=rows.size(a.weights), b_weights=rows.size(b.weights)))
    if found.outputs:
        worst = max(found.outputs, key=lambda o: o.centred)
        name = "outputs same" if all(o.largest == 0 for o in found.outputs) else \
            "outputs far" if worst.centred >= 1e300 else "outputs line"
        out.append(word(name, lang) if name == "outputs same" else
                   word(name, lang, output=worst.name, worst=f"{worst.centred:.1e}"))
        if found.inputs:
            out.append(word("inputs", lang, inputs=found.inputs))
            if found.inputs.startswith("random") and "int8" in (*a.layers, *b.layers):
                out.append(word("random", lang))
    if found.not_run:
        out.append(word("not run", lang, why=found.not_run))
    return out


def tables(found: PlanDiff, lang: str = "en") -> list[Table]:
    """What differs, the layers that differ, the outputs; those that are not empty."""
    a, b = found.a, found.b
    labels = [a.label, b.label]
    out: list[Table] = []
    facts = [[word(name, lang), x, y] for name, x, y in _facts(found) if x != y]
    if facts:
        out.append((word("facts", lang), ["", *labels], facts))
    changed = [_row(layer, found, lang) for layer in found.layers if layer.state != "same"]
    if changed:
        out.append((word("layers", lang), [word("layer", lang), word("what", lang), *labels], changed))
    if found.outputs:
        head = [word(n, lang) for n in ("output", "relative", "centred", "largest", "agreement")]
        out.append((word("outputs", lang), head, [
            [o.name, _distance(o.relative), _distance(o.centred), _distance(o.largest),
             "" if o.agreement is None else f"{o.agreement:.1%}"] for o in found.outputs]))
    return out


def _facts(found: PlanDiff) -> list[tuple[str, str, str]]:
    def told(s: Any) -> list[tuple[str, str]]:
        return [("hash", s.hash[:16]), ("model", f"{s.model} {s.model_sha256[:12]}"), ("precision", s.precision),
                ("target", s.target), ("threads", str(s.threads)), ("bytes", rows.size(s.bytes)),
                ("weights", rows.size(s.weights)), ("code", rows.size(s.code)), ("arena", rows.size(s.arena)),
                ("launches", str(s.launches)),
                ("layer precisions", ", ".join(f"{n} {p}" for p, n in sorted(s.layers.items()))),
                ("profile", ", ".join(f"{n} {lo}..{best}..{hi}" for n, (lo, best, hi) in s.profile.items())),
                ("versions", ", ".join(f"{k} {v}" for k, v in s.versions.items())), ("signed_by", s.signed_by or "")]

    return [(name, x, y) for (name, x), (_, y) in zip(told(found.a), told(found.b))]


def _row(layer: Layer, found: PlanDiff, lang: str) -> list[str]:
    if layer.state in ("only a", "only b"):
        what = word(layer.state, lang, a=found.a.label, b=found.b.label)
    else:
        what = ", ".join(word(f, lang) for f in layer.changed)
    return [layer.name, what, _form(layer.a, layer), _form(layer.b, layer)]


def _form(form: Form | None, layer: Layer) -> str:
    """`conv_winograd, fp32, 12.3 us`; with the parameters where they alone differ."""
    if form is None:
        return ""
    parts = [form.tactic or form.kind, form.precision]
    if layer.a is not None and layer.b is not None and layer.changed == ("params",):
        keys = [k for k in {**layer.a.params, **layer.b.params} if layer.a.params.get(k) != layer.b.params.get(k)]
        parts.append(" ".join(f"{k}={form.params[k]}" for k in keys if k in form.params))
    if form.seconds is not None:
        parts.append(rows.seconds(form.seconds))
    return ", ".join(p for p in parts if p)


def _distance(x: float) -> str:
    return "inf" if x >= 1e300 else "0" if x == 0 else f"{x:.1e}"


def markdown(found: PlanDiff, lang: str = "en") -> str:
    """The report as Markdown."""
    out = [f"# {one_line(title(found, lang))}", "", *(f"- {one_line(line)}" for line in findings(found, lang))]
    for name, head, body in tables(found, lang):
        out += ["", f"## {name}", "", _line(head), "|---" * len(head) + "|", *(_line(row) for row in body)]
    return "\n".join(out) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(one_line(c).replace('|', chr(92) + '|') or '-' for c in cells)} |"


def html(found: PlanDiff, lang: str = "en") -> str:
    """The report as one page that fetches nothing."""
    style = resources.files("whet.report").joinpath("style.css").read_text("utf-8")
    items = "".join(f"<li>{escape(line)}</li>" for line in findings(found, lang))
    about = ", ".join(part for part in (found.a.model, found.device, found.date[:16].replace("T", " ")) if part)
    parts = [f'<!doctype html>\n<html lang="{lang}"><head><meta charset="utf-8">'
             '<meta name="viewport" content="width=device-width, initial-scale=1">'
             f"<title>{escape(title(found, lang))}</title><style>{style}</style></head><body><main>"
             f'<h1>{escape(title(found, lang))}</h1><p class="soft">{escape(about)}</p>'
             f'<ul class="findings">{items}</ul>']
    if found.speed is not None:
        s = found.speed
        scale, unit = rows.unit(max(s.a, s.b))
        drawn = charts.bars([charts.Bar(label, value * scale, rows.seconds(value), ours)
                             for label, value, ours in ((found.a.label, s.a, False), (found.b.label, s.b, True))],
                            word("speed", lang), unit)
        parts.append(f"<figure><figcaption>{escape(word('speed', lang))} <span>"
                     f"{escape(word('speed note', lang, unit=unit))}</span></figcaption>{drawn}</figure>")
    for name, head, body in tables(found, lang):
        top = "".join(f"<th>{escape(h)}</th>" for h in head)
        lines = "".join("<tr>" + "".join(f"<td>{escape(c) or '&ndash;'}</td>" for c in row) + "</tr>" for row in body)
        parts.append(f'<h2>{escape(name)}</h2><div class="table"><table><thead><tr>{top}</tr></thead>'
                     f"<tbody>{lines}</tbody></table></div>")
    return "".join(parts) + "</main></body></html>\n"
