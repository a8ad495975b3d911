"""What "accuracy" means: metrics by name, sample by sample, so that two models can be compared on the same samples."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from whet.errors import InputError, PluginError
from whet.measure.classification import MacroF1, TopK
from whet.measure.distances import Agreement, Cosine, Error, RelativeL2
from whet.measure.scores import Metric, Outcomes, Scores, Unit, lengths
from whet.measure.similarity import Spearman

__all__ = ["NAMES", "Metric", "Scores", "by_name", "from_callable"]

NAMES = ("top1", "top5", "f1", "mse", "rmse", "mae", "cosine", "spearman", "divergence", "divergence:agreement",
         "divergence:l2")


def by_name(name: str, reference: ArrayLike | None = None) -> Metric:
    """The metric of a name in `NAMES`, or `package.module:function`. InputError if there is none.

    `divergence` looks at the reference's outputs: rows of two or more scores are taken for classes and compared by
    their highest (`divergence:agreement`), all else by relative L2 (`divergence:l2`).
    """
    if name == "divergence":
        if reference is None:
            raise InputError("divergence depends on what the outputs are", do="give the reference's outputs, or choose "
                                                                             "divergence:agreement or divergence:l2")
        shape = np.asarray(reference).shape
        return Agreement() if len(shape) == 2 and shape[1] >= 2 else RelativeL2()
    made: dict[str, Callable[[], Metric]] = {
        "top1": lambda: TopK(1), "top5": lambda: TopK(5), "f1": MacroF1, "mse": lambda: Error("mse"),
        "rmse": lambda: Error("rmse"), "mae": lambda: Error("mae"), "cosine": Cosine, "spearman": Spearman,
        "divergence:agreement": Agreement, "divergence:l2": RelativeL2}
    if name in made:
        return made[name]()
    if ":" in name:
        return from_callable(name)
    raise InputError(f"no metric {name!r}", why=f"there are {', '.join(NAMES)}",
                     do="choose one of these, or name a function: package.module:function")


def from_callable(name: str) -> Metric:
    """A metric from `package.module:function` (see `Custom`); the current folder is searched too.

    InputError if there is no such function; PluginError if its module fails to import.
    """
    module_name, _, attribute = name.partition(":")
    here = str(Path.cwd())
    added = here not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as e:
        raise InputError(f"no metric {name!r}", why=str(e), do="name it as package.module:function, with the package "
                                                              "installed or in this folder") from e
    except Exception as e:
        raise PluginError(f"the module of the metric {name} cannot be imported", why=f"{type(e).__name__}: {e}") from e
    finally:
        if added and here in sys.path:
            sys.path.remove(here)
    function = getattr(module, attribute, None)
    if not callable(function):
        raise InputError(f"no metric {name!r}", why=f"{module_name} has no function {attribute!r}")
    return Custom(name, function)


class Custom(Metric):
    """`package.module:function`, called as `function(outputs, labels)`.

    It returns truth values [N] (then it is judged in pairs, in points), numbers [N] (their mean is the metric), or one
    number for all samples (then it is called anew for each resample). Larger is better, unless the function has an
    attribute `higher_better = False`. Losses of numbers are in their own scale.
    """

    unit: Unit = ""

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self.name, self.function = name, function
        self.higher_better = bool(getattr(function, "higher_better", True))
        self.needs_labels = False  # the function knows

    def evaluate(self, outputs: ArrayLike, labels: ArrayLike | None = None,
                 reference: ArrayLike | None = None) -> Scores:
        found = np.asarray(outputs)
        truth = None if labels is None else np.asarray(labels)
        if truth is not None and len(truth) != len(found):
            raise lengths(len(found), "labels", len(truth))
        scores = self._call(found, truth)
        broken = 0 if found.dtype.kind not in "fc" else \
            int((~np.isfinite(found.reshape(len(found), -1)).all(axis=1)).sum())
        if scores.ndim == 0:
            return Scores(_Whole(self, found, truth), np.arange(len(found)), len(found), broken)
        if scores.shape != found.shape[:1]:
            raise PluginError(f"{self.name} returned shape {scores.shape}", why=f"there are {len(found)} samples",
                              do="return a value for each, or one for all")
        if scores.dtype == bool:
            return Scores(_Counted(self.name), scores[:, None].astype(np.float64), len(scores), broken, scores)
        return Scores(self, scores[:, None].astype(np.float64), len(scores), broken)

    def _call(self, outputs: np.ndarray, labels: np.ndarray | None) -> np.ndarray:
        try:
            scores = np.asarray(self.function(outputs, labels))
        except Exception as e:
            raise PluginError(f"the metric {self.name} failed", why=f"{type(e).__name__}: {e}",
                              do="call it with the same arrays in Python") from e
        if scores.dtype.kind not in "biuf":
            raise PluginError(f"the metric {self.name} returned no numbers", why=f"but {scores.dtype}")
        return scores


class _Counted(Outcomes):
    """Truth values of a function."""

    def __init__(self, name: str) -> None:
        self.name = name

    def evaluate(self, outputs: ArrayLike, labels: ArrayLike | None = None,
                 reference: ArrayLike | None = None) -> Scores:
        return by_name(self.name).evaluate(outputs, labels, reference)


class _Whole(Metric):
    """A function of all samples at once: parts are the samples' indices."""

    unit: Unit = ""
    resamples = 300  # each is a call

    def __init__(self, custom: Custom, outputs: np.ndarray, labels: np.ndarray | None) -> None:
        self.name, self.higher_better, self.custom = custom.name, custom.higher_better, custom
        self.outputs, self.labels = outputs, labels

    def evaluate(self, outputs: ArrayLike, labels: ArrayLike | None = None,
                 reference: ArrayLike | None = None) -> Scores:
        return self.custom.evaluate(outputs, labels, reference)

    def _of(self, index: np.ndarray) -> float:
        return float(self.custom._call(self.outputs[index], None if self.labels is None else self.labels[index]))

    def value(self, parts: np.ndarray) -> float:
        return self._of(parts)

    def resampled(self, parts: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return np.array([self._of(np.repeat(parts, w.astype(np.int64))) for w in weights])

    def left_out(self, parts: np.ndarray) -> np.ndarray:
        # A jackknife over at most 200 samples, evenly spaced: it only corrects the interval's skewness.
        some = np.unique(np.linspace(0, len(parts) - 1, min(200, len(parts))).astype(int))
        return np.array([self._of(np.delete(parts, i)) for i in some])
