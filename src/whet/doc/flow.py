"""The stages of a build as a flow: those that a plan records, or those that a configuration asks for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from whet.doc.parts import Flow, Node, visible
from whet.doc.words import TEXTS, text
from whet.plan.built import Built, Stage, Value

# What a stage's figures say, by its name.
_NOTES = {"read": "n nodes", "clean": "n passes", "compress": "n compressed", "calibrate": "n samples",
          "equalize": "n changed", "smooth": "n changed", "round": "n changed", "bias": "n changed",
          "check": "n checked", "search": "n candidates", "quantize": "n quantized", "fuse": "n launches",
          "lower": "n steps", "generate": "n kernels"}
_SOURCES = {"calibrate": (("calib", "samples"), ("calib_cache", "cache")), "search": (("eval", "evaluation"),),
            "check": (("eval", "evaluation"),), "tune": (("timing_cache", "timings"),)}


def of_plan(summary: Mapping[str, Any], evidence: Mapping[str, Any], built: Built | None, lang: str) -> Flow:
    """The flow of a plan's own stages: as its build recorded them, else as far as its contents tell."""
    stages = list(built.stages) if built is not None and built.stages else list(_known(summary, evidence))
    steps = ", ".join(f"{count} {kind}" for kind, count in sorted(summary["steps"].items()) if count)
    at = next((i + 1 for i, s in enumerate(stages) if s.name == "fuse"), len(stages))
    stages.insert(at, Stage("lower", {"steps": steps}))
    asked = built.asked if built is not None else {}
    objects = built.objects if built is not None else ()
    return _flow(stages, asked, objects, summary["model"]["name"], summary["hash"][:16], lang,
                 timed=not summary.get("untuned"))


def of_build(asked: Mapping[str, Any], lang: str) -> Flow:
    """The flow that a configuration's build will run."""
    quantized = bool({"int8", "fp8", "best"} & set(asked.get("precision", ()))) and (
        "calib" in asked or "calib_cache" in asked)
    names = ["read", "clean"]
    names += ["compress"] if "weights" in asked else []
    if quantized:
        scaling = [p for p in ("equalize", "smooth") if p in asked.get("prepare", ())]
        names += ["calibrate", *scaling, *(["calibrate"] if scaling else [])]
        names += [p for p in ("round", "bias") if p in asked.get("prepare", ())]
    names += ["search"] if "max_drop" in asked else []
    names += ["quantize"] if quantized else []
    names += ["fuse", "lower", "tune", "generate"]
    output = asked.get("output") or "plan"
    return _flow([Stage(n) for n in names], asked, (), str(asked.get("model", "")), str(output), lang)


def _known(summary: Mapping[str, Any], evidence: Mapping[str, Any]) -> Iterable[Stage]:
    """The stages of a plan that did not record them."""
    told = summary["precision"]
    yield Stage("read")
    yield Stage("clean")
    if rows := [r for r in told.get("weights", ()) if not r["reason"]]:
        yield Stage("compress", {"bits": rows[0]["bits"], "layers": len(rows)})
    if seen := told.get("calibration"):
        yield Stage("calibrate", {k: seen[k] for k in ("method", "samples", "batches") if k in seen})
    for step in told.get("prepared", ()):
        yield Stage(step["step"], {"changed": step["changed"]})
    if "chosen" in told and "precision" in evidence:
        yield Stage("search", {"candidates": len(evidence["precision"]["candidates"]), "metric": told["metric"],
                               "max_drop": told["max_drop"], "chosen": told["chosen"]})
    for codes in (c for c in ("int8", "fp8") if c in told):
        yield Stage("quantize", {"codes": codes, "layers": len(told[codes]["layers"]),
                                 "kept": len(told[codes]["kept"])})
    yield Stage("fuse")
    rows = evidence.get("tuning", ())
    yield Stage("tune", {"regions": len(rows), "modelled": sum(r.get("how") == "model" for r in rows)})
    yield Stage("generate")


def _flow(stages: Sequence[Stage], asked: Mapping[str, Any], objects: Iterable[str], model: str, plan: str,
          lang: str, timed: bool = True) -> Flow:
    nodes = [Node("model", visible(asked.get("model") or model), data=True)]
    edges: list[tuple[str, str]] = []
    sources: dict[str, str] = {}
    before = "model"
    for i, stage in enumerate(stages, 1):
        ident = f"s{i}"
        for option, word in _SOURCES.get(stage.name, ()):
            given = asked.get(option) or (text("object", lang) if option in objects else "")
            if not given and option == "timing_cache" and timed:
                given = text("own", lang)
            if given and option not in sources:
                sources[option] = f"d{len(sources) + 1}"
                nodes.append(Node(sources[option], text(word, lang), visible(given), data=True))
            if option in sources:
                edges.append((sources[option], ident))
        name = text(stage.name, lang) if stage.name in _NOTES or stage.name == "tune" else visible(stage.name)
        nodes.append(Node(ident, f"{i} · {name}", _note(stage, lang)))
        edges.append((before, ident))
        before = ident
    nodes.append(Node("plan", text("plan", lang), visible(plan), data=True))
    edges.append((before, "plan"))
    return Flow(tuple(nodes), tuple(edges))


def _note(stage: Stage, lang: str) -> str:
    """A stage's figures in words; as they are where the words lack one."""
    figures: dict[str, Value] = {k: visible(v) if isinstance(v, str) else v for k, v in stage.figures.items()}
    if not figures:
        return ""
    word = _NOTES.get(stage.name, "")
    if stage.name == "tune" and "regions" in figures:
        modelled = figures.get("modelled", 0)
        word = "n tuned" if not modelled else "n modelled" if modelled == figures["regions"] else "n partly"
    try:
        said = text(word, lang, **figures) if word else ""
    except (KeyError, ValueError):  # of a whet that counts other things
        said = ""
    left = {k: v for k, v in figures.items() if not said or f"{{{k}" not in TEXTS[word][0]}
    return "; ".join(p for p in (said, ", ".join(f"{k} {v}" for k, v in sorted(left.items()) if k != "modelled")) if p)
