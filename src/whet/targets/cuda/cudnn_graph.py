"""Operation graphs of cuDNN as data, and from an expression to their pointwise nodes.

A `Description` is JSON: the code of a kernel that cuDNN runs. `construct` makes the frontend's graph of it (with the
library), `plans` asks for its execution plans, `serialized` builds the one of a name.

Values of a graph are numbered: first its tensors, then the results of its nodes. Dimensions are in cuDNN's order
[n, c, spatial..]. NVIDIA cuDNN Frontend's documents "Convolutions" and "Pointwise" have the operations.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np

from whet import abi_cuda, abi_cudnn
from whet.errors import DeviceError
from whet.ir.dtypes import DType
from whet.ir.expr import ANCHOR, Apply, Expr, Imm, Leaf
from whet.targets.base import Arg, Kernel, Pack, Packed, Step

TYPES = {DType.F32: "FLOAT", DType.F16: "HALF", DType.BF16: "BFLOAT16", DType.I8: "INT8", DType.I32: "INT32",
         DType.F8E4M3FN: "FP8_E4M3"}
WORKSPACE = 64 << 20  # bytes that a plan may ask for
COMPILED = 1 << 20  # bytes that are kept for a plan which only tells once it has been compiled
OPERATORS = 24  # of an epilogue: asked for plans with 75, cuDNN 9.19 ended the process
MOST = 48


class TensorSpec(msgspec.Struct, frozen=True):
    """A tensor in memory: dimensions and strides in cuDNN's order, type as cuDNN names it."""

    dims: list[int]
    strides: list[int]
    type: str
    aligned: bool = True


class NodeSpec(msgspec.Struct, frozen=True):
    """An operation over earlier values. `op` is the frontend's method; `type` of its result where not float."""

    op: str
    inputs: list[int]
    attrs: dict[str, Any] = {}
    type: str = "FLOAT"


class Description(msgspec.Struct, frozen=True, tag="cudnn"):
    """A graph, one of whose execution plans is wanted. The last node's result is `output`; uids are 1.. for the
    tensors in order, then the output's. `avoid`: numerical notes of engines that will not do."""

    tensors: list[TensorSpec]
    nodes: list[NodeSpec]
    output: TensorSpec
    avoid: list[str] = []
    plan: str = ""
    workspace: int = 0


# -- with the library --------------------------------------------------------------------------------------------------

_handles: list[Any] = []


def handle() -> Any:
    """This process's cuDNN handle on its first GPU."""
    if not _handles:
        _handles.append(abi_cudnn.module().create_handle())
    return _handles[0]


def construct(d: Description) -> Any:
    """The frontend's graph, its operations checked and its execution plans listed. The frontend's own errors."""
    m = abi_cudnn.module()
    kinds = m.data_type
    g = m.pygraph(io_data_type=kinds.FLOAT, intermediate_data_type=kinds.FLOAT,
                  compute_data_type=kinds.FLOAT, handle=handle())
    values = []
    for i, t in enumerate(d.tensors):
        made = g._make_tensor(dim=t.dims, stride=t.strides, data_type=getattr(kinds, t.type), uid=i + 1, name=f"t{i}")
        values.append(made if t.aligned else made.set_alignment(np.dtype(_SIZES[t.type]).itemsize))
    for n in d.nodes:
        attrs = dict(n.attrs)
        attrs["compute_data_type"] = getattr(kinds, attrs.pop("compute", "FLOAT"))
        result = _OPERANDS[n.op](g, [values[i] for i in n.inputs], attrs) if n.op in _OPERANDS else \
            getattr(g, n.op)(*(values[i] for i in n.inputs), **attrs)
        result = result[0] if isinstance(result, (list, tuple)) else result
        result._set_data_type(getattr(kinds, n.type))
        values.append(result)
    y = values[-1]
    y.set_output(True)._set_data_type(getattr(kinds, d.output.type))
    y.set_dim(d.output.dims).set_stride(d.output.strides).set_uid(len(d.tensors) + 1)
    if not d.output.aligned:
        y.set_alignment(np.dtype(_SIZES[d.output.type]).itemsize)
    g.validate()
    g.build_operation_graph()
    g.create_execution_plans([m.heur_mode.A, m.heur_mode.B, m.heur_mode.FALLBACK])
    if d.avoid:
        g.deselect_numeric_notes([getattr(m.numerical_note, a) for a in d.avoid])
    return g


_SIZES = {"FLOAT": "f4", "HALF": "f2", "BFLOAT16": "f2", "INT8": "i1", "INT32": "i4", "FP8_E4M3": "i1"}


def _sdpa(g: Any, values: list[Any], attrs: dict[str, Any]) -> Any:
    q, k, v, *rest = values
    named = dict(zip(attrs.pop("named", []), rest, strict=True))
    return g.sdpa(q=q, k=k, v=v, **named, **attrs)


