"""What `whet demo` makes of its measurements: each chapter is a command's own machinery, called with records of the
demo, a sentence for the terminal, and a page. Figures that nobody measured are examples, and say so."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from importlib import resources
from importlib.util import find_spec
from io import StringIO
from pathlib import Path

from whet.errors import MissingExtraError, WhetError
from whet.measure import Measurement
from whet.measure.record import encode

EXAMPLE = "example figures, none of them yours"
STORE = "measurements.db"
INT8 = "digits-int8.plan"
OBJECTIVES = "gate-example.yaml"
SCENARIO = "roi-example.yaml"
SINGLE = "measurements-of-one.json"  # of single images: requests that are not batched
DRAWS = 1000
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Chapter:
    """A part of the story: what was found, the page that shows it, and the command that does the same for others."""

    title: str
    says: str
    page: str = ""  # relative to the demo's folder
    command: str = ""


BUILT = Chapter("Optimize", "one model, three plans: fp32, bf16 and int8, tuned on this machine, checked against a "
                            "NumPy reference, timed in turns", "report.html", "whet build model.onnx -o model.plan")


def tell(records: Sequence[Measurement], folder: Path, inputs: str, budget: float, progress: Progress) -> list[Chapter]:
    """All chapters, in the order of the story. inputs: what was timed; budget: points of accuracy that may be lost."""
    parts: list[tuple[str, Callable[[], Chapter]]] = [
        ("Compare", lambda: comparison(records, folder, inputs, budget)),
        ("Decide", lambda: returns(records, folder)),
        ("Gate", lambda: gate(folder, budget)),
        ("Forecast", lambda: forecast(records, folder)),
        ("Keep", lambda: keep(records, folder)),
        ("Document", lambda: document(folder)),
    ]
    told = []
    for i, (title, make) in enumerate(parts):
        progress(title.lower(), i, len(parts))
        told.append(attempt(title, make))
    return told


def single(records: Sequence[Measurement]) -> list[Measurement]:
    """Those of one image at a time."""
    return [r for r in records if next(iter(r.shapes.values()))[0] == 1]


def attempt(title: str, make: Callable[[], Chapter]) -> Chapter:
    """A chapter, or the reason why there is none; a part that fails does not take away the others."""
    try:
        return make()
    except MissingExtraError as e:
        return Chapter(title, f"left out: {e.what}; {e.do}")
    except WhetError as e:
        return Chapter(title, f"failed: {' '.join(str(e).split())}")


def stored(folder: Path) -> tuple[str, ...]:
    """The option that names the demo's store, where stores can be."""
    there = all(find_spec(name) is not None for name in ("sqlalchemy", "alembic"))
    return ("--store", str(folder / STORE)) if there else ()


def keep(records: Sequence[Measurement], folder: Path) -> Chapter:
    """Put the records into a store of the demo's own."""
    from whet.store import Store

    with Store(folder / STORE) as store:
        added = store.add(records)
        for kind, file in (("comparison", "compare/compare.json"), ("roi", "roi/roi.json")):
            if (folder / file).exists():
                store.keep(kind, json.loads((folder / file).read_bytes()), model=records[0].model.name,
                           at=datetime.now(UTC))
    return Chapter("Keep", f"{added.new + added.known} records, each with device, tools and samples, are in {STORE}, "
                   "with comparison, decision, gate and forecast", "",
                   "whet bench model.plan --json out.json && whet record out.json")


def comparison(records: Sequence[Measurement], folder: Path, inputs: str, max_drop: float) -> Chapter:
    """The procurement table, the Pareto front and the recommendation from the demo's own timing."""
    from whet.compare import assemble
    from whet.compare.result import Row
    from whet.report import compare as report

    model_bytes = (folder / "digits.onnx").stat().st_size
    rows = [Row(key=f"{r.backend} {r.precision} batch {batch}", backend=r.backend, precision=r.precision, batch=batch,
                threads=r.threads, record=r, size_bytes=r.plan.bytes if r.plan else model_bytes)
            for r in records for batch in [next(iter(r.shapes.values()))[0]]]
    settings = assemble.Settings(
        model=records[0].model, target="cpu", inputs=inputs, baseline="", gate=0.05, weights={}, constraints=(),
        max_drop=max_drop, shapes={row.batch: r.shapes for row, r in zip(rows, records)})
    found = assemble.result(rows, settings, notes=["One build of each: whet compare builds each three times, and "
                                                   "tests differences between builds."])
    report.write(found, folder / "compare")
    chosen = found.recommendation.chosen
    first = next((r for r in found.recommendation.ranking if r.key == chosen), None)
    says = f"{chosen} is first by P99 and loss of accuracy" if chosen else found.recommendation.state
    if first is not None and first.first is not None:
        says += f", in {first.first:.0%} of the draws of the measurements"
    return Chapter("Compare", says, "compare/compare.html", "whet compare model.onnx -o report")


