"""The models of the accuracy table, each with its calibration and test set."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy import data, reviews, sentences
from benchmarks.models import default_cache
from whet import demo
from whet.errors import MissingExtraError
from whet.measure import metrics
from whet.measure.scores import Scores

FOLDER = Path(__file__).parent / "models"
CALIBRATION, TEST = 500, 12_000  # samples of the procedural sets; the models were tested on the same 12,000
SENTENCES = 400  # their 79,800 pairs are ranked
BATCH = 100  # samples a call of an evaluation

Arrays = Mapping[str, np.ndarray]
Run = Callable[[Arrays], Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class Case:
    """A trained model. `calibration` and `inputs` are by input name, samples first; `labels` may be None.

    `metric` is judged against what fp32 finds on the same samples, with the budget `max_drop` in its unit (hundredths
    of Spearman's coefficient, points of top-1). Plans are tuned for one sample and take up to `BATCH`. SmoothQuant is
    of use to transformers (`smooth`).
    """

    name: str
    title: str
    path: Path
    calibration: Arrays
    inputs: Arrays
    labels: np.ndarray | None
    metric: str = "top1"
    max_drop: float = 0.5
    smooth: bool = False

    @property
    def samples(self) -> int:
        return len(next(iter(self.inputs.values())))

    @property
    def first(self) -> dict[str, np.ndarray]:
        """The first test sample, as a batch of one."""
        return {k: v[:1] for k, v in self.inputs.items()}

    @property
    def profile(self) -> dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]:
        """Optimization profile: (least, best, most) shape of each input."""
        return {k: ((1, *v.shape[1:]), (1, *v.shape[1:]), (BATCH, *v.shape[1:])) for k, v in self.inputs.items()}

    def outputs(self, run: Run) -> np.ndarray:
        """The model's output for all test samples, by `run` of batches."""
        found = [next(iter(run({k: v[i:i + BATCH] for k, v in self.inputs.items()}).values()))
                 for i in range(0, self.samples, BATCH)]
        return np.concatenate([np.array(f) for f in found])

    def scores(self, outputs: np.ndarray, reference: np.ndarray) -> Scores:
        """What the outputs are worth, by label or, without labels, beside the reference's outputs."""
        return metrics.by_name(self.metric).evaluate(outputs, self.labels, reference)


def digits() -> Case:
    """`whet demo`'s classifier; calibrated with what it was trained on (scikit-learn's digits)."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingExtraError.for_package("scikit-learn", "test", "calibrating the digits") from error
    path = Path(demo.__file__).parent / "digits.onnx"
    images, labels = demo.test_set()
    order = np.random.default_rng(7).permutation(1797)[len(images):]  # as in examples/train_digits.py
    seen = (load_digits().images[order[:CALIBRATION], None] / 16).astype(np.float32)
    return Case("digits", "digits, CNN", path, {"image": seen}, {"image": images}, labels)


def _procedural(name: str, title: str, key: str, make: Callable[[data.Split, int], data.Samples],
                smooth: bool = False) -> Case:
    inputs, labels = make("test", TEST)
    return Case(name, title, FOLDER / f"{name}.onnx", {key: make("calibration", CALIBRATION)[0]}, {key: inputs}, labels,
                smooth=smooth)


def minilm() -> Case:
    """Sentence embeddings: how the cosine similarities of all pairs are ranked, beside fp32's ranking."""
    return Case("minilm", "MiniLM-L6, sentences", sentences.encoder_path(), sentences.tokens("calibration", 128),
                sentences.tokens("test", SENTENCES), None, "spearman", 1.0, smooth=True)


CASES: dict[str, Callable[[], Case]] = {
    "digits": digits,
    "glyphs": lambda: _procedural("glyphs", "glyphs, CNN", "image", data.glyphs),
    "shapes": lambda: _procedural("shapes", "shapes, depthwise residual", "image", data.shapes),
    "table": lambda: _procedural("table", "table, MLP", "features", data.table),
    "reviews": lambda: _procedural("reviews", "reviews, transformer", "ids", reviews.reviews, smooth=True),
    "minilm": minilm}


def provenance() -> dict[str, Any]:
    """What `train.py` recorded of the committed models, by name."""
    return json.loads((FOLDER / "provenance.json").read_text())


def write_sets(case: Case, folder: Path | None = None) -> list[Path]:
    """The case as files for the command line, in `~/.cache/whet/models/trained`: `<name>.onnx`,
    `<name>-calibration.npz` (inputs by name) and `<name>-test.npz` (with `labels`, where there are any)."""
    folder = folder or default_cache() / "trained"
    folder.mkdir(parents=True, exist_ok=True)
    model, calibration, test = (folder / f"{case.name}{end}" for end in (".onnx", "-calibration.npz", "-test.npz"))
    if model != case.path:
        model.write_bytes(case.path.read_bytes())
    _savez(calibration, case.calibration)
    _savez(test, {**case.inputs, **({} if case.labels is None else {"labels": case.labels})})
    return [model, calibration, test]


def _savez(path: Path, arrays: Arrays) -> None:
    np.savez_compressed(path, allow_pickle=False, **arrays)
