"""The parts that pages share: figures with captions, tables, lists of findings. Everything given is text and escaped,
but for drawings."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from html import escape


def figure(caption: str, note: str, svg: str) -> str:
    """A drawing (SVG, as it is) under its caption."""
    return f"<figure><figcaption>{escape(caption)} <span>{escape(note)}</span></figcaption>{svg}</figure>"


def findings(items: Sequence[str]) -> str:
    """A list of sentences."""
    return f'<ul class="findings">{"".join(f"<li>{escape(i)}</li>" for i in items)}</ul>'


def table(head: Sequence[str], body: Sequence[Sequence[str]], words: Container[int] = (0,),
          cell: Callable[[str], str] = escape) -> str:
    """A table whose columns are figures, but for those of the indices `words`. `cell` makes HTML of a cell's text; an
    empty one is a dash."""
    def cells(tag: str, row: Sequence[str], made: Callable[[str], str]) -> str:
        return "".join(f'<{tag}{"" if i in words else " class=figure"}>{made(text) or "&ndash;"}</{tag}>'
                       for i, text in enumerate(row))

    top, lines = cells("th", head, escape), "".join(f"<tr>{cells('td', row, cell)}</tr>" for row in body)
    return f'<div class="table"><table><thead><tr>{top}</tr></thead><tbody>{lines}</tbody></table></div>'
