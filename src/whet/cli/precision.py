"""What `whet build` asks and tells of quantization."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from whet.errors import AccuracyError, InputError
from whet.plan import Plan
from whet.precision.result import SearchResult
from whet.quantizing import ACTIVATIONS, Quantization


def quantization(calib: str | None, cache: Path | None, method: str, samples: int | None, preprocess: str | None,
                 activations: str, prepare: tuple[str, ...], evaluation: str | None, metric: str,
                 max_drop: float | None, force: bool) -> Quantization:
    """The options as the library takes them. InputError for what cannot be."""
    from whet.precision.data import Preprocess
    from whet.precision.methods import parse_method

    parse_method(method)
    if activations and activations not in ACTIVATIONS:
        raise InputError(f"--activations {activations}", why=f"there are {', '.join(ACTIVATIONS)}", do="choose one")
    if max_drop is not None and not max_drop > 0:
        raise InputError(f"--max-drop {max_drop:g}", why="a budget is a positive number", do="give 0.5, say")
    images = Preprocess.parse(preprocess) if preprocess else None
    return Quantization(calib, cache, method, samples, images, activations, prepare, evaluation, None, metric,
                        max_drop, every_layer=force)


@contextmanager
def reporting(folder: Path | None) -> Iterator[None]:
    """Write the report of a search even where no plan keeps the budget."""
    try:
        yield
    except AccuracyError as e:
        if isinstance(e.result, SearchResult):
            _tell(e.result, folder)
        raise


def show(plan: Plan, folder: Path | None) -> int:
    """Print what became of the layers, and write the report; the exit code: 0, or 3 where the verdict is undecided."""
    import msgspec

    told = plan.manifest.info["precision"]
    out = Console(highlight=False)
    if told.get("note"):
        out.print(escape(told["note"]), soft_wrap=True)
    seen = told.get("calibration", {})
    for warning in (*seen.get("warnings", ()), *_first(seen.get("coverage", ()))):
        out.print(f"Calibration: {escape(warning)}", style="yellow", soft_wrap=True)
    for step in told.get("prepared", ()):
        out.print(f"Prepared: {step['step']}, {step['changed']} places", soft_wrap=True)
    for codes in (c for c in ("int8", "fp8") if c in told):
        done, kept = told[codes]["layers"], told[codes]["kept"]
        title = codes.upper()
        out.print(f"{title}: {len(done)} of {len(done) + len(kept)} layers" + (f"; not in {title}:" if kept else ""))
        for name, why in kept.items():
            out.print(f"  {escape(name)}: {escape(why)}", soft_wrap=True)
    for name, why in told.get("fp16", {}).get("kept", {}).items():
        out.print(f"Not in FP16: {escape(name)}: {escape(why)}", soft_wrap=True)
    rows = [r for r in told.get("weights", ()) if not r["reason"]]
    if rows:
        before, after = sum(r["before"] for r in rows), sum(r["after"] for r in rows)
        worst = max(rows, key=lambda r: r["error"])
        out.print(f"Weights of {len(rows)} layers in {rows[0]['bits']} bits: {before / 2 ** 20:.1f} MiB become "
                  f"{after / 2 ** 20:.1f}; the largest relative error is {worst['error']:.2g} "
                  f"({escape(worst['layer'])})", soft_wrap=True)
    found = plan.evidence.get("precision")
    if found is None:
        return 0
    result = msgspec.convert(found, SearchResult)
    _tell(result, folder)
    return 3 if result.judgement is not None and result.judgement.state == "undecided" else 0


def _first(lines: Sequence[str], most: int = 6) -> list[str]:
    """The first few, and how many more there are."""
    rest = len(lines) - most
    return [*lines[:most], *([f"and {rest} more (whet inspect --json)"] if rest > 0 else [])]


def _tell(result: SearchResult, folder: Path | None) -> None:
    from whet.report import pareto, precision

    out = Console(highlight=False)
    out.print(pareto.table(precision.points(result), result.unit))
    if result.judgement is not None:
        out.print(escape(result.judgement.sentence), soft_wrap=True)
    if folder is not None:
        out.print(f"Report: {escape(str(precision.write(result, folder)[0]))}", soft_wrap=True)
