"""Shape arithmetic: ONNX operators on small integer tensors whose elements are dimensions.

What exporters write to compute a shape (Shape, Gather, Concat, Mul...) is evaluated here on `Dim`s, so
that no shape is computed while the model runs. Comparisons are decided by the profile's ranges; one that
these leave open is left to the graph.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from whet.errors import GraphError
from whet.frontends.call import Builder, Call, Operand, Partial
from whet.frontends.tensors import element_type
from whet.ir.dtypes import DType
from whet.ir.symbolic import Dim, Sym, product

MAX_ELEMENTS = 4096


class OpenError(Exception):
    """This cannot be folded: let the graph compute it."""


def fold(call: Call) -> list[Operand] | None:
    """The outputs of a node that works on dimensions, None where it must be left to the graph."""
    rule = RULES.get(call.proto.op_type) if not call.proto.domain else None
    if rule is None:
        return None
    try:
        result = rule(call)
    except (OpenError, ZeroDivisionError):
        return None
    except (ValueError, IndexError) as e:
        raise GraphError(f"{call.proto.op_type} on a shape does not work: {e}", where=call.origin,
                         do="export the model again") from None
    return [call.builder.operand(a, t) for a, t in result]


def _array(call: Call, i: int) -> np.ndarray:
    """Operand i as an array of objects; OpenError unless it is known."""
    x = call.inputs[i] if call.has(i) else None
    if isinstance(x, Partial):
        if x.dims.size > MAX_ELEMENTS:
            raise OpenError
        return x.dims
    if x is None or x.data is None or x.data.size > MAX_ELEMENTS or x.dtype is DType.STRING:
        raise OpenError
    return x.data.astype(object)


def _operand(call: Call, i: int = 0) -> Operand:
    x = call.inputs[i] if call.has(i) else None
    if x is None:
        raise ValueError(f"its input {i} is absent")
    return x


def _dtype(call: Call, i: int = 0) -> DType:
    return _operand(call, i).dtype


def _numbers(call: Call, i: int) -> list[int]:
    """Operand i as plain ints; OpenError if one is symbolic."""
    out = []
    for d in _array(call, i).reshape(-1):
        if isinstance(d, Sym):
            raise OpenError
        out.append(int(d))
    return out


Result = list[tuple[Any, DType]]


def _shape(call: Call) -> Result:
    start, end = call.attr("start", 0), call.attr("end")
    return [(_objects(_operand(call).shape[start:end]), DType.I64)]


def _objects(dims: Sequence[Any]) -> np.ndarray:
    out = np.empty(len(dims), object)
    out[:] = list(dims)
    return out


def _size(call: Call) -> Result:
    return [(np.asarray(product(_operand(call).shape), object), DType.I64)]


def _elementwise(f: Callable[..., Any], out: DType | None = None) -> Callable[[Call], Result]:
    def rule(call: Call) -> Result:
        arrays = np.broadcast_arrays(*(_array(call, i) for i in range(len(call.inputs))))
        flat = [f(call.builder, *v) for v in zip(*(a.reshape(-1) for a in arrays), strict=True)]
        return [(_objects(flat).reshape(arrays[0].shape), out or _dtype(call))]
    return rule


def _div(call: Call) -> Result:
    real = _dtype(call).is_float

    def one(b: Builder, x: Any, y: Any) -> Any:
        if real:  # exact, or not at all
            if isinstance(x, Sym) and not isinstance(y, Sym) and float(y).is_integer() and y and x % int(y) == 0:
                return x // int(y)
            raise OpenError
        if b.bounds(x)[0] < 0 or b.bounds(y)[0] <= 0:  # ONNX truncates, // floors: the same for these only
            raise OpenError
        return x // y
    return _elementwise(one)(call)


def _whole(x: Any) -> Dim:
    if isinstance(x, Sym) or (float(x).is_integer()):
        return x if isinstance(x, Sym) else int(x)
    raise OpenError


def _mod(b: Builder, x: Any, y: Any) -> Any:
    if b.bounds(x)[0] < 0 or b.bounds(y)[0] <= 0:
        raise OpenError
    return x % y


def _variadic(f: Callable[[Builder, Any, Any], Any]) -> Callable[[Call], Result]:
    def rule(call: Call) -> Result:
        total = _array(call, 0)
        for i in range(1, len(call.inputs)):
            a, b = np.broadcast_arrays(total, _array(call, i))
            total = _objects([f(call.builder, x, y) for x, y in zip(a.reshape(-1), b.reshape(-1))]).reshape(a.shape)
        return [(total, _dtype(call))]
    return rule


def _compare(decide: Callable[[int, int], bool | None]) -> Callable[[Call], Result]:
    """decide(low, high of x - y) -> the answer, None where it depends."""
    def one(b: Builder, x: Any, y: Any) -> bool:
        d = x - y
        low, high = b.bounds(d) if isinstance(d, Sym) else (d, d)
        answer = decide(low, high)
        if answer is None:
            raise OpenError
        return answer
    return _elementwise(one, DType.BOOL)


def _below(low: int, high: int) -> bool | None:
    return True if high < 0 else False if low >= 0 else None


def _same(low: int, high: int) -> bool | None:
    return True if low == high == 0 else False if low > 0 or high < 0 else None


def _negated(decide: Callable[[int, int], bool | None]) -> Callable[[int, int], bool | None]:
    def other(low: int, high: int) -> bool | None:
        answer = decide(low, high)
        return None if answer is None else not answer
    return other


def _flipped(decide: Callable[[int, int], bool | None]) -> Callable[[int, int], bool | None]:
    return lambda low, high: decide(-high, -low)


def _where(call: Call) -> Result:
    c, x, y = np.broadcast_arrays(*(_array(call, i) for i in range(3)))
    flat = [p if k else q for k, p, q in zip(c.reshape(-1), x.reshape(-1), y.reshape(-1))]
    return [(_objects(flat).reshape(c.shape), _dtype(call, 1))]


def _cast(call: Call) -> Result:
    to = element_type(call.attr("to"), call.origin)
    if to is DType.BOOL or to is DType.STRING or not (to.is_float or to.size >= 4):
        raise OpenError
    if to.is_float:
        return [(_array(call, 0), to)]
    flat = [_whole(v) if isinstance(v, Sym) else math.trunc(v) for v in _array(call, 0).reshape(-1)]
    return [(_objects(flat).reshape(_array(call, 0).shape), to)]


def _gather(call: Call) -> Result:
    indices = np.asarray(_numbers(call, 1), np.int64).reshape(_array(call, 1).shape)
    return [(np.take(_array(call, 0), indices, call.attr("axis", 0)), _dtype(call))]


def _concat(call: Call) -> Result:
    return [(np.concatenate([_array(call, i) for i in range(len(call.inputs))], call.attr("axis")), _dtype(call))]


def _axes(call: Call, rank: int) -> tuple[int, ...] | None:
    given = _numbers(call, 1) if call.has(1) else call.attr("axes")
    return None if given is None else tuple(call.axis(a, rank) for a in given)


def _squeeze(call: Call) -> Result:
    x = _array(call, 0)
    return [(np.squeeze(x, _axes(call, x.ndim)), _dtype(call))]


def _unsqueeze(call: Call) -> Result:
    x = _array(call, 0)
    given = _numbers(call, 1) if call.has(1) else call.attr("axes")
    return [(np.expand_dims(x, tuple(given)), _dtype(call))]


def _reshape(call: Call) -> Result:
    x = _array(call, 0)
    shape = [x.shape[i] if d == 0 and not call.attr("allowzero", 0) else d for i, d in enumerate(_numbers(call, 1))]
    return [(x.reshape(shape), _dtype(call))]


def _slice(call: Call) -> Result:
    x = _array(call, 0)
    if call.opset < 10:
        starts, ends = call.attr("starts"), call.attr("ends")
        axes, steps = call.attr("axes") or list(range(len(starts))), [1] * len(starts)
    else:
        starts, ends = _numbers(call, 1), _numbers(call, 2)
        axes = _numbers(call, 3) if call.has(3) else list(range(len(starts)))
        steps = _numbers(call, 4) if call.has(4) else [1] * len(starts)
    for a, s, e, k in zip(axes, starts, ends, steps):
        n = x.shape[a]
        if k < 0 and e < -n:
            e = None
        x = x[(slice(None),) * call.axis(a, x.ndim) + (slice(s, e, k),)]
    return [(x, _dtype(call))]


def _split(call: Call) -> Result:
    x, axis, n = _array(call, 0), call.attr("axis", 0), len(call.proto.output)
    sizes = _numbers(call, 1) if call.has(1) else call.attr("split")
    if not sizes:
        each = -(-x.shape[axis] // n)
        sizes = [each] * (n - 1) + [x.shape[axis] - each * (n - 1)]
    at = np.cumsum([0, *sizes])
    return [(np.take(x, np.arange(a, b), axis), _dtype(call)) for a, b in itertools.pairwise(at)]


def _reduce(f: Callable[[Builder, Any, Any], Any], initial: int | None) -> Callable[[Call], Result]:
    def rule(call: Call) -> Result:
        x = _array(call, 0)
        axes = _axes(call, x.ndim)
        if x.ndim != 1 or (axes not in (None, (), (0,))) or not x.size:
            raise OpenError
        if axes in (None, ()) and call.attr("noop_with_empty_axes", 0):
            return [(x, _dtype(call))]
        total = x[0] if initial is None else initial
        for v in x[1:] if initial is None else x:
            total = f(call.builder, total, v)
        return [(_objects([total]).reshape((1,) if call.attr("keepdims", 1) else ()), _dtype(call))]
    return rule


def _expand(call: Call) -> Result:
    shape = tuple(_numbers(call, 1))
    if math.prod(shape) > MAX_ELEMENTS:
        raise OpenError
    x = _array(call, 0)
    return [(np.broadcast_to(x, np.broadcast_shapes(x.shape, shape)), _dtype(call))]


def _tile(call: Call) -> Result:
    x, repeats = _array(call, 0), _numbers(call, 1)
    if x.size * math.prod(repeats) > MAX_ELEMENTS:
        raise OpenError
    return [(np.tile(x, repeats), _dtype(call))]


def _transpose(call: Call) -> Result:
    return [(np.transpose(_array(call, 0), call.attr("perm")), _dtype(call))]


def _range(call: Call) -> Result:
    start, limit, step = (_numbers(call, i)[0] for i in range(3))
    if (limit - start) / step > MAX_ELEMENTS:
        raise OpenError
    return [(_objects(list(range(start, limit, step))), _dtype(call))]


def _scatter_nd(call: Call) -> Result:
    if call.attr("reduction", "none") != "none":
        raise OpenError
    x, where, u = _array(call, 0).copy(), _array(call, 1), _array(call, 2)
    at = np.asarray(_numbers(call, 1), np.int64).reshape(where.shape)
    x[tuple(np.moveaxis(at, -1, 0))] = u
    return [(x, _dtype(call))]


def _identity(call: Call) -> Result:
    return [(_array(call, 0), _dtype(call))]


def _rounded(call: Call) -> Result:
    flat = [_whole(v) if isinstance(v, Sym) else v for v in _array(call, 0).reshape(-1)]
    if any(not isinstance(v, Sym) and not float(v).is_integer() for v in flat):
        raise OpenError
    return [(_objects(flat).reshape(_array(call, 0).shape), _dtype(call))]


def _product(b: Builder, x: Any, y: Any) -> Any:
    return x * y if not isinstance(x, Sym) and not isinstance(y, Sym) else _whole(x) * _whole(y)


def _sum(b: Builder, x: Any, y: Any) -> Any:
    return x + y if not isinstance(x, Sym) and not isinstance(y, Sym) else _whole(x) + _whole(y)


ALWAYS = {"Shape", "Size"}  # folded whatever their operand is
RULES: dict[str, Callable[[Call], Result]] = {
    "Shape": _shape, "Size": _size, "Identity": _identity, "Cast": _cast, "Gather": _gather, "Concat": _concat,
    "Squeeze": _squeeze, "Unsqueeze": _unsqueeze, "Reshape": _reshape, "Slice": _slice, "Split": _split,
    "Expand": _expand, "Tile": _tile, "Transpose": _transpose, "Range": _range, "ScatterND": _scatter_nd,
    "Where": _where, "Div": _div, "Floor": _rounded, "Ceil": _rounded, "Round": _rounded,
    "Add": _elementwise(_sum), "Mul": _elementwise(_product),
    "Sub": _elementwise(lambda b, x, y: _sum(b, x, -y if not isinstance(y, Sym) else 0 - y)),
    "Mod": _elementwise(_mod), "Neg": _elementwise(lambda b, x: 0 - x),
    "Min": _variadic(lambda b, x, y: b.minimum(_whole(x), _whole(y))),
    "Max": _variadic(lambda b, x, y: b.maximum(_whole(x), _whole(y))),
    "Equal": _compare(_same), "Less": _compare(_below), "Greater": _compare(_flipped(_below)),
    "GreaterOrEqual": _compare(_negated(_below)), "LessOrEqual": _compare(_negated(_flipped(_below))),
    "Not": _elementwise(lambda b, x: not x, DType.BOOL),
    "And": _elementwise(lambda b, x, y: bool(x and y), DType.BOOL),
    "Or": _elementwise(lambda b, x, y: bool(x or y), DType.BOOL),
    "ReduceProd": _reduce(_product, 1), "ReduceSum": _reduce(_sum, 0),
    "ReduceMax": _reduce(lambda b, x, y: b.maximum(x, y), None),
    "ReduceMin": _reduce(lambda b, x, y: b.minimum(x, y), None),
}
