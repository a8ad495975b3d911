"""Writing ONNX nodes: fresh names, constants kept once, and symbolic dimensions computed from the inputs' shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from whet.errors import UnsupportedError
from whet.ir.dtypes import DType
from whet.ir.graph import Graph, Node, Size, Value
from whet.ir.symbolic import Dim, Sym, lower, names, substitute, symbol

Source = Callable[["Writer"], str]  # writes what computes a dimension; the name of the int64 [1] tensor


def element_type(dtype: DType, where: str) -> int:
    """ONNX's number of a type. UnsupportedError for values that are no tensors."""
    if dtype is DType.STRING:
        return int(TensorProto.STRING)
    if dtype is DType.OBJECT:
        raise UnsupportedError("a sequence or optional cannot be exported", where=where,
                               why="the exporter writes tensors", do="take it out with whet surgeon extract")
    return int(helper.np_dtype_to_tensor_dtype(dtype.np))


def not_exportable(node: Node, why: str) -> UnsupportedError:
    """The error for a node that ONNX has no operators for, or that the exporter does not write."""
    return UnsupportedError(f"{node.op} cannot be exported to ONNX", where=f"node {node.origin or node.op}", why=why,
                            do="export the part before it (whet surgeon extract), or build a plan instead")


class Writer:
    """Collects the nodes of one ONNX graph. The graphs inside control flow have writers of their own, which see the
    names of the writer around them."""

    def __init__(self, outer: Writer | None = None) -> None:
        self.outer = outer
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = outer.initializers if outer else []
        self.names: dict[Value, str] = {}
        self.used: set[str] = outer.used if outer else set()
        self.sources: dict[str, Source] = {}
        self.ranges: dict[str, tuple[int, int]] = dict(outer.ranges) if outer else {}
        self.origin: str = outer.origin if outer else ""
        self._constants: dict[Any, tuple[str, Any]] = outer._constants if outer else {}  # the data, so that ids stay
        self._sizes: dict[Dim, str] = {}
        self._labels: dict[str, int] = outer._labels if outer else {}
        self._serial: dict[str, int] = outer._serial if outer else {}

    # -- names -----------------------------------------------------------------------------------

    def fresh(self, hint: str) -> str:
        """A name that nothing in the model has yet."""
        name, n = hint, self._serial.get(hint, 0)
        while name in self.used:
            n += 1
            name = f"{hint}_{n}"
        self._serial[hint] = n
        self.used.add(name)
        return name

    def name(self, v: Value) -> str:
        """The tensor that holds a value; constants become initializers when they are first read."""
        w: Writer | None = self
        while w is not None:
            if v in w.names:
                return w.names[v]
            w = w.outer
        if v.data is None:
            raise AssertionError(f"{v} is read before it is written")
        self.names[v] = self.constant(v.data, v.name)
        return self.names[v]

    # -- nodes -----------------------------------------------------------------------------------

    def emit(self, op: str, *inputs: str | None, **attrs: Any) -> str:
        """Add a node with one output and return its name, which begins with the attribute `hint`."""
        return self.emit_many(op, inputs, 1, **attrs)[0]

    def emit_many(self, op: str, inputs: Sequence[str | None], outputs: int, **attrs: Any) -> list[str]:
        """Add a node; absent inputs are None."""
        hint = attrs.pop("hint", "")
        ins = [i or "" for i in inputs]
        while ins and not ins[-1]:
            ins.pop()
        outs = [self.fresh(f"{hint or op}_out{i}" if i else hint or f"{op}_out") for i in range(outputs)]
        self.nodes.append(helper.make_node(op, ins, outs, name=self._label(op), **attrs))
        return outs

    def _label(self, op: str) -> str:
        """A name for a node: of the layer that it comes from, told apart where that has several nodes."""
        base = self.origin or op
        n = self._labels[base] = self._labels.get(base, 0) + 1
        return base if n == 1 else f"{base}:{n}"

    def constant(self, data: Any, hint: str = "constant", dtype: Any = None) -> str:
        """An initializer with these values; equal small ones are kept once."""
        array = np.asarray(data, dtype)
        key = (array.dtype.str, str(array.dtype), array.shape, array.tobytes()) if array.size <= 64 and \
            array.dtype.kind != "O" else (id(data),)
        if key not in self._constants:
            name = self.fresh(hint)
            self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name))
            self._constants[key] = name, data
        return self._constants[key][0]

    def like(self, v: Value, number: float) -> str:
        """A scalar constant of the type of v."""
        return self.constant(np.asarray(number).astype(v.dtype.np))

    def ints(self, numbers: Iterable[int]) -> str:
        """A constant int64 vector."""
        return self.constant(np.asarray(list(numbers), np.int64).reshape(-1), "ints")

    # -- dimensions --------------------------------------------------------------------------------

    def learn_inputs(self, inputs: Iterable[Value]) -> None:
        """The shapes of these inputs tell dimensions: plain names first, then names in expressions linear in one."""
        later: list[tuple[Value, int, Sym]] = []
        for v in inputs:
            for axis, d in enumerate(v.shape):
                if isinstance(d, Sym):
                    (name, *more) = sorted(names(d))
                    if not more and d == symbol(name):
                        self.sources.setdefault(name, _axis_of(v, axis))
                    else:
                        later.append((v, axis, d))
        for v, axis, d in later:
            unknown = [n for n in sorted(names(d)) if n not in self.sources]
            if len(unknown) == 1:
                self.sources[unknown[0]] = _solved(unknown[0], d, _axis_of(v, axis))

    def learn_sizes(self, graph: Graph) -> None:
        """Dimensions that the graph computes; and the ranges of all."""
        self.ranges |= {n: (low, high) for n, (low, _, high) in graph.dims.items()}
        for name, s in graph.sizes.items():
            self.sources.setdefault(name, _size(s))

    def positive(self, d: Dim) -> bool:
        """True for a dimension that is never 0."""
        return names(d) <= self.ranges.keys() and lower(d, self.ranges) > 0

    def sizes(self) -> set[str]:
        """The tensors that hold dimensions."""
        return set(self._sizes.values()) | (self.outer.sizes() if self.outer else set())

    def dim(self, d: Dim) -> str:
        """A dimension as an int64 tensor of shape [1]."""
        if isinstance(d, int):
            return self.ints([d])
        w: Writer | None = self
        while w is not None:
            if d in w._sizes:
                return w._sizes[d]
            w = w.outer
        self._sizes[d] = self._expression(d)
        return self._sizes[d]

    def _expression(self, d: Sym) -> str:
        total = ""
        for mono, coef in d.terms:
            factors = [self._atom(a) for a in mono]
            if coef != 1 or not factors:
                factors.append(self.ints([coef]))
            term = factors[0]
            for f in factors[1:]:
                term = self.emit("Mul", term, f, hint="size")
            total = self.emit("Add", total, term, hint="size") if total else term
        return total

    def _atom(self, atom: tuple[Any, ...]) -> str:
        if atom[0] == "name":
            w: Writer | None = self
            while w is not None:
                if atom[1] in w.sources:
                    key = symbol(atom[1])
                    if key not in w._sizes:
                        w._sizes[key] = w.sources[atom[1]](w)
                    return w._sizes[key]
                w = w.outer
            raise UnsupportedError(f"the dimension {atom[1]} cannot be computed in the exported model",
                                   where=self.origin, why="no input's shape and no value tells it",
                                   do="fix it with shapes=")
        a, b = self.dim(atom[1]), self.dim(atom[2])
        if atom[0] == "floordiv":  # ONNX truncates
            return self.emit("Div", self.emit("Sub", a, self.emit("Mod", a, b, hint="size"), hint="size"), b,
                             hint="size")
        return self.emit({"mod": "Mod", "min": "Min", "max": "Max"}[atom[0]], a, b, hint="size")

    def shape(self, dims: Iterable[Dim]) -> str:
        """Dimensions as an int64 vector: a constant where all are numbers."""
        parts: list[str] = []
        run: list[int] = []
        for d in dims:
            if isinstance(d, int):
                run.append(d)
                continue
            if run:
                parts.append(self.ints(run))
                run = []
            parts.append(self.dim(d))
        if run or not parts:
            parts.append(self.ints(run))
        return parts[0] if len(parts) == 1 else self.emit("Concat", *parts, axis=0, hint="shape")


