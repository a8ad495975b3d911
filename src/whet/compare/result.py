"""What a comparison found: one record for each cell, what differs, and what is recommended.

`compare-1.schema.json` beside this file is the contract (JSON Schema 2020-12). Times are in seconds, memory in bytes.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from whet.measure import contract
from whet.measure.record import Measurement

SCHEMA = 1
SCHEMA_FILE = f"compare-{SCHEMA}.schema.json"
State = Literal["ranked", "dominated", "not met", "not shown", "not known"]
Verdict = Literal["faster", "slower", "no difference that matters", "undecided"]


class _Part(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class Failure(_Part, frozen=True, kw_only=True):
    """What went wrong, as the error says it; `stack` is where, innermost last."""

    code: str
    what: str
    why: str = ""
    stack: tuple[str, ...] = ()


class Build(_Part, frozen=True, kw_only=True):
    """One build of a cell, loaded and timed. `rounds` are the medians of its rounds, in the order of the session, in
    which all cells that took turns have the same number of rounds."""

    seconds: float | None
    load_seconds: float | None
    plan: str
    rounds: tuple[float, ...]
    samples: tuple[float, ...]
    calls: int


class Row(_Part, frozen=True, kw_only=True):
    """One cell. `record` is None where it failed; `place` is "here", a server's URL or another host's name."""

    key: str
    backend: str
    precision: str
    batch: int
    threads: int | None
    place: str = "here"
    detail: Annotated[str, Meta(description="how it was made, where that is not plain")] = ""
    record: Measurement | None = None
    builds: tuple[Build, ...] = ()
    size_bytes: Annotated[int | None, Meta(description="of the plan or model file that is deployed")] = None
    failure: Failure | None = None


class Difference(_Part, frozen=True, kw_only=True):
    """The ratio of a baseline's latency to a cell's: over 1, the cell is faster. `p` tests "the ratio is 1",
    `adjusted_p` is Holm's over all differences of the comparison."""

    key: str
    baseline: str
    ratio: float
    low: float
    high: float
    p: float
    adjusted_p: float
    verdict: Verdict
    builds: int
    rounds: int


class Constraint(_Part, frozen=True, kw_only=True):
    """`p99<0.02` or `vendor=nvidia`, as it was stated and as it is understood (SI units)."""

    text: str
    criterion: str
    relation: Literal["<", ">", "="]
    bound: float | str


class Ranked(_Part, frozen=True, kw_only=True):
    """A cell in the ranking. `first` is the share of draws of the measurements in which it comes first, `first_weights`
    that of draws of measurements and weights. Cells that are not ranked say why."""

    key: str
    rank: int | None
    score: float | None
    front: bool
    state: State
    why: str = ""
    first: float | None = None
    first_weights: float | None = None
    mean_rank: float | None = None


class Recommendation(_Part, frozen=True, kw_only=True):
    """What is recommended (None: nothing) from these weights and constraints."""

    chosen: str | None
    weights: dict[str, float]
    loss_scale: Annotated[float, Meta(description="a loss of so much weighs like a factor of e in the others")]
    loss_unit: str
    constraints: tuple[Constraint, ...]
    ranking: tuple[Ranked, ...]
    draws: int
    state: Literal["recommended", "nothing meets the constraints", "undecided"]


class Citation(_Part, frozen=True, kw_only=True):
    """A figure that somebody else states."""

    option: str
    column: str
    value: str
    source: str
    date: str
    link: str
    stale: bool = False


class LeftOut(_Part, frozen=True, kw_only=True):
    """What was asked for and is not measured."""

    kind: str
    why: str


class Result(_Part, frozen=True, kw_only=True):
    """All of it."""

    schema: Annotated[int, Meta(ge=1)] = SCHEMA
    date: str
    model: str
    sha256: str
    target: str
    inputs: Annotated[str, Meta(description="what the cells were run on")]
    baseline: str
    gate: Annotated[float, Meta(ge=0, description="ratios nearer to 1 than this do not matter")]
    mixed_hardware: bool
    rows: tuple[Row, ...]
    differences: tuple[Difference, ...]
    recommendation: Recommendation
    citations: tuple[Citation, ...]
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...]

    def encode(self) -> bytes:
        """As JSON, indented."""
        return msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n"


def schema() -> dict[str, Any]:
    """The JSON Schema, as packaged."""
    return contract.packaged("whet.compare", SCHEMA_FILE)


def generate_schema() -> dict[str, Any]:
    """The JSON Schema that the types say; what is packaged must equal it."""
    return contract.generated(f"whet comparison {SCHEMA}", Result)


if __name__ == "__main__":  # python -m whet.compare.result > src/whet/compare/compare-1.schema.json
    print(json.dumps(generate_schema(), indent=1))
