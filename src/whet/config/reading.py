"""Reading `whet.yaml`: all faults at once, each with its line, unknown names with the nearest known one."""

from __future__ import annotations

import difflib
import re
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, get_args, get_origin

import msgspec
from msgspec import Meta, Struct

from whet import data_file
from whet.config.builds import SCHEMA, Build, File, resolved
from whet.errors import InputError

WHAT, SEE = "a configuration of builds", "docs/configuration.md"
MOST_TOLD = 20  # faults


@dataclass(frozen=True)
class Configuration:
    """The builds of a file, with the defaults merged in; paths are as the file has them."""

    path: Path
    builds: Mapping[str, Build]
    lines: Mapping[str, int]
    own: Mapping[str, frozenset[str]]  # the options that a build gives itself, rather than the defaults

    def choose(self, name: str | None = None) -> str:
        """The name of a build: the only one where none is asked for. InputError if there is none of that name."""
        if name is None and len(self.builds) == 1:
            return next(iter(self.builds))
        listed = ", ".join(list(self.builds)[:20])
        if name is None:
            raise InputError(f"{len(self.builds)} builds, and none is named", where=str(self.path),
                             why=f"there are {listed}", do=f"whet build --config {self.path} NAME")
        if name not in self.builds:
            near = difflib.get_close_matches(name, self.builds, 1)
            raise InputError(f"no build is named {name!r:.80}", where=str(self.path), why=f"there are {listed}",
                             do=f"did you mean {near[0]!r}?" if near else "name one of them")
        return name

    def resolved(self, name: str) -> Build:
        """A build with its paths counted from the file's folder."""
        return resolved(self.builds[name], self.path.parent)

    def where(self, name: str, option: str) -> str:
        """`whet.yaml, line 7`, of an option of a build."""
        path = f"builds.{name}.{option}" if option in self.own[name] else f"defaults.{option}"
        line = data_file.line_of(self.lines, path)
        return f"{self.path}, line {line}" if line else str(self.path)


@dataclass(frozen=True)
class _Fault:
    path: str
    what: str


def read(path: Path) -> Configuration:
    """The builds of a file (.yaml, .yml, .json, .toml).

    InputError if it cannot be read, or breaks the schema: with the line of each fault.
    """
    return check(data_file.load(path, WHAT, SEE), path)


def check(document: data_file.Document, path: Path) -> Configuration:
    """The builds of a file that was read. InputError as of `read`."""
    data, lines = document.data, document.lines
    if not isinstance(data, dict):
        raise InputError("a configuration is a table of fields", where=str(path),
                         why=f"this is a {type(data).__name__}", do=f"see {SEE}")
    newest = data.get("schema", SCHEMA)
    if isinstance(newest, int) and newest > SCHEMA:
        raise InputError("the configuration is of a newer whet", where=f"{path}, line {lines.get('schema', 1)}",
                         why=f"schema {newest}, this whet reads up to {SCHEMA}", do="update whet")
    faults: list[_Fault] = []
    try:
        _fit(File, data, "", faults)
    except RecursionError as e:
        raise InputError("the file is nested too deeply", where=str(path)) from e
    defaults = data.get("defaults")
    shared = defaults if isinstance(defaults, dict) else {}
    if "output" in shared:
        faults.append(_Fault("defaults.output", "each build writes a file of its own: give it there"))
    named = data.get("builds")
    builds = named if isinstance(named, dict) else {}
    faults += _contradictions(builds, shared)
    if faults:
        raise _refused(faults, lines, path)
    merged = {name: msgspec.convert({**shared, **own}, Build) for name, own in builds.items()}
    return Configuration(path, merged, lines, {name: frozenset(own) for name, own in builds.items()})


def _contradictions(builds: Mapping[str, Any], shared: Mapping[str, Any]) -> Iterator[_Fault]:
    """What types cannot say."""
    written: dict[str, str] = {}
    for name, own in builds.items():
        if not isinstance(own, dict):
            continue
        of = {**shared, **own}
        at = f"builds.{name}"
        if of.get("model") is None:
            yield _Fault(at, "model is missing")
            continue
        output = own.get("output", f"{Path(str(of['model'])).stem}.plan")
        if not isinstance(output, str):
            continue
        if other := written.setdefault(str(Path(output)), name):
            if other != name:
                yield _Fault(f"{at}.output", f"it writes {output:.80}, and so does {other!r}: give each its own output")
        if of.get("max_drop") is not None and of.get("eval") is None and of.get("calib") is None:
            yield _Fault(f"{at}.max_drop", "a budget needs data to judge by: give eval")


