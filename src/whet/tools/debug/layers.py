"""Every intermediate value of a model against a reference's: which layer departs first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import NodeProto

from whet import pipeline
from whet.errors import WhetError
from whet.runtime import load
from whet.tools.debug.cuts import Cutter
from whet.tools.debug.deviation import Deviation, Tolerance, compare
from whet.tools.debug.references import check, reference
from whet.tools.debug.subject import Model, Subject, plain, random_values, saved, values, with_outputs
from whet.tools.surgeon.model import OnnxModel
from whet.tools.surgeon.names import title, unknown

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Layer:
    """A value and how far it is from the reference's. inputs: the values that its node reads, of those compared."""

    value: str
    node: str
    op: str
    deviation: Deviation
    inputs: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"value": self.value, "node": self.node, "op": self.op, "inputs": list(self.inputs),
                **self.deviation.as_dict()}


@dataclass
class Layers:
    """What `layers` found.

    layers: in the order of the model's nodes.
    outputs: the model's outputs of a plan built as usual, without intermediate values as outputs.
    random: values that were not compared, since they are random or depend on such.
    alone:  the node that computes the first value which departs, built by itself and run on the reference's values:
            how far its outputs are, by name. None where no value departs, or it cannot be built (`alone_error`).
    """

    against: str
    precision: str
    tolerance: Tolerance
    layers: list[Layer]
    outputs: dict[str, Deviation] = field(default_factory=dict)
    random: list[str] = field(default_factory=list)
    alone: dict[str, Deviation] | None = None
    alone_error: str = ""

    @property
    def departed(self) -> list[Layer]:
        """The values that are too far off."""
        return [l for l in self.layers if not l.deviation.held]

    @property
    def first(self) -> Layer | None:
        """The first value, in the order of the nodes, that is too far off."""
        return next(iter(self.departed), None)

    @property
    def held(self) -> bool:
        """True if all values, and the outputs of the plan as it is, are near enough."""
        return not self.departed and all(d.held for d in self.outputs.values())

    def document(self) -> dict[str, Any]:
        """The whole as JSON has it."""
        return {"schema": 1, "held": self.held, "against": self.against, "precision": self.precision,
                "atol": self.tolerance.absolute, "rtol": self.tolerance.relative,
                "first": self.first.as_dict() if self.first else None,
                "alone": {k: d.as_dict() for k, d in self.alone.items()} if self.alone is not None else None,
                "alone_error": self.alone_error, "random": self.random,
                "layers": [l.as_dict() for l in self.layers],
                "outputs": {k: d.as_dict() for k, d in self.outputs.items()}}


def layers(model: Model, feeds: Mapping[str, np.ndarray] | None = None, *, against: str = "onnxruntime",
           bf16: bool = False, atol: float | None = None, rtol: float | None = None,
           only: Sequence[str] = (), shapes: Mapping[str, Sequence[int]] | None = None, threads: int | None = None,
           opt_level: int = 0, progress: Progress = lambda what, done, total: None) -> Layers:
    """Compare what a plan computes, value by value, with a reference.

    The plan is built with the values as outputs. Values that must be outputs cannot be fused away, so it is not quite
    the plan that `build` makes; that one's outputs are compared too.

    feeds:  the model's inputs; None: random ones. against: see `references.reference`.
    atol, rtol: what is allowed, see `Tolerance`; by default that of the precision.
    only:   compare these values alone; all else is fused as usual.
    bf16:   build for bf16 (emulated where the CPU has none). Values that are outputs are not stored in bf16.

    Errors as of `Subject.open`, `reference` and `pipeline.build`.
    """
    check(against)
    precision = "bf16" if bf16 else "fp32"
    allowed = Tolerance.of(precision, atol, rtol)
    progress("reading the model", 0, 0)
    subject = Subject.open(model, feeds, shapes)
    random = random_values(subject.model)
    there = {k: n for k, n in values(subject.model) if k not in random}
    if missing := [n for n in only if n not in there]:
        raise unknown("value", missing[0], there, subject.model.name)
    names = [n for n in there if not only or n in only]
    progress(f"running the reference, {against}", 0, 0)
    right = reference(subject.model, subject.feeds, names, against)
    building = {"precision": precision, "force_precision": bf16, "threads": threads, "opt_level": opt_level,
                "progress": progress}
    found = run(with_outputs(subject.model, names), subject.feeds, **building)
    out = Layers(against, precision, allowed, [
        Layer(n, title(there[n]), there[n].op_type, compare(found[n], plain(right[n]), allowed),
              tuple(i for i in dict.fromkeys(there[n].input) if i in there)) for n in names])
    whole = run(subject.model, subject.feeds, **building)
    out.outputs = {k: compare(v, plain(right[k]), allowed) for k, v in whole.items() if k not in random}
    out.random = sorted(random)
    if out.first is not None:
        _alone(out, subject, there[out.first.value], right, building)
    return out


def run(model: OnnxModel, feeds: Mapping[str, np.ndarray], **building: Any) -> dict[str, Any]:
    """The model's outputs by a plan that is built of it. Errors as of `pipeline.build`."""
    with saved(model) as path:
        plan = pipeline.build(path, **building)
    with load(plan, threads=building.get("threads")) as engine:
        return {k: plain(v) for k, v in engine(dict(feeds)).items()}


def _alone(out: Layers, subject: Subject, node: NodeProto, right: Mapping[str, Any], building: dict[str, Any]) -> None:
    """Build the node by itself, and run it on what the reference says that its inputs are."""
    try:
        cutter = Cutter(subject.model, {**subject.feeds, **{k: plain(v) for k, v in right.items()}})
        part, fed = cutter.part([i for i, n in enumerate(cutter.nodes) if n.output[:] == node.output[:]])
        found = run(part, fed, **building)
    except WhetError as e:  # it may be that it builds in the whole alone
        out.alone_error = str(e)
    else:
        out.alone = {k: compare(v, plain(right[k]), out.tolerance) for k, v in found.items() if k in right}
