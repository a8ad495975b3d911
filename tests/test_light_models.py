"""The nine real CNNs inside the onnx package build, run, and agree with ONNX Runtime on seeded random weights: their
own are constants. With those, in full width and with the outputs that come with them, they are cases of
`tests/conformance`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import whet
from benchmarks.light_models import LIGHT_MODELS, light_input, refill
from whet.measure import centred_error


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHET_CACHE", str(tmp_path))


def run(model: Path | onnx.ModelProto, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    with whet.load(whet.build(model, opt_level=0)) as engine:
        assert engine.plan.summary()["steps"]["reference"] == 0
        return engine(feeds)


@pytest.mark.parametrize("name", LIGHT_MODELS)
def test_refilled_with_random_weights_matches_onnx_runtime(name: str) -> None:
    ort = pytest.importorskip("onnxruntime")
    model = refill(name, hidden=257)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = light_input(name, seed=1)
    want = session.run(None, feeds)[0]
    (got,) = run(model, feeds).values()
    assert centred_error(got, want) < 1e-4
