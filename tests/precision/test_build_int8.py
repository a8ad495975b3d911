"""`whet.build` with int8: calibration, choice of layers, budgets, and what is refused."""

import platform
from pathlib import Path

import numpy as np
import pytest

import whet
from whet.errors import AccuracyError, CacheError, InputError, UnsupportedError
from whet.measure.timing import alternate
from whet.precision import trial
from whet.precision.result import SearchResult
from whet.quantizing import Quantization
from whet.targets.cpu.isa import host

MODEL = Path(whet.__file__).parent / "demo" / "digits.onnx"


@pytest.fixture(scope="module")
def digits():
    with np.load(MODEL.with_name("digits_test.npz")) as z:
        return z["images"].astype(np.float32) / 16, z["labels"].astype(np.int64)


@pytest.fixture(autouse=True)
def brief(monkeypatch):
    """Plans that are compared are timed for a moment: what is shown here is how they are chosen."""
    monkeypatch.setattr(trial, "alternate", lambda backends, **_: alternate(
        backends, seconds=0.02, min_rounds=4, turn_seconds=0.002, pause=0.0))


@pytest.fixture(scope="module")
def timings(tmp_path_factory):
    return tmp_path_factory.mktemp("timings") / "cache.json"


@pytest.fixture(scope="module")
def int8(digits, timings):
    """Every layer in int8, by the cost model."""
    return whet.build(MODEL, precision="int8", calibration=digits[0][:64], opt_level=0, timing_cache=timings)


def test_an_int8_plan_says_what_is_in_int8_and_by_which_calibration(int8):
    told = int8.manifest.info["precision"]
    assert told["compute"] == "int8"
    assert len(told["int8"]["layers"]) == 8
    assert told["int8"]["kept"] == {}
    assert told["calibration"]["samples"] == 64
    assert told["calibration"]["method"] == "mse"
    products = [l["precision"] for l in int8.manifest.info["layers"] if l["kind"] in ("conv", "matmul")]
    assert products == ["int8"] * 8


def test_an_int8_network_stays_int8_between_its_layers(int8):
    assert int8.summary()["steps"]["reference"] == 0
    written = [l["writes"][0] for l in int8.manifest.info["layers"] if l["kind"] in ("conv", "pool")]
    assert ["saturate" in w or "pool" in w for w in written] == [True] * 7 + [False]  # the last one feeds the mean


def test_int8_answers_like_fp32(int8, digits):
    images, labels = digits
    found = np.concatenate([whet.load(int8)({"image": images[i:i + 8]})["logits"] for i in range(0, 512, 8)])
    assert (found.argmax(1) == labels[:512]).mean() > 0.98


@pytest.mark.skipif(platform.machine() != "x86_64", reason="builds for x86-64's other instruction sets")
@pytest.mark.parametrize("isa", ["avx2", "avx512"])
def test_plans_for_lesser_instruction_sets_give_the_same_codes(int8, digits, timings, isa):
    if isa not in ("avx2", host().name):
        pytest.skip(f"this CPU has no {isa}")
    other = whet.build(MODEL, precision="int8", calibration=digits[0][:64], opt_level=0, timing_cache=timings, isa=isa)
    feeds = {"image": digits[0][:8]}
    want, got = whet.load(int8)(feeds)["logits"], whet.load(other)(feeds)["logits"]
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3 * np.abs(want).max())


def test_weights_are_a_quarter(int8, timings):
    real = whet.build(MODEL, opt_level=0, timing_cache=timings)
    ratio = int8.manifest.info["memory"]["weights"] / real.manifest.info["memory"]["weights"]
    assert ratio < 0.45  # of a model so small that offsets and factors count


def test_a_layer_that_was_to_stay_in_fp32_does_and_is_named(digits, timings):
    plan = whet.build(MODEL, precision="int8", calibration=digits[0][:8], opt_level=0, timing_cache=timings,
                      fp32_layers=["node_linear"])
    told = plan.manifest.info["precision"]["int8"]
    assert told["kept"] == {"node_linear": "it was to stay in fp32"}
    assert len(told["layers"]) == 7


def test_symmetric_activations_and_other_methods_build(digits, timings):
    images, labels = digits
    for o in (Quantization(activations="i8", method="minmax"), Quantization(method="percentile:99.9")):
        plan = whet.build(MODEL, precision="int8", calibration=images[:32], opt_level=0,
                          timing_cache=timings, quantization=o)
        found = whet.load(plan)({"image": images[:8]})["logits"]
        assert (found.argmax(1) == labels[:8]).all()


