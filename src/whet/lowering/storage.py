"""Where values live. Views cost nothing: a reshape, transpose, slice or expand that its readers can
follow by strides is no step at all, and a concat's operands are written straight into their places."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from whet.errors import InternalError
from whet.ir.dtypes import DType
from whet.ir.expr import identity
from whet.ir.graph import Graph, Node, Value
from whet.ir.region import Region, Tensor
from whet.ir.symbolic import Dim, Shape, names, product

ALIGNED = 16  # bytes
VIEWS = ("reshape", "transpose", "slice", "expand")


@dataclass(eq=False)
class Buffer:
    """A block of memory: a graph input or output (by position), a constant, or a temporary."""

    kind: str  # "input" | "output" | "const" | "temp"
    dtype: DType
    elements: Dim
    index: int = -1
    data: np.ndarray | None = None
    name: str = ""


@dataclass(frozen=True)
class Storage:
    """A value's place: element `offset` of a buffer, and strides in elements."""

    buffer: Buffer
    offset: Dim
    strides: Shape

    def tensor(self, v: Value) -> Tensor:
        """The value as kernels see it."""
        return Tensor(v.dtype, v.shape, self.strides, self.buffer.kind == "const")

    @property
    def aligned(self) -> bool:
        """The first element lies at a multiple of 16 bytes, where the buffer does (all of them do)."""
        return bool(self.offset * self.buffer.dtype.size % ALIGNED == 0)


@dataclass
class Launch:
    """One region to run on the target."""

    node: Node
    inputs: list[Storage]
    outputs: list[Storage]
    region: Region

    @property
    def origin(self) -> str:
        return self.node.origin


@dataclass
class Schedule:
    """The launches in order, and how many nodes became views."""

    launches: list[Launch] = field(default_factory=list)
    views: int = 0
    copies: int = 0


def dense_strides(shape: Shape) -> Shape:
    """Row-major strides in elements."""
    return Tensor.dense(DType.F32, shape).strides


def schedule(graph: Graph, accepts: Callable[[Region], str],
             growing: Mapping[Value, tuple[Value, Shape]] | None = None, aligned: bool = False) -> Schedule:
    """Give every value its storage and list the launches.

    `accepts(region)` is "" if the target can run the region with the strides it states, else the
    reason why not; then operands that are not dense are copied first. `growing`: inputs that lie in a
    buffer with these strides, and the concat that grows them there. `aligned`: regions are told which tensors begin at
    a multiple of 16 bytes; else all do.
    """
    return _Scheduler(graph, accepts, growing or {}, aligned).run()


