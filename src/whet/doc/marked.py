"""Reading a Markdown file that holds generated blocks: where they are, and what is around them. Files are hostile."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from whet import data_file
from whet.doc.markdown import FRONT, checksum
from whet.errors import InputError

MOST_BYTES = 4 << 20
MOST_LINES = 50_000
DO = "mend the markers, or let `whet doc` write the document anew into another file"
_NAME = r"[a-z][A-Za-z0-9_.-]{0,99}"
_BEGIN = re.compile(rf"<!-- whet:begin ({_NAME}) lang=([a-z]{{2}}) -->")
_END = re.compile(rf"<!-- whet:end ({_NAME}) ([0-9a-f]{{16}}) -->")
_FRONT_BEGIN = re.compile(rf"# whet:begin {FRONT}((?: [a-z_]{{1,20}}=[A-Za-z0-9_./-]{{1,120}}){{0,9}})")
_FRONT_END = re.compile(rf"# whet:end {FRONT} ([0-9a-f]{{16}})")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})(.*)")
# HTML that Markdown takes literally, with what ends it (CommonMark 0.31, section 4.6, kinds 1, 3, 4 and 5).
_LITERAL = ((re.compile(r" {0,3}<(?:script|pre|style|textarea)(?:[\s>]|$)", re.I),
             re.compile(r"</(?:script|pre|style|textarea)>", re.I)),
            (re.compile(r" {0,3}<\?"), re.compile(r"\?>")), (re.compile(r" {0,3}<!\[CDATA\["), re.compile(r"\]\]>")),
            (re.compile(r" {0,3}<![A-Za-z]"), re.compile(">")))
_HIDDEN = re.compile("[\u00ad\u034f\u115f\u1160\u180e\u200b-\u200f\u2060-\u2064\ufe00-\ufe0f\ufeff\\s]")
_REFUSED = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u206f\ud800-\udfff]")


@dataclass(frozen=True)
class Marked:
    """A generated block as the file has it: its lines between the markers, which stand at `begin` and `end` (indices of
    the file's lines, from 0)."""

    name: str
    lang: str
    lines: tuple[str, ...]
    begin: int
    end: int
    checksum: str
    given: Mapping[str, str]

    @property
    def edited(self) -> bool:
        """True if these are not the lines that whet wrote."""
        return checksum(self.lines) != self.checksum


@dataclass(frozen=True)
class Page:
    """A Markdown file's lines, its blocks by (name, language), and where its front matter lies (both lines `---`)."""

    lines: tuple[str, ...]
    blocks: Mapping[tuple[str, str], Marked]
    front: tuple[int, int] | None
    newline: str
    where: str = ""

    @property
    def card(self) -> Marked | None:
        """The front matter's block."""
        return self.blocks.get((FRONT, ""))


def read(path: Path) -> Page:
    """A file's blocks. InputError: it cannot be read, is too large, is no text, hides something, or its markers or
    fences do not close."""
    try:
        if path.exists() and not path.is_file():
            raise InputError("this is not a file", where=str(path), do="name a Markdown file")
        if path.exists() and path.stat().st_size > MOST_BYTES:
            raise InputError("the file is too large for a document", where=str(path),
                             why=f"over {MOST_BYTES >> 20} MiB", do="name the document")
        raw = path.read_bytes()
    except (OSError, ValueError) as e:
        raise InputError("the document cannot be read", where=str(path), do="check the path",
                         why=getattr(e, "strerror", None) or str(e)) from e
    try:
        return parse(raw.decode("utf-8-sig"), str(path))
    except UnicodeDecodeError as e:
        raise InputError("the document is not UTF-8 text", where=str(path), why=str(e), do="save it as UTF-8") from e


def parse(text: str, where: str = "") -> Page:
    """The blocks of a text. InputError as of `read`."""
    newline = "\r\n" if "\r\n" in text else "\n"
    lines = text.replace("\r\n", "\n").split("\n")
    if len(lines) > MOST_LINES:
        raise InputError("the document is too long", where=where, why=f"{len(lines):,} lines; at most {MOST_LINES:,}")
    for i, line in enumerate(lines):
        if found := _REFUSED.search(line):
            raise _wrong(where, i, "there is a character that hides or reorders text", f"U+{ord(found[0]):04X}",
                         "take it out")
        if "\r" in line:
            raise _wrong(where, i, "there is a carriage return inside a line", "", "save it with usual line ends")
    blocks: dict[tuple[str, str], Marked] = {}
    front = _front(lines, where, blocks)
    _body(lines, front[1] + 1 if front else 0, where, blocks)
    return Page(tuple(lines), blocks, front, newline, where)


def _front(lines: list[str], where: str, blocks: dict[tuple[str, str], Marked]) -> tuple[int, int] | None:
    """The front matter, and the block in it."""
    if lines[0] != "---":
        return None
    last = next((i for i in range(1, min(len(lines), 5000)) if lines[i] in ("---", "...")), None)
    if last is None:
        return None
    begin: int | None = None
    given: dict[str, str] = {}
    for i in range(1, last):
        if opened := _FRONT_BEGIN.fullmatch(lines[i]):
            if begin is not None or (FRONT, "") in blocks:
                raise _wrong(where, i, "a second generated block in the front matter", "", DO)
            begin, given = i, dict(p.split("=", 1) for p in opened[1].split())
        elif closed := _FRONT_END.fullmatch(lines[i]):
            if begin is None:
                raise _wrong(where, i, "a generated block ends that did not begin", "", DO)
            blocks[FRONT, ""] = Marked(FRONT, "", tuple(lines[begin + 1:i]), begin, i, closed[1], given)
            begin = None
        elif _like(lines[i], "#"):
            raise _wrong(where, i, "this looks like a marker of whet's, but is none", lines[i][:80], DO)
    if begin is not None:
        raise _wrong(where, begin, "the generated block does not end", "", DO)
    if (FRONT, "") in blocks:  # no field twice, nothing that is not YAML
        try:
            data_file.read_yaml("\n".join(lines[:last]), where)
        except RecursionError as e:
            raise InputError("the front matter is nested too deeply", where=where) from e
    return 0, last


def _body(lines: list[str], start: int, where: str, blocks: dict[tuple[str, str], Marked]) -> None:
    opened: re.Match[str] | None = None
    begin = fence_at = 0
    fence = ""
    literal: re.Pattern[str] | None = None
    for i in range(start, len(lines)):
        line = lines[i]
        marker, end = _BEGIN.fullmatch(line), _END.fullmatch(line)
        if opened is not None:
            if marker:
                raise _wrong(where, i, f"a generated block begins inside {opened[1]!r}", "", DO)
            if end:
                key = opened[1], opened[2]
                if end[1] != opened[1]:
                    raise _wrong(where, i, f"{end[1]!r} ends where {opened[1]!r} began", f"line {begin + 1}", DO)
                blocks[key] = Marked(*key, tuple(lines[begin + 1:i]), begin, i, end[2], {})
                opened = None
            elif _like(line, "<!--"):
                raise _wrong(where, i, "this looks like a marker of whet's, but is none", line[:80], DO)
            continue
        if literal is not None:
            if marker:
                raise _wrong(where, i, "a generated block stands inside HTML that does not show it as text",
                             f"it opens at line {fence_at + 1}", "close it before the block")
            literal = None if literal.search(line) else literal
            continue
        if fence:
            bare = line.strip()
            if len(bare) >= len(fence) and set(bare) == {fence[0]} and _FENCE.fullmatch(line):
                fence = ""
            continue
        if marker:
            if marker.group(1, 2) in blocks:
                raise _wrong(where, i, f"the block {marker[1]!r} is there twice", f"first at line "
                             f"{blocks[marker[1], marker[2]].begin + 1}", "keep one")
            opened, begin = marker, i
        elif end:
            raise _wrong(where, i, f"{end[1]!r} ends, which did not begin", "", DO)
        elif _like(line, "<!--"):
            raise _wrong(where, i, "this looks like a marker of whet's, but is none", line[:80], DO)
        elif (found := _FENCE.fullmatch(line)) and not (found[1][0] == "`" and "`" in found[2]):
            fence, fence_at = found[1], i
        elif ends := next((e for b, e in _LITERAL if b.match(line)), None):
            literal, fence_at = (None if ends.search(line, line.index("<") + 2) else ends), i
    if opened is not None:
        raise _wrong(where, begin, f"the block {opened[1]!r} does not end", "", DO)
    if fence:
        raise _wrong(where, fence_at, "the code block that opens here is not closed", "what follows is no text",
                     f"close it with a line {fence}")


def _like(line: str, opening: str) -> bool:
    """True for what a person may take for a marker, whatever blanks and invisible characters are in it."""
    if opening[0] not in line:
        return False
    bare = _HIDDEN.sub("", line).casefold()
    return bare.startswith((f"{opening}whet:begin", f"{opening}whet:end"))


def _wrong(where: str, line: int, what: str, why: str, do: str) -> InputError:
    return InputError(what, where=f"{where}, line {line + 1}" if where else f"line {line + 1}", why=why, do=do)
