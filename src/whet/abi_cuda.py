"""What the code section of a plan for an NVIDIA GPU holds: one *object* per kernel or library call.

A step's entry is the offset of its object: u32 length of a JSON header (a `Unit`), the header, u64 length of a payload,
the payload. Objects begin at multiples of ALIGN. The step's arguments (addresses and integers) are handed to the unit
in their order; what that order means is said below. `targets.cuda` writes objects, `runtime.cuda` runs them.
"""

from __future__ import annotations

import struct

import msgspec

ALIGN = 64
MAX_HEADER = 1 << 20
MAX_PAYLOAD = 1 << 30


class Cubin(msgspec.Struct, frozen=True, tag="cubin"):
    """A kernel compiled by Triton; the payload is the cubin.

    Launched on a grid of (tiles of the step, 1, 1) with `warps` * 32 threads and `shared` bytes. `args` has one letter
    for each argument of the step, in order: `p` an address, `i` an i32, `l` an i64. Triton's own parameters follow
    (which ones differs by its version): for each of `hidden` an address of `hidden[k]` bytes for each program, or null
    where that is 0. `ctas` programs form a cluster. `dependent`: the kernel waits for what runs before it by itself
    (`griddepcontrol.wait`), so it may be launched early.
    """

    name: str
    args: str
    warps: int
    shared: int
    hidden: list[int]
    ctas: int = 1
    dependent: bool = False


class Matmul(msgspec.Struct, frozen=True, tag="cublaslt"):
    """A product by cuBLASLt, in its column-major words: D[m, n] = act(alpha * op(A) op(B) + beta * C + bias).

    Arguments in order: A, B, C (= D where beta is 0 or it accumulates in place), D, then the bias if the epilogue has
    one, then the addresses of the scales that `scales` names (of A, B, C, D: "abcd"), then the workspace.
    Each of `a`, `b`, `c`, `d` is (type, rows, columns, leading dimension, elements from one matrix of the batch to the
    next); types are cudaDataType numbers. `algo` is the 64 bytes of a cublasLtMatmulAlgo_t, hexadecimal.
    """

    a: tuple[int, int, int, int, int]
    b: tuple[int, int, int, int, int]
    c: tuple[int, int, int, int, int]
    d: tuple[int, int, int, int, int]
    transpose_a: bool
    transpose_b: bool
    compute: int  # cublasComputeType_t
    scale_type: int  # cudaDataType of alpha and beta
    epilogue: int  # cublasLtEpilogue_t
    algo: str
    workspace: int
    batch: int = 1
    alpha: float = 1.0
    beta: float = 0.0
    bias_type: int = -1
    scales: str = ""
    fast_accumulation: bool = False


class Graph(msgspec.Struct, frozen=True, tag="cudnn"):
    """A cuDNN execution plan, serialized by its frontend: the payload. Arguments: an address for each of `uids` in
    order, then the workspace."""

    uids: list[int]
    workspace: int
    version: int  # cuDNN's, that the plan was made with


class Fill(msgspec.Struct, frozen=True, tag="fill"):
    """Set `bytes` bytes at the one argument to `value` (a memset node)."""

    bytes: int
    value: int = 0


Unit = Cubin | Matmul | Graph | Fill


def pack(unit: Unit, payload: bytes = b"") -> bytes:
    """An object's bytes."""
    header = msgspec.json.encode(unit, order="sorted")
    return struct.pack("<I", len(header)) + header + struct.pack("<Q", len(payload)) + payload


def unpack(raw: bytes | memoryview, at: int = 0) -> tuple[Unit, memoryview]:
    """The unit and payload of the object at `at`. ValueError for anything malformed."""
    view = memoryview(raw)
    if not 0 <= at <= len(view) - 4:
        raise ValueError("an object lies outside the code")
    (size,) = struct.unpack_from("<I", view, at)
    start = at + 4 + size
    if size > MAX_HEADER or start + 8 > len(view):
        raise ValueError("an object's header is cut")
    (length,) = struct.unpack_from("<Q", view, start)
    if length > MAX_PAYLOAD or start + 8 + length > len(view):
        raise ValueError("an object's payload is cut")
    try:
        unit: Unit = msgspec.json.decode(view[at + 4 : start], type=Unit)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as e:
        raise ValueError(f"an object's header is malformed: {e}") from e
    return unit, view[start + 8 : start + 8 + length]
