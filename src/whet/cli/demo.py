"""`whet demo`: the whole story on a small trained model, on this machine, without a network."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import whet
from whet import demo, report
from whet.cli import demo_story as chapters
from whet.cli.files import write_bytes
from whet.cli.progress import build_progress
from whet.compare import Backend, Reference, compare, installed, measured_limits, open_peer, open_whet
from whet.compare.session import ALLOWED, output_error
from whet.errors import OutputError
from whet.frontends import load_model, model_hash
from whet.ir import interpret
from whet.measure import Measurement
from whet.measure.record import Accuracy, Comparison, Model
from whet.measure.record import OutputError as Distance
from whet.measure.verdict import judge
from whet.plan import Plan
from whet.report import rows

BATCH = 64  # throughput is of this batch, latency of one image
OPT_LEVEL = 2
CALIBRATION = 90  # of the held-out images calibrate int8; the others judge every plan
INT8_ERROR = 0.1  # relative L2 beyond which int8's outputs are called wrong
BUDGET = 1.0  # points of accuracy that a faster plan may lose
SECONDS = 2.0  # of timing, for each of the two batches
NOT_NATIVE = "bf16, computed in fp32"
TITLE = "whet demo: handwritten digits"
PAGE = "index.html"  # leads to all others


@dataclass
class Answers:
    """What one backend says about the held-out images."""

    accuracy: Accuracy
    error: Distance
    right: np.ndarray  # by image


def run(folder: Path) -> int:
    """Build, calibrate, check, time, compare, decide, document; `folder`/index.html leads to what was written. 0 if all
    outputs are right, else 1.

    OutputError if the folder cannot be written to.
    """
    start = time.monotonic()
    out = Console(highlight=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise OutputError("the folder for the demo cannot be made", where=str(folder), why=e.strerror or str(e),
                          do="name one that can, with --output") from e
    path = folder / "digits.onnx"
    write_bytes(path, demo.model_bytes())
    images, labels = demo.test_set()
    model = Model(name="digits", sha256=model_hash(path))
    seen, images, labels = images[:CALIBRATION], images[CALIBRATION:], labels[CALIBRATION:]
    out.print(f"A small convolutional network, trained on scikit-learn's digits. Of the held-out images {len(seen)} "
              f"calibrate int8 and {len(labels)} judge.", soft_wrap=True)

    with build_progress() as progress:
        plans = {p: _build(path, folder, p, seen, progress) for p in ("fp32", "bf16", "int8")}
        progress("checking outputs against the reference", 0, 0)
        reference = Reference("NumPy reference", interpret(load_model(path), {"image": images}))
        backends = {n: _open(plans, path, images[:n]) for n in (1, BATCH)}
        answers = _judged({b.key: _answers(plan, images, labels, reference)
                           for b, (plan, _) in zip(backends[1], plans.values(), strict=False)})
        progress("measuring what this machine can do", 0, 0)
        limits = measured_limits(plans["fp32"][0].contents.runtime["threads"])
        progress("timing, in turns", 0, 0)
        records: list[Measurement] = []
        for n, some in backends.items():
            found = compare(some, {"image": images[:n]}, model, seconds=SECONDS, limits=limits,
                            threads=plans["fp32"][0].contents.runtime["threads"],
                            reference=Reference(reference.name, {"logits": reference.outputs["logits"][:n]}))
            records += [_with(r, answers.get(b.key)) for r, b in zip(found, some)]
    for some in backends.values():
        for b in some:
            b.close()
    for plan, _ in plans.values():
        plan.close()

    right = all(a.error.value <= (a.error.limit or 0) for a in answers.values())
    report.write(records, folder, TITLE)
    _print(out, records, answers)
    with build_progress() as progress:
        told = chapters.tell(records, folder, f"{len(images)} held-out images", BUDGET, progress)
    for c in told:
        out.print(f"[bold]{c.title}[/]: {escape(c.says)}.", soft_wrap=True)
    store = folder / chapters.STORE
    board = f"whet board --store {store}" if store.exists() else ""
    write_bytes(folder / PAGE, chapters.page(TITLE, [chapters.BUILT, *told], board))
    live = f" As a page that answers: {escape(board)}" if board else ""
    out.print(f"Written in {time.monotonic() - start:.0f} s; all of it: {escape(str(folder / PAGE))}.{live}",
              soft_wrap=True)
    out.print(f"Next: whet inspect {escape(str(folder / 'digits-bf16.plan'))}; your own: whet build model.onnx -o "
              "model.plan", soft_wrap=True)
    return 0 if right else 1


def _build(path: Path, folder: Path, precision: str, seen: np.ndarray,
           progress: Callable[[str, int, int], None]) -> tuple[Plan, float]:
    start = time.perf_counter()
    shape = seen.shape[1:]
    plan = whet.build(path, precision=precision, opt_level=OPT_LEVEL, timing_cache=folder / "timing-cache.json",
                      profiles=[{"image": ((1, *shape), (1, *shape), (BATCH, *shape))}],
                      calibration=seen if precision == "int8" else None,
                      progress=lambda what, done, total: progress(f"{precision}: {what}", done, total))
    plan.save(folder / f"digits-{precision}.plan")
    return plan, time.perf_counter() - start


def _open(plans: dict[str, tuple[Plan, float]], path: Path, images: np.ndarray) -> list[Backend]:
    feeds = {"image": images}
    found = []
    for precision, (plan, seconds) in plans.items():
        b = open_whet(plan, feeds, build_seconds=seconds)
        if b.precision != precision and precision == "bf16":
            b.precision = NOT_NATIVE
        found.append(b)
    return found + [open_peer(name, path, feeds) for name in installed() if name == "onnxruntime"]


def _answers(plan: Plan, images: np.ndarray, labels: np.ndarray, reference: Reference) -> Answers:
    """Accuracy on all images, and how far the logits are from the reference's."""
    with whet.load(plan) as engine:
        parts = [engine({"image": images[i:i + BATCH]})["logits"] for i in range(0, len(images), BATCH)]
    logits = np.concatenate(parts)
    right = logits.argmax(1) == labels
    compute = plan.manifest.info["precision"]["compute"]
    return Answers(Accuracy(metric="top1", value=float(right.mean()), samples=len(labels)),
                   output_error({"logits": logits}, reference, ALLOWED.get(compute, INT8_ERROR)), right)