def _refused(faults: list[_Fault], lines: Mapping[str, int], path: Path) -> InputError:
    said = []
    for f in sorted(faults, key=lambda f: data_file.line_of(lines, f.path) or 0)[:MOST_TOLD]:
        line = data_file.line_of(lines, f.path)
        said.append(f"line {line}, {f.path}: {f.what}" if line else f"{f.path}: {f.what}".lstrip(": "))
    if len(faults) > MOST_TOLD:
        said.append(f"and {len(faults) - MOST_TOLD} more")
    first = data_file.line_of(lines, min(faults, key=lambda f: data_file.line_of(lines, f.path) or 0).path)
    count = "a fault" if len(faults) == 1 else f"{len(faults)} faults"
    return InputError(f"the configuration has {count}", where=f"{path}, line {first}" if first else str(path),
                      why="\n       ".join(said), do=f"{SEE} lists the options")


def _fit(kind: Any, value: Any, path: str, faults: list[_Fault]) -> Any:
    """The value as its type has it, field by field, so that every fault has its path; None where there is a fault."""
    if isinstance(kind, type) and issubclass(kind, Struct):
        return _fit_table(kind, value, path, faults)
    plain = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    inside = get_args(plain)
    before = len(faults)
    if get_origin(plain) is dict and isinstance(value, dict):
        for name, v in value.items():
            _fit(inside[0], name, f"{path}.{name}", faults)
            _fit(inside[1], v, f"{path}.{name}", faults)
    elif get_origin(plain) is tuple and isinstance(value, list) and inside[-1] is Ellipsis:
        for i, v in enumerate(value):
            _fit(inside[0], v, f"{path}[{i}]", faults)
    elif isinstance(plain, UnionType) or get_origin(plain) is typing.Union:
        tables = [k for k in inside if isinstance(k, type) and issubclass(k, Struct)]
        if tables and isinstance(value, dict):
            return _fit(tables[0], value, path, faults)
        lists = [k for k in inside if get_origin(k) is tuple]
        if lists and isinstance(value, list):
            return _fit(lists[0], value, path, faults)
    if len(faults) == before:
        try:
            found = msgspec.convert(value, kind)
            if isinstance(value, str) and (wrong := [p for p in _patterns(kind) if not re.fullmatch(p, value)]):
                faults.append(_Fault(path, f"{value!r:.60} does not match {wrong[0]}"))
            return found
        except msgspec.ValidationError as e:
            what, _, _ = str(e).partition(" - at `$")
            choices = _choices(kind) if isinstance(value, str) else []
            near = difflib.get_close_matches(value, choices, 1) if choices else []
            faults.append(_Fault(path, _plain(what, value) if not choices else f"there is no {value!r:.60}; " + (
                f"did you mean {near[0]!r}?" if near else f"choose among {', '.join(filter(None, choices))}")))
    return None


def _patterns(kind: Any) -> list[str]:
    """The patterns of a type's texts."""
    if get_origin(kind) is Annotated:
        said = [m.extra_json_schema or {} for m in kind.__metadata__ if isinstance(m, Meta)]
        return [str(s["pattern"]) for s in said if "pattern" in s]
    return [p for k in get_args(kind) if get_origin(kind) in (UnionType, typing.Union) for p in _patterns(k)]


def _choices(kind: Any) -> list[str]:
    """The texts that a type allows, where it lists them."""
    if get_origin(kind) is typing.Literal:
        return list(get_args(kind))
    return [c for k in get_args(kind) if get_origin(kind) in (UnionType, typing.Union) for c in _choices(k)]


def _fit_table(kind: type[Struct], value: Any, path: str, faults: list[_Fault]) -> Any:
    if not isinstance(value, dict):
        faults.append(_Fault(path, f"a table of fields is expected, not {_name(value)}"))
        return None
    types = typing.get_type_hints(kind, include_extras=True)
    known = {f.name: f for f in msgspec.structs.fields(kind)}
    for name in value:
        at = f"{path}.{name}".lstrip(".")
        if name in known:
            _fit(types[name], value[name], at, faults)
            continue
        near = difflib.get_close_matches(name, known, 1, 0.6)
        hint = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(known)}"
        faults.append(_Fault(at, f"no field is named {name!r:.80}{hint}"))
    for name, field in known.items():
        if field.required and name not in value:
            faults.append(_Fault(path or name, f"{name} is missing"))
    return None if faults else value


def _plain(what: str, value: Any) -> str:
    """msgspec's words, with what was given; the types that YAML reads into texts are explained."""
    said = what[:1].lower() + what[1:]
    if isinstance(value, bool) and "got `bool`" in what:
        return f"{said} ({value}: YAML takes yes, no, on and off for truth; quote them to mean text)"
    if isinstance(value, (int, float)) and "`str" in what:
        return f"{said} ({value}: quote it to mean text)"
    return f"{said} ({value!r:.60})" if isinstance(value, (str, int, float)) else said


def _name(value: Any) -> str:
    return {"NoneType": "nothing", "str": "text", "list": "a list"}.get(type(value).__name__, type(value).__name__)
