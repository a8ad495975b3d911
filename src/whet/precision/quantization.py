"""How a model is to be quantized: the options, as the library takes them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whet.precision.images import Preprocess


@dataclass(frozen=True)
class Quantization:
    """How a model is quantized.

    calibration: data in any form that `precision.data.open_data` takes; or a `Calibration` made before.
    cache:       file of the calibration: read if it is there (and of this model), else written.
    method:      `mse`, `entropy`, `minmax`, `percentile` or `percentile:99.9`.
    samples:     at most so many samples are calibrated with.
    preprocess:  of images.
    activations: of int8: `u8` (asymmetric) or `i8` (symmetric); "": u8 on CPUs, i8 on GPUs, whose products are of that.
    prepare:     what is done to the weights before: `equalize` (channels between convolutions) and `smooth`
                 (SmoothQuant: normalizations before matmuls), which leave the float model as it is and calibrate twice;
                 `round` (adaptive rounding: slow); `bias` (the mean shift of rounding is taken off).
    evaluation:  data (with labels, where the metric needs them) that candidates are judged by.
    metric, max_drop: what may be lost, in the metric's unit (`measure.metrics`).
    every_layer: quantize layers even where that is not faster here.
    share:       (k, n): calibrate with the k-th of n shares of the samples alone (`Data.share`).
    """

    calibration: Any = None
    cache: str | os.PathLike[str] | None = None
    method: str = "mse"
    samples: int | None = None
    preprocess: Preprocess | None = None
    activations: str = ""
    prepare: tuple[str, ...] = ()
    evaluation: Any = None
    labels: Any = None
    metric: str = "divergence"
    max_drop: float | None = None
    output: str = ""
    every_layer: bool = False
    share: tuple[int, int] = (0, 1)

    def written(self) -> dict[str, Any]:
        """By the names of `whet.yaml`; data may be objects."""
        images = None if self.preprocess is None else self.preprocess.key()
        return {"calib": self.calibration, "calib_cache": self.cache, "calib_method": self.method,
                "calib_samples": self.samples, "preprocess": images, "activations": self.activations,
                "prepare": self.prepare, "eval": self.evaluation, "metric": self.metric, "max_drop": self.max_drop}

    def unwritten(self) -> tuple[str, ...]:
        """The options that only Python can give, where they are given."""
        given = {"labels": self.labels is not None, "output": bool(self.output), "share": self.share != (0, 1)}
        return tuple(name for name, there in given.items() if there)

    @property
    def asked(self) -> bool:
        """True if there is anything to calibrate with."""
        return self.calibration is not None or (self.cache is not None and Path(self.cache).exists())
