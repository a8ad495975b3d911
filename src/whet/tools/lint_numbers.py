"""Where numbers leave their type: 64-bit integers beyond 32 bits, casts that overflow, and what fp16 cannot hold."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, TypeProto

from whet.frontends.onnx import load
from whet.ir import interpret
from whet.ir.dtypes import DType
from whet.tools.lint_codes import Finding, Severity, finding
from whet.tools.lint_graph import Structure, label
from whet.tools.lint_ranges import INTEGERS, Interval, ranges
from whet.tools.lint_types import Types, dims_of
from whet.tools.lint_weights import SMALL, Stats, Weight, readers

FP16_MAX = 65504.0
FP16_LEAST = 2.0 ** -24  # the least subnormal: half of it and less rounds to zero
EXP_MAX = math.log(FP16_MAX)  # 11.09
MODERATE = 16.0  # activations of this magnitude are usual
MASKS = frozenset({"Add", "Sub", "Mul", "Where", "Min", "Max", "Clip", "Pad", "ConstantOfShape", "Concat", "Expand",
                   "Unsqueeze", "Cast", "Trilu", "ScatterND", "Softmax"})
SUMS = {"ReduceSum": 1, "ReduceMean": 1, "ReduceL1": 1, "GlobalAveragePool": 1, "CumSum": 1, "ReduceSumSquare": 2,
        "ReduceL2": 2}  # operator -> power of what is summed
LIMITS: dict[int, Interval] = {**INTEGERS, TensorProto.FLOAT16: (-FP16_MAX, FP16_MAX)}
VANISHES = "it is zero in fp16, and no longer guards against a division by zero"
GUARD = "use at least 1e-7, or keep the node in fp32"
KEEP = "keep the node in fp32 or bf16"
SENTINELS = (2 ** 63 - 1, -(2 ** 63), 2 ** 63 - 2, -(2 ** 63) + 1)  # "to the end", in Slice


def check(s: Structure, types: Types, weights: Sequence[Weight], stats: Mapping[str, Stats]) -> list[Finding]:
    """Findings about the numbers of a model, from its constants, types and structure alone."""
    constants = {w.name: w.array for w in weights}
    uses = readers(s.graph)
    for n in s.graph.node:
        if n.op_type == "Constant" and n.output and label(n) in constants:
            constants[n.output[0]] = constants[label(n)]
    small = {k: v for k, v in constants.items() if v.dtype.kind in "iufb" and v.dtype.itemsize <= 8}
    bounds = ranges(s.graph, types, small)
    out: list[Finding] = []
    for w in weights:
        out += _integers(w, uses)
        if w.name in stats:
            out += _constant(w, stats[w.name], uses)
    producers = {o: n for n in s.graph.node for o in n.output if o}
    for n in s.graph.node:
        if n.domain in ("", "ai.onnx"):
            out += _casts(n, types, bounds, constants)
            out += _node(n, types, bounds, constants, producers)
    return out


def _integers(w: Weight, uses: Mapping[str, list[NodeProto]]) -> Iterator[Finding]:
    a = w.array
    if a.dtype not in (np.int64, np.uint64) or not a.size or (w.reader is not None and w.reader.op_type == "Slice"):
        return
    low, high = int(a.min()), int(a.max())
    if low >= -(1 << 31) and high < 1 << 31:
        return
    worst = high if high >= 1 << 31 else low
    if worst in SENTINELS and a.size <= SMALL:
        return
    op = w.reader.op_type if w.reader is not None else ""
    yield finding("L401", w.name, f"{a.dtype.name} values of {low} to {high}", "runtimes that narrow 64-bit integers "
                  "to 32 bits clamp or wrap them; whet does not", "check other runtimes that the model is for", op=op,
                  least=low, greatest=high)


def _constant(w: Weight, s: Stats, uses: Mapping[str, list[NodeProto]]) -> Iterator[Finding]:
    op = w.reader.op_type if w.reader is not None else ""
    read = f", read by {op} {label(w.reader)}" if w.reader is not None else ""
    sixteen = w.array.dtype.itemsize <= 2
    if s.largest > FP16_MAX and not sixteen:
        worst = s.high if s.high >= -s.low else s.low
        mask = w.array.size <= SMALL or op in MASKS
        code = "L404" if mask and op not in ("Gemm", "MatMul", "Conv") else "L403"
        why = ("it becomes infinite in fp16; minus infinity less itself, or a row that is all masked, is NaN"
               if code == "L404" else "the largest finite fp16 number is 65504")
        yield finding(code, w.name, f"the value {worst:.4g}{read}", why,
                      "use -1e4 for masks, or keep the node in fp32 or bf16" if code == "L404" else
                      "keep the node in fp32 or bf16, or scale the weight", op=op, value=worst)
    if 0 < s.smallest <= FP16_LEAST / 2 and w.array.size <= SMALL and not sixteen and \
            op in ("Add", "Max", "Clip", "Div", "Sub", "Mul", "Pow"):
        yield finding("L405", w.name, f"the value {s.smallest:.4g}{read}", VANISHES, GUARD, op=op, value=s.smallest)


def _casts(n: NodeProto, types: Types, bounds: Mapping[str, Interval],
           constants: Mapping[str, np.ndarray]) -> Iterator[Finding]:
    if n.op_type != "Cast" or not n.input:
        return
    to = next((a.i for a in n.attribute if a.name == "to"), 0)
    limit = LIMITS.get(to)
    have = bounds.get(n.input[0])
    if limit is None or have is None:
        return
    name = TensorProto.DataType.Name(to).lower()
    source = types.get(n.input[0], TypeProto()).tensor_type.elem_type
    certain = n.input[0] in constants
    beyond = have[0] < limit[0] or have[1] > limit[1]
    if beyond and all(map(math.isfinite, have)) and (certain or source not in LIMITS or LIMITS[source] != have):
        yield finding("L402", label(n), f"values of {have[0]:.6g} to {have[1]:.6g} are cast to {name}",
                      f"{name} holds {limit[0]:.6g} to {limit[1]:.6g}; what lies outside is not defined"
                      + ("" if certain else " (the range follows from constants and element types: a bound)"),
                      "clip first, or cast to a wider type", op="Cast", least=have[0], greatest=have[1])


def _node(n: NodeProto, types: Types, bounds: Mapping[str, Interval], constants: Mapping[str, np.ndarray],
          producers: Mapping[str, NodeProto]) -> Iterator[Finding]:
    elem = types.get(n.input[0], TypeProto()).tensor_type.elem_type if n.input else -1
    if elem not in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, 0):
        return
    low, high = bounds.get(n.input[0], (-math.inf, math.inf))
    severity: Severity | None = "warning" if elem == TensorProto.FLOAT16 else None
    attrs = {a.name: a for a in n.attribute}
    if n.op_type in SUMS:
        count, power = _summed(n, types, constants), SUMS[n.op_type]
        mean = (FP16_MAX / count) ** (1 / power) if count else math.inf
        if mean < MODERATE and max(abs(low), abs(high)) > mean:
            yield finding("L406", label(n), f"{n.op_type} over {count} elements", f"a mean magnitude of {mean:.3g} "
                          "overflows fp16, unless the sum is accumulated in fp32",
                          f"accumulate in fp32, or {KEEP}", op=n.op_type, severity=severity, elements=count, limit=mean)
    elif n.op_type == "Exp" and high > EXP_MAX and not _shifted(n.input[0], producers):
        yield finding("L407", label(n), "Exp of an input that nothing bounds" if high == math.inf else
                      f"Exp of values up to {high:.4g}", f"beyond {EXP_MAX:.2f} the result overflows fp16; no "
                      "maximum is taken off first", "subtract the maximum first, or keep the node in fp32", op="Exp",
                      severity=severity, limit=EXP_MAX)
    elif n.op_type in ("Pow", "Mul") and (exponent := _power(n, constants)) >= 2:
        most = FP16_MAX ** (1 / exponent)
        if max(abs(low), abs(high)) > most:
            yield finding("L407", label(n), f"{n.op_type}: the power {exponent:g} of values that "
                          + ("nothing bounds" if math.inf in (-low, high) else f"reach {max(abs(low), abs(high)):.4g}"),
                          f"magnitudes beyond {most:.4g} overflow fp16", "scale first, or keep the node in fp32",
                          op=n.op_type, severity=severity, limit=most)
    elif n.op_type == "Softmax" and (source := _scores(n.input[0], producers)) is not None:
        k = _depth(source, types)
        if k and k >= 32:
            yield finding("L407", label(n), f"Softmax of products over {k} elements that nothing scales",
                          f"{label(source)} gives them; in fp16 they overflow at a mean product of {FP16_MAX / k:.3g}",
                          "scale the operands of the product first, or keep both in fp32", op="Softmax",
                          severity=severity, elements=k)
    epsilon = attrs.get("epsilon")
    if epsilon is not None and 0 < epsilon.f <= FP16_LEAST / 2:
        yield finding("L405", label(n), f"{n.op_type}'s epsilon is {epsilon.f:.3g}", VANISHES, GUARD, op=n.op_type,
                      severity=severity, value=float(epsilon.f))


def _summed(n: NodeProto, types: Types, constants: Mapping[str, np.ndarray]) -> int:
    """How many elements each sum has, as far as it is known; 0 where it is not."""
    dims = dims_of(types.get(n.input[0]))
    if dims is None:
        return 0
    axes: Sequence[int]
    if n.op_type == "GlobalAveragePool":
        axes = range(2, len(dims))
    else:
        given = next((a for a in n.attribute if a.name == "axes"), None)
        second = constants.get(n.input[1]) if len(n.input) > 1 and n.input[1] else None
        if len(n.input) > 1 and n.input[1] and second is None:
            return 0
        axes = list(given.ints) if given is not None else second.reshape(-1).tolist() if second is not None else \
            range(len(dims))
    count = 1
    for a in axes:
        d = dims[a] if -len(dims) <= a < len(dims) else None
        if not isinstance(d, int):
            return 0
        count *= d
    return count


def _shifted(name: str, producers: Mapping[str, NodeProto]) -> bool:
    """True where the value has a maximum taken off: exp(x - max(x))."""
    n = producers.get(name)
    if n is None or n.op_type != "Sub" or len(n.input) < 2:
        return False
    other = producers.get(n.input[1])
    return other is not None and other.op_type in ("ReduceMax", "ReduceLogSumExp")


def _power(n: NodeProto, constants: Mapping[str, np.ndarray]) -> float:
    if n.op_type == "Mul":
        return 2.0 if len(n.input) > 1 and n.input[0] == n.input[1] else 0.0
    e = constants.get(n.input[1]) if len(n.input) > 1 else None
    return float(e.reshape(-1)[0]) if e is not None and e.size == 1 else 0.0


def _scores(name: str, producers: Mapping[str, NodeProto]) -> NodeProto | None:
    """The product whose result reaches a softmax with nothing but additions and masks on the way."""
    for _ in range(4):
        n = producers.get(name)
        if n is None or not n.input:
            return None
        if n.op_type == "MatMul":
            return n if not any(_scaled(i, producers) for i in n.input) else None
        if n.op_type not in ("Add", "Where", "Reshape", "Cast", "Identity"):
            return None
        name = n.input[1] if n.op_type == "Where" and len(n.input) > 1 else n.input[0]
    return None


def _scaled(name: str, producers: Mapping[str, NodeProto]) -> bool:
    """True where an operand of a product is multiplied or divided by something on its way."""
    for _ in range(4):
        n = producers.get(name)
        if n is None or not n.input:
            return False
        if n.op_type in ("Mul", "Div", "LpNormalization"):
            return True
        if n.op_type not in ("Transpose", "Reshape", "Cast", "Identity"):
            return False
        name = n.input[0]
    return False


def _depth(n: NodeProto, types: Types) -> int:
    """K of a product, 0 where it is not known; 0 for constant operands, which are a layer and no scores."""
    dims = dims_of(types.get(n.input[0]))
    return dims[-1] if dims and isinstance(dims[-1], int) else 0


def observe(model: Any, feeds: Mapping[str, Any], shapes: Mapping[str, Sequence[Any]] | None) -> list[Finding]:
    """Run the model by the NumPy reference on these inputs, and report values that fp16 cannot hold, or no type."""
    given = {k: np.asarray(v) for k, v in feeds.items()}
    graph = load(model, shapes=shapes)
    seen = [v for n in graph.nodes for v in n.outputs if v.dtype.is_float and v not in graph.outputs]
    graph.output_names = [*graph.output_names, *(f"seen {i}" for i in range(len(seen)))]
    graph.outputs = [*graph.outputs, *seen]
    with np.errstate(all="ignore"):
        arrays = list(interpret(graph, given).values())
    out: dict[tuple[str, str], Finding] = {}
    for v, x in zip(graph.outputs, arrays, strict=True):
        if not v.dtype.is_float or not isinstance(x, np.ndarray) or not x.size or v.producer is None:
            continue
        op, _, name = v.producer.origin.partition(" ")
        a = np.abs(x.astype(np.float64) if v.dtype is DType.F64 else x.astype(np.float32))
        bad = int(a.size - np.count_nonzero(np.isfinite(a)))
        if bad:
            out.setdefault(("L409", name), finding(
                "L409", name or v.name, f"{bad} of {a.size} values of {op} are NaN or infinite", "on the given inputs",
                "find the first such node: it is the one at fault", op=op, count=bad, elements=int(a.size)))
        elif a.max() > FP16_MAX:
            out.setdefault(("L408", name), finding(
                "L408", name or v.name, f"values of {op} reach {float(a.max()):.4g}",
                "seen on the given inputs; the largest finite fp16 number is 65504", KEEP, op=op, value=float(a.max())))
    return list(out.values())
