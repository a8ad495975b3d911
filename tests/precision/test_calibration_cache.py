"""A calibration that was saved is the calibration; anything else is refused with the reason."""

import json
import random

import numpy as np
import pytest

from whet.errors import CacheError, InputError, WhetError
from whet.precision import cache, cache_file
from whet.precision.batches import Batch
from whet.precision.cache import Calibration, Expect
from whet.precision.calibrate import calibrate
from whet.precision.histogram import EVENTS
from whet.precision.methods import METHODS, Range


def batches(n=4, rows=3, seed=0):
    rng = np.random.default_rng(seed)
    for i in range(n):
        yield Batch({"x": rng.standard_normal((rows, 5)).astype(np.float32)}, i * rows, rows)


def run(feeds):
    x = feeds["x"]
    return {"x": x, "relu": np.maximum(x, 0), "zero": 0 * x, "bad": np.where(x > 1, np.nan, x),
            "never": np.full_like(x, np.nan)}


def made(**of) -> Calibration:
    axes = {"x": 1, "relu": None, "zero": -1, "bad": 1, "never": -1}
    return calibrate(run, axes, batches(), layers={"x": "conv1"}, **{"model": "m" * 64, "graph": "g1", **of})


def test_a_saved_calibration_gives_the_same_ranges(tmp_path):
    c = made()
    path = tmp_path / "a.calib"
    c.save(path)
    back = Calibration.load(path, Expect("m" * 64, "g1", "", "", ("x", "relu")))
    assert back.to_json() == c.to_json() == path.read_text()
    assert back.hash() == c.hash()
    for name in c.tensors:
        for method in (*METHODS, "percentile:99"):
            for symmetric in (False, True):
                assert back.range(name, method, symmetric) == c.range(name, method, symmetric)
        a, b = c.tensors[name].seen.channels, back.tensors[name].seen.channels
        if a is not None:
            np.testing.assert_array_equal(a.mean, b.mean)
            np.testing.assert_array_equal(a.largest, b.largest)
    assert (back.samples, back.batches) == (12, 4)
    assert back.tensors["x"].layer == "conv1"
    # what was never seen has no range
    assert "never" not in back.ranges()
    assert "zero" in back.ranges()


def test_a_cache_can_go_on_collecting():
    first, second = made(), made()
    merged = Calibration.from_json(first.to_json()).tensors["x"].seen.merge(second.tensors["x"].seen)
    assert merged.count == 2 * first.tensors["x"].seen.count
    assert merged.batches == 8


def test_the_file_can_be_read_by_people_and_a_range_set_by_hand():
    d = json.loads(made().to_json())
    t = next(t for t in d["tensors"] if t["name"] == "relu")
    assert t["ranges"]["minmax"] == [0.0, t["high"]]
    assert set(t["ranges"]) == {"minmax", "percentile:99.99", "mse", "entropy"}
    t["set"] = [-1.0, 4.0]
    c = Calibration.from_json(json.dumps(d))
    assert c.range("relu", "mse") == Range(-1.0, 4.0)
    assert c.range("relu", "mse", symmetric=True) == Range(-4.0, 4.0)


def test_a_tensor_that_was_not_observed_has_no_range():
    with pytest.raises(InputError, match="'y' was not calibrated"):
        made().range("y")


@pytest.mark.parametrize(("expect", "what"), [
    (Expect(model="n" * 64), "another model"), (Expect(graph="g2"), "prepared"), (Expect(data="d"), "other data"),
    (Expect(preprocessing="image:resize=3"), "other preprocessing"), (Expect(names=("x", "y", "z")), "lacks 2 of 3")])
def test_a_cache_of_something_else_is_refused_with_what_differs(tmp_path, expect, what):
    path = tmp_path / "c"
    made().save(path)
    with pytest.raises(CacheError, match=what) as e:
        Calibration.load(path, expect)
    assert "calibrate again" in str(e.value)
    assert str(path) in str(e.value)


def test_unreadable_files_are_typed_errors(tmp_path, monkeypatch):
    with pytest.raises(CacheError, match="cannot be read"):
        Calibration.load(tmp_path / "none")
    with pytest.raises(CacheError, match="cannot be read"):
        Calibration.load(tmp_path)
    path = tmp_path / "c"
    made().save(path)
    monkeypatch.setattr(cache, "MAX_BYTES", 100)
    with pytest.raises(CacheError, match="too large"):
        Calibration.load(path)


def mutated(edit) -> str:
    d = json.loads(made().to_json())
    x = next(t for t in d["tensors"] if t["name"] == "x")
    edit(d, x)
    return json.dumps(d)


