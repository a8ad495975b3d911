"""Weights of a few bits as ONNX has them: DequantizeLinear with blocks, before a MatMul."""

from __future__ import annotations

from typing import Any

from whet.ir.dtypes import DType
from whet.ir.graph import Node, Value
from whet.precision.export.pointwise import Rule
from whet.precision.export.writer import Writer, not_exportable

LEAST_BLOCK = 16  # runtimes take no smaller ones


def _widened(w: Writer, n: Node, q: Value, scale: Value, zero: Value | None) -> str:
    """Weights [K, N] in f32: one scale per column where a group is the whole of it, else blocks of rows."""
    if q.dtype in (DType.I2, DType.U2):
        raise not_exportable(n, f"weights of {q.dtype.bits} bits need a later version of ONNX's operators")
    depth, group = q.shape[0], n.attrs["group"]
    whole = isinstance(depth, int) and group >= depth
    if not whole and group < LEAST_BLOCK:
        raise not_exportable(n, f"blocks of {group} rows are smaller than runtimes take ({LEAST_BLOCK})")
    operands = [scale] if zero is None else [scale, zero]
    if not whole:
        attrs: dict[str, Any] = {"axis": 0, "block_size": group}
        return w.emit("DequantizeLinear", *(w.name(v) for v in (q, *operands)), **attrs)
    row = []
    for v in operands:
        if v.data is None:
            raise not_exportable(n, "its scales are computed")
        row.append(w.constant(v.data.reshape(-1), v.name))
    return w.emit("DequantizeLinear", w.name(q), *row, axis=1)


def _matmul(w: Writer, n: Node, ins: list[str]) -> str:
    zero = n.inputs[3] if len(n.inputs) > 3 else None
    return w.emit("MatMul", ins[0], _widened(w, n, n.input(1), n.input(2), zero))


def _dequantize(w: Writer, n: Node, ins: list[str]) -> str:
    return _widened(w, n, n.input(0), n.input(1), n.inputs[2] if len(n.inputs) > 2 else None)


RULES: dict[str, Rule] = {"matmul_grouped": _matmul, "dequantize_grouped": _dequantize}
