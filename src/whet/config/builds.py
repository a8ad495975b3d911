"""The options of a build, as types: what `whet.yaml` may say. `build-1.schema.json` beside this file is the contract
(JSON Schema 2020-12); a test holds it equal to the types here."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from whet.config.meanings import MEANINGS
from whet.measure import contract

SCHEMA = 1
SCHEMA_FILE = f"build-{SCHEMA}.schema.json"
PATHS = ("model", "output", "calib", "calib_cache", "eval", "report", "timing_cache", "dump")

_SHAPE = "[0-9]{1,12}(x[0-9]{1,12}){0,15}"


def _pattern(pattern: str) -> Meta:
    """A text's pattern, for the schema and `reading`: msgspec 0.22 must not check patterns of texts in unions itself,
    since it then frees objects that are in use."""
    return Meta(extra_json_schema={"pattern": pattern})


Text = Annotated[str, _pattern(r"^[^\x00-\x1f\x7f]{1,4096}$")]
Name = Annotated[str, _pattern("^[A-Za-z0-9][A-Za-z0-9_.-]{0,79}$")]
Size = Annotated[int, Meta(ge=0, lt=10**12)]
Shape = Annotated[str, _pattern(f"^({_SHAPE})?$")] | tuple[Size, ...]
RangeText = Annotated[str, _pattern(rf"^{_SHAPE}\.\.{_SHAPE}\.\.{_SHAPE}$")]
Precision = Literal["fp32", "tf32", "fp16", "bf16", "int8", "fp8", "best"]


class Range(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A profile's bounds of one input: the smallest shape, the one to tune for, the largest."""

    min: Shape
    opt: Shape
    max: Shape


class Build(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What `whet build` is asked; fields are its options' names with underscores. `MEANINGS` says what each means."""

    model: Text | None = None
    output: Text | None = None
    target: Annotated[str, _pattern(r"^(cpu|cuda(:([0-9]{1,3}|sm_[0-9]{2,3}))?)$")] = "cpu"
    hardware_compat: Literal["exact", "same-cc"] = "exact"
    isa: Literal["host", "avx512_vnni", "avx512", "avx2_vnni", "avx2", "neon"] = "host"
    threads: Annotated[int, Meta(ge=1, le=1024)] | None = None
    precision: Precision | tuple[Precision, ...] = ()
    force_precision: bool = False
    fp32_layers: tuple[Text, ...] = ()
    calib: Text | None = None
    calib_cache: Text | None = None
    calib_method: Annotated[str, _pattern(r"^(entropy|minmax|mse|percentile(:[0-9]{1,3}(\.[0-9]{1,9})?)?)$")] = "mse"
    calib_samples: Annotated[int, Meta(ge=1)] | None = None
    preprocess: Text | None = None
    activations: Literal["", "u8", "i8"] = ""
    prepare: tuple[Literal["equalize", "smooth", "round", "bias"], ...] = ()
    eval: Text | None = None
    metric: Text = "divergence"
    max_drop: Annotated[float, Meta(gt=0, lt=1e300)] | None = None
    report: Text | None = None
    weights: Literal["int8", "int4"] | None = None
    weight_group: Annotated[int, Meta(ge=0)] = 128
    shapes: dict[str, Shape] = {}
    profiles: Annotated[tuple[dict[str, RangeText | Range], ...], Meta(max_length=64)] = ()
    states: dict[str, Text] = {}
    timing_cache: Text | None = None
    opt_level: Annotated[int, Meta(ge=0, le=5)] = 3
    dump: Text | None = None

    @property
    def allowed(self) -> set[str]:
        """The precisions, as a set."""
        return {self.precision} if isinstance(self.precision, str) else set(self.precision)

    def shape_texts(self) -> list[str]:
        """As the options of `--shapes`."""
        return [f"{name}:{text(s)}" for name, s in self.shapes.items()]

    def profile_texts(self) -> list[str]:
        """As the options of `--profile`."""
        return [",".join(f"{n}:{text(r)}" for n, r in p.items()) for p in self.profiles if p]

    def asked(self) -> dict[str, Any]:
        """What is not the default, in the form that plans record (`whet.command.asked`)."""
        from whet.command import DEFAULTS

        found = msgspec.to_builtins(self)
        found["precision"] = sorted(self.allowed - {"fp32"})
        found["shapes"] = {n: text(s) for n, s in self.shapes.items()}
        found["profiles"] = [{n: text(r) for n, r in p.items()} for p in self.profiles if p]
        return {name: found[name] for name in (f.name for f in msgspec.structs.fields(Build))
                if found.get(name) is not None and found[name] != DEFAULTS.get(name)
                and not (found[name] is False or found[name] == [] or found[name] == {})}


class File(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A configuration: builds by name, and what they share. Paths are relative to the file's folder."""

    builds: Annotated[dict[Name, Build], Meta(min_length=1, max_length=100)]
    schema: Annotated[int, Meta(ge=1, le=SCHEMA)] = SCHEMA
    defaults: Build = Build()


def text(bounds: str | tuple[int, ...] | Range) -> str:
    """A shape as `1x3x224x224`, a range as `1x8..1x128..8x512`."""
    if isinstance(bounds, Range):
        return "..".join(map(text, (bounds.min, bounds.opt, bounds.max)))
    return bounds if isinstance(bounds, str) else "x".join(map(str, bounds))


def resolved(build: Build, folder: Path) -> Build:
    """The build with its paths counted from a folder; `package.module:function` is none."""
    if folder == Path():
        return build
    moved = {}
    for name in PATHS:
        given = getattr(build, name)
        function = name in ("calib", "eval") and given and re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*", given)
        if given is not None and (not function or (folder / given).exists()):
            moved[name] = str(folder / given)
    return msgspec.structs.replace(build, **moved)


def schema() -> dict[str, Any]:
    """The JSON Schema of a configuration file, as packaged."""
    return contract.packaged("whet.config", SCHEMA_FILE)


def generated() -> dict[str, Any]:
    """The JSON Schema, from the types and their meanings."""
    found = contract.generated("whet configuration", File)
    for name, field in found["$defs"]["Build"]["properties"].items():
        field["description"] = MEANINGS[name][0]
    return found
