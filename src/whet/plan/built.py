"""How a plan came about: what `whet build` was asked, and the stages that ran. In the trailer, outside of the hash:
paths and the order of the work may differ between builds of equal plans."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from whet.errors import PlanFormatError

SCHEMA = 1
KEY = "build"  # of the plan's evidence

Value = int | float | str


class Stage(Struct, frozen=True, omit_defaults=True):
    """A stage that ran: its name (`read`, `clean`, `calibrate`...) and what it did, as figures."""

    name: str
    figures: dict[str, Value] = {}


class Built(Struct, frozen=True, kw_only=True):
    """What a build was asked, by the names of `whet.yaml`, and its stages in the order in which they ran.

    objects: what was given as an object in Python (arrays, a module), which no command line can name.
    """

    schema: int = SCHEMA
    date: str = ""
    asked: dict[str, Any] = {}
    objects: tuple[str, ...] = ()
    stages: tuple[Stage, ...] = ()


def of(evidence: dict[str, Any], where: str = "") -> Built | None:
    """What a plan's evidence says of its build; None for plans of a whet that did not record it.

    PlanFormatError where it cannot be read.
    """
    found = evidence.get(KEY)
    if found is None:
        return None
    try:
        built = msgspec.convert(found, Built)
    except (msgspec.ValidationError, RecursionError) as e:
        raise PlanFormatError("the plan's record of its build cannot be read", where=where, why=str(e),
                              do="build the plan anew") from e
    if built.schema > SCHEMA:
        raise PlanFormatError("the plan's record of its build is of a newer whet", where=where,
                              why=f"schema {built.schema}, this whet reads up to {SCHEMA}", do="update whet")
    return built
