"""Convolution kernels layer by layer, in alternation with ONNX Runtime's single-Conv models.

    python benchmarks/kernels_conv.py [resnet50|mobilenetv2] [--batch 1] [--threads 2] [--only TEXT] [--verbose]

Every distinct convolution of the network (fused bias and ReLU on both sides) is tuned over all candidates, then the
winner is timed against ONNX Runtime: the least of alternating runs. GFLOP/s count two per multiply-add.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np

from whet.ir.dtypes import DType
from whet.ir.expr import ANCHOR, Apply, Expr, Leaf
from whet.ir.region import Region, Tensor
from whet.targets.cpu.conv_common import conv_flops
from whet.targets.cpu.target import Candidate, CpuTarget

Layer = tuple[int, int, int, int, int, int, int]  # channels, size, outputs, kernel, stride, group, times

RESNET50: list[Layer] = [
    (3, 224, 64, 7, 2, 1, 1), (64, 56, 64, 1, 1, 1, 1), (64, 56, 64, 3, 1, 1, 3), (64, 56, 256, 1, 1, 1, 4),
    (256, 56, 64, 1, 1, 1, 2), (256, 56, 128, 1, 1, 1, 1), (128, 56, 128, 3, 2, 1, 1), (128, 28, 512, 1, 1, 1, 4),
    (256, 56, 512, 1, 2, 1, 1), (512, 28, 128, 1, 1, 1, 3), (128, 28, 128, 3, 1, 1, 3), (512, 28, 256, 1, 1, 1, 1),
    (256, 28, 256, 3, 2, 1, 1), (256, 14, 1024, 1, 1, 1, 6), (512, 28, 1024, 1, 2, 1, 1), (1024, 14, 256, 1, 1, 1, 5),
    (256, 14, 256, 3, 1, 1, 5), (1024, 14, 512, 1, 1, 1, 1), (512, 14, 512, 3, 2, 1, 1), (512, 7, 2048, 1, 1, 1, 3),
    (1024, 14, 2048, 1, 2, 1, 1), (2048, 7, 512, 1, 1, 1, 2), (512, 7, 512, 3, 1, 1, 2)]
MOBILENETV2: list[Layer] = [
    (3, 224, 32, 3, 2, 1, 1), (32, 112, 32, 3, 1, 32, 1), (32, 112, 16, 1, 1, 1, 1), (16, 112, 96, 1, 1, 1, 1),
    (96, 112, 96, 3, 2, 96, 1), (96, 56, 24, 1, 1, 1, 1), (24, 56, 144, 1, 1, 1, 2), (144, 56, 144, 3, 1, 144, 1),
    (144, 56, 24, 1, 1, 1, 1), (144, 56, 144, 3, 2, 144, 1), (144, 28, 32, 1, 1, 1, 1), (32, 28, 192, 1, 1, 1, 3),
    (192, 28, 192, 3, 1, 192, 2), (192, 28, 32, 1, 1, 1, 2), (192, 28, 192, 3, 2, 192, 1), (192, 14, 64, 1, 1, 1, 1),
    (64, 14, 384, 1, 1, 1, 4), (384, 14, 384, 3, 1, 384, 4), (384, 14, 64, 1, 1, 1, 3), (384, 14, 96, 1, 1, 1, 1),
    (96, 14, 576, 1, 1, 1, 3), (576, 14, 576, 3, 1, 576, 2), (576, 14, 96, 1, 1, 1, 2), (576, 14, 576, 3, 2, 576, 1),
    (576, 7, 160, 1, 1, 1, 1), (160, 7, 960, 1, 1, 1, 3), (960, 7, 960, 3, 1, 960, 3), (960, 7, 160, 1, 1, 1, 2),
    (960, 7, 320, 1, 1, 1, 1), (320, 7, 1280, 1, 1, 1, 1)]
NETWORKS = {"resnet50": RESNET50, "mobilenetv2": MOBILENETV2}


def layer_region(layer: Layer, batch: int, dtype: DType = DType.F32, relu: bool = True) -> Region:
    """The region of a layer with bias and ReLU, as the pipeline makes it."""
    c, size, o, kernel, stride, group, _ = layer
    pad = kernel // 2
    out = (size + 2 * pad - kernel) // stride + 1
    at = {"strides": (stride,) * 2, "dilations": (1, 1), "pads": (pad,) * 4, "group": group, "channels_last": True}
    inputs = (Tensor.dense(dtype, (batch, size, size, c)),
              Tensor.dense(dtype, (o, c // group, kernel, kernel), const=True), Tensor.dense(dtype, (o,), const=True))
    result = Tensor.dense(dtype, (batch, out, out, o))
    epilogue = Expr((Leaf(ANCHOR, dtype), Apply("relu", (0,), dtype))) if relu else None
    return Region("conv", at, inputs, 3, result, result, epilogue, compute="bf16" if dtype is DType.BF16 else "f32")


def runner(target: CpuTarget, region: Region, candidate: Candidate) -> tuple[Callable[[], object], int]:
    """A call that runs the region by a candidate, and how many times it does so (each with weights of its own)."""
    from whet.tuning.bench import single

    made = target.implement(region, candidate.tactic, candidate.params)
    one = single(target, region, made, target.compile(made))
    run = one.engine.context().runner(one.feeds, one.outs)
    run()
    return run, one.copies


def peer(layer: Layer, batch: int, threads: int) -> Callable[[], object]:
    """A call that runs the layer once in ONNX Runtime (fp32, NCHW, its default session)."""
    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper

    c, size, o, kernel, stride, group, _ = layer
    rng = np.random.default_rng(0)
    w = rng.standard_normal((o, c // group, kernel, kernel)).astype(np.float32)
    b = rng.standard_normal(o).astype(np.float32)
    conv = helper.make_node("Conv", ["x", "w", "b"], ["c"], strides=[stride] * 2, pads=[kernel // 2] * 4, group=group)
    graph = helper.make_graph(
        [conv, helper.make_node("Relu", ["c"], ["y"])], "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (batch, c, size, size))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(w, "w"), numpy_helper.from_array(b, "b")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    bound = session.io_binding()
    x = ort.OrtValue.ortvalue_from_numpy(rng.standard_normal((batch, c, size, size)).astype(np.float32))
    bound.bind_ortvalue_input("x", x)
    bound.bind_output("y", "cpu")
    session.run_with_iobinding(bound)
    return lambda: session.run_with_iobinding(bound)


def least(calls: list[Callable[[], object]], seconds: float, threads: int,
          cold: np.ndarray | None = None) -> list[float]:
    """The least time of each call, all in alternation for `seconds`; median of calls after `cold` was read.

    With one thread this is the thread's own CPU time, which other processes' load disturbs less.
    """
    clock = time.thread_time if threads == 1 else time.perf_counter
    best = [float("inf")] * len(calls)
    if cold is not None:
        samples: list[list[float]] = [[] for _ in calls]
        for _ in range(max(5, int(seconds / 0.02))):
            for i, call in enumerate(calls):
                cold.sum()
                start = clock()
                call()
                samples[i].append(clock() - start)
        return [sorted(s)[len(s) // 2] for s in samples]
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for i, call in enumerate(calls):
            for _ in range(3):
                start = clock()
                call()
                best[i] = min(best[i], clock() - start)
    return best


def best_candidate(target: CpuTarget, region: Region, limit: int, only: str, verbose: bool,
                   cold: np.ndarray | None) -> tuple[Candidate, float]:
    """The fastest of the first `limit` candidates of every tactic whose name contains `only`."""
    found: list[tuple[float, Candidate]] = []
    taken: dict[str, int] = {}
    for c in target.candidates(region):
        if only not in c.tactic or taken.get(c.tactic, 0) >= limit:
            continue
        taken[c.tactic] = taken.get(c.tactic, 0) + 1
        run, copies = runner(target, region, c)
        found.append((least([run], 0.03, target.threads, cold)[0] / copies, c))
    found.sort(key=lambda f: f[0])
    if verbose:
        for seconds, c in found[:8]:
            print(f"      {seconds * 1e6:9.1f} us  model {c.cost * 1e6:9.1f}  {c.tactic} {c.params}")
    return found[0][1], found[0][0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=sorted(NETWORKS), nargs="?", default="resnet50")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", choices=("f32", "bf16"), default="f32")
    parser.add_argument("--only", default="", help="tactics whose name contains this")
    parser.add_argument("--layer", type=int, action="append", help="index of a layer (several times: several layers)")
    parser.add_argument("--limit", type=int, default=12, help="candidates tried per tactic")
    parser.add_argument("--seconds", type=float, default=0.3, help="of measuring per layer, both sides together")
    parser.add_argument("--cold", action="store_true", help="empty the caches before every call")
    parser.add_argument("--verbose", action="store_true", help="the best candidates of each layer")
    parser.add_argument("--no-peer", action="store_true", help="without ONNX Runtime")
    args = parser.parse_args()
    target = CpuTarget.of_host(args.threads)
    total = [0.0, 0.0]
    cold = np.ones(128 << 18, np.float32) if args.cold else None
    print(f"{'layer':34} {'tactic':16} {'us':>9} {'GFLOP/s':>8} {'peer us':>9} {'ratio':>6}")
    for i, layer in enumerate(NETWORKS[args.network]):
        if args.layer and i not in args.layer:
            continue
        region = layer_region(layer, args.batch, DType(args.dtype))
        if not any(args.only in c.tactic for c in target.candidates(region)):
            continue
        choice, _ = best_candidate(target, region, args.limit, args.only, args.verbose, cold)
        run, copies = runner(target, region, choice)
        calls = [run]
        if not args.no_peer:
            calls.append(peer(layer, args.batch, args.threads))
        times = least(calls, args.seconds, args.threads, cold)
        ours, theirs = times[0] / copies, times[-1]
        total[0] += ours * layer[6]
        total[1] += theirs * layer[6]
        c, size, o, kernel, stride, group, n = layer
        name = f"{i:2} {c}x{size} -> {o} k{kernel} s{stride} g{group} x{n}"
        print(f"{name:34} {choice.tactic:16} {ours * 1e6:9.1f} {2 * conv_flops(region) / ours / 1e9:8.0f} "
              f"{theirs * 1e6:9.1f} {theirs / ours:6.2f}", flush=True)
    ours, theirs = total
    print(f"{'sum, times repeats (ms)':51} {ours * 1e3:9.2f} {'':8} {theirs * 1e3:9.2f} {theirs / ours:6.2f}")


if __name__ == "__main__":
    main()
