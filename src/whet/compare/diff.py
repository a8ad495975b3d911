"""Two plans of the same model: what changed between them. Layers, tactics, precision, size; and, where both run on
this machine, speed in turns and how far the outputs are apart.

`plan-diff-1.schema.json` beside this file is the contract (JSON Schema 2020-12; a test holds it equal to the types).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta, Struct

from whet.compare.backends import Backend, open_whet
from whet.errors import InputError, WhetError
from whet.measure import alternate, centred_error, contract, relative_l2, stats, this_device
from whet.measure.record import now
from whet.plan import Plan

SCHEMA = 1
SCHEMA_FILE = f"plan-diff-{SCHEMA}.schema.json"
NOT_COMPARABLE = 1e300  # stands for infinity, which JSON does not have
Count = Annotated[int, Meta(ge=0)]


class _Part(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    pass


class Side(_Part, frozen=True, kw_only=True):
    """One plan: what it was built from and for, and its sizes in bytes."""

    label: str
    hash: str
    model: str
    model_sha256: str
    precision: str
    target: str
    threads: Count
    bytes: Count
    weights: Count
    code: Count
    arena: Count
    launches: Count
    layers: Annotated[dict[str, int], Meta(description="number of layers by precision")]
    profile: dict[str, tuple[int, int, int]] = {}
    versions: dict[str, str] = {}
    signed_by: str | None = None


class Form(_Part, frozen=True, kw_only=True):
    """How a plan runs a layer; `seconds` as it was tuned, alone."""

    kind: str
    precision: str = ""
    tactic: str = ""
    params: dict[str, Any] = {}
    seconds: Annotated[float, Meta(ge=0)] | None = None


class Layer(_Part, frozen=True, kw_only=True):
    """A layer by its name in both plans; null where a plan has none: it was fused, split or left out there. `changed`
    names what differs."""

    name: str
    a: Form | None
    b: Form | None
    changed: tuple[Literal["kind", "precision", "tactic", "params"], ...] = ()

    @property
    def state(self) -> Literal["same", "changed", "only a", "only b"]:
        if self.a is None or self.b is None:
            return "only b" if self.a is None else "only a"
        return "changed" if self.changed else "same"


class Speed(_Part, frozen=True, kw_only=True):
    """Median seconds of a call of each, in turns; `ratio` is a / b with its 95 % interval: over 1, b is faster."""

    a: Annotated[float, Meta(ge=0)]
    b: Annotated[float, Meta(ge=0)]
    ratio: Annotated[float, Meta(gt=0)]
    low: Annotated[float, Meta(gt=0)]
    high: Annotated[float, Meta(gt=0)]
    rounds: Annotated[int, Meta(ge=1)]


class Output(_Part, frozen=True, kw_only=True):
    """An output of both on the same inputs: relative L2 distance, the same after the mean over the last axis is taken
    off, the largest difference, and the share of rows whose highest element is the same (null: rows of one). 1e300
    stands for infinity: other shapes, or NaN on one side."""

    name: str
    shape: tuple[int, ...]
    relative: Annotated[float, Meta(ge=0)]
    centred: Annotated[float, Meta(ge=0)]
    largest: Annotated[float, Meta(ge=0)]
    agreement: Annotated[float, Meta(ge=0, le=1)] | None = None


class PlanDiff(_Part, frozen=True, kw_only=True):
    """Everything. `same_model` is null where a plan does not say what it was built from; `not_run` says why speed and
    outputs are not there; `device` is the machine they are of."""

    schema: Annotated[int, Meta(ge=1)] = SCHEMA
    date: str
    a: Side
    b: Side
    same_model: bool | None
    layers: tuple[Layer, ...]
    speed: Speed | None = None
    outputs: tuple[Output, ...] = ()
    inputs: str = ""
    device: str = ""
    not_run: str = ""

    def count(self, state: str) -> int:
        """How many layers are `same`, `changed`, `only a` or `only b`."""
        return sum(layer.state == state for layer in self.layers)


def diff(a: Plan, b: Plan, feeds: Mapping[str, np.ndarray] | None = None, *, labels: tuple[str, str] = ("A", "B"),
         inputs: str = "", force: bool = False, seconds: float = 2.0, threads: int | None = None,
         progress: Callable[[str, int, int], None] = lambda what, done, total: None) -> PlanDiff:
    """What changed from plan a to plan b.

    feeds:   inputs that both are run on, for speed and outputs; None: they are not run. `inputs` says what they are.
    force:   compare plans of different models, too; the result says that they are.
    seconds: that the slower plan is timed for.

    InputError where the models differ. A plan that cannot run here (built for other hardware, or inputs that do not
    fit) is no error: the rest is told, and `not_run` says why that is missing.
    """
    x, y = side(a, labels[0]), side(b, labels[1])
    known = bool(x.model_sha256 and y.model_sha256)
    same = x.model_sha256 == y.model_sha256 if known else None
    if same is False and not force:
        raise InputError("the plans are of different models", where=", ".join(labels),
                         why=f"{x.model} has SHA-256 {x.model_sha256[:16]}, {y.model} has {y.model_sha256[:16]}",
                         do="compare plans of one model, or say --force (the result is labelled)")
    speed: Speed | None = None
    outputs: tuple[Output, ...] = ()
    not_run = "" if feeds is not None else "not asked for"
    if feeds is not None:
        try:
            speed, outputs = _run(a, b, feeds, seconds, threads, progress)
        except WhetError as e:
            not_run = f"{e.what}{f' ({e.why})' if e.why else ''}"
    return PlanDiff(date=now(), a=x, b=y, same_model=same, layers=layers(a, b), speed=speed, outputs=outputs,
                    inputs=inputs, device=this_device().name if speed else "", not_run=not_run)


def side(plan: Plan, label: str) -> Side:
    """One plan's facts, from what it says of itself."""
    s = plan.summary()
    model, target, precision = s.get("model", {}), s["target"], s.get("precision", {})
    device = target.get("device") or {}
    counts: dict[str, int] = {}
    for layer in s.get("layers", ()):
        if layer.get("precision"):
            name = _precision(str(layer["precision"]))
            counts[name] = counts.get(name, 0) + 1
    return Side(label=label, hash=plan.hash, model=str(model.get("name", "")),
                model_sha256=str(model.get("sha256", "")), precision=str(precision.get("compute", "")),
                target=f"{device.get('name') or target['arch']} {target['isa']}", threads=int(s["threads"]),
                bytes=int(s["bytes"]), weights=int(s["weight_bytes"]), code=int(s["code_bytes"]),
                arena=int(s["arena_bytes"]), launches=int(s["launches"]), layers=counts,
                profile={n: (p["min"], p["opt"], p["max"]) for n, p in s["profile"].items()},
                versions={"whet": str(s.get("whet", "")), **{k: str(v) for k, v in s.get("versions", {}).items()}},
                signed_by=s["signed_by"])


