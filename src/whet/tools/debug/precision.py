"""Which layers need more bits: what each adds to the error of the outputs when it is in bf16.

A layer is a region of the graph, with its product and its results; what it reads was rounded by whoever wrote it, if
anybody did. Errors are measured by plans that are built and run, against the same model in fp32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from whet import passes, pipeline
from whet.errors import InputError
from whet.frontends import load_model
from whet.ir.dtypes import DType
from whet.ir.graph import Graph
from whet.runtime import load
from whet.tools.debug.deviation import Tolerance, compare
from whet.tools.debug.subject import Model, Subject, plain, saved
from whet.tools.surgeon.names import unknown

TARGET = 5e-2  # relative L2 of the outputs
MEASURES = ("alone", "without")

Arrays = Mapping[str, Any]
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Contribution:
    """What a layer adds.

    error:  relative L2 error of the outputs with this layer alone in bf16 (`alone`), or with all but it (`without`);
            infinite where there are NaNs or infinities that fp32 has not.
    gain:   `alone`: the same. `without`: how much the error falls when it stays in fp32 (negative if it rises).
    """

    layer: str
    kind: str
    error: float
    gain: float


@dataclass
class Needs:
    """What `precision` found.

    error:  of the outputs with all of it in bf16. contributions: the largest first.
    keep:   the layers that have to stay in fp32 for the error to be within the target, in the order of their
            contributions, and what it is then (`kept_error`). Empty if it is within it anyway.
    """

    measure: str
    error: float
    target: float
    contributions: list[Contribution]
    keep: list[str] = field(default_factory=list)
    kept_error: float | None = None

    @property
    def held(self) -> bool:
        """True if all of it in bf16 is within the target."""
        return self.error <= self.target

    def document(self) -> dict[str, Any]:
        """The whole as JSON has it; infinity is null."""
        return {"schema": 1, "held": self.held, "measure": self.measure, "error": _finite(self.error),
                "target": self.target, "keep": self.keep, "kept_error": _finite(self.kept_error),
                "layers": [{"layer": c.layer, "kind": c.kind, "error": _finite(c.error), "gain": _finite(c.gain)}
                           for c in self.contributions]}


def precision(model: Model, feeds: Mapping[str, np.ndarray] | None = None, *, measure: str = "alone",
              target: float = TARGET, only: Sequence[str] = (), shapes: Mapping[str, Sequence[int]] | None = None,
              threads: int | None = None, progress: Progress = lambda what, done, total: None) -> Needs:
    """Measure what each layer that bf16 changes adds to the error of the outputs: a build and a run for each.

    measure: `alone` (this layer in bf16, the others in fp32), or `without` (all but this layer).
    target:  relative L2 of the outputs that is allowed; where it is exceeded, the layers to keep in fp32 are searched
             for: the fewest of the largest contributors.
    only:    measure these layers.

    Errors as of `Subject.open` and `pipeline.build`; InputError for layers that bf16 does not change.
    """
    if measure not in MEASURES:
        raise InputError(f"no measure {measure!r}", why=f"there are {', '.join(MEASURES)}", do="choose among these")
    progress("reading the model", 0, 0)
    subject = Subject.open(model, feeds, shapes)
    with saved(subject.model) as path:
        layers = changed(passes.run(load_model(path), "bf16"))
        if missing := [n for n in only if n not in layers]:
            raise unknown("layer in bf16", missing[0], layers, subject.model.name)
        runs = _Runs(path, subject.feeds, threads)
        chosen = [n for n in layers if not only or n in only]
        progress("measuring", 0, len(chosen))
        whole = runs.error(())
        found = []
        for i, name in enumerate(chosen):
            progress(name, i, len(chosen))
            kept = [n for n in layers if n != name] if measure == "alone" else [name]
            error = runs.error(kept)
            found.append(Contribution(name, layers[name], error, error if measure == "alone" else _less(whole, error)))
        found.sort(key=lambda c: -c.gain)
        out = Needs(measure, whole, target, found)
        if not out.held:
            _keep(out, runs, progress)
    return out


def changed(graph: Graph) -> dict[str, str]:
    """{name: kind} of the layers of a graph of regions that have a product or a result in bf16, bodies included."""
    out: dict[str, str] = {}
    for n in graph.nodes:
        if n.op == "region" and (n.attrs["region"].compute == "bf16" or any(
                v.dtype is DType.BF16 for v in n.outputs)):
            out.setdefault(n.origin, n.attrs["region"].kind)
    for body in graph.bodies():
        out |= changed(body)
    return out


class _Runs:
    """Plans of one model with some layers in fp32."""

    def __init__(self, path: Any, feeds: Arrays, threads: int | None) -> None:
        self.path, self.feeds, self.threads = path, dict(feeds), threads
        self.right = self._run("fp32", ())

    def error(self, kept: Iterable[str]) -> float:
        """Relative L2 of the worst output with these layers in fp32 and all else in bf16."""
        found = self._run("bf16", kept)
        worst = 0.0
        for name, right in self.right.items():
            d = compare(found[name], right, Tolerance(np.inf, 0.0))
            worst = max(worst, d.relative_l2 if d.held else np.inf)
        return worst

    def _run(self, compute: str, kept: Iterable[str]) -> dict[str, Any]:
        plan = pipeline.build(self.path, precision=compute, force_precision=compute == "bf16", fp32_layers=kept,
                              threads=self.threads, opt_level=0)
        with load(plan, threads=self.threads) as engine:
            return {k: plain(v) for k, v in engine(self.feeds).items()}


def _keep(out: Needs, runs: _Runs, progress: Progress) -> None:
    """Find the fewest of the largest contributors that have to stay in fp32, by bisection."""
    names = [c.layer for c in out.contributions]
    low, high = 0, len(names)  # low: too few
    error = runs.error(names)
    if error > out.target:
        out.keep, out.kept_error = names, error
        return
    while high - low > 1:
        progress(f"keeping {high} layers in fp32", len(names) - (high - low), len(names))
        middle = (low + high) // 2
        tried = runs.error(names[:middle])
        if tried <= out.target:
            high, error = middle, tried
        else:
            low = middle
    out.keep, out.kept_error = names[:high], error


def _less(whole: float, error: float) -> float:
    """How much less the one is; both may be infinite."""
    return 0.0 if whole == error else whole - error


def _finite(x: float | None) -> float | None:
    return x if x is not None and np.isfinite(x) else None
