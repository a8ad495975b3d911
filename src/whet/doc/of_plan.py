"""From a plan, and measurement records of it, to a document."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whet.command import DEFAULTS, build_command
from whet.config.builds import Build
from whet.config.meanings import MEANINGS
from whet.doc import card, figures, flow
from whet.doc.card import Card
from whet.doc.parts import LONGEST_COMMAND, Block, Command, Document, Items, Mono, Part, Table, Text, listed, visible
from whet.doc.words import text
from whet.errors import PlanFormatError
from whet.measure.record import Measurement
from whet.plan import Plan
from whet.plan.built import Built, of
from whet.report import rows
from whet.report.words import LANGUAGES

__all__ = ["Card", "Facts", "facts", "option_rows", "plan_document"]

# Options that mean something only where another is given.
_WITH = {"calib_method": ("calib", "calib_cache"), "calib_samples": ("calib",), "preprocess": ("calib", "eval"),
         "activations": ("calib", "calib_cache"), "prepare": ("calib", "calib_cache"), "metric": ("eval", "max_drop"),
         "weight_group": ("weights",), "hardware_compat": (), "isa": ()}
_PLACES = ("output", "report", "dump")
Row = tuple[str, ...]


@dataclass(frozen=True)
class Facts:
    """What a plan says of itself: `Plan.summary`, its evidence, and how it was built."""

    summary: Mapping[str, Any]
    evidence: Mapping[str, Any]
    built: Built | None


def facts(plan: Plan) -> Facts:
    """The facts of an open plan. PlanFormatError where its record of its build cannot be read."""
    return Facts(plan.summary(), plan.evidence, of(plan.evidence, str(plan.path or "")))


def plan_document(told: Facts, records: Iterable[Measurement] = (), lang: str = "en",
                  given: Card | None = None) -> Document:
    """The document of a plan. `given` makes it a model card.

    InputError for an unknown language or card; PlanFormatError for a plan whose manifest lacks what documents need.
    """
    text("none", lang)
    mine = figures.of_this(records, told.summary["hash"])
    try:
        found = _found(told)
        blocks = (_head(told, lang), _configuration(told, lang), _stages(told, lang),
                  _figures(told, found, mine, lang), _calibration(told, lang), _reproduction(told, lang))
        front = card.front(told.summary, found, mine, given) if given is not None else None
        return Document(_title(told), lang, blocks, front, given.pairs() if given is not None else ())
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as e:
        raise PlanFormatError("the plan's manifest lacks what a document needs", why=f"{type(e).__name__}: {e}",
                              do="build the plan anew") from e


def _title(told: Facts) -> str:
    model = told.built.asked.get("model") if told.built is not None else None
    return visible(Path(str(model)).stem if model else told.summary["model"]["name"] or "plan")


def _target(s: Mapping[str, Any], lang: str) -> str:
    device = s["target"].get("device")
    if device:
        return visible(f"{device['name'] or 'GPUs'} ({s['target']['isa']})")
    return visible(f"{s['target']['arch']} {s['target']['isa']}, {text('threads', lang, threads=s['threads'])}")


def _head(told: Facts, lang: str) -> Block:
    s = told.summary
    model = (told.built.asked.get("model") if told.built is not None else None) or s["model"]["name"]
    about = text("about", lang, model=visible(model), version=visible(s["whet"]), target=_target(s, lang),
                 compute=visible(s["precision"]["compute"]))
    return Block("head", _title(told), (Text(about),), 1)


def option_rows(asked: Mapping[str, Any], lang: str, objects: Sequence[str] = ()) -> Iterator[Row]:
    """The rows of the options of a build: those that were given, and the defaults that mattered."""
    for name in Build.__struct_fields__:
        needs = _WITH.get(name)
        given = name in asked or name in objects
        if not given and (name not in DEFAULTS or name in _PLACES or (needs is not None and not any(
                n in asked or n in objects for n in needs))):
            continue
        value = text("object", lang) if name in objects else _value(asked.get(name, DEFAULTS.get(name)), lang)
        if name == "precision" and not given:
            value = "fp32"
        if not given:
            value = f"{value} ({text('default', lang)})" if value else text("none", lang)
        yield Mono(name), Mono(value) if given and name not in objects else value, \
            MEANINGS[name][LANGUAGES.index(lang)]


def _value(value: Any, lang: str) -> str:
    if isinstance(value, bool):
        return text("yes" if value else "no", lang)
    if isinstance(value, Mapping):
        return listed((visible(f"{k}: {v}") for k, v in value.items()), text("all", lang))
    if isinstance(value, (list, tuple)):
        inside = ("; ".join(f"{k}: {v}" for k, v in x.items()) if isinstance(x, Mapping) else x for x in value)
        return listed(map(visible, inside), text("all", lang))
    return visible(value)


def _configuration(told: Facts, lang: str) -> Block:
    built = told.built
    parts: list[Part] = []
    options: list[Row] = []
    if built is None:
        parts.append(Text(text("asked unknown", lang)))
    else:
        options = list(option_rows(built.asked, lang, built.objects))
        if built.objects:
            parts.append(Text(text("objects", lang, names=listed(map(visible, built.objects)))))
    columns = (text("parameter", lang), text("value", lang), text("meaning", lang))
    return Block("configuration", text("configuration", lang),
                 (*parts, Table(columns, (*options, *_facts_rows(told.summary, lang)))))


def _facts_rows(s: Mapping[str, Any], lang: str) -> Iterator[Row]:
    def row(name: str, value: object, meaning: str) -> Row:
        return Mono(visible(name)), Mono(visible(value)), text(meaning, lang)

    def size(name: str, count: int) -> Row:
        said = text("size", lang, bytes=count, short=rows.size(count))
        return Mono(name), said, text(name, lang)

    target, told = s["target"], s["precision"]
    yield row("plan.hash", s["hash"], "plan.hash")
    yield row("model.name", s["model"]["name"], "model.name")
    yield row("model.sha256", s["model"]["sha256"] or "unknown", "model.sha256")
    for name, version in {"whet": s["whet"], **s["versions"]}.items():
        yield row(f"version.{name}", version, "version")
    yield row("target.arch", target["arch"], "arch")
    yield row("target.isa", target["isa"], "vectors")
    if target["features"]:
        yield row("target.features", listed(target["features"]), "features")
    if device := target.get("device"):
        yield row("target.device", device["name"] or target["isa"], "device")
        if device.get("driver"):
            yield row("target.driver", device["driver"], "driver")
        for name in device.get("uses", ()):
            yield row(f"library.{name}", device["libraries"].get(name, ""), "library")
    for kind in ("input", "output"):
        for t in s[f"{kind}s"][:100]:
            yield row(f"{kind}.{t['name']}", f"{t['dtype']} {'x'.join(map(str, t['shape'])) or 'scalar'}", kind)
    for name, r in list(s["profile"].items())[:100]:
        said = text("profile value", lang, low=r["min"], opt=r["opt"], high=r["max"])
        yield Mono(visible(f"profile.{name}")), said, text("profile", lang)
    if s["profiles"] > 1:
        yield row("profiles.count", s["profiles"], "profile.count")
    for state in s["states"][:100]:
        yield row(f"state.{state['input']}", state["output"], "state")
    yield row("precision.compute", told["compute"], "compute")
    yield row("precision.allowed", listed(told["allowed"]), "allowed")
    if told.get("note"):
        yield row("precision.note", told["note"], "note")
    for name, count in sorted(_by_precision(s["layers"]).items()):
        yield row(f"layers.{name}", count, "layers")
    for name, count in sorted(s["steps"].items()):
        yield row(f"steps.{name}", count, "step")
    for p in s["plugins"][:100]:
        yield row(f"plugin.{p['domain']}.{p['name']}", f"{p['package']} {p['version']}", "plugin")
    if s.get("untuned"):
        yield row("untuned", s["untuned"], "untuned")
    yield size("bytes.weights", s["memory"]["weights"])
    yield size("bytes.code", s["code_bytes"])
    yield size("bytes.activations", s["memory"]["arena"])
    yield size("bytes.unshared", s["memory"]["sum_of_temporaries"])
    yield size("bytes.scratch", s["scratch_bytes"])
    yield row("signed_by", s["signed_by"] or text("none", lang), "signed_by")


def _by_precision(layers: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    out: dict[str, int] = {}
    for l in layers:
        if l.get("precision"):
            out[l["precision"]] = out.get(l["precision"], 0) + 1
    return out


def _stages(told: Facts, lang: str) -> Block:
    recorded = told.built is not None and bool(told.built.stages)
    note = Text(text("flow note" if recorded else "flow old", lang))
    return Block("stages", text("stages", lang),
                 (note, flow.of_plan(told.summary, told.evidence, told.built, lang)))


def _found(told: Facts) -> figures.Found | None:
    """What the search measured of the plan that it chose."""
    result = told.evidence.get("precision")
    if not result or result.get("chosen") is None:
        return None
    c = result["candidates"][result["chosen"]]
    return figures.Found(
        float(c["latency"]["seconds"]), c["latency"].get("low"), c["latency"].get("high"), result["metric"],
        result.get("unit", "points"), c.get("value"), c.get("value_low"), c.get("value_high"), c.get("loss"),
        c.get("bound"), int(result["samples"]), result["date"], result["device"]["name"])


def _figures(told: Facts, found: figures.Found | None, records: Sequence[Measurement], lang: str) -> Block:
    made = figures.table(told.summary["precision"]["compute"], found, records, lang)
    note = Text(text("newest" if records else "no records", lang))
    return Block("figures", text("figures", lang), (made, note))


def _calibration(told: Facts, lang: str) -> Block:
    s = told.summary["precision"]
    seen = s.get("calibration")
    out: list[Row] = []

    def row(name: str, value: object, meaning: str, **values: object) -> None:
        out.append((Mono(visible(name)), Mono(visible(value)), text(meaning, lang, **values)))

    for name in ("method", "samples", "batches", "sha256", "preprocessing"):
        if seen and seen.get(name) not in (None, ""):
            row(name, seen[name], f"c.{name}")
    for step in s.get("prepared", ()):
        row(f"prepared.{step['step']}", step["changed"], "c.prepared")
    for codes in (c for c in ("int8", "fp8") if c in s):
        row(f"{codes}.layers", listed(s[codes]["layers"], text("all", lang)) or text("none", lang), "c.quantized",
            codes=codes)
        for name, why in list(s[codes]["kept"].items())[:100]:
            row(f"{codes}.kept.{name}", why, "c.kept")
    for name, why in list(s.get("fp16", {}).get("kept", {}).items())[:100]:
        row(f"fp16.kept.{name}", why, "c.fp16")
    if s.get("verdict"):
        row("verdict", s["verdict"]["sentence"], "c.verdict")
    columns = (text("parameter", lang), text("value", lang), text("meaning", lang))
    parts: list[Part] = [Table(columns, tuple(out))] if out else []
    if seen is None:
        parts += [] if out else [Text(text("not calibrated", lang))]
    else:
        lines = [visible(line) for line in (*seen.get("warnings", ()), *seen.get("coverage", ()))]
        parts.append(Text(text("seen" if lines else "nothing to say", lang)))
        parts += [Items(tuple(lines[:100]))] if lines else []
    return Block("calibration", text("calibration", lang), tuple(parts))


def _reproduction(told: Facts, lang: str) -> Block:
    built, device = told.built, told.summary["target"].get("device")
    parts: list[Part] = []
    if built is not None:
        parts = [Text(text("again", lang, hash=told.summary["hash"][:16])),
                 Command(visible(build_command(built.asked, built.objects), LONGEST_COMMAND))]
        parts += [Text(text("placeholders", lang))] if built.objects else []
        parts += [Text(text("searched", lang))] if "max_drop" in built.asked else []
    elif device and device.get("rebuild"):
        parts = [Text(text("again old", lang)), Command(visible(device["rebuild"], LONGEST_COMMAND))]
    else:
        parts = [Text(text("again unknown", lang))]
    return Block("reproduction", text("reproduction", lang), tuple(parts))
