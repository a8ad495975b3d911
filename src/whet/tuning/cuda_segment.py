"""A whole segment on the GPU, with one region's candidate exchanged for another, or all kernels launched early: what
`in_place` and `early` ask."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from whet.errors import DeviceMemoryError
from whet.ir.dtypes import DType
from whet.ir.region import Region, Tensor
from whet.ir.symbolic import evaluate
from whet.lowering.hazards import steps_after
from whet.plan import dims
from whet.plan.data import ArenaArg, InputArg, OutputArg, Place, WeightArg
from whet.runtime.cuda import lanes
from whet.runtime.cuda.code import Code, Launchable
from whet.runtime.cuda.driver import DeviceMemory
from whet.targets.base import Implementation, In, Int, Out, Packed, Params, Work
from whet.tuning.agree import difference
from whet.tuning.bench import random_array
from whet.tuning.cuda_bench import CHUNK, CudaBench, Operands, reach
from whet.tuning.early import Answer
from whet.tuning.in_place import Attempt, Trials

TURNS, LONG = 9, 5  # measurements each way; how many times as many for a decision about the whole plan
GAIN = 0.998  # of the segment's time that a change must not exceed
Steps = list[tuple[Launchable, list[int], int]]
Objects = Callable[[Region, str, Params], tuple[Implementation, Mapping[str, bytes]]]


class Segment:
    """Memory for a segment's values, and the launches of its current choices."""

    def __init__(self, bench: CudaBench, asked: Trials, compiled: Objects) -> None:
        self.bench, self.asked, self.compiled = bench, asked, compiled
        self.memory: list[DeviceMemory] = []
        self.filled: list[tuple[int, int, DeviceMemory | None]] = []  # address, bytes, of what: random numbers or 0
        self.spaces = self._spaces()
        self._reset()
        self.steps: dict[str, list[Steps]] = {}  # by region: of each of its launches
        self.one_stream = asked.one_stream

    def run(self) -> list[Attempt]:
        """Try what is asked for, twice where the first time changed something and there is time left."""
        a = self.asked
        for s, (tactic, params) in a.choices.items():
            self.steps[s] = self._prepared(s, tactic, params)
        chosen, attempts = dict(a.choices), list[Attempt]()
        until = time.monotonic() + a.seconds
        current = self._graph({})
        self.bench.replay(current)

        def attempt(choices: dict[str, tuple[str, Params]], one_stream: bool = False) -> None:
            nonlocal current
            kept = len(self.memory)
            try:
                steps = {s: self._prepared(s, *c) for s, c in choices.items()}
                graph = self._graph(steps, one_stream)
                self.bench.replay(graph)
            except DeviceMemoryError:  # each launch has constants of its own here: no reason to leave the others
                self._release(kept)
                return
            times = [(self.bench.replay(current), self.bench.replay(graph)) for _ in range(TURNS)]
            before, after = (float(f"{statistics.median(t):.4g}") for t in zip(*times))
            attempts.append(Attempt(choices, before, after, after < GAIN * before, one_stream))
            if attempts[-1].kept:
                current = graph
                self.steps.update(steps)
                chosen.update(choices)
                self.one_stream = self.one_stream or one_stream
            else:
                self._release(kept)

        after = self._after(self._runs({}))
        branched = not self.one_stream and any(place.lane for place in lanes.schedule(after, len(after)))
        if branched:
            attempt({}, one_stream=True)
        if a.own:
            attempt(a.own)
        for _ in range(2):
            begin = len(attempts)
            for s, several in a.others:
                for choice in several:
                    if time.monotonic() > until:
                        return attempts
                    if choice != chosen[s]:
                        attempt({s: choice})
            if branched and not self.one_stream:
                attempt({}, one_stream=True)
            if not any(t.kept for t in attempts[begin:]):
                break
        return attempts

    def early(self, forms: Objects) -> Answer:
        """The segment's seconds as it is, and with kernels that are launched early, in turns; the second None where
        they compute something else. `forms`: an implementation by such kernels, and the objects of those that differ
        from the usual ones."""
        for s, (tactic, params) in self.asked.choices.items():
            self.steps[s] = self._prepared(s, tactic, params)
        others = {s: self._exchanged(s, forms) for s in self.asked.choices}  # a graph does not keep its kernels
        graphs = self._graph({}), self._graph(others)
        places = self._left()
        results = []
        for graph in graphs:
            self._reset()
            self.bench.replay(graph)
            results.append([self.bench.pieces(address, size, t.dtype) for _, t, address, size in places])
        times: list[tuple[float, ...]] = []
        until = time.monotonic() + self.asked.seconds
        while len(times) < TURNS or (len(times) < LONG * TURNS and time.monotonic() < until):
            times.append(tuple(self.bench.replay(graph) for graph in graphs))
        before, after = (float(f"{statistics.median(t):.4g}") for t in zip(*times))
        for (region, _, _, _), a, b in zip(places, *results):
            if why := difference(region, a, b):
                return before, None, f"wrong: the results of a {region.kind} differ ({why})"
        return before, after, ""

    def close(self) -> None:
        """Give the memory back."""
        self._release(0)

    # -- inside --------------------------------------------------------------------------------------

    def _release(self, first: int) -> None:
        """Give back what was allocated since there were so many pieces."""
        for m in self.memory[first:]:
            m.close()
        del self.memory[first:]

    def _graph(self, instead: Mapping[str, list[Steps]], one_stream: bool = False) -> Any:
        runs = self._runs(instead)
        return self.bench.capture(runs, None if one_stream or self.one_stream else self._after(runs))

    def _runs(self, instead: Mapping[str, list[Steps]]) -> list[Steps]:
        """The launches of each region's kernels, in order."""
        turn: dict[str, int] = {}
        runs = []
        for l in self.asked.launches:
            k = turn[l.region] = turn.get(l.region, -1) + 1
            runs.append(instead.get(l.region, self.steps.get(l.region, []))[k])
        return runs

    def _after(self, runs: Sequence[Steps]) -> list[list[int]]:
        """For each kernel the earlier ones that it waits for."""
        return steps_after([l.waits for l in self.asked.launches], [len(r) for r in runs])

    def _left(self) -> list[tuple[Region, Tensor, int, int]]:
        """The results that nothing overwrites: region, tensor, address and bytes."""
        found, written = [], list[tuple[int, int]]()
        for l in reversed(self.asked.launches):
            r = self.asked.regions[l.region]
            mine = []
            for p, t in zip(l.outputs, (r.output, *r.extra_outputs)):
                at, size = self._address(p), reach(t, self.asked.env) * t.dtype.size
                mine.append((at, at + size))
                if size and not any(begin < at + size and at < end for begin, end in written):
                    found.append((r, t, at, size))
            written += mine
        return found

    def _exchanged(self, signature: str, forms: Objects) -> list[Steps]:
        """A region's launches with the same operands, and other kernels for some."""
        made, objects = forms(self.asked.regions[signature], *self.asked.choices[signature])
        units = self._units(objects)
        out = []
        for steps in self.steps[signature]:
            mine: Steps = []
            for step, (unit, values, tiles) in zip(made.steps, steps, strict=True):
                if (other := units.get(step.kernel.symbol)) is not None:
                    unit = other
                    values = [*values[:len(step.args)], *self.bench.hidden(other, tiles, self.memory)]
                mine.append((unit, values, tiles))
            out.append(mine)
        return out

    def _units(self, objects: Mapping[str, bytes]) -> dict[str, Launchable]:
        return {symbol: Code(self.bench.device, raw, self.bench.libraries).unit(0) for symbol, raw in objects.items()}

    def _spaces(self) -> dict[Any, int]:
        """The address of each input, output, constant and of the arena; as large as what is read and written there."""
        a = self.asked
        sizes: dict[Any, int] = {"arena": a.arena}
        kinds: dict[Any, DType] = {}
        for l in a.launches:
            r = a.regions[l.region]
            for places, tensors in ((l.inputs, r.inputs), (l.outputs, (r.output, *r.extra_outputs))):
                for p, t in zip(places, tensors):
                    key, offset = self._key(p)
                    size = offset + reach(t, a.env) * t.dtype.size
                    sizes[key] = max(sizes.get(key, 0), size)
                    kinds.setdefault(key, t.dtype)
        random = {k: self.bench.upload(random_array(k, CHUNK, 0)) for k in set(kinds.values())}
        self.memory += random.values()
        found = {}
        for key, size in sizes.items():
            m = self.bench.device.allocate(size + 256, "a segment")
            self.memory.append(m)
            self.filled.append((m.address, size, None if key == "arena" else random[kinds[key]]))
            found[key] = m.address
        return found

    def _reset(self) -> None:
        """As before the first run."""
        for address, size, source in self.filled:
            if source is None:
                self.bench.clear(address, size)
            else:
                self.bench.fill(address, size, source)

    def _key(self, p: Place) -> tuple[Any, int]:
        offset = dims.evaluate(p.offset, self.asked.env)
        match p:
            case ArenaArg():
                return "arena", offset
            case WeightArg(name):
                return ("weight", name), offset
            case InputArg(index):
                return ("input", index), offset
            case OutputArg(index):
                return ("output", index), offset

    def _prepared(self, signature: str, tactic: str, params: Params) -> list[Steps]:
        """A candidate's launches at each place of its region, each with packed constants of its own."""
        region, env = self.asked.regions[signature], self.asked.env
        made, objects = self.compiled(region, tactic, params)
        units = self._units(objects)
        packs = self._packs(region, made)
        work = self.bench.device.allocate(int(evaluate(made.workspace, env)), "a workspace")
        self.memory.append(work)
        out = []
        for l in (l for l in self.asked.launches if l.region == signature):
            mine = [self.bench.upload(a) for a in packs]
            self.memory += mine

            def value(a: Any, l: Any = l, mine: Any = mine) -> int:
                match a:
                    case In(k):
                        return self._address(l.inputs[k])
                    case Out(k):
                        return self._address(l.outputs[k])
                    case Packed(k):
                        return int(mine[k].address)
                    case Work(offset):
                        return work.address + int(evaluate(offset, env))
                    case Int(v):
                        return int(evaluate(v, env))
                raise TypeError(f"an argument {a!r}")

            steps: Steps = []
            for step in made.steps:
                unit, tiles = units[step.kernel.symbol], int(evaluate(step.tiles, env))
                hidden = self.bench.hidden(unit, tiles, self.memory)
                steps.append((unit, [*(value(a) for a in step.args), *hidden], tiles))
            out.append(steps)
        return out

    def _address(self, p: Place) -> int:
        key, offset = self._key(p)
        return self.spaces[key] + offset

    def _packs(self, region: Region, made: Implementation) -> list[np.ndarray]:
        if not made.packs:
            return []
        operands = Operands(region)
        return [np.ascontiguousarray(p.make(*(operands.logical(i) for i in p.sources))) for p in made.packs]
