"""The shape of an ONNX graph, node by node: names, order, schemas. A fault does not hide the next one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import onnx
from onnx import AttributeProto, GraphProto, NodeProto

from whet.errors import ModelError
from whet.frontends.inline import inlined
from whet.frontends.order import bodies, free_names
from whet.frontends.protobuf import Source
from whet.tools.lint_codes import Finding, finding

STAND_IN = "whet.lint"  # the domain of nodes that stand where the graph could not be ordered
AGAIN = "export the model again"


def label(n: NodeProto) -> str:
    """What people call a node: its name, else what it computes."""
    return n.name or next((o for o in n.output if o), "") or n.op_type


def domain_of(n: NodeProto) -> str:
    """The operator's domain, with ONNX's own as the empty string."""
    return "" if n.domain == "ai.onnx" else n.domain


def schema_of(n: NodeProto, opsets: Mapping[str, int]) -> onnx.defs.OpSchema | None:
    """ONNX's definition of the operator; None where there is none in the opset that the model imports."""
    domain = domain_of(n)
    if domain not in opsets:
        return None
    try:
        return onnx.defs.get_schema(n.op_type, min(opsets[domain], newest(domain)), domain)
    except onnx.defs.SchemaError:
        return None


def newest(domain: str) -> int:
    """The newest opset that the installed `onnx` knows."""
    return onnx.defs.onnx_opset_version() if domain == "" else 1 << 30


def opsets_of(model: onnx.ModelProto) -> dict[str, int]:
    """The opsets that a model imports, by domain."""
    return {("" if o.domain == "ai.onnx" else o.domain): o.version for o in model.opset_import}


@dataclass
class Structure:
    """A graph whose nodes can be walked in order.

    source:   functions inlined; nodes in order; those that have no place in it replaced by stand-ins of the domain
              STAND_IN that compute the same names.
    broken:   names that nodes at fault compute: reported already.
    doubts:   findings about nodes that depart from ONNX's rules, which whet may take all the same; their
              data["outputs"] are the names that the node computes, and `doubtful` has all of these.
    mended:   {index of a node: the node without what is wrong with it}, for finding out the types of its outputs.
    """

    source: Source
    findings: list[Finding] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)
    mended: dict[int, NodeProto] = field(default_factory=dict)
    doubts: list[Finding] = field(default_factory=list)
    doubtful: set[str] = field(default_factory=set)

    @property
    def graph(self) -> GraphProto:
        return self.source.proto.graph


def structure(source: Source) -> Structure:
    """Check names, order and schemas of a model's whole graph."""
    out = Structure(source)
    _opset(out)
    _inline(out)
    _Names(out).run()
    opsets = opsets_of(out.source.proto)
    for k, n in enumerate(out.graph.node):
        if n.domain == STAND_IN:
            continue
        found, mended = check_schema(n, opsets)
        inner = [f for g in bodies(n) for m in _nodes(g) for f in check_schema(m, opsets)[0]]
        outputs = [o for o in n.output if o]
        out.findings += inner
        out.doubts += [replace(f, data={**f.data, "outputs": outputs}) for f in found]
        if found:
            out.mended[k] = mended
        (out.broken if inner else out.doubtful if found else set()).update(outputs)
    return out


def _nodes(g: GraphProto) -> Iterator[NodeProto]:
    """The nodes of a body and of the bodies in it."""
    for n in g.node:
        yield n
        for b in bodies(n):
            yield from _nodes(b)


def _opset(out: Structure) -> None:
    model = out.source.proto
    opsets = opsets_of(model)
    version, known = opsets.get("", 0), newest("")
    used = {domain_of(n) for n in _nodes(model.graph)}
    if version > known:
        out.findings.append(finding(
            "L113", "", f"opset {version}", f"onnx {onnx.__version__} knows up to {known}, by which nodes are checked",
            f"export the model with opset {known} or lower", opset=version))
    elif 0 < version < 7:
        out.findings.append(finding("L204", "", f"opset {version}", "operators were others then; whet converts to 11",
                                    "export the model with opset 17 or newer", opset=version))
    if "" in used and "" not in opsets:
        out.findings.append(finding("L113", "", "the model uses ONNX's operators and imports no opset of them",
                                    "what an operator means depends on it", "add the opset to opset_import"))


def _inline(out: Structure) -> None:
    source = out.source
    if not source.proto.functions:
        return
    by_name = {t.name: source.views[i] for i, t in enumerate(source.proto.graph.initializer) if i in source.views}
    try:
        proto = inlined(source.proto)
    except ModelError as e:
        names = ", ".join(sorted({f.name for f in source.proto.functions})[:5])
        out.findings.append(finding("L115", names, "the model's local functions cannot be inlined",
                                    f"{e.what}{f': {e.why}' if e.why else ''}", e.do or AGAIN))
        return
    views = {i: by_name[t.name] for i, t in enumerate(proto.graph.initializer) if t.name in by_name}
    out.source = replace(source, proto=proto, views=views)


