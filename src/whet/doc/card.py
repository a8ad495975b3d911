"""The front matter of a Hugging Face model card: what is known of the plan, and what a person vouches for."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from whet.doc.figures import Found
from whet.doc.parts import visible
from whet.errors import InputError
from whet.measure.record import Measurement

# Hugging Face's names of metrics (https://huggingface.co/metrics), where they have one.
METRICS = {"top1": "accuracy", "top5": "top_5_accuracy", "f1": "f1", "mse": "mse", "mae": "mae",
           "spearman": "spearmanr"}
WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*(/[A-Za-z0-9][A-Za-z0-9_.-]*)?")
LONGEST = 120


@dataclass(frozen=True)
class Card:
    """What a person says for a model card, since no plan knows it: the model it was made from (`org/name`), its task
    (`image-classification`), and the data set that accuracy was measured on (`imagenet-1k`)."""

    base_model: str = ""
    task: str = ""
    dataset: str = ""

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value and (not WORD.fullmatch(value) or len(value) > LONGEST):
                raise InputError(f"{name.replace('_', '-')} {value!r:.140}", do="give org/name, or such a word",
                                 why="on a model card it is letters, digits, dots, dashes and at most one slash")

    def pairs(self) -> tuple[tuple[str, str], ...]:
        """What was given, by name."""
        return tuple((k, v) for k, v in asdict(self).items() if v)


def front(summary: Mapping[str, Any], found: Found | None, records: Sequence[Measurement],
          given: Card) -> dict[str, Any]:
    """The fields (https://huggingface.co/docs/hub/model-cards): what is not known is not there.

    `model-index` needs task and data set, which the card's author knows, and an accuracy that was measured.
    """
    told, target = summary["precision"], summary["target"]
    used = sorted({l["precision"] for l in summary["layers"] if l.get("precision")})
    out: dict[str, Any] = {
        "library_name": "whet",
        "tags": list(dict.fromkeys(["whet", "onnx", "cuda" if target.get("device") else "cpu", visible(target["isa"]),
                                    visible(told["compute"]), *map(visible, used)]))}
    if given.base_model:
        out["base_model"] = given.base_model
        if {"int8", "fp8"} & set(told) or "weights" in told:
            out["base_model_relation"] = "quantized"
    results = _accuracies(found, records)
    if results:
        out["metrics"] = list(dict.fromkeys(r["type"] for r in results))
    if results and given.task and given.dataset:
        out["model-index"] = [{"name": visible(summary["model"]["name"] or "model"), "results": [{
            "task": {"type": given.task}, "dataset": {"type": given.dataset, "name": given.dataset},
            "metrics": results}]}]
    out["whet"] = {"plan": summary["hash"], "model_sha256": visible(summary["model"]["sha256"]),
                   "version": visible(summary["whet"]), "target": visible(target["isa"]),
                   "precision": visible(told["compute"])}
    return out


def _accuracies(found: Found | None, records: Sequence[Measurement]) -> list[dict[str, Any]]:
    """Accuracies against labels: how far outputs are from another plan's is no metric of a card."""
    measured = [(r.accuracy.metric, r.accuracy.value, r.accuracy.samples) for r in records if r.accuracy is not None]
    if found is not None and found.value is not None:
        measured.append((found.metric, found.value, found.samples))
    first: dict[str, dict[str, Any]] = {}
    for metric, value, samples in measured:
        if not metric.startswith("divergence") and metric not in first:
            first[metric] = {"type": METRICS.get(metric, visible(metric)), "value": round(value, 6),
                             "name": visible(f"{metric} ({samples} samples)")}
    return list(first.values())
