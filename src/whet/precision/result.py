"""What a search for precision found: plain data, written by the search, read by the report and by other programs.

Times are in seconds, sizes in bytes. `value` is in the metric's own scale (a top-1 of 0.913 is 91.3 %); losses, their
bounds and the budget are in the metric's `unit`, as `--max-drop` is: points (hundredths) for shares and similarities,
percent of the reference's for errors.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from whet.errors import InputError
from whet.measure.record import Device

SCHEMA = 1
State = Literal["held", "not held", "undecided"]


class _Record(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    pass


class Timing(_Record, frozen=True, kw_only=True):
    """Median seconds of one call, with its 95 % interval."""

    seconds: float
    low: float | None = None
    high: float | None = None


class Candidate(_Record, frozen=True, kw_only=True):
    """One plan that was built and measured: a point of latency x loss.

    `value_low` and `value_high` bound the metric at 95 %; `bound` is the one-sided upper 95 % bound of `loss`. None
    where one was not, or could not be, computed; an infinite loss is None in the file.
    """

    label: str
    latency: Timing
    value: float | None = None
    value_low: float | None = None
    value_high: float | None = None
    loss: float | None = None
    bound: float | None = None
    plan_bytes: int | None = None
    layers: dict[str, int] = {}  # with products, by the precision they run in: {"int8": 40, "fp32": 13}
    state: State | None = None


class Sensitivity(_Record, frozen=True, kw_only=True):
    """One layer alone in a lower precision: what that loses, and what it saves."""

    layer: str
    kind: str
    precision: str
    loss: float | None = None
    divergence: float | None = None  # relative L2 of the outputs: finer than the loss of a metric that counts
    saved: float | None = None  # seconds a call, conversions counted; negative where it is slower here


class Layer(_Record, frozen=True, kw_only=True):
    """One layer of the chosen plan: the precision it runs in, why, and what that saves against the reference."""

    layer: str
    kind: str
    precision: str
    reason: str = ""
    seconds: float | None = None
    saved: float | None = None


class Kept(_Record, frozen=True, kw_only=True):
    """A layer that was to be in a lower precision and is not, or not in the lowest, with the reason."""

    layer: str
    precision: str
    reason: str


class Coverage(_Record, frozen=True, kw_only=True):
    """What calibration saw, and what it warns of, in sentences."""

    method: str = ""
    samples: int = 0
    batches: int = 0
    lines: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


class Judgement(_Record, frozen=True, kw_only=True):
    """The final verdict on the chosen plan (on the nearest one, if none is chosen)."""

    state: State
    sentence: str
    needed: int | None = None  # samples that would decide it, where it is undecided


class SearchResult(_Record, frozen=True, kw_only=True):
    """All of it. `candidates[reference]` is the plan that losses are counted from; `chosen` is None where no candidate
    meets the budget, and `nearest` then names the one that comes nearest."""

    schema: int = SCHEMA
    date: str
    model: str
    model_sha256: str = ""
    metric: str
    unit: str = "points"
    max_drop: float
    samples: int
    threads: int
    shapes: dict[str, tuple[int, ...]] = {}
    device: Device
    versions: dict[str, str] = {}
    candidates: tuple[Candidate, ...]
    reference: int = 0
    chosen: int | None = None
    nearest: int | None = None
    judgement: Judgement | None = None
    sensitivity: tuple[Sensitivity, ...] = ()
    layers: tuple[Layer, ...] = ()
    kept: tuple[Kept, ...] = ()
    coverage: Coverage = Coverage()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for index in (self.reference, self.chosen, self.nearest):
            if index is not None and not 0 <= index < len(self.candidates):
                raise ValueError(f"no candidate {index} of {len(self.candidates)}")

    def encode(self) -> bytes:
        """JSON, indented; `schema` is written always. Numbers that are not finite become null."""
        fields = {"schema": self.schema, **msgspec.to_builtins(self)}
        return msgspec.json.format(msgspec.json.encode(fields), indent=1) + b"\n"


def decode(data: bytes, where: str = "") -> SearchResult:
    """A result from its JSON. InputError if it is none, or is of a newer schema."""
    try:
        raw = msgspec.json.decode(data)
        if isinstance(raw, dict) and isinstance(raw.get("schema"), int) and raw["schema"] > SCHEMA:
            raise InputError("the result is of a newer whet", where=where,
                             why=f"schema {raw['schema']}, this whet reads up to {SCHEMA}", do="update whet")
        return msgspec.convert(raw, SearchResult)
    except (msgspec.DecodeError, RecursionError, TypeError) as e:
        raise InputError("not the result of a search for precision", where=where, why=str(e),
                         do="whet build --best --eval ... writes one") from e


def read(path: Path) -> SearchResult:
    """The result in a file. InputError if it is not there or is none."""
    try:
        data = path.read_bytes()
    except OSError as e:
        raise InputError("the result cannot be read", where=str(path), why=e.strerror or str(e),
                         do="check the path") from e
    return decode(data, str(path))
