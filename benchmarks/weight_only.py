"""Products by weights of a few bits, as a decoder has them, against ONNX Runtime's MatMulNBits and the memory's rate.

    python benchmarks/weight_only.py [--threads 2] [--size 4096x4096] [--layers 4] [--rows 1,8,128] [--group 128]

A model is `layers` products in a row, each with weights of its own, so that they come from beyond the second-level
cache as a network's do. Compared are whet with fp32 weights (and bf16 products), with int4 and int8 weights (and bf16
products), ONNX Runtime in fp32 and MatMulNBits at accuracy level 0 (fp32 activations) and 4 (int8 activations). Each
runs for a while on its own, in turn, three times, since threads that wait take cores from others'; the least time
counts. `of limit`: a loop that only reads as many bytes as the plan's packed weights have, over the plan's time.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import whet
from whet.ir.dtypes import DType
from whet.ir.region import Region, Tensor
from whet.targets.cpu.limits import STREAM, as_implementation, stream
from whet.targets.cpu.target import CpuTarget
from whet.tuning.bench import single


def model(rows: int, k: int, n: int, layers: int, bits: int, group: int, level: int = 0) -> bytes:
    """`layers` products [rows, k] @ [k, n] of one input, their sum the output: MatMulNBits, or MatMul for 32 bits."""
    rng = np.random.default_rng(0)
    nodes, weights = [], []
    for i in range(layers):
        if bits == 32:
            weights.append(numpy_helper.from_array(rng.standard_normal((k, n), np.float32), f"w{i}"))
            nodes.append(helper.make_node("MatMul", ["x", f"w{i}"], [f"y{i}"]))
            continue
        blocks = -(-k // group)
        arrays: dict[str, np.ndarray] = {
            "w": rng.integers(0, 256, (n, blocks, group * bits // 8)).astype(np.uint8),
            "s": rng.random((n, blocks), np.float32),
            "z": rng.integers(0, 256, (n, -(-blocks * bits // 8))).astype(np.uint8)}
        weights += [numpy_helper.from_array(v, f"{name}{i}") for name, v in arrays.items()]
        nodes.append(helper.make_node("MatMulNBits", ["x", *(f"{name}{i}" for name in arrays)], [f"y{i}"],
                                      domain="com.microsoft", K=k, N=n, bits=bits, block_size=group,
                                      accuracy_level=level))
    nodes.append(helper.make_node("Sum", [f"y{i}" for i in range(layers)], ["y"]))
    graph = helper.make_graph(nodes, "products", [helper.make_tensor_value_info("x", TensorProto.FLOAT, (rows, k))],
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, (rows, n))], weights)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()


def by_whet(raw: bytes, x: np.ndarray, threads: int, precision: str) -> tuple[Callable[[], object], int]:
    """(a call that runs the model, bytes of its plan's weights)."""
    plan = whet.build(onnx.load_from_string(raw), threads=threads, precision=precision)
    out = np.zeros((x.shape[0], plan.summary()["outputs"][0]["shape"][1]), np.float32)
    run = whet.load(plan).context().runner([x], [out])
    run()
    return run, plan.summary()["memory"]["weights"]


def by_onnxruntime(raw: bytes, x: np.ndarray, threads: int) -> Callable[[], object]:
    """A call that runs the model."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(raw, options, providers=["CPUExecutionProvider"])
    bound = session.io_binding()
    bound.bind_ortvalue_input("x", ort.OrtValue.ortvalue_from_numpy(x))
    bound.bind_output("y", "cpu")
    return lambda: session.run_with_iobinding(bound)


def reading(threads: int, nbytes: int) -> Callable[[], object]:
    """A call that reads so many bytes on all threads."""
    target = CpuTarget.of_host(threads)
    tiles = -(-nbytes // STREAM)
    data, out = Tensor.dense(DType.F32, (tiles * STREAM // 4,), const=True), Tensor.dense(DType.F32, (1,))
    made = as_implementation(stream(target.isa, "read")[0], tiles)
    one = single(target, Region("pointwise", {}, (data,), 1, out, out), made, target.compile(made))
    run = one.engine.context().runner(one.feeds, one.outs)
    run()
    return run


def least(calls: Sequence[Callable[[], object]], seconds: float) -> list[float]:
    """The least time of each call; each is called for a third of `seconds` on end, three times."""
    best = [float("inf")] * len(calls)
    for _ in range(3):
        for i, call in enumerate(calls):
            end = time.perf_counter() + seconds / 3
            while (start := time.perf_counter()) < end:
                call()
                best[i] = min(best[i], time.perf_counter() - start)
    return best


def main() -> None:
    """Print a table for each number of rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--size", default="4096x4096")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--rows", default="1,8,128")
    parser.add_argument("--group", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=2.0)
    a = parser.parse_args()
    k, n = map(int, a.size.split("x"))
    for rows in map(int, a.rows.split(",")):
        x = np.random.default_rng(1).standard_normal((rows, k), np.float32)
        calls: dict[str, Callable[[], object]] = {}
        sizes: dict[str, int] = {}
        for bits, precisions in ((32, ("fp32", "bf16")), (4, ("fp32", "bf16")), (8, ("fp32", "bf16"))):
            raw = model(rows, k, n, a.layers, bits, a.group)
            for p in precisions:
                name = f"whet {'fp32' if bits == 32 else f'int{bits}'} weights" + ", bf16 products" * (p == "bf16")
                calls[name], sizes[name] = by_whet(raw, x, a.threads, p)
            if bits == 32:
                calls["ONNX Runtime fp32"] = by_onnxruntime(raw, x, a.threads)
            else:
                for level in (0, 4):
                    calls[f"ONNX Runtime int{bits}, level {level}"] = by_onnxruntime(
                        model(rows, k, n, a.layers, bits, a.group, level), x, a.threads)
        limits = {size: reading(a.threads, size) for size in set(sizes.values())}
        times = least([*calls.values(), *limits.values()], a.seconds)
        bare = dict(zip(limits, times[len(calls):], strict=True))
        print(f"{rows} rows, {a.layers} x {a.size}, groups of {a.group}, {a.threads} threads")
        for name, seconds in zip(calls, times, strict=False):
            limit = f"{bare[sizes[name]] / seconds:8.1%} of limit {sizes[name] / 1e6:7.1f} MB" if name in sizes else ""
            print(f"  {name:>28} {seconds / a.layers * 1e3:8.3f} ms a layer {limit}", flush=True)


if __name__ == "__main__":
    main()
