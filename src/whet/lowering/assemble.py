"""From a segment's launches and their implementations to its steps, weights and arena."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from whet.errors import InternalError
from whet.ir.dtypes import DType
from whet.ir.graph import Value
from whet.ir.symbolic import Dim, lower, to_json, upper
from whet.lowering.hazards import accesses, order, steps_after
from whet.lowering.memory import ALIGN, Lifetime, plan_memory, plan_symbolic
from whet.lowering.storage import Buffer, Launch, Storage
from whet.plan.data import (
    ArenaArg,
    Arg,
    InputArg,
    IntArg,
    NativeStep,
    OutputArg,
    Place,
    WeightArg,
)
from whet.plan.program import Tensor
from whet.targets.base import Implementation, In, Int, Out, Packed, Work

MOST_STATIC = 8 << 30  # bytes of address space that a profile's maximum may reserve; it is touched as far as needed


@dataclass
class Assembly:
    """What the launches become. `arena` (bytes) is symbolic where it is planned when sizes are known; `arena_sum` is
    what the temporaries would take without sharing. `after`: see `plan.program.Segment`; `waits` is the same
    of launches. `place` tells where a value lies (a constant is kept if it is asked for)."""

    steps: list[NativeStep] = field(default_factory=list)
    arena: Dim = 0
    arena_sum: int = 0
    scratch_bytes: int = 0
    after: list[list[int]] | None = None
    waits: list[list[int]] | None = None
    place: Callable[[Storage], Place] | None = None


class Weights:
    """The constants of a plan, each content once."""

    def __init__(self) -> None:
        self.arrays: dict[str, np.ndarray] = {}
        self._known: dict[int, str] = {}  # by id of the array: hashed once

    def add(self, a: np.ndarray) -> str:
        """The name of a constant of these contents."""
        known = self._known.get(id(a))
        if known:
            return known
        a = np.ascontiguousarray(a).reshape(np.shape(a))
        digest = hashlib.sha256(repr((a.dtype.str, a.shape)).encode())
        digest.update(a.reshape(-1).view(np.uint8).data)
        name = "w" + digest.hexdigest()[:24]
        kept = self.arrays.setdefault(name, a)
        self._known[id(kept)] = name
        return name


def assemble(launches: Sequence[Launch], implementations: Sequence[Implementation],
             dims: Mapping[str, tuple[int, int, int]], weights: Weights, branches: bool = False) -> Assembly:
    """Place temporaries and constants, and write every kernel's arguments. `dims` is the profile. `branches`: launches
    that do not need each other may run at the same time, so they get memory of their own; `after` says what waits."""
    return _Assembler(launches, implementations, dims, weights, branches).run()


class _Assembler:
    def __init__(self, launches: Sequence[Launch], implementations: Sequence[Implementation],
                 dims: Mapping[str, tuple[int, int, int]], weights: Weights, branches: bool) -> None:
        self.branches = branches
        self.launches, self.implementations, self.weights = launches, implementations, weights
        self.ranges = {n: (lo, hi) for n, (lo, _, hi) in dims.items()}
        self.out = Assembly(place=self._at)
        self.place: dict[Buffer, Dim] = {}
        self.work: dict[int, Dim] = {}

    def run(self) -> Assembly:
        self._plan()
        for i, (launch, made) in enumerate(zip(self.launches, self.implementations)):
            self._native(i, launch, made)
        if self.branches and isinstance(self.out.arena, int):
            self.out.waits = self._waits()
            self.out.after = steps_after(self.out.waits, [len(m.steps) for m in self.implementations])
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
        for b, owner in merged.items():
            spans[owner][1] = max(spans[owner][1], spans[b][1])
        works = [(i, m.workspace) for i, m in enumerate(self.implementations) if m.workspace != 0]
        sizes = [*(b.elements * b.dtype.size for b in owners), *(size for _, size in works)]
        items = [Lifetime(max(0, upper(size, self.ranges)), first, last) for size, (first, last) in
                 zip(sizes, [*(tuple(spans[b]) for b in owners), *((i, i) for i, _ in works)])]
        offsets: Sequence[Dim]
        apart = self._apart(owners, merged, [i for i, _ in works]) if self.branches else None
        offsets, self.out.arena = plan_memory(items, apart)
        if self.out.arena > MOST_STATIC:
            offsets, self.out.arena = plan_symbolic(sizes, items)
        self.out.arena_sum = sum(-(-it.size // ALIGN) * ALIGN for it in items) + sum(
            max(0, upper(b.elements, self.ranges)) * b.dtype.size for b in merged)
        self.place = dict(zip(owners, offsets))
        for b, owner in merged.items():
            self.place[b] = self.place[owner]
        self.work = {i: off for (i, _), off in zip(works, offsets[len(owners):])}

    def _apart(self, owners: Sequence[Buffer], merged: Mapping[Buffer, Buffer], works: Sequence[int]
               ) -> Callable[[int, int], bool]:
        """Whether all launches that use one temporary (by its number) come before all that use another, whatever runs
        side by side."""
        _, before = order(accesses(self.launches, self.ranges))
        number = {b: k for k, b in enumerate(owners)}
        users = [0] * len(owners) + [1 << i for i in works]
        common = [-1] * len(owners) + [before[i] for i in works]  # what comes before all of its users
        for i, launch in enumerate(self.launches):
            for s in (*launch.inputs, *launch.outputs):
                if s.buffer.kind == "temp":
                    k = number[merged.get(s.buffer, s.buffer)]
                    users[k] |= 1 << i
                    common[k] &= before[i]
        return lambda a, b: not users[a] & ~common[b] or not users[b] & ~common[a]

    def _waits(self) -> list[list[int]]:
        place = {b: p for b, p in self.place.items() if isinstance(p, int)}
        work = {i: (off, max(0, upper(self.implementations[i].workspace, self.ranges)))
                for i, off in self.work.items() if isinstance(off, int)}
        return order(accesses(self.launches, self.ranges, place, work))[0]

    def _in_place(self, spans: Mapping[Buffer, Sequence[int]]) -> dict[Buffer, Buffer]:
        """Pointwise results that may overwrite an operand (same bytes at the same place, and the operand is not read
        afterwards), and the first buffer at that place."""
        merged: dict[Buffer, Buffer] = {}
        overwritten: set[Buffer] = set()
        for i, launch in enumerate(self.launches):
            if launch.region.kind != "pointwise":
                continue
            out = launch.outputs[0]
            if out.buffer.kind != "temp" or spans[out.buffer][0] != i:
                continue
            for s in launch.inputs:
                b = s.buffer
                if (b.kind == "temp" and spans[b][1] == i and spans[b][0] < i and b not in overwritten
                        and b.dtype.size == out.buffer.dtype.size and b.elements == out.buffer.elements
                        and s.strides == out.strides and s.offset == out.offset
                        and all(o == s for o in launch.inputs if o.buffer is b)):
                    merged[out.buffer] = merged.get(b, b)
                    overwritten.add(b)
                    break
        return merged

    # -- steps -------------------------------------------------------------------------------------

    def _native(self, i: int, launch: Launch, made: Implementation) -> None:
        packed = [self.weights.add(p.make(*(self._const_array(launch, s) for s in p.sources))) for p in made.packs]

        def arg(a: Any) -> Arg:
            match a:
                case In(k):
                    return self._at(launch.inputs[k])
                case Out(k):
                    return self._at(launch.outputs[k])
                case Packed(k):
                    return WeightArg(packed[k])
                case Work(offset):
                    return ArenaArg(to_json(self.work.get(i, 0) + offset))
                case Int(value):
                    return IntArg(to_json(value))
            raise InternalError(f"unknown kernel argument {a!r}", where=launch.origin)

        for step in made.steps:
            self.out.scratch_bytes = max(self.out.scratch_bytes, step.kernel.scratch_bytes)
            self.out.steps.append(NativeStep(step.kernel.symbol, tuple(arg(a) for a in step.args), to_json(step.tiles),
                                             step.grain, launch.origin))

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
        return WeightArg(self.weights.add(b.data), offset)

    def _const_array(self, launch: Launch, k: int) -> np.ndarray:
        s = launch.inputs[k]
        t = launch.region.inputs[k]
        if s.buffer.data is None:
            raise InternalError("a kernel packs an operand that is not constant", where=launch.origin)
        data = np.ascontiguousarray(s.buffer.data).reshape(-1)
        shape = [lower(d, self.ranges) for d in t.shape]
        return np.lib.stride_tricks.as_strided(
            data[_int(s.offset):], shape, [_int(x) * data.itemsize for x in s.strides], writeable=False)


def dtype_name(t: DType) -> str:
    """The plan's name of an element type (NumPy's, `bfloat16`..., `string`, `object`)."""
    return t.np.name if not t.is_host else t.value


def spec(v: Value, name: str | None = None) -> Tensor:
    """A value's description for the plan."""
    return Tensor(name or v.name, dtype_name(v.dtype), [to_json(d) for d in v.shape])


def _int(d: Dim) -> int:
    if not isinstance(d, int):
        raise InternalError(f"a constant at a symbolic place: {d}")
    return d
