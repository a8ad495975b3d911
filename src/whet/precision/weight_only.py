"""Weights of 8 or 4 bits, activations as they are: for decoders, whose speed is that of their weights' way from memory.

`compress` works on a prepared graph (`passes.prepare`): products by large constant matrices become `matmul_grouped`,
tables that rows are picked from become 8-bit rows with a scale each. 8 bits are symmetric, q * scale; 4 bits have a
zero point, (q - zero) * scale, and their range is searched: for each group of rows of a column the range from its
least to its greatest weight, and that range shrunk by some factors, are tried, and the one with the least squared
error is taken (as the clipping search of AWQ, arXiv:2306.00978, without its activations).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from whet.errors import InputError
from whet.ir.dtypes import DType
from whet.ir.graph import Graph, Node, Value
from whet.ir.ops_grouped import widen_groups
from whet.passes.rewrite import Result, Rewriter, Rule

LEAST = 1 << 14  # weights of a matrix that is worth it
SHRINK = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)  # of the range of a group
CHUNK = 1 << 20  # weights quantized at a time
FLOATS = (DType.F32, DType.F16, DType.BF16)


@dataclass(frozen=True)
class Layer:
    """What became of one layer's weights.

    error:         |w - w'| / |w| by the Frobenius norm, w' being what the codes stand for.
    before, after: bytes, as they lie in a plan (without the padding of columns to whole vectors).
    reason:        why the layer was left as it is; "" where it was not.
    """

    layer: str
    kind: str  # `matmul` or `gather`
    shape: tuple[int, ...]
    bits: int
    group: int
    error: float
    before: int
    after: int
    reason: str = ""


def compress(graph: Graph, bits: int = 4, group: int = 128, keep: Callable[[Node], bool] = lambda node: False,
             least: int = LEAST, embeddings: bool = True) -> list[Layer]:
    """Store the weights of products in 8 or 4 bits; a row for every layer with constant weights of `least` numbers.

    graph:      prepared, changed in place, the bodies of control flow too.
    bits:       8 or 4.
    group:      rows that share a scale; 0 for whole columns. The last group may be shorter: K need not be a multiple,
                and the group may be any number (in memory each begins with a word of its own: `cpu.grouped_pack`).
    keep:       layers that stay as they are.
    embeddings: constant tables [rows, width] of `gather` along their first axis become 8-bit rows.

    InputError for other bits or a negative group.
    """
    if bits not in (4, 8):
        raise InputError(f"weights of {bits} bits", why="whet stores weights in 8 or 4 bits", do="use bits=8 or bits=4")
    if group < 0:
        raise InputError(f"groups of {group} rows", why="a group has at least one row", do="use 128, or 0 for columns")
    made = _Compression(bits, group, keep, least)
    for g in (graph, *_bodies(graph)):
        rules: dict[str, list[Rule]] = {"matmul": [made.product], "gather": [made.table] if embeddings else []}
        Rewriter(g).run(rules)
    return made.layers


def _bodies(graph: Graph) -> list[Graph]:
    return [g for b in graph.bodies() for g in (b, *_bodies(b))]


@dataclass(frozen=True)
class _Codes:
    """A quantized matrix as constants, and what it lost."""

    operands: tuple[Value, ...]
    error: float
    nbytes: int


class _Compression:
    def __init__(self, bits: int, group: int, keep: Callable[[Node], bool], least: int) -> None:
        self.bits, self.group, self.keep, self.least = bits, group, keep, least
        self.layers: list[Layer] = []
        self.known: dict[tuple[str, Value], _Codes] = {}  # constants that several products share are quantized once

    def product(self, rw: Rewriter, node: Node) -> Result:
        """matmul(x, constant w [K, N])."""
        x, w = node.input(0), node.input(1)
        if w.data is None or x.is_const or w.data.size < self.least:
            return None
        depth, group = int(w.data.shape[-2]), 0
        group = min(self.group or depth, depth)
        reason = "weights with batch dimensions" if w.rank != 2 else self._reason(node, w)
        if reason:
            self._left(node, "matmul", w, reason)
            return None
        key = "matmul", w
        if key not in self.known:
            q, scale, zero = quantize_groups(w.data.astype(np.float32), self.bits, group)
            kind = DType.I8 if self.bits == 8 else DType.U4
            operands = [rw.graph.const(q, kind), rw.graph.const(scale, DType.F32)]
            operands += [] if zero is None else [rw.graph.const(zero, kind)]
            nbytes = q.size * self.bits // 8 + scale.nbytes + (0 if zero is None else zero.size)
            error = relative_error(w.data, widen_groups(q, scale, zero, group))
            self.known[key] = _Codes(tuple(operands), error, nbytes)
        codes = self.known[key]
        self._done(node, "matmul", w, self.bits, group, codes)
        y = rw.add("matmul_grouped", _in_f32(rw, x, node), *codes.operands, like=node, group=group)
        return y if node.output.dtype is DType.F32 else rw.add("cast", y, like=node, to=node.output.dtype)

    def table(self, rw: Rewriter, node: Node) -> Result:
        """gather(constant table [rows, width], indices): the rows' codes and scales are picked, then multiplied."""
        w, index = node.input(0), node.input(1)
        if w.data is None or index.is_const or w.data.size < self.least or w.rank != 2 or node.attrs["axis"] != 0:
            return None
        reason = self._reason(node, w)
        if reason:
            if w.dtype in FLOATS:
                self._left(node, "gather", w, reason)
            return None
        width = int(w.data.shape[1])
        key = "gather", w
        if key not in self.known:
            q, scale, _ = quantize_groups(np.ascontiguousarray(w.data.astype(np.float32).T), 8, width)
            rows, factor = np.ascontiguousarray(q.T), np.ascontiguousarray(scale.T)
            self.known[key] = _Codes((rw.graph.const(rows, DType.I8), rw.graph.const(factor, DType.F32)),
                                     relative_error(w.data, rows * factor), rows.nbytes + factor.nbytes)
        codes = self.known[key]
        self._done(node, "gather", w, 8, width, codes)
        picked = [rw.add("gather", v, index, like=node, axis=0) for v in codes.operands]
        y = rw.add("mul", rw.add("cast", picked[0], like=node, to=DType.F32), picked[1], like=node)
        return y if w.dtype is DType.F32 else rw.add("cast", y, like=node, to=w.dtype)

    def _reason(self, node: Node, w: Value) -> str:
        """Why a layer stays as it is, or ""."""
        assert w.data is not None
        if w.dtype not in FLOATS:
            return f"weights of {w.dtype.value}"
        if self.keep(node):
            return "kept, as asked"
        if not np.isfinite(w.data.astype(np.float32)).all():
            return "weights that are not finite"
        return ""

    def _left(self, node: Node, kind: str, w: Value, reason: str) -> None:
        assert w.data is not None
        self.layers.append(Layer(node.origin or node.output.name, kind, w.data.shape, 8 * w.dtype.size, 0, 0.0,
                                 w.data.nbytes, w.data.nbytes, reason))

    def _done(self, node: Node, kind: str, w: Value, bits: int, group: int, codes: _Codes) -> None:
        assert w.data is not None
        self.layers.append(Layer(node.origin or node.output.name, kind, w.data.shape, bits, group, codes.error,
                                 w.data.nbytes, codes.nbytes))


