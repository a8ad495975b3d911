"""What was asked for, and addresses that lead on from there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from whet.board import words


@dataclass(frozen=True)
class Asked:
    """A request: its path, its query, what its path names, and the language of the answer."""

    path: str
    query: Mapping[str, str]
    params: Mapping[str, Any]
    lang: str

    def text(self, name: str, **values: object) -> str:
        """A text in the language of the page."""
        return words.text(name, self.lang, **values)

    def get(self, name: str, otherwise: str = "") -> str:
        """A value of the query."""
        return self.query.get(name, otherwise)

    def page(self) -> int:
        """Which page of a list, from 0."""
        text = self.get("page", "1")
        return max(0, int(text) - 1) if text.isascii() and text.isdecimal() and len(text) < 8 else 0

    def url(self, path: str, /, **query: object) -> str:
        """An address; the language stays as the address has it."""
        kept = {"lang": self.query["lang"]} if "lang" in self.query else {}
        every = {k: v for k, v in {**query, **kept}.items() if v not in ("", None)}
        return path + (f"?{urlencode(every)}" if every else "")

    def here(self, **changes: object) -> str:
        """The address of this page with some of its query changed; empty values are left out."""
        every = {k: v for k, v in {**self.query, **changes}.items() if v not in ("", None)}
        return self.path + (f"?{urlencode(every)}" if every else "")

    def in_language(self) -> str:
        """This page in this language."""
        return self.here(lang=self.lang)
