"""What of an environment is not as its lock says, and what restores it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from whet.lock.matrix import Lock

Kind = Literal["python", "package", "library", "machine"]


class Difference(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One version; empty where it is not locked, or not here."""

    kind: Kind
    name: str
    locked: str
    found: str


class Check(Struct, frozen=True, kw_only=True):
    """All of it. `held`: what is locked is here, and nothing else of what whet uses; the machine counts if asked."""

    schema: Annotated[int, Meta(ge=1)] = 1
    held: bool
    differences: tuple[Difference, ...]
    restore: Annotated[tuple[str, ...], Meta(description="commands that bring the packages back")]


def check(locked: Lock, found: Lock, machine: bool = False) -> Check:
    """Compare an environment with its lock. machine: differences of processor and system count, too."""
    pairs: list[Difference] = []
    if locked.python != found.python:
        pairs.append(Difference(kind="python", name="python", locked=locked.python, found=found.python))
    pairs += _differ("package", locked.packages, found.packages)
    pairs += _differ("library", locked.libraries, found.libraries)
    counted = len(pairs)
    pairs += _differ("machine", msgspec.to_builtins(locked.machine), msgspec.to_builtins(found.machine))
    if machine:
        counted = len(pairs)
    return Check(held=counted == 0, differences=tuple(pairs), restore=restore(pairs))


def _differ(kind: Kind, locked: Mapping[str, str], found: Mapping[str, str]) -> list[Difference]:
    return [Difference(kind=kind, name=name, locked=locked.get(name, ""), found=found.get(name, ""))
            for name in sorted({*locked, *found}) if locked.get(name, "") != found.get(name, "")]


def restore(differences: list[Difference]) -> tuple[str, ...]:
    """The pip lines that bring back the packages; none for what pip does not install."""
    packages = [d for d in differences if d.kind == "package"]
    wanted = [f"'{d.name}=={d.locked}'" for d in packages if d.locked]
    spare = [d.name for d in packages if not d.locked]
    return tuple(f"pip {words}" for words in (f"install {' '.join(wanted)}" if wanted else "",
                                              f"uninstall --yes {' '.join(spare)}" if spare else "") if words)
