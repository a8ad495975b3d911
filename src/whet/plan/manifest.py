"""The JSON parts of a plan file: manifest and trailer, typed and versioned."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from whet.errors import PlanFormatError, PlanVersionError
from whet.plan import layout
from whet.plan.program import Program, Tensor

SCHEMA = 2


class Weight(msgspec.Struct, frozen=True):
    """A constant; `offset` and `bytes` within the weights section."""

    name: str
    dtype: str
    shape: list[int]
    offset: int
    bytes: int


class Blob(msgspec.Struct, frozen=True):
    """Binary extra; `offset` and `bytes` within the blobs section."""

    offset: int
    bytes: int


class Device(msgspec.Struct, frozen=True):
    """A GPU, as a plan or this machine has it.

    name:       as its driver tells it; empty in a plan for any GPU of the capability.
    driver:     its version (`580.65.06`); empty in a plan made without a GPU.
    libraries:  versions of `cublas` and `cudnn`, as far as they are there. `uses`: those that a plan's steps call.
    compat:     `exact`, or `same-cc`: the plan runs on every GPU of the capability.
    rebuild:    the command line that builds the plan anew.
    """

    name: str
    capability: tuple[int, int]
    driver: str = ""
    libraries: dict[str, str] = {}
    uses: list[str] = []
    compat: str = "exact"
    rebuild: str = ""

    @property
    def arch(self) -> str:
        """`sm_90`."""
        return f"sm_{self.capability[0]}{self.capability[1]}"


class Target(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the code runs on: `platform.machine()`, our name of the vector set, LLVM's names of its features.

    A plan for a GPU has a `device`; its arch is `cuda`, its isa the GPU's (`sm_90`), it has no features.
    """

    os: str
    arch: str
    isa: str
    features: list[str]
    device: Device | None = None


class Manifest(msgspec.Struct, frozen=True):
    """What a plan is, for the runtime (programs, constants) and for people (`info`)."""

    schema: int
    target: Target
    programs: list[Program]
    kernels: dict[str, int]
    weights: list[Weight]
    blobs: dict[str, Blob]
    info: dict[str, Any]

    @property
    def inputs(self) -> list[Tensor]:
        """What a caller gives (not the states that a context keeps), as in the first profile."""
        kept = {s.input for s in self.programs[0].states}
        return [t for t in self.programs[0].inputs if t.name not in kept]

    @property
    def outputs(self) -> list[Tensor]:
        """What a caller gets, as in the first profile."""
        kept = {s.output for s in self.programs[0].states}
        return [t for t in self.programs[0].outputs if t.name not in kept]

    @property
    def dims(self) -> dict[str, tuple[int, int, int]]:
        """The first profile, of the dimensions that the inputs tell."""
        learnt = self.programs[0].learnt
        return {n: r for n, r in self.programs[0].dims.items() if n not in learnt}


class Signature(msgspec.Struct, frozen=True):
    """Over the plan's hash; hexadecimal."""

    algorithm: str
    key: str
    signature: str


class Trailer(msgspec.Struct, frozen=True):
    """What the hash does not cover."""

    schema: int = SCHEMA
    evidence: dict[str, Any] = {}
    signature: Signature | None = None


class _Schema(msgspec.Struct):
    schema: int


def encode(value: Any) -> bytes:
    """JSON with sorted keys: equal values give equal bytes."""
    return msgspec.json.encode(value, order="sorted")


def decode(raw: bytes, kind: type[Any], what: str) -> Any:
    """`kind` from JSON. PlanVersionError: a newer schema. PlanFormatError: anything else that is wrong."""
    if len(raw) > layout.MAX_JSON:
        raise PlanFormatError(f"the plan's {what} is too large", why=f"{len(raw)} bytes", do="build the plan anew")
    try:
        if issubclass(kind, (Manifest, Trailer)):
            schema = msgspec.json.decode(raw, type=_Schema).schema
            if schema != SCHEMA:
                raise PlanVersionError(
                    f"the plan's {what} has schema {schema}", why=f"this whet reads schema {SCHEMA}",
                    do="use the whet that wrote it, or build the plan anew")
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as e:
        raise PlanFormatError(f"the plan's {what} is malformed", why=str(e), do="build the plan anew") from e


_NUMPY = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32",
          "float64", "complex64", "complex128")
_EXTRA = ("bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu",
          "float6_e2m3fn", "float6_e3m2fn", "float4_e2m1fn", "int4", "uint4", "int2", "uint2")


HOST_TYPES = ("string", "object")  # what no kernel holds


def np_dtype(name: str) -> np.dtype:
    """The NumPy type of a plan's type name. PlanFormatError for a name that is not one."""
    if name in HOST_TYPES:
        return np.dtype(object)
    if name in _NUMPY:
        return np.dtype(name)
    if name in _EXTRA:
        import ml_dtypes

        if hasattr(ml_dtypes, name):
            return np.dtype(getattr(ml_dtypes, name))
    raise PlanFormatError(f"the plan has a tensor of type {name!r:.40}", why="this whet has no such element type",
                          do="use the whet that wrote it, or build the plan anew")


def static_bytes(t: Tensor) -> int:
    """A tensor's size in memory, `layout.NONE64` where that depends on dimensions or it is no tensor."""
    size = np_dtype(t.dtype).itemsize
    for n in t.shape:
        if not isinstance(n, int):
            return layout.NONE64
        size *= n
    return size if t.dtype not in HOST_TYPES else layout.NONE64