def returns(records: Sequence[Measurement], folder: Path) -> Chapter:
    """What moving from a peer's fp32 (whet's own, without one) to int8 returns, for a made-up service."""
    from whet.decide import scenario
    from whet.decide.roi import Settings, evaluate
    from whet.report import roi as report
    from whet.report.files import write_files

    peer = next((r for r in records if r.backend != "whet"), records[0])
    before = f"{peer.backend} {peer.precision}"
    rate = busy(single([r for r in records if (r.backend, r.precision) == (peer.backend, peer.precision)])[0])
    text = f"""# What whet demo decides on: {EXAMPLE}. Put in your own, and then: whet roi {SCENARIO}
title: "Digits in int8: {EXAMPLE}"
load: {{rate: {rate}}}            # example: requests a second at the busy hour, several machines' worth
objective: {{p99_ms: 50}}         # example
labour: {{cost: 500}}             # example, in USD
uncertainty: {{price: {{low: 0.8, high: 1.2}}, labour: {{low: 0.8, high: 2}}}}  # example: 5th and 95th percentiles
horizon_months: 12
before: {before}
after: whet int8
options:                        # measured on this machine; the price is an example
  - name: {before}
    measurements: {SINGLE}
    select: {{backend: {peer.backend}, precision: {peer.precision}}}
    price_per_hour: 0.10
  - name: whet int8
    measurements: {SINGLE}
    select: {{backend: whet, precision: int8}}
    price_per_hour: 0.10
"""
    write_files({SCENARIO: text.encode(), SINGLE: encode(single(records))}, folder)
    found = evaluate(scenario.read(folder / SCENARIO), Settings(draws=DRAWS))
    write_files({"roi.html": report.html(found).encode(), "roi.md": report.markdown(found).encode(),
                 "roi.json": found.encode()}, folder / "roi")
    fleets = ", ".join(f"{o.name}: {o.devices}" for o in found.options if o.devices is not None)
    return Chapter("Decide", f"{found.verdict}, with {EXAMPLE}; machines for {rate:,} requests a second: {fleets}",
                   "roi/roi.html", f"whet roi {SCENARIO}")


def busy(record: Measurement) -> int:
    """Requests a second, of one digit and zeros, that about five such machines answer: an example of a load that asks
    for a fleet, whatever this machine's speed."""
    assert record.latency is not None
    rate = 5 / record.latency.p50.value
    unit = 10.0 ** math.floor(math.log10(rate))
    return max(1, int(rate / unit) * int(unit) if unit >= 1 else 1)


def gate(folder: Path, budget: float) -> Chapter:
    """The int8 plan against example objectives, and against the demo's history, which begins with this run."""
    from whet.decide.gate.result import of_body
    from whet.report import gate as report
    from whet.report.files import write_files

    text = (f"# What whet demo asks of the int8 plan: {EXAMPLE}\n"
            f"p99: 5ms\nthroughput: 5000\nmax_drop: {budget:g}\nplan_size: 1MB\n")
    write_files({OBJECTIVES: text.encode()}, folder)
    call("gate", str(folder / SINGLE), "--precision", "int8", "--objectives", str(folder / OBJECTIVES), "--plan",
         str(folder / INT8), "-o", str(folder / "gate"), *stored(folder))
    found = of_body(json.loads((folder / "gate" / "gate.json").read_bytes()))
    held = [o.state for o in found.cases[0].objectives]
    short = [t for t in found.cases[0].trends if t.state == "undecided"]
    says = (f"{found.state}: {report.messages(found)[0]}; {held.count('held')} of {len(held)} objectives held "
            f"({EXAMPLE})")
    if short:
        says += f"; its own history says nothing yet, after {max(t.count for t in short)} earlier runs"
    return Chapter("Gate", says, "gate/gate.html", "whet gate out.json --p99 50ms --store measurements.db --record")


