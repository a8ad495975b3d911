"""Operators that move data, in ONNX's terms."""

from __future__ import annotations

import math

import numpy as np
from onnx import TensorProto

from whet.ir.dtypes import DType
from whet.ir.graph import Node
from whet.ir.symbolic import Dim, Shape
from whet.precision.export.pointwise import Rule
from whet.precision.export.writer import Writer, element_type, not_exportable

_END = -(1 << 62)  # before the first element, for steps backwards


def _reshape(w: Writer, n: Node, ins: list[str]) -> str:
    """With 0 for dimensions that stay in their place and -1 for one other, where that says it; else computed."""
    old, new = n.input(0).shape, n.attrs["shape"]
    if 0 in new:
        return w.emit("Reshape", ins[0], w.shape(new), allowzero=1)
    plain = _as_numbers(w, old, new)
    return w.emit("Reshape", ins[0], w.shape(new) if plain is None else w.ints(plain))


def _as_numbers(w: Writer, old: Shape, new: Shape) -> list[int] | None:
    out: list[int] = []
    for i, d in enumerate(new):
        if isinstance(d, int):
            out.append(d)
        elif i < len(old) and old[i] == d:
            out.append(0)
        else:
            out.append(-1)
    told = out.count(-1) == 0 or all(w.positive(d) for d, o in zip(new, out, strict=True) if o == 0)
    return out if out.count(-1) <= 1 and told else None  # a kept dimension of 0 would not tell the one at -1


def _slice(w: Writer, n: Node, ins: list[str]) -> str:
    at, shape = n.attrs, n.input(0).shape
    starts: list[Dim] = []
    ends: list[Dim] = []
    axes, steps = [], []
    for axis, (d, start, size, step) in enumerate(zip(shape, at["starts"], at["sizes"], at["steps"], strict=True)):
        if start == 0 and size == d and step == 1:
            continue
        end = start + size * step
        if step < 0:  # an end of -1 would count from the back
            end = (end if end >= 0 else _END) if isinstance(end, int) else end - d if start == d - 1 else None
            if end is None:
                raise not_exportable(n, f"it steps backwards from {start} over {size} of {d}")
        starts.append(start)
        ends.append(end)
        axes.append(axis)
        steps.append(step)
    if not axes:
        return ins[0]
    return w.emit("Slice", ins[0], w.shape(starts), w.shape(ends), w.ints(axes), w.ints(steps))


def _pad(w: Writer, n: Node, ins: list[str]) -> str:
    at = n.attrs
    value = [w.like(n.input(0), at["value"])] if at["mode"] == "constant" else []
    return w.emit("Pad", ins[0], w.shape(at["pads"]), *value, mode=at["mode"])


def _expand(w: Writer, n: Node, ins: list[str]) -> str:
    return w.emit("Expand", ins[0], w.shape(n.attrs["shape"]))


def _scatter(w: Writer, n: Node, ins: list[str]) -> str:
    at = n.attrs
    more = {} if at["reduction"] == "none" else {"reduction": at["reduction"]}
    ins = [ins[0], _wide(w, n, ins[1]), ins[2]]
    if n.op == "scatter_nd":
        return w.emit("ScatterND", *ins, **more)
    return w.emit("ScatterElements", *ins, axis=at["axis"], **more)


def _wide(w: Writer, n: Node, indices: str) -> str:
    """Indices as int64, which GatherND and ScatterND ask for."""
    return indices if n.input(1).dtype is DType.I64 else w.emit("Cast", indices, to=int(TensorProto.INT64))


