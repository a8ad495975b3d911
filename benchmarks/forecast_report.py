"""The back-test's record as Markdown, and what of the wanted figures it meets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from forecast_judge import DROPS, HORIZONS, OURS, WITHIN
from forecast_race import PROCESS

COVERED, BETTER = (0.92, 0.98), 0.10


def wanted(record: dict[str, Any]) -> list[dict[str, Any]]:
    """What the forecasts should reach, what they do, and whether that is enough."""
    out = []

    def add(figure: str, found: float, met: bool) -> None:
        out.append({"figure": figure, "found": found, "met": met})

    ours = [m for m in record.get("levels", {}).get("methods", []) if m["method"] == OURS]
    for m in ours:
        add(f"coverage of the 95 % interval at horizon {m['h']}: {COVERED[0]} to {COVERED[1]}", m["coverage"],
            COVERED[0] <= m["coverage"] <= COVERED[1])
    for m in ours:
        if m["h"] in (5, 20):
            add(f"CRPS against the local level at horizon {m['h']}: 10 % less", m["gain"], m["gain"] >= BETTER)
    for m in record.get("levels", {}).get("milestones", []):
        if m["events"] == "all" and m["method"] == OURS:
            add("Brier skill of milestones of levels: above 0", m["skill"], m["skill"] > 0)
    for m in record.get("race", {}).get("rows", []):
        if m["method"] == PROCESS:
            add(f"Brier skill of the race's milestones by {m['by']}: above 0", m["skill"], m["skill"] > 0)
    return out


def markdown(record: dict[str, Any]) -> str:
    """The tables."""
    out = ["# Forecasts, held against what came", ""]
    if record["made_up"]:
        out += ["Of made-up series that come with the project: they show that the command runs, not how good forecasts "
                "are.", ""]
    files = ", ".join(f"`{name}` (SHA-256 {digest[:12]})" for name, digest in record["files"].items())
    out += [f"Data: {files}. Seed {record['seed']}; {record['seconds']:.0f} s on {record['device']}; whet "
            f"{record['whet']}, {record['date'][:10]}. `python benchmarks/forecast.py --data PATH` makes this file.",
            "",
            "| wanted | found | met |", "|---|---:|---|",
            *(f"| {w['figure']} | {w['found']:.3f} | {'yes' if w['met'] else '**no**'} |" for w in record["wanted"])]
    if "levels" in record:
        out += _levels(record)
    if "race" in record:
        out += _race(record["race"])
    return "\n".join(out) + "\n"


def _levels(record: dict[str, Any]) -> Iterable[str]:
    found, about = record["levels"], record["series"]
    yield from ("", "## Levels", "",
                f"{about['count']} series of {about['shortest']} to {about['longest']} values, {about['values']:,} in "
                f"all ({about['rows_without_a_value']:,} rows had none). Parameters are fitted on "
                f"{len(found['fitted_on'])} series and judged on the other {len(found['judged_on'])}; all series of a "
                "benchmark are in one half. Each series is forecast from "
                f"{found['origins']} random places (fewer where it is short), with what was known there. CRPS is on a "
                "log scale: 0.01 is about 1 %. `better`: CRPS less than the local level's. In brackets: 95 % bootstrap "
                "intervals over series.", "",
                "| method | horizon | CRPS | better | coverage of the 95 % interval | forecasts |",
                "|---|---:|---:|---:|---:|---:|")
    for m in found["methods"]:
        name = f"**{m['method']}**" if m["method"] == OURS else m["method"]
        better = "" if m["method"] == "local level" else (f"{m['gain']:.1%} [{m['gain_low']:.1%}, "
                                                          f"{m['gain_high']:.1%}]")
        yield (f"| {name} | {m['h']} | {m['crps']:.4f} | {better} | {m['coverage']:.3f} [{m['coverage_low']:.3f}, "
               f"{m['coverage_high']:.3f}] | {m['forecasts']:,} |")
    for title, key, column in (
            ("By how much history was known", "by_known", "known"),
            ("By length of the series", "by_length", "values"),
            ("By noise of the series (relative standard deviation of one value)", "by_noise", "noise")):
        yield from _groups(title, found[key], column)
    yield from ("", "### Histories that begin late", "", "The same series, cut off so that only the last values before "
                "a place are known.", "", "| values known | " + " | ".join(f"coverage, horizon {h}" for h in HORIZONS)
                + " | " + " | ".join(f"CRPS, {h}" for h in HORIZONS) + " |", "|---:|" + "---:|" * 2 * len(HORIZONS))
    for known in dict.fromkeys(m["known"] for m in found["cut_off"]):
        own = {m["h"]: m for m in found["cut_off"] if m["known"] == known}
        yield f"| {known} | {_cells(own, 'coverage', '.3f')} | {_cells(own, 'crps', '.4f')} |"
    yield from _robustness(record["robustness"])
    yield from _milestones(found["milestones"])


def _cells(by: dict[int, dict[str, Any]], key: str, form: str) -> str:
    return " | ".join(format(by[h][key], form) if h in by else "-" for h in HORIZONS)


def _groups(title: str, rows: Sequence[dict[str, Any]], column: str) -> Iterable[str]:
    yield from ("", f"### {title}", "", f"| {column} | " + " | ".join(f"coverage, horizon {h}" for h in HORIZONS)
                + " | " + " | ".join(f"better, {h}" for h in HORIZONS) + " | forecasts |",
                "|---|" + "---:|" * (2 * len(HORIZONS) + 1))
    for value in dict.fromkeys(r[column] for r in rows):
        own = {r["h"]: r for r in rows if r[column] == value}
        count = sum(r["forecasts"] for r in own.values())
        yield f"| {value} | {_cells(own, 'coverage', '.3f')} | {_cells(own, 'gain', '.1%')} | {count:,} |"


def _robustness(rows: Sequence[dict[str, Any]]) -> Iterable[str]:
    yield from ("", "### With other splits and series", "", "Fitted anew and judged as above, from 8 places in each "
                "series.", "", "| | " + " | ".join(f"coverage, horizon {h}" for h in HORIZONS) + " | "
                + " | ".join(f"better, {h}" for h in HORIZONS) + " |", "|---|" + "---:|" * 2 * len(HORIZONS))
    for row in rows:
        own = {m["h"]: m for m in row["methods"]}
        yield f"| {row['variant']} | {_cells(own, 'coverage', '.3f')} | {_cells(own, 'gain', '.1%')} |"


def _milestones(rows: Sequence[dict[str, Any]]) -> Iterable[str]:
    yield from ("", "## Milestones of levels", "",
                f"Whether the level comes {', '.join(f'{d:.0%}' for d in DROPS)} below where it stands, within "
                f"{', '.join(map(str, WITHIN))} measurements: reached when the median of five in a row is there. "
                "Skill: 1 - Brier / Brier of the base rate, which is that of the fitted half for the same drop and "
                "number of measurements.", "")
    if not rows:
        yield "None was reached in the half that judges, so nothing can be said."
        return
    yield from ("| milestones | asked | reached | method | Brier | skill |", "|---|---:|---:|---|---:|---:|")
    for m in rows:
        if m["method"] != "base rate" and (m["events"] == "all" or m["method"] in (OURS, PROCESS)):
            yield (f"| {m['events']} | {m['asked']:,} | {m['reached']:,} | {m['method']} | {m['brier']:.4f} | "
                   f"{m['skill']:.3f} [{m['skill_low']:.3f}, {m['skill_high']:.3f}] |")


def _race(found: dict[str, Any]) -> Iterable[str]:
    told = "; ".join(f"{t['track']}: {t['rows']} rows, {t['new_bests']} new bests in {t['days']:.0f} days, "
                     f"{t['first']:g} to {t['best']:g}" for t in found["tracks"])
    yield from ("", "## A race of records", "", f"{told}.", "")
    if not found["rows"]:
        yield f"Not judged: {found.get('why', 'nothing was asked')}."
        return
    fitted = ", ".join(f"{k} {v}" for k, v in found["settings"].items())
    yield from (f"The compound process has its settings ({fitted}) from the {found['origins_fitted']} origins of the "
                f"first half of each track's new bests, and is judged on the {found['origins_judged']} of the second, "
                "against base rates of the first. `hindsight`: against the base rates of the half that judges, which "
                "nobody knew then. There are too few tracks for intervals. CRPS is of the logarithm of the level so "
                "many days, or records, on.", "",
                "| by | method | asked | reached | Brier | skill | hindsight | CRPS |",
                "|---|---|---:|---:|---:|---:|---:|---|")
    for m in found["rows"]:
        afterwards = "" if m["skill_against_hindsight"] is None else f"{m['skill_against_hindsight']:.3f}"
        scores = ", ".join(f"{h}: {v:.4f}" for h, v in m["crps"].items())
        yield (f"| {m['by']} | {m['method']} | {m['asked']} | {m['reached']} | {m['brier']:.4f} | {m['skill']:.3f} | "
               f"{afterwards} | {scores} |")
    yield from ("", "What came true of what was given, by the probability:", "",
                "| method | given | came true | asked |", "|---|---:|---:|---:|")
    for c in found.get("calibration", []):
        yield f"| {c['method']} | {c['given']:.2f} | {c['came']:.2f} | {c['asked']} |"
