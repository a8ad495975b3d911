"""The plan file, byte by byte. Everything is little endian; offsets are from the file's start.

    0                       header, one page (HEADER, then SECTION * n_sections, then zeros)
    4096                    the sections, each at a multiple of 64 (code and weights: of 4096), gaps zero
    body_bytes              trailer (TRAILER, then its JSON), not covered by the plan's hash

A C program can run a plan whose RUNTIME.flags has FLAG_STATIC from the binary sections alone
(`examples/c/run_plan.c`); the JSON is for the rest.

**Hash.** The leaves are the SHA-256 of `chunk_bytes` long pieces of the file from byte 4096 to body_bytes.
The root, which is the plan's hash, is the SHA-256 of DOMAIN, the header page with the root field zeroed,
and the leaves. So every byte before the trailer is covered; the trailer carries its own SHA-256 against
accidents, and a signature of the root.

**Values.** Where a record has `value` and `expr`, the number meant is
value + (expr == NONE ? 0 : expressions[expr]), in bytes for addresses.
"""

from __future__ import annotations

from typing import Final

import numpy as np

MAGIC: Final = b"WHETPLAN"
TRAILER_MAGIC: Final = b"WHETTAIL"
DOMAIN: Final = b"whet plan 1\0"
FORMAT: Final = 1
PAGE: Final = 4096
ALIGN: Final = 64
CHUNK: Final = 1 << 20
NONE: Final = 0xFFFFFFFF

MAX_JSON: Final = 64 << 20
MAX_BYTES: Final = 1 << 47  # no address space holds more
MAX_TILES: Final = (1 << 31) - 1

HEADER = np.dtype([("magic", "S8"), ("format", "<u4"), ("n_sections", "<u4"), ("body_bytes", "<u8"),
                   ("chunk_bytes", "<u4"), ("reserved", "<u4"), ("root", "V32")])
SECTION = np.dtype([("id", "<u4"), ("reserved", "<u4"), ("offset", "<u8"), ("bytes", "<u8")])
ROOT_OFFSET: Final = 32

# Section ids; each is there exactly once.
MANIFEST, RUNTIME_S, IO_S, STEPS_S, ARGS_S, EXPRESSIONS, CODE, BLOBS, WEIGHTS = range(1, 10)
SECTIONS: Final = {MANIFEST: "manifest", RUNTIME_S: "runtime", IO_S: "io", STEPS_S: "steps", ARGS_S: "args",
                   EXPRESSIONS: "expressions", CODE: "code", BLOBS: "blobs", WEIGHTS: "weights"}
PAGE_ALIGNED: Final = (CODE, WEIGHTS)

# One record. Entries are offsets in the code section (`whet.abi` has their signatures); a plan for a GPU has none.
RUNTIME = np.dtype([(n, "<u8") for n in (
    "arena_bytes", "scratch_bytes", "threads", "flags", "create", "destroy", "run", "n_inputs", "n_outputs",
    "reserved")])
FLAG_AMX: Final = 1  # the code uses AMX tiles: pass it on to whet_pool_create
FLAG_STATIC: Final = 2  # one native stretch over the plan's own inputs and outputs, without expressions

# One record per input, then one per output, in the order that arguments refer to. `bytes`: NONE64 where it
# depends on dimensions.
IO = np.dtype([("bytes", "<u8"), ("item_bytes", "<u4"), ("reserved", "<u4")])
NONE64: Final = 0xFFFFFFFFFFFFFFFF

# One record per native step, those of a segment next to each other: `entry` is the kernel's offset in the code section,
# its arguments are ARGS[first_arg : first_arg + n_args], tiles is a value with expr.
STEP = np.dtype([("reserved", "<u4"), ("expr", "<u4"), ("entry", "<u8"), ("first_arg", "<u8"), ("n_args", "<u8"),
                 ("value", "<i8"), ("grain", "<i8")])

# One record per argument slot: the integer, or the address base + value with the base of `kind`: 0, the arena,
# the weights section, input `index`, output `index` of the segment.
ARG = np.dtype([("kind", "<u4"), ("index", "<u4"), ("value", "<i8"), ("expr", "<u4"), ("reserved", "<u4")])
ARG_INT, ARG_ARENA, ARG_WEIGHT, ARG_INPUT, ARG_OUTPUT = range(5)

TRAILER = np.dtype([("magic", "S8"), ("bytes", "<u8"), ("sha256", "V32")])
