"""Bytes in a file to checked tables: nothing of a plan is used before all of it has been looked at."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from whet import abi
from whet.errors import PlanFormatError, PlanVersionError
from whet.plan import dims, hashing, layout, objects, programs
from whet.plan.manifest import Manifest, Trailer, decode, static_bytes

_AGAIN = "build the plan anew, or copy it anew from where it came"


@dataclass(frozen=True)
class Contents:
    """The checked contents of a plan file. Sections are (offset, bytes) in the file."""

    sections: dict[int, tuple[int, int]]
    root: bytes
    body_bytes: int
    manifest: Manifest
    trailer: Trailer
    runtime: dict[str, int]
    steps: np.ndarray  # layout.STEP
    args: np.ndarray  # layout.ARG
    expressions: list[Any]


def read(fd: int, *, verify: bool = True) -> Contents:
    """Check an open plan file, and read what is small.

    PlanFormatError: not a plan, truncated, damaged or malformed. PlanVersionError: newer than this whet.
    `verify` False leaves out the hash: for plans that this process has just written.
    """
    size = os.fstat(fd).st_size
    page = os.pread(fd, layout.PAGE, 0)
    if page[:8] != layout.MAGIC:
        raise PlanFormatError("this is not a plan", why="it does not start with WHETPLAN",
                              do="name a file that `whet build` wrote")
    if len(page) < layout.PAGE:
        raise PlanFormatError("the plan ends early", why=f"it has {size} bytes", do=_AGAIN)
    header = np.frombuffer(page, layout.HEADER, 1)[0]
    if header["format"] > layout.FORMAT:
        raise PlanVersionError(f"the plan has format {header['format']}", why=f"this whet reads format {layout.FORMAT}",
                               do="use the whet that wrote it, or build the plan anew")
    body = int(header["body_bytes"])
    if header["format"] != layout.FORMAT or header["chunk_bytes"] != layout.CHUNK or header["reserved"]:
        raise _bad("its header is damaged")
    if body % layout.ALIGN or not layout.PAGE <= body <= size:
        raise PlanFormatError("the plan ends early", why=f"its header tells of {body} bytes, the file has {size}",
                              do=_AGAIN)
    sections = _section_table(page, int(header["n_sections"]), body)
    trailer = _trailer(fd, body, size)
    root = page[layout.ROOT_OFFSET : layout.ROOT_OFFSET + 32]
    if verify and hashing.root(fd, body, page) != root:
        raise PlanFormatError("the plan is damaged", why="its contents do not have the hash that its header tells",
                              do=_AGAIN)

    def raw(ident: int) -> bytes:
        offset, length = sections[ident]
        return os.pread(fd, length, offset)

    described: Manifest = decode(_small(raw(layout.MANIFEST)), Manifest, "manifest")
    runtime = _runtime(raw(layout.RUNTIME_S), sections, described.target.device is None)
    if not described.programs:
        raise _bad("it has no program")
    expressions = _expressions(raw(layout.EXPRESSIONS), {n for p in described.programs for n in p.dims})
    steps, args = _rows(raw(layout.STEPS_S), layout.STEP, "steps"), _rows(raw(layout.ARGS_S), layout.ARG, "args")
    out = Contents(sections, root, body, described, trailer, runtime, steps, args, expressions)
    _check_manifest(out)
    _check_steps(out)
    if described.target.device is not None and (wrong := objects.check(out.steps, args, raw(layout.CODE))):
        raise _bad(wrong)
    _check_io(out, _rows(raw(layout.IO_S), layout.IO, "io"))
    return out


def _bad(why: str) -> PlanFormatError:
    return PlanFormatError("the plan is malformed", why=why, do=_AGAIN)


def _small(raw: bytes) -> bytes:
    if len(raw) > layout.MAX_JSON:
        raise _bad("a JSON section is too large")
    return raw


def _section_table(page: bytes, count: int, body: int) -> dict[int, tuple[int, int]]:
    """Ids, bounds, alignment, and that no two overlap."""
    if count != len(layout.SECTIONS):
        raise _bad(f"it has {count} sections instead of {len(layout.SECTIONS)}")
    table = np.frombuffer(page, layout.SECTION, count, layout.HEADER.itemsize)
    sections: dict[int, tuple[int, int]] = {}
    end = layout.PAGE
    for row in sorted(table.tolist(), key=lambda r: r[2]):
        ident, _, offset, length = row
        if ident not in layout.SECTIONS or ident in sections:
            raise _bad(f"a section with the id {ident}")
        align = layout.PAGE if ident in layout.PAGE_ALIGNED else layout.ALIGN
        if offset % align or offset < end or length > body - offset:
            raise _bad(f"its section {layout.SECTIONS[ident]} does not lie where it may")
        sections[ident] = (offset, length)
        end = offset + length
    return sections


def _trailer(fd: int, body: int, size: int) -> Trailer:
    head_bytes = layout.TRAILER.itemsize
    raw = os.pread(fd, head_bytes, body)
    if len(raw) < head_bytes:
        raise PlanFormatError("the plan ends early", why="its trailer is missing", do=_AGAIN)
    head = np.frombuffer(raw, layout.TRAILER, 1)[0]
    length = int(head["bytes"])
    if head["magic"] != layout.TRAILER_MAGIC or length > layout.MAX_JSON:
        raise _bad("its trailer is damaged")
    if body + head_bytes + length != size:
        raise PlanFormatError("the plan has the wrong length",
                              why=f"{size} bytes instead of {body + head_bytes + length}", do=_AGAIN)
    text = os.pread(fd, length, body + head_bytes)
    if hashlib.sha256(text).digest() != head["sha256"].tobytes():
        raise _bad("its trailer is damaged")
    out: Trailer = decode(text, Trailer, "trailer")
    return out


def _rows(raw: bytes, kind: np.dtype, what: str) -> np.ndarray:
    if len(raw) % kind.itemsize:
        raise _bad(f"its table of {what} is cut")
    return np.frombuffer(raw, kind)


def _runtime(raw: bytes, sections: dict[int, tuple[int, int]], driven: bool) -> dict[str, int]:
    if len(raw) != layout.RUNTIME.itemsize:
        raise _bad("its runtime record is cut")
    row = np.frombuffer(raw, layout.RUNTIME, 1)[0]
    runtime = {n: int(row[n]) for n in layout.RUNTIME.names or ()}
    for n in ("arena_bytes", "scratch_bytes"):
        if runtime[n] > layout.MAX_BYTES:
            raise _bad(f"it wants {runtime[n]} bytes of {n.split('_')[0]}")
    if not 1 <= runtime["threads"] <= abi.MAX_THREADS:
        raise _bad(f"it is for {runtime['threads']} threads")
    for n in ("create", "destroy", "run") if driven else ():
        if runtime[n] >= sections[layout.CODE][1]:
            raise _bad("an entry lies outside the code")
    return runtime


def _expressions(raw: bytes, known: set[str]) -> list[Any]:
    try:
        out = msgspec.json.decode(_small(raw), type=list[Any])
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as e:
        raise _bad(f"its expressions: {e}") from e
    for d in out:
        if wrong := dims.check(d, known):
            raise _bad(wrong)
    return out


def _check_manifest(c: Contents) -> None:
    m = c.manifest
    weights = c.sections[layout.WEIGHTS][1]
    for w in m.weights:
        if w.offset < 0 or w.bytes < 0 or w.offset + w.bytes > weights or w.offset % layout.ALIGN:
            raise _bad(f"the weight {w.name!r:.60} lies outside its section")
    blobs = c.sections[layout.BLOBS][1]
    for n, b in m.blobs.items():
        if b.offset < 0 or b.bytes < 0 or b.offset + b.bytes > blobs:
            raise _bad(f"the blob {n!r:.60} lies outside its section")
    code = c.sections[layout.CODE][1]
    if any(not 0 <= k < code for k in m.kernels.values()):
        raise _bad("a kernel lies outside the code")
    entries = {"create": abi.ENTRY_CREATE, "destroy": abi.ENTRY_DESTROY, "run": abi.ENTRY_RUN}
    if m.target.device is None and any(m.kernels.get(symbol) != c.runtime[n] for n, symbol in entries.items()):
        raise _bad("an entry of the driver is not where the table of entries has it")
    names = {w.name for w in m.weights}
    for p in m.programs:
        if wrong := programs.check(p, blobs=set(m.blobs), weights=names, steps=len(c.steps)):
            raise _bad(wrong)
        first = m.programs[0]
        if ([t.name for t in p.inputs], [t.name for t in p.outputs]) != (
                [t.name for t in first.inputs], [t.name for t in first.outputs]):
            raise _bad("its programs have different inputs or outputs")


def _check_steps(c: Contents) -> None:
    """Every number in the tables of steps and arguments is within what it refers to."""
    steps, args = c.steps, c.args
    n_args, code, n_expr = len(args), c.sections[layout.CODE][1], len(c.expressions)
    _need(steps["reserved"] == 0, "a step of an unknown kind")
    _need(steps["entry"] < code, "a step's kernel lies outside the code")
    _need(np.isin(steps["entry"], np.array(list(c.manifest.kernels.values()), np.uint64)),
          "a step's entry is not one of the kernels")
    _need((steps["first_arg"] <= n_args) & (steps["n_args"] <= n_args), "a step's arguments lie outside their table")
    _need(steps["first_arg"] + steps["n_args"] <= n_args, "a step's arguments lie outside their table")
    _need((steps["expr"] == layout.NONE) | (steps["expr"] < n_expr), "an expression that is not there")
    _need(steps["grain"] >= 1, "a step's grain is not positive")
    _need((steps["value"] >= 0) & (steps["value"] <= layout.MAX_TILES) | (steps["expr"] != layout.NONE),
          "a step has too many tiles")
    kind, index, value = args["kind"], args["index"], args["value"]
    fixed = args["expr"] == layout.NONE
    _need(kind <= layout.ARG_OUTPUT, "an argument of an unknown kind")
    _need(fixed | (args["expr"] < n_expr), "an expression that is not there")
    weights = c.sections[layout.WEIGHTS][1]
    _need((kind != layout.ARG_WEIGHT) | ~fixed | (value >= 0) & (value <= weights), "an address outside the weights")
    for p in c.manifest.programs:
        for seg in p.segments:
            rows = steps[seg.first : seg.first + seg.count]
            for first, n in zip(rows["first_arg"].tolist(), rows["n_args"].tolist()):
                part = slice(first, first + n)
                _need((kind[part] != layout.ARG_INPUT) | (index[part] < len(seg.inputs)), "an input that is not there")
                _need((kind[part] != layout.ARG_OUTPUT) | (index[part] < len(seg.outputs)),
                      "an output that is not there")
                if isinstance(seg.arena, int):
                    inside = (value[part] >= 0) & (value[part] <= seg.arena)
                    _need((kind[part] != layout.ARG_ARENA) | ~fixed[part] | inside, "an address outside its arena")


def _need(ok: np.ndarray, why: str) -> None:
    if not np.all(ok):
        raise _bad(why)


def _check_io(c: Contents, io: np.ndarray) -> None:
    first = c.manifest.programs[0]
    specs = [*first.inputs, *first.outputs]
    if (c.runtime["n_inputs"], c.runtime["n_outputs"]) != (len(first.inputs), len(first.outputs)) \
            or len(io) != len(specs):
        raise _bad("its inputs and outputs are counted in two ways")
    for row, t in zip(io, specs):
        if row["bytes"] != static_bytes(t):
            raise _bad(f"the size of {t.name!r:.60} is told in two ways")
