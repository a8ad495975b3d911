"""Writing documents: new files, and files of which the text around the generated blocks is somebody's own."""

from __future__ import annotations

from collections.abc import Sequence

from whet.doc.check import Make, given_of, languages_of
from whet.doc.markdown import FRONT, lines_of, marked, text_of
from whet.doc.marked import Page
from whet.doc.parts import Document
from whet.errors import InputError


def written(document: Document) -> str:
    """A new file."""
    return text_of(document)


def generated_alone(page: Page) -> bool:
    """True if nothing in the file is anybody's own: it may be written anew."""
    inside = {i for b in page.blocks.values() for i in range(b.begin, b.end + 1)} | set(page.front or ())
    return bool(page.blocks) and not any(b.edited for b in page.blocks.values()) and not any(
        line.strip() for i, line in enumerate(page.lines) if i not in inside)


def updated(page: Page, makers: Sequence[Make], lang: str = "en", force: bool = False, card: bool = False) -> str:
    """The file with its generated blocks made anew, missing ones added at its end, and all else as it is.

    lang: of a file without blocks; card: it becomes a model card if it is none. InputError where a block was edited by
    hand, unless `force`: what somebody wrote is not thrown away.
    """
    edited = [f"{b.name}, line {b.begin + 1}" for b in page.blocks.values() if b.edited]
    if edited and not force:
        raise InputError("generated blocks were edited by hand", where=page.where, why="; ".join(edited[:20]),
                         do="move what you wrote outside of the markers, or throw it away with --force")
    given = given_of(page)
    fresh: dict[tuple[str, str], list[str]] = {}
    for make in makers:
        for language in languages_of(page, make, lang):
            document = make(language, given)
            for name, lines in lines_of(document).items():
                if name != FRONT or page.card is not None or card:
                    key = (name, "" if name == FRONT else language)
                    fresh.setdefault(key, marked(name, lines, language, document.given))
    lines = list(page.lines)
    for key, block in sorted(page.blocks.items(), key=lambda b: -b[1].begin):
        if key in fresh:
            lines[block.begin:block.end + 1] = fresh.pop(key)
    front = fresh.pop((FRONT, ""), None)
    while lines and not lines[-1].strip():
        lines.pop()
    for added in fresh.values():
        lines += ["", *added] if lines else added
    if front is not None:
        lines = ["---", *front, *lines[1:]] if page.front is not None else ["---", *front, "---", "", *lines]
    return page.newline.join([*lines, ""])
