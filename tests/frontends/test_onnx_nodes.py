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

from onnx import TensorProto, numpy_helper

from whet.frontends import load_model
from whet.ir import interpret, verify

# Operators whose results are random, or that need a package which is no dependency.
NOT_COMPARED = {"Bernoulli", "RandomUniformLike", "ImageDecoder"}


def unpacked(x: Any) -> Any:
    """A case's value as NumPy has it: those of types below 8 bits are protos."""
    return numpy_helper.to_array(x) if isinstance(x, TensorProto) else x


def outputs_of(case: Any) -> list[Any]:
    """The outputs of the imported model."""
    graph = load_model(case.model.SerializeToString())
    verify(graph)
    names = [v.name for v in case.model.graph.input]
    got = interpret(graph, dict(zip(names, map(unpacked, case.data_sets[0][0]))))
    return [got[o.name] for o in case.model.graph.output]


def compare(got: Any, want: Any, name: str) -> None:
    """Equal as ONNX's cases ask for: arrays, lists of arrays, None."""
    if want is None or isinstance(want, list):
        assert type(got) is type(want), name
        for a, b in zip(got or [], want or [], strict=True):
            compare(a, b, name)
        return
    b = np.asarray(want)
    assert got.shape == b.shape, name
    if b.dtype.kind in "OU":
        assert (got.astype(str) == b.astype(str)).all(), name
        return
    assert got.dtype == b.dtype, name
    narrow = b.dtype.itemsize == 2 and b.dtype.kind not in "iu"
    np.testing.assert_allclose(got.astype(np.float64), b.astype(np.float64), err_msg=name,
                               rtol=2e-2 if narrow else 1e-3, atol=1e-2 if narrow else 1e-5)


@pytest.mark.parametrize("op", sorted(CASES.keys() - NOT_COMPARED))
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of onnx.reference
def test_onnx_cases(op: str) -> None:
    for case in CASES[op]:
        for got, want in zip(outputs_of(case), case.data_sets[0][1], strict=True):
            compare(got, unpacked(want), case.name)


def test_few_operators_need_the_reference() -> None:
    """Operators of networks have lowerings of their own; this list only ever gets shorter."""
    from whet.frontends.call import LOWERINGS

    missing = {op for op in CASES if ("", op) not in LOWERINGS}
    assert not missing & {"Conv", "MatMul", "Softmax", "LayerNormalization", "Resize", "Slice", "Einsum", "Attention"}
    assert len(missing) < 75, sorted(missing)
