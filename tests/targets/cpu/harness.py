"""Runs one region through one tactic, hostile to kernels that cheat.

`run_region` implements the region, packs its constants, places every tensor so that it touches an
unmapped page (an access past its end, or, in a second run, before its start, is a crash with a
traceback), fills gaps between rows, outputs, workspaces and scratch with NaN bits, and runs the
tiles of each step in order, one by one in shuffled order, and in uneven pieces. All runs must give
the same bits, and must leave inputs and gaps alone.
"""

from __future__ import annotations

import ctypes
import itertools
import mmap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from whet.ir.region import Region, Tensor
from whet.ir.symbolic import Dim, evaluate
from whet.targets.base import In, Int, Kernel, Out, Packed, Params, Step, Tactic, Work
from whet.targets.cpu.compile import Jit
from whet.targets.cpu.isa import Isa

_PAGE = mmap.PAGESIZE
_POISON = 0xFF  # NaN in every float type, -1 in the integers
_libc = ctypes.CDLL(None, use_errno=True)


def allow_amx() -> None:
    """Ask Linux for the AMX tile registers (arch_prctl ARCH_REQ_XCOMP_PERM); once per process is enough."""
    if _libc.syscall(158, 0x1023, 18) != 0:
        raise OSError(ctypes.get_errno(), "no permission for AMX tiles")


