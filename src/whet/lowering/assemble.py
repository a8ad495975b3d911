"""From launches and their implementations to the steps, weights and arena of a plan."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from whet.errors import InternalError
from whet.ir.dtypes import DType
from whet.ir.graph import Value
from whet.ir.symbolic import Dim, lower, to_json, upper
from whet.lowering.memory import ALIGN, Lifetime, plan_memory
from whet.lowering.storage import Buffer, Launch, Storage
from whet.plan.data import (
    ArenaArg,
    Arg,
    HostStep,
    HostTensor,
    InputArg,
    IntArg,
    NativeStep,
    OutputArg,
    Place,
    TensorSpec,
    WeightArg,
)
from whet.targets.base import Implementation, In, Int, Out, Packed, Work


@dataclass
class Assembly:
    """What the launches become. `arena_sum` is what the temporaries would take without sharing."""

    steps: list[NativeStep | HostStep] = field(default_factory=list)
    weights: dict[str, np.ndarray] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    arena_bytes: int = 0
    arena_sum: int = 0
    scratch_bytes: int = 0


def assemble(launches: Sequence[Launch], implementations: Sequence[Implementation | None],
             dims: Mapping[str, tuple[int, int, int]]) -> Assembly:
    """Place temporaries and constants, and write every kernel's arguments.

    `implementations[i]` is None where launch i is a host step. `dims` is the profile.
    """
    return _Assembler(launches, implementations, dims).run()


class _Assembler:
    def __init__(self, launches: Sequence[Launch], implementations: Sequence[Implementation | None],
                 dims: Mapping[str, tuple[int, int, int]]) -> None:
        self.launches, self.implementations, self.dims = launches, implementations, dims
        self.ranges = {n: (lo, hi) for n, (lo, _, hi) in dims.items()}
        self.out = Assembly()
        self.place: dict[Buffer, int] = {}
        self.work: dict[int, int] = {}
        self.constants: dict[int, str] = {}  # by id of the array: hashed once

    def run(self) -> Assembly:
        self._plan()
        for i, (launch, made) in enumerate(zip(self.launches, self.implementations)):
            if made is None:
                self._host(i, launch)
            else:
                self._native(i, launch, made)
        return self.out

    # -- memory ------------------------------------------------------------------------------------

    def _plan(self) -> None:
        spans: dict[Buffer, list[int]] = {}
        for i, launch in enumerate(self.launches):
            for s in (*launch.inputs, *launch.outputs):
                if s.buffer.kind == "temp":
                    spans.setdefault(s.buffer, [i, i])[1] = i
        merged = self._in_place(spans)
        owners = [b for b in spans if b not in merged]
        for b, into in merged.items():
            owner = into
            while owner in merged:
                owner = merged[owner]
            spans[owner][1] = max(spans[owner][1], spans[b][1])
        items = [Lifetime(self._bytes(b), *spans[b]) for b in owners]
        works = [(i, upper(m.workspace, self.ranges)) for i, m in enumerate(self.implementations)
                 if m is not None and m.workspace != 0]
        items += [Lifetime(size, i, i) for i, size in works]
        offsets, self.out.arena_bytes = plan_memory(items)
        self.out.arena_sum = sum(-(-it.size // ALIGN) * ALIGN for it in items) + sum(self._bytes(b) for b in merged)
        self.place = dict(zip(owners, offsets))
        for b in merged:
            owner = merged[b]
            while owner in merged:
                owner = merged[owner]
            self.place[b] = self.place[owner]
        self.work = {i: off for (i, _), off in zip(works, offsets[len(owners):])}

    def _in_place(self, spans: Mapping[Buffer, Sequence[int]]) -> dict[Buffer, Buffer]:
        """Pointwise results that may overwrite an operand: same bytes at the same place, and the
        operand is not read afterwards."""
        merged: dict[Buffer, Buffer] = {}
        for i, launch in enumerate(self.launches):
            if launch.region is None or launch.region.kind != "pointwise":
                continue
            out = launch.outputs[0]
            if out.buffer.kind != "temp" or spans[out.buffer][0] != i:
                continue
            for s in launch.inputs:
                b = s.buffer
                if (b.kind == "temp" and spans[b][1] == i and spans[b][0] < i and b not in merged.values()
                        and b.dtype.size == out.buffer.dtype.size and b.elements == out.buffer.elements
                        and s.strides == out.strides and s.offset == out.offset
                        and all(o == s for o in launch.inputs if o.buffer is b)):
                    merged[out.buffer] = b
                    break
        return merged

    def _bytes(self, b: Buffer) -> int:
        return max(0, upper(b.elements, self.ranges)) * b.dtype.size

    # -- steps -------------------------------------------------------------------------------------

    def _native(self, i: int, launch: Launch, made: Implementation) -> None:
        packed = [self._constant(p.make(*(self._const_array(launch, s) for s in p.sources))) for p in made.packs]

        def arg(a: Any) -> Arg:
            match a:
                case In(k):
                    return self._at(launch.inputs[k])
                case Out(k):
                    return self._at(launch.outputs[k])
                case Packed(k):
                    return WeightArg(packed[k])
                case Work(offset):
                    return ArenaArg(to_json(self.work[i] + offset))
                case Int(value):
                    return IntArg(to_json(value))
            raise InternalError(f"unknown kernel argument {a!r}", where=launch.origin)

        for step in made.steps:
            self.out.scratch_bytes = max(self.out.scratch_bytes, step.kernel.scratch_bytes)
            self.out.steps.append(NativeStep(step.kernel.symbol, tuple(arg(a) for a in step.args), to_json(step.tiles),
                                             step.grain, launch.origin))

    def _host(self, i: int, launch: Launch) -> None:
        node = launch.node
        payload = f"host{i}"
        self.out.blobs[payload] = node.attrs["proto"]
        inputs = [v for v in node.inputs if v is not None]
        self.out.steps.append(HostStep(
            "onnx", payload, tuple(self._host_tensor(v, s) for v, s in zip(inputs, launch.inputs)),
            tuple(self._host_tensor(v, s) for v, s in zip(node.outputs, launch.outputs)), launch.origin))

    def _host_tensor(self, v: Value, s: Storage) -> HostTensor:
        return HostTensor(dtype_name(v.dtype), tuple(to_json(d) for d in v.shape), self._at(s))

    def _at(self, s: Storage) -> Place:
        b = s.buffer
        offset = to_json(s.offset * b.dtype.size)
        match b.kind:
            case "temp":
                return ArenaArg(to_json(self.place[b] + s.offset * b.dtype.size))
            case "input":
                return InputArg(b.index, offset)
            case "output":
                return OutputArg(b.index, offset)
        assert b.data is not None
        return WeightArg(self._constant(b.data), offset)

    def _const_array(self, launch: Launch, k: int) -> np.ndarray:
        s = launch.inputs[k]
        assert launch.region is not None
        t = launch.region.inputs[k]
        if s.buffer.data is None:
            raise InternalError("a kernel packs an operand that is not constant", where=launch.origin)
        data = np.ascontiguousarray(s.buffer.data).reshape(-1)
        shape = [lower(d, self.ranges) for d in t.shape]
        return np.lib.stride_tricks.as_strided(
            data[_int(s.offset):], shape, [_int(x) * data.itemsize for x in s.strides], writeable=False)

    def _constant(self, a: np.ndarray) -> str:
        known = self.constants.get(id(a))
        if known:
            return known
        a = np.ascontiguousarray(a)
        digest = hashlib.sha256(repr((a.dtype.str, a.shape)).encode())
        digest.update(a.reshape(-1).view(np.uint8).data)
        name = "w" + digest.hexdigest()[:24]
        kept = self.out.weights.setdefault(name, a)
        self.constants[id(kept)] = name
        return name


def dtype_name(t: DType) -> str:
    """The plan's name of an element type (NumPy's, or `bfloat16`)."""
    return t.np.name if t is not DType.STRING else "string"


def spec(v: Value, name: str | None = None) -> TensorSpec:
    """An input's or output's description for the plan."""
    return TensorSpec(name or v.name, dtype_name(v.dtype), tuple(to_json(d) for d in v.shape))


def _int(d: Dim) -> int:
    if not isinstance(d, int):
        raise InternalError(f"a constant at a symbolic place: {d}")
    return d
