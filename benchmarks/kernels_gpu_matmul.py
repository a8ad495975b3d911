"""Matrix products of BERT, ViT, GPT-2 and ResNet on this machine's GPU: the best of each tactic beside PyTorch.

    PYTHONPATH=src python benchmarks/kernels_gpu_matmul.py bert1 gpt1 --most 8

Times are of one product within a CUDA graph of many, in microseconds; weights rotate so that they come from memory,
not from the L2 cache. `torch` is the better of `torch.matmul` and `F.linear` in fp16, without the epilogue that the
tactics' kernels include (bias, GELU, residual); `+epi` adds it as PyTorch's own kernels. Every candidate's result is
compared with float32's first.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np

from whet.ir.dtypes import DType
from whet.ir.expr import ANCHOR, Apply, Expr, Leaf
from whet.ir.region import Region, Tensor
from whet.ir.symbolic import evaluate
from whet.runtime.cuda import libraries
from whet.runtime.cuda.code import Code, Kernel
from whet.runtime.cuda.driver import Device
from whet.targets.base import Implementation, In, Int, Out, Packed, Work
from whet.targets.cuda import TACTICS
from whet.targets.cuda.compile import to_object
from whet.targets.cuda.gpu import Gpu

Shape = tuple[str, int, int, int, str, bool]  # name, rows, depth, columns, activation, residual


def _block(rows: int, act: str) -> list[Shape]:
    return [("qkv", rows, 768, 2304, "", False), ("proj", rows, 768, 768, "", True),
            ("up", rows, 768, 3072, act, False), ("down", rows, 3072, 768, "", True)]


SETS: dict[str, list[Shape]] = {
    "bert1": _block(128, "gelu"), "bert32": _block(4096, "gelu"), "vit1": _block(197, "gelu"),
    "vit32": _block(6304, "gelu"), "gpt1": [*_block(1, "gelu_tanh"), ("head", 1, 768, 50257, "", False)],
    "gpt32": [*_block(32, "gelu_tanh"), ("head", 32, 768, 50257, "", False)],
    "fc": [("fc1", 1, 2048, 1000, "", False), ("fc32", 32, 2048, 1000, "", False)]}
F16, F32 = DType.F16, DType.F32
LAUNCHES = 100


def linear(m: int, k: int, n: int, act: str, residual: bool) -> Region:
    """act(A @ B + bias) + residual in fp16."""
    def cast(i: int) -> Apply:
        return Apply("cast", (i,), F32, (("to", F32),))

    extra = [Tensor.dense(F16, (n,), const=True)] + ([Tensor.dense(F16, (m, n))] if residual else [])
    terms: list[Any] = [Leaf(ANCHOR, F32), Leaf(2, F16), cast(1), Apply("add", (0, 2), F32)]
    if act:
        terms.append(Apply("gelu", (3,), F32, (("approximate", "tanh" if act == "gelu_tanh" else "none"),)))
    if residual:
        at = len(terms)
        terms += [Leaf(3, F16), cast(at), Apply("add", (at - 1, at + 1), F32)]
    operands = (Tensor.dense(F16, (m, k)), Tensor.dense(F16, (k, n), const=True))
    return Region("matmul", {}, (*operands, *extra), 2, Tensor.dense(F16, (m, n)), Tensor.dense(F32, (m, n)),
                  Expr(tuple(terms)), compute="f16")


def relaunched(code: str, way: str) -> str:
    """A Triton kernel's code for another way of launching. plain: when the one before is complete; early: before that,
    waiting; prefetch: early, with weights brought into the L2 cache meanwhile. "": as it is."""
    j = json.loads(code)
    if not way or j["type"] != "triton":
        return code
    if way == "early":
        j["text"] = "\n".join(t for t in j["text"].split("\n") if "#: " not in t or t.strip() == "#: wait")
    j["options"]["launch_pdl"] = way != "plain"
    return json.dumps(j)


def _object(code: str) -> bytes | str:
    try:
        return to_object(code, 90)
    except Exception as e:  # a tile that does not fit is a candidate less
        return f"{type(e).__name__}: {str(e)[-200:]}"


class Bench:
    """Times launches in CUDA graphs, with PyTorch's allocator and streams."""

    def __init__(self) -> None:
        import torch

        self.torch = torch
        self.device = Device.open()
        p = self.device.properties
        self.gpu = Gpu(p.capability, p.name, p.multiprocessors, p.shared_bytes, p.l2_bytes, p.memory_bytes,
                       p.bandwidth, p.driver, libraries.versions(), live=True)
        self.libraries = libraries.Libraries(self.device)

    def seconds(self, launch: Callable[[int], None]) -> float:
        """Of one `launch(i)`, of LAUNCHES in a graph."""
        torch = self.torch
        launch(0)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for i in range(LAUNCHES):
                launch(i)
        times = []
        for _ in range(7):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            graph.replay()
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end) * 1e-3 / LAUNCHES)
        return sorted(times[1:])[2]

    def candidate(self, r: Region, made: Implementation, objects: dict[str, bytes], arrays: list[Any], copies: int,
                  want: Any) -> float:
        """Seconds of an implementation; raises where its result is wrong."""
        torch = self.torch
        host = [a.cpu().numpy() for a in arrays]
        packs = [torch.from_numpy(np.ascontiguousarray(p.make(*(host[i] for i in p.sources)))).cuda()
                 for p in made.packs]
        ins = [[a, *(a.clone() for _ in range(copies - 1))] if t.const else [a] * copies
               for t, a in zip(r.inputs, arrays)]
        packed = [[p, *(p.clone() for _ in range(copies - 1))] for p in packs]
        out = torch.empty(want.shape, dtype=torch.float16, device="cuda")
        work = torch.empty(int(evaluate(made.workspace, {})) + 16, dtype=torch.uint8, device="cuda")
        calls: list[list[tuple[Any, list[int], int]]] = []
        units = [Code(self.device, objects[s.kernel.code], self.libraries).unit(0) for s in made.steps]
        sizes = [sum(u.hidden_bytes(int(evaluate(s.tiles, {})))) if isinstance(u, Kernel) else 0
                 for u, s in zip(units, made.steps)]
        # For each copy: a kernel that begins early may write there before the one before it ends.
        hidden = [[torch.empty(n, dtype=torch.uint8, device="cuda") if n else None for n in sizes]
                  for _ in range(copies)]
        for i in range(copies):
            calls.append([])
            for u, step, more in zip(units, made.steps, hidden[i]):
                values = []
                for a in step.args:
                    match a:
                        case In(k):
                            values.append(ins[k][i].data_ptr())
                        case Packed(k):
                            values.append(packed[k][i].data_ptr())
                        case Out():
                            values.append(out.data_ptr())
                        case Work(offset):
                            values.append(work.data_ptr() + int(evaluate(offset, {})))
                        case Int(v):
                            values.append(int(evaluate(v, {})))
                if more is not None:
                    values += [more.data_ptr(), 0]
                calls[-1].append((u, values, int(evaluate(step.tiles, {}))))

        def launch(i: int) -> None:
            stream = torch.cuda.current_stream().cuda_stream
            for u, values, tiles in calls[i % copies]:
                u.launch(stream, values, tiles)

        took = self.seconds(launch)
        worst = float((out.float() - want).abs().max() / want.abs().max())
        if not worst < 5e-3:
            raise ValueError(f"wrong by {worst:.2g}")
        return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", default=list(SETS), help=", ".join(SETS) + "; bert1.up for one product")
    parser.add_argument("--most", type=int, default=8, help="candidates of each tactic")
    parser.add_argument("--launch", default="", choices=["", "plain", "early", "prefetch"], help="of Triton's kernels")
    parser.add_argument("--top", type=int, default=1, help="settings to print of each tactic")
    parser.add_argument("--tactics", default="", help="names, comma-separated: those alone")
    options = parser.parse_args()
    bench = Bench()
    shapes = [(s.split(".")[0], *shape) for s in options.sets for shape in SETS[s.split(".")[0]]
              if "." not in s or s.split(".")[1] == shape[0]]
    jobs = []
    for s, name, m, k, n, act, residual in shapes:
        r = linear(m, k, n, act, residual)
        for tactic in TACTICS["matmul"]:
            if (options.tactics and tactic.name not in options.tactics.split(",")) or tactic.applies(r, bench.gpu):
                continue
            for params in list(tactic.space(r, bench.gpu, 1))[: options.most * (2 if tactic.name == "cublaslt" else 1)]:
                made = tactic.implement(r, params, bench.gpu, 1)
                steps = [dataclasses.replace(x, kernel=dataclasses.replace(
                    x.kernel, code=relaunched(x.kernel.code, options.launch))) for x in made.steps]
                jobs.append((s, name, tactic, params, dataclasses.replace(made, steps=tuple(steps))))
    codes = sorted({step.kernel.code for *_, made in jobs for step in made.steps})
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        objects = dict(zip(codes, pool.map(_object, codes)))
    print(f"{bench.gpu.name}: {len(jobs)} candidates, {len(codes)} kernels")
    for s, *shape in shapes:
        report(bench, f"{s:6} {shape[0]:5}", shape, [j[2:] for j in jobs if j[:2] == (s, shape[0])], objects,
               options.top)