class _Names:
    """Who computes which name, in which order."""

    def __init__(self, out: Structure) -> None:
        self.out = out
        self.graph = out.graph
        self.nodes = list(self.graph.node)
        self.given: set[str] = set()
        self.producer: dict[str, int] = {}
        self.lost: set[int] = set()  # nodes that have no place in an order
        self.dropped: dict[int, set[str]] = {}  # outputs that an earlier node has

    def run(self) -> None:
        self._inputs()
        self._producers()
        needs = [self._needs(k, n) for k, n in enumerate(self.nodes)]
        order = self._order(needs)
        self._outputs()
        self._rebuild(order)
        seen: set[str] = set()
        for n in self.nodes:
            if n.name and n.name in seen:
                self._add("L116", n.name, f"another node is called {n.name!r} too", "", "give each node a name of its "
                          "own", op=n.op_type)
            seen.add(n.name)

    def _add(self, code: str, node: str, what: str, why: str = "", do: str = AGAIN, op: str = "") -> None:
        self.out.findings.append(finding(code, node, what, why, do, op=op))

    def _inputs(self) -> None:
        g = self.graph
        weights = {t.name for t in g.initializer} | {t.values.name for t in g.sparse_initializer}
        for v in g.input:
            if v.name in self.given:
                self._add("L107", v.name, f"two inputs are called {v.name!r}", do="rename one")
            self.given.add(v.name)
            kind = v.type.WhichOneof("value")
            if kind is None or (kind == "tensor_type" and not v.type.tensor_type.elem_type):
                self._add("L112", v.name, f"the input {v.name!r} has no type")
        seen: set[str] = set()
        for t in g.initializer:
            if t.name in seen:
                self._add("L107", t.name, f"two initializers are called {t.name!r}", do="rename one")
            seen.add(t.name)
        self.given |= weights

    def _producers(self) -> None:
        for k, n in enumerate(self.nodes):
            for o in n.output:
                if not o:
                    continue
                if o in self.given or o in self.producer:
                    other = (f"node {label(self.nodes[self.producer[o]])}" if o in self.producer
                             else "an input or initializer")
                    self._add("L107", label(n), f"{o!r} is computed twice", f"{other} gives it already", op=n.op_type)
                    self.dropped.setdefault(k, set()).add(o)
                    self.lost.add(k)
                else:
                    self.producer[o] = k

    def _needs(self, k: int, n: NodeProto) -> set[int]:
        reads = dict.fromkeys([*(i for i in n.input if i), *sorted(free_names(bodies(n)))])
        missing = [i for i in reads if i not in self.producer and i not in self.given]
        for i in missing:
            near = _near(i, [*self.given, *self.producer])
            self._add("L106", label(n), f"{n.op_type} reads {i!r}, which nothing computes",
                      "it is no input, no initializer and no node's output",
                      f"did you mean {near!r}?" if near else AGAIN, n.op_type)
            self.lost.add(k)
        return {self.producer[i] for i in reads if i in self.producer}

    def _order(self, needs: list[set[int]]) -> list[int]:
        """A topological order; the nodes of a cycle come last, and are lost."""
        readers: list[list[int]] = [[] for _ in needs]
        for k, need in enumerate(needs):
            for p in need:
                readers[p].append(k)
        left = [len(need) for need in needs]
        order = [k for k, c in enumerate(left) if not c]
        stuck = set(range(len(needs)))

        def drain(at: int) -> None:
            while at < len(order):
                k = order[at]
                stuck.discard(k)
                at += 1
                for r in readers[k]:
                    left[r] -= 1
                    if not left[r] and r in stuck:
                        order.append(r)

        drain(0)
        while stuck:
            cycle = _cycle(needs, stuck)
            names = [label(self.nodes[k]) for k in cycle]
            shown = " -> ".join(names[:6] + (["..."] if len(names) > 6 else []) + names[:1])
            self._add("L108", names[0], f"a cycle of {len(cycle)} node{'s' * (len(cycle) > 1)}: {shown}",
                      "a node's input depends on its own output",
                      "export the model again; loops must use Loop or Scan", self.nodes[cycle[0]].op_type)
            self.lost |= set(cycle)
            at = len(order)
            order += cycle
            stuck -= set(cycle)
            drain(at)
        return order if not all(all(p < k for p in need) for k, need in enumerate(needs)) else list(range(len(needs)))

    def _outputs(self) -> None:
        seen: set[str] = set()
        for o in self.graph.output:
            if o.name in seen:
                self._add("L107", o.name, f"two outputs are called {o.name!r}", do="rename one")
            elif o.name not in self.producer and o.name not in self.given:
                near = _near(o.name, list(self.producer))
                self._add("L111", o.name, f"no node computes the output {o.name!r}",
                          do=f"did you mean {near!r}?" if near else AGAIN)
            seen.add(o.name)

    def _rebuild(self, order: Iterable[int]) -> None:
        """The graph with nodes in order, duplicates dropped and lost nodes replaced."""
        source = self.out.source
        proto = onnx.ModelProto()
        proto.CopyFrom(source.proto)
        g = proto.graph
        nodes = [self._replaced(k) for k in order]
        del g.node[:]
        g.node.extend(nodes)
        for some in (g.input, g.output):
            kept = {v.name: v for v in reversed(some) if some is g.input or v.name in self.producer
                    or v.name in self.given}
            names = dict.fromkeys(v.name for v in some if v.name in kept)
            unique = [kept[name] for name in names]
            del some[:]
            some.extend(unique)
        first = {t.name: i for i, t in reversed(list(enumerate(g.initializer)))}
        keep = sorted(first.values())
        views = {new: source.views[old] for new, old in enumerate(keep) if old in source.views}
        tensors = [g.initializer[i] for i in keep]
        if len(keep) < len(g.initializer):
            del g.initializer[:]
            g.initializer.extend(tensors)
        self.out.source = replace(source, proto=proto, views=views)

    def _replaced(self, k: int) -> NodeProto:
        n = self.nodes[k]
        if k not in self.lost:
            return n
        kept = [o for o in n.output if o and o not in self.dropped.get(k, ())]
        self.out.broken.update(kept)
        return NodeProto(op_type=n.op_type, name=n.name, domain=STAND_IN, output=kept)


