"""What a plan tells of itself: its layers in the order of execution, with the values that pass between them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from whet.ir.graph import Value
from whet.lowering.program import Outline, Stretch, reads
from whet.lowering.storage import VIEWS, Launch
from whet.plan import dims
from whet.plan.program import REFERENCE, Host, If, Loop, Native, Tensor

Names = list[str]  # of the values that one value may come from


@dataclass
class Layers:
    """`layers`: each with `name`, `reads` and `writes` (names of values; views are followed to what they show), and
    for launches `launch`, the index among the program's; bodies come right after the control flow that runs them.

    `outputs`: for each output of the plan the names of what it may come from.
    """

    layers: list[dict[str, Any]] = field(default_factory=list)
    outputs: list[Names] = field(default_factory=list)


def layers(o: Outline, describe: Callable[[int, Launch], Mapping[str, Any]],
           reasons: Mapping[str, str]) -> Layers:
    """The layers of a program.

    describe: what else to say of a launch, by its index and itself. reasons: why a node is run on the host, by label.
    """
    walk = _Walk(o, describe, reasons)
    walk.out.outputs = walk.block(0, [[t.name] for t in o.inputs])
    return walk.out


class _Walk:
    def __init__(self, o: Outline, describe: Callable[[int, Launch], Mapping[str, Any]],
                 reasons: Mapping[str, str]) -> None:
        self.o, self.describe, self.reasons = o, describe, reasons
        self.out = Layers()
        self.serial = 0
        self.first: list[int] = []
        count = 0
        for s in o.stretches:
            self.first.append(count)
            count += len(s.schedule.launches)

    def fresh(self, hint: str) -> str:
        self.serial += 1
        return f"{hint}#{self.serial}"

    def block(self, index: int, feeds: Sequence[Names]) -> list[Names]:
        """Add a block's layers; returns where its outputs come from. `feeds`: the same of its inputs."""
        block = self.o.blocks[index]
        held: dict[int, Names] = dict(zip(block.inputs, feeds))
        for s in block.steps:
            taken = [held.get(r, []) for r in reads(s)]
            if isinstance(s, Native):
                held.update(zip(s.outputs, self.segment(s.segment, taken)))
            elif isinstance(s, Host):
                if s.kind == "strings":  # constants
                    continue
                given = [self.fresh(s.label) for _ in s.outputs]
                self.out.layers.append({
                    "name": s.label, "kind": "host", "tactic": "reference" if s.kind in REFERENCE else s.kind,
                    "reads": _merged(taken), "writes": given,
                    "reason": self.reasons.get(s.label, "") if s.kind in REFERENCE else "a plugin computes it",
                    "results": [_type(t) for t in s.results]})
                held.update(zip(s.outputs, ([g] for g in given)))
            else:
                held.update(zip(s.outputs, self.control(s, taken)))
        return [held.get(r, []) for r in block.outputs]

    def control(self, s: If | Loop, taken: Sequence[Names]) -> list[Names]:
        enter = self.fresh(s.label)
        self.out.layers.append({"name": s.label, "kind": "control", "tactic": "if" if isinstance(s, If) else "loop",
                                "reads": _merged(taken), "writes": [enter], "reason": "the host decides what runs"})

        def body(index: int) -> list[Names]:
            return self.block(index, [[enter]] * len(self.o.blocks[index].inputs))

        if isinstance(s, If):
            return [_merged(pair) for pair in zip(body(s.then), body(s.other))]
        return [_merged([[enter], given]) for given in body(s.body)[1:]]

    def segment(self, index: int, feeds: Sequence[Names]) -> list[Names]:
        stretch: Stretch = self.o.stretches[index]
        sources = dict(zip(stretch.graph.inputs, feeds))
        copied: dict[tuple[str, Value], str] = {}

        def origins(v: Value, reader: str) -> Names:
            if (reader, v) in copied:
                return [copied[reader, v]]
            if v in sources or v.data is not None:
                return sources.get(v, [])
            node = v.producer
            if node is None or node.op not in (*VIEWS, "concat"):
                return [f"{index}.{v.name}"]
            found = _merged(origins(i, node.origin) for i in node.inputs if i is not None)
            sources[v] = found  # resolved once: views may be many
            return found

        for k, launch in enumerate(stretch.schedule.launches, self.first[index]):
            node = launch.node
            writes = [f"{index}.{v.name}" for v in node.outputs]
            taken = _merged(origins(v, node.origin) for v in node.inputs if v is not None)
            if not node.outputs:  # a copy, for the reader that it is named after
                writes = [self.fresh("copy")]
                v = node.input(0)
                copied[node.origin.removeprefix("copy for "), v] = writes[0]
            self.out.layers.append({"name": node.origin, "kind": launch.region.kind, "launch": k, "reads": taken,
                                    "writes": writes, **self.describe(k, launch)})
        return [origins(v, f"output {i}") for i, v in enumerate(stretch.graph.outputs)]


def _type(t: Tensor) -> str:
    return f"{t.dtype}[{'x'.join(map(dims.show, t.shape)) or 'scalar'}]"


def _merged(groups: Iterable[Names]) -> Names:
    return list(dict.fromkeys(name for g in groups for name in g))