def test_the_search_finds_the_fastest_plan_within_the_budget(digits, timings):
    images, labels = digits
    plan = whet.build(MODEL, precision={"int8", "bf16"}, calibration=images[:32], evaluation=(images, labels),
                      metric="top1", max_drop=5.0, opt_level=0, timing_cache=timings)
    told = plan.manifest.info["precision"]
    assert told["verdict"]["state"] == "held"
    result = plan.evidence["precision"]
    assert result["candidates"][0]["label"] == "fp32"
    chosen = result["candidates"][result["chosen"]]
    assert chosen["label"] == told["chosen"]
    assert chosen["latency"]["seconds"] == min(c["latency"]["seconds"] for c in result["candidates"]
                                               if c["state"] == "held")


def test_a_budget_that_nothing_meets_shows_the_nearest(digits, timings):
    with pytest.raises(AccuracyError, match="nothing but fp32") as e:
        whet.build(MODEL, precision="int8", calibration=digits[0][:16], evaluation=digits[0][:32], max_drop=1e-5,
                   metric="divergence:l2", opt_level=0, timing_cache=timings)
    assert e.value.exit_code == 1
    assert "the nearest is" in str(e.value)
    result = e.value.result
    assert isinstance(result, SearchResult)
    assert result.chosen is None
    assert result.nearest is not None
    assert len(result.sensitivity) == 8  # each layer was tried alone
    assert any("int8: 4 of 8" in c.label for c in result.candidates)


def test_calibration_is_kept_and_belongs_to_its_model(digits, timings, tmp_path):
    kept = tmp_path / "calibration.json"
    o = Quantization(cache=kept)
    first = whet.build(MODEL, precision="int8", calibration=digits[0][:16], opt_level=0, timing_cache=timings,
                       quantization=o)
    again = whet.build(MODEL, precision="int8", opt_level=0,
                          timing_cache=timings, quantization=o)
    assert first.hash == again.hash
    text = kept.read_text().replace(first.manifest.info["model"]["sha256"], "0" * 64)
    kept.write_text(text)
    with pytest.raises(CacheError, match="another model"):
        whet.build(MODEL, precision="int8", opt_level=0,
                          timing_cache=timings, quantization=o)


def test_one_sample_is_warned_of_in_the_manifest(digits, timings):
    plan = whet.build(MODEL, precision="int8", calibration=digits[0][:1], opt_level=0, timing_cache=timings)
    assert "one sample" in plan.manifest.info["precision"]["calibration"]["warnings"][0]


@pytest.mark.parametrize("what,data", [
    ("no samples", np.zeros((0, 1, 8, 8), np.float32)), ("has the shape", np.zeros((4, 1, 9, 8), np.float32)),
    ("NaN", np.full((4, 1, 8, 8), np.nan, np.float32)),
    ("model's inputs", {"picture": np.zeros((4, 1, 8, 8), np.float32)})])
def test_data_that_do_not_fit_are_refused(what, data, timings):
    with pytest.raises(InputError, match=what):
        whet.build(MODEL, precision="int8", calibration=data, opt_level=0, timing_cache=timings)


def test_labels_are_asked_for_where_the_metric_needs_them(digits, timings):
    with pytest.raises(InputError, match="no labels"):
        whet.build(MODEL, precision="int8", calibration=digits[0][:8], evaluation=digits[0][:8], metric="top1",
                   max_drop=1.0, opt_level=0, timing_cache=timings)


def test_int8_without_data_and_a_budget_without_data_are_refused(timings):
    with pytest.raises(InputError, match="calibrate"):
        whet.build(MODEL, precision="int8", opt_level=0, timing_cache=timings)
    with pytest.raises(InputError, match="budget"):
        whet.build(MODEL, precision="bf16", max_drop=1.0, opt_level=0, timing_cache=timings)


def test_best_without_data_says_why_int8_is_not_there(timings):
    plan = whet.build(MODEL, precision="best", opt_level=0, timing_cache=timings)
    assert "no data to calibrate with" in plan.manifest.info["precision"]["note"]


def test_precisions_of_other_targets_are_said_not_to_be_used(timings):
    plan = whet.build(MODEL, precision={"fp16", "fp8"}, opt_level=0, timing_cache=timings)
    assert "fp16 and fp8 was allowed but not used" in plan.manifest.info["precision"]["note"]
    with pytest.raises(UnsupportedError, match="fp16"):
        whet.build(MODEL, precision="fp16", force_precision=True, opt_level=0, timing_cache=timings)
