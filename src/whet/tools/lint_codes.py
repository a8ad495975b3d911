"""What `whet lint` can find: a stable code for each kind of fault, and the record of one."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib import resources
from typing import Any, Literal

Severity = Literal["error", "warning", "note"]
SCHEMA_VERSION = 1
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


@dataclass(frozen=True)
class Rule:
    """A kind of finding. `severity` is its usual one: an error would stop a build (or, of a plan, a load)."""

    code: str
    severity: Severity
    title: str
    about: str


@dataclass(frozen=True)
class Finding:
    """One fault.

    code:  names its kind (`RULES`), stable. severity: `error`, `warning` or `note`.
    node:  the node, tensor, input or dimension, as the model calls it; empty for the whole model.
    op:    the node's operator, where it is a node.
    what:  what was found; why: why that matters, with the evidence; do: what to do about it.
    data:  figures for programs (`share`, `bytes`, `elements`...): numbers, strings, and lists of these.
    """

    code: str
    severity: Severity
    node: str
    what: str
    why: str = ""
    do: str = ""
    op: str = ""
    data: dict[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The kind of fault in words."""
        return RULES[self.code].title


def finding(code: str, node: str, what: str, why: str = "", do: str = "", *, op: str = "",
            severity: Severity | None = None, **data: Any) -> Finding:
    """A finding of a kind, with its usual severity unless another is given."""
    return Finding(code, severity or RULES[code].severity, node, what, why, do, op, data)


