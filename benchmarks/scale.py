"""How long a build takes as graphs grow, over n log n.

    python benchmarks/scale.py                 graphs of 1,000 to 100,000 nodes, functions 10 to 1,000 deep
    python benchmarks/scale.py --most 10000    none above so many nodes

Each build is a process of its own (opt_level 0, one thread: kernels are generated and compiled, none is timed), which
has built a small model before; the least of `--repeat` builds counts, and of a build the
processor time that it took, which others on the machine disturb least. Three kinds of graphs: `chain` (products,
softmaxes, pointwise operators and data movement, one after the other, some also reading what is three back), `wide`
(a hundred chains side by side, each with weights of its own, added up at the end), and `functions` (each calls the
next). Results go to `benchmarks/results/scale-<fingerprint>.json` and `.md`.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

import whet
from whet.measure import this_device

RESULTS = Path(__file__).parent / "results"
SIZES = (1_000, 3_000, 10_000, 30_000, 100_000)
DEPTHS = (10, 30, 100, 300, 1_000)
KINDS = ("chain", "wide", "functions")
OPERATORS = ("MatMul", "Relu", "Add", "Softmax", "Transpose", "Transpose", "Mul", "Tanh", "Concat", "Slice")


def model(kind: str, n: int) -> onnx.ModelProto:
    """A model of `n` nodes, or of functions nested `n` deep."""
    return {"chain": chain, "wide": wide, "functions": functions}[kind](n)


def _step(i: int, x: str, back: str, out: str, w: str = "w") -> NodeProto:
    op = OPERATORS[i % len(OPERATORS)]
    operands = {"MatMul": [x, w], "Add": [x, back], "Mul": [x, back], "Concat": [x, x], "Slice": [x, "s", "e", "a"]}
    attributes: dict[str, dict[str, Any]] = {"Transpose": {"perm": [1, 0]}, "Concat": {"axis": 1}}
    return helper.make_node(op, operands.get(op, [x]), [out], **attributes.get(op, {}))


def _model(nodes: list[NodeProto], output: str, declared: tuple[onnx.FunctionProto, ...] = ()) -> onnx.ModelProto:
    weights = np.random.default_rng(0).standard_normal((100, 8, 8)).astype(np.float32) / 3
    used = {i for n in nodes for i in n.input}
    own = {f"w{k}": w for k, w in enumerate(weights) if f"w{k}" in used}
    constants = {**own, "w": weights[0], "s": np.array([0]), "e": np.array([8]), "a": np.array([1])}
    graph = helper.make_graph(nodes, "scale", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [8, 8])],
                              [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
                              [numpy_helper.from_array(v, k) for k, v in constants.items()])
    return helper.make_model(graph, functions=declared,
                             opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("f", 1)])


def chain(n: int) -> onnx.ModelProto:
    """Nodes one after the other."""
    names = ["x", *(f"t{i}" for i in range(n))]
    return _model([_step(i, names[i], names[max(0, i - 2)], names[i + 1]) for i in range(n)], names[-1])


def wide(n: int) -> onnx.ModelProto:
    """A hundred chains side by side, and their sum."""
    ends = ["x"] * 100
    nodes = []
    for i in range(n - 1):
        k = i % 100
        nodes.append(_step(i // 100, ends[k], "x", f"t{i}", f"w{k}"))
        ends[k] = f"t{i}"
    whole = [e for k, e in enumerate(ends) if OPERATORS[(len(range(k, n - 1, 100)) - 1) % 10] != "Concat"]
    return _model([*nodes, helper.make_node("Sum", whole or ["x"], ["y"])], "y")


def functions(depth: int) -> onnx.ModelProto:
    """Functions that call each other, each with a product of its own."""
    made = []
    for i in range(depth):
        inner = helper.make_node(f"F{i + 1}", ["h", "w"], ["y"], domain="f") if i + 1 < depth else \
            helper.make_node("Relu", ["h"], ["y"])
        made.append(helper.make_function("f", f"F{i}", ["x", "w"], ["y"],
                                         [helper.make_node("MatMul", ["x", "w"], ["h"]), inner],
                                         [helper.make_opsetid("", 18), helper.make_opsetid("f", 1)]))
    return _model([helper.make_node("F0", ["x", "w"], ["y"], domain="f")], "y", tuple(made))


def build(kind: str, n: int) -> dict[str, Any]:
    """Build one model here: seconds of each stage, and the most memory that the process held."""
    import resource

    raw = model(kind, n).SerializeToString()
    stages: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        options: dict[str, Any] = {"opt_level": 0, "threads": 1, "timing_cache": Path(folder) / "timing.json"}
        whet.build(chain(20).SerializeToString(), **options)
        start = last = time.perf_counter()
        stage, used = "start", time.process_time()

        def progress(what: str, done: int, total: int) -> None:
            nonlocal stage, last
            now = time.perf_counter()
            stages[stage] = stages.get(stage, 0.0) + now - last
            stage, last = what.split()[0], now

        plan = whet.build(raw, progress=progress, **options)
        progress("end", 0, 0)
        seconds = time.perf_counter() - start
        used = time.process_time() - used
    return {"kind": kind, "n": n, "seconds": seconds, "cpu_seconds": used,
            "stages": {k: round(v, 4) for k, v in stages.items()},
            "steps": plan.summary()["steps"]["native"], "model_bytes": len(raw),
            "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}


def main() -> int:
    """Build all sizes and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most", type=int, default=max(SIZES), help="nodes of the largest graph")
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--one", nargs=2, metavar=("KIND", "N"), help="build one model and print what it took")
    o = parser.parse_args()
    if o.one:
        print(json.dumps(build(o.one[0], int(o.one[1]))))
        return 0
    rows: list[dict[str, Any]] = []
    for kind in o.kinds.split(","):
        for n in (n for n in (DEPTHS if kind == "functions" else SIZES) if n <= o.most):
            tries = [json.loads(subprocess.run([sys.executable, __file__, "--one", kind, str(n)], check=True,
                                               capture_output=True, text=True).stdout) for _ in range(o.repeat)]
            rows.append(min(tries, key=lambda r: r["cpu_seconds"]))
            rows[-1]["microseconds_over_n_log_n"] = rows[-1]["cpu_seconds"] * 1e6 / (n * math.log2(n))
            print(json.dumps(rows[-1]), flush=True)
    device = this_device()
    path = RESULTS / f"scale-{device.fingerprint}"
    record = {"device": device.name, "fingerprint": device.fingerprint, "whet": whet.__version__,
              "date": time.strftime("%Y-%m-%d"), "repeat": o.repeat, "builds": rows}
    RESULTS.mkdir(exist_ok=True)
    path.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
    lines = ["| graph | nodes (functions) | build | CPU time | CPU time / (n log2 n) | peak memory |",
             "|---|---:|---:|---:|---:|---:|"]
    lines += [f"| {r['kind']} | {r['n']:,} | {r['seconds']:.2f} s | {r['cpu_seconds']:.2f} s | "
              f"{r['microseconds_over_n_log_n']:.1f} us | {r['peak_mib']} MiB |" for r in rows]
    table = "\n".join(lines)
    title = f"Builds of growing graphs on {device.name}, opt_level 0, one thread"
    path.with_suffix(".md").write_text(f"{title}\n\n{table}\n")
    print(table)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
