"""One step of GPT-2 as ONNX: the cache's rows are written by TensorScatter, attention is the operator of opset 24.

The cache is fp16, as deployed decoders keep it, and so is attention over it; the rest is fp32, for the builder to
narrow.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.gpu_networks import HEADS, LAYERS, PLACES, WIDTH, WORDS


def write(module: Any, path: Path) -> None:
    """The module of `gpu_networks._gpt2` to a file, batch symbolic."""
    weights = {k: v.detach().numpy() for k, v in module.state_dict().items()}
    g = _Graph()
    x = g.op("Add", g.op("Gather", g.constant("words", weights["words.weight"]), "ids"),
             g.op("Gather", g.constant("places", weights["places.weight"]), "place"))
    mask = g.op("LessOrEqual", g.constant("index", np.arange(PLACES)[None, None, None]), "place")
    batched = g.op("Expand", "place", g.op("Shape", "ids", start=0, end=1))
    heads = g.constant("heads", np.array([0, 1, 3 * HEADS, WIDTH // HEADS]))
    flat = g.constant("flat", np.array([0, 1, WIDTH]))
    for i in range(LAYERS):
        w = {k.removeprefix(f"blocks.{i}."): v for k, v in weights.items() if k.startswith(f"blocks.{i}.")}
        joined = g.linear(g.norm(x, w, "ln1", i), w, "qkv", i)
        parts = g.op("Transpose", g.op("Reshape", joined, heads), perm=[0, 2, 1, 3])
        half = g.op("Cast", parts, to=TensorProto.FLOAT16)
        q, k, v = g.ops("Split", 3, half, axis=1, num_outputs=3)
        k = g.op("TensorScatter", f"k{i}", k, batched, out=f"k{i}_next", axis=2)
        v = g.op("TensorScatter", f"v{i}", v, batched, out=f"v{i}_next", axis=2)
        wide = g.op("Cast", g.op("Attention", q, k, v, mask), to=TensorProto.FLOAT)
        seen = g.op("Transpose", wide, perm=[0, 2, 1, 3])
        x = g.op("Add", x, g.linear(g.op("Reshape", seen, flat), w, "out", i))
        up = g.op("Gelu", g.linear(g.norm(x, w, "ln2", i), w, "up", i), approximate="tanh")
        x = g.op("Add", x, g.linear(up, w, "down", i))
    last = g.norm(x, {k: v for k, v in weights.items() if k.startswith("ln.")}, "ln", LAYERS)
    g.op("MatMul", last, g.constant("head", np.ascontiguousarray(weights["words.weight"].T)), out="logits")
    cache = ["batch", HEADS, PLACES, WIDTH // HEADS]
    named = [f"{kind}{i}" for i in range(LAYERS) for kind in "kv"]
    made = helper.make_graph(
        g.nodes, "gpt2_step",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", 1]),
         helper.make_tensor_value_info("place", TensorProto.INT64, [1]),
         *(helper.make_tensor_value_info(n, TensorProto.FLOAT16, cache) for n in named)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 1, WORDS]),
         *(helper.make_tensor_value_info(f"{n}_next", TensorProto.FLOAT16, cache) for n in named)], g.constants)
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 24)]), str(path))


class _Graph:
    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, name: str, value: np.ndarray) -> str:
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def op(self, kind: str, *ins: str, out: str = "", **attrs: Any) -> str:
        return self.ops(kind, 1, *ins, outs=[out] if out else None, **attrs)[0]

    def ops(self, kind: str, count: int, *ins: str, outs: list[str] | None = None, **attrs: Any) -> list[str]:
        made = outs or [f"{kind.lower()}_{len(self.nodes)}_{k}" for k in range(count)]
        self.nodes.append(helper.make_node(kind, list(ins), made, name=f"{kind}_{len(self.nodes)}", **attrs))
        return made

    def linear(self, x: str, w: dict[str, np.ndarray], name: str, i: int) -> str:
        y = self.op("MatMul", x, self.constant(f"{name}.w.{i}", w[f"{name}.weight"].T))
        return self.op("Add", y, self.constant(f"{name}.b.{i}", w[f"{name}.bias"]))

    def norm(self, x: str, w: dict[str, np.ndarray], name: str, i: int) -> str:
        return self.op("LayerNormalization", x, self.constant(f"{name}.s.{i}", w[f"{name}.weight"]),
                       self.constant(f"{name}.o.{i}", w[f"{name}.bias"]), axis=-1, epsilon=1e-5)
