"""What is to be said of a plan: will it load here, what runs on the host, what was not measured."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from whet.errors import FingerprintError
from whet.plan import Plan, fingerprint
from whet.tools.lint_codes import Finding, finding
from whet.tools.timing import LayerTimes, time_layers


def check(path: Path, feeds: Mapping[str, Any] | None = None, measure: bool = False) -> list[Finding]:
    """Findings about a plan file; with `measure` it is timed on `feeds`. PlanError if it is not a readable plan."""
    plan = Plan.open(path)
    try:
        fits = _fits(plan)
        times = time_layers(plan, feeds) if measure and not fits else LayerTimes()
        return [*fits, *_check(plan, times)]
    finally:
        plan.close()


def _fits(plan: Plan) -> list[Finding]:
    try:
        fingerprint.check(plan.manifest.target)
    except FingerprintError as e:
        return [finding("L601", "", e.what, e.why, e.do)]
    return []


def _check(plan: Plan, times: LayerTimes) -> list[Finding]:
    info = plan.manifest.info
    out: list[Finding] = []
    threads, cores = plan.contents.runtime["threads"], len(os.sched_getaffinity(0))
    if threads > cores:
        out.append(finding("L607", "", f"built for {threads} threads; {cores} cores are here", "it runs on fewer, "
                           "with a partition that was tuned for more", f"build it with threads={cores}"))
    for layer in info.get("layers", ()):
        if layer["kind"] in ("host", "control"):
            op, _, name = str(layer["name"]).partition(" ")
            share = times.share(str(layer["name"]))
            cost = f"; {share:.0%} of the measured time" if share is not None else ""
            data: dict[str, Any] = {"share": round(share, 4), "basis": "measured"} if share is not None else {}
            code = "L203" if layer["kind"] == "control" else "L211" if layer["tactic"] == "plugin" else "L602"
            out.append(finding(
                code, name or op, f"{op} runs on the host ({layer['tactic']})",
                (layer.get("reason") or "it has no generated kernel") + cost,
                "--measure tells what it costs" if share is None else "see whet lint of the model", op=op, **data))
    if info.get("copies"):
        out.append(finding("L603", "", f"{info['copies']} steps only copy", "views that a kernel could not follow",
                           "whet inspect lists them", count=int(info["copies"])))
    guessed = [e for e in plan.evidence.get("tuning", ()) if e.get("how") == "model"]
    if guessed:
        out.append(finding("L604", "", f"{len(guessed)} of {len(plan.evidence['tuning'])} tactics were not measured",
                           "where there is one candidate there is nothing to measure; else --opt-level 0 said so",
                           "build with --opt-level 3", count=len(guessed)))
    if note := info.get("precision", {}).get("note"):
        out.append(finding("L605", "", note, "", "see whet doctor for what this CPU has"))
    if plan.contents.trailer.signature is None:
        out.append(finding("L606", "", "the plan is not signed", "loading it is like importing a module",
                           "whet sign, and load it with require_key="))
    return out
