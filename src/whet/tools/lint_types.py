"""Types and shapes of an ONNX graph's values, inferred node by node, going on after a node that does not fit."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnx
import onnx.shape_inference
from onnx import NodeProto, TensorProto, TypeProto

from whet.frontends.call import LOWERINGS
from whet.tools.lint_codes import Finding, finding
from whet.tools.lint_graph import AGAIN, STAND_IN, Structure, domain_of, label, opsets_of, schema_of

Types = dict[str, TypeProto]
_OPTION = onnx.defs.OpSchema.FormalParameterOption
BROADCAST = frozenset({"Add", "Sub", "Mul", "Div", "Pow", "Mod", "And", "Or", "Xor", "Equal", "Greater", "Less",
                       "GreaterOrEqual", "LessOrEqual", "Where", "Max", "Min", "Mean", "Sum", "PRelu",
                       "BitwiseAnd", "BitwiseOr", "BitwiseXor"})


def infer(s: Structure, inputs: Types | None = None) -> tuple[list[Finding], Types]:
    """Types of every value as far as they are known, and the nodes whose operands do not fit.

    inputs: what replaces the declared types of inputs. What nodes at fault compute is added to `s.doubtful`.
    """
    return _Inference(s, inputs or {}).run()


def type_name(t: TypeProto) -> str:
    """As ONNX's schemas write it: `tensor(float)`, `seq(tensor(int64))`; empty where it is not known."""
    match t.WhichOneof("value"):
        case "tensor_type":
            code = t.tensor_type.elem_type
            return f"tensor({TensorProto.DataType.Name(code).lower()})" if code else ""
        case "sequence_type":
            return f"seq({inner})" if (inner := type_name(t.sequence_type.elem_type)) else ""
        case "optional_type":
            return f"optional({inner})" if (inner := type_name(t.optional_type.elem_type)) else ""
    return ""


def dims_of(t: TypeProto | None) -> list[int | str | None] | None:
    """The dimensions of a tensor type (numbers, names, None); None where the rank is not known."""
    if t is None or not t.tensor_type.HasField("shape"):
        return None
    return [d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in t.tensor_type.shape.dim]


def tensor_type(elem: int, dims: Sequence[int | str | None] | None) -> TypeProto:
    """The type of a tensor; `dims` None leaves the rank open."""
    return onnx.helper.make_tensor_type_proto(elem, dims)


