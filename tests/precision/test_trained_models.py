"""Really trained models keep their accuracy in int8: within half a point on 12,000 samples, decided by paired tests.

The models are committed (`benchmarks/accuracy/models`, with their provenance) and the samples are made on the fly.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import whet
from benchmarks.accuracy import data, reviews, sentences
from benchmarks.accuracy.cases import CASES, FOLDER, Case, provenance
from whet.measure.verdict import judge

TRAINED = tuple(sorted(provenance()))


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHET_CACHE", str(tmp_path))


@cache
def case(name: str) -> Case:
    return CASES[name]()


@cache
def fp32(name: str) -> np.ndarray:
    return outputs(name, "fp32")


def outputs(name: str, precision: str) -> np.ndarray:
    of = case(name)
    calibrated = {"calibration": dict(of.calibration), "force_precision": True} if precision == "int8" else {}
    plan = whet.build(of.path, precision=precision, profiles=[of.profile], opt_level=0, **calibrated)
    if precision == "int8":
        assert len(plan.manifest.info["precision"]["int8"]["layers"]) >= 4
    with whet.load(plan) as engine:
        return of.outputs(engine)


@pytest.mark.parametrize("name", TRAINED)
def test_the_model_and_its_test_set_are_those_of_the_record(name: str) -> None:
    recorded = provenance()[name]
    of = case(name)
    (inputs,) = of.inputs.values()
    assert hashlib.sha256((FOLDER / f"{name}.onnx").read_bytes()).hexdigest() == recorded["sha256"]
    assert data.digest(inputs, of.labels) == recorded["test_digest"]


@pytest.mark.parametrize("name", TRAINED)
def test_fp32_is_as_accurate_as_pytorch_found(name: str) -> None:
    of = case(name)
    value = of.scores(fp32(name), fp32(name)).value
    assert value == pytest.approx(provenance()[name]["test_accuracy"], abs=3 / of.samples)


@pytest.mark.parametrize("name", TRAINED)
def test_int8_loses_less_than_half_a_point(name: str) -> None:
    of, reference = case(name), fp32(name)
    found = judge(of.scores(reference, reference), of.scores(outputs(name, "int8"), reference), 0.5)
    assert found.n >= 10_000
    assert found.state == "held", found.sentence


def test_splits_share_no_sample() -> None:
    for make in (data.glyphs, data.shapes, data.table, reviews.reviews):
        seen = [{sample.tobytes() for sample in make(split, 200)[0]} for split in ("train", "calibration", "test")]
        assert not seen[0] & seen[2]
        assert not seen[1] & seen[2]


def test_sentences_differ_and_splits_share_none() -> None:
    splits = [sentences.sentences(split, 120) for split in ("calibration", "test")]
    assert all(len(set(found)) == 120 for found in splits)
    assert not set(splits[0]) & set(splits[1])


def test_a_review_is_more_than_its_words() -> None:
    """Adding up what its words are worth, which way they are turned aside, gets about half of the labels."""
    ids, labels = reviews.reviews("test", 6000)
    worth = np.zeros(len(reviews.WORDS))
    for word, value in reviews.ADJECTIVES + reviews.VERBS:
        worth[reviews.WORDS.index(word)] = value
    assert 0.4 < (np.sign(worth[ids].sum(1)) + 1 == labels).mean() < 0.65