EDITS = {
    "kind": lambda d, x: d.update(kind="other"), "newer": lambda d, x: d.update(schema=99),
    "older": lambda d, x: d.update(schema=0), "no samples": lambda d, x: d.update(samples=0),
    "batches": lambda d, x: d.update(batches=1000), "twice": lambda d, x: d["tensors"].append(x),
    "unknown field": lambda d, x: x.update(sett=[0, 1]), "set": lambda d, x: x.update(set=[1.0, 2.0]),
    "set too large": lambda d, x: x.update(set=[0, 1e39]), "range": lambda d, x: x["ranges"].update(mse=[3, -3]),
    "reversed": lambda d, x: x.update(low=x["high"], high=x["low"]), "too high": lambda d, x: x.update(high=1e300),
    "no low": lambda d, x: x.pop("low"), "exponent": lambda d, x: x.update(exponent=5),
    "huge exponent": lambda d, x: x.update(exponent=10**9), "first": lambda d, x: x.update(first=0),
    "bins": lambda d, x: x.update(bins=10**12), "no bins": lambda d, x: x.update(bins=0),
    "counts": lambda d, x: x.update(counts="AAAA"), "not base64": lambda d, x: x.update(counts="\u00e9"),
    "count": lambda d, x: x.update(count=7), "negative": lambda d, x: x.update(nan=-1),
    "zeros": lambda d, x: x.update(zeros=x["count"]), "growth": lambda d, x: x.update(growth=[[9, 0, 1]]),
    "long growth": lambda d, x: x.update(growth=[[0, 0, 0]] * (EVENTS + 1)), "sum": lambda d, x: x.update(squares=-1.0),
    "channels": lambda d, x: x["channels"].update(number=6),
    "many channels": lambda d, x: x["channels"].update(number=10**15),
    "channel axis": lambda d, x: x["channels"].update(axis=1000),
    "channel order": lambda d, x: x["channels"].update(low=x["channels"]["high"], high=x["channels"]["low"]),
    "channel nan": lambda d, x: x["channels"].update(low=cache_file._pack(np.full(5, np.nan), "<f8")),
}


@pytest.mark.parametrize("name", EDITS)
def test_numbers_that_cannot_be_are_refused(name):
    with pytest.raises(CacheError, match="malformed"):
        Calibration.from_json(mutated(EDITS[name]))


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b"null", b"\xff\xfe", b"{" * 100_000, b"[" * 100_000])
def test_what_is_no_cache_is_refused(text):
    with pytest.raises(CacheError):
        Calibration.from_json(text)


def test_no_mutation_of_the_file_gives_an_untyped_error():
    rng = random.Random(0)
    text = made().to_json()
    words = ["null", "1e999", "-1", "9" * 30, '"x"', "[]", "{}", "NaN", "true", "0.5", '"' + "A" * 50 + '"']
    refused = 0
    for _ in range(1500):
        s = text
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(s))
            kind = rng.randrange(4)
            if kind == 0:
                s = s[:at] + chr(rng.randrange(32, 127)) + s[at + 1:]
            elif kind == 1:
                s = s[:at] + s[at + rng.randint(1, 40):]
            elif kind == 2:
                s = s[:at] + s[rng.randrange(len(s)):][:rng.randint(1, 60)] + s[at:]
            else:  # another value for a field
                colon = s.find(": ", at)
                end = min((e for e in (s.find(c, colon) for c in ",\n]}") if e > 0), default=len(s))
                s = s[:colon + 2] + rng.choice(words) + s[end:] if colon > 0 else s
        try:
            c = Calibration.from_json(s)
            for n in c.tensors:
                assert c.range(n, "minmax").low <= 0
                c.range(n, "mse")
        except WhetError:
            refused += 1
    assert refused > 800


def test_an_observed_tensor_that_the_model_does_not_give_is_named():
    with pytest.raises(InputError, match="does not give 1 tensors"):
        calibrate(run, {"x": None, "y": None}, batches())


def test_no_samples_are_refused_and_one_is_warned_of():
    with pytest.raises(InputError, match="no samples"):
        calibrate(run, {"x": None}, [])
    c = calibrate(run, {"x": None}, batches(1, 1))
    assert any("one sample only" in w for w in c.warnings)
    assert Calibration.from_json(c.to_json()).warnings == c.warnings
    assert not made().warnings


def test_channels_that_change_in_number_are_named():
    rows = [Batch({"x": np.ones((2, n), np.float32)}, 0, 2) for n in (3, 4)]
    with pytest.raises(InputError, match="the channels of 'x' change in number"):
        calibrate(run, {"x": 1}, rows)


def test_what_a_batch_repeats_does_not_count():
    x = np.arange(8, dtype=np.float32).reshape(4, 2)
    c = calibrate(run, {"x": None}, [Batch({"x": x}, 0, 3)])
    assert c.tensors["x"].seen.count == 6
    assert c.tensors["x"].seen.high == 5


def test_threads_and_progress():
    told = []
    a = calibrate(run, {"x": 1, "relu": 1}, batches(), threads=1, progress=lambda *p: told.append(p))
    b = calibrate(run, {"x": 1, "relu": 1}, batches(), threads=3)
    assert told == [(3, None), (6, None), (9, None), (12, None)]
    assert a.hash() == b.hash()
    assert a.peak_bytes > 1 << 20