class _Inference:
    def __init__(self, s: Structure, inputs: Types) -> None:
        self.s = s
        self.model = onnx.ModelProto()
        self.model.CopyFrom(s.source.proto)
        for v in self.model.graph.input:
            if v.name in inputs:
                v.type.CopyFrom(inputs[v.name])
        self.opsets = opsets_of(self.model)
        self.imports = list(self.model.opset_import)
        self.declared = {v.name: v.type for v in (*s.graph.value_info, *s.graph.output)}
        self.types: Types = {v.name: v.type for v in self.model.graph.input}
        self.data: dict[str, TensorProto] = {}
        self.found: list[Finding] = []
        for i, t in enumerate(s.graph.initializer):
            self.types[t.name] = tensor_type(t.data_type, list(t.dims))
            if i not in s.source.views and t.data_location != TensorProto.EXTERNAL:
                self.data[t.name] = t
        self.hints = self._whole_graph()

    def _whole_graph(self) -> Types:
        """What ONNX's own inference finds, which follows sizes through shape arithmetic."""
        try:
            done = onnx.shape_inference.infer_shapes(self.model, check_type=False, strict_mode=False, data_prop=True)
        except Exception:  # the C++ side gives up on some faulty models as a whole: then the nodes' own must do
            return {}
        return {v.name: v.type for v in (*done.graph.value_info, *done.graph.output)}

    def run(self) -> tuple[list[Finding], Types]:
        for k, n in enumerate(self.s.graph.node):
            if n.domain != STAND_IN:
                self._node(self.s.mended.get(k, n))
            for o in n.output:
                if o and o not in self.types:
                    self._adopt(o, self.declared.get(o))
        for v in self.s.graph.output:
            have, want = type_name(self.types.get(v.name, TypeProto())), type_name(v.type)
            if have and want and have != want:
                self.found.append(finding("L114", v.name, f"the output {v.name} is declared {want}",
                                          f"it is computed as {have}", AGAIN))
        return self.found, self.types

    def _adopt(self, name: str, t: TypeProto | None) -> None:
        if t is not None and type_name(t):
            self.types[name] = t

    def _node(self, n: NodeProto) -> None:
        schema = schema_of(n, self.opsets)
        likely = schema is None
        if schema is None:
            if (domain_of(n), n.op_type) in LOWERINGS:
                return
            n, schema = self._misspelt(n)
            if schema is None:
                return
        fits = likely or self._constraints(n, schema)
        try:
            known = {i: self.types[i] for i in n.input if i}
        except KeyError:
            self._guess(n, schema)
            return
        if any(a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for a in n.attribute):
            known = dict(self.types)  # bodies read from outside
        try:
            results = onnx.shape_inference.infer_node_outputs(
                schema, n, known, {i: self.data[i] for i in n.input if i in self.data}, None, self.imports,
                self.model.ir_version)
        except Exception as e:  # InferenceError, and RuntimeErrors of other kinds
            if fits and not likely and (self.s.broken | self.s.doubtful).isdisjoint(n.output):
                self._report(n, str(e))
            self._guess(n, schema)
            return
        for o, t in results.items():
            hint = self.hints.get(o, t)
            better = dims_of(t) is None and dims_of(hint) is not None and type_name(hint) == type_name(t)
            self._adopt(o, hint if better else t)
        if n.op_type == "Constant" and not n.domain:
            for a in n.attribute:
                if a.name == "value":
                    self.data[n.output[0]] = a.t

    def _misspelt(self, n: NodeProto) -> tuple[NodeProto, onnx.defs.OpSchema | None]:
        """The operator that was probably meant: only to know the types of what follows."""
        known = {s.name for s in onnx.defs.get_all_schemas() if not s.domain}
        meant = NodeProto()
        meant.CopyFrom(n)
        meant.domain = ""
        for near in [n.op_type] if n.op_type in known else difflib.get_close_matches(n.op_type, known, 4, 0.7):
            meant.op_type = near
            schema = schema_of(meant, {"": self.opsets.get("", onnx.defs.onnx_opset_version())})
            takes = schema is not None and schema.min_input <= len(n.input) <= schema.max_input
            if schema is not None and takes and not self._unfit(n, schema):
                return meant, schema
        return meant, None

    # -- faults --------------------------------------------------------------------------------

    def _constraints(self, n: NodeProto, schema: onnx.defs.OpSchema) -> bool:
        """True unless element types are none of those that the operator takes, or do not go together."""
        unfit = self._unfit(n, schema)
        if not unfit:
            return True
        self.found.append(finding("L109", label(n), *unfit, "cast one of them, or export the model again",
                                  op=n.op_type, outputs=[o for o in n.output if o]))
        self.s.doubtful.update(o for o in n.output if o)
        return False

    def _unfit(self, n: NodeProto, schema: onnx.defs.OpSchema) -> tuple[str, str] | None:
        """What does not fit about the operands' element types, and why; None if nothing."""
        allowed = {c.type_param_str: set(c.allowed_type_strs) for c in schema.type_constraints}
        bound: dict[str, tuple[str, str]] = {}
        for i, name in enumerate(n.input):
            have = type_name(self.types.get(name, TypeProto())) if name else ""
            if not have or not schema.inputs:
                continue
            formal = schema.inputs[min(i, len(schema.inputs) - 1)]
            may = allowed.get(formal.type_str, {formal.type_str})
            if have not in may:
                listed = sorted(may) if len(may) < 6 else [*sorted(may)[:5], "..."]
                return (f"{n.op_type} takes no {have} as {formal.name} ({name})",
                        f"opset {schema.since_version} takes {', '.join(listed)}")
            if formal.type_str in allowed and (formal.option != _OPTION.Variadic or formal.is_homogeneous):
                other, first = bound.setdefault(formal.type_str, (have, name))
                if other != have:
                    return f"{n.op_type} of {other} ({first}) and {have} ({name})", "these operands must have one type"
        return None

    def _report(self, n: NodeProto, message: str) -> None:
        text = " ".join(message.strip().splitlines()[0:2]) if message.strip() else "its operands do not fit"
        for noise in ("[ShapeInferenceError] ", "[TypeInferenceError] ", "(op_type:"):
            text = text.split(noise, 1)[-1] if noise != "(op_type:" else text
        shapes = ", ".join(f"{i} {_show(self.types.get(i))}" for i in n.input if i)
        self.found.append(finding("L110", label(n), f"{n.op_type} of {shapes}", text,
                                  "check the node's operands and attributes, or export the model again", op=n.op_type,
                                  outputs=[o for o in n.output if o]))
        self.s.doubtful.update(o for o in n.output if o)

    # -- going on ------------------------------------------------------------------------------

    def _guess(self, n: NodeProto, schema: onnx.defs.OpSchema) -> None:
        """Types of the outputs of a node that does not fit, by what its operator usually gives."""
        allowed = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}
        bound = {schema.inputs[min(i, len(schema.inputs) - 1)].type_str: self.types[name]
                 for i, name in reversed(list(enumerate(n.input))) if name in self.types and schema.inputs}
        for k, o in enumerate(n.output):
            if not o or o in self.types:
                continue
            if o in self.declared and dims_of(self.declared[o]) is not None:
                self._adopt(o, self.declared[o])
                continue
            formal = schema.outputs[min(k, len(schema.outputs) - 1)]
            like = bound.get(formal.type_str)
            fixed = allowed.get(formal.type_str, [formal.type_str])
            elem = like.tensor_type.elem_type if like is not None and type_name(like) in fixed else 0
            if not elem and len(fixed) == 1 and fixed[0].startswith("tensor("):
                elem = TensorProto.DataType.Value(fixed[0][7:-1].upper())
            if elem:
                self._adopt(o, tensor_type(elem, self._rank(n)))

    def _rank(self, n: NodeProto) -> list[int | str | None] | None:
        """The likely shape of the only result of a node whose operands do not fit each other."""
        shapes = [dims_of(self.types.get(i)) for i in n.input if i]
        known = [s for s in shapes if s is not None]
        rule: Callable[[list[Any]], list[int | str | None]] | None = None
        if n.op_type in BROADCAST and known:
            return max(known, key=len)
        if n.op_type in ("MatMul", "Gemm", "Conv") and len(known) >= 2 and all(len(s) >= 2 for s in known[:2]):
            a, b = known[0], known[1]
            rule = {"MatMul": lambda _: [*a[:-1], b[-1]], "Gemm": lambda _: [a[0], b[1 - _flag(n, "transB")]],
                    "Conv": lambda _: [a[0], b[0], *([None] * (len(a) - 2))]}[n.op_type]
        if rule is not None:
            return rule(known)
        if schema_is_pointwise(n) and known:
            return known[0]
        return None


def schema_is_pointwise(n: NodeProto) -> bool:
    """True for operators of one operand that keep its shape."""
    return n.op_type in {"Relu", "Sigmoid", "Tanh", "Exp", "Log", "Sqrt", "Erf", "Gelu", "Softmax", "LogSoftmax",
                         "LeakyRelu", "Elu", "Selu", "Clip", "Neg", "Abs", "Floor", "Ceil", "Round", "Cast",
                         "Identity", "Dropout", "BatchNormalization", "InstanceNormalization", "LayerNormalization",
                         "GroupNormalization", "HardSwish", "HardSigmoid", "Mish", "Softplus", "Softsign", "Not"}


def _flag(n: NodeProto, name: str) -> int:
    return next((a.i for a in n.attribute if a.name == name), 0)


def _show(t: TypeProto | None) -> str:
    dims = dims_of(t)
    return f"[{', '.join('?' if d is None else str(d) for d in dims)}]" if dims is not None else "of unknown shape"


def shown_types(names: Sequence[str], types: Mapping[str, TypeProto]) -> str:
    """`x tensor(float) [1, 3]`, for messages."""
    return ", ".join(f"{i} {type_name(types[i])} {_show(types[i])}" for i in names if i in types)