class _Scheduler:
    def __init__(self, graph: Graph, accepts: Callable[[Region], str],
                 growing: Mapping[Value, tuple[Value, Shape]], aligned: bool) -> None:
        self.graph, self.accepts, self.growing, self.aligned = graph, accepts, growing, aligned
        self.at: dict[Value, Storage] = {}
        self.planned: dict[Value, Storage] = {}  # decided before the producer is reached
        self.concats: dict[Node, Storage] = {}
        self.out = Schedule()

    def run(self) -> Schedule:
        for i, v in enumerate(self.graph.inputs):
            b = Buffer("input", v.dtype, product(v.shape), i, name=v.name)
            self.at[v] = self._dense(v, b)
            if v in self.growing:
                grown, strides = self.growing[v]
                self.at[v] = self.planned[grown] = Storage(b, 0, strides)
        self._place_outputs()
        self._place_concats()
        self._place_transposed()
        for node in self.graph.nodes:
            if node.op in VIEWS:
                self._view(node)
            elif node.op == "concat":
                self._concat(node)
            else:
                self._region(node)
        for i, v in enumerate(self.graph.outputs):
            want = self.outputs[i]
            if not _same(self._storage(v), want, v.shape):
                self._copy(v, self._storage(v), want, f"output {i}")
        return self.out

    # -- decisions ahead of the walk -------------------------------------------------------------

    def _place_outputs(self) -> None:
        """A region's result that is a graph output, as it is, reshaped or transposed, is written there at once."""
        self.outputs = []
        for i, v in enumerate(self.graph.outputs):
            s = self._dense(v, Buffer("output", v.dtype, product(v.shape), i, name=v.name))
            self.outputs.append(s)
            while v.producer is not None and v.producer.op in ("reshape", "transpose"):
                src = v.producer.input(0)
                if v.producer.op == "reshape":
                    strides = reshape_strides(v.shape, s.strides, src.shape)
                else:
                    perm = v.producer.attrs["perm"]
                    strides = tuple(s.strides[perm.index(d)] for d in range(src.rank))
                if strides is None:
                    break
                v, s = src, replace(s, strides=strides)
            if (v.producer is not None and v.producer.op in ("region", "concat") and v not in self.planned
                    and _inner_contiguous(v, s)):
                self.planned[v] = s

    def _place_concats(self) -> None:
        """The operands of a concat are written into their slices; the last concat decides first, so
        that a concat of concats (DenseNet) is one buffer. Reshapes on the way are followed."""
        uses = self.graph.uses()
        for node in reversed(self.graph.nodes):
            if node.op != "concat":
                continue
            out = node.output
            whole = self.planned.get(out) or self._dense(out, self._temp(out))
            self.planned[out] = whole
            axis, at = node.attrs["axis"], 0
            offset: Dim = at
            for v in node.inputs:
                assert v is not None
                place = replace(whole, offset=whole.offset + offset * whole.strides[axis])
                offset = offset + v.shape[axis]
                while v.producer is not None and v.producer.op == "reshape" and len(uses[v]) == 1:
                    strides = reshape_strides(v.shape, place.strides, v.producer.input(0).shape)
                    if strides is None:
                        break
                    v, place = v.producer.input(0), replace(place, strides=strides)
                if (v.producer is not None and v.producer.op in ("region", "concat") and v not in self.planned
                        and _inner_contiguous(v, place)):
                    self.planned[v] = place

    def _place_transposed(self) -> None:
        """A result that is read only as a transpose which then is reshaped (attention's heads back into one
        dimension) is written in the transposed order, so that the reshape needs no copy."""
        uses = self.graph.uses()
        for node in self.graph.nodes:
            v = node.input(0) if node.op == "transpose" else None
            if (v is None or v in self.planned or v.producer is None or v.producer.op != "region" or len(uses[v]) != 1
                    or node.attrs["perm"][-1] != v.rank - 1
                    or all(r.op != "reshape" for r in uses.get(node.output, []))):
                continue
            dense = dense_strides(node.output.shape)
            strides = tuple(dense[node.attrs["perm"].index(d)] for d in range(v.rank))
            self.planned[v] = Storage(self._temp(v), 0, strides)

    # -- nodes -------------------------------------------------------------------------------------

    def _view(self, node: Node) -> None:
        src, out = node.input(0), node.output
        s = self._storage(src)
        view = view_of(node, src, s)
        if view is None:  # a reshape across broken strides
            s = self._copy(src, s, self._dense(src, self._temp(src)), node.origin)
            view = view_of(node, src, s)
            assert view is not None
        self.at[out] = view
        self.out.views += 1

    def _concat(self, node: Node) -> None:
        whole = self.planned[node.output]
        offset: Dim = 0
        for v in node.inputs:
            assert v is not None
            axis = node.attrs["axis"]
            place = replace(whole, offset=whole.offset + offset * whole.strides[axis])
            offset = offset + v.shape[axis]
            have = self._storage(v)
            if not _same(have, place, v.shape):
                self._copy(v, have, place, node.origin)
        self.at[node.output] = whole
        self.out.views += 1

    def _region(self, node: Node) -> None:
        region: Region = node.attrs["region"]
        ins = [self._storage(node.input(i)) for i in range(len(node.inputs))]
        outs = [self.planned.get(v) or self._dense(v, self._temp(v)) for v in node.outputs]
        region = self._with_storage(region, node, ins, outs)
        why = self.accepts(region)
        if why:
            for i, s in enumerate(ins):
                v = node.input(i)
                if not self._plain(s, v):
                    ins[i] = self._copy(v, s, self._dense(v, self._temp(v)), node.origin)
            region = self._with_storage(region, node, ins, outs)
            why = self.accepts(region)
        if why and not all(self._plain(s, v) for s, v in zip(outs, node.outputs)):
            final, outs = outs, [self._dense(v, self._temp(v)) for v in node.outputs]
            region = self._with_storage(region, node, ins, outs)
            self._launch(Launch(node, ins, outs, region), node.outputs)
            for v, s, f in zip(node.outputs, outs, final):
                self.at[v] = self._copy(v, s, f, node.origin)
            return
        self._launch(Launch(node, ins, outs, region), node.outputs)

    # -- pieces ------------------------------------------------------------------------------------

    def _launch(self, launch: Launch, outputs: list[Value]) -> None:
        self.out.launches.append(launch)
        for v, s in zip(outputs, launch.outputs):
            self.at[v] = s

    def _storage(self, v: Value) -> Storage:
        if v not in self.at:
            if v.data is None:
                raise InternalError(f"value {v.name} is read before it is made", where="lowering")
            self.at[v] = self._dense(v, Buffer("const", v.dtype, product(v.shape), data=v.data, name=v.name))
        return self.at[v]

    def _with_storage(self, region: Region, node: Node, ins: list[Storage], outs: list[Storage]) -> Region:
        tensors = [self._tensor(s, node.input(i)) for i, s in enumerate(ins)]
        # A region may see an operand under broadcast dimensions of its own: keep its shape.
        tensors = [replace(t, shape=r.shape) if t.shape != r.shape and len(t.shape) == len(r.shape) else t
                   for t, r in zip(tensors, region.inputs)]
        results = [self._tensor(s, v) for s, v in zip(outs, node.outputs)]
        used = names(*(d for t in (*tensors, *results) for d in (*t.shape, *t.strides)))
        return replace(region, inputs=tuple(tensors), output=results[0], extra_outputs=tuple(results[1:]),
                       dims={n: self.graph.dims[n] for n in sorted(used)})

    def _copy(self, v: Value, src: Storage, dst: Storage, origin: str) -> Storage:
        t, out = self._tensor(src, v), replace(self._tensor(dst, v), const=False)
        used = names(*(d for x in (t, out) for d in (*x.shape, *x.strides)))
        region = Region("pointwise", {}, (t,), 0, out, Tensor.dense(v.dtype, v.shape), identity(0, v.dtype),
                        dims={n: self.graph.dims[n] for n in sorted(used)})
        why = self.accepts(region)
        if why:
            raise InternalError("no kernel copies this value", where=origin, why=why)
        node = Node("region", [v], [], {"region": region}, f"copy for {origin}")
        self.out.launches.append(Launch(node, [src], [dst], region))
        self.out.copies += 1
        return dst

    def _plain(self, s: Storage, v: Value) -> bool:
        """Every tactic of a target that takes the region at all takes it with such operands."""
        return s.strides == dense_strides(v.shape) and (s.aligned or not self.aligned)

    def _tensor(self, s: Storage, v: Value) -> Tensor:
        return replace(s.tensor(v), aligned=s.aligned) if self.aligned else s.tensor(v)

    def _temp(self, v: Value) -> Buffer:
        return Buffer("temp", v.dtype, product(v.shape), name=v.name)

    def _dense(self, v: Value, b: Buffer) -> Storage:
        return Storage(b, 0, dense_strides(v.shape))


