"""Every family of networks builds, on generated kernels alone, and matches ONNX Runtime at several sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from families import FAMILIES, VARIANTS, Family, export

import whet
from whet.errors import InputError, ProfileError
from whet.measure import relative_l2

pytestmark = pytest.mark.models


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for package in ("torch", "transformers", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    return tmp_path_factory.mktemp("families")


def ordered(outputs: dict[str, np.ndarray], by: str) -> dict[str, np.ndarray]:
    """The outputs with their rows in the order of those of `by`."""
    if not by:
        return outputs
    order = np.lexsort(outputs[by].T)
    return {k: v[order] for k, v in outputs.items()}


@pytest.mark.parametrize("family", FAMILIES + VARIANTS, ids=lambda f: f.name)
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
            found = ordered(engine(feeds), family.order)
            right = dict(zip([o.name for o in session.get_outputs()], session.run(None, feeds), strict=True))
            for name, want in ordered(right, family.order).items():
                assert relative_l2(found[name], want) < family.tolerance, (name, sizes)


def test_an_image_that_does_not_fit_says_what_the_plan_takes(folder: Path) -> None:
    family = next(f for f in FAMILIES if f.name == "segformer")
    with whet.load(whet.build(export(family, folder), profiles=[dict(family.ranges)], opt_level=0)) as engine:
        with pytest.raises(InputError, match=r"\[2, 3, 64, 70\]") as e:
            engine({"x": np.zeros((2, 3, 64, 70), np.float32)})
        assert "32*w" in e.value.why
        with pytest.raises(ProfileError, match="h is 7"):
            engine({"x": np.zeros((2, 3, 224, 64), np.float32)})