def layers(a: Plan, b: Plan) -> tuple[Layer, ...]:
    """Layers matched by name (the first of a name with the first, and so on), in a's order, b's own after the layer
    that they follow there."""
    ours, theirs = _forms(a), _forms(b)
    places = {key: i for i, (key, _) in enumerate(ours)}
    after: dict[int, list[Layer]] = {}
    last = -1
    for key, form in theirs:
        if key in places:
            last = places[key]
        else:
            after.setdefault(last, []).append(Layer(name=key[0], a=None, b=form))
    found = dict(theirs)
    out = list(after.get(-1, ()))
    for i, (key, form) in enumerate(ours):
        other = found.get(key)
        changed = () if other is None else tuple(f for f in ("kind", "precision", "tactic", "params")
                                                 if getattr(form, f) != getattr(other, f))
        out.append(Layer(name=key[0], a=form, b=other, changed=changed))  # type: ignore[arg-type]
        out += after.get(i, ())
    return tuple(out)


def _forms(plan: Plan) -> list[tuple[tuple[str, int], Form]]:
    """Layers by (name, which of that name)."""
    tuned: Sequence[Mapping[str, Any]] = plan.evidence.get("tuning", ())
    seen: dict[str, int] = {}
    out = []
    for layer in plan.summary().get("layers", ()):
        name = str(layer["name"])
        which = seen[name] = seen.get(name, -1) + 1
        launch = layer.get("launch")
        known = tuned[launch] if isinstance(launch, int) and 0 <= launch < len(tuned) else {}
        out.append(((name, which), Form(kind=str(layer["kind"]), precision=_precision(str(layer.get("precision", ""))),
                                        tactic=str(layer.get("tactic", "")), params=dict(layer.get("params", {})),
                                        seconds=known.get("seconds"))))
    return out