_FAMILIES: dict[str, tuple[tuple[str, Severity, str, str], ...]] = {
    "The graph is not valid": (
        ("L101", "error", "unknown operator", "No such operator in the opset that the model imports, nor in whet."),
        ("L102", "error", "wrong number of inputs", "Fewer or more inputs than the operator takes."),
        ("L103", "error", "wrong number of outputs", "Fewer or more outputs than the operator gives."),
        ("L104", "error", "missing attribute", "A required attribute is not there."),
        ("L105", "error", "wrong attribute", "An attribute that the operator does not have, or of another type."),
        ("L106", "error", "undefined name", "A node reads what no input, initializer or node gives."),
        ("L107", "error", "name defined twice", "Two inputs, initializers, outputs or nodes define one name."),
        ("L108", "error", "cycle", "A node's input depends on its own output."),
        ("L109", "error", "types do not fit", "The operator does not take these element types, or not together."),
        ("L110", "error", "shapes do not fit", "Operands whose shapes, axes or values the operator cannot take."),
        ("L111", "error", "output not computed", "Nothing computes an output of the graph."),
        ("L112", "error", "input without a type", "An input whose type the model does not state."),
        ("L113", "error", "opset not known", "An opset that is too new, or not imported."),
        ("L114", "error", "declared otherwise", "An output is declared as another type than is computed."),
        ("L115", "error", "broken local function", "The model's functions cannot be put in the place of their calls."),
        ("L116", "note", "node name used twice", "Messages and profiles cannot tell the nodes apart."),
        ("L117", "error", "graph refused", "A fault of the whole graph that is none of the others."),
    ),
    "What becomes of it": (
        ("L201", "error", "not supported", "whet cannot build a plan with this node, not even by a reference kernel."),
        ("L202", "warning", "reference kernel", "The node runs on the host by a reference kernel, which is slow."),
        ("L203", "note", "control flow on the host", "The host decides what runs next."),
        ("L204", "note", "old opset", "The model is converted to a newer opset first."),
        ("L205", "warning", "dynamic dimension without a profile", "Its range is a guess."),
        ("L206", "note", "size that depends on data", "Known while the model runs; the bound may be generous."),
        ("L207", "warning", "large cast of its own", "A conversion that no neighbour takes in: a pass over memory."),
        ("L208", "note", "large copy of its own", "A transposition or copy that no neighbour takes in."),
        ("L209", "warning", "very large tensor", "A tensor of a size that memory may not hold."),
        ("L210", "note", "input of unknown rank", "A shape must be given to build the model."),
        ("L211", "note", "plugin", "The node runs on the host by a function that a plugin brings."),
    ),
    "Weights": (
        ("L301", "error", "external data missing", "The file with a weight's data is missing, short or elsewhere."),
        ("L302", "error", "data does not fit", "A weight's data does not fit its type or shape."),
        ("L303", "warning", "NaN in weights", "What they touch becomes NaN."),
        ("L304", "warning", "infinity in weights", "Products with zero, and differences, become NaN."),
        ("L305", "warning", "subnormal weights", "Slow on many CPUs, and lost where they are flushed to zero."),
        ("L306", "note", "dead weights", "Filters, rows or whole tensors of zeros: computed for nothing."),
        ("L307", "note", "unused weight", "No node reads it: only bytes in the file."),
        ("L308", "note", "duplicate weights", "The same bytes more than once."),
    ),
    "Numbers": (
        ("L401", "note", "beyond 32 bits", "whet keeps 64-bit integers; runtimes that narrow them change the value."),
        ("L402", "warning", "overflowing cast", "Values do not fit the type that they are cast to."),
        ("L403", "note", "fp16: weight overflows", "Beyond 65504, the largest finite fp16 number."),
        ("L404", "note", "fp16: constant becomes infinite", "A mask such as -1e9 is -inf in fp16."),
        ("L405", "note", "fp16: constant vanishes", "Below 6e-8 it is zero in fp16, and no longer guards a division."),
        ("L406", "note", "fp16: long sum", "The sum of so many numbers overflows at a small mean."),
        ("L407", "note", "fp16: steep function", "exp, powers and squares overflow for moderate inputs."),
        ("L408", "warning", "fp16: overflow seen", "On the given inputs, values go beyond 65504."),
        ("L409", "warning", "NaN or infinity seen", "On the given inputs, a value is not finite."),
    ),
    "Dead ends": (
        ("L501", "note", "unused input", "No node reads it."),
        ("L502", "note", "unreachable node", "No output depends on it."),
    ),
    "Plans": (
        ("L601", "error", "made for another machine", "whet.load refuses the plan here."),
        ("L602", "warning", "steps on the host", "Python between native stretches: reference kernels, control flow."),
        ("L603", "note", "copies", "Steps that only rearrange memory."),
        ("L604", "note", "tactics not measured", "Chosen by the cost model alone."),
        ("L605", "warning", "precision not as asked", "A precision that was allowed is emulated or was left out."),
        ("L606", "note", "not signed", "A plan holds machine code; nobody vouches for this one."),
        ("L607", "warning", "more threads than cores", "The partition was tuned for threads that are not here."),
    ),
}
RULES: dict[str, Rule] = {r[0]: Rule(*r) for family in _FAMILIES.values() for r in family}


def table() -> str:
    """The codes as Markdown, family by family: what docs/lint.md holds."""
    out = []
    for name, rules in _FAMILIES.items():
        out += [f"### {name}", "", "| code | severity | finding | |", "|---|---|---|---|"]
        out += [f"| {code} | {severity} | {title} | {about} |" for code, severity, title, about in rules]
        out.append("")
    return "\n".join(out)


def stops(findings: Sequence[Finding]) -> bool:
    """True if one of them would stop a build."""
    return any(f.severity == "error" for f in findings)


def document(model: str, found: Sequence[Finding]) -> dict[str, Any]:
    """The findings as JSON data that keeps `schema()`."""
    counts = Counter(f.severity for f in found)
    return {"schema": SCHEMA_VERSION, "model": model, "counts": {s: counts[s] for s in SEVERITIES},
            "stops": stops(found), "findings": [{**asdict(f), "title": f.title} for f in found]}


def encode(data: dict[str, Any]) -> bytes:
    """JSON text, indented, with a newline at its end."""
    return json.dumps(data, indent=1).encode() + b"\n"


def schema() -> dict[str, Any]:
    """The JSON Schema of `document`."""
    return json.loads(resources.files("whet.tools").joinpath("lint-1.schema.json").read_text("utf-8"))
