"""What a trial is told as: plain data with a schema (`trial-1.schema.json` beside this file; a test holds it equal).

Losses, bounds and margins are in `unit`: points (hundredths of a share), percent of the reference's value, or the
values' own (""); positive is worse for the candidate, b.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from whet.errors import InputError
from whet.measure import contract

SCHEMA = 1
SCHEMA_FILE = f"trial-{SCHEMA}.schema.json"

Unit = Literal["points", "percent", ""]
State = Literal["held", "not held", "undecided"]
Kind = Literal["paired shares", "shares", "paired means", "means", "quantiles", "runs", "metric"]
Stopping = Literal["once", "obrien-fleming", "pocock", "always-valid"]
Count = Annotated[int, Meta(ge=0)]


class _Record(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    pass


class Arm(_Record, frozen=True, kw_only=True):
    """One version: its samples and its figure, with a 95 % interval where there is one, in the metric's own scale."""

    label: str
    n: Annotated[int, Meta(ge=1)]
    value: float
    low: float | None = None
    high: float | None = None
    device: str = ""


class Cells(_Record, frozen=True, kw_only=True):
    """Pairs by who is right: both, the reference alone, the candidate alone, neither."""

    both: Count
    lost: Count
    gained: Count
    neither: Count


class Test(_Record, frozen=True, kw_only=True):
    """A test beside the bound that decides: its name, p-value, and statistic where it has one."""

    name: Literal["tango", "mcnemar-exact", "mcnemar-mid-p", "farrington-manning", "sample-ratio"]
    p: Annotated[float, Meta(ge=0, le=1)]
    statistic: float | None = None


class Span(_Record, frozen=True, kw_only=True):
    """A two-sided 95 % interval of the loss by a named method; null: unbounded."""

    method: Literal["tango", "miettinen-nurminen", "newcombe", "welch", "student", "bootstrap"]
    low: float | None
    high: float | None


class Look(_Record, frozen=True, kw_only=True):
    """One look: samples then (per group where groups are independent), share of the planned ones, the normal quantile
    that had to be exceeded, and the error rate that may have been used by then."""

    n: Annotated[float, Meta(gt=0)]
    fraction: Annotated[float, Meta(gt=0)]
    boundary: float | None = None
    spent: Annotated[float, Meta(ge=0, le=1)] | None = None


class Note(_Record, frozen=True, kw_only=True):
    """A remark: a code that reports have words for, and the figures in it."""

    code: str
    values: dict[str, str] = {}


class Trial(_Record, frozen=True, kw_only=True):
    """The analysis of a trial. `lower` and `upper` are one-sided bounds of the loss (null: unbounded), each wrong with
    a probability of 1 - `confidence` at most, over all looks; at this look they were taken at the level `level`.
    `needed` is how many samples in all would decide an undecided trial."""

    schema: Annotated[int, Meta(ge=1)] = SCHEMA
    date: str
    kind: Kind
    metric: str
    unit: Unit
    a: Arm
    b: Arm
    loss: float | None
    lower: float | None
    upper: float | None
    margin: Annotated[float, Meta(gt=0)]
    state: State
    higher_better: bool = True
    confidence: float
    level: float
    power: float
    n: Annotated[float, Meta(gt=0, description="samples that count: pairs, or the harmonic mean of both groups")]
    needed: Annotated[int, Meta(ge=1)] | None = None
    stopping: Stopping = "once"
    planned: Annotated[int, Meta(ge=1)] | None = None
    looks: tuple[Look, ...] = ()
    pairs: Cells | None = None
    tests: tuple[Test, ...] = ()
    intervals: tuple[Span, ...] = ()
    notes: tuple[Note, ...] = ()

    @property
    def exit_code(self) -> int:
        """0 held, 1 not held, 3 undecided."""
        return {"held": 0, "not held": 1, "undecided": 3}[self.state]

    @property
    def more(self) -> int | None:
        """Samples that an undecided trial still needs."""
        return None if self.needed is None else max(1, self.needed - int(self.n))


class Size(_Record, frozen=True, kw_only=True):
    """What n samples do: their power, and the least margin that they show with the power asked for."""

    n: Annotated[int, Meta(ge=1)]
    power: Annotated[float, Meta(ge=0, le=1)]
    margin: Annotated[float, Meta(description="negative where so much is expected to be gained")]


class Design(_Record, frozen=True, kw_only=True):
    """A planned trial: `n` samples (pairs, or of group a where groups are independent; group b has `ratio` times as
    many) decide it; `looks` are those at which it may end earlier, for which n is `inflation` times larger."""

    schema: Annotated[int, Meta(ge=1)] = SCHEMA
    kind: Kind
    unit: Unit
    margin: Annotated[float, Meta(gt=0)]
    loss: float
    confidence: float
    power: float
    assumed: dict[str, float]
    n: Annotated[int, Meta(ge=1)]
    ratio: Annotated[float, Meta(gt=0)] = 1.0
    sizes: tuple[Size, ...] = ()
    stopping: Stopping = "once"
    inflation: Annotated[float, Meta(ge=0)] = 1.0
    looks: tuple[Look, ...] = ()


def encode(record: Trial | Design) -> bytes:
    """As indented JSON. `schema` is written always."""
    return msgspec.json.format(msgspec.json.encode({"schema": record.schema, **msgspec.to_builtins(record)}),
                               indent=1) + b"\n"


def read_trial(path: Path) -> Trial:
    """A trial from the JSON that `encode` wrote. InputError if it is none, or a newer whet's."""
    try:
        data = path.read_bytes()
    except OSError as e:
        raise InputError("the trial cannot be read", where=str(path), why=e.strerror or str(e),
                         do="check the path") from e
    try:
        row = msgspec.json.decode(data)
        newest = row.get("schema", 1) if isinstance(row, dict) else 1
        if isinstance(newest, int) and newest > SCHEMA:
            raise InputError("the trial is of a newer whet", where=str(path),
                             why=f"schema {newest}, this whet reads up to {SCHEMA}", do="update whet")
        return msgspec.convert(row, Trial)
    except (msgspec.DecodeError, TypeError, RecursionError) as e:
        raise InputError("not the record of a trial", where=str(path), why=str(e),
                         do="give the JSON that `whet compare --ab --json` wrote") from e


def schema() -> dict[str, Any]:
    """The JSON Schema of trials and designs, as packaged."""
    return contract.packaged("whet.decide", SCHEMA_FILE)


def generate_schema() -> dict[str, Any]:
    """The JSON Schema that the types say; what is packaged must equal it."""
    return contract.generated(f"whet trial {SCHEMA}", Trial, Design)


if __name__ == "__main__":  # python -m whet.decide.trial_record > src/whet/decide/trial-1.schema.json
    print(json.dumps(generate_schema(), indent=1))
