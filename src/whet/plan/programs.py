"""Checking the programs of a plan file: every register, block, segment and dimension that they name is there, and is
written before it is read."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from whet.plan import dims, layout
from whet.plan.manifest import np_dtype
from whet.plan.program import Block, Host, If, Loop, Native, Program, Step, Tensor

MAX_REGISTERS = 1 << 20
MAX_RANK = 64
MAX_DEPTH = 200  # bodies within bodies


class _WrongError(Exception):
    pass


def check(p: Program, *, blobs: set[str], weights: set[str], steps: int) -> str:
    """"" if the program is well formed, else what is wrong with it."""
    try:
        _Checker(p, blobs, weights, steps).run()
    except _WrongError as e:
        return str(e)
    return ""


def _need(ok: bool, why: str) -> None:
    if not ok:
        raise _WrongError(why)


class _Checker:
    def __init__(self, p: Program, blobs: set[str], weights: set[str], steps: int) -> None:
        self.p, self.blobs, self.weights, self.steps = p, blobs, weights, steps
        self.bodies: set[int] = set()  # that something runs

    def run(self) -> None:
        p = self.p
        for name, (low, best, high) in p.dims.items():
            _need(0 <= low <= best <= high < layout.MAX_BYTES,
                  f"the profile of the dimension {name!r:.60}: {low}, {best}, {high}")
        for group in (p.inputs, p.outputs):
            _need(len({t.name for t in group}) == len(group), "two inputs or two outputs have the same name")
            self.tensors(group, p.dims)
        for s in p.segments:
            _need(set(s.dims) <= p.dims.keys(), "a segment's dimension is not in the profile")
            self.tensors((*s.inputs, *s.outputs), s.dims)
            self.dim(s.arena, s.dims)
            _need(not isinstance(s.arena, int) or 0 <= s.arena <= layout.MAX_BYTES, "an arena of no possible size")
            _need(0 <= s.first <= s.first + s.count <= self.steps, "a segment's steps are not there")
            _need(len(s.labels) == s.count, "it has more or fewer labels than steps")
            _need(s.after is None or len(s.after) == s.count, "it tells of more or fewer steps than it has")
            _need(all(0 <= k < i for i, ks in enumerate(s.after or ()) for k in ks), "a step waits for a later one")
            _need(not any(t.dtype in ("string", "object") for t in (*s.inputs, *s.outputs)),
                  "a segment with a tensor that no kernel can hold")
        _need(bool(p.blocks), "it has no block")
        for name, ranges in p.contents.items():
            shape = next((t.shape for t in p.inputs if t.name == name and t.dtype in ("int32", "int64")), None)
            _need(shape is not None and all(isinstance(d, int) for d in shape)
                  and math.prod(shape) == len(ranges), f"ranges of the elements of the input {name!r:.60}")
            _need(all(low <= high for low, _, high in ranges), "a range of no numbers")
        main = p.blocks[0]
        _need(len(main.inputs) == len(p.inputs) and len(main.outputs) == len(p.outputs),
              "its main block has other inputs or outputs than it")
        self.states()
        self.independent()
        known = {n for n, (low, _, high) in p.dims.items() if low == high}
        known |= {name for _, _, name in dims.tellers([t.shape for t in p.inputs], known)}
        self.block(0, known, 0)

    def states(self) -> None:
        p = self.p
        inputs, outputs = {t.name: t for t in p.inputs}, {t.name for t in p.outputs}
        _need(len({s.input for s in p.states}) == len(p.states), "two states of one input")
        for s in p.states:
            _need(s.input in inputs, f"the state {s.input!r:.60} is no input")
            self.dim(s.grown, p.dims)
            if not s.in_place:
                _need(s.output in outputs, f"the state {s.output!r:.60} is no output")
                continue
            t = inputs[s.input]
            _need(p.plain and len(s.capacity) == len(t.shape) and 0 <= s.axis < len(t.shape),
                  f"the state {s.input!r:.60} cannot be kept in place")
            _need(not s.length or dims.plain_name(t.shape[s.axis]) == s.length,
                  f"the state {s.input!r:.60} does not grow")
            size = np_dtype(t.dtype).itemsize
            for n in s.capacity:
                size *= n
                _need(n >= 0 and size <= layout.MAX_BYTES, f"a state of the shape {s.capacity!r:.80}")

    def independent(self) -> None:
        p = self.p
        _need(len(set(p.independent)) == len(p.independent) and set(p.independent) <= p.dims.keys(),
              "an independent dimension is not in the profile")
        _need(not p.independent or (p.plain and not p.states), "only one segment without states has such dimensions")
        for name in p.independent:
            for t in (*p.inputs, *p.outputs):
                axes = [i for i, d in enumerate(t.shape) if name in dims.names(d)]
                _need(len(axes) <= 1 and all(d == 1 for d in t.shape[: axes[0] if axes else 0]),
                      f"the independent dimension {name!r:.60} is not the outermost of {t.name!r:.60}")

    def tensors(self, group: Iterable[Tensor], known: Iterable[str]) -> None:
        known = frozenset(known)
        for t in group:
            size = np_dtype(t.dtype).itemsize
            _need(len(t.shape) <= MAX_RANK, f"a tensor has more than {MAX_RANK} dimensions")
            for d in t.shape:
                self.dim(d, known)
                if isinstance(d, int):
                    size *= d
                    _need(d >= 0 and size <= layout.MAX_BYTES, f"a tensor of the shape {t.shape!r:.80}")

    def dim(self, d: Any, known: Iterable[str]) -> None:
        wrong = dims.check(d, known)
        _need(not wrong, wrong)

    def block(self, index: int, known: set[str], depth: int) -> None:
        """`known`: the names that are known on entry."""
        b = self.p.blocks[index]
        _need(depth <= MAX_DEPTH, "bodies are nested too deeply")
        _need(0 <= b.registers <= MAX_REGISTERS, f"a block of {b.registers} registers")
        _need(len(set(b.inputs)) == len(b.inputs), "a block's inputs share a register")
        written: set[int] = set()

        def write(registers: Iterable[int]) -> None:
            for r in registers:
                _need(0 <= r < b.registers, "a register that is not there")
                written.add(r)

        def read(registers: Iterable[int | None]) -> None:
            _need(all(r is None or r in written for r in registers), "a register is read before it is written")

        write(b.inputs)
        for r, name in b.constants:
            _need(name in self.weights, f"the constant {name!r:.60} is not there")
            write([r])
        known = set(known)
        self.learn(b, b, known, read)
        for s in b.steps:
            read(_reads(s))
            self.step(s, index, known, depth)
            _need(len(set(s.outputs)) == len(s.outputs), "a step's results share a register")
            write(s.outputs)
            self.learn(b, s, known, read)
            read(s.free)
            written -= set(s.free)
        read(b.outputs)
        for c in b.checks:
            self.dim(c.a, known)
            self.dim(c.b, known)

    def learn(self, b: Block, part: Block | Step, known: set[str], read: Any) -> None:
        for told in part.learn:
            read([told.register])
            _need(told.name in self.p.dims, "a dimension that is not in the profile")
            _need(0 <= told.at < layout.MAX_TILES, "a dimension learnt from nowhere")
            known.add(told.name)

    def step(self, s: Native | Host | If | Loop, index: int, known: set[str], depth: int) -> None:
        match s:
            case Native():
                _need(0 <= s.segment < len(self.p.segments), "a segment that is not there")
                seg = self.p.segments[s.segment]
                _need(len(s.inputs) == len(seg.inputs) and len(s.outputs) == len(seg.outputs),
                      "a segment with more or fewer inputs or outputs than it takes")
                unknown = set(seg.dims) - known
                _need(not unknown, f"no input tells the dimension {min(unknown, default='')!r:.60}")
            case Host():
                _need(s.payload in self.blobs, f"a host step without its payload {s.payload!r:.60}")
                self.results(s.results, len(s.outputs))
            case If():
                for k in (s.then, s.other):
                    self.body(k, index, len(s.captures), len(s.outputs))
                    self.block(k, known, depth + 1)
            case Loop():
                n, scans, stacks = len(s.states), len(s.sliced), len(s.stacks)
                _need(len(s.scans) == scans, "a loop with more or fewer axes than sliced operands")
                self.body(s.body, index, 2 + n + scans + len(s.captures), 1 + n + stacks)
                _need(len(s.outputs) == n + stacks, "a loop with more or fewer results than it gives")
                self.results(s.results, len(s.outputs))
                _need(all(0 <= a < MAX_RANK for a, _ in (*s.scans, *s.stacks)), "a loop over an axis of no tensor")
                self.block(s.body, known, depth + 1)

    def results(self, specs: list[Tensor], count: int) -> None:
        _need(len(specs) == count, "a host step with more or fewer results than it tells of")
        self.tensors(specs, self.p.dims)

    def body(self, k: int, index: int, inputs: int, outputs: int) -> None:
        _need(index < k < len(self.p.blocks) and k not in self.bodies, "a body that is not there, or not its own")
        self.bodies.add(k)
        _need(len(self.p.blocks[k].inputs) == inputs and len(self.p.blocks[k].outputs) == outputs,
              "a body that does not fit what runs it")


def _reads(s: Native | Host | If | Loop) -> list[int | None]:
    match s:
        case Native() | Host():
            return list(s.inputs)
        case If():
            return [s.condition, *s.captures]
        case Loop():
            return [s.count, s.condition, *s.states, *s.sliced, *s.captures]
