"""Adding nodes to a model: operators as calls, and integers that are known now or only when the model runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import NodeProto, helper

from whet.tools.surgeon.model import OnnxModel
from whet.tools.surgeon.names import Fresh


class Nodes:
    """New nodes of a model. They go into it by `prepend` or `append`; constants at once."""

    def __init__(self, model: OnnxModel, prefix: str) -> None:
        self.model, self.prefix = model, prefix
        self.fresh = Fresh(model.proto)
        self.nodes: list[NodeProto] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}

    def add(self, op: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """Add an operator; the name of its result, or a list of names for several `outputs`."""
        base = f"{self.prefix}_{op.lower()}"
        names = [self.fresh(base) for _ in range(outputs)]
        node = helper.make_node(op, list(inputs), names, name=self.fresh(f"{self.prefix}/{op}"), **attributes)
        self.nodes.append(node)
        return names[0] if outputs == 1 else names

    def named(self, source: str, name: str) -> None:
        """Let a result be called `name`."""
        self.nodes.append(helper.make_node("Identity", [source], [name]))

    def const(self, value: Any, dtype: Any) -> str:
        """The name of a constant; equal ones are stored once."""
        array = np.asarray(value, dtype)
        key = (array.dtype.str + array.dtype.name, array.shape, array.tobytes())
        if key not in self._constants:
            name = self.fresh(f"{self.prefix}_const")
            self.model.proto.graph.initializer.append(self.model.tensor(name, array))
            self._constants[key] = name
        return self._constants[key]

    def ints(self, *values: int) -> str:
        """A constant int64 vector."""
        return self.const(values, np.int64)

    def vector(self, values: Sequence[Num]) -> str:
        """An int64 vector of numbers, some of which are known only at run time."""
        if all(isinstance(v.value, int) for v in values):
            return self.ints(*(v.value for v in values if isinstance(v.value, int)))
        return str(self.add("Concat", *(v.tensor() for v in values), axis=0))

    def size(self, tensor: str, axis: int, known: Any = None) -> Num:
        """A dimension of a tensor: `known` where that is an int, else taken from the tensor."""
        if isinstance(known, int):
            return Num(self, known)
        return Num(self, self.add("Shape", tensor, start=axis, end=axis + 1))

    def prepend(self) -> None:
        """Put the nodes before those of the model."""
        g = self.model.proto.graph
        rest = []
        for n in g.node:
            copy = NodeProto()
            copy.CopyFrom(n)
            rest.append(copy)
        del g.node[:]
        g.node.extend([*self.nodes, *rest])

    def append(self) -> None:
        """Put the nodes behind those of the model."""
        self.model.proto.graph.node.extend(self.nodes)


class Num:
    """An integer: an int, or a tensor [1] of int64. Operators on it add nodes where it is the latter.

    All divisions are of numbers >= 0, where ONNX's Div is Python's //.
    """

    def __init__(self, nodes: Nodes, value: int | str) -> None:
        self.nodes, self.value = nodes, value

    def tensor(self) -> str:
        """Its name as a tensor [1]."""
        return self.value if isinstance(self.value, str) else self.nodes.ints(self.value)

    def _with(self, other: Num | int, op: str, now: Callable[[int, int], int], swap: bool = False) -> Num:
        b = other if isinstance(other, Num) else Num(self.nodes, other)
        x, y = (b, self) if swap else (self, b)
        if isinstance(x.value, int) and isinstance(y.value, int):
            return Num(self.nodes, now(x.value, y.value))
        return Num(self.nodes, self.nodes.add(op, x.tensor(), y.tensor()))

    def __add__(self, other: Num | int) -> Num:
        return self._with(other, "Add", lambda a, b: a + b)

    def __sub__(self, other: Num | int) -> Num:
        return self._with(other, "Sub", lambda a, b: a - b)

    def __rsub__(self, other: int) -> Num:
        return self._with(other, "Sub", lambda a, b: a - b, swap=True)

    def __mul__(self, other: Num | int) -> Num:
        return self._with(other, "Mul", lambda a, b: a * b)

    def __floordiv__(self, other: Num | int) -> Num:
        return self._with(other, "Div", lambda a, b: a // b)

    def __mod__(self, other: Num | int) -> Num:
        return self._with(other, "Mod", lambda a, b: a % b)

    def least(self, other: Num | int) -> Num:
        """The smaller of the two."""
        return self._with(other, "Min", min)

    def most(self, other: Num | int) -> Num:
        """The larger of the two."""
        return self._with(other, "Max", max)

    def over(self, other: Num) -> str | float:
        """The quotient as a float: a number, or a tensor [1] of float32."""
        if isinstance(self.value, int) and isinstance(other.value, int):
            return self.value / other.value
        to = {"to": 1}
        return str(self.nodes.add("Div", self.nodes.add("Cast", self.tensor(), **to),
                                  self.nodes.add("Cast", other.tensor(), **to)))


def round_ratio(a: Num, b: Num) -> Num:
    """a / b rounded to the nearest integer, halves to the even one (as Python rounds); a >= 0, b > 0."""
    doubled, twice = a * 2 + b, b * 2
    q = doubled // twice
    tie = 1 - (doubled % twice).least(1)
    return q - tie * (q % 2)
