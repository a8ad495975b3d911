"""Does a Markdown file still say what the plan and the records say? Every difference, by field, with its line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from whet.doc.card import Card
from whet.doc.markdown import FRONT, lines_of
from whet.doc.marked import Marked, Page
from whet.doc.parts import Document, visible
from whet.errors import InputError
from whet.measure import contract

SCHEMA = 1
MOST_TOLD = 200
LONGEST_BLOCK = 5000  # lines of a generated block that are compared
Make = Callable[[str, Card | None], Document]
_CELL = re.compile(r"(?<!\\)\|")


@dataclass(frozen=True)
class Drift:
    """A difference. `documented` or `actual` is empty where only the other side has it; `line` counts from 1."""

    field: str
    documented: str
    actual: str
    line: int

    def __str__(self) -> str:
        return f"line {self.line}, {self.field}: documented {self.documented or 'nothing'!r}, " \
               f"it is {self.actual or 'nothing'!r}"


@dataclass(frozen=True)
class Verdict:
    """What a check found. `edited`: blocks edited by hand; `unchecked`: those that nothing given speaks of."""

    drifts: tuple[Drift, ...]
    edited: tuple[str, ...]
    unchecked: tuple[str, ...]
    blocks: int

    @property
    def exit_code(self) -> int:
        """0: it holds; 1: something drifted; 3: something could not be checked."""
        return 1 if self.drifts else 3 if self.unchecked else 0


@dataclass(frozen=True)
class Record:
    """A check as JSON: `doc-check-1.schema.json` beside this file."""

    schema: int
    file: str
    state: Literal["held", "not held", "undecided"]
    blocks: int
    drifts: tuple[Drift, ...]
    edited: tuple[str, ...]
    unchecked: tuple[str, ...]


def record(found: Verdict, file: str) -> Record:
    """A check's result as other programs read it."""
    states: dict[int, Literal["held", "not held", "undecided"]] = {0: "held", 1: "not held", 3: "undecided"}
    return Record(SCHEMA, file, states[found.exit_code], found.blocks, found.drifts, found.edited, found.unchecked)


def schema() -> dict[str, Any]:
    """The JSON Schema of `Record`, as packaged."""
    return contract.packaged("whet.doc", f"doc-check-{SCHEMA}.schema.json")


def check(page: Page, makers: Sequence[Make], unrecorded: bool = False) -> Verdict:
    """Compare a file's blocks with the documents that `makers` make in the file's languages.

    unrecorded: no records were given, so that measured figures cannot be judged. InputError where the file has no
    generated block at all.
    """
    if not page.blocks:
        raise InputError("the file has no generated blocks", where=page.where,
                         do="whet doc PLAN -o FILE writes them, whet doc --update FILE adds them")
    drifts: list[Drift] = []
    edited, known = [], set()
    skipped: set[str] = set()
    for make in makers:
        for lang in languages_of(page, make, "en"):
            for name, lines in lines_of(make(lang, given_of(page))).items():
                key = (name, "" if name == FRONT else lang)
                if key in known:
                    continue
                known.add(key)
                found = page.blocks.get(key)
                if found is None:
                    drifts.append(Drift(f"block {name} ({lang})", "", "a block that is missing here",
                                        len(page.lines)))
                    continue
                if unrecorded and name in ("figures", FRONT) and list(found.lines) != lines and not found.edited:
                    skipped.add(f"{name} ({lang}): it has measured figures; give their records")
                    continue
                mine = list(differences(found, lines))
                drifts += mine
                if found.edited:
                    edited.append(f"{name} ({found.lang or 'front matter'}), line {found.begin + 1}")
                    if not mine:  # the checksum itself was changed
                        drifts.append(Drift(f"{name}.checksum", found.checksum, "that of the lines above",
                                            found.end + 1))
    unchecked = [f"{name} ({lang})" for name, lang in page.blocks if (name, lang) not in known]
    return Verdict(tuple(drifts[:MOST_TOLD]), tuple(edited), (*sorted(skipped), *unchecked), len(page.blocks))


def languages_of(page: Page, make: Make, default: str) -> list[str]:
    """The languages in which a page has blocks of what `make` makes; the default where it has none."""
    names = {b.name for b in make(default, None).blocks}
    return list(dict.fromkeys(lang for name, lang in page.blocks if name in names)) or [default]


def given_of(page: Page) -> Card | None:
    """What a person said for the file's model card; None where there is none. InputError for what is no card's."""
    if page.card is None:
        return None
    try:
        return Card(**page.card.given)
    except TypeError as e:
        raise InputError("the card's marker says what no card has", where=f"{page.where}, line {page.card.begin + 1}",
                         why=str(e), do="take it out") from e


def differences(found: Marked, lines: Sequence[str]) -> Iterator[Drift]:
    """What differs between a block and what it should be."""
    if list(found.lines) == list(lines):
        return
    first = found.begin + 2
    if len(found.lines) > max(LONGEST_BLOCK, 4 * len(lines)):
        yield Drift(found.name, f"{len(found.lines)} lines", f"{len(lines)} lines", first)
        return
    matcher = difflib.SequenceMatcher(None, found.lines, lines, autojunk=False)
    for tag, a, b, c, d in matcher.get_opcodes():
        if tag == "equal":
            continue
        for k in range(max(b - a, d - c)):
            old = found.lines[a + k] if a + k < b else None
            new = lines[c + k] if c + k < d else None
            at = first + min(a + k, max(b - 1, a))
            yield from _line(found.name, old, new, _columns(lines, c + k), at)


def _line(block: str, old: str | None, new: str | None, columns: Sequence[str], at: int) -> Iterator[Drift]:
    if old is not None and new is not None and columns:
        was, now = _cells(old), _cells(new)
        if len(was) == len(now) == len(columns):
            key = now[0] if columns[0] != columns[-1] and len(columns) < 5 else f"{now[0]}, {now[1]}"
            different = [(column, w, n) for column, w, n in zip(columns, was, now) if w != n]
            for column, w, n in different:
                yield Drift(f"{block}: {key}, {column}", w, n, at)
            if different:
                return
    shown = new if new is not None else old or ""
    name = block
    if edge := re.match(r"\s+(\w+)(?: --> (\w+)|\[)", shown):
        name = f"{block}: edge {edge[1]} to {edge[2]}" if edge[2] else f"{block}: node {edge[1]}"
    elif block == FRONT and (field := re.match(r"\s*(?:- )?([\w-]+):", shown)):
        name = f"front matter: {field[1]}"
    elif shown.startswith("whet build"):
        name = f"{block}: command"
    elif columns:
        name = f"{block}: {(_cells(shown) or [''])[0]}"
    yield Drift(name, visible(old.strip() if old and new != old else old or "", 300), visible((new or "").strip(), 300),
                at)


def _cells(line: str) -> list[str]:
    """The cells of a table's row."""
    if not line.startswith("|"):
        return []
    return [visible(c.strip()) for c in _CELL.split(line.strip())[1:-1]]


def _columns(lines: Sequence[str], at: int) -> list[str]:
    """The columns of the table that a line is in; none where it is in none."""
    while 0 < at < len(lines) and lines[at].startswith("|"):
        if lines[at].startswith("|---"):
            return _cells(lines[at - 1])
        at -= 1
    return []
