"""Mutations: of bytes, of ONNX models, of plan files under a hash that fits, and of inputs."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from whet.plan import hashing, layout

NUMBERS = (0, 1, -1, 2, 3, 7, 64, 127, 255, 4097, 65535, 1 << 31, (1 << 31) - 1, -(1 << 31), 1 << 40, (1 << 62) + 1,
           (1 << 63) - 1, -(1 << 63))
FLOATS = (0.0, -0.0, 1e-45, 1e38, -1e38, float("inf"), float("-inf"), float("nan"), 0.5, -1.0)


def of_bytes(raw: bytes, rng: random.Random) -> bytes:
    """A few bytes changed, moved, doubled or left out."""
    out = bytearray(raw)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        at = rng.randrange(len(out)) if out else 0
        length = rng.choice((1, 1, 2, 8, 64))
        match rng.randrange(6):
            case 0 if out:
                out[at] ^= 1 << rng.randrange(8)
            case 1 if out:
                out[at] = rng.randrange(256)
            case 2:
                del out[at : at + length]
            case 3:
                out[at:at] = out[at : at + length]
            case 4:
                out[at:at] = rng.randbytes(length)
            case _:
                other = rng.randrange(len(out)) if out else 0
                out[at : at + length] = out[other : other + length]
    return bytes(out)


# -- models ----------------------------------------------------------------------------------------


def _messages(m: Message) -> Iterator[tuple[Message, FieldDescriptor]]:
    """Every field that is set in a message or inside it."""
    left = [m]
    while left:
        here = left.pop()
        for field, value in here.ListFields():
            yield here, field
            if field.message_type is not None:
                left += list(value) if _repeated(here, field) else [value]


def _repeated(m: Message, field: FieldDescriptor) -> bool:
    return not hasattr(getattr(m, field.name), "encode") and hasattr(getattr(m, field.name), "append")


def of_model(m: onnx.ModelProto, other: onnx.ModelProto, rng: random.Random) -> bytes:
    """A few fields changed: numbers to extreme ones, names to others of the model, items left out, doubled, swapped."""
    texts = [n for g in (m.graph, other.graph) for k in g.node for n in (*k.input, *k.output, k.op_type)] or ["x"]
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        places = list(_messages(m))
        here, field = rng.choice(places)
        value = getattr(here, field.name)
        if _repeated(here, field):
            _items(value, field, texts, rng)
        elif field.message_type is not None:
            if rng.random() < 0.3:
                here.ClearField(field.name)
        else:
            _set(here, field, texts, rng)
        if rng.random() < 0.05 and len(other.graph.node):
            m.graph.node.add().CopyFrom(rng.choice(list(other.graph.node)))
    return m.SerializeToString()


def _scalar(field: FieldDescriptor, texts: list[str], rng: random.Random) -> Any:
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_FLOAT | FieldDescriptor.CPPTYPE_DOUBLE:
            return rng.choice(FLOATS)
        case FieldDescriptor.CPPTYPE_STRING:
            text = rng.choice((*texts[:200], "", "é", "x" * 1000, "../x"))
            return text.encode() if field.type == FieldDescriptor.TYPE_BYTES else text
        case FieldDescriptor.CPPTYPE_ENUM:
            return rng.choice([v.number for v in field.enum_type.values])
        case FieldDescriptor.CPPTYPE_INT32:
            return rng.choice([*range(30), -1, (1 << 31) - 1])
        case _:
            return rng.choice(NUMBERS) if field.cpp_type == FieldDescriptor.CPPTYPE_INT64 else abs(rng.choice(NUMBERS))


def _set(m: Message, field: FieldDescriptor, texts: list[str], rng: random.Random) -> None:
    if isinstance(getattr(m, field.name), bytes) and rng.random() < 0.7:
        setattr(m, field.name, of_bytes(getattr(m, field.name), rng))
    else:
        setattr(m, field.name, _scalar(field, texts, rng))


def _items(items: Any, field: FieldDescriptor, texts: list[str], rng: random.Random) -> None:
    if not len(items):
        return
    at = rng.randrange(len(items))
    if field.message_type is None and rng.random() < 0.6:
        items[at] = _scalar(field, texts, rng)
        return
    match rng.randrange(3):
        case 0:
            del items[at]
        case 1:
            items.append(items[at])
        case _:
            kept = list(items)
            rng.shuffle(kept)
            copies = [type(k).FromString(k.SerializeToString()) for k in kept] if field.message_type else kept
            del items[:]
            items.extend(copies)


# -- plans ------------------------------------------------------------------------------------------


def forged(raw: bytes, at: int, new: bytes) -> bytes:
    """A plan with some bytes replaced, and a hash that fits."""
    out = bytearray(raw)
    out[at : at + len(new)] = new
    body = min(int.from_bytes(out[16:24], "little"), len(out))
    fd = os.memfd_create("forged")
    try:
        os.write(fd, out)
        out[32:64] = hashing.root(fd, body, bytes(out[: layout.PAGE]))
    finally:
        os.close(fd)
    return bytes(out)


def _section(raw: bytes, ident: int) -> tuple[int, int]:
    table = np.frombuffer(raw, layout.SECTION, len(layout.SECTIONS), layout.HEADER.itemsize)
    row = table[table["id"] == ident][0]
    return int(row["offset"]), int(row["bytes"])


def of_plan(raw: bytes, rng: random.Random) -> bytes:
    """A plan with something changed behind its hash: in what describes its programs, or in its tables."""
    if rng.random() < 0.6:
        at, size = _section(raw, layout.MANIFEST)
        manifest = json.loads(raw[at : at + size])
        manifest["info"] = {}  # makes room
        for _ in range(rng.choice((1, 1, 2, 3))):
            programs = manifest.get("programs")
            inner = isinstance(programs, list) and programs and rng.random() < 0.7
            _leaf(programs[0] if inner else manifest, rng)
        text = json.dumps(manifest, separators=(",", ":")).encode()
        if len(text) <= size:
            return forged(raw, at, text.ljust(size))
    ident = rng.choice((layout.RUNTIME_S, layout.IO_S, layout.STEPS_S, layout.ARGS_S, layout.EXPRESSIONS,
                        layout.BLOBS, layout.MANIFEST, 0))
    at, size = _section(raw, ident) if ident else (0, 64 + 24 * len(layout.SECTIONS))
    if not size:
        return of_bytes(raw, rng)
    for _ in range(rng.choice((1, 1, 2))):
        spot = at + rng.randrange(size)
        if rng.random() < 0.5:
            new = rng.randbytes(1)
        else:
            spot -= (spot - at) % 4
            new = (rng.choice(NUMBERS) % (1 << 64)).to_bytes(8, "little")[: rng.choice((4, 8))]
        new = new[: at + size - spot]
        raw = forged(raw, spot, new)
    return raw


def _leaf(j: Any, rng: random.Random) -> None:
    """Change one thing in JSON data, at any depth."""
    while True:
        if not isinstance(j, (dict, list)) or not j:
            return
        key = rng.choice(list(j)) if isinstance(j, dict) else rng.randrange(len(j))
        if isinstance(j[key], (dict, list)) and j[key] and rng.random() < 0.85:
            j = j[key]
            continue
        match rng.randrange(8):
            case 0:
                del j[key]
            case 1 if isinstance(j, list):
                j.append(j[key])
            case 2:
                j[key] = rng.choice((None, True, "", "x", [], {}, 0.5, [[1, ["n"]]], -1, 1 << 70))
            case 3 if isinstance(j[key], int):
                j[key] = j[key] + rng.choice((-1, 1))
            case _:
                j[key] = rng.choice(NUMBERS) if rng.random() < 0.4 else rng.randrange(6)
        return


# -- inputs -----------------------------------------------------------------------------------------

_TYPES = (np.float32, np.float64, np.int64, np.int32, np.bool_, np.uint8, np.float16, np.complex64, object, np.str_)


def of_feeds(feeds: dict[str, Any], rng: random.Random) -> dict[Any, Any]:
    """Inputs with other names, types, shapes, layouts and values."""
    out: dict[Any, Any] = dict(feeds)
    for _ in range(rng.choice((1, 1, 2))):
        name = rng.choice(list(out)) if out else "x"
        a = out.get(name)
        if not isinstance(a, np.ndarray):
            out[name] = np.zeros(3, np.float32)
            continue
        match rng.randrange(9):
            case 0:
                out.pop(name)
            case 1:
                out[rng.choice(("", "other", None, 3))] = a
            case 2:
                out[name] = rng.choice((None, "text", 3, [[1], [2, 3]], {"a": 1}, b"x", [a], (a, a)))
            case 3:
                out[name] = np.zeros(a.shape, rng.choice(_TYPES))
            case 4:
                shape = [rng.choice((0, 1, 2, 3, 5, 8, 17, 100)) for _ in range(rng.randrange(5))]
                out[name] = np.broadcast_to(np.zeros((), a.dtype), shape)
            case 5:
                shape = [rng.choice((n, n, 0, 1, n + 1, 2 * n)) for n in a.shape]
                out[name] = np.resize(a, shape) if a.size else np.zeros(shape, a.dtype)
            case 6:
                out[name] = a.T if rng.random() < 0.5 else a[::-1] if a.ndim else a
            case 7 if a.dtype.kind == "f":
                out[name] = np.where(np.random.default_rng(rng.randrange(99)).random(a.shape) < 0.3,
                                     a.dtype.type(rng.choice(FLOATS)), a)
            case _ if a.dtype.kind in "iu" and a.size:
                out[name] = a.copy()  # small: how often a loop runs is for its caller to say
                out[name].reshape(-1)[rng.randrange(a.size)] = rng.choice(
                    [n for n in NUMBERS if n < 5000 and np.can_cast(np.min_scalar_type(n), a.dtype)] or [0])
    return out
