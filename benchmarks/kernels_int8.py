"""Products of 8-bit codes layer by layer, as a share of what the machine's VNNI unit does at most.

    python benchmarks/kernels_int8.py [resnet50|mobilenetv2|bert] [--batch 8] [--isa avx512_vnni] [--only int8]

Every distinct product of the network, with the epilogue that a quantized network has (scale, shift, residual, ReLU or
GELU, codes out), is timed with the first candidates of every tactic; the fastest counts. The limit is a loop of
`vpdpbusd` on registers, measured between the layers: the best of all runs. GOP/s count two per multiply-add. Without
`--isa` the tactics are those of the whole machine, AMX included (the limit is VNNI's still).
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from kernels_conv import MOBILENETV2, RESNET50, Layer, runner

from whet.compare.limits import _arithmetic
from whet.ir.dtypes import DType
from whet.ir.expr import ANCHOR, Apply, Expr, Imm, Leaf, Term
from whet.ir.region import Region, Tensor
from whet.targets.cpu.conv_common import conv_flops
from whet.targets.cpu.isa import named
from whet.targets.cpu.limits import int8_dot_peak
from whet.targets.cpu.target import Candidate, CpuTarget

U8, I8, I32, F32 = DType.U8, DType.I8, DType.I32, DType.F32
BERT = [(768, 2304, ""), (768, 768, ""), (768, 3072, "gelu"), (3072, 768, "")]  # K, N, activation
Named = tuple[str, Region, float, int]  # name, region, multiply-adds, times in the network


def epilogue(residual: bool, act: str, codes: bool) -> Expr:
    """act(sums * input 2 + input 3 (+ 0.013 * input 4)), as u8 where asked."""
    t: list[Term] = [Leaf(ANCHOR, I32), Apply("cast", (0,), F32, (("to", F32),)), Leaf(2, F32),
                     Apply("mul", (1, 2), F32), Leaf(3, F32), Apply("add", (3, 4), F32)]
    if residual:
        t += [Leaf(4, U8), Apply("cast", (6,), F32, (("to", F32),)), Imm(0.013, F32), Apply("mul", (7, 8), F32),
              Apply("add", (5, 9), F32)]
    if act:
        t.append(Apply(act, (len(t) - 1,), F32, (("approximate", "none"),) if act == "gelu" else ()))
    if codes:
        t.append(Apply("saturate", (len(t) - 1,), U8, (("zero", 0 if act == "relu" else 3), ("to", U8))))
    return Expr(tuple(t))


def convolution(layer: Layer, batch: int) -> Region:
    """A layer between codes; those that widen by four take a residual, as in ResNet's blocks."""
    c, size, o, kernel, stride, group, _ = layer
    pad = kernel // 2
    out = (size + 2 * pad - kernel) // stride + 1
    at = {"strides": (stride,) * 2, "dilations": (1, 1), "pads": (pad,) * 4, "group": group, "channels_last": True,
          "pad_value": 0}
    result = Tensor.dense(U8, (batch, out, out, o))
    residual = kernel == 1 and o == 4 * c
    inputs = (Tensor.dense(U8, (batch, size, size, c)), Tensor.dense(I8, (o, c // group, kernel, kernel), const=True),
              Tensor.dense(F32, (o,), const=True), Tensor.dense(F32, (o,), const=True))
    return Region("conv", at, (*inputs, result) if residual else inputs, 2, result, Tensor.dense(I32, result.shape),
                  epilogue(residual, "relu", True), compute="int8")


def product(m: int, k: int, n: int, act: str) -> Region:
    """A matmul of codes: to codes behind an activation, else to fp32 (layer norm and attention read that)."""
    result = Tensor.dense(U8 if act else F32, (m, n))
    inputs = (Tensor.dense(U8, (m, k)), Tensor.dense(I8, (k, n), const=True), Tensor.dense(F32, (n,), const=True),
              Tensor.dense(F32, (n,), const=True))
    return Region("matmul", {}, inputs, 2, result, Tensor.dense(I32, (m, n)), epilogue(False, act, bool(act)),
                  compute="int8")


def layers(network: str, batch: int) -> list[Named]:
    """Every distinct product of a network."""
    if network == "bert":
        m = 128 * batch
        return [(f"{m}x{k}x{n} {act}", product(m, k, n, act), float(m) * k * n, 12) for k, n, act in BERT]
    table = RESNET50 if network == "resnet50" else MOBILENETV2
    regions = [(convolution(layer, batch), layer) for layer in table]
    return [(f"{c}x{size} -> {o} k{kernel} s{stride} g{group}", r, conv_flops(r), times)
            for r, (c, size, o, kernel, stride, group, times) in regions]


def fastest(target: CpuTarget, region: Region, limit: int, only: str) -> tuple[Candidate, float, float]:
    """(the fastest of the first `limit` candidates of each tactic, its seconds, seconds of the very first)."""
    taken: dict[str, int] = {}
    runs = []
    for c in target.candidates(region):
        taken[c.tactic] = taken.get(c.tactic, 0) + 1
        if only in c.tactic and taken[c.tactic] <= limit:
            run, copies = runner(target, region, c)
            runs.append((c, run, copies))
    best = [float("inf")] * len(runs)
    for _ in range(4):
        for i, (_, run, copies) in enumerate(runs):
            end = time.perf_counter() + 0.008
            while time.perf_counter() < end:
                start = time.perf_counter()
                run()
                best[i] = min(best[i], (time.perf_counter() - start) / copies)
    i = int(np.argmin(best))
    return runs[i][0], best[i], best[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=("resnet50", "mobilenetv2", "bert"), nargs="?", default="resnet50")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--isa", default="host", help="host, avx512_vnni (no AMX) or avx2_vnni")
    parser.add_argument("--only", default="", help="tactics whose name contains this")
    parser.add_argument("--limit", type=int, default=8, help="candidates tried per tactic")
    args = parser.parse_args()
    target = CpuTarget(named(args.isa), args.threads)
    peaks: list[float] = []
    rows = []
    for name, region, products, times in layers(args.network, args.batch):
        peaks.append(_arithmetic(target, *int8_dot_peak(target.isa), 0.1))
        choice, seconds, first = fastest(target, region, args.limit, args.only)
        rows.append((2 * products, seconds, times))
        print(f"{name:28} x{times:<3} {choice.tactic:20} {seconds * 1e6:9.1f} us {2 * products / seconds / 1e9:7.0f} "
              f"GOP/s  (first candidate {first / seconds:.2f} times as long)  {choice.params}", flush=True)
    peak = max(peaks)
    total = sum(seconds * times for _, seconds, times in rows)
    share = sum(ops * times for ops, _, times in rows) / peak / total
    print(f"limit {peak / 1e9:.0f} GOP/s on {args.threads} threads; all layers {total * 1e3:.2f} ms: {share:.1%} of it")


if __name__ == "__main__":
    main()
