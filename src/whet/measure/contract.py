"""JSON Schemas of what whet writes: as its types say them, and as they are packaged. Tests hold the two equal."""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import Any

import msgspec


@cache
def packaged(package: str, file: str) -> dict[str, Any]:
    """The JSON Schema in a file of a package."""
    return json.loads(resources.files(package).joinpath(file).read_text("utf-8"))


def generated(title: str, *kinds: type) -> dict[str, Any]:
    """The JSON Schema (2020-12) of a type, or of any of several."""
    found, definitions = msgspec.json.schema_components(kinds, ref_template="#/$defs/{name}")
    body = found[0] if len(found) == 1 else {"anyOf": list(found)}
    whole = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title, **body, "$defs": definitions}
    return json.loads(json.dumps(whole))  # tuples become lists, as in the file
