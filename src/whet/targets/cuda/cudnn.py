"""Convolutions and products of matrices by cuDNN: every execution plan that its heuristics propose is a candidate.

The epilogue becomes pointwise nodes of the operation graph. The frontend asks relu and clipping to pass NaN on
(CUDNN_ATTR_POINTWISE_NAN_PROPAGATION).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache

import msgspec
import numpy as np

from whet.ir.dtypes import DType
from whet.ir.region import Region, Tensor
from whet.ir.symbolic import Shape, is_static, product
from whet.targets.base import Implementation, In, Out, Pack, Packed, Params, Step, Work
from whet.targets.cuda import cudnn_graph
from whet.targets.cuda.conv import flattened
from whet.targets.cuda.conv_problem import Conv, Product, conv_of, conv_reason, product_of, with_bias
from whet.targets.cuda.conv_space import LAUNCH
from whet.targets.cuda.cudnn_graph import TYPES, Description, Nodes, TensorSpec, UntranslatableError, translate
from whet.targets.cuda.cudnn_pad import pad_step
from whet.targets.cuda.gpu import Gpu
from whet.targets.cuda.shapes import broadcast_strides, optimum

_INEXACT = ["NONDETERMINISTIC", "REDUCED_PRECISION_REDUCTION", "WINOGRAD", "FFT"]
_ALIGN = 256  # of what lies in the workspace


def to_object(code: str, number: int) -> bytes:
    """The object of a graph and the execution plan that it names."""
    return cudnn_graph.serialized(code)


def library_reason(region: Region, machine: Gpu) -> str:
    """Why cuDNN is not asked about a region; "" if it may be."""
    if not machine.live or "cudnn" not in machine.libraries:
        return "cuDNN cannot be asked here"
    if not is_static(d for t in (*region.inputs, region.output) for d in (*t.shape, *t.strides)):
        return "symbolic dimensions"
    if any(d == 0 for t in (*region.inputs, region.output) for d in t.shape):
        return "no elements"
    return ""


@cache
def _plans(code: str) -> tuple[tuple[str, int], ...]:
    return tuple(cudnn_graph.plans(msgspec.json.decode(code, type=Description)))


def asked(d: Description) -> tuple[tuple[str, int], ...]:
    """(name, workspace) of a graph's execution plans; asked for once in a process."""
    return _plans(msgspec.json.encode(d, order="sorted").decode())


@dataclass
class Made:
    """A region as a graph: its description, tensors' arguments, packs, steps that come first, their workspace."""

    description: Description
    nodes: Nodes
    packs: tuple[Pack, ...]
    before: tuple[Step, ...] = ()
    room: int = 0

    def implementation(self, params: Params) -> Implementation:
        d = msgspec.structs.replace(self.description, plan=params["plan"], workspace=params["workspace"])
        last = cudnn_graph.step(d, [*self.nodes.args, Out(0)], Work(self.room))
        return Implementation((*self.before, last), (*self.packs, *self.nodes.packs), self.room + params["workspace"])


