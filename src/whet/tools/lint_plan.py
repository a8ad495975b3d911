"""What is to be said of a plan: will it load here, what runs on the host, what was not measured."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from whet.errors import FingerprintError
from whet.plan import Plan, fingerprint
from whet.tools.lint_codes import Finding, finding
from whet.tools.steps import node_name


def check(path: Path, feeds: Mapping[str, Any] | None = None, measure: bool = False) -> list[Finding]:
    """Findings about a plan file. PlanError if it is not a readable plan."""
    with_plan = Plan.open(path)
    try:
        return _check(with_plan)
    finally:
        with_plan.close()


def _check(plan: Plan) -> list[Finding]:
    m, info = plan.manifest, plan.manifest.info
    out: list[Finding] = []
    try:
        fingerprint.check(m.target)
    except FingerprintError as e:
        out.append(finding("L601", "", e.what, e.why, e.do))
    threads, cores = plan.contents.runtime["threads"], len(os.sched_getaffinity(0))
    if threads > cores:
        out.append(finding("L607", "", f"built for {threads} threads; {cores} cores are here", "it runs on fewer, "
                           "with a partition that was tuned for more", f"build it with threads={cores}"))
    layers = info.get("layers", ())
    known = _seconds(plan)
    total = sum(known.values())
    for layer in layers:
        if layer["kind"] == "host":
            name = layer["name"]
            out.append(finding("L602", node_name(name), f"{name.split(' ', 1)[0]} runs on the host ({layer['tactic']})",
                               layer.get("reason", "it has no generated kernel"),
                               "whet bench and whet inspect --time tell what it costs", op=name.split(" ", 1)[0]))
    if info.get("copies"):
        out.append(finding("L603", "", f"{info['copies']} steps only copy", "views that a kernel could not follow",
                           "whet inspect lists them", count=int(info["copies"])))
    guessed = [e for e in plan.evidence.get("tuning", ()) if e.get("how") == "model"]
    if guessed:
        out.append(finding("L604", "", f"{len(guessed)} of {len(plan.evidence['tuning'])} tactics were not measured",
                           "where there is one candidate there is nothing to measure; else --opt-level 0 said so",
                           "build with --opt-level 3", count=len(guessed), seconds=total))
    if note := info.get("precision", {}).get("note"):
        out.append(finding("L605", "", note, "", "see whet doctor for what this CPU has"))
    if plan.contents.trailer.signature is None:
        out.append(finding("L606", "", "the plan is not signed", "loading it is like importing a module",
                           "whet sign, and load it with require_key="))
    return out


def _seconds(plan: Plan) -> dict[int, float]:
    """The tuner's figures of native layers, by position."""
    return {i: float(e["seconds"]) for i, e in enumerate(plan.evidence.get("tuning", ())) if e.get("seconds")}
