"""Pointwise, softmax, normalization, reduction and copy kernels beside ONNX Runtime's, in alternation.

    python benchmarks/kernels_pointwise.py [--threads 2] [--only gelu] [--seconds 0.6]

GB/s counts every input and output once. `of copy` is that rate over the rate at which NumPy copies the same
number of bytes on one thread: near or above 1 where a kernel runs at the memory's speed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from whet.ir.dtypes import DType
from whet.ir.expr import Apply, Expr, Leaf, identity
from whet.ir.region import Region, Tensor
from whet.targets.cpu.target import CpuTarget

F = DType.F32


@dataclass
class Case:
    """A region and the ONNX nodes that mean the same: (op, inputs, outputs, attributes); `x` in, `y` out."""

    name: str
    region: Region
    nodes: Sequence[tuple[str, Sequence[str], Sequence[str], dict[str, Any]]]
    inputs: dict[str, tuple[int, ...]]
    out: tuple[int, ...]
    constants: dict[str, np.ndarray] = field(default_factory=dict)


def unary(op: str, shape: tuple[int, ...], onnx_op: str = "", **attrs: Any) -> Case:
    """One operator on one tensor."""
    t = Tensor.dense(F, shape)
    e = Expr((Leaf(0, F), Apply(op, (0,), F)))
    names = {"gelu": "Gelu", "silu": "Swish"}
    node = (onnx_op or names.get(op, op.capitalize()), ["x"], ["y"], attrs)
    if op == "silu":
        nodes: list[Any] = [("Sigmoid", ["x"], ["s"], {}), ("Mul", ["x", "s"], ["y"], {})]
    else:
        nodes = [node]
    return Case(f"{op} {_show(shape)}", Region("pointwise", {}, (t,), 1, t, t, e), nodes, {"x": shape}, shape)


def add(shape: tuple[int, ...], other: tuple[int, ...]) -> Case:
    """x + z by broadcasting."""
    a, b = Tensor.dense(F, shape), Tensor.dense(F, other)
    e = Expr((Leaf(0, F), Leaf(1, F), Apply("add", (0, 1), F)))
    return Case(f"add {_show(shape)} {_show(other)}", Region("pointwise", {}, (a, b), 2, a, a, e),
                [("Add", ["x", "z"], ["y"], {})], {"x": shape, "z": other}, shape)


def turn(shape: tuple[int, ...], perm: tuple[int, ...]) -> Case:
    """A transposed copy."""
    dense = Tensor.dense(F, shape)
    out = tuple(shape[p] for p in perm)
    src = Tensor(F, out, tuple(dense.strides[p] for p in perm))
    y = Tensor.dense(F, out)
    return Case(f"transpose {_show(shape)} {perm}", Region("pointwise", {}, (src,), 1, y, y, identity(0, F)),
                [("Transpose", ["x"], ["y"], {"perm": list(perm)})], {"x": shape}, out)


def anchored(name: str, kind: str, attrs: dict[str, Any], shape: tuple[int, ...], out: tuple[int, ...],
             nodes: Sequence[Any], constants: dict[str, np.ndarray] | None = None, residual: bool = False) -> Case:
    """An anchor on x (and constants), with a residual added first if asked for."""
    c = constants or {}
    x, y = Tensor.dense(F, shape), Tensor.dense(F, out)
    operands = [x, *(Tensor.dense(F, a.shape) for a in c.values())]
    n, prologue, inputs = len(operands), {}, {"x": shape}
    if residual:
        operands.append(x)
        prologue = {0: Expr((Leaf(0, F), Leaf(n, F), Apply("add", (0, 1), F)))}
        inputs["z"] = shape
    region = Region(kind, attrs, tuple(operands), n, y, y, None, prologue)
    return Case(f"{name} {_show(shape)}", region, nodes, inputs, out, c)


def cases() -> list[Case]:
    """What models are made of."""
    out = [add((128, 768), (128, 768)), add((1024, 1024), (1024, 1024)), add((8, 56, 56, 256), (256,)),
           unary("relu", (1024, 1024))]
    out += [unary(op, (128, 3072)) for op in ("exp", "tanh", "sigmoid", "erf", "gelu", "silu", "log", "sqrt")]
    out += [turn((1, 128, 12, 64), (0, 2, 1, 3)), turn((1, 3, 224, 224), (0, 2, 3, 1)),
            turn((1, 56, 56, 256), (0, 3, 1, 2)), turn((1, 2048, 7, 7), (0, 2, 3, 1)), turn((1024, 1024), (1, 0))]
    for shape in ((1536, 128), (2364, 197), (1, 1000)):
        out.append(anchored("softmax", "softmax", {"axis": 1, "log": False}, shape, shape,
                            [("Softmax", ["x"], ["y"], {"axis": 1})]))
    w = {"w": np.ones(768, np.float32), "b": np.zeros(768, np.float32)}
    for shape in ((128, 768), (1576, 768)):
        at = {"axis": 1, "epsilon": 1e-5}
        out.append(anchored("layernorm", "layernorm", at, shape, shape,
                            [("LayerNormalization", ["x", "w", "b"], ["y"], at)], w))
        nodes = [("Add", ["x", "z"], ["t"], {}), ("LayerNormalization", ["t", "w", "b"], ["y"], at)]
        out.append(anchored("add+layernorm", "layernorm", at, shape, shape, nodes, w, True))
    for kind, shape, axis in (("mean", (8, 49, 2048), 1), ("mean", (1, 3136, 64), 1), ("sum", (1024, 1024), 1),
                              ("max", (1024, 1024), 0)):
        attrs = {"kind": kind, "axes": (axis,), "keepdims": False}
        node = (f"Reduce{kind.capitalize()}", ["x", "axes"], ["y"], {"keepdims": 0})
        left = tuple(n for i, n in enumerate(shape) if i != axis)
        case = anchored(f"reduce {kind} {axis}", "reduce", attrs, shape, left, [node])
        case.constants["axes"] = np.array([axis], np.int64)
        out.append(case)
    return out


def _show(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def onnxruntime(case: Case, threads: int) -> Callable[[], object]:
    """A call that runs the case in ONNX Runtime, inputs and output bound."""
    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        [helper.make_node(op, list(i), list(o), **at) for op, i, o, at in case.nodes], "case",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in case.inputs.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, case.out)],
        [numpy_helper.from_array(a, n) for n, a in case.constants.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    bound = session.io_binding()
    for n, s in case.inputs.items():
        bound.bind_ortvalue_input(n, ort.OrtValue.ortvalue_from_numpy(np.random.rand(*s).astype(np.float32)))
    out = ort.OrtValue.ortvalue_from_shape_and_type(case.out, np.float32)
    bound.bind_ortvalue_output("y", out)
    return lambda: session.run_with_iobinding(bound)


def whet(target: CpuTarget, region: Region) -> Callable[[], object]:
    """A call that runs the region once, as a plan of its own, by the first candidate."""
    from whet.tuning.bench import single

    (best, *_) = target.candidates(region)
    made = target.implement(region, best.tactic, best.params)
    alone = single(target, region, made, target.compile(made))
    run = alone.engine.context().runner(alone.feeds, alone.outs)
    run()
    return run


def least(calls: Sequence[Callable[[], object]], seconds: float) -> list[float]:
    """The least time of each call in alternation. Each turn starts with a rest, for ONNX Runtime's worker threads
    spin for tens of milliseconds after a call and would hold the next one's core, and with an untimed call."""
    best = [float("inf")] * len(calls)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for i, call in enumerate(calls):
            time.sleep(0.05)
            call()
            for _ in range(8):
                start = time.perf_counter()
                call()
                best[i] = min(best[i], time.perf_counter() - start)
    return best


def main() -> None:
    """Print a line for each case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", default="")
    parser.add_argument("--seconds", type=float, default=0.6)
    a = parser.parse_args()
    target = CpuTarget.of_host(a.threads)
    print(f"{'case':>32} {'whet us':>9} {'GB/s':>7} {'of copy':>8} {'ONNX Runtime us':>16} {'ratio':>6}")
    for case in cases():
        if a.only not in case.name:
            continue
        nbytes = 4 * (sum(int(np.prod(s)) for s in case.inputs.values()) + int(np.prod(case.out)))
        src, dst = np.zeros(nbytes // 8, np.float32), np.zeros(nbytes // 8, np.float32)
        calls = [whet(target, case.region), onnxruntime(case, a.threads), lambda s=src, d=dst: np.copyto(d, s)]
        mine, theirs, copy = least(calls, a.seconds)
        print(f"{case.name:>32} {mine * 1e6:9.1f} {nbytes / mine / 1e9:7.1f} {copy / mine:8.2f} {theirs * 1e6:16.1f}"
              f" {theirs / mine:6.2f}", flush=True)


if __name__ == "__main__":
    main()
