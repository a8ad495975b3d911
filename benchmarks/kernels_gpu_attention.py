"""Attention of BERT, ViT, GPT-2 and Llama on this machine's GPU: the best of each tactic beside PyTorch.

    PYTHONPATH=src python benchmarks/kernels_gpu_attention.py bert1 gpt1 --most 8

Times are of one attention within a CUDA graph of many, in microseconds, in fp16. `torch` is
`scaled_dot_product_attention` on the same layout: q, k and v side by side in rows, a cache of its own where there is
one. Every candidate's result is compared with float32's first. `--all` prints every candidate with its estimate.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from whet.ir.dtypes import DType
from whet.ir.region import Region, Tensor
from whet.runtime.cuda import libraries
from whet.targets.base import Implementation
from whet.targets.cuda import TACTICS
from whet.targets.cuda.compile import to_object
from whet.targets.cuda.gpu import Gpu
from whet.tuning.cuda_bench import CudaBench

F16, F32 = DType.F16, DType.F32
LAUNCHES = 50


@dataclass(frozen=True)
class Shape:
    """Queries of `heads`, keys of `groups`; `masked`: a float mask [batch, 1, 1, keys]."""

    name: str
    batch: int
    heads: int
    groups: int
    queries: int
    keys: int
    width: int
    causal: bool = False
    masked: bool = False


SHAPES = {s.name: s for s in (
    Shape("bert1", 1, 12, 12, 128, 128, 64, masked=True), Shape("bert32", 32, 12, 12, 128, 128, 64, masked=True),
    Shape("vit1", 1, 12, 12, 197, 197, 64), Shape("vit32", 32, 12, 12, 197, 197, 64),
    Shape("gpt1", 1, 12, 12, 1, 512, 64), Shape("gpt32", 32, 12, 12, 1, 512, 64),
    Shape("gpt1long", 1, 12, 12, 1, 4096, 64), Shape("prefill", 1, 12, 12, 512, 512, 64, causal=True),
    Shape("llama1", 1, 32, 8, 1, 2048, 128), Shape("llama", 1, 32, 8, 1024, 1024, 128, causal=True))}


def region(s: Shape) -> Region:
    """As a model has it: rows of q, k and v where all are of one length, else caches."""
    def rows(heads: int, n: int) -> Tensor:
        return Tensor(F16, (s.batch, heads, n, s.width), (n * heads * s.width, s.width, heads * s.width, 1))

    if s.queries == s.keys and s.heads == s.groups:
        row = 3 * s.heads * s.width
        q = k = Tensor(F16, (s.batch, s.heads, s.queries, s.width), (s.queries * row, s.width, row, 1))
    else:
        q, k = rows(s.heads, s.queries), Tensor.dense(F16, (s.batch, s.groups, s.keys, s.width))
    ins = [q, k, k, *([Tensor.dense(F16, (s.batch, 1, 1, s.keys))] if s.masked else [])]
    out = rows(s.heads, s.queries)
    attrs = {"scale": s.width ** -0.5, "causal": s.causal, "masked_zero": False, "offset": 0, "window": 0,
             "softcap": 0.0}
    return Region("attention", attrs, tuple(ins), len(ins), out, Tensor.dense(F32, out.shape), compute="f16")


def torch_seconds(s: Shape) -> float:
    """Of one call, of many in a graph."""
    import torch

    def make(heads: int, n: int) -> Any:
        return torch.randn(s.batch, heads, n, s.width, device="cuda", dtype=torch.float16)

    if s.queries == s.keys and s.heads == s.groups:
        packed = torch.randn(s.batch, s.queries, 3, s.heads, s.width, device="cuda", dtype=torch.float16)
        q, k, v = (packed[:, :, i].transpose(1, 2) for i in range(3))
    else:
        q, k, v = make(s.heads, s.queries), make(s.groups, s.keys), make(s.groups, s.keys)
    mask = torch.zeros(s.batch, 1, 1, s.keys, device="cuda", dtype=torch.float16) if s.masked else None
    mask = mask.expand(s.batch, s.heads, s.queries, s.keys) if mask is not None else None

    def call() -> Any:
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, mask, is_causal=s.causal,
                                                                enable_gqa=s.heads != s.groups)

    call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(LAUNCHES):
            call()
    times = []
    for _ in range(7):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1e-3 / LAUNCHES)
    return sorted(times[1:])[2]


def _object(job: tuple[str, int]) -> bytes | str:
    try:
        return to_object(*job)
    except Exception as e:  # a tile that does not fit is a candidate less
        return f"{type(e).__name__}: {str(e)[-200:]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shapes", nargs="*", default=list(SHAPES), help=", ".join(SHAPES))
    parser.add_argument("--most", type=int, default=24, help="candidates of each tactic")
    parser.add_argument("--all", action="store_true", help="print each candidate")
    options = parser.parse_args()
    bench = CudaBench(0)
    p = bench.device.properties
    gpu = Gpu(p.capability, p.name, p.multiprocessors, p.shared_bytes, p.l2_bytes, p.memory_bytes, p.bandwidth,
              p.driver, libraries.versions(), live=True)
    jobs: list[tuple[str, Any, dict[str, Any], Implementation]] = []
    for name in options.shapes:
        r = region(SHAPES[name])
        for tactic in TACTICS["attention"]:
            if not tactic.applies(r, gpu):
                jobs += [(name, tactic, f, tactic.implement(r, f, gpu, 1))
                         for f in list(tactic.space(r, gpu, 1))[:options.most]]
    codes = {step.kernel.symbol: step.kernel.code for *_, made in jobs for step in made.steps}
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        objects = dict(zip(codes, pool.map(_object, [(c, gpu.number) for c in codes.values()])))
    print(f"{gpu.name}: {len(jobs)} candidates, {len(codes)} kernels")
    for name in options.shapes:
        told = f"{name:9} torch {torch_seconds(SHAPES[name]) * 1e6:7.2f}"
        for tactic in TACTICS["attention"]:
            told += report(bench, gpu, name, tactic, [j[2:] for j in jobs if j[:2] == (name, tactic)], objects,
                           options.all)
        print(told, flush=True)


def report(bench: CudaBench, gpu: Gpu, name: str, tactic: Any, jobs: list[Any], objects: dict[str, Any],
           each: bool) -> str:
    """A tactic's times. jobs: (params, implementation)."""
    r = region(SHAPES[name])
    found, failed, wrong = [], [], 0
    want: np.ndarray | None = None
    for params, made in jobs:
        broken = [objects[s.kernel.symbol] for s in made.steps if isinstance(objects[s.kernel.symbol], str)]
        if broken:
            failed.append(f"{params}: {broken[0]}")
            continue
        try:
            took, sample = bench.time(r, made, objects)
        except Exception as e:
            failed.append(f"{params}: {type(e).__name__}: {e}")
            continue
        got = np.concatenate(sample).astype(np.float64)
        want = got if want is None else want
        wrong += not np.allclose(got, want, rtol=2e-2, atol=2e-3)
        found.append((took, params))
    if not found and not failed:
        return ""
    found.sort(key=lambda f: f[0])
    told = ""
    for took, params in found if each else found[:3]:
        short = " ".join(f"{k[0]}{v}" for k, v in params.items())
        guess = tactic.cost(r, params, gpu, 1)
        told += f"\n    {tactic.name:17} {took * 1e6:7.2f} ({short}), expected {guess * 1e6:.2f}"
    if wrong:
        told += f"\n    {tactic.name}: {wrong} differ from the first"
    return told + (f"\n    {tactic.name}: {len(failed)} failed, such as {failed[0][:300]}" if failed else "")


if __name__ == "__main__":
    main()
