"""Random models of nested If, Loop and Scan, with sequences and shapes that grow, for tests."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import GraphProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

# Kinds of values: f: [2, 3]; g: [?, 3]; b: bool; i: i64; s: a sequence of [?, 3].
KINDS = "fgbis"


def info(name: str, kind: str) -> ValueInfoProto:
    """The declaration of a value of this kind."""
    if kind == "s":
        return helper.make_tensor_sequence_value_info(name, TensorProto.FLOAT, None)
    code = {"b": TensorProto.BOOL, "i": TensorProto.INT64}.get(kind, TensorProto.FLOAT)
    return helper.make_tensor_value_info(name, code, {"f": (2, 3), "g": (None, 3)}.get(kind, ()))


@dataclass
class Body:
    """A graph that is being made: its nodes, and the values of each kind that it may read."""

    nodes: list[NodeProto] = field(default_factory=list)
    seen: dict[str, list[str]] = field(default_factory=dict)


class Model:
    """Makes one random model. Names are unique, or hide those around where `shadow`."""

    def __init__(self, seed: int, depth: int = 2, size: int = 5) -> None:
        self.random = random.Random(seed)
        self.depth, self.size = depth, size
        self.serial = 0
        constants = {"one": np.asarray(1, np.int64), "two": np.asarray(2, np.int64), "axis": np.asarray([0], np.int64),
                     "half": np.asarray(0.5, np.float32)}
        seen = {"f": ["x", "y"], "g": ["z"], "b": ["p"], "i": ["n", "one", "two"], "s": []}
        body = Body(seen=seen)
        self.add(body, "SequenceConstruct", ["x", "z"], "s")
        self.fill(body, depth)
        outputs = {k: self.pick(body, k) for k in KINDS}
        outputs["s"] = self.tensor_of(body, outputs["s"])
        graph = helper.make_graph(
            body.nodes, "random", [info(n, k) for n, k in (("x", "f"), ("y", "f"), ("z", "g"), ("p", "b"), ("n", "i"))],
            [info(o, "g" if k == "s" else k) for k, o in outputs.items()],
            [numpy_helper.from_array(v, k) for k, v in constants.items()])
        self.model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)

    def feeds(self, seed: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(seed)
        return {"x": rng.standard_normal((2, 3), np.float32), "y": rng.standard_normal((2, 3), np.float32),
                "z": rng.standard_normal((int(rng.integers(1, 4)), 3), np.float32),
                "p": np.asarray(rng.integers(2) == 1), "n": np.asarray(rng.integers(0, 4), np.int64)}

    # -- values ----------------------------------------------------------------------------------------

    def name(self) -> str:
        self.serial += 1
        return f"v{self.serial}"

    def pick(self, body: Body, kind: str) -> str:
        """A value of the kind, most likely a late one."""
        found = body.seen[kind]
        return found[-1 - min(int(self.random.expovariate(0.7)), len(found) - 1)]

    def add(self, into: Body, op: str, inputs: list[str], kinds: str, **attrs: object) -> list[str]:
        names = [self.name() for _ in kinds]
        into.nodes.append(helper.make_node(op, inputs, names, **attrs))
        for n, k in zip(names, kinds):
            if k in into.seen:
                into.seen[k].append(n)
        return names

    def tensor_of(self, body: Body, sequence: str) -> str:
        """The items of a sequence of at least one, as one tensor."""
        return self.add(body, "ConcatFromSequence", [sequence], "g", axis=0)[0]

    # -- nodes -----------------------------------------------------------------------------------------

    def fill(self, body: Body, depth: int) -> None:
        for _ in range(self.random.randint(1, self.size)):
            choices = [self.pointwise, self.pointwise, self.growing, self.condition, self.number, self.sequence]
            choices += [self.if_, self.loop, self.scan, self.collect] * (2 if depth else 0)
            self.random.choice(choices)(body, depth)

    def pointwise(self, body: Body, depth: int) -> None:
        op = self.random.choice(["Add", "Sub", "Max", "Tanh", "Neg", "Relu"])
        inputs = [self.pick(body, "f") for _ in range(1 if op in ("Tanh", "Neg", "Relu") else 2)]
        self.add(body, op, inputs, "f")

    def growing(self, body: Body, depth: int) -> None:
        match self.random.randrange(3):
            case 0:
                self.add(body, "Concat", [self.pick(body, self.random.choice("fg")) for _ in range(2)], "g", axis=0)
            case 1:
                self.add(body, "Tanh", [self.pick(body, "g")], "g")
            case _:
                row, = self.add(body, "ReduceMax", [self.pick(body, "g"), "axis"], "-", keepdims=1)
                self.add(body, "Add", [row, self.pick(body, "f")], "f")

    def condition(self, body: Body, depth: int) -> None:
        top, = self.add(body, "ReduceMax", [self.pick(body, "f")], "-", keepdims=0)
        self.add(body, self.random.choice(["Greater", "Less"]), [top, "half"], "b")

    def number(self, body: Body, depth: int) -> None:
        total, = self.add(body, "Add", [self.pick(body, "i"), self.pick(body, "i")], "-")
        self.add(body, "Mod", [total, "two"], "i")

    def sequence(self, body: Body, depth: int) -> None:
        match self.random.randrange(4):
            case 0:
                self.add(body, "SequenceInsert", [self.pick(body, "s"), self.pick(body, self.random.choice("fg"))], "s")
            case 1:
                self.add(body, "SequenceConstruct", [self.pick(body, "f"), self.pick(body, "g")], "s")
            case 2:
                length, = self.add(body, "SequenceLength", [self.pick(body, "s")], "-")
                last, = self.add(body, "Sub", [length, "one"], "-")
                self.add(body, "SequenceAt", [self.pick_like(body, length), last], "g")
            case _:
                self.tensor_of(body, self.pick(body, "s"))

    def pick_like(self, body: Body, length: str) -> str:
        """The sequence that this is the length of."""
        return next(n.input[0] for n in body.nodes if length in n.output)

    # -- control flow ----------------------------------------------------------------------------------

    def results(self, body: Body, kinds: str) -> list[str]:
        """Values of these kinds that the body itself computes: its outputs."""
        out = []
        for k in kinds:
            out += self.add(body, "Identity", [self.pick(body, k)], k)
        return out

    def inner(self, body: Body, formals: dict[str, str] | None = None) -> Body:
        seen = {k: list(v) for k, v in body.seen.items()}
        for n, k in (formals or {}).items():
            seen[k].append(n)
        return Body(seen=seen)

    def graph(self, body: Body, formals: dict[str, str], outputs: list[tuple[str, str]]) -> GraphProto:
        return helper.make_graph(body.nodes, self.name(), [info(n, k) for n, k in formals.items()],
                                 [info(n, k) for n, k in outputs])

    def kinds(self) -> str:
        return "".join(self.random.choice(KINDS) for _ in range(self.random.randint(1, 3)))

    def if_(self, body: Body, depth: int) -> None:
        kinds, branches = self.kinds(), []
        for _ in range(2):
            inner = self.inner(body)
            self.fill(inner, depth - 1)
            branches.append(self.graph(inner, {}, list(zip(self.results(inner, kinds), kinds))))
        self.add(body, "If", [self.pick(body, "b")], kinds, then_branch=branches[0], else_branch=branches[1])

    def loop(self, body: Body, depth: int) -> None:
        kinds = self.kinds()
        stacked = "f" * self.random.randrange(2)
        formals = {self.name(): k for k in "ib" + kinds}
        inner = self.inner(body, formals)
        self.fill(inner, depth - 1)
        goes_on = self.results(inner, "b") if self.random.random() < 0.3 else [list(formals)[1]]
        goes_on = self.add(inner, "Identity", goes_on, "b")
        outputs = [*goes_on, *self.results(inner, kinds), *self.results(inner, stacked)]
        graph = self.graph(inner, formals, list(zip(outputs, "b" + kinds + stacked)))
        count = self.pick(body, "i")
        names = self.add(body, "Loop", [count, "" if self.random.random() < 0.5 else self.pick(body, "b"),
                                        *(self.pick(body, k) for k in kinds)], kinds + "-" * len(stacked), body=graph)
        if stacked:  # [?, 2, 3]
            shape, = self.add(body, "Constant", [], "-", value_ints=[-1, 3])
            self.add(body, "Reshape", [names[-1], shape], "-")
            row, = self.add(body, "ReduceSum", [body.nodes[-1].output[0], "axis"], "-", keepdims=1)
            self.add(body, "Add", [row, self.pick(body, "f")], "f")

    def collect(self, body: Body, depth: int) -> None:
        """A loop of at least one iteration that fills a sequence; what it adds may grow."""
        first, = self.add(body, "SequenceEmpty", [], "-")
        count, = self.add(body, "Max", [self.pick(body, "i"), "one"], "-")
        names = [self.name() for _ in range(4)]
        inner = self.inner(body, dict(zip([names[0], names[3]], "ig")))
        self.fill(inner, depth - 1)
        goes_on, = self.add(inner, "Identity", [names[1]], "-")
        kept, = self.add(inner, "SequenceInsert", [names[2], self.pick(inner, self.random.choice("ffg"))], "-")
        grown, = self.results(inner, "g")
        formals = dict(zip(names, "ibsg"))
        graph = self.graph(inner, formals, [(goes_on, "b"), (kept, "s"), (grown, "g")])
        filled, _ = self.add(body, "Loop", [count, "", first, self.pick(body, "g")], "sg", body=graph)
        self.tensor_of(body, filled)

    def scan(self, body: Body, depth: int) -> None:
        rows, = self.add(body, "Concat", [self.pick(body, "g"), self.pick(body, "f")], "-", axis=0)
        state, row = self.name(), self.name()
        inner = self.inner(body, {state: "f"})
        self.add(inner, "Add", [row, self.pick(inner, "f")], "f")
        if self.random.random() < 0.5:
            self.fill(inner, depth - 1)
        outputs = self.results(inner, "ff")
        formals = [info(state, "f"), helper.make_tensor_value_info(row, TensorProto.FLOAT, (3,))]
        graph = helper.make_graph(inner.nodes, self.name(), formals, [info(o, "f") for o in outputs])
        axis, backwards = self.random.randrange(3), self.random.randrange(2)
        _, stacked = self.add(body, "Scan", [self.pick(body, "f"), rows], "f-", num_scan_inputs=1, body=graph,
                              scan_input_directions=[backwards], scan_output_axes=[axis],
                              scan_output_directions=[self.random.randrange(2)])
        over, = self.add(body, "Constant", [], "-", value_ints=[axis])
        self.add(body, "ReduceMax", [stacked, over], "f", keepdims=0)


def random_model(seed: int, depth: int = 2, size: int = 5) -> tuple[onnx.ModelProto, list[dict[str, np.ndarray]]]:
    """(model, feeds to try)."""
    m = Model(seed, depth, size)
    return m.model, [m.feeds(k) for k in range(3)]
