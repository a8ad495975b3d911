"""Movement: operators that move, pick, place and generate elements, with shape rule and reference."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from whet.ir.dtypes import DType
from whet.ir.graph import Value
from whet.ir.ops_base import (
    REQUIRED,
    Attrs,
    OpDef,
    Spec,
    broadcast,
    equal,
    fail,
    in_f32,
    need,
    normal_axis,
    same_dtype,
)
from whet.ir.ops_nms import NMS
from whet.ir.ops_resize import RESIZE
from whet.ir.symbolic import Shape, Sym, is_static, product


def _dims(value: Any, what: str) -> Shape:
    shape = tuple(int(d) if isinstance(d, np.integer) else d for d in value)
    need(all(isinstance(d, (int, Sym)) for d in shape), f"{what}: {value!r} is not a shape")
    need(all(not isinstance(d, int) or d >= 0 for d in shape), f"{what}: {shape} has a negative dimension")
    return shape


# -- views ------------------------------------------------------------------------------------


def _reshape_rule(ins: list[Value], at: Attrs) -> list[Spec]:
    shape = at["shape"] = _dims(at["shape"], "reshape")
    old, new = product(ins[0].shape), product(shape)
    need(not (isinstance(old, int) and isinstance(new, int)) or old == new,
         f"reshape: {ins[0].shape} has {old} elements and {shape} has {new}")
    return [(ins[0].dtype, shape)]


def _transpose_rule(ins: list[Value], at: Attrs) -> list[Spec]:
    perm = at["perm"] = tuple(int(p) for p in at["perm"])
    need(sorted(perm) == list(range(ins[0].rank)), f"transpose: {perm} does not permute rank {ins[0].rank}")
    return [(ins[0].dtype, tuple(ins[0].shape[p] for p in perm))]


def _slice_rule(ins: list[Value], at: Attrs) -> list[Spec]:
    x = ins[0]
    for key in ("starts", "sizes", "steps"):
        need(len(at[key]) == x.rank, f"slice: {len(at[key])} {key} for rank {x.rank}")
        at[key] = tuple(at[key])
    sizes = _dims(at["sizes"], "slice")
    for d, start, size, step in zip(x.shape, at["starts"], sizes, at["steps"], strict=True):
        need(isinstance(step, int) and step != 0, f"slice: steps are ints other than 0, not {step}")
        if is_static((d, start, size)) and size:
            last = start + (size - 1) * step
            need(0 <= start < d and 0 <= last < d, f"slice: {start} to {last} lies outside dimension {d}")
    return [(x.dtype, sizes)]


def _slice_ref(xs: list[Any], at: Attrs) -> list[np.ndarray]:
    x = xs[0]
    for axis, (start, size, step) in enumerate(zip(at["starts"], at["sizes"], at["steps"], strict=True)):
        if size == 0:
            x = x[(slice(None),) * axis + (slice(0, 0),)]
            continue
        end = start + (size - 1) * step + (1 if step > 0 else -1)
        x = x[(slice(None),) * axis + (slice(start, end if end >= 0 else None, step),)]
    return [x]


def _concat_rule(ins: list[Value], at: Attrs) -> list[Spec]:
    dtype = same_dtype(ins, "concat")
    rank = ins[0].rank
    need(rank > 0 and all(v.rank == rank for v in ins), "concat takes operands of one rank >= 1")
    axis = at["axis"] = normal_axis(at["axis"], rank, "concat")
    shape = list(ins[0].shape)
    for v in ins[1:]:
        for i, d in enumerate(v.shape):
            shape[i] = shape[i] + d if i == axis else equal(shape[i], d, f"concat's dimension {i}")
    return [(dtype, tuple(shape))]


def _pad_rule(ins: list[Value], at: Attrs) -> list[Spec]:
    x, pads = ins[0], tuple(at["pads"])
    at["pads"] = pads
    need(len(pads) == 2 * x.rank, f"pad: {len(pads)} pads for rank {x.rank}")
    need(at["mode"] in ("constant", "reflect", "edge", "wrap"), f"pad: unknown mode {at['mode']!r}")
    shape = tuple(d + pads[i] + pads[x.rank + i] for i, d in enumerate(x.shape))
    return [(x.dtype, _dims(shape, "pad"))]


def _pad_ref(xs: list[Any], at: Attrs) -> list[np.ndarray]:
    x, pads, mode = xs[0], at["pads"], at["mode"]
    for axis in range(x.ndim):
        n, before, after = x.shape[axis], pads[axis], pads[x.ndim + axis]
        at_ = np.arange(-before, n + after)
        if mode == "constant":
            y = np.take(x, np.clip(at_, 0, max(n - 1, 0)), axis) if n else np.zeros(
                (*x.shape[:axis], len(at_), *x.shape[axis + 1:]), x.dtype)
            outside = (at_ < 0) | (at_ >= n)
            y[(slice(None),) * axis + (outside,)] = np.asarray(at["value"]).astype(x.dtype)
            x = y
        elif before or after:
            period = max(2 * (n - 1), 1)
            at_ = {"edge": np.clip(at_, 0, n - 1), "wrap": at_ % max(n, 1),
                   "reflect": np.minimum(at_ % period, period - at_ % period) if n > 1 else at_ * 0}[mode]
            x = np.take(x, at_, axis)
    return [x]


def _expand_rule(ins: list[Value], at: Attrs) -> list[Spec]:
    shape = at["shape"] = _dims(at["shape"], "expand")
    if broadcast([ins[0].shape, shape], "expand") != shape:
        raise fail(f"expand: {ins[0].shape} does not broadcast to {shape}")
    return [(ins[0].dtype, shape)]


# -- gather and scatter -----------------------------------------------------------------------


def _index(v: Value, what: str) -> None:
    need(v.dtype in (DType.I32, DType.I64), f"{what} takes i32 or i64 indices, not {v.dtype.value}")


def _wrapped(i: np.ndarray, n: int, what: str) -> np.ndarray:
    """Indices with negative ones counted from the end; IndexError for those outside."""
    if i.size and (i.min() < -n or i.max() >= n):
        raise IndexError(f"{what}: an index lies outside [-{n}, {n})")
    return np.where(i < 0, i + n, i)


def _gather_rule(ins: list[Value], at: Attrs) -> list[Spec]:
    x, i = ins
    _index(i, "gather")
    axis = at["axis"] = normal_axis(at["axis"], x.rank, "gather")
    return [(x.dtype, x.shape[:axis] + i.shape + x.shape[axis + 1:])]


def _gather_nd_rule(ins: list[Value], at: Attrs) -> list[Spec]:
    x, i = ins
    b, depth = at["batch_dims"], i.shape[-1] if i.rank else 0
    _index(i, "gather_nd")
    need(isinstance(depth, int), "gather_nd needs indices whose last dimension is static")
    assert isinstance(depth, int)
    need(0 <= b < i.rank and b + depth <= x.rank, f"gather_nd: {b} batch dims and index depth {depth} "
         f"do not fit ranks {x.rank} and {i.rank}")
    batch = tuple(equal(p, q, "gather_nd's batch dimensions") for p, q in zip(x.shape[:b], i.shape[:b]))
    return [(x.dtype, batch + i.shape[b:-1] + x.shape[b + depth:])]


def _nd_places(i: np.ndarray, shape: tuple[int, ...], batch_dims: int, what: str) -> tuple[np.ndarray, ...]:
    """Index arrays, one per leading dimension, for indices of the gather_nd kind."""
    lead = i.shape[:-1]
    grid = np.ix_(*(np.arange(n) for n in lead[:batch_dims])) if batch_dims else ()
    batch = tuple(g.reshape(g.shape + (1,) * (len(lead) - batch_dims)) for g in grid)
    return batch + tuple(_wrapped(i[..., k], shape[batch_dims + k], what) for k in range(i.shape[-1]))


def _gather_elements_rule(ins: list[Value], at: Attrs) -> list[Spec]:
    x, i = ins
    _index(i, "gather_elements")
    need(x.rank == i.rank and x.rank > 0, f"gather_elements takes operands of one rank, not {x.rank} and {i.rank}")
    at["axis"] = normal_axis(at["axis"], x.rank, "gather_elements")
    return [(x.dtype, i.shape)]


def _element_places(i: np.ndarray, axis: int, size: int, what: str) -> tuple[np.ndarray, ...]:
    grid: list[np.ndarray] = list(np.ix_(*(np.arange(n) for n in i.shape)))
    grid[axis] = _wrapped(i, size, what)
    return tuple(grid)


_REDUCTIONS = {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}


def _place(x: np.ndarray, where: tuple[np.ndarray, ...], u: np.ndarray, reduction: str) -> np.ndarray:
    y = in_f32(x).copy()
    if reduction == "none":
        y[where] = in_f32(u)
    else:
        _REDUCTIONS[reduction].at(y, where, in_f32(u))
    return y


def _scatter_common(ins: list[Value], at: Attrs, what: str) -> list[Spec]:
    x, i, u = ins
    _index(i, what)
    same_dtype((x, u), what)
    need(at["reduction"] in ("none", *_REDUCTIONS), f"{what}: unknown reduction {at['reduction']!r}")
    need(at["reduction"] == "none" or not ins[0].dtype.is_storage, f"{what} does not compute {ins[0].dtype.value}")
    return [(x.dtype, x.shape)]


def _scatter_nd_rule(ins: list[Value], at: Attrs) -> list[Spec]:
    x, i, u = ins
    depth = i.shape[-1] if i.rank else None
    need(isinstance(depth, int) and depth <= x.rank, "scatter_nd needs a static last dimension of its indices "
         "that is at most the rank of its data")
    assert isinstance(depth, int)
    want = i.shape[:-1] + x.shape[depth:]
    need(u.rank == len(want), f"scatter_nd: updates {u.shape} should be {want}")
    for p, q in zip(want, u.shape):
        equal(p, q, "scatter_nd's updates")
    return _scatter_common(ins, at, "scatter_nd")


def _scatter_elements_rule(ins: list[Value], at: Attrs) -> list[Spec]:
    x, i, u = ins
    need(x.rank == i.rank == u.rank and x.rank > 0, "scatter_elements takes operands of one rank >= 1")
    at["axis"] = normal_axis(at["axis"], x.rank, "scatter_elements")
    for p, q in zip(i.shape, u.shape):
        equal(p, q, "scatter_elements' indices and updates")
    return _scatter_common(ins, at, "scatter_elements")


# -- scans and order --------------------------------------------------------------------------


def _cumsum_rule(ins: list[Value], at: Attrs) -> list[Spec]:
    x = ins[0]
    need(x.dtype.is_float or x.dtype.is_integer, f"cumsum does not take {x.dtype.value}")
    at["axis"] = normal_axis(at["axis"], x.rank, "cumsum")
    return [(x.dtype, x.shape)]


def _cumsum_ref(xs: list[Any], at: Attrs) -> list[np.ndarray]:
    x, axis = in_f32(xs[0]), at["axis"]
    x = np.flip(x, axis) if at["reverse"] else x
    y = np.cumsum(x, axis=axis, dtype=x.dtype)
    if at["exclusive"] and x.shape[axis]:
        y = np.concatenate([np.zeros_like(np.take(y, [0], axis)), np.take(y, np.arange(x.shape[axis] - 1), axis)], axis)
    return [np.ascontiguousarray(np.flip(y, axis)) if at["reverse"] else y]


def _cumprod_ref(xs: list[Any], at: Attrs) -> list[np.ndarray]:
    x, axis = in_f32(xs[0]), at["axis"]
    x = np.flip(x, axis) if at["reverse"] else x
    with np.errstate(all="ignore"):
        y = np.cumprod(x, axis=axis, dtype=x.dtype)
    if at["exclusive"] and x.shape[axis]:
        y = np.concatenate([np.ones_like(np.take(y, [0], axis)), np.take(y, np.arange(x.shape[axis] - 1), axis)], axis)
    return [np.ascontiguousarray(np.flip(y, axis)) if at["reverse"] else y]


def _topk_rule(ins: list[Value], at: Attrs) -> list[Spec]:
    x = ins[0]
    need(x.dtype.is_float or x.dtype.is_integer, f"topk does not take {x.dtype.value}")
    axis = at["axis"] = normal_axis(at["axis"], x.rank, "topk")
    (k,) = _dims([at["k"]], "topk")
    d = x.shape[axis]
    need(not (isinstance(k, int) and isinstance(d, int)) or k <= d, f"topk: {k} of {d} elements")
    shape = (*x.shape[:axis], k, *x.shape[axis + 1:])
    return [(x.dtype, shape), (DType.I64, shape)]


def _topk_ref(xs: list[Any], at: Attrs) -> list[np.ndarray]:
    x, axis = in_f32(xs[0]), at["axis"]
    if at["largest"]:  # stable from the high end: the lower index first among equals
        order = x.shape[axis] - 1 - np.flip(np.argsort(np.flip(x, axis), axis=axis, kind="stable"), axis)
    else:
        order = np.argsort(x, axis=axis, kind="stable")
    order = np.take(order, np.arange(at["k"]), axis)
    return [np.take_along_axis(x, order, axis), order.astype(np.int64)]


# -- generators -------------------------------------------------------------------------------


def _bitcast_rule(ins: list[Value], at: Attrs) -> list[Spec]:
    (x,), to = ins, at["to"]
    need(isinstance(to, DType) and not to.is_host and not x.dtype.is_host, "bitcast does not take strings")
    need(x.dtype.bits == to.bits, f"bitcast keeps the number of bits, and {x.dtype.value} has {x.dtype.bits}, "
                                  f"{to.value} {to.bits}")
    return [(to, x.shape)]


def _iota_rule(ins: list[Value], at: Attrs) -> list[Spec]:
    t = at["dtype"]
    need(isinstance(t, DType) and (t.is_float or t.is_integer), "iota needs a number type")
    return [(at["dtype"], _dims([at["size"]], "iota"))]


def _iota_ref(xs: list[Any], at: Attrs) -> list[np.ndarray]:
    i = np.arange(at["size"], dtype=np.float64 if at["dtype"].is_float else np.int64)
    return [(i * at["step"] + at["start"]).astype(at["dtype"].np)]


def _dims_rule(ins: list[Value], at: Attrs) -> list[Spec]:
    shape = _dims(at["shape"], "dims")
    need(is_static(shape) and math.prod(d for d in shape if isinstance(d, int)) == len(at["values"]),
         f"dims: {len(at['values'])} values do not fill {shape}")
    need(all(isinstance(v, (int, Sym)) for v in at["values"]), "dims: values are dimensions")
    return [(DType.I64, shape)]


def _of_shape(xs: list[Any], shape: tuple[int, ...]) -> list[np.ndarray]:
    return [np.reshape(xs[0], shape)]


MOVES: dict[str, OpDef] = {d.name: d for d in (
    OpDef("reshape", (1, 1), _reshape_rule, lambda xs, at: _of_shape(xs, at["shape"]), {"shape": REQUIRED}),
    OpDef("transpose", (1, 1), _transpose_rule, lambda xs, at: [np.transpose(xs[0], at["perm"])], {"perm": REQUIRED}),
    OpDef("slice", (1, 1), _slice_rule, _slice_ref, {"starts": REQUIRED, "sizes": REQUIRED, "steps": REQUIRED}),
    OpDef("concat", (1, None), _concat_rule, lambda xs, at: [np.concatenate(xs, at["axis"])], {"axis": REQUIRED}),
    OpDef("pad", (1, 1), _pad_rule, _pad_ref, {"pads": REQUIRED, "mode": "constant", "value": 0}),
    OpDef("expand", (1, 1), _expand_rule, lambda xs, at: [np.broadcast_to(xs[0], at["shape"])], {"shape": REQUIRED}),
    OpDef("gather", (2, 2), _gather_rule,
          lambda xs, at: [np.take(xs[0], _wrapped(xs[1], xs[0].shape[at["axis"]], "gather"), at["axis"])], {"axis": 0}),
    OpDef("gather_nd", (2, 2), _gather_nd_rule,
          lambda xs, at: [xs[0][_nd_places(xs[1], xs[0].shape, at["batch_dims"], "gather_nd")]], {"batch_dims": 0}),
    OpDef("gather_elements", (2, 2), _gather_elements_rule,
          lambda xs, at: [xs[0][_element_places(xs[1], at["axis"], xs[0].shape[at["axis"]], "gather_elements")]],
          {"axis": 0}),
    OpDef("scatter_nd", (3, 3), _scatter_nd_rule,
          lambda xs, at: [_place(xs[0], _nd_places(xs[1], xs[0].shape, 0, "scatter_nd"), xs[2], at["reduction"])],
          {"reduction": "none"}),
    OpDef("scatter_elements", (3, 3), _scatter_elements_rule,
          lambda xs, at: [_place(xs[0], _element_places(xs[1], at["axis"], xs[0].shape[at["axis"]],
                                                        "scatter_elements"), xs[2], at["reduction"])],
          {"axis": 0, "reduction": "none"}),
    RESIZE,
    NMS,
    OpDef("cumsum", (1, 1), _cumsum_rule, _cumsum_ref, {"axis": REQUIRED, "exclusive": False, "reverse": False}),
    OpDef("bitcast", (1, 1), _bitcast_rule, lambda xs, at: [xs[0].view(at["to"].np)], {"to": REQUIRED}),
    OpDef("cumprod", (1, 1), _cumsum_rule, _cumprod_ref, {"axis": REQUIRED, "exclusive": False, "reverse": False}),
    OpDef("topk", (1, 1), _topk_rule, _topk_ref, {"k": REQUIRED, "axis": -1, "largest": True, "sorted": True}),
    OpDef("iota", (0, 0), _iota_rule, _iota_ref, {"start": 0, "step": 1, "size": REQUIRED, "dtype": DType.I64}),
    OpDef("dims", (0, 0), _dims_rule,
          lambda xs, at: [np.asarray(at["values"], np.int64).reshape(at["shape"])],
          {"values": REQUIRED, "shape": REQUIRED}),
)}
