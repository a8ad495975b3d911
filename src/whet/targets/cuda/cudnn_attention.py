"""Attention by cuDNN: its fused kernels for 16-bit floats."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from whet.ir.dtypes import DType
from whet.ir.expr import ANCHOR, Apply, Expr, Leaf
from whet.ir.region import Region, Tensor
from whet.ir.symbolic import product
from whet.ir.work import flops
from whet.targets.base import Implementation, In, Params
from whet.targets.cuda.attention_problem import LENGTHS, MASK, OPERANDS, reason
from whet.targets.cuda.conv_space import LAUNCH
from whet.targets.cuda.cudnn import Made, asked, library_reason
from whet.targets.cuda.cudnn_graph import TYPES, Nodes, TensorSpec
from whet.targets.cuda.gpu import Gpu
from whet.targets.cuda.shapes import broadcast_strides, operands

_HALF = (DType.F16, DType.BF16)
WIDEST = 256  # elements of a head


class CudnnAttention:
    """Scaled dot-product attention with an additive mask, causal or not, heads that share keys. Parameters: plan and
    workspace, as of `CudnnConv`."""

    name = "cudnn_attention"

    def applies(self, region: Region, machine: Gpu) -> str:
        return library_reason(region, machine) or reason(region) or self._reason(region)

    def _reason(self, region: Region) -> str:
        """What keeps a static region from the library, whatever the machine."""
        where, at = operands(region, OPERANDS), region.attrs
        q, k, v = region.inputs[:3]
        if region.prologue:
            return "operands are computed on load"
        if not q.dtype is k.dtype is v.dtype is region.output.dtype or q.dtype not in _HALF:
            return "operands and result are not of one 16-bit type"
        if region.compute not in ("f32", q.dtype.value) or not _is_cast(region.epilogue):
            return "an epilogue" if region.compute in ("f32", q.dtype.value) else f"products in {region.compute}"
        if LENGTHS in where or at["softcap"]:
            return "lengths or a cap of the scores"
        if any(int(t.shape[3]) % 8 or int(t.shape[3]) > WIDEST for t in (q, v)):  # type: ignore[arg-type]
            return f"heads that are no multiple of 8 elements up to {WIDEST}"
        for t in (q, k, v, region.output):
            if t.strides[3] != 1 or any(s != 0 and s % 8 for s in broadcast_strides(t, 4)[:3]) or not t.aligned:
                return "rows that do not begin at multiples of 16 bytes"
            if any(s == 0 and d != 1 for d, s in zip(t.shape, t.strides)):
                return "an operand that is broadcast"
        if at["causal"] and at["offset"] not in (0, k.shape[2] - q.shape[2]):
            return "a causal mask that begins elsewhere"
        if at["causal"] and at["offset"] < 0:
            return "rows that see nothing"
        if MASK in where:
            mask = region.inputs[where[MASK]]
            if mask.dtype not in (DType.F32, q.dtype):
                return f"a mask of {mask.dtype.value}"
            if at["masked_zero"]:
                return "rows that a mask leaves nothing of"
            if any(s < 0 for s in mask.strides):  # type: ignore[operator]
                return "negative strides"
        return ""

    def space(self, region: Region, machine: Gpu, threads: int) -> Iterable[Params]:
        return [{"plan": n, "workspace": w} for n, w in asked(self.graph(region).description)]

    def cost(self, region: Region, params: Params, machine: Gpu, threads: int) -> float:
        """Products at a third of the peak, or the memory."""
        sizes = 0
        for t in (*region.inputs, region.output):
            elements = product(t.shape)
            assert isinstance(elements, int)
            sizes += elements * t.dtype.size
        return 2.5 * LAUNCH + max(flops(region) / 3e14, sizes / (machine.bandwidth or 3e12))

    def implement(self, region: Region, params: Params, machine: Gpu, threads: int) -> Implementation:
        return self.graph(region).implementation(params)

    def graph(self, region: Region) -> Made:
        """The region as a graph of one operation."""
        at, where = region.attrs, operands(region, OPERANDS)
        nodes = Nodes(4, 0)
        values = [nodes.tensor(_spec(region.inputs[i]), In(i)) for i in range(3)]
        attrs: dict[str, Any] = {"attn_scale": float(at["scale"]), "generate_stats": False}
        if MASK in where:
            values.append(nodes.tensor(_spec(region.inputs[where[MASK]]), In(where[MASK])))
            attrs["named"] = ["bias"]
        if at["causal"]:
            bottom = at["offset"] != 0
            attrs["use_causal_mask_bottom_right" if bottom else "use_causal_mask"] = True
            if at["window"]:
                attrs["sliding_window_length"] = int(at["window"])
        nodes.node("sdpa", *values, **attrs)
        return Made(nodes.described(_spec(region.output), []), nodes, ())


def _is_cast(e: Expr | None) -> bool:
    """True for an epilogue that rounds the result and no more."""
    return e is None or all((isinstance(t, Leaf) and t.source == ANCHOR) or (isinstance(t, Apply) and t.op == "cast"
                            and t.dtype.is_float) for t in e.terms)


def _spec(t: Tensor) -> TensorSpec:
    """A tensor that broadcasts to four dimensions."""
    shape = [int(d) for d in (*(1,) * (4 - len(t.shape)), *t.shape)]  # type: ignore[arg-type]
    strides = [int(s) for s in broadcast_strides(t, 4)]  # type: ignore[arg-type]
    dims = [1 if s == 0 else d for d, s in zip(shape, strides)]
    dense = 1
    for i in reversed(range(4)):  # strides of single elements as if they lay side by side
        if dims[i] == 1:
            strides[i] = dense
        dense = max(dense, strides[i] * dims[i])
    return TensorSpec(dims, strides, TYPES[t.dtype], t.aligned)
