"""ONNX models to graphs: reads, checks, names dimensions, and lowers each node to whet's operators."""

from __future__ import annotations

import copy
import math
import os
from collections import ChainMap
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from typing import Any

import onnx
from onnx import AttributeProto, GraphProto, NodeProto

from whet import plugins
from whet.errors import GraphError, ProfileError, UnsupportedError, WhetError
from whet.frontends import (  # noqa: F401  (imported for the lowerings that they register)
    lower_attention,
    lower_contrib,
    lower_contrib_attention,
    lower_contrib_quant,
    lower_dynamic,
    lower_grouped,
    lower_linalg,
    lower_math,
    lower_ml,
    lower_nn,
    lower_parts,
    lower_quant,
    lower_recurrent,
    lower_resize,
    lower_sampling,
    lower_signal,
    lower_tensor,
    lower_text,
    lower_training,
    lower_trees,
    lower_windows,
    partial,
)
from whet.frontends.call import (
    LOWERINGS,
    Builder,
    Call,
    NeedsReferenceError,
    Operand,
    Partial,
    unknown_operator,
)
from whet.frontends.control import CONTROL, State
from whet.frontends.dims import Learnt, declare, settle
from whet.frontends.functions import definition
from whet.frontends.order import bodies, free_names, ordered
from whet.frontends.plugin import lower_plugin
from whet.frontends.prepare import prepare
from whet.frontends.protobuf import Source, read
from whet.frontends.reference import reference_node
from whet.frontends.sequences import RULES
from whet.frontends.tensors import Tensors, element_type
from whet.frontends.types import of_input
from whet.ir.dtypes import DType
from whet.ir.graph import Graph, Value
from whet.ir.ops_base import DimConflictError
from whet.ir.ops_host import HOST
from whet.ir.symbolic import Sym, names

MAX_TERMS = 256  # of one dimension: repeated products would grow without bound
MAX_BYTES = 1 << 38  # of one tensor: what is larger is no size that somebody meant
MAX_DEPTH = 64  # of graphs inside graphs
MAX_LESSONS = 64  # pairs of dimensions found to be equal, each of which starts the import anew

Scope = MutableMapping[str, Operand]
# A node that cannot be lowered, and why -> what stands in for its outputs, by name.
OnFault = Callable[[NodeProto, WhetError], Mapping[str, Value]]


def load(model: str | os.PathLike[str] | bytes | onnx.ModelProto, shapes: Mapping[str, Sequence[Any]] | None = None,
         profiles: Sequence[Mapping[str, Any]] | None = None) -> Graph:
    """The graph of an ONNX model, of opset 7 to the newest that the installed `onnx` knows (older ones are converted).

    shapes:   {input: dims}: an int fixes a dimension (everywhere that its name occurs), a str names it,
              None leaves it as it is.
    profiles: at most one {name: (min, opt, max)}; for an input three shapes, for a symbol three ints, for an integer
              vector or scalar of fixed shape that is used as sizes three times its elements.
              Without one, the first dimension of an input ranges over 1 to 8 (tuned for 1), other
              symbolic dimensions over 1 to 512 (tuned for 128). A range of one value fixes the dimension.

    Two symbolic dimensions that an operator needs to be equal are taken to be equal; the runtime checks.

    Weights are views of the model file, which must not change while the graph is in use.

    Raises ModelFileError (not there, not ONNX, truncated, external data missing or outside), GraphError
    (cycles, types, shapes), UnsupportedError (operators, data-dependent shapes), InputError, ProfileError.
    """
    return _import(prepare(read(model)), shapes, profiles, None)


def survey(source: Source, on_fault: OnFault, shapes: Mapping[str, Sequence[Any]] | None = None,
           profiles: Sequence[Mapping[str, Any]] | None = None) -> Graph:
    """What can be imported of a prepared model (`prepare`): `load`, but a node's fault does not end it.

    on_fault: told of each node that cannot be lowered; it returns values (inputs of the graph from then on) that
              stand in for the node's outputs. What reads an output without one is left out. A node may be told
              of more than once, for the import may start anew.

    Raises what `load` raises for faults that are no single node's.
    """
    return _import(source, shapes, profiles, on_fault)


def _import(source: Source, shapes: Mapping[str, Sequence[Any]] | None, profiles: Sequence[Mapping[str, Any]] | None,
            on_fault: OnFault | None) -> Graph:
    tensors = Tensors(source)
    learnt = Learnt()
    unsettled: set[tuple[str, str]] = set()
    generalized: dict[Any, list[State]] = {}
    for _ in range(MAX_LESSONS):
        try:
            return _Importer(source, tensors, shapes, profiles, learnt, on_fault, unsettled, generalized).run()
        except DimConflictError as e:
            if not settle(e.a, e.b, learnt):
                if on_fault is None:
                    raise
                unsettled.add((str(e.a), str(e.b)))
    raise GraphError(f"over {MAX_LESSONS} dimensions that must be equal have different names", where=source.name,
                     do="fix them with shapes=")


