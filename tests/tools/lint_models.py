"""Small models with faults, for the tests of whet lint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from whet.tools.lint import Finding, lint

FLOAT = TensorProto.FLOAT


def node(op: str, inputs: str, outputs: str, name: str = "", **attrs: Any) -> NodeProto:
    """`node("Add", "a b", "c")`; `-` is an input that is left out."""
    names = ["" if i == "-" else i for i in inputs.split()]
    return helper.make_node(op, names, outputs.split(), name=name or f"{op.lower()}_{outputs.split()[0]}", **attrs)


def hosted(x: str, y: str, name: str) -> NodeProto:
    """A node that only a reference kernel runs: random numbers of the shape of x."""
    return node("RandomUniformLike", x, y, name)


def model(nodes: Sequence[NodeProto], inputs: dict[str, Any], outputs: Sequence[str],
          weights: dict[str, Any] | None = None, opset: int = 21,
          types: dict[str, int] | None = None) -> onnx.ModelProto:
    """A model; outputs are declared without a shape, of the type in `types` or float."""
    kinds = types or {}
    g = helper.make_graph(
        list(nodes), "g", [helper.make_tensor_value_info(k, kinds.get(k, FLOAT), v) for k, v in inputs.items()],
        [helper.make_tensor_value_info(o, kinds.get(o, FLOAT), None) for o in outputs],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in (weights or {}).items()])
    return helper.make_model(g, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def weight(*shape: int, seed: int = 0) -> np.ndarray:
    """Normal numbers."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def found(m: onnx.ModelProto | Path, **options: Any) -> dict[str, list[Finding]]:
    """Findings by code."""
    out: dict[str, list[Finding]] = {}
    for f in lint(m, **options):
        out.setdefault(f.code, []).append(f)
    return out


def errors(by_code: dict[str, list[Finding]]) -> set[tuple[str, str]]:
    """(code, node) of the errors."""
    return {(f.code, f.node) for fs in by_code.values() for f in fs if f.severity == "error"}