class Guarded:
    """`nbytes` of memory that end (or start) at an unmapped page, filled with poison."""

    def __init__(self, nbytes: int, at_end: bool, align: int = 1) -> None:
        nbytes = -(-nbytes // align) * align
        pages = max(1, -(-nbytes // _PAGE))
        self._map = mmap.mmap(-1, (pages + 2) * _PAGE)
        base = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        for fence in (base, base + (pages + 1) * _PAGE):
            if _libc.mprotect(ctypes.c_void_p(fence), ctypes.c_size_t(_PAGE), 0) != 0:
                raise OSError(ctypes.get_errno(), "mprotect")
        start = _PAGE + (pages * _PAGE - nbytes if at_end else 0)
        self._whole = np.frombuffer(self._map, np.uint8)[_PAGE:(pages + 1) * _PAGE]
        self.bytes = np.frombuffer(self._map, np.uint8)[start:start + nbytes]
        self.address = base + start
        self.poison()

    def poison(self) -> None:
        self._whole[:] = _POISON


class Placed:
    """A tensor of a region in guarded memory, with the region's strides."""

    def __init__(self, tensor: Tensor, env: Mapping[str, int], at_end: bool) -> None:
        self.shape = tuple(evaluate(d, env) for d in tensor.shape)
        strides = tuple(evaluate(d, env) for d in tensor.strides)
        reach = [(n - 1) * s for n, s in zip(self.shape, strides, strict=True)]
        empty = 0 in self.shape
        low = 0 if empty else sum(min(r, 0) for r in reach)
        high = 0 if empty else sum(max(r, 0) for r in reach) + 1
        size = tensor.dtype.size
        self.memory = Guarded((high - low) * size, at_end)
        self.address = self.memory.address - low * size
        flat = self.memory.bytes[:(high - low) * size].view(tensor.dtype.np)
        self.view = np.lib.stride_tricks.as_strided(
            flat[-low:] if not empty else flat, self.shape, tuple(s * size for s in strides))
        self._inside = np.zeros(high - low, bool)
        if not empty:
            np.lib.stride_tricks.as_strided(self._inside[-low:], self.shape, strides)[...] = True
        self._size = size

    def gaps_untouched(self) -> bool:
        flat = self.memory.bytes[:self._inside.size * self._size].reshape(self._inside.size, self._size)
        return bool((flat[~self._inside] == _POISON).all())


@dataclass
class Bound:
    """A step ready to run."""

    step: Step
    function: Any
    args: np.ndarray
    tiles: int


@lru_cache(maxsize=256)
def _function(kernel: Kernel, isa: Isa) -> tuple[Jit, Any]:
    jit = Jit(isa, kernel.code)
    return jit, jit.function(kernel.symbol)


def run_region(region: Region, tactic: Tactic, params: Params, isa: Isa, arrays: Sequence[np.ndarray],
               env: Mapping[str, int] | None = None, threads: int = 1, machine: Any = None) -> list[np.ndarray]:
    """The region's outputs (`output`, then `extra_outputs`) as arrays of their logical shapes.

    `arrays` are the region's inputs in logical shape (any broadcast stride must find equal values);
    `env` has the values of symbolic dimensions; `machine` is what the tactic is given (default: isa).
    AssertionError when runs differ, or something outside the outputs was written.
    """
    env = dict(env or {})
    machine = isa if machine is None else machine
    reason = tactic.applies(region, machine)
    assert not reason, f"{tactic.name} does not apply: {reason}"
    impl = tactic.implement(region, params, machine, threads)
    if isa.amx_bf16:
        allow_amx()
    packs = [np.ascontiguousarray(p.make(*(arrays[i] for i in p.sources))) for p in impl.packs]
    rng = np.random.default_rng(0)
    first: list[np.ndarray] | None = None
    for mode, at_end in (("whole", True), ("shuffled", False), ("pieces", True)):
        inputs = [Placed(t, env, at_end) for t in region.inputs]
        for p, a, t in zip(inputs, arrays, region.inputs, strict=True):
            assert p.shape == tuple(a.shape), f"array of shape {a.shape} for a tensor of shape {p.shape}"
            p.view[...] = np.asarray(a, t.dtype.np)
        before = [p.memory.bytes.copy() for p in inputs]
        outputs = [Placed(t, env, at_end) for t in (region.output, *region.extra_outputs)]
        packed = []
        for a in packs:
            packed.append(Guarded(a.nbytes, True, 64))
            packed[-1].bytes[:a.nbytes] = a.reshape(-1).view(np.uint8)
        work = Guarded(evaluate(impl.workspace, env), True, 64)
        for step in impl.steps:
            bound = _bind(step, isa, env, inputs, outputs, packed, work)
            scratch = Guarded(step.kernel.scratch_bytes, True, 64)
            for lo, hi in _ranges(mode, bound.tiles, max(1, step.grain), rng):
                scratch.poison()
                bound.function(bound.args.ctypes.data, lo, hi, scratch.address)
        for i, (p, b) in enumerate(zip(inputs, before, strict=True)):
            assert np.array_equal(p.memory.bytes, b), f"input {i} was written"
        for i, o in enumerate(outputs):
            assert o.gaps_untouched(), f"output {i}: bytes between its rows were written"
        results = [np.array(o.view) for o in outputs]
        if first is None:
            first = results
        for i, (x, y) in enumerate(zip(first, results, strict=True)):
            assert x.tobytes() == y.tobytes(), f"output {i} depends on the order or split of tiles ({mode})"
    assert first is not None
    return first


def _bind(step: Step, isa: Isa, env: Mapping[str, int], inputs: list[Placed], outputs: list[Placed],
          packed: list[Guarded], work: Guarded) -> Bound:
    def slot(a: Any) -> int:
        match a:
            case In(index=i):
                return inputs[i].address
            case Out(index=i):
                return outputs[i].address
            case Packed(index=i):
                return packed[i].address
            case Work(offset=d):
                return work.address + evaluate(d, env)
            case Int(value=d):
                return evaluate(d, env)
        raise TypeError(f"not an argument: {a!r}")

    args = np.array([slot(a) for a in step.args] or [0], np.int64)
    return Bound(step, _function(step.kernel, isa)[1], args, evaluate(step.tiles, env))


def _ranges(mode: str, tiles: int, grain: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    if mode == "whole":
        return [(0, tiles)]
    if mode == "shuffled":
        cuts = list(range(0, tiles, 1)) + [tiles]
    else:
        inner = rng.integers(0, tiles + 1, size=3) if tiles else np.zeros(0, int)
        cuts = sorted({0, tiles, *(int(c) for c in inner)})
    pieces = [(a, b) for a, b in itertools.pairwise(cuts) if a < b]
    rng.shuffle(pieces)  # type: ignore[arg-type]
    return [(int(a), int(b)) for a, b in pieces]


def strided(dtype: Any, shape: Sequence[Dim], gap: int = 0, const: bool = False) -> Tensor:
    """A row-major tensor whose rows (last dimension) are followed by `gap` unused elements."""
    steps: list[Dim] = []
    step: Dim = 1
    for i, d in enumerate(reversed(list(shape))):
        steps.append(step)
        step = step * d if i else d + gap
    return Tensor(dtype, tuple(shape), tuple(reversed(steps)), const)
