"""Convolutions of ResNet-50 and MobileNetV2 on this machine's GPU: the best of each tactic, layer by layer.

    PYTHONPATH=src python benchmarks/kernels_gpu_conv.py resnet --batch 1 --most 8

fp16 with the layers' epilogues (bias, residual, ReLU or ReLU6), as a build times them: one launch within a CUDA graph
of many, constants rotated through more memory than the L2 cache has. Times are in microseconds; sums are weighted by
how often a network has the layer. Results of candidates are compared with one another.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from whet.ir.dtypes import DType
from whet.ir.expr import ANCHOR, Apply, Expr, Imm, Leaf
from whet.ir.region import Region, Tensor
from whet.runtime.cuda import libraries
from whet.runtime.cuda.driver import Device
from whet.targets.cuda import TACTICS, compile
from whet.targets.cuda.gpu import Gpu

F16, F32 = DType.F16, DType.F32


@dataclass(frozen=True)
class Layer:
    """`count` convolutions of a network: input size and channels, output channels, window, stride, what follows."""

    size: int
    c: int
    o: int
    k: int
    stride: int
    after: str  # "", relu, relu6, add (and relu)
    count: int
    group: int = 1

    @property
    def out(self) -> int:
        return (self.size + 2 * (self.k // 2) - self.k) // self.stride + 1

    def __str__(self) -> str:
        what = "dw" if self.group > 1 else ""
        window = f"{what}{self.k}x{self.k}/{self.stride}"
        return f"{self.size:3}^2 {self.c:4}->{self.o:4} {window} {self.after} x{self.count}"


RESNET = [
    Layer(224, 3, 64, 7, 2, "relu", 1),
    Layer(56, 64, 64, 1, 1, "relu", 1), Layer(56, 64, 64, 3, 1, "relu", 3), Layer(56, 64, 256, 1, 1, "", 1),
    Layer(56, 64, 256, 1, 1, "add", 3), Layer(56, 256, 64, 1, 1, "relu", 2),
    Layer(56, 256, 128, 1, 1, "relu", 1), Layer(56, 128, 128, 3, 2, "relu", 1), Layer(28, 128, 512, 1, 1, "add", 4),
    Layer(56, 256, 512, 1, 2, "", 1), Layer(28, 512, 128, 1, 1, "relu", 3), Layer(28, 128, 128, 3, 1, "relu", 3),
    Layer(28, 512, 256, 1, 1, "relu", 1), Layer(28, 256, 256, 3, 2, "relu", 1), Layer(14, 256, 1024, 1, 1, "add", 6),
    Layer(28, 512, 1024, 1, 2, "", 1), Layer(14, 1024, 256, 1, 1, "relu", 5), Layer(14, 256, 256, 3, 1, "relu", 5),
    Layer(14, 1024, 512, 1, 1, "relu", 1), Layer(14, 512, 512, 3, 2, "relu", 1), Layer(7, 512, 2048, 1, 1, "add", 3),
    Layer(14, 1024, 2048, 1, 2, "", 1), Layer(7, 2048, 512, 1, 1, "relu", 2), Layer(7, 512, 512, 3, 1, "relu", 2)]
DEPTHWISE = [Layer(s, c, c, 3, stride, "relu6", n, c) for s, c, stride, n in (
    (112, 32, 1, 1), (112, 96, 2, 1), (56, 144, 1, 1), (56, 144, 2, 1), (28, 192, 1, 2), (28, 192, 2, 1),
    (14, 384, 1, 4), (14, 576, 1, 2), (14, 576, 2, 1), (7, 960, 1, 3))]
EFFICIENT = [Layer(s, c, c, k, stride, "silu", n, c) for s, c, k, stride, n in (
    (112, 32, 3, 1, 1), (112, 96, 3, 2, 1), (56, 144, 3, 1, 1), (56, 144, 5, 2, 1), (28, 240, 5, 1, 1),
    (28, 240, 3, 2, 1), (14, 480, 3, 1, 2), (14, 480, 5, 1, 1), (14, 672, 5, 1, 2), (14, 672, 5, 2, 1),
    (7, 1152, 5, 1, 3), (7, 1152, 3, 1, 1))]
SQUEEZE = [Layer(1, c, o, 1, 1, after, n) for c, o, after, n in (
    (96, 4, "silu", 1), (4, 96, "sigmoid", 1), (240, 10, "silu", 2), (480, 20, "silu", 3), (20, 480, "sigmoid", 3),
    (1152, 48, "silu", 4), (48, 1152, "sigmoid", 4))]
NETWORKS = {"resnet": RESNET, "mobilenet": DEPTHWISE, "efficientnet": EFFICIENT, "squeeze": SQUEEZE}


def region_of(layer: Layer, batch: int) -> Region:
    """The layer in fp16, channels last; the first layer reads fp32, channels first."""
    x = Tensor.dense(F16, (batch, layer.size, layer.size, layer.c))
    if layer.c == 3:
        s = layer.size
        x = Tensor(F32, (batch, s, s, 3), (3 * s * s, s, 1, s * s))
    out = Tensor.dense(F16, (batch, layer.out, layer.out, layer.o))
    inputs = [x, Tensor.dense(F16, (layer.o, layer.c // layer.group, layer.k, layer.k), const=True),
              Tensor.dense(F16, (layer.o,), const=True)]
    terms: list[Any] = [Leaf(ANCHOR, F32)]
    if layer.after == "add":
        inputs.append(out)
        terms += [Leaf(3, F16), Apply("cast", (1,), F32, (("to", F32),)), Apply("add", (0, 2), F32),
                  Apply("relu", (3,), F32)]
    elif layer.after == "relu6":
        terms += [Imm(0.0, F32), Apply("max", (0, 1), F32), Imm(6.0, F32), Apply("min", (2, 3), F32)]
    elif layer.after:
        terms.append(Apply(layer.after, (0,), F32))
    terms.append(Apply("cast", (len(terms) - 1,), F16, (("to", F16),)))
    pad = layer.k // 2
    at = {"strides": (layer.stride,) * 2, "dilations": (1, 1), "pads": (pad,) * 4, "group": layer.group,
          "channels_last": True, "pad_value": 0}
    return Region("conv", at, tuple(inputs), 3, out, Tensor.dense(F32, out.shape), Expr(tuple(terms)), compute="f16")


def gpu_of(device: Device) -> Gpu:
    p = device.properties
    return Gpu(p.capability, p.name, p.multiprocessors, p.shared_bytes, p.l2_bytes, p.memory_bytes, p.bandwidth,
               p.driver, libraries.versions(), live=True)


def _candidates(job: tuple[Region, Gpu, int, list[str]]) -> list[tuple[str, Any]]:
    region, gpu, most, only = job
    out = []
    for t in TACTICS["conv"]:
        if (not only or any(o in t.name for o in only)) and not t.applies(region, gpu):
            limit = 3 * most if "cudnn" in t.name else most
            out += [(t.name, p) for p in list(t.space(region, gpu, 1))[:limit]]
    return out


def _object(job: tuple[str, int, bool]) -> bytes | str:
    code, number, compile.DEPENDENT = job
    try:
        return compile.to_object(code, number)
    except Exception as e:  # a setting that does not fit is a candidate less
        return f"{type(e).__name__}: {' '.join(str(e).split())[-200:]}"


def timed(layers: list[Layer], batch: int, most: int, only: list[str], until: float, dependent: bool
          ) -> Iterator[tuple[Layer, dict[str, tuple[float, Any]], list[str], int]]:
    """For each layer the best (seconds, parameters) of every tactic, faults, and the number of candidates."""
    from whet.tuning.cuda_bench import CudaBench

    bench = CudaBench(0)
    gpu = gpu_of(bench.device)
    tactics = {t.name: t for t in TACTICS["conv"]}
    regions = [region_of(x, batch) for x in layers]
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        found = list(pool.map(_candidates, [(r, gpu, most, only) for r in regions]))
        made = [[(n, p, tactics[n].implement(r, p, gpu, 1)) for n, p in f] for r, f in zip(regions, found)]
        codes = {s.kernel.symbol: s.kernel.code for m in made for *_, i in m for s in i.steps}
        print(f"{gpu.name}, cuDNN {gpu.libraries.get('cudnn')}: {sum(map(len, made))} candidates, {len(codes)} "
              f"kernels, {time.monotonic() - START:.0f} s", flush=True)
        objects = dict(zip(codes, pool.map(_object, [(c, gpu.number, dependent) for c in codes.values()], chunksize=2)))
        print(f"compiled, {time.monotonic() - START:.0f} s", flush=True)
    for layer, region, candidates in zip(layers, regions, made):
        best: dict[str, tuple[float, Any]] = {}
        faults: list[str] = []
        results: list[tuple[str, Any, np.ndarray]] = []
        for name, params, i in candidates:
            broken = [x for s in i.steps if isinstance(x := objects[s.kernel.symbol], str)]
            if broken or time.monotonic() - START > until:
                faults += [f"{name} {params}: {b}" for b in broken[:1]]
                continue
            ready = {s.kernel.symbol: x for s in i.steps if isinstance(x := objects[s.kernel.symbol], bytes)}
            seconds, pieces = bench.time(region, i, ready)
            results.append((name, params, np.concatenate([p.reshape(-1) for p in pieces]).astype(np.float32)))
            if name not in best or seconds < best[name][0]:
                best[name] = seconds, params
        if results:
            middle = np.median(np.stack([x for *_, x in results[:9]]), axis=0)
            scale = float(np.abs(middle).max()) or 1.0
            faults += [f"{n} {p}: differs by {np.abs(x - middle).max() / scale:.2g}" for n, p, x in results
                       if not np.abs(x - middle).max() <= 5e-3 * scale]
        yield layer, best, faults, len(candidates)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=list(NETWORKS))
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--most", type=int, default=8, help="settings of each tactic (three times as many of cuDNN)")
    parser.add_argument("--only", default="", help="parts of tactics' names, comma-separated")
    parser.add_argument("--layers", default="", help="a slice of the network's layers, such as 0:12")
    parser.add_argument("--until", type=float, default=1e9, help="seconds after which nothing more is timed")
    parser.add_argument("--dependent", action="store_true", help="Triton's kernels begin while the one before ends")
    options = parser.parse_args()
    first, _, last = options.layers.partition(":")
    layers = NETWORKS[options.network][int(first or 0):int(last) if last else None]
    sums: dict[str, float] = {}
    for layer, best, faults, count in timed(layers, options.batch, options.most, options.only.split(",")
                                            if options.only else [], options.until, options.dependent):
        if not best:
            print(f"{layer}: nothing timed", *faults[:2])
            continue
        winner = min(best, key=lambda n: best[n][0])
        groups = {"cudnn": min((b[0] for n, b in best.items() if "cudnn" in n), default=float("nan")),
                  "whet": min((b[0] for n, b in best.items() if "cudnn" not in n), default=float("nan"))}
        for key, value in (*groups.items(), ("best", best[winner][0])):
            sums[key] = sums.get(key, 0.0) + layer.count * value
        told = "  ".join(f"{n.removeprefix('conv_')} {b[0] * 1e6:.2f}" for n, b in sorted(best.items()))
        short = [n for n in best if "cudnn" not in n]
        mine = best[min(short, key=lambda n: best[n][0])][1] if short else {}
        wrong = f" | {len(faults)} FAULTS: {faults[0][:200]}" if faults else ""
        print(f"{layer}  of {count}: {told}  | {winner.removeprefix('conv_')} {best[winner][1].get('plan', '')} | "
              f"{' '.join(str(v) for v in mine.values())}{wrong}", flush=True)
    print("sums in ms:", {k: round(v * 1e3, 4) for k, v in sums.items()}, f"in {time.monotonic() - START:.0f} s")


START = time.monotonic()
if __name__ == "__main__":
    main()