def _precision(compute: str) -> str:
    return {"f32": "fp32", "f16": "fp16", "f8": "fp8"}.get(compute, compute)


def _run(a: Plan, b: Plan, feeds: Mapping[str, np.ndarray], seconds: float, threads: int | None,
         progress: Callable[[str, int, int], None]) -> tuple[Speed, tuple[Output, ...]]:
    opened: list[Backend] = []
    try:
        for name, plan in (("A", a), ("B", b)):
            progress(f"loading plan {name}", 0, 0)
            opened.append(open_whet(plan, feeds, threads=threads))
        x, y = (backend.run() for backend in opened)
        outputs = tuple(_output(name, x[name], y[name]) for name in x if name in y)
        progress("timing both in turns", 0, 0)
        series = alternate({"a": opened[0].run, "b": opened[1].run}, seconds=seconds)
    finally:
        for backend in opened:
            backend.close()
    ratio = stats.ratio_of_medians(series["a"].rounds, series["b"].rounds)
    medians = [float(np.median(series[k].samples)) for k in "ab"]
    return Speed(a=medians[0], b=medians[1], ratio=ratio.value, low=ratio.low, high=ratio.high,
                 rounds=len(series["a"].rounds)), outputs


def _output(name: str, a: Any, b: Any) -> Output:
    x, y = np.asarray(a), np.asarray(b)
    if x.shape != y.shape or x.dtype.kind in "OUS":
        same = x.shape == y.shape and np.array_equal(x, y)
        return Output(name=name, shape=x.shape, relative=0.0 if same else NOT_COMPARABLE,
                      centred=0.0 if same else NOT_COMPARABLE, largest=0.0 if same else NOT_COMPARABLE)
    x, y = x.astype(np.float64), y.astype(np.float64)
    rows = x.ndim > 0 and x.shape[-1] > 1 and x.size > 0
    with np.errstate(invalid="ignore"):
        largest = float(np.max(np.where((x == y) | (np.isnan(x) & np.isnan(y)), 0.0, np.abs(x - y)), initial=0.0))
    return Output(name=name, shape=x.shape, relative=_finite(relative_l2(y, x)),
                  centred=_finite(centred_error(y, x) if rows else relative_l2(y, x)), largest=_finite(largest),
                  agreement=float((x.argmax(axis=-1) == y.argmax(axis=-1)).mean()) if rows else None)


def _finite(x: float) -> float:
    return x if math.isfinite(x) else NOT_COMPARABLE


def encode(found: PlanDiff) -> bytes:
    """As indented JSON. `schema` is written always."""
    return msgspec.json.format(msgspec.json.encode({"schema": found.schema, **msgspec.to_builtins(found)}),
                               indent=1) + b"\n"


def schema() -> dict[str, Any]:
    """The JSON Schema, as packaged."""
    return contract.packaged("whet.compare", SCHEMA_FILE)


def generate_schema() -> dict[str, Any]:
    """The JSON Schema that the types say; what is packaged must equal it."""
    return contract.generated(f"whet plan diff {SCHEMA}", PlanDiff)


if __name__ == "__main__":  # python -m whet.compare.diff > src/whet/compare/plan-diff-1.schema.json
    print(json.dumps(generate_schema(), indent=1))