def _axis_of(v: Value, axis: int) -> Source:
    return lambda w: w.emit("Shape", w.name(v), start=axis, end=axis + 1, hint="size")


def _solved(name: str, d: Sym, source: Source) -> Source:
    """name from d = slope * name + rest, where the dimension that d is comes from `source`."""
    rest = substitute(d, {name: 0})
    slope = substitute(d, {name: 1}) - rest

    def solve(w: Writer) -> str:
        if not isinstance(slope, int) or slope == 0 or d != symbol(name) * slope + rest:
            raise UnsupportedError(f"the dimension {name} cannot be computed in the exported model", where=w.origin,
                                   why=f"an input's dimension is {d}", do="fix it with shapes=")
        whole = source(w)
        if rest != 0:
            whole = w.emit("Sub", whole, w.dim(rest), hint="size")
        return whole if slope == 1 else w.emit("Div", whole, w.ints([slope]), hint="size")

    return solve


def _size(s: Size) -> Source:
    def read(w: Writer) -> str:
        if s.axis:
            return w.emit("Shape", w.name(s.value), start=s.at, end=s.at + 1, hint="size")
        flat = w.emit("Reshape", w.name(s.value), w.ints([-1]), hint="size")
        one = w.emit("Gather", flat, w.ints([s.at]), axis=0, hint="size")
        return one if s.value.dtype is DType.I64 else w.emit("Cast", one, to=int(TensorProto.INT64), hint="size")

    return read
