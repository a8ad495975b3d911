"""Data files that people write: YAML, JSON and TOML, with the line of every field. Nothing in them can run, or grow."""

from __future__ import annotations

import json
import re
import tomllib
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from json.decoder import scanstring  # type: ignore[attr-defined]
from pathlib import Path
from typing import Any

from whet.errors import InputError

MOST_BYTES = 1 << 20
DEEPEST = 40  # lists and tables within each other
_OPENING = ("[", "{", "<block sequence start>", "<block mapping start>")
_CLOSING = ("]", "}", "<block end>")
_STEP = re.compile(r"([^.\[\]]+)|\[(\d+)\]")


@dataclass(frozen=True)
class Document:
    """The data of a file, and the line of each field by its path (`options[0].throughput`)."""

    data: Any
    lines: Mapping[str, int]


def load(path: Path, what: str = "a scenario", see: str = "docs/roi.md") -> Document:
    """Read a file by its ending; `what` it is and where that is described are for errors.

    InputError if it cannot be read, is too long, nested too deeply, or is not what its ending says.
    """
    try:
        if path.is_file() and path.stat().st_size > MOST_BYTES:
            raise InputError(f"the file is too long for {what}", where=str(path), why=f"over {MOST_BYTES >> 20} MiB")
        if not path.is_file() and path.exists():
            raise InputError("this is not a file", where=str(path), do=f"name the file of {what}")
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, ValueError) as e:
        if isinstance(e, UnicodeDecodeError):
            raise InputError("the file is not UTF-8 text", where=str(path), why=str(e), do="save it as UTF-8") from e
        raise InputError("the file cannot be read", where=str(path), why=getattr(e, "strerror", "") or str(e),
                         do="check the path") from e
    readers = {".yaml": read_yaml, ".yml": read_yaml, ".json": read_json, ".toml": read_toml}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{what} is YAML, JSON or TOML", where=str(path),
                         why=f"the ending is {path.suffix or 'missing'}", do="name it .yaml, .json or .toml")
    try:
        found = reader(text, str(path))
    except RecursionError as e:
        raise InputError("the file is nested too deeply", where=str(path)) from e
    if found.data is None:
        raise InputError("the file is empty", where=str(path), do=f"see {see}")
    return found


def line_of(lines: Mapping[str, int], path: str) -> int | None:
    """The line of a field; where it is not there, of the nearest thing that would hold it."""
    while path:
        if path in lines:
            return lines[path]
        path = path[:-1].rpartition("[")[0] if path.endswith("]") else path.rpartition(".")[0]
    return None


def put(data: dict[str, Any], path: str, value: Any) -> None:
    """Set a field by its path, in place. InputError if a list on the way is too short or something is no table."""
    steps: list[str | int] = [int(i) if i else name for name, i in _STEP.findall(path)]
    if not steps or isinstance(steps[0], int):
        raise InputError("no such field", where=path, do="write load.rate=400 or options[0].price_per_hour=0.5")
    here: Any = data
    for step, following in zip(steps, [*steps[1:], None]):
        fits = isinstance(here, list) and step < len(here) if isinstance(step, int) else isinstance(here, dict)
        if not fits:
            raise InputError("no such field", where=path, why=f"there is no {step!r} on the way")
        if following is None:
            here[step] = value
        elif isinstance(step, int):
            here = here[step]
        else:
            here = here.setdefault(step, {})


def read_json(text: str, where: str) -> Document:
    """The data of a JSON text. InputError if it is none."""
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for name, value in pairs:
            if name in out:
                raise InputError(f"the field {name!r:.80} is given twice", where=where, do="keep one")
            out[name] = value
        return out

    try:
        data = _texts(json.loads(text, object_pairs_hook=once))
    except json.JSONDecodeError as e:
        raise InputError("the file is not JSON", where=f"{where}, line {e.lineno}", why=e.msg) from e
    except ValueError as e:
        raise InputError("the file is not JSON", where=where, why=str(e)) from e
    return Document(data, dict(_json_lines(text)))


