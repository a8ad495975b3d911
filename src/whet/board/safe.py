"""Text that a page may show: names in a store may come from anywhere."""

from __future__ import annotations

import re

# Controls, and what turns the direction of the text around it (Unicode Standard Annex 9, section 2): shown by number,
# so that no name looks like another one or rearranges the page.
_HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u202a-\u202e\u2028\u2029\u2060-\u2069\ufeff]")


def visible(text: str) -> str:
    """The text with invisible characters written out, as `U+202E`. Escaping it is still to be done."""
    return _HIDDEN.sub(lambda found: f"[U+{ord(found[0]):04X}]", text)


def shown(value: object) -> object:
    """For templates: what an expression gives, before it is escaped."""
    return visible(value) if type(value) is str else value