def _same(a: Storage, b: Storage, shape: Shape) -> bool:
    """True for the same elements in the same places: the stride of a dimension of size 1 says nothing."""
    return a.buffer is b.buffer and a.offset == b.offset and all(
        d == 1 or p == q for d, p, q in zip(shape, a.strides, b.strides, strict=True))


def _inner_contiguous(v: Value, place: Storage) -> bool:
    return not v.shape or v.shape[-1] == 1 or place.strides[-1] == 1


def view_of(node: Node, src: Value, s: Storage) -> Storage | None:
    """The storage of a view node's result over its operand's, or None if strides cannot say it."""
    a = node.attrs
    if node.op == "transpose":
        return replace(s, strides=tuple(s.strides[p] for p in a["perm"]))
    if node.op == "slice":
        offset = s.offset
        for start, stride in zip(a["starts"], s.strides):
            offset = offset + start * stride
        return replace(s, offset=offset, strides=tuple(st * k for st, k in zip(s.strides, a["steps"])))
    if node.op == "expand":
        out = node.output.shape
        pad = len(out) - src.rank
        strides: list[Dim] = [0] * pad
        for d, st, o in zip(src.shape, s.strides, out[pad:]):
            strides.append(st if d == o else 0)
        return replace(s, strides=tuple(strides))
    new = reshape_strides(src.shape, s.strides, node.output.shape)
    return None if new is None else replace(s, strides=new)


def reshape_strides(old: Shape, strides: Shape, new: Shape) -> Shape | None:
    """Strides of the reshaped view, or None where the reshape needs a copy.

    Works through groups of dimensions with equal products; within a group the old dimensions must
    be contiguous among themselves.
    """
    if strides == dense_strides(old):
        return dense_strides(new)
    src = [(d, s) for d, s in zip(old, strides) if d != 1]
    out: list[Dim] = []
    i = j = 0
    dst = list(new)
    while j < len(dst):
        if dst[j] == 1:
            out.append(1)
            j += 1
            continue
        if i == len(src):
            return None
        group = [i]
        want, have = dst[j], src[i][0]
        last = j + 1
        while want != have:
            grown = False
            if _divides(want, have) and last < len(dst):
                want, last, grown = want * dst[last], last + 1, True
            elif _divides(have, want) and group[-1] + 1 < len(src):
                group.append(group[-1] + 1)
                have, grown = have * src[group[-1]][0], True
            if not grown:
                return None
        for a, b in itertools.pairwise(group):
            if src[a][1] != src[b][0] * src[b][1]:
                return None
        step = src[group[-1]][1]
        inner: list[Dim] = []
        for d in reversed(dst[j:last]):
            inner.append(step)
            step = step * d
        out += reversed(inner)
        i, j = group[-1] + 1, last
    return tuple(out) if i == len(src) else None


def _divides(a: Dim, b: Dim) -> bool:
    """b is a multiple of a, for all that is known."""
    if isinstance(a, int) and isinstance(b, int):
        return a != 0 and b % a == 0
    if a == b:
        return True
    q = b // a
    return q * a == b
