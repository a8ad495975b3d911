"""Programs at run time: registers, native segments, host steps and control flow."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from whet.errors import InputError, ProfileError, WhetError
from whet.plan import Plan, dims
from whet.plan.manifest import HOST_TYPES, np_dtype
from whet.plan.program import Block, Check, Host, If, Learn, Loop, Native, Program, Tensor
from whet.plan.reader import Contents
from whet.runtime.binding import Tables
from whet.runtime.host import HostFunction, RegionReference, prepare, typed

Native_ = Callable[[int, Sequence[Any], Mapping[str, int]], list[np.ndarray]]  # (segment, inputs, dimensions)
Times = dict[tuple[int, int], tuple[str, float]]  # by block and step of host steps: seconds


class Loaded:
    """A program of a plan, ready to run; shared by all contexts."""

    def __init__(self, plan: Plan, program: Program, constants: Mapping[str, np.ndarray]) -> None:
        self.program = program
        self.plain = program.plain
        contents: Contents = plan.contents
        self.states = {s.input: s for s in program.states}
        room = {i: math.prod(self.states[t.name].capacity) * np_dtype(t.dtype).itemsize
                for i, t in enumerate(program.inputs) if t.name in self.states and self.states[t.name].in_place}
        self.tables = [Tables(contents, s, room) for s in program.segments]  # states in place: one segment
        self.constants = [[(r, constants[name]) for r, name in b.constants] for b in program.blocks]
        self.host: dict[tuple[int, int], HostFunction] = {
            (i, k): prepare(s.kind, plan.blob(s.payload), s.label)
            for i, b in enumerate(program.blocks) for k, s in enumerate(b.steps) if isinstance(s, Host)}
        self.fixed = {n: low for n, (low, _, high) in program.dims.items() if low == high}
        self.labels = [l for s in program.segments for l in s.labels]

    def run(self, given: Sequence[Any], env: Mapping[str, int], native: Native_, times: Times | None = None
            ) -> list[Any]:
        """The outputs for these inputs (in order) and the dimensions that their shapes tell.

        Arrays that are inputs or constants of the plan are copied: what comes out belongs to the caller.
        """
        out = _Run(self, native, times).block(0, given, dict(env))
        foreign = {id(x) for x in given} | {id(x) for b in self.constants for _, x in b}
        owned = []
        for x in out:
            if isinstance(x, np.ndarray) and (id(x) in foreign or not x.flags.owndata or not x.flags.c_contiguous):
                x = np.array(x, order="C")
            elif isinstance(x, list):
                x = list(x)
            foreign.add(id(x))
            owned.append(x)
        return owned


class _Run:
    """One run of a program."""

    def __init__(self, loaded: Loaded, native: Native_, times: Times | None) -> None:
        self.loaded, self.native, self.times = loaded, native, times

    def block(self, index: int, given: Sequence[Any], env: dict[str, int]) -> list[Any]:
        b: Block = self.loaded.program.blocks[index]
        regs: list[Any] = [None] * b.registers
        for r, x in zip(b.inputs, given, strict=True):
            regs[r] = x
        for r, constant in self.loaded.constants[index]:
            regs[r] = constant
        checks = list(b.checks)
        self.learn(b.learn, regs, env, "its inputs", checks)
        for k, step in enumerate(b.steps):
            match step:
                case Native():
                    results: list[Any] = self.native(step.segment, [regs[r] for r in step.inputs], env)
                    label = "a computed size"
                case Host():
                    results, label = self.host(index, k, step, [regs[r] for r in step.inputs], env), step.label
                case If():
                    taken = step.then if truth(regs[step.condition]) else step.other
                    results = self.block(taken, [regs[r] for r in step.captures], dict(env))
                    label = step.label
                case Loop():
                    results, label = self.loop(step, regs, env), step.label
            for r, x in zip(step.outputs, results, strict=True):
                regs[r] = x
            self.learn(step.learn, regs, env, label, checks)
            if isinstance(step, (Host, Loop)):
                for t, x in zip(step.results, results):
                    _check_shape(t, x, env, step.label)
            for r in step.free:
                regs[r] = None
        return [regs[r] for r in b.outputs]

    def host(self, index: int, k: int, step: Host, operands: list[Any], env: Mapping[str, int]) -> list[Any]:
        start = time.perf_counter()
        compute = self.loaded.host[index, k]
        results = compute(operands, env) if isinstance(compute, RegionReference) else compute(operands)
        results = [x if t.dtype == "object" else typed(x, np_dtype(t.dtype), step.label)
                   for x, t in zip(results, step.results, strict=True)]
        if self.times is not None:
            before = self.times.get((index, k), ("", 0.0))[1]
            self.times[index, k] = (step.label, before + time.perf_counter() - start)
        return results

    def loop(self, step: Loop, regs: list[Any], env: dict[str, int]) -> list[Any]:
        count = int(np.asarray(regs[step.count]).reshape(-1)[0]) if step.count is not None else None
        going = truth(regs[step.condition]) if step.condition is not None else True
        states = [regs[r] for r in step.states]
        sliced = [np.moveaxis(regs[r], axis, 0) for r, (axis, _) in zip(step.sliced, step.scans)]
        if count is None and sliced:
            count = len(sliced[0])
        if any(len(x) < (count or 0) for x in sliced):
            raise WhetError("a loop's operands have different lengths", where=step.label,
                            why=", ".join(str(len(x)) for x in sliced), do="give operands of one length")
        captures = [regs[r] for r in step.captures]
        stacked: list[list[Any]] = [[] for _ in step.stacks]
        i = 0
        while going and (count is None or i < count):
            slices = [np.array(x[len(x) - 1 - i if reverse else i], order="C")
                      for x, (_, reverse) in zip(sliced, step.scans)]
            out = self.block(step.body, [np.array(i, np.int64), np.array(going), *states, *slices, *captures],
                             dict(env))
            going, states = truth(out[0]), out[1:1 + len(states)]
            for kept, x in zip(stacked, out[1 + len(states):]):
                kept.append(x)
            i += 1
        return [*states, *(_stack(kept, how, t, env, step.label) for kept, how, t in
                           zip(stacked, step.stacks, step.results[len(states):]))]

    def learn(self, told: Sequence[Learn], regs: list[Any], env: dict[str, int], where: str,
              checks: list[Check]) -> None:
        """Learn dimensions, and make those checks (which leave the list) that are possible then."""
        for t in told:
            x = regs[t.register]
            try:
                n = int(np.shape(x)[t.at] if t.axis else np.asarray(x).reshape(-1)[t.at])
            except (IndexError, ValueError, TypeError) as e:
                raise WhetError(f"the size {t.name} cannot be told", where=where, why=str(e)) from e
            low, _, high = self.loaded.program.dims[t.name]
            if not low <= n <= high:
                raise ProfileError(f"the size {t.name} is {n}", where=where,
                                   why=f"the plan's profile allows {low} to {high}",
                                   do="build the plan with a profile that has it")
            env[t.name] = n
        if told and checks:
            ready = [c for c in checks if dims.names(c.a) | dims.names(c.b) <= env.keys()]
            for c in ready:
                checks.remove(c)
                a, b = dims.evaluate(c.a, env), dims.evaluate(c.b, env)
                if a > b if c.most else a != b:
                    raise InputError(f"{a} is {'over' if c.most else 'not'} {b}", where=c.what,
                                     why=f"{dims.show(c.a)} must be {'at most ' if c.most else ''}{dims.show(c.b)}",
                                     do="check the input that it is computed from")


def truth(x: Any) -> bool:
    """The one element of a condition."""
    return bool(np.asarray(x).reshape(-1)[0])


def _stack(slices: list[Any], how: tuple[int, bool], t: Tensor, env: Mapping[str, int], label: str) -> Any:
    axis, reverse = how
    if t.dtype == "object" and not slices:
        return np.zeros(0, np.float32)
    if not slices:
        shape = [dims.evaluate(d, env) if dims.names(d) <= env.keys() else 0 for d in t.shape]
        shape[axis] = 0
        return np.zeros(shape, np_dtype(t.dtype))
    try:
        return np.stack(slices[::-1] if reverse else slices, axis)
    except ValueError as e:
        raise WhetError("the slices that a loop gives have different shapes", where=label, why=str(e)) from e


def _check_shape(t: Tensor, x: Any, env: Mapping[str, int], label: str) -> None:
    """That a host step's result has the shape that what follows was built for."""
    if t.dtype in HOST_TYPES:
        return
    want = [dims.evaluate(d, env) if dims.names(d) <= env.keys() else None for d in t.shape]
    got = np.shape(x)
    if len(got) != len(want) or any(w not in (None, g) for w, g in zip(want, got)):
        raise WhetError("a host step gave another shape than was planned", where=label,
                        why=f"{list(got)} instead of {['?' if w is None else w for w in want]}")