def _json_lines(text: str) -> Iterator[tuple[str, int]]:
    """The line of each field of valid JSON."""
    starts = [m.end() for m in re.finditer("\n", text)]
    blank = re.compile(r"[ \t\r\n]*")
    plain = re.compile(r"[^\s,\]}]+")

    def line(at: int) -> int:
        return 1 + bisect_right(starts, at)

    def skip(at: int) -> int:
        m = blank.match(text, at)
        return m.end() if m else at

    def value(at: int, path: str) -> Iterator[Any]:  # yields fields, at last the place behind the value
        at = skip(at)
        if text[at] == '"':
            yield scanstring(text, at + 1, True)[1]
            return
        if text[at] not in "{[":
            m = plain.match(text, at)
            yield m.end() if m else at
            return
        closing, number, at = {"{": "}", "[": "]"}[text[at]], 0, skip(at + 1)
        while text[at] != closing:
            if closing == "}":
                name, behind = scanstring(text, at + 1, True)
                inner = f"{path}.{name}".lstrip(".")
                yield inner, line(at)
                at = skip(behind) + 1
            else:
                inner = f"{path}[{number}]"
                yield inner, line(at)
                number += 1
            for found in value(at, inner):
                if isinstance(found, int):
                    at = skip(found)
                else:
                    yield found
            if text[at] == ",":
                at = skip(at + 1)
        yield at + 1

    for found in value(0, ""):
        if not isinstance(found, int):
            yield found


def read_toml(text: str, where: str) -> Document:
    """The data of a TOML text. InputError if it is none."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as e:
        at = re.search(r"line (\d+)", str(e))
        raise InputError("the file is not TOML", where=f"{where}, line {at[1]}" if at else where, why=str(e)) from e
    lines: dict[str, int] = {}
    table, counts = "", dict[str, int]()
    for number, row in enumerate(text.splitlines(), 1):  # tables and keys; what is inside values has its key's line
        if m := re.match(r"\s*\[\[\s*([\w.-]+)\s*\]\]", row):
            counts[m[1]] = counts.get(m[1], -1) + 1
            table = f"{m[1]}[{counts[m[1]]}]"
            lines[table] = number
        elif m := re.match(r"\s*\[\s*([\w.-]+)\s*\]", row):
            head, _, rest = m[1].partition(".")
            table = f"{head}[{counts[head]}].{rest}" if head in counts and rest else m[1]
            lines[table] = number
        elif m := re.match(r"\s*([\w.-]+)\s*=", row):
            lines.setdefault(f"{table}.{m[1]}".lstrip("."), number)
    return Document(data, lines)


def read_yaml(text: str, where: str) -> Document:
    """The data of a YAML text (None where it is empty): safe types alone, no aliases, no key twice. InputError if it
    is none."""
    import yaml

    try:
        depth = 0
        for token in yaml.scan(text, Loader=yaml.SafeLoader):
            depth += token.id in _OPENING
            depth -= token.id in _CLOSING
            if depth > DEEPEST:
                raise RecursionError  # before the reader's time grows with the square of the depth
            if isinstance(token, yaml.AliasToken):  # a few of them can stand for gigabytes
                raise InputError("aliases (*name) are not read", where=f"{where}, line {token.start_mark.line + 1}",
                                 do="write the value out")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is None:
            return Document(None, {})
        lines = dict(_yaml_lines(node, "", where))
        return Document(_texts(yaml.safe_load(text)), lines)
    except yaml.YAMLError as e:
        mark = getattr(e, "problem_mark", None)
        at = f", line {mark.line + 1}" if mark else ""
        raise InputError("the file is not YAML", where=where + at, why=getattr(e, "problem", "") or str(e)) from e
    except ValueError as e:  # of constructors: a date that is none
        raise InputError("the file is not YAML", where=where, why=str(e)) from e


def _texts(data: Any) -> Any:
    """Keys as text, as JSON and TOML have them: `batches: {1: 4.0}`. ValueError for halves of characters."""
    if isinstance(data, dict):
        return {_texts(str(k)): _texts(v) for k, v in data.items()}
    if isinstance(data, str):
        data.encode("utf-8")  # escapes may have made surrogates, which no text holds
    return [_texts(v) for v in data] if isinstance(data, list) else data


def _yaml_lines(node: Any, path: str, where: str) -> Iterator[tuple[str, int]]:
    if node.id == "mapping":
        seen = set()
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.id != "scalar" or key.tag == "tag:yaml.org,2002:merge":
                raise InputError("a field's name is plain text", where=f"{where}, line {line}",
                                 why="keys that are lists or tables, and merge keys (<<), are not read",
                                 do="write the fields out")
            if key.value in seen:
                raise InputError(f"the field {key.value!r:.80} is given twice", where=f"{where}, line {line}",
                                 do="keep one")
            seen.add(key.value)
            inner = f"{path}.{key.value}".lstrip(".")
            yield inner, line
            yield from _yaml_lines(value, inner, where)
    elif node.id == "sequence":
        for i, value in enumerate(node.value):
            yield f"{path}[{i}]", value.start_mark.line + 1
            yield from _yaml_lines(value, f"{path}[{i}]", where)
