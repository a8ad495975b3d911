"""Results that are not measurements: what a gate, a forecast, a comparison or a calculation said, and builds that
failed. Their bodies are the JSON that the commands write, each with a schema of its own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from whet.errors import InputError
from whet.measure.series import LONGEST

KINDS = ("gate", "failure", "forecast", "comparison", "roi")
MOST_BYTES = 8 << 20  # of one body, as JSON
FORMAT = "whet results"  # what a file of them says that it is
SCHEMA = 1


@dataclass(frozen=True)
class Kept:
    """A result: its kind (of KINDS), the model's name (empty where it is of none or of several), its date, its body.

    `id` is its number in the store; 0 where it is in none.
    """

    kind: str
    model: str
    at: datetime
    body: dict[str, Any]
    id: int = 0


@dataclass(frozen=True)
class Row:
    """A result that was checked, as it is written; equal results have equal digests."""

    digest: str
    kind: str
    model: str
    at: datetime
    body: str


def row(kind: str, body: Mapping[str, Any], model: str, at: datetime) -> Row:
    """A result, checked. InputError for a kind that there is not, a body that is not JSON (NaN is not) or larger than
    8 MiB, and a name longer than what an index holds."""
    if kind not in KINDS:
        raise InputError(f"no results of kind {kind[:40]!r}", why=f"there are {', '.join(KINDS)}",
                         do="choose among these")
    where = f"{kind} of {model[:80]}" if model else kind
    if len(model) > LONGEST["model"]:
        raise InputError(f"a model's name of {len(model)} characters", where=where,
                         why=f"names are of {LONGEST['model']} at most", do="shorten it")
    try:
        text = json.dumps(body, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as e:
        raise InputError("a result that is not JSON", where=where, why=str(e),
                         do="NaN and infinity have no place in it") from e
    if not text.startswith("{"):
        raise InputError("a result that is no JSON object", where=where, do="give a mapping")
    if len(text) > MOST_BYTES:
        raise InputError("a result too large to keep", where=where,
                         why=f"{len(text):,} bytes; at most {MOST_BYTES:,} are kept", do="leave samples out")
    utc = (at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone(UTC)
    same = json.dumps([kind, model, utc.isoformat(), json.loads(text)], sort_keys=True)
    return Row(hashlib.sha256(same.encode()).hexdigest(), kind, model.replace("\0", "\N{REPLACEMENT CHARACTER}"), utc,
               text)


def encode(results: Sequence[Kept]) -> bytes:
    """A file of results, which `whet record` reads."""
    rows = [{"kind": r.kind, "model": r.model, "at": r.at.isoformat(), "body": r.body} for r in results]
    return json.dumps({"format": FORMAT, "schema": SCHEMA, "results": rows}, indent=1).encode() + b"\n"


def is_ours(whole: object) -> bool:
    """True of the JSON of a file of results."""
    return isinstance(whole, dict) and whole.get("format") == FORMAT


def of_json(whole: Mapping[str, Any], where: str) -> list[Kept]:
    """The results of a file. InputError if it is damaged, or of a newer whet."""
    schema, rows = whole.get("schema"), whole.get("results")
    if not isinstance(schema, int) or not isinstance(rows, list):
        raise InputError("damaged results", where=where, why="no schema, or no list of results",
                         do="check that the file is whole")
    if schema > SCHEMA:
        raise InputError("the results are of a newer whet", where=where,
                         why=f"schema {schema}, this whet reads up to {SCHEMA}", do="update whet")
    out = []
    for i, found in enumerate(rows):
        try:
            kept = Kept(found["kind"], found["model"], datetime.fromisoformat(found["at"]), found["body"])
            row(kept.kind, kept.body, kept.model, kept.at)
        except (InputError, KeyError, TypeError, ValueError, AttributeError, OverflowError) as e:
            why = e.what if isinstance(e, InputError) else f"{type(e).__name__}: {e}"
            raise InputError(f"a damaged result, number {i + 1} of {len(rows)}", where=where, why=why,
                             do="check that the file is whole") from e
        out.append(kept)
    return out
