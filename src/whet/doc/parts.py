"""What a document consists of, whatever it is written as."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

LONGEST = 400  # characters of a value; longer ones are cut, with their hash
LONGEST_COMMAND = 16_000
MOST = 40  # values of a list


class Mono(str):
    """Text in the letters of code: names, hashes, options."""


@dataclass(frozen=True)
class Table:
    """Rows of cells; a row is found again by its first `keys` cells."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    keys: int = 1


@dataclass(frozen=True)
class Node:
    """A stage, or what it reads or writes (`data`)."""

    ident: str
    label: str
    note: str = ""
    data: bool = False


@dataclass(frozen=True)
class Flow:
    """Stages, and what goes from where to where; every edge leads to a later node."""

    nodes: tuple[Node, ...]
    edges: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Items:
    """A list."""

    items: tuple[str, ...]


@dataclass(frozen=True)
class Command:
    """Lines for a shell."""

    text: str


Part = Table | Flow | Text | Items | Command


@dataclass(frozen=True)
class Block:
    """A generated part of a document with its heading; `name` is what its markers say."""

    name: str
    heading: str
    parts: tuple[Part, ...]
    level: int = 2


@dataclass(frozen=True)
class Document:
    """Blocks in order. `front`: the front matter of a model card, `given`: what a person said for it, by name."""

    title: str
    lang: str
    blocks: tuple[Block, ...]
    front: Mapping[str, Any] | None = None
    given: tuple[tuple[str, str], ...] = ()


def visible(text: object, longest: int = LONGEST) -> str:
    """The text without what does not show or turns writing around: those characters by their number. At most `longest`
    characters, with the hash of the whole where it is longer."""
    whole = str(text)
    found = "".join(c if unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
                    else f"<U+{ord(c):04X}>" for c in whole[:longest])
    if len(found) <= longest and len(whole) <= longest:
        return found
    return f"{found[:longest // 2]}… ({len(whole):,} characters, SHA-256 {digest(whole)})"


def listed(values: Iterable[object], more: str = "…") -> str:
    """Values with commas between them; of more than `MOST` the first, how many there are, and their hash."""
    texts = [str(v) for v in values]
    rest = texts[MOST:]
    told = [f"{more} {len(texts):,} (SHA-256 {digest(chr(10).join(texts))})"] if rest else []
    return ", ".join([*texts[:MOST], *told])


def digest(text: str) -> str:
    """The first 16 digits of a text's SHA-256."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