def _judged(answers: dict[str, Answers]) -> dict[str, Answers]:
    """The same with each accuracy judged against the first's, on the same images."""
    first, *others = answers
    return {first: answers[first], **{key: replace(a, accuracy=judge(answers[first].right, a.right, BUDGET).accuracy(
        first)) for key in others for a in [answers[key]]}}


def _with(record: Measurement, answers: Answers | None) -> Measurement:
    return record if answers is None else msgspec.structs.replace(record, accuracy=answers.accuracy,
                                                                  error=answers.error)


def _print(out: Console, records: list[Measurement], answers: dict[str, Answers]) -> None:
    single, many = ([r for r in records if r.shapes["image"][0] == n] for n in (1, BATCH))
    samples = next(iter(answers.values())).accuracy.samples
    table = Table("", f"accuracy, n = {samples}", "median", "p99", f"batch {BATCH}", "plan",
                  box=None, padding=(0, 2, 0, 0), header_style="bold")
    for one, batch in zip(single, many):
        row, last = rows.row(one), rows.row(batch)
        accuracy = f"{one.accuracy.value:.1%} ({rows.accuracy_interval(one)})" if one.accuracy else ""
        table.add_row(row.label, accuracy.replace("% to ", "-").replace("%)", ")"), row.median, row.p99,
                      last.throughput, row.size, style="bold" if row.ours else "")
    out.print(table)
    out.print(f"Latency of one image; images per second in batches of {BATCH}; accuracy with its 95 % interval.")
    for key, a in answers.items():
        verdict = "right" if a.error.value <= (a.error.limit or 0) else "[red]WRONG[/red]"
        out.print(f"{key}: outputs are {a.error.value:.1e} from the {a.error.reference} (relative L2, at most "
                  f"{a.error.limit:.0e} is allowed): {verdict}.", soft_wrap=True)
    first, *others = answers.items()
    for key, a in others:
        out.print(f"{key}: {judge(first[1].right, a.right, BUDGET).sentence}", soft_wrap=True)
    for one, batch in zip(single, many):
        for c, d in zip(one.comparisons, batch.comparisons):
            out.print(f"{rows.label(one)} is {_ratio(c)} times as fast as {rows.NAMES[c.backend]} {c.precision} on one "
                      f"image, {_ratio(d)} in batches of {BATCH}.", soft_wrap=True)
    if any(r.precision == NOT_NATIVE for r in records):
        out.print("This CPU has no BF16 arithmetic: the bf16 plan computes in fp32.", soft_wrap=True)
    if not any(r.comparisons for r in records):
        out.print("For ONNX Runtime beside it: pip install 'whet\\[onnxruntime]'", soft_wrap=True)


def _ratio(c: Comparison) -> str:
    return f"{c.ratio:.2f} ({c.low:.2f} to {c.high:.2f})"