class CudnnConv:
    """A convolution and its epilogue as one graph. Parameters:

    plan: an execution plan's name. workspace: bytes that it needs. channels: the input's are copied into so many
    (padded with zeros, converted) first; 0: they are read as they lie.
    """

    name = "cudnn_conv"

    def applies(self, region: Region, machine: Gpu) -> str:
        return library_reason(region, machine) or conv_reason(region) or self._reason(region)

    def _reason(self, region: Region) -> str:
        """What keeps a static region from the library, whatever the machine."""
        c, p = conv_of(region), product_of(region)
        if region.kind != "conv" or not region.inputs[1].const:
            return "the weights are not constant"
        if p.operand not in TYPES or region.inputs[0].dtype is DType.U8:
            return f"products of {p.operand.value}"
        if any(x < 0 for x in (*c.pads, *c.ends)):
            return "negative paddings"
        if region.compute == "int8" and region.attrs.get("pad_value", 0) != 0:
            return "paddings that are not 0"
        try:
            self.graph(region, self._channels(region)[0])
        except UntranslatableError as e:
            return str(e)
        return ""

    def space(self, region: Region, machine: Gpu, threads: int) -> Iterable[Params]:
        out: list[Params] = []
        for channels in self._channels(region):
            d = self.graph(region, channels).description
            out += [{"plan": n, "workspace": w, "channels": channels} for n, w in asked(d)]
        return out

    def cost(self, region: Region, params: Params, machine: Gpu, threads: int) -> float:
        """Products at half the peak, or the memory."""
        c, p = conv_of(region), product_of(region)
        work = 2.0 * optimum(region, c.pixels) * c.groups * c.og * c.depth
        rate = 8e14 if p.operand.size == 1 else 4e14 if p.operand.size == 2 else 2e14 if p.precision == "tf32" else 3e13
        sizes = float(sum(_bytes(region, t) for t in (*region.inputs, region.output)))
        return 1.5 * LAUNCH + max(work / rate, sizes / (machine.bandwidth or 3e12)) + LAUNCH * bool(params["channels"])

    def implement(self, region: Region, params: Params, machine: Gpu, threads: int) -> Implementation:
        return self.graph(region, params["channels"]).implementation(params)

    def _channels(self, region: Region) -> list[int]:
        """The numbers of channels to copy the input into that are worth trying; [0] where it does as it lies."""
        c, p, x = conv_of(region), product_of(region), region.inputs[0]
        unit = 16 // p.operand.size if p.operand.size <= 2 or p.precision == "tf32" else 1
        steps = [int(s) for s, d in zip(x.strides[:-1], x.shape[:-1]) if d != 1]  # type: ignore[arg-type]
        lies = x.dtype is p.operand and (x.strides[-1] == 1 or x.shape[-1] == 1) and all(s > 0 for s in steps)
        if c.groups > 1:
            return [0] if lies else [c.cg * c.groups]
        if lies and c.cg % unit == 0 and all(s % unit == 0 for s in steps) and x.aligned:
            return [0]
        whole = -(-c.cg // unit) * unit
        return [whole, 4] if c.cg <= 4 < whole and p.operand.size == 2 else [whole]

    def graph(self, region: Region, channels: int) -> Made:
        """The region as a graph. UntranslatableError for an epilogue that is none of cuDNN's."""
        region = with_bias(region)
        c, p, x = conv_of(region), product_of(region), region.inputs[0]
        before: tuple[Step, ...] = ()
        room, arg = 0, None
        if channels:
            t = Tensor.dense(p.operand, (*x.shape[:-1], channels))
            before = (pad_step(x, t),)
            room = -(-_bytes(region, t) // _ALIGN) * _ALIGN
            x, arg = t, Work(0)
        nodes = Nodes(max(4, len(x.shape)), 1)
        image = nodes.tensor(_spec(x, x.shape), arg or In(0))
        cg = channels // c.groups if channels else c.cg
        weight = nodes.tensor(_weight_spec(c, cg, p), Packed(0))
        two = len(c.kernel) == 1
        integer = p.sums is DType.I32
        y = nodes.node("conv_fprop", image, weight, type="INT32" if integer else "FLOAT",
                       compute="INT32" if integer else "FLOAT",
                       pre_padding=[0] * two + list(c.pads), post_padding=[0] * two + list(c.ends),
                       stride=[1] * two + list(c.strides), dilation=[1] * two + list(c.dilations))
        out = _spec(region.output, region.output.shape)
        _epilogue(nodes, region, y)
        avoid = [*_INEXACT, "TENSOR_CORE", "DOWN_CONVERT_INPUTS"] if p.precision == "ieee" else _INEXACT
        return Made(nodes.described(out, avoid), nodes, (_weights(c, cg, p),), before, room)


def _epilogue(nodes: Nodes, region: Region, anchor: tuple[str, int]) -> None:
    """The region's epilogue behind a node (an identity where the graph would be a mere cast of it)."""
    output = region.output
    if output.dtype not in TYPES:
        raise UntranslatableError(f"a result of {output.dtype.value}")

    places = math.prod(_spec(output, output.shape).dims[2:])

    def leaf(k: int) -> tuple[str, int]:
        t = region.inputs[k]
        if t.dtype not in TYPES:
            raise UntranslatableError(f"an operand of {t.dtype.value}")
        spec = _spec(t, output.shape)
        if spec.dims[0] > 1 and spec.dims[1] > 1 and math.prod(spec.dims[2:]) < places:
            # An engine of cuDNN 9.19 reads such an operand at misaligned addresses, and the GPU is lost.
            raise UntranslatableError("an operand for each image and channel")
        return nodes.tensor(spec, In(k))

    if region.epilogue is None:
        if output.dtype is DType.I32:
            return
        if region.anchor.dtype is DType.I32:
            raise UntranslatableError("sums of codes as they are, in another type")
        return
    y = translate(nodes, region.epilogue, anchor, leaf, output.dtype)
    if (y == anchor and region.anchor.dtype is DType.I32) or y[0] == "t" or y != ("n", len(nodes.nodes) - 1):
        nodes.node("identity", y)


def _bytes(region: Region, t: Tensor) -> int:
    return t.dtype.size * optimum(region, product(t.shape))


def _spec(t: Tensor, shape: Shape) -> TensorSpec:
    """A tensor [n, spatial.., c] that broadcasts to `shape`, in cuDNN's order of dimensions."""
    rank = len(shape)
    strides = [int(s) for s in broadcast_strides(t, rank)]  # type: ignore[arg-type]
    dims = [int(d) for d in (1,) * (rank - len(t.shape)) + tuple(t.shape)]  # type: ignore[arg-type]
    if any(s < 0 for s in strides):
        raise UntranslatableError("negative strides")
    dims = [1 if s == 0 else d for d, s in zip(dims, strides)]
    dense = 1
    for i in reversed(range(rank)):  # strides of single elements as if they lay side by side
        if dims[i] == 1:
            strides[i] = dense
        dense = max(dense, strides[i] * dims[i])
    if rank == 3:  # one spatial dimension: rows of one
        dims, strides = [dims[0], 1, *dims[1:]], [strides[0], strides[1] * dims[1], *strides[1:]]
    order = [0, len(dims) - 1, *range(1, len(dims) - 1)]
    if dims[-1] > 1 and strides[-1] != 1:
        raise UntranslatableError("channels that are not contiguous")
    return TensorSpec([dims[i] for i in order], [strides[i] for i in order], TYPES[t.dtype], t.aligned)


def _weight_spec(c: Conv, cg: int, p: Product) -> TensorSpec:
    kernel = (1, *c.kernel) if len(c.kernel) == 1 else c.kernel
    strides, step = [], cg
    for k in reversed(kernel):
        strides.append(step)
        step *= k
    return TensorSpec([c.groups * c.og, cg, *kernel], [step, 1, *reversed(strides)], TYPES[p.operand])


def _weights(c: Conv, cg: int, p: Product) -> Pack:
    """OI.. weights as [O, taps.., I], the channels padded with zeros."""
    def make(w: np.ndarray) -> np.ndarray:
        out = np.zeros((c.groups * c.og, *c.kernel, cg), p.np)
        out[..., :c.cg] = np.moveaxis(w, 1, -1).astype(p.np)
        return out

    return Pack((1,), make)


class CudnnMatmul:
    """A product of matrices and its epilogue as one graph. Parameters: plan, workspace (as of `CudnnConv`)."""

    name = "cudnn_matmul"

    def applies(self, region: Region, machine: Gpu) -> str:
        return library_reason(region, machine) or self._reason(region)

    def _reason(self, region: Region) -> str:
        a, b, out = region.inputs[0], region.inputs[1], region.output
        if region.prologue:
            return "operands are computed on load"
        rounded = b.const and b.dtype.is_float and region.compute == a.dtype.value  # the constant is packed
        if region.compute not in ("f32", "f16", "bf16", "tf32") or a.dtype not in TYPES or \
                (a.dtype is not b.dtype and not rounded):
            return "types of operands that cuDNN does not multiply"
        if (region.compute in ("f16", "bf16") and a.dtype.value != region.compute) or region.anchor.dtype is DType.I32:
            return "operands of another type than their products"
        if out.shape != region.anchor.shape or not 2 <= len(out.shape) <= 4:
            return "more than two dimensions of batches"
        try:
            self.graph(region)
        except UntranslatableError as e:
            return str(e)
        return ""

    def space(self, region: Region, machine: Gpu, threads: int) -> Iterable[Params]:
        return [{"plan": n, "workspace": w} for n, w in asked(self.graph(region).description)]

    def cost(self, region: Region, params: Params, machine: Gpu, threads: int) -> float:
        """Products at half the peak, or the memory."""
        work = 2.0 * optimum(region, product(region.anchor.shape) * region.inputs[0].shape[-1])
        rate = 4e14 if region.inputs[0].dtype.size == 2 else 2e14 if region.compute == "tf32" else 3e13
        sizes = float(sum(_bytes(region, t) for t in (*region.inputs, region.output)))
        return 1.5 * LAUNCH + max(work / rate, sizes / (machine.bandwidth or 3e12))

    def implement(self, region: Region, params: Params, machine: Gpu, threads: int) -> Implementation:
        return self.graph(region).implementation(params)

    def graph(self, region: Region) -> Made:
        """The region as a graph. UntranslatableError for what cuDNN does not say."""
        region = _one_batch(region)
        rank = max(3, len(region.output.shape))
        first, second = region.inputs[:2]
        packs: tuple[Pack, ...] = ()
        if second.dtype is not first.dtype:
            second, packs = _rounded(second, first.dtype)
        nodes = Nodes(rank, len(packs))

        def spec(t: Tensor) -> TensorSpec:
            shape = (1,) * (rank - len(t.shape)) + tuple(t.shape)
            strides = [int(s) for s in broadcast_strides(t, rank)]  # type: ignore[arg-type]
            if any(s < 0 for s in strides):
                raise UntranslatableError("negative strides")
            dims = [1 if s == 0 else int(d) for d, s in zip(shape, strides)]  # type: ignore[arg-type]
            dense = 1
            for i in reversed(range(rank)):
                if dims[i] == 1:
                    strides[i] = dense
                dense = max(dense, strides[i] * dims[i])
            return TensorSpec(dims, strides, TYPES[t.dtype], t.aligned)

        def leaf(k: int) -> tuple[str, int]:
            if region.inputs[k].dtype not in TYPES:
                raise UntranslatableError(f"an operand of {region.inputs[k].dtype.value}")
            return nodes.tensor(spec(region.inputs[k]), In(k))

        a = nodes.tensor(spec(first), In(0))
        y = nodes.node("matmul", a, nodes.tensor(spec(second), Packed(0) if packs else In(1)))
        if region.output.dtype not in TYPES:
            raise UntranslatableError(f"a result of {region.output.dtype.value}")
        if region.epilogue is not None:
            z = translate(nodes, region.epilogue, y, leaf, region.output.dtype)
            if z != ("n", len(nodes.nodes) - 1):
                nodes.node("identity", z)
        exact = product_of(replace(region, inputs=region.inputs[:2])).precision == "ieee"
        avoid = [*_INEXACT, "TENSOR_CORE", "DOWN_CONVERT_INPUTS"] if exact else _INEXACT
        return Made(nodes.described(spec(region.output), avoid), nodes, packs)


def _one_batch(region: Region) -> Region:
    """A matmul by one matrix with all its rows as one dimension, where every tensor allows it."""
    b, lead = region.inputs[1], region.output.shape[:-1]
    if any(d != 1 for d in b.shape[:-2]):
        return region
    a, out, anchor, *others = (flattened(t, lead) for t in (region.inputs[0], region.output, region.anchor,
                                                            *region.inputs[2:]))
    if a is None or out is None or anchor is None:
        return region
    rest = [t for t in others if t is not None]
    if len(rest) < len(others):
        return region
    matrix = replace(b, shape=b.shape[-2:], strides=b.strides[-2:])
    return replace(region, inputs=(a, matrix, *rest), output=out, anchor=anchor)


def _rounded(b: Tensor, dtype: DType) -> tuple[Tensor, tuple[Pack, ...]]:
    """A constant second operand in the type of the products, the depth contiguous."""
    swapped = Tensor.dense(dtype, (*b.shape[:-2], b.shape[-1], b.shape[-2]))
    strides = (*swapped.strides[:-2], swapped.strides[-1], swapped.strides[-2])
    pack = Pack((1,), lambda w: np.ascontiguousarray(np.swapaxes(w, -1, -2).astype(dtype.np)))
    return replace(b, dtype=dtype, strides=strides, aligned=True), (pack,)
