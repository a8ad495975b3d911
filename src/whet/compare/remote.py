"""Another host, by a command that runs `whet bench --json -` there: its records are taken, bounded and checked."""

from __future__ import annotations

import math
import os
import selectors
import shlex
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

from whet.compare.result import Row
from whet.errors import InputError, RemoteError
from whet.measure import Measurement
from whet.measure.record import decode
from whet.measure.series import setting, values, when

SECONDS = 1800.0
MOST_BYTES = 16 << 20
MOST_RECORDS = 200
TAIL = 2000  # characters of what it complained about
PLACES = ("model", "shapes", "batch", "json")


def parse(text: str) -> tuple[str, str]:
    """`jetson=ssh jetson "cd x && whet bench {model} --json -"` as name and template. InputError."""
    name, equals, template = text.partition("=")
    if not equals or not name.isidentifier() or len(name) > 60:
        raise InputError(f"--remote {text[:80]}", why="it is NAME=COMMAND, the name of letters, digits and _",
                         do="give jetson='ssh jetson \"whet bench model.onnx {shapes} --json -\"'")
    command(template, dict.fromkeys(PLACES, "x"))
    return name, template


def command(template: str, given: Mapping[str, str]) -> list[str]:
    """The words of a command. The template is split into words as a shell would, and run without one. A placeholder in
    a word with blanks, which is a command for another shell (ssh's), is quoted for that; elsewhere it is taken as it
    is. `{{` and `}}` are braces. InputError for a template that cannot be split, is empty, or has other placeholders.
    """
    known = ", ".join("{" + p + "}" for p in PLACES)
    try:
        words = shlex.split(template)
        out = []
        for word in words:
            quoted = any(c.isspace() for c in word)
            out.append(word.format_map({k: shlex.quote(v) if quoted else v for k, v in given.items()}))
    except (ValueError, KeyError, IndexError, AttributeError) as e:
        raise InputError(f"not a command template: {template[:200]!r}", why=f"{type(e).__name__}: {e}",
                         do=f"placeholders are {known}; braces are doubled") from e
    if not out:
        raise InputError("an empty command template", do="name what runs whet bench there")
    return out


def bench(name: str, template: str, model: Path, sha256: str, shapes: Mapping[str, tuple[int, ...]],
          batch: int) -> list[Row]:
    """The rows of what a host measured. `{model}` is the model's path here, `{shapes}` is `--shapes a:1x3,b:2`'s value,
    `{batch}` a number.

    RemoteError where the command fails, says too much, takes too long, or gives no records of this model and batch.
    """
    text = ",".join(f"{n}:{'x'.join(map(str, s))}" for n, s in shapes.items())
    words = command(template, {"model": str(model), "shapes": text, "batch": str(batch), "json": "-"})
    records = _checked(name, output(name, words), sha256, shapes)
    return [Row(key=f"{r.backend} {r.precision} on {name}, batch {batch}, "
                    f"{r.threads if r.threads is not None else '?'} threads",
                backend=r.backend, precision=r.precision, batch=batch, threads=r.threads, place=name, record=r,
                size_bytes=r.plan.bytes if r.plan else None) for r in records]


def output(name: str, words: list[str], seconds: float | None = None) -> bytes:
    """What a command that measures writes, within 16 MiB and `seconds` (None: half an hour); the whole group of its
    processes ends with it. RemoteError where it fails, says too much or nothing, or takes too long."""
    seconds = SECONDS if seconds is None else seconds
    try:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   start_new_session=True)
    except (OSError, ValueError) as e:
        raise _error(name, "the command cannot be started", str(e)) from e
    assert process.stdout is not None
    assert process.stderr is not None
    out, tail, until = bytearray(), bytearray(), time.monotonic() + seconds
    try:
        with selectors.DefaultSelector() as s:
            s.register(process.stdout, selectors.EVENT_READ, out)
            s.register(process.stderr, selectors.EVENT_READ, tail)
            while s.get_map():
                for key, _ in s.select(max(0.0, until - time.monotonic())):
                    part = os.read(key.fd, 1 << 16)
                    if not part:
                        s.unregister(key.fileobj)
                    key.data.extend(part)
                del tail[:-TAIL]
                if len(out) > MOST_BYTES:
                    raise _error(name, "the command says too much", f"more than {MOST_BYTES >> 20} MiB")
                if time.monotonic() > until:
                    raise _error(name, "the command takes too long", f"it has not ended after {seconds:.0f} s")
        code = process.wait(max(1.0, until - time.monotonic()))
    except subprocess.TimeoutExpired as e:
        raise _error(name, "the command takes too long", f"it has not ended after {seconds:.0f} s") from e
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        process.stdout.close()
        process.stderr.close()
    # whet bench ends with 1 where an output is wrong: its records say so.
    if code not in (0, 1) or not out.strip():
        said = "".join(c if c.isprintable() or c == "\n" else " " for c in tail.decode("utf-8", "replace"))
        raise _error(name, f"the command ended with {code}", said.strip() or "it says nothing")
    return bytes(out)


def _checked(name: str, data: bytes, sha256: str, shapes: Mapping[str, tuple[int, ...]]) -> list[Measurement]:
    try:
        records = decode(data, name)
        for r in records:
            setting(r)
            when(r)
            for v in values(r):
                if not math.isfinite(v.value):
                    raise InputError("a measurement that is no number", why=f"{v.metric} is {v.value}")
    except InputError as e:
        raise _error(name, "the command gives no measurements", e.why or e.what) from e
    if not 1 <= len(records) <= MOST_RECORDS:
        raise _error(name, f"the command gives {len(records)} measurements", f"1 to {MOST_RECORDS} are taken")
    kinds = [(r.backend, r.precision, r.threads) for r in records]
    if len(set(kinds)) < len(kinds):
        raise _error(name, "the command gives one backend twice", "each is taken once")
    for r in records:
        for text in (r.backend, r.precision, r.device.name, *(g.name for g in r.device.gpus)):
            if not text.isprintable() or len(text) > 300:
                raise _error(name, "the command gives names that are no text", repr(text[:60]))
        if r.model.sha256 != sha256:
            raise _error(name, "the command measured another model", f"its SHA-256 is {r.model.sha256[:16] or 'empty'}")
        if r.shapes != shapes:
            raise _error(name, "the command measured other shapes", f"{r.shapes}"[:300])
        if r.latency is None or r.source is not None:
            raise _error(name, "the command gives no latency of its own", f"{r.backend} {r.precision}")
    return [msgspec.structs.replace(r, comparisons=()) for r in records]


def _error(name: str, what: str, why: str) -> RemoteError:
    return RemoteError(what, where=name, why=why[:TAIL], do="run the command by hand: it prints whet bench's records")
