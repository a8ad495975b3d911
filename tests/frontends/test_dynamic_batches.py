"""Operators whose lowerings are formulas run with batches, and where they can with sizes, known at run time alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto
from onnx_cases import agree, by_reference, one

import whet
from whet.tuning.cache import TimingCache

RNG = np.random.default_rng(0)


def floats(*shape: int) -> np.ndarray:
    return RNG.uniform(-1, 1, shape).astype(np.float32)


def named(m: ModelProto, dims: dict[str, dict[int, str]]) -> ModelProto:
    """The model with these dimensions of its inputs named: {input: {axis: name}}."""
    for v in m.graph.input:
        for axis, name in dims.get(v.name, {}).items():
            v.type.tensor_type.shape.dim[axis].Clear()
            v.type.tensor_type.shape.dim[axis].dim_param = name
    return m


N = {0: "n"}
CASES: dict[str, tuple[str, list[Any], dict[str, dict[int, str]], dict[str, Any]]] = {
    "losses": ("SoftmaxCrossEntropyLoss", [floats(3, 5, 7), RNG.integers(0, 5, (3, 7))],
               {"x0": {0: "n", 2: "t"}, "x1": {0: "n", 1: "t"}}, {}),
    "sampling": ("GridSample", [floats(3, 2, 5, 6), floats(3, 4, 3, 2)],
                 {"x0": {0: "n", 2: "h", 3: "w"}, "x1": {0: "n", 1: "p"}}, {"padding_mode": "reflection"}),
    "cubic": ("GridSample", [floats(3, 2, 5, 6), floats(3, 4, 3, 2)], {"x0": {0: "n", 2: "h"}, "x1": N},
              {"mode": "cubic", "padding_mode": "border", "align_corners": 1}),
    "regions": ("RoiAlign", [floats(3, 2, 5, 6), floats(7, 4) * 5, RNG.integers(0, 3, 7)],
                {"x0": {0: "n", 2: "h"}, "x1": {0: "r"}, "x2": {0: "r"}},
                {"sampling_ratio": 2, "output_height": 2, "output_width": 3}),
    "deformed": ("DeformConv", [floats(3, 2, 5, 6), floats(4, 2, 3, 3), floats(3, 18, 3, 4)], {"x0": N, "x2": N}, {}),
    "maxima": ("MaxPool", [floats(3, 2, 7, 6)], {"x0": {0: "n", 2: "h"}}, {"kernel_shape": [3, 2], "strides": [2, 1]}),
    "unpooled": ("MaxUnpool", [floats(3, 2, 2, 2), RNG.permutation(96)[:24].reshape(3, 2, 2, 2)], {"x0": N, "x1": N},
                 {"kernel_shape": [2, 2], "strides": [2, 2]}),
    "columns": ("Col2Im", [floats(3, 12, 12), np.array([5, 4]), np.array([2, 2])], {"x0": N}, {}),
    "transformed": ("DFT", [floats(3, 8, 5, 1), None, np.array(1)], {"x0": {0: "n", 2: "t"}}, {"onesided": 1}),
    "of any length": ("DFT", [floats(3, 7, 5, 2), None, np.array(1)], {"x0": {0: "n", 1: "t"}}, {"inverse": 1}),
    "of any length, onesided": ("DFT", [floats(3, 9, 1), None, np.array(1)], {"x0": {0: "n", 1: "t"}}, {"onesided": 1}),
    "of a fixed length": ("DFT", [floats(3, 9, 1), np.array(6), np.array(1)], {"x0": {0: "n", 1: "t"}}, {}),
    "framed": ("STFT", [floats(3, 32, 1), np.array(4), floats(8)], {"x0": {0: "n", 1: "t"}}, {}),
    "determinants": ("Det", [floats(3, 5, 5)], {"x0": N}, {}),
    "reversed": ("ReverseSequence", [floats(3, 7, 2), np.array([1, 7, 4])], {"x0": {0: "n", 1: "t"}, "x1": N},
                 {"batch_axis": 0, "time_axis": 1}),
    "contracted": ("Einsum", [floats(3, 4, 5), floats(3, 5, 6)], {"x0": {0: "n", 1: "t"}, "x1": N},
                   {"equation": "bij,bjk->bki"}),
    "diagonals": ("Einsum", [floats(3, 4, 4)], {"x0": N}, {"equation": "bii->bi"}),
    "products": ("CumProd", [floats(3, 9), np.array(1)], {"x0": {0: "n", 1: "t"}}, {"opset": 28}),
    "normalized": ("BatchNormalization", [floats(3, 4, 5), *(abs(floats(4)) for _ in range(4))],
                   {"x0": {0: "n", 2: "t"}}, {"training_mode": 1}),
    "counted": ("TfIdfVectorizer", [RNG.integers(1, 5, (3, 9))], {"x0": N}, {
        "mode": "TF", "min_gram_length": 1, "max_gram_length": 2, "max_skip_count": 1, "ngram_counts": [0, 2],
        "ngram_indexes": [0, 1, 2, 3], "pool_int64s": [1, 2, 1, 2, 3, 3]}),
}


@pytest.mark.parametrize("name", CASES)
def test_sizes_that_are_known_at_run_time(name: str) -> None:
    op, arrays, dims, attrs = CASES[name]
    outputs = {"MaxPool": 2, "BatchNormalization": 3}.get(op, 1)
    constants = [1, 2] if op in ("DFT", "STFT", "Col2Im", "CumProd") else []
    m, feeds = one(op, arrays, outputs=outputs, constants=constants, **attrs)
    want = by_reference(m, feeds)
    plan = whet.build(named(m, dims), opt_level=0, threads=1, timing_cache=TimingCache())
    steps = plan.summary()["steps"]
    assert steps["reference"] == steps["host"] == 0, steps
    with whet.load(plan) as engine:
        got = engine(feeds)
        agree([got[o.name] for o in m.graph.output], want, 1e-3, 1e-4)
        small = {k: v[:1] if k in dims else v for k, v in feeds.items()}  # and once more with a batch of one
        if op != "RoiAlign":
            engine(small)
