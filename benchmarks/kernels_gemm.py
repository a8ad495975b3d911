"""Matmul kernels in alternation with ONNX Runtime's single-MatMul models and the measured multiply-add rate.

    python benchmarks/kernels_gemm.py [--threads 2] [--bf16] [--shapes 128x768x3072,...] [--limit 16] [--verbose]

Each shape is MxKxN with constant weights; every product has weights of its own, as the layers of a network have, so
that they do not lie in a near cache. All candidates are timed, then the winner against ONNX Runtime (fp32) and,
for bf16, OpenVINO: the least of alternating runs. `of peak` is the rate over that of a loop that only multiplies.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence

import numpy as np

from whet.ir.dtypes import DType
from whet.ir.region import Region, Tensor
from whet.targets.base import Kernel
from whet.targets.cpu.limits import amx_peak, as_implementation, bf16_dot_peak, fma_peak
from whet.targets.cpu.target import Candidate, CpuTarget

SHAPES = ("128x768x768,128x768x3072,128x3072x768,128x768x2304,512x768x768,512x3072x768,1024x768x768,1024x768x3072,"
          "1024x3072x768,197x768x768,197x768x3072,197x3072x768,1x768x768,1x2048x1000,8x1280x1000")


def matmul_region(m: int, k: int, n: int, dtype: DType, compute: str) -> Region:
    """[m, k] @ constant [k, n]."""
    out = Tensor.dense(dtype, (m, n))
    return Region("matmul", {}, (Tensor.dense(dtype, (m, k)), Tensor.dense(DType.F32, (k, n), const=True)), 2, out, out,
                  compute=compute)


def runner(target: CpuTarget, region: Region, candidate: Candidate) -> tuple[Callable[[], object], int]:
    """(a call that runs the region several times, with weights of its own each time; how many times)."""
    from whet.tuning.bench import single

    made = target.implement(region, candidate.tactic, candidate.params)
    one = single(target, region, made, target.compile(made))
    run = one.engine.context().runner(one.feeds, one.outs)
    run()
    return run, one.copies


def peak(target: CpuTarget, kernel: Kernel, operations: int) -> tuple[Callable[[], object], float]:
    """(a call that runs the kernel on all threads, its floating-point operations)."""
    from whet.tuning.bench import single

    tiles = 16 * target.threads
    made = as_implementation(kernel, tiles)
    tensor = Tensor.dense(DType.F32, (1,))
    one = single(target, Region("pointwise", {}, (tensor,), 1, tensor, tensor), made, target.compile(made))
    run = one.engine.context().runner(one.feeds, one.outs)
    run()
    return run, operations * tiles * one.copies


def onnxruntime(m: int, k: int, n: int, copies: int, threads: int) -> Callable[[], object]:
    """A call that multiplies `copies` times in ONNX Runtime (fp32, its default session)."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(_model(m, k, n, copies), options, providers=["CPUExecutionProvider"])
    bound = session.io_binding()
    bound.bind_ortvalue_input("x", ort.OrtValue.ortvalue_from_numpy(np.random.rand(m, k).astype(np.float32)))
    for i in range(copies):
        bound.bind_output(f"y{i}", "cpu")
    return lambda: session.run_with_iobinding(bound)


def openvino(m: int, k: int, n: int, copies: int, threads: int) -> Callable[[], object]:
    """A call that multiplies `copies` times in OpenVINO with bf16 inference precision."""
    import openvino as ov

    core = ov.Core()
    compiled = core.compile_model(core.read_model(_model(m, k, n, copies)), "CPU", {
        "INFERENCE_PRECISION_HINT": "bf16", "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"})
    request = compiled.create_infer_request()
    request.set_input_tensor(ov.Tensor(np.random.rand(m, k).astype(np.float32)))
    return request.infer


def _model(m: int, k: int, n: int, copies: int) -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", f"w{i}"], [f"y{i}"]) for i in range(copies)], "matmul",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (m, k))],
        [helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, (m, n)) for i in range(copies)],
        [numpy_helper.from_array(np.random.rand(k, n).astype(np.float32), f"w{i}") for i in range(copies)])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()


def least(calls: Sequence[Callable[[], object]], seconds: float) -> list[float]:
    """The least time of each call, all in alternation for `seconds`."""
    best = [float("inf")] * len(calls)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for i, call in enumerate(calls):
            for _ in range(3):
                start = time.perf_counter()
                call()
                best[i] = min(best[i], time.perf_counter() - start)
    return best


def tune(target: CpuTarget, region: Region, limit: int, verbose: bool, only: str) -> Candidate:
    """The fastest of the first `limit` candidates of each tactic."""
    found: list[tuple[float, Candidate]] = []
    taken: dict[str, int] = {}
    for c in target.candidates(region):
        taken[c.tactic] = taken.get(c.tactic, 0) + 1
        if taken[c.tactic] <= limit and only in c.tactic:
            run, copies = runner(target, region, c)
            found.append((least([run], 0.03)[0] / copies, c))
    found.sort(key=lambda f: f[0])
    if verbose:
        for seconds, c in found:
            print(f"      {seconds * 1e6:9.1f} us  model {c.cost * 1e6:9.1f}  {c.tactic} {c.params}")
    return found[0][1]


def main() -> None:
    """Print a line for each shape."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--shapes", default=SHAPES)
    parser.add_argument("--limit", type=int, default=16)
    parser.add_argument("--only", default="")
    parser.add_argument("--verbose", action="store_true")
    a = parser.parse_args()
    target = CpuTarget.of_host(a.threads)
    isa = target.isa
    top = amx_peak(isa) if a.bf16 and isa.amx_bf16 else bf16_dot_peak(isa) if a.bf16 and isa.bf16_dot else fma_peak(isa)
    limit, operations = peak(target, *top)
    dtype = DType.BF16 if a.bf16 else DType.F32
    name = "OpenVINO bf16" if a.bf16 else "ONNX Runtime"
    print(f"{'shape':>15} {'whet us':>9} {'GFLOP/s':>9} {'of peak':>8} {name + ' us':>17} {'ratio':>6}")
    for text in a.shapes.split(","):
        m, k, n = map(int, text.split("x"))
        region = matmul_region(m, k, n, dtype, "bf16" if a.bf16 else "f32")
        best = tune(target, region, a.limit, a.verbose, a.only)
        ours, copies = runner(target, region, best)
        other = (openvino if a.bf16 else onnxruntime)(m, k, n, copies, a.threads)
        mine, theirs, at_most = least([ours, other, limit], 1.5)
        mine, theirs = mine / copies, theirs / copies
        rate, ceiling = 2 * m * n * k / mine / 1e9, operations / at_most / 1e9
        print(f"{text:>15} {mine * 1e6:9.1f} {rate:9.1f} {rate / ceiling:8.1%} {theirs * 1e6:17.1f}"
              f" {theirs / mine:6.2f}  {best.tactic} {best.params}", flush=True)


if __name__ == "__main__":
    main()
