"""Every cell's accuracy on the same labelled samples, judged in pairs against the reference's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from whet.compare.backends import Backend
from whet.compare.grid import Cell
from whet.compare.inputs import specs
from whet.compare.session import Reference
from whet.errors import InputError
from whet.measure.metrics import by_name
from whet.measure.record import Accuracy
from whet.measure.scores import Metric, Scores
from whet.measure.verdict import judge
from whet.precision.data import open_data

if TYPE_CHECKING:
    from whet.compare.openers import Opened, Progress
    from whet.compare.sweep import Sweep


class Judge:
    """Runs cells over the samples, the reference first."""

    def __init__(self, sweep: Sweep, reference: tuple[Backend, Reference] | None, notes: list[str]) -> None:
        self.sweep, self.reference, self.notes = sweep, reference, notes
        self.metric: Metric | None = None
        self.outputs = np.empty(0)
        self.labels: np.ndarray | None = None
        self.base: Scores | None = None
        # The bounds of one of many candidates are widened by how many are judged.
        self.looks = max(1, len({c.kind for c in sweep.cells}) - 1)

    def prepare(self, batch: int, progress: Progress) -> None:
        """Runs the reference. InputError where its outputs or the labels do not fit the metric."""
        if self.reference is None or self.reference[0].call is None or self.base is not None:
            return
        self.outputs, self.labels = self._run(self.reference[0], batch, progress)
        self.metric = by_name(self.sweep.metric, self.outputs)
        self.base = self.metric.evaluate(self.outputs, self.labels, self.outputs)

    def of(self, one: Opened, cell: Cell, progress: Progress) -> Accuracy | None:
        """The accuracy with its verdict, of the reference without one; None where there is no reference, or the
        backend runs no other inputs. InputError where outputs do not fit the metric."""
        if self.reference is None or one.backend.call is None:
            said = "Accuracy was not judged: that needs ONNX Runtime or whet in fp32." if self.reference is None else \
                f"The accuracy of {cell.kind} was not judged: it runs no inputs but one batch."
            if said not in self.notes:
                self.notes.append(said)
            return None
        backend, named = self.reference
        self.prepare(cell.batch, progress)
        if self.base is None or self.metric is None:
            return None
        if one.backend is backend:
            interval = self.base.interval()
            return Accuracy(metric=self.metric.name, value=interval.value, samples=self.base.n, low=interval.low,
                            high=interval.high)
        outputs, _ = self._run(one.backend, cell.batch, progress)
        scores = self.metric.evaluate(outputs, self.labels, self.outputs)
        return judge(self.base, scores, self.sweep.max_drop, self.metric, self.looks).accuracy(named.name)

    def _run(self, backend: Backend, batch: int, progress: Progress) -> tuple[np.ndarray, np.ndarray | None]:
        """The first output for all samples, and their labels."""
        assert backend.call is not None
        name = self.sweep.shop.signature.outputs[0]
        shapes = self.sweep.shop.signature.at(batch, self.sweep.shapes)
        data = open_data(self.sweep.evaluation, specs(self.sweep.shop.signature, shapes),
                         preprocess=self.sweep.preprocess, limit=self.sweep.eval_samples)
        outputs, labels = list[np.ndarray](), list[np.ndarray]()
        for part in data.batches():
            progress(f"accuracy of {backend.key}", part.first, data.samples or 0)
            found = backend.call(part.feeds)
            if name not in found:
                raise InputError(f"{backend.key} gives no output {name!r}", why=f"it gives {', '.join(found)}")
            # A copy: some backends give views of buffers that the next call writes over.
            outputs.append(np.array(found[name])[:part.count])
            if part.labels is not None:
                labels.append(part.labels)
        return _joined(outputs, name), np.concatenate(labels) if labels else None


def _joined(parts: Sequence[np.ndarray], name: str) -> np.ndarray:
    if any(p.ndim == 0 or p.shape[1:] != parts[0].shape[1:] for p in parts):
        raise InputError(f"the output {name!r} has no row for each sample", do="compare without --eval")
    return np.concatenate(parts)
