"""Weights of a few bits with a scale per block: MatMulNBits, and DequantizeLinear with a block size.

They stay as few bits as they are: MatMulNBits becomes a product by such weights, DequantizeLinear of constants an
operator that the pass `grouped` makes one of where a product follows.
"""

from __future__ import annotations

import numpy as np

from whet.errors import GraphError
from whet.frontends.call import Call, lowers
from whet.frontends.lower_nn import matmul
from whet.ir.dtypes import DType
from whet.ir.graph import Value
from whet.ir.ops_grouped import CODES

_SIGNED = {2: DType.I2, 4: DType.I4, 8: DType.I8}
_UNSIGNED = {2: DType.U2, 4: DType.U4, 8: DType.U8}


def unpacked(data: np.ndarray, bits: int) -> np.ndarray:
    """Bytes [.., n] as numbers of 2, 4 or 8 bits [.., n * 8 / bits], the lowest bits first."""
    if bits == 8:
        return data
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    parts = (data[..., None] >> shifts) & np.uint8((1 << bits) - 1)
    return parts.reshape(*data.shape[:-1], -1)


@lowers("MatMulNBits", domain="com.microsoft")
def _matmul_nbits(c: Call) -> Value:
    """A @ dequantized(B)^T + bias. Two uses are widened when the plan is built and take the space of A's type: zero
    points that are no whole numbers, and blocks by g_idx of other sizes than block_size."""
    a = c.x(0)
    n, k, bits, block = c.attr("N"), c.attr("K"), c.attr("bits", 4), c.attr("block_size")
    if bits not in _SIGNED or not n or not k or not block:
        raise GraphError(f"MatMulNBits of {bits} bits with N={n}, K={k}, block_size={block}", where=c.origin,
                         do="export the model again")
    if a.rank == 0 or a.shape[-1] != k:
        raise GraphError(f"MatMulNBits of K={k}, where A has shape {a.shape}", where=c.origin,
                         do="export the model again")
    blocks = -(-k // block)
    packed, given = c.fixed(1, "the weight"), c.fixed(2, "its scales")
    try:
        codes = unpacked(packed.reshape(n, blocks, -1), bits)[:, :, :block].reshape(n, -1)[:, :k].T
        scale = given.reshape(n, blocks).astype(np.float32).T
        zero = _zero_points(c, bits, n, blocks)
        if zero is not None and zero.dtype == np.float32 and np.isin(zero, np.arange(1 << bits)).all():
            zero = zero.astype(np.uint8)
        order = None
        if c.has(4):  # each row's block
            groups = c.fixed(4, "g_idx").reshape(-1)[:k].astype(np.int64)
            if groups.shape != (k,) or groups.min(initial=0) < 0 or groups.max(initial=0) >= blocks:
                raise ValueError(f"g_idx has {groups.size} entries, or some outside 0..{blocks - 1}")
            order = np.argsort(groups, kind="stable")
            if not np.array_equal(groups[order], np.arange(k) // block):
                return _widened(c, a, codes, scale, zero, groups, bits)
        if zero is not None and zero.dtype == np.float32:
            return _widened(c, a, codes, scale, zero, np.arange(k) // block, bits)
    except (ValueError, IndexError) as e:
        raise GraphError(f"the weight of MatMulNBits does not fit N={n}, K={k}, block_size={block}", where=c.origin,
                         why=str(e), do="export the model again") from None
    x = c.reshape(a, (1, k)) if a.rank == 1 else a
    if order is not None and not np.array_equal(order, np.arange(k)):
        x, codes = c.emit("gather", x, c.constant(order, DType.I64), axis=x.rank - 1), codes[order]
    if zero is None or (zero == 1 << (bits - 1)).all():
        weights = [c.constant(codes.astype(np.int16) - (1 << (bits - 1)), _SIGNED[bits]), c.constant(scale, DType.F32)]
    else:
        weights = [c.constant(codes, _UNSIGNED[bits]), c.constant(scale, DType.F32), c.constant(zero, _UNSIGNED[bits])]
    y = c.cast(c.emit("matmul_grouped", c.cast(x, DType.F32), *weights, group=block), a.dtype)
    return _with_bias(c, c.reshape(y, (n,)) if a.rank == 1 else y)


def _zero_points(c: Call, bits: int, n: int, blocks: int) -> np.ndarray | None:
    """[blocks, N]: uint8, float32 where they are given as floats, or None."""
    if not c.has(3):
        return None
    given = c.fixed(3, "its zero points")
    if given.dtype == np.uint8:
        return unpacked(given.reshape(n, -1), bits)[:, :blocks].T
    return given.reshape(n, blocks).astype(np.float32).T


def _widened(c: Call, a: Value, codes: np.ndarray, scale: np.ndarray, zero: np.ndarray | None, groups: np.ndarray,
             bits: int) -> Value:
    """The product by weights in A's type; groups: the block of each row."""
    off = np.float32(1 << (bits - 1)) if zero is None else zero.astype(np.float32)[groups]
    w = (codes.astype(np.float32) - off) * scale[groups]
    return _with_bias(c, matmul(c, a, c.constant(np.ascontiguousarray(w), a.dtype)))


def _with_bias(c: Call, y: Value) -> Value:
    bias = c.opt(5)
    return y if bias is None else c.emit("add", y, bias)


def dequantized(c: Call, x: Value, scale: Value, zero: Value | None, axis: int, block: int) -> Value | None:
    """Constant matrix x of a few bits as f32, with a scale (and zero point) for each `block` numbers along an axis, in
    the form that products take as it is; None where there is no such form (DequantizeLinear's arithmetic has it)."""
    if x.data is None or scale.data is None or x.rank != 2 or scale.rank != 2 or x.dtype not in CODES:
        return None
    if not scale.dtype.is_float or (zero is not None and (zero.data is None or zero.dtype is not x.dtype)):
        return None
    flip = axis % 2 == 1
    want = list(x.data.T.shape if flip else x.data.shape)
    want[0] = -(-want[0] // block)

    def rows(v: Value, to: DType) -> Value:
        assert v.data is not None
        return c.constant(np.ascontiguousarray(v.data.T if flip else v.data), to)

    if list(scale.data.T.shape if flip else scale.data.shape) != want:
        return None
    if zero is not None and zero.shape != scale.shape:
        return None
    operands = [rows(x, x.dtype), rows(scale, DType.F32)]
    if zero is not None and np.any(zero.data.astype(np.int16)):  # type: ignore[union-attr]
        operands.append(rows(zero, x.dtype))
    y = c.emit("dequantize_grouped", *operands, group=block)
    return c.transpose(y, (1, 0)) if flip else y


def dequantized_lines(c: Call, x: Value, scale: Value, zero: Value | None, axis: int) -> Value | None:
    """Constant matrix x of less than 8 bits with one scale in all or per index of an axis: a block is then the whole
    of the other axis. None as `dequantized`."""
    if x.rank != 2 or x.dtype.bits >= 8 or x.data is None or 0 in x.shape:
        return None
    shape = tuple(n if i == axis else 1 for i, n in enumerate(x.data.shape))

    def spread(v: Value) -> Value:
        assert v.data is not None
        return c.constant(np.broadcast_to(v.data.reshape(shape if v.data.size > 1 else ()), shape), v.dtype)

    if any(v is not None and (v.data is None or v.data.size not in (1, x.data.shape[axis])) for v in (scale, zero)):
        return None
    return dequantized(c, x, spread(scale), None if zero is None else spread(zero), 1 - axis, x.data.shape[1 - axis])