_OPERANDS: dict[str, Callable[[Any, list[Any], dict[str, Any]], Any]] = {
    "conv_fprop": lambda g, v, attrs: g.conv_fprop(image=v[0], weight=v[1], **attrs),
    "matmul": lambda g, v, attrs: g.matmul(A=v[0], B=v[1], **attrs),
    "sdpa": _sdpa,
}


def plans(d: Description) -> list[tuple[str, int]]:
    """(name, bytes of workspace) of the execution plans, in the order of the heuristics, each name once; none where
    cuDNN does not run the graph. Plans that are compiled when they are built do not tell their workspace before."""
    m = abi_cudnn.module()
    try:
        g = construct(d)
        count = int(g.get_execution_plan_count())
    except Exception:  # the frontend's error for graphs that no engine takes
        return []
    found: dict[str, int] = {}
    for i in range(count):
        name = g.get_plan_name_at_index(i)
        if name in found or len(found) >= MOST:
            continue
        try:
            if m.behavior_note.RUNTIME_COMPILATION in g.get_behavior_notes_for_plan_at_index(i):
                found[name] = COMPILED
                continue
            g.build_plan_at_index(i)
            size = int(g.get_workspace_size_plan_at_index(i))
        except Exception:  # an engine that the heuristics proposed and that then refuses
            continue
        if size <= WORKSPACE:
            found[name] = size
    return list(found.items())


def serialized(code: str) -> bytes:
    """The object of a description with a plan's name. DeviceError where cuDNN does not build it."""
    d = msgspec.json.decode(code, type=Description)
    m = abi_cudnn.module()
    try:
        g = construct(d)
        index = next((i for i in range(int(g.get_execution_plan_count())) if g.get_plan_name_at_index(i) == d.plan), -1)
        if index >= 0:
            g.build_plan_at_index(index)
            size, payload = int(g.get_workspace_size_plan_at_index(index)), bytes(g.serialize())
    except Exception as e:
        raise DeviceError("cuDNN does not build an execution plan", where=d.plan,
                          why=" ".join(str(e).split())[:300], do="the tuner goes on without it") from e
    if index < 0 or size > d.workspace:
        raise DeviceError("cuDNN does not build an execution plan", where=d.plan,
                          why="it is not among those proposed" if index < 0 else f"it asks for {size} bytes",
                          do="the tuner goes on without it")
    unit = abi_cuda.Graph(list(range(1, len(d.tensors) + 2)), d.workspace, int(m.backend_version()))
    return abi_cuda.pack(unit, payload)


def step(d: Description, args: list[Arg], workspace: Arg) -> Step:
    """The launch of a graph: an argument for each tensor and the output, then the workspace."""
    code = msgspec.json.encode(d, order="sorted").decode()
    return Step(Kernel(f"cudnn_{hashlib.sha256(code.encode()).hexdigest()[:16]}", code), (*args, workspace), 1)


# -- pointwise nodes ---------------------------------------------------------------------------------------------------

_SAME = {"add": "add", "sub": "sub", "mul": "mul", "div": "div", "min": "min", "max": "max", "pow": "pow",
         "relu": "relu", "sigmoid": "sigmoid", "tanh": "tanh", "erf": "erf", "exp": "exp", "log": "log",
         "sqrt": "sqrt", "reciprocal": "reciprocal", "neg": "neg", "abs": "abs", "floor": "floor", "ceil": "ceil",
         "sin": "sin", "cos": "cos", "tan": "tan"}


class UntranslatableError(Exception):
    """An expression that cuDNN's pointwise operations do not say; the reason."""


class Nodes:
    """A graph in the making: tensors with their arguments, then nodes.

    Scalars are tensors of one element, packed constants of their own: graphs that differ in numbers alone are the same.
    """

    def __init__(self, rank: int, packs: int) -> None:
        self.rank, self.first = rank, packs
        self.tensors: list[TensorSpec] = []
        self.args: list[Arg] = []
        self.nodes: list[tuple[str, list[Any], dict[str, Any], str]] = []
        self.packs: list[Pack] = []
        self._numbers: dict[float, int] = {}

    def tensor(self, spec: TensorSpec, arg: Arg) -> tuple[str, int]:
        self.tensors.append(spec)
        self.args.append(arg)
        return "t", len(self.tensors) - 1

    def node(self, op: str, *inputs: tuple[str, int], type: str = "FLOAT", **attrs: Any) -> tuple[str, int]:
        self.nodes.append((op, list(inputs), attrs, type))
        return "n", len(self.nodes) - 1

    def number(self, value: float) -> tuple[str, int]:
        """A scalar of f32."""
        if value not in self._numbers:
            self.packs.append(Pack((), _Number(value)))
            spec = TensorSpec([1] * self.rank, [1] * self.rank, "FLOAT")
            self._numbers[value] = self.tensor(spec, Packed(self.first + len(self.packs) - 1))[1]
        return "t", self._numbers[value]

    def described(self, output: TensorSpec, avoid: list[str]) -> Description:
        shift = len(self.tensors)
        nodes = [NodeSpec(op, [i + (shift if kind == "n" else 0) for kind, i in inputs], attrs, type)
                 for op, inputs, attrs, type in self.nodes]
        return Description(self.tensors, nodes, output, avoid)


