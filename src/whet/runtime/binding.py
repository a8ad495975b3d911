"""A segment bound to one set of dimensions: every address and count that the driver reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from whet import abi
from whet.errors import PlanFormatError
from whet.plan import dims, layout
from whet.plan.manifest import np_dtype
from whet.plan.program import Segment, Tensor
from whet.plan.reader import Contents
from whet.runtime.memory import Memory


@dataclass(frozen=True)
class Io:
    """An input or output as bound: `index` in the address table."""

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    nbytes: int
    index: int


class Block(Protocol):
    """A stretch of memory, wherever it is."""

    @property
    def address(self) -> int: ...

    @property
    def size(self) -> int: ...


class Tables:
    """A segment's part of the plan's tables: what does not change with shapes, made once per engine."""

    def __init__(self, contents: Contents, segment: Segment, capacities: Mapping[int, int] | None = None) -> None:
        """`capacities`: bytes of the memory behind inputs that have more than their shapes tell."""
        self.contents, self.segment, self.capacities = contents, segment, capacities or {}
        self.steps = contents.steps[segment.first : segment.first + segment.count]
        firsts = self.steps["first_arg"].astype(np.int64)
        counts = self.steps["n_args"].astype(np.int64)
        rows = (np.concatenate([np.arange(f, f + n) for f, n in zip(firsts, counts)]) if len(firsts)
                else np.zeros(0, np.int64))
        self.args = contents.args[rows]
        self.first_arg = np.cumsum(counts) - counts
        self.n_inputs = len(segment.inputs)
        kinds = self.args["kind"]
        self.io_slots = np.flatnonzero((kinds == layout.ARG_INPUT) | (kinds == layout.ARG_OUTPUT))
        io = self.args["index"][self.io_slots].astype(np.int64)
        io[kinds[self.io_slots] == layout.ARG_OUTPUT] += self.n_inputs
        self.io_index = io
        # The expressions that this segment uses, and a row of zero for "no expression".
        both = np.concatenate([self.args["expr"], self.steps["expr"]])
        used = np.unique(both[both != layout.NONE])
        self.expressions = [contents.expressions[i] for i in used.tolist()]
        place = np.where(both == layout.NONE, len(used), np.searchsorted(used, both))
        self.arg_expr, self.step_expr = place[: len(rows)], place[len(rows):]


class Binding:
    """Memory laid out as `whet.abi` says, for one set of dimensions."""

    def __init__(self, tables: Tables, env: Mapping[str, int], *, code: int, weights: int, arena: Memory,
                 scratch: int, threads: int) -> None:
        segment = tables.segment
        values = np.array([*(evaluate(e, env) for e in tables.expressions), 0], np.int64)
        self.inputs = [io(t, env, i) for i, t in enumerate(segment.inputs)]
        self.outputs = [io(t, env, len(self.inputs) + i) for i, t in enumerate(segment.outputs)]
        both = self.inputs + self.outputs
        self.arena = arena
        self.count = n = len(tables.steps)
        n_args, n_patches = len(tables.args), len(tables.io_slots)
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

        bind_slots(tables, slots, values, weights, arena)
        offsets = tables.args["value"][tables.io_slots] + values[tables.arg_expr[tables.io_slots]]
        limits = np.array([tables.capacities.get(t.index, t.nbytes) for t in both] or [0], np.int64)
        if np.any(offsets < 0):
            raise outside("an address outside an input or output")
        offsets = np.minimum(offsets, limits[tables.io_index])  # a view of no elements may begin behind them
        patches.reshape(-1, 3)[:] = np.stack([tables.io_slots, tables.io_index, offsets], 1) if n_patches else 0
        tiles = tables.steps["value"] + values[tables.step_expr]
        if np.any((tiles < 0) | (tiles > layout.MAX_TILES)):
            raise outside("a step with too many tiles")
        grain = tables.steps["grain"]
        rows = steps.reshape(-1, 4)
        rows[:, 0] = tables.steps["entry"].astype(np.int64) + code
        rows[:, 1] = tables.first_arg * 8 + _address(slots)
        rows[:, 2], rows[:, 3] = tiles, grain
        claims = int((-(-tiles // grain)).max(initial=1))
        for at, value in ((abi.RUN_STEPS, _address(steps)), (abi.RUN_N_STEPS, n), (abi.RUN_SLOTS, _address(slots)),
                          (abi.RUN_IO, _address(self.io)), (abi.RUN_PATCHES, _address(patches)),
                          (abi.RUN_N_PATCHES, n_patches), (abi.RUN_SCRATCH, scratch),
                          (abi.RUN_PARALLEL, min(threads, max(1, claims))), (abi.RUN_LINES, _address(counters)),
                          (abi.RUN_THREADS, threads)):
            run[at // 8] = value

    def close(self) -> None:
        """Give the tables back."""
        self.memory.close()

    def timing(self, on: bool) -> None:
        """Let the driver note when each step ends."""
        self._run[abi.RUN_TIMES // 8] = _address(self.times) if on else 0

def bind_slots(tables: Tables, slots: np.ndarray, values: np.ndarray, weights: int, arena: Block) -> None:
    """Fill the slots of all arguments: integers, and addresses in the arena and the weights (which begin at `weights`);
    those of inputs and outputs are left. `values` are the tables' expressions."""
    numbers = tables.args["value"] + values[tables.arg_expr]
    kinds = tables.args["kind"]
    numbers = np.where(kinds == layout.ARG_ARENA, np.minimum(numbers, arena.size), numbers)  # as for the inputs
    for kind, size in ((layout.ARG_ARENA, arena.size),
                       (layout.ARG_WEIGHT, tables.contents.sections[layout.WEIGHTS][1])):
        mine = numbers[kinds == kind]
        if np.any((mine < 0) | (mine > size)):
            raise outside("an address outside the plan's memory")
    bases = np.zeros(5, np.int64)
    bases[layout.ARG_ARENA], bases[layout.ARG_WEIGHT] = arena.address, weights
    slots[:] = numbers + bases[kinds]


def _address(a: np.ndarray) -> int:
    return a.ctypes.data


def io(t: Tensor, env: Mapping[str, int], index: int) -> Io:
    """A tensor with its dimensions filled in."""
    kind = np_dtype(t.dtype)
    sizes = tuple(evaluate(d, env) for d in t.shape)
    size = kind.itemsize
    for n in sizes:
        size *= n
        if n < 0 or size > layout.MAX_BYTES:
            raise outside(f"a tensor of the shape {list(sizes)}")
    return Io(t.name, kind, sizes, size, index)


def evaluate(d: Any, env: Mapping[str, int]) -> int:
    """The value of a dim. PlanFormatError where it has none that makes sense."""
    try:
        value = dims.evaluate(d, env)
    except ZeroDivisionError as e:
        raise outside("a division by zero in its expressions") from e
    except KeyError as e:
        raise outside(f"a size that depends on {e}, which is not known there") from e
    if not -layout.MAX_BYTES < value < layout.MAX_BYTES:
        raise outside("an expression with a value beyond all memory")
    return value


def outside(why: str) -> PlanFormatError:
    """The error for shapes that a plan allows and cannot run."""
    return PlanFormatError("the plan is malformed", why=f"for these shapes it has {why}", do="build the plan anew")
