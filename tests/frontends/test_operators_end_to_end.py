"""One of ONNX's own cases for every operator that has a lowering: built into a plan, run, and right."""

from __future__ import annotations

import collections
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, numpy_helper

import whet
from whet.frontends.call import LOWERINGS

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from onnx.backend.test.case.node import collect_testcases

    CASES: dict[str, list[Any]] = collections.defaultdict(list)
    for _case in collect_testcases(None):
        _nodes, _set = _case.model.graph.node, _case.data_sets[0]
        if len(_nodes) == 1 and ("", _nodes[0].op_type) in LOWERINGS and all(
                isinstance(x, np.ndarray) for x in (*_set[0], *_set[1])):
            CASES[_nodes[0].op_type].append(_case)

ALL_FIXED = {"Range", "ConstantOfShape", "Resize", "Upsample"}  # operands that must be known when the plan is built


@pytest.mark.parametrize("op", sorted(CASES))
def test_built_and_run(op: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHET_CACHE", str(tmp_path))
    case = CASES[op][len(CASES[op]) // 2]
    model = ModelProto()
    model.CopyFrom(case.model)
    wanted = [np.asarray(x) for x in case.data_sets[0][1]]
    feeds = {v.name: np.asarray(x) for v, x in zip(case.model.graph.input, case.data_sets[0][0])}
    if op == "Einsum":  # whose cases are of float64, which has no kernels for products
        feeds = {k: v.astype(np.float32) for k, v in feeds.items()}
        wanted = [w.astype(np.float32) for w in wanted]
        for v in (*model.graph.input, *model.graph.output):
            v.type.tensor_type.elem_type = TensorProto.FLOAT
    for i, name in enumerate(list(feeds)):
        if (i or op == "ConstantOfShape" or op == "Range") and (op in ALL_FIXED or (
                feeds[name].size <= 64 and feeds[name].dtype.kind in "iub")):
            model.graph.initializer.append(numpy_helper.from_array(feeds.pop(name), name))
            model.graph.input.remove(next(v for v in model.graph.input if v.name == name))
    with whet.load(whet.build(model, opt_level=0, threads=1)) as engine:
        got = engine(feeds)
    for o, want in zip(model.graph.output, wanted):
        assert got[o.name].shape == want.shape
        assert got[o.name].dtype == want.dtype
        narrow = want.dtype.itemsize == 2
        np.testing.assert_allclose(got[o.name].astype(np.float64), want.astype(np.float64),
                                   rtol=2e-2 if narrow else 1e-3, atol=2e-2 if narrow else 1e-4)