class _UnknownError(Exception):
    """A graph's output is one that a fault has left unknown."""


class _Importer:
    def __init__(self, source: Source, tensors: Tensors, shapes: Mapping[str, Sequence[Any]] | None,
                 profiles: Sequence[Mapping[str, Any]] | None, learnt: Learnt, on_fault: OnFault | None = None,
                 unsettled: set[tuple[str, str]] | None = None,
                 generalized: dict[Any, list[State]] | None = None) -> None:
        self.source = source
        self.on_fault = on_fault
        self.unsettled = unsettled or set()  # pairs of dimensions whose difference is a fault
        self.unknown: set[str] = set()  # names that a fault has left without a value
        self.generalized = {} if generalized is None else generalized  # what is known of loops' states, by loop
        self.depth = 0
        self.tensors = tensors
        self.proto = source.proto.graph
        self.opsets = {_domain(o.domain): o.version for o in source.proto.opset_import}
        self.graph = Graph(self.proto.name or "graph")
        self.builder = Builder(self.graph, tensors)
        self.builder.learnt = self.learnt = learnt
        self.declared = {v.name: v for v in (*self.proto.value_info, *self.proto.output)}
        weights = {t.name for t in self.proto.initializer}
        declared = declare([v for v in self.proto.input if v.name not in weights], shapes, profiles, learnt)
        self.graph.dims = dict(declared.ranges)
        self.graph.contents = declared.contents
        self.graph.reserved = weights | {n for n, _, _ in declared.inputs}
        self.graph.inputs = [Value(n, t, s) for n, t, s in declared.inputs]
        self.builder.types.update((v, of_input(declared.types[v.name])) for v in self.graph.inputs
                                  if v.name in declared.types)

    def run(self) -> Graph:
        scope: Scope = {}
        for v in self.graph.inputs:
            if v.name in scope:
                raise GraphError(f"two inputs are called {v.name!r}", where=self.source.name, do="rename one")
            scope[v.name] = v
        self._lower_all(self.proto, scope, self.source.views)
        unused = self.learnt.given.keys() - self.learnt.sizes.keys()
        if unused and self.on_fault is None:
            raise ProfileError(f"the model has no input or dimension {min(unused)!r}", why="a profile names it",
                               do=f"its data-dependent sizes are {', '.join(self.learnt.sizes) or 'none'}")
        declared = [o for o in self.proto.output if o.name not in self.unknown]
        outputs = _results(self.proto, declared, scope)
        seen: set[str] = set()
        for o, x in zip(declared, outputs, strict=True):
            if o.name in seen:
                raise GraphError(f"two outputs are called {o.name!r}", where=self.source.name, do="rename one")
            seen.add(o.name)
            self.graph.outputs.append(self._checked_output(o, self.builder.materialize(x)))
            self.graph.output_names.append(o.name)
        self.graph.prune()
        return self.graph

    def _checked_output(self, o: onnx.ValueInfoProto, v: Value) -> Value:
        declared = o.type.tensor_type.elem_type
        if self.on_fault is not None or not declared or v.dtype is DType.OBJECT:
            return v
        if element_type(declared, f"output {o.name}") is not v.dtype:
            raise GraphError(f"output {o.name} is declared {element_type(declared, '').value} and computed as "
                             f"{v.dtype.value}", where=self.source.name, do="export the model again")
        return v

    # -- graphs --------------------------------------------------------------------------------

    def inside(self, name: str, label: str) -> _Importer:
        """An importer into a new graph inside this one. `label` tells the dimensions of bodies apart."""
        inner = copy.copy(self)
        inner.graph = self.graph.body(name)
        inner.builder = self.builder.body(inner.graph, label)
        inner.on_fault = None
        return inner

    def subgraph(self, g: GraphProto, scope: Mapping[str, Operand], given: Mapping[str, Operand]) -> list[Operand]:
        """Lower a graph's nodes; returns its outputs. Its names may refer to `scope`, its own inputs are `given`."""
        if self.depth >= MAX_DEPTH:
            raise UnsupportedError(f"control flow nested more than {MAX_DEPTH} deep", where=f"graph {g.name}",
                                   do="take the inner bodies apart")
        declared, self.declared = self.declared, {v.name: v for v in (*g.value_info, *g.output)}
        self.depth += 1
        try:
            local: Scope = ChainMap(dict(given), scope)  # type: ignore[arg-type]
            self._lower_all(g, local, None)
            if any(o.name in self.unknown for o in g.output):
                raise _UnknownError
            return _results(g, g.output, local)
        finally:
            self.declared = declared
            self.depth -= 1

    def _lower_all(self, g: GraphProto, scope: Scope, views: Mapping[int, memoryview] | None) -> None:
        if g.sparse_initializer:
            raise UnsupportedError("sparse initializers", where=f"graph {g.name}", why="whet has dense tensors only",
                                   do="store the weights as dense tensors")
        for i, t in enumerate(g.initializer):
            data = self.tensors.array(t, (views or {}).get(i))
            name = t.name if views is not None else self.graph.fresh(t.name or "c")
            scope[t.name] = Value(name, element_type(t.data_type, t.name), data.shape, data)
        for n in ordered(g, scope, scope.maps[0] if isinstance(scope, ChainMap) else scope):
            if self.on_fault is None:
                self.node(n, scope)
            else:
                self._survey(n, scope, self.on_fault)

    def _survey(self, n: NodeProto, scope: Scope, on_fault: OnFault) -> None:
        """Lower a node that may be faulty."""
        if self.unknown and not self.unknown.isdisjoint((*n.input, *free_names(bodies(n)))):
            self.unknown.update(o for o in n.output if o)
            return
        before = len(self.graph.nodes)
        try:
            self.node(n, scope)
            return
        except _UnknownError:
            stand_ins: Mapping[str, Value] = {}
        except WhetError as e:
            if isinstance(e, DimConflictError) and (str(e.a), str(e.b)) not in self.unsettled:
                raise
            stand_ins = on_fault(n, e)
        del self.graph.nodes[before:]
        for o in n.output:
            if o in stand_ins:
                scope[o] = stand_ins[o]
                self.graph.inputs.append(stand_ins[o])
            elif o:
                self.unknown.add(o)

    def node(self, n: NodeProto, scope: Scope) -> None:
        domain = _domain(n.domain)
        opset = self.opsets.get(domain)
        if not domain or ((domain, n.op_type) not in LOWERINGS and plugins.find(domain, n.op_type, opset or 1) is None):
            _check_schema(n, domain, opset)
        inputs = [scope[i] if i else None for i in n.input]
        call = Call(self.builder, n, inputs, opset or 1)
        results = self._lower(call, domain, scope)
        if beyond := [name for name in n.output[len(results):] if name]:
            raise GraphError(f"{n.op_type} gives no output {beyond[0]!r}", where=call.origin,
                             why=f"it has {len(results)} outputs here", do="export the model again")
        for name, x in zip(n.output, results):
            if name:
                if x is None:
                    raise UnsupportedError(f"{n.op_type} with its output {name!r}", where=call.origin)
                if any(_terms(d) > MAX_TERMS for d in (x.dims.reshape(-1) if isinstance(x, Partial) else x.shape)):
                    raise UnsupportedError(f"{n.op_type}: a size is too complicated an expression", where=call.origin,
                                           why=f"it has over {MAX_TERMS} factors", do="fix dimensions with shapes=")
                if isinstance(x, Value) and not x.dtype.is_host and _bytes(x) > MAX_BYTES:
                    raise UnsupportedError(f"{n.op_type} makes a tensor of the shape {list(x.shape)}",
                                           where=call.origin, why=f"it would have over {MAX_BYTES >> 30} GiB",
                                           do="check the sizes that the model computes")
                scope[name] = x

    def _lower(self, call: Call, domain: str, scope: Scope) -> Sequence[Operand | None]:
        before, why = len(self.graph.nodes), ""
        try:
            found = self._compiled(call, domain, scope)
            if found is not None and not self._stray(before):
                return found
        except NeedsReferenceError as e:
            why = str(e)
        except DimConflictError as e:
            if self.builder.varying.isdisjoint(names(e.a, e.b)):  # else they are equal in some iterations only
                e.where = e.where or call.origin
                raise
        except GraphError as e:
            e.where = e.where or call.origin
            raise
        except (ValueError, LookupError, TypeError, AttributeError, AssertionError, ArithmeticError,
                MemoryError) as e:  # ranks, indices, sizes, attributes that are not there
            raise GraphError(f"the operands of {call.proto.op_type} do not fit it", where=call.origin,
                             why=str(e) or type(e).__name__,
                             do="check the model with onnx.checker, or export it again") from e
        del self.graph.nodes[before:]
        return reference_node(call, self.opsets, self.declared, why)

    def _compiled(self, call: Call, domain: str, scope: Scope) -> Sequence[Operand | None] | None:
        """The node's results by whet's own operators, None where the reference has to run it."""
        op = call.proto.op_type
        if domain and (plugin := plugins.find(domain, op, call.opset)) is not None:
            return lower_plugin(call, plugin)
        if not domain and op in CONTROL:
            return CONTROL[op](self, call, scope)
        if not domain and op in RULES:
            result = RULES[op](call)
            if result is not None:
                return [result]
        kinds = {x.dtype for x in call.inputs if x is not None}
        if DType.OBJECT in kinds or (DType.STRING in kinds and op not in partial.ALWAYS):
            return None
        if op in partial.ALWAYS or any(isinstance(x, Partial) for x in call.inputs):
            folded = partial.fold(call)
            if folded is not None:
                return folded
        lowering = LOWERINGS.get((domain, op))
        if lowering is None:
            return self._defined(call, domain)
        made = lowering(call)
        return [made] if not isinstance(made, Sequence) else made

    def _defined(self, call: Call, domain: str) -> Sequence[Operand | None] | None:
        """The node's results by ONNX's definition of its operator, None where there is none."""
        found = definition(call, domain)
        if found is None:
            return None
        g, opsets = found
        outer = self.opsets, self.on_fault
        self.opsets, self.on_fault = {**self.opsets, **opsets}, None  # what fails inside is the fault of this node
        try:
            return self.subgraph(g, {}, dict(zip((v.name for v in g.input), (x for x in call.inputs if x is not None))))
        finally:
            self.opsets, self.on_fault = outer

    def _stray(self, first: int) -> bool:
        """True if a node from this one on makes strings, which no kernel can."""
        return any(o.dtype.is_host for n in self.graph.nodes[first:] if n.op not in HOST for o in n.outputs)


