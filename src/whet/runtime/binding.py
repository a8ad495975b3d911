"""A context's plan bound to one set of shapes: every address and count that the driver reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from whet import abi
from whet.errors import PlanFormatError
from whet.plan import dims, layout
from whet.plan.manifest import Host, HostOperand, np_dtype
from whet.plan.reader import Contents
from whet.runtime.host import HostFunction, view
from whet.runtime.memory import Memory


@dataclass(frozen=True)
class Io:
    """An input or output as bound: `index` in the address table."""

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    nbytes: int
    index: int


@dataclass(frozen=True)
class HostCall:
    """A host step as bound."""

    function: HostFunction
    inputs: tuple[_Operand, ...]
    outputs: tuple[_Operand, ...]


@dataclass(frozen=True)
class _Operand:
    dtype: np.dtype
    shape: tuple[int, ...]
    nbytes: int
    base: int  # an address, or (io >= 0) an offset
    io: int


class Tables:
    """What does not change with shapes: made once per engine."""

    def __init__(self, contents: Contents) -> None:
        self.contents = contents
        steps, args = contents.steps, contents.args
        self.native = steps[steps["kind"] == layout.STEP_NATIVE]
        self.n_inputs = contents.runtime["n_inputs"]
        # Segments: (first native step, how many) or the number of a host step.
        self.segments: list[tuple[int, int] | int] = []
        first = at = 0
        for kind, entry in zip(steps["kind"].tolist(), steps["entry"].tolist()):
            if kind == layout.STEP_HOST:
                if at > first:
                    self.segments.append((first, at - first))
                self.segments.append(entry)
                first = at
            else:
                at += 1
        if at > first:
            self.segments.append((first, at - first))
        kinds = args["kind"]
        self.io_slots = np.flatnonzero((kinds == layout.ARG_INPUT) | (kinds == layout.ARG_OUTPUT))
        io = args["index"][self.io_slots].astype(np.int64)
        io[kinds[self.io_slots] == layout.ARG_OUTPUT] += self.n_inputs
        self.io_index = io
        last = len(contents.expressions)  # a row of zero for "no expression"
        self.arg_expr = np.where(args["expr"] == layout.NONE, last, args["expr"]).astype(np.int64)
        self.step_expr = np.where(self.native["expr"] == layout.NONE, last, self.native["expr"]).astype(np.int64)
        self.labels = [l for l, k in zip(contents.manifest.labels, steps["kind"].tolist()) if k == layout.STEP_NATIVE]


class Binding:
    """Memory laid out as `whet.abi` says, for one set of dimensions."""

    def __init__(self, tables: Tables, env: Mapping[str, int], *, code: int, weights: int, arena: Memory,
                 scratch: int, threads: int, host: Sequence[HostFunction]) -> None:
        c = tables.contents
        values = np.array([*(_evaluate(e, env) for e in c.expressions), 0], np.int64)
        self.inputs = [_io(t.name, t.dtype, t.shape, env, i) for i, t in enumerate(c.manifest.inputs)]
        self.outputs = [_io(t.name, t.dtype, t.shape, env, len(self.inputs) + i)
                        for i, t in enumerate(c.manifest.outputs)]
        both = self.inputs + self.outputs
        n, n_args, n_patches = len(tables.native), len(c.args), len(tables.io_slots)
        sizes = (abi.PAGE, abi.run_lines_bytes(threads), n * abi.STEP_BYTES, n_args * 8, n_patches * abi.PATCH_BYTES,
                 len(both) * 8, (n + 1) * 8)
        self.memory = Memory.anonymous(sum(-(-s // abi.LINE) * abi.LINE for s in sizes))
        words: list[np.ndarray] = []
        at = 0
        for s in sizes:
            words.append(self.memory.bytes[at : at + s].view(np.int64))
            at += -(-s // abi.LINE) * abi.LINE
        run, counters, steps, slots, patches, self.io, self.times = words
        self.address, self._run = self.memory.address, run

        self._bind_slots(tables, slots, values, weights, arena, c)
        offsets = c.args["value"][tables.io_slots] + values[tables.arg_expr[tables.io_slots]]
        limits = np.array([t.nbytes for t in both] or [0], np.int64)
        if np.any((offsets < 0) | (offsets > limits[tables.io_index])):
            raise _outside("an address outside an input or output")
        patches.reshape(-1, 3)[:] = np.stack([tables.io_slots, tables.io_index, offsets], 1) if n_patches else 0
        tiles = tables.native["value"] + values[tables.step_expr]
        if np.any((tiles < 0) | (tiles > layout.MAX_TILES)):
            raise _outside("a step with too many tiles")
        grain = tables.native["grain"]
        rows = steps.reshape(-1, 4)
        rows[:, 0] = tables.native["entry"].astype(np.int64) + code
        rows[:, 1] = tables.native["first_arg"].astype(np.int64) * 8 + _address(slots)
        rows[:, 2], rows[:, 3] = tiles, grain
        claims = int((-(-tiles // grain)).max(initial=1))
        for at, value in ((abi.RUN_STEPS, _address(steps)), (abi.RUN_N_STEPS, n), (abi.RUN_SLOTS, _address(slots)),
                          (abi.RUN_IO, _address(self.io)), (abi.RUN_PATCHES, _address(patches)),
                          (abi.RUN_N_PATCHES, n_patches), (abi.RUN_SCRATCH, scratch),
                          (abi.RUN_PARALLEL, min(threads, max(1, claims))), (abi.RUN_LINES, _address(counters)),
                          (abi.RUN_THREADS, threads)):
            run[at // 8] = value
        self.calls: list[tuple[int, int] | HostCall] = [
            s if isinstance(s, tuple) else self._host(c.manifest.host[s], host[s], env, weights, arena, c)
            for s in tables.segments]
        # The plain case: everything in one native call.
        self.single: int | None = n if all(isinstance(s, tuple) for s in self.calls) else None

    def timing(self, on: bool) -> None:
        """Let the driver note when each step ends."""
        self._run[abi.RUN_TIMES // 8] = _address(self.times) if on else 0

    @staticmethod
    def _bind_slots(tables: Tables, slots: np.ndarray, values: np.ndarray, weights: int, arena: Memory,
                    c: Contents) -> None:
        numbers = c.args["value"] + values[tables.arg_expr]
        kinds = c.args["kind"]
        for kind, size in ((layout.ARG_ARENA, arena.size), (layout.ARG_WEIGHT, c.sections[layout.WEIGHTS][1])):
            mine = numbers[kinds == kind]
            if np.any((mine < 0) | (mine > size)):
                raise _outside("an address outside the plan's memory")
        bases = np.zeros(5, np.int64)
        bases[layout.ARG_ARENA], bases[layout.ARG_WEIGHT] = arena.address, weights
        slots[:] = numbers + bases[kinds]

    def _host(self, step: Host, function: HostFunction, env: Mapping[str, int], weights: int, arena: Memory,
              c: Contents) -> HostCall:
        def operand(o: HostOperand) -> _Operand:
            t = _io("", o.dtype, o.shape, env, 0)
            offset = _evaluate(o.offset, env)
            io = o.index + (len(self.inputs) if o.kind == layout.ARG_OUTPUT else 0)
            if o.kind in (layout.ARG_INPUT, layout.ARG_OUTPUT):
                limit, base = (self.inputs + self.outputs)[io].nbytes, 0
            elif o.kind == layout.ARG_ARENA:
                limit, base, io = arena.size, arena.address, -1
            else:
                limit, base, io = c.sections[layout.WEIGHTS][1], weights, -1
            if not 0 <= offset <= offset + t.nbytes <= limit:
                raise _outside("a host step's tensor outside the plan's memory")
            return _Operand(t.dtype, t.shape, t.nbytes, base + offset, io)

        return HostCall(function, tuple(operand(o) for o in step.inputs), tuple(operand(o) for o in step.outputs))

    def run_host(self, call: HostCall) -> None:
        """Do a host step; addresses of inputs and outputs are those in `io`."""
        def array(o: _Operand) -> np.ndarray:
            address = o.base + (int(self.io[o.io]) if o.io >= 0 else 0)
            return view(address, o.nbytes, o.dtype, o.shape)

        call.function([array(o) for o in call.inputs], [array(o) for o in call.outputs])


def _address(a: np.ndarray) -> int:
    return a.ctypes.data


def _io(name: str, dtype: str, shape: Sequence[Any], env: Mapping[str, int], index: int) -> Io:
    kind = np_dtype(dtype)
    sizes = tuple(_evaluate(d, env) for d in shape)
    size = kind.itemsize
    for n in sizes:
        size *= n
        if n < 0 or size > layout.MAX_BYTES:
            raise _outside(f"a tensor of the shape {list(sizes)}")
    return Io(name, kind, sizes, size, index)


def _evaluate(d: Any, env: Mapping[str, int]) -> int:
    try:
        value = dims.evaluate(d, env)
    except ZeroDivisionError as e:
        raise _outside("a division by zero in its expressions") from e
    if not -layout.MAX_BYTES < value < layout.MAX_BYTES:
        raise _outside("an expression with a value beyond all memory")
    return value


def _outside(why: str) -> PlanFormatError:
    return PlanFormatError("the plan is malformed", why=f"for these shapes it has {why}", do="build the plan anew")