def forecast(records: Sequence[Measurement], folder: Path) -> Chapter:
    """How far it is to twice the speed, as if each plan had been one more optimization of the one before it."""
    from whet.report.files import write_files

    medians = [r.latency.p50.value for r in single(records) if r.latency is not None]
    medians = [*medians[-1:], *medians[:-1]] if records[-1].backend != "whet" else medians  # the peer is where it began
    target = min(medians) / 2
    whole = math.log(medians[0] / target)
    best, gains = medians[0], []
    for m in medians[1:]:
        if m < best:
            gains.append(round(100 * math.log(best / m) / whole, 2))
            best = m
    if len(gains) < 2:
        return Chapter("Forecast", f"undecided: {len(gains)} gains say nothing of the next", "",
                       "whet forecast --model NAME --target p99=20ms")
    left = round(100 * math.log(best / target) / whole, 2)
    given = [a for g in gains for a in ("--gain", f"{g:g}")] + ["--remaining", f"{left:g}"]
    write_files({}, folder / "forecast")
    files = [a for kind in ("json", "html", "md") for a in (f"--{kind}", str(folder / "forecast" / f"forecast.{kind}"))]
    call("forecast", *given, "--within", "1", "--within", "3", *files, *stored(folder))
    (found,) = json.loads((folder / "forecast" / "forecast.json").read_bytes())["milestones"]
    within = {p["steps"]: p["probability"] for p in found["by_steps"]}
    says = (f"{found['state']}: {found['progress']:.0%} of the way to half of the best median ({EXAMPLE}), each plan "
            f"taken as one optimization more ({len(gains)} gains: next to no evidence); reached by the next with a "
            f"probability of {within[1]:.0%}, within three of {within[3]:.0%}")
    return Chapter("Forecast", says, "forecast/forecast.html", f"whet forecast {' '.join(given)} --within 3")


def document(folder: Path) -> Chapter:
    """The int8 plan's document, which is then held against the plan."""
    plan, records = str(folder / INT8), str(folder / "measurements.json")
    text, html = folder / "digits-int8.md", folder / "digits-int8.html"
    call("doc", plan, "--records", records, "-o", str(text), "--html", str(html), "--force")
    code = call("doc", "--check", str(text), "--plan", plan, "--records", records)
    says = {0: "every figure in it was checked against plan and records", 1: "it drifted from the plan"}
    return Chapter("Document", f"{text.name}: {says.get(code, 'it could not be checked')}", html.name,
                   "whet doc model.plan -o model.md && whet doc --check model.md --plan model.plan")


def call(*arguments: str) -> int:
    """The exit code of a command, called in this process; what it prints is for those who call it themselves."""
    import typer

    from whet.cli.main import app

    with redirect_stdout(StringIO()):
        try:
            found = app(list(arguments), prog_name="whet", standalone_mode=False)
        except typer.Exit as e:
            found = e.exit_code
    return found if isinstance(found, int) else 0


def sentence(text: str) -> str:
    """With a capital, unless it begins with a name: whet's own, or a file's."""
    first = text.split(maxsplit=1)[0] if text else ""
    return text if first == "whet" or "." in first else text[:1].upper() + text[1:]


def page(title: str, chapters: Sequence[Chapter], board: str) -> bytes:
    """The page that leads to the others; nothing in it comes from elsewhere. board: the command that opens one."""
    style = resources.files("whet.report").joinpath("style.css").read_text("utf-8")
    parts = [f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width='
             f'device-width, initial-scale=1"><title>{escape(title)}</title><style>{style}</style></head><body><main>'
             f"<h1>{escape(title)}</h1>"]
    for c in chapters:
        parts.append(f"<h2>{escape(c.title)}</h2><p>{escape(sentence(c.says))}.</p>")
        if c.page:
            parts.append(f'<p><a href="{escape(c.page)}">{escape(c.page)}</a></p>')
        if c.command:
            parts.append(f'<p class="soft">With your own: <code>{escape(c.command)}</code></p>')
    if board:
        parts.append(f"<h2>Board</h2><p>The same as a page that answers: <code>{escape(board)}</code></p>")
    return ("".join(parts) + "</main></body></html>\n").encode()
