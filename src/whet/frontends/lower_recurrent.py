"""LSTM, GRU and RNN: the products with the inputs as one matmul over all time, the rest by `recurrent`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from whet.errors import GraphError, UnsupportedError
from whet.frontends.call import Call, NeedsReferenceError, Operand, lowers
from whet.ir.dtypes import DType
from whet.ir.graph import Value
from whet.ir.ops_recurrent import ACTIVATIONS, FUNCTIONS, GATES

_FLOATS = (DType.F32, DType.F16, DType.BF16)
_DEFAULTS = {"lstm": ("sigmoid", "tanh", "tanh"), "gru": ("sigmoid", "tanh"), "rnn": ("tanh",)}
_DIRECTIONS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
# alpha and beta of the activations that have them, where the model does not say: as of the operators of the same names
_ALPHA: Mapping[str, float | None] = {"affine": None, "leakyrelu": 0.01, "thresholdedrelu": 1.0, "scaledtanh": None,
                                      "hardsigmoid": 0.2, "elu": 1.0}
_BETA: Mapping[str, float | None] = {"affine": None, "scaledtanh": None, "hardsigmoid": 0.5}



def _activations(c: Call, kind: str, directions: int) -> tuple[tuple[tuple[str, float, float], ...], ...]:
    """(name, alpha, beta) of each function of each direction.

    alpha and beta are taken from their lists, in order, by the functions that have them.
    """
    given = [name.lower() for name in c.attr("activations") or _DEFAULTS[kind] * directions]
    each = FUNCTIONS[kind]
    if len(given) != each * directions:
        raise GraphError(f"{c.proto.op_type} with {len(given)} activations, not {each * directions}", where=c.origin,
                         do="export the model again")
    for name in given:
        if name not in ACTIVATIONS:
            raise GraphError(f"{c.proto.op_type} with the activation {name!r}", where=c.origin,
                             why="it is not in ONNX's list", do="export the model again")
    alphas, betas = iter(c.attr("activation_alpha") or ()), iter(c.attr("activation_beta") or ())

    def number(name: str, what: str, values: Iterator[float], defaults: Mapping[str, float | None]) -> float:
        if name not in defaults:
            return 0.0
        value = next(values, defaults[name])
        if value is None:
            raise GraphError(f"{c.proto.op_type} with the activation {name!r}, but no {what}", where=c.origin,
                             why="ONNX has no default for it", do=f"give activation_{what}")
        return float(value)

    found = [(name, number(name, "alpha", alphas, _ALPHA), number(name, "beta", betas, _BETA)) for name in given]
    return tuple(tuple(found[d * each:(d + 1) * each]) for d in range(directions))


def _bias(c: Call, b: Value, gates: int, size: int, inside: bool) -> tuple[Value, Value | None]:
    """([D * gates * H] to add to the product with the inputs, [D, H] to add to the last gate's product with h).

    `inside`: there is the latter (GRU with linear_before_reset).
    """
    n, width = b.shape[0], gates * size
    outer = c.slice(b, 1, 0, width)
    recurrent = c.slice(b, 1, width, width)
    rb = None
    if inside:
        rb = c.slice(b, 1, 2 * width - size, size)
        recurrent = c.emit("pad", c.slice(b, 1, width, width - size), pads=(0, 0, 0, size))
    assert isinstance(n, int)
    return c.reshape(c.emit("add", outer, recurrent), (n * width,)), rb


@lowers("LSTM", "GRU", "RNN")
def _recurrent(c: Call) -> Sequence[Operand | None]:
    """(Y, the last h and, for an LSTM, the last c)."""
    kind = c.proto.op_type.lower()
    x, w, r = c.x(0), c.x(1), c.x(2)
    direction = c.attr("direction", "forward").lower()
    if x.dtype not in _FLOATS:
        # onnx.reference computes these as if they were not there.
        ignored = [n for n in ("clip", "activations") if c.attr(n)] + (["sequence_lens"] if c.has(4) else [])
        if ignored or direction != "forward":
            raise UnsupportedError(f"{c.proto.op_type} in {x.dtype.value} with {', '.join(ignored) or direction}",
                                   where=c.origin, why="the reference kernel, which would run it, leaves that out",
                                   do="convert the layer to float32")
        raise NeedsReferenceError(f"in {x.dtype.value}")
    if direction not in _DIRECTIONS:
        raise GraphError(f"{c.proto.op_type} with the direction {direction!r}", where=c.origin,
                         do="export the model again")
    reverse, layout = _DIRECTIONS[direction], int(c.attr("layout", 0))
    n, gates, size = len(reverse), GATES[kind], r.shape[2]
    if not all(isinstance(d, int) for d in r.shape) or not isinstance(w.shape[0], int):
        raise NeedsReferenceError("with a hidden size that is not fixed")
    assert isinstance(size, int)
    if w.shape[:2] != (n, gates * size) or r.shape != (n, gates * size, size) or (
            c.attr("hidden_size", size) != size):
        raise GraphError(f"{c.proto.op_type}, {direction}, with W of shape {w.shape} and R of shape {r.shape}",
                         where=c.origin, why=f"hidden_size is {c.attr('hidden_size', size)}",
                         do="export the model again")
    linear = bool(kind == "gru" and c.attr("linear_before_reset", 0))
    clip = c.attr("clip")
    h, cell, p = (c.cast(c.x(i), DType.F32) if c.has(i) else None for i in (5, 6, 7))
    flat = c.transpose(c.reshape(c.cast(w, DType.F32), (n * gates * size, w.shape[2])), (1, 0))
    before, rb = c.emit("matmul", c.cast(x, DType.F32), flat), None
    if c.has(3):
        bias, rb = _bias(c, c.cast(c.x(3), DType.F32), gates, size, linear)
        before = c.emit("add", before, bias)
    before = c.reshape(before, (*x.shape[:2], n, gates * size))
    operands = [before, c.cast(r, DType.F32), c.opt(4), h, cell, p, rb]
    while operands[-1] is None:
        operands.pop()
    attrs = {"kind": kind, "reverse": reverse, "activations": _activations(c, kind, n), "layout": layout,
             "clip": float(clip) if clip else None, "coupled": bool(kind == "lstm" and c.attr("input_forget", 0)),
             "linear_before_reset": linear}
    node = c.builder.emit_node("recurrent", operands, attrs, c.origin, c.hint)
    return [c.cast(v, x.dtype) for v in node.outputs[:c.n_outputs]]