def report(bench: Bench, title: str, shape: list[Any], jobs: list[Any], objects: dict[str, Any], top: int) -> None:
    """Print a shape's times. jobs: (tactic, params, implementation)."""
    torch = bench.torch
    _, m, k, n, act, residual = shape
    r = linear(m, k, n, act, residual)
    torch.manual_seed(0)
    x, w = torch.randn(m, k, device="cuda").half(), (torch.randn(k, n, device="cuda") / k**0.5).half()
    bias, more = torch.randn(n, device="cuda").half(), torch.randn(m, n, device="cuda").half()
    arrays = [x, w, bias, more][: len(r.inputs)]
    copies = max(2, min(LAUNCHES, int(120e6 / (2 * k * n)) + 1))
    weights = [w.clone() for _ in range(copies)]
    turned = [w.t().contiguous() for _ in range(copies)]

    def epilogue(y: Any) -> Any:
        if act:
            y = torch.nn.functional.gelu(y, approximate="tanh" if act == "gelu_tanh" else "none")
        return y + more if residual else y

    want = epilogue(x.float() @ w.float() + bias.float())
    plain = min(bench.seconds(lambda i: torch.matmul(x, weights[i % copies])),
                bench.seconds(lambda i: torch.nn.functional.linear(x, turned[i % copies])))
    whole = bench.seconds(lambda i: epilogue(torch.nn.functional.linear(x, turned[i % copies], bias)))
    floor = max(2.0 * k * n / 3e12, 2.0 * m * n * k / 8e14)
    told = f"{title} {m:5}x{k}x{n} floor {floor * 1e6:5.1f} torch {plain * 1e6:6.2f} +epi {whole * 1e6:6.2f}"
    for tactic in TACTICS["matmul"]:
        found, failed = [], []
        for _, params, made in (j for j in jobs if j[0] is tactic):
            broken = [objects[c.kernel.code] for c in made.steps if isinstance(objects[c.kernel.code], str)]
            try:
                if broken:
                    raise ValueError(broken[0])
                found.append((bench.candidate(r, made, objects, arrays, copies, want), params))
            except Exception as e:
                failed.append(f"{type(e).__name__}: {e}")
        places = {id(params): i for i, (_, params) in enumerate(found)}
        for took, params in sorted(found, key=lambda f: f[0])[:top]:
            short = " ".join(str(v) for q, v in params.items() if q != "algo")
            told += f"\n    {tactic.name:17} {took * 1e6:6.2f} {places[id(params)] + 1}/{len(found)} ({short})"
        if failed:
            told += f"\n    {tactic.name}: {len(failed)} failed, such as {failed[0][:300]}"
    print(told, flush=True)


if __name__ == "__main__":
    main()
