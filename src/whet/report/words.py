"""Texts by name in several languages, as reports keep them."""

from __future__ import annotations

from collections.abc import Mapping

from whet.errors import InputError

LANGUAGES = ("en", "zh")


def text(words: Mapping[str, tuple[str, str]], name: str, lang: str, values: Mapping[str, object]) -> str:
    """A text of a table in a language of `LANGUAGES`, with its values. InputError if there is no such language."""
    if lang not in LANGUAGES:
        raise InputError(f"no texts in {lang!r}", why=f"there are {', '.join(LANGUAGES)}", do="choose one of them")
    found = words[name][LANGUAGES.index(lang)]
    return found.format(**values) if values else found
