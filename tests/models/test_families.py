"""Every family of networks builds, on generated kernels alone, and matches ONNX Runtime at several sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from families import FAMILIES, Family, export

import whet
from whet.measure import relative_l2

pytestmark = pytest.mark.models


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for package in ("torch", "transformers", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    return tmp_path_factory.mktemp("families")


@pytest.mark.parametrize("family", [
    pytest.param(f, marks=pytest.mark.xfail(reason=f.waits, strict=True) if f.waits else (), id=f.name)
    for f in FAMILIES])
def test_matches_onnx_runtime_on_generated_kernels(family: Family, folder: Path) -> None:
    import onnxruntime as ort

    path = export(family, folder)
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    plan = whet.build(path, profiles=[dict(family.ranges)], opt_level=0, timing_cache=folder / "timing.json")
    steps = plan.summary()["steps"]
    assert steps["reference"] + steps["host"] == family.reference, (steps, family.why)
    with whet.load(plan) as engine:
        for i, sizes in enumerate(family.sizes, 1):
            feeds = family.feeds(np.random.default_rng(i), sizes)
            found = engine(feeds)
            for output, right in zip(session.get_outputs(), session.run(None, feeds), strict=True):
                assert relative_l2(found[output.name], right) < family.tolerance, (output.name, sizes)