def _in_f32(rw: Rewriter, x: Value, node: Node) -> Value:
    return x if x.dtype is DType.F32 else rw.add("cast", x, like=node, to=DType.F32)


def quantize_groups(w: np.ndarray, bits: int, group: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """w [K, N] f32 as codes [K, N], scales [ceil(K / group), N] f32, and for 4 bits zero points of the scales' shape.

    8 bits: int8, symmetric, the nearest code. 4 bits: uint8 numbers from 0 to 15, with the best of `SHRINK`.
    """
    depth, columns = w.shape
    groups = -(-depth // group) if depth else 0
    scale = np.ones((groups, columns), np.float32)
    if bits == 8:
        q, zero = np.zeros(w.shape, np.int8), None
    else:
        q, zero = np.zeros(w.shape, np.uint8), np.zeros((groups, columns), np.uint8)
    wide = max(1, CHUNK // max(1, group))  # columns at a time
    for g in range(groups):
        rows = slice(g * group, min(depth, (g + 1) * group))
        for c in range(0, columns, wide):
            part = (rows, slice(c, c + wide))
            here = (g, slice(c, c + wide))
            if zero is None:
                q[part], scale[here] = _symmetric(w[part])
            else:
                q[part], scale[here], zero[here] = _asymmetric(w[part])
    return q, scale, zero


def _symmetric(w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int8 codes of a group [rows, N] and a scale per column."""
    scale = _positive(np.abs(w).max(axis=0, initial=0) / np.float32(127))
    return np.clip(np.rint(w / scale), -127, 127).astype(np.int8), scale


def _asymmetric(w: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes from 0 to 15 of a group [rows, N], and a scale and a zero point per column: the best of `SHRINK`."""
    low, high = np.minimum(w.min(axis=0, initial=0), 0), np.maximum(w.max(axis=0, initial=0), 0)
    unit = _positive(high - low)  # losses are in these, or the squares of great weights would overflow
    best = np.full(w.shape[1], np.inf, np.float32)
    codes, factor, point = np.zeros(w.shape, np.uint8), np.ones(w.shape[1], np.float32), np.zeros(w.shape[1], np.uint8)
    for shrink in SHRINK:
        scale = _positive((high - low) * np.float32(shrink / 15))
        zero = np.clip(np.rint(-low * np.float32(shrink) / scale), 0, 15)
        q = np.clip(np.rint(w / scale) + zero, 0, 15)
        loss = np.square(((q - zero) * scale - w) / unit).sum(axis=0)
        better = loss < best
        best = np.where(better, loss, best)
        codes[:, better], factor[better], point[better] = q[:, better], scale[better], zero[better]
    return codes, factor, point


def _positive(scale: np.ndarray) -> np.ndarray:
    """The scales, 1 where nothing but zeros (or less than f32 can divide by) is to be scaled."""
    return np.where(scale >= np.finfo(np.float32).tiny, scale, np.float32(1)).astype(np.float32)


def relative_error(w: np.ndarray, approximation: np.ndarray) -> float:
    """|w - approximation| / |w| by the Frobenius norm; 0 for a w of zeros that is met."""
    w = w.astype(np.float32)
    lost, size = float(np.linalg.norm(w - approximation)), float(np.linalg.norm(w))
    return lost / size if size else (0.0 if lost == 0 else float("inf"))
