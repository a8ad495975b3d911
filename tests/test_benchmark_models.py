"""The benchmark's models come out with activations of unit order, build with a dynamic batch (and sequence), and match
ONNX Runtime at sizes that they were not tuned for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import whet
from benchmarks.models import MODELS, export_model, model_inputs
from whet.measure import centred_error

pytestmark = pytest.mark.models


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory):
    """`exported(name)`: the model's path, exported once."""
    for package in ("torch", "transformers", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    folder = tmp_path_factory.mktemp("models")

    def get(name: str) -> Path:
        path = folder / f"{name}.onnx"
        if not path.exists():
            export_model(name, path)
        return path

    return get


@pytest.mark.parametrize("name", MODELS)
def test_matches_onnx_runtime_at_batch_1_3_and_8(exported, name: str, tmp_path: Path) -> None:
    import onnxruntime as ort

    path = exported(name)
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    sequences = (128, 37) if name == "bert" else (128,)
    sizes = {k: ((1, *v.shape[1:]), v.shape, (8, *v.shape[1:])) for k, v in model_inputs(name, 1).items()}
    if name == "bert":
        sizes = dict.fromkeys(sizes, ((1, 1), (1, 128), (8, 128)))
    plan = whet.build(path, profiles=[sizes], opt_level=0, timing_cache=tmp_path / "timing.json")
    with whet.load(plan) as engine:
        for batch in (1, 3, 8):
            for sequence in sequences:
                feeds = model_inputs(name, batch, sequence, seed=batch)
                found = engine(feeds)
                for output, right in zip(session.get_outputs(), session.run(None, feeds)):
                    assert centred_error(found[output.name], right) < 1e-4, (output.name, batch, sequence)
                    assert 0.3 < np.std(right) < 3, "activations have lost their order"


def test_outputs_depend_on_the_input(exported) -> None:
    import onnxruntime as ort

    session = ort.InferenceSession(str(exported("mobilenetv2")), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, model_inputs("mobilenetv2", 8))
    assert (logits - logits.mean(0)).std() > 0.03