def _resize(w: Writer, n: Node, ins: list[str]) -> str:
    at, x, data = n.attrs, n.input(0), ins[0]
    if at["dtype"] not in (None, x.dtype):
        data = w.emit("Cast", data, to=element_type(at["dtype"], n.origin))
    how = {"mode": at["mode"], "coordinate_transformation_mode": at["coordinate"]}
    if at["mode"] == "nearest":
        how["nearest_mode"] = at["rounding"]
    elif at["mode"] == "cubic":
        how["cubic_coeff_a"] = float(at["cubic_coeff_a"])
    for key in ("exclude_outside", "antialias"):
        if at[key]:
            how[key] = 1
    resized = [s is not None or d != e for s, d, e in zip(at["scales"], x.shape, at["shape"], strict=True)]
    given = [s for s, r in zip(at["scales"], resized, strict=True) if r]
    axes = [i for i, r in enumerate(resized) if r]
    if not axes:
        return data
    if all(s is None for s in given):
        return w.emit("Resize", data, None, None, w.shape(at["shape"]), **how)
    if any(s is None for s in given):
        raise not_exportable(n, "it has scales for some axes and sizes for others")
    scales = np.asarray([1.0 if s is None else s for s in at["scales"]], np.float32)
    for d, e, s in zip(x.shape, at["shape"], scales, strict=True):
        if isinstance(d, int) and isinstance(e, int) and math.floor(d * s) != e:
            raise not_exportable(n, f"{d} times {s} is not {e}")
    return w.emit("Resize", data, None, w.constant(scales), **how)


def _topk(w: Writer, n: Node, ins: list[str]) -> list[str]:
    at = n.attrs
    return w.emit_many("TopK", [ins[0], w.shape([at["k"]])], 2, axis=at["axis"], largest=int(bool(at["largest"])),
                       sorted=int(bool(at["sorted"])))


def _iota(w: Writer, n: Node, ins: list[str]) -> str:
    """start + step * i."""
    at, dtype = n.attrs, n.output.dtype
    size = w.emit("Reshape", w.dim(at["size"]), w.ints([]))
    i = w.emit("Range", w.constant(np.int64(0)), size, w.constant(np.int64(1)))
    wide = np.float64 if dtype.is_float else np.int64
    if dtype.is_float:
        i = w.emit("Cast", i, to=int(TensorProto.DOUBLE))
    if at["step"] != 1:
        i = w.emit("Mul", i, w.constant(wide(at["step"])))
    if not isinstance(at["start"], (int, float)):
        i = w.emit("Add", i, w.dim(at["start"]))
    elif at["start"] != 0:
        i = w.emit("Add", i, w.constant(wide(at["start"])))
    return i if dtype.np == wide else w.emit("Cast", i, to=element_type(dtype, n.origin))


def _dims(w: Writer, n: Node, ins: list[str]) -> str:
    flat = w.shape(n.attrs["values"])
    return flat if n.output.rank == 1 else w.emit("Reshape", flat, w.ints(_numbers(n.attrs["shape"])))


def _numbers(shape: Shape) -> list[int]:
    return [d for d in shape if isinstance(d, int)]


def _nms(w: Writer, n: Node, ins: list[str]) -> str:
    raise not_exportable(n, "its results are places of a fixed capacity, ONNX's are a list")


def _refused(w: Writer, n: Node, ins: list[str]) -> str:
    raise not_exportable(n, "ONNX has no such operator in opset 21")


RULES: dict[str, Rule] = {
    "reshape": _reshape, "slice": _slice, "pad": _pad, "expand": _expand, "resize": _resize, "topk": _topk,
    "iota": _iota, "dims": _dims, "nms": _nms, "cumprod": _refused, "bitcast": _refused,
    "scatter_nd": _scatter, "scatter_elements": _scatter,
    "transpose": lambda w, n, ins: w.emit("Transpose", *ins, perm=list(n.attrs["perm"])),
    "concat": lambda w, n, ins: w.emit("Concat", *ins, axis=n.attrs["axis"]),
    "gather": lambda w, n, ins: w.emit("Gather", *ins, axis=n.attrs["axis"]),
    "gather_nd": lambda w, n, ins: w.emit("GatherND", ins[0], _wide(w, n, ins[1]), batch_dims=n.attrs["batch_dims"]),
    "gather_elements": lambda w, n, ins: w.emit("GatherElements", *ins, axis=n.attrs["axis"]),
    "cumsum": lambda w, n, ins: w.emit("CumSum", ins[0], w.constant(np.int64(n.attrs["axis"])),
                                       exclusive=int(bool(n.attrs["exclusive"])),
                                       reverse=int(bool(n.attrs["reverse"]))),
}