def _results(g: GraphProto, outputs: Iterable[onnx.ValueInfoProto], scope: Scope) -> list[Operand]:
    """The operands of these outputs of a graph. GraphError where nothing computes one."""
    missing = [o.name for o in outputs if o.name not in scope]
    if missing:
        raise GraphError(f"no node computes the output {missing[0]!r}", where=f"graph {g.name}",
                         do="export the model again")
    return [scope[o.name] for o in outputs]


def _terms(d: Any) -> int:
    """The number of factors in a dimension's polynomial."""
    return sum(1 + len(mono) for mono, _ in d.terms) if isinstance(d, Sym) else 0


def _bytes(v: Value) -> int:
    """What a value takes in memory, its dimensions that are not known taken as 1."""
    return math.prod(d for d in v.shape if isinstance(d, int)) * v.dtype.size


def _domain(name: str) -> str:
    return "" if name == "ai.onnx" else name


def _check_schema(n: NodeProto, domain: str, opset: int | None) -> None:
    """UnsupportedError for an operator that ONNX does not know; GraphError for wrong operands or attributes."""
    try:
        if opset is None:
            raise unknown_operator(n, opset)
        schema = onnx.defs.get_schema(n.op_type, opset, domain)
    except (onnx.defs.SchemaError, TypeError):  # TypeError: a version beyond 32 bits
        if (domain, n.op_type) in LOWERINGS:  # ONNX Runtime has a few of its own in ONNX's domain
            return
        raise unknown_operator(n, opset) from None
    where = f"node {n.name or next((o for o in n.output if o), n.op_type)}"
    if not schema.min_input <= len(n.input) <= schema.max_input:
        raise GraphError(f"{n.op_type} with {len(n.input)} inputs", where=where,
                         why=f"opset {opset} takes {schema.min_input} to {schema.max_input}", do="export again")
    single = onnx.defs.OpSchema.FormalParameterOption.Single
    absent = next((f.name for name, f in zip(n.input, schema.inputs) if not name and f.option == single), None)
    if absent is not None:  # ONNX's own inference takes it for granted
        raise GraphError(f"{n.op_type} lacks its input {absent}", where=where, do="export the model again")
    if not schema.min_output <= len(n.output) <= schema.max_output:
        raise GraphError(f"{n.op_type} with {len(n.output)} outputs", where=where,
                         why=f"opset {opset} gives {schema.min_output} to {schema.max_output}", do="export again")
    given = {a.name: a for a in n.attribute}
    for name, attribute in schema.attributes.items():
        if attribute.required and name not in given:
            raise GraphError(f"{n.op_type} lacks its attribute {name}", where=where, do="export the model again")
        a = given.pop(name, None)
        wanted: Any = attribute.type
        if a is not None and a.type != int(wanted.value):
            raise GraphError(f"{n.op_type}'s attribute {name} is of type {AttributeProto.AttributeType.Name(a.type)}",
                             where=where, why=f"opset {opset} wants {wanted.name}", do="export again")
    if given:
        raise GraphError(f"{n.op_type} has no attribute {sorted(given)[0]!r} in opset {opset}", where=where,
                         do="check the model's opset_import, or export again")
