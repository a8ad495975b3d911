"""A document as Markdown: generated blocks between markers, which carry the checksum of what whet wrote.

    <!-- whet:begin configuration lang=en -->
    ...
    <!-- whet:end configuration 0123456789abcdef -->

A model card's front matter is YAML, so its markers are comments there (`# whet:begin card`, `# whet:end card`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from whet.doc.parts import Block, Command, Document, Flow, Items, Mono, Part, Table, Text, digest

FRONT = "card"  # the name of the front matter's block
_SPECIAL = re.compile(r"([\\`*_\[\]<>|~$#])")
_PLAIN = re.compile(r"[^`|\\\n]+")


def lines_of(document: Document) -> dict[str, list[str]]:
    """The lines of each block between its markers, by name; the front matter's under `FRONT`."""
    found = {FRONT: front_lines(document.front)} if document.front is not None else {}
    return {**found, **{b.name: block_lines(b) for b in document.blocks}}


def marked(name: str, lines: Sequence[str], lang: str, given: Sequence[tuple[str, str]] = ()) -> list[str]:
    """Lines with the block's markers around them."""
    if name == FRONT:
        said = "".join(f" {k}={v}" for k, v in given)
        return [f"# whet:begin {name}{said}", *lines, f"# whet:end {name} {checksum(lines)}"]
    return [f"<!-- whet:begin {name} lang={lang} -->", *lines, f"<!-- whet:end {name} {checksum(lines)} -->"]


def checksum(lines: Sequence[str]) -> str:
    """What an end marker says of the lines before it."""
    return digest("\n".join(lines))


def text_of(document: Document) -> str:
    """The whole file."""
    lines = lines_of(document)
    front = lines.pop(FRONT, None)
    out = ["---", *marked(FRONT, front, document.lang, document.given), "---", ""] if front is not None else []
    for name, found in lines.items():
        out += [*marked(name, found, document.lang), ""]
    return "\n".join(out[:-1]) + "\n"


def front_lines(front: Mapping[str, Any]) -> list[str]:
    """The front matter's fields as YAML."""
    import yaml

    said = yaml.safe_dump(dict(front), sort_keys=False, allow_unicode=True, default_flow_style=False, width=1 << 20)
    return said.rstrip("\n").split("\n")


def block_lines(block: Block) -> list[str]:
    """A block's lines, its heading first."""
    out = [f"{'#' * block.level} {escaped(block.heading)}"]
    for part in block.parts:
        out += ["", *_part(part)]
    return out


def _part(part: Part) -> list[str]:
    match part:
        case Table(columns, rows):
            return [_row(columns), "|" + "---|" * len(columns), *(_row(r) for r in rows)]
        case Flow():
            return ["```mermaid", *mermaid(part), "```"]
        case Text(text):
            return [escaped(text, code=True)]
        case Items(items):
            return [f"- {escaped(i)}" for i in items]
        case Command(text):
            return ["```sh", text, "```"]


def mermaid(flow: Flow) -> list[str]:
    """The flow in mermaid's language; labels are quoted, with entity codes for what means something in them."""
    out = ["flowchart TD"]
    for n in flow.nodes:
        label = _label(n.label) + (f"<br/>{_label(n.note)}" if n.note else "")
        out.append(f'  {n.ident}[("{label}")]' if n.data else f'  {n.ident}["{label}"]')
    return [*out, *(f"  {a} --> {b}" for a, b in flow.edges)]


def _label(text: str) -> str:
    return re.sub(r"[#\"<>&`\\]|%(?=%)|(?<=%)%", lambda m: f"#{ord(m[0])};", text)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(_cell(c) for c in cells)} |"


def _cell(text: str) -> str:
    if isinstance(text, Mono) and _PLAIN.fullmatch(text) and text == text.strip():
        return f"`{text}`"
    return escaped(text) or "–"


def escaped(text: str, code: bool = False) -> str:
    """The text with nothing in it that Markdown or HTML would read; `code`: `words in backticks` stay code."""
    if code:
        parts = re.split(r"(`[^`\n]+`)", text)
        return "".join(p if i % 2 else escaped(p) for i, p in enumerate(parts))
    found = _SPECIAL.sub(r"\\\1", text.replace("&", "&amp;"))
    return found.replace("\\<", "&lt;").replace("\\>", "&gt;")
