"""ONNX's own test cases for every operator, imported and run by the NumPy references."""

from __future__ import annotations

import collections
import warnings
from typing import Any

import numpy as np
import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from onnx.backend.test.case.node import collect_testcases

    CASES: dict[str, list[Any]] = collections.defaultdict(list)
    for _case in collect_testcases(None):
        CASES[_case.model.graph.node[0].op_type].append(_case)

from onnx import ModelProto, numpy_helper

from whet.errors import UnsupportedError
from whet.frontends import load_model
from whet.ir import interpret, verify

# Operators whose results are random, whose inputs are not tensors, or that need a package which is no dependency.
NOT_COMPARED = {"Bernoulli", "RandomUniformLike", "ImageDecoder"}
# Cases that a compiler with static ranks cannot take: the shape or rank of a result depends on data,
# and, in the last line, one that onnx.reference itself does not run.
DATA_DEPENDENT = {
    "test_constantofshape_float_ones", "test_constantofshape_int_zeros", "test_constantofshape_int_shape_zero",
    "test_maxunpool_export_with_output_shape", "test_range_bfloat16_type_positive_delta",
    "test_scan_sum",
}
TOO_DYNAMIC = ("Loop", "Scan", "LinearAttention")  # loops whose results have no declared rank
WINDOWS = ("BlackmanWindow", "HammingWindow", "HannWindow")  # of a size that is an input


def compared(case: Any) -> bool:
    """True for a case whose inputs and outputs are all tensors."""
    inputs, outputs = case.data_sets[0]
    return all(isinstance(x, np.ndarray) or np.isscalar(x) for x in (*inputs, *outputs))


def run(model: ModelProto, feeds: dict[str, np.ndarray], fixed: list[str]) -> list[np.ndarray]:
    """The outputs with the inputs named in `fixed` made constants."""
    m = ModelProto()
    m.CopyFrom(model)
    for name in fixed:
        m.graph.initializer.append(numpy_helper.from_array(feeds[name], name))
        m.graph.input.remove(next(v for v in m.graph.input if v.name == name))
    graph = load_model(m.SerializeToString())
    verify(graph)
    got = interpret(graph, {k: v for k, v in feeds.items() if k not in fixed})
    return [got[o.name] for o in m.graph.output]


def outputs_of(case: Any) -> list[np.ndarray]:
    """The outputs; operands that must be known at build time become constants."""
    names = [v.name for v in case.model.graph.input]
    feeds = {n: np.asarray(x) for n, x in zip(names, case.data_sets[0][0])}
    small = [n for n in names[1:] if feeds[n].size <= 64]
    for fixed in ([], small):
        try:
            return run(case.model, feeds, fixed)
        except UnsupportedError:
            continue
    return run(case.model, feeds, names)


@pytest.mark.parametrize("op", sorted(CASES.keys() - NOT_COMPARED))
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of onnx.reference
def test_onnx_cases(op: str) -> None:
    for case in filter(compared, CASES[op]):
        if any(v.type.HasField("optional_type") for v in case.model.graph.input):
            continue
        try:
            got = outputs_of(case)
        except UnsupportedError:
            known = case.name in DATA_DEPENDENT or op in TOO_DYNAMIC + WINDOWS
            assert known or case.name.endswith("_expanded"), case.name
            continue
        for a, b in zip(got, map(np.asarray, case.data_sets[0][1]), strict=True):
            assert a.shape == b.shape, case.name
            if b.dtype.kind in "OU":
                assert (a.astype(str) == b.astype(str)).all(), case.name
                continue
            assert a.dtype == b.dtype, case.name
            narrow = b.dtype.itemsize == 2 and b.dtype.kind not in "iu"
            np.testing.assert_allclose(a.astype(np.float64), b.astype(np.float64), err_msg=case.name,
                                       rtol=2e-2 if narrow else 1e-3, atol=1e-2 if narrow else 1e-5)


def test_few_operators_need_the_reference() -> None:
    """Operators of networks have lowerings of their own; this list only ever gets shorter."""
    from whet.frontends.call import LOWERINGS

    missing = {op for op in CASES if ("", op) not in LOWERINGS}
    assert not missing & {"Conv", "MatMul", "Softmax", "LayerNormalization", "Resize", "Slice", "Einsum", "Attention"}
    assert len(missing) < 75, sorted(missing)