def _near(name: str, known: list[str]) -> str:
    import difflib

    return next(iter(difflib.get_close_matches(name, known[:5000], n=1, cutoff=0.8)), "")


def _cycle(needs: list[set[int]], among: set[int]) -> list[int]:
    """One cycle of the nodes `among`, of which each needs another of them."""
    path: list[int] = []
    at: dict[int, int] = {}
    k = min(among)
    while k not in at:
        at[k] = len(path)
        path.append(k)
        k = min(needs[k] & among)
    return path[at[k]:][::-1]


def check_schema(n: NodeProto, opsets: Mapping[str, int]) -> tuple[list[Finding], NodeProto]:
    """Everything in which a node departs from ONNX's definition of its operator, and the node without that.

    An operator that ONNX does not define is not judged here.
    """
    schema = schema_of(n, opsets)
    if schema is None:
        return [], n
    where, opset = label(n), f"opset {schema.since_version}"
    found: list[Finding] = []
    mended = NodeProto()
    mended.CopyFrom(n)

    def count(code: str, what: str, have: int, low: int, high: int) -> None:
        if not low <= have <= high:
            takes = f"{low}" if low == high else f"at least {low}" if high > 1 << 20 else f"{low} to {high}"
            found.append(finding(code, where, f"{n.op_type} with {have} {what}", f"{opset} has {takes}", AGAIN,
                                 op=n.op_type))

    count("L102", "inputs", len(n.input), schema.min_input, schema.max_input)
    count("L103", "outputs", len(n.output), schema.min_output, schema.max_output)
    for i, formal in enumerate(schema.inputs[:schema.min_input]):
        if formal.option == onnx.defs.OpSchema.FormalParameterOption.Single and i < len(n.input) and not n.input[i]:
            found.append(finding("L102", where, f"{n.op_type} without its input {formal.name}",
                                 f"input {i} may not be left out", AGAIN, op=n.op_type))
    del mended.input[schema.max_input:]
    del mended.output[schema.max_output:]
    given = {a.name: a for a in n.attribute}
    wrong = set()
    for name, attribute in schema.attributes.items():
        if attribute.required and name not in given:
            found.append(finding("L104", where, f"{n.op_type} lacks its attribute {name}", "", AGAIN, op=n.op_type))
        a = given.pop(name, None)
        if a is not None and a.type != int(attribute.type.value):  # type: ignore[attr-defined]
            wrong.add(name)
            found.append(finding(
                "L105", where, f"{n.op_type}'s attribute {name} is of type {AttributeProto.AttributeType.Name(a.type)}",
                f"{opset} wants {attribute.type.name}", AGAIN, op=n.op_type))  # type: ignore[attr-defined]
    for name in sorted(given):
        wrong.add(name)
        near = _near(name, list(schema.attributes))
        found.append(finding("L105", where, f"{n.op_type} has no attribute {name} in {opset}", "",
                             f"did you mean {near}?" if near else "check the model's opset_import, or export again",
                             op=n.op_type))
    kept = [a for a in mended.attribute if a.name not in wrong]
    del mended.attribute[:]
    mended.attribute.extend(kept)
    return found, mended