class _Number:
    """Makes a packed constant of one number."""

    def __init__(self, value: float) -> None:
        self.value = value

    def __call__(self) -> np.ndarray:
        return np.full(1, self.value, np.float32)


def translate(nodes: Nodes, e: Expr, anchor: tuple[str, int], leaf: Callable[[int], tuple[str, int]],
              output: DType) -> tuple[str, int]:
    """The expression's nodes; its value, which is rounded to `output` when stored. UntranslatableError."""
    if sum(isinstance(t, Apply) for t in e.terms) > OPERATORS:
        raise UntranslatableError(f"an expression of more than {OPERATORS} operators")
    values: dict[int, tuple[str, int]] = {}
    leaves: dict[int, tuple[str, int]] = {}
    last = len(e.terms) - 1

    def value(i: int) -> tuple[str, int]:
        if i not in values:
            t = e.terms[i]
            if isinstance(t, Leaf):
                if t.source != ANCHOR and t.source not in leaves:
                    leaves[t.source] = leaf(t.source)
                values[i] = anchor if t.source == ANCHOR else leaves[t.source]
            elif isinstance(t, Imm):
                values[i] = nodes.number(float(t.value))
            else:
                values[i] = apply(i, t)
        return values[i]

    def apply(i: int, t: Apply) -> tuple[str, int]:
        attrs, args = dict(t.attrs), t.args
        if t.op == "cast":
            return cast(i, t)
        if t.op == "saturate":
            if i != last or attrs["zero"] != 0 or t.dtype is not DType.I8:
                raise UntranslatableError("codes with a zero point")
            return value(args[0])
        if not t.dtype.is_float or t.dtype is DType.F64:
            raise UntranslatableError(f"{t.op} of {t.dtype.value}")
        clip = _clip(e, i)
        if clip is not None:
            inner, low, high = clip
            limits: dict[str, Any] = {"lower_clip": low} if low != 0 else {}
            if high is not None:
                limits["upper_clip"] = high
            return nodes.node("relu", value(inner), **limits)
        if t.op == "silu":
            return nodes.node("swish", value(args[0]), swish_beta=1.0)
        if t.op == "gelu":
            return nodes.node("gelu" if attrs.get("approximate", "none") == "none" else "gelu_approx_tanh",
                              value(args[0]))
        if t.op == "hardswish":
            x = value(args[0])
            sixth = nodes.node("add", nodes.node("mul", x, nodes.number(1 / 6)), nodes.number(0.5))
            return nodes.node("mul", x, nodes.node("relu", sixth, upper_clip=1.0))
        if t.op not in _SAME:
            raise UntranslatableError(f"cuDNN has no {t.op}")
        return nodes.node(_SAME[t.op], *(value(a) for a in args))

    def cast(i: int, t: Apply) -> tuple[str, int]:
        source = e.terms[t.args[0]]
        x = value(t.args[0])
        real = (DType.F32, DType.F16, DType.BF16)
        if i == last and t.dtype in (*real, DType.F8E4M3FN) and t.dtype is output and source.dtype.computed_as in real:
            return x
        if t.dtype is DType.F32 and source.dtype in (*real, DType.I32):
            return x
        if t.dtype in real and source.dtype in real:
            return nodes.node("identity", x, type=TYPES[t.dtype])
        raise UntranslatableError(f"a cast from {source.dtype.value} to {t.dtype.value}")

    return value(last)


def _clip(e: Expr, i: int) -> tuple[int, float, float | None] | None:
    """(x, low, high) if term i is max(x, low), or min of that (or of relu) and high."""
    def with_number(j: int, op: str) -> tuple[int, float] | None:
        t = e.terms[j]
        if not isinstance(t, Apply) or t.op != op:
            return None
        for a, b in (t.args, t.args[::-1]):
            number = e.terms[b]
            if isinstance(number, Imm):
                return a, float(number.value)
        return None

    def lower(j: int) -> tuple[int, float] | None:
        t = e.terms[j]
        if isinstance(t, Apply) and t.op == "relu":
            return t.args[0], 0.0
        return with_number(j, "max")

    upper = with_number(i, "min")
    if upper is not None:
        inner = lower(upper[0])
        return (*inner, upper[1]) if inner is not None else None
    t = e.terms[i]
    found = lower(i) if isinstance(t, Apply) and t.op == "max" else None
    return (*found, None) if found is not None and found[1] == 0 else None

