"""Outcome files: what is read, and what is refused with a sentence."""

import json
from pathlib import Path

import numpy as np
import pytest

from whet.decide.outcomes import Outcomes, match, read
from whet.errors import InputError


def _read(path: Path, column: str = "") -> Outcomes:
    found = read(path, column)
    assert isinstance(found, Outcomes)
    return found


@pytest.mark.parametrize(("name", "text"), [
    ("a.csv", "id,outcome\nx,1\ny,0\n"), ("a.csv", "\ufeffid,outcome\r\nx,true\r\ny,False\r\n"),
    ("a.csv", 'id,note,outcome\nx,"a, b",1\ny,,0\n'),
    ("a.json", '{"x": 1, "y": 0}'), ("a.json", '[{"id": "x", "outcome": 1}, {"id": "y", "outcome": 0}]'),
    ("a.json", '{"outcomes": {"x": true, "y": false}, "device": "T4", "label": "v1"}')])
def test_one_content_in_many_forms(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, "utf-8")
    found = _read(tmp_path / name)
    assert found.ids == ("x", "y")
    assert found.values.tolist() == [1, 0]
    assert found.binary
    assert (found.device, found.label) in (("T4", "v1"), ("", name))


def test_numpy_files_and_lists(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", id=np.arange(3), right=np.array([True, False, True]))
    assert _read(tmp_path / "a.npz").ids == ("0", "1", "2")
    np.save(tmp_path / "a.npy", np.array([1.5, 2.5]))
    assert _read(tmp_path / "a.npy").ids is None
    (tmp_path / "a.json").write_text("[1, 0, 1]")
    assert _read(tmp_path / "a.json").values.tolist() == [1, 0, 1]
    (tmp_path / "b.csv").write_text("id,ms,watts\n1,2,3\n")
    assert _read(tmp_path / "b.csv", "ms").values.tolist() == [2]


@pytest.mark.parametrize(("name", "text"), [
    ("a.json", "{"), ("a.json", "3"), ("a.json", '{"x": "yes"}'), ("a.json", "[]"), ("a.json", "[1, null]"),
    ("a.json", "[1, [2]]"), ("a.json", '[{"id": "x", "outcome": 1}, {"id": "y"}]'), ("a.json", "[" * 100_000),
    ("a.csv", ""), ("a.csv", "id,outcome\n"), ("a.csv", "id,outcome\nx,1,2\n"), ("a.csv", "id,outcome\nx\n"),
    ("a.csv", "id,outcome\nx,nan\n"), ("a.csv", "id,outcome\nx,1e999\n"), ("a.csv", "id,outcome\nx,\n"),
    ("a.csv", "id,outcome\nx,1\nx,0\n"), ("a.csv", 'id,outcome\n"x,1\n'), ("a.csv", "id,a,b\nx,1,2\n"),
    ("a.csv", "id,outcome\nx,=cmd|' /C calc'!A0\n"), ("a.csv", "id,outcome\n" + "x" * 200_000 + ",1\n"),
    ("a.npz", "no zip"), ("a.npy", ""), ("a.txt", "1"), ("a.json", '{"x": 1e400}')])
def test_what_is_no_outcomes_is_refused_with_its_place(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError) as e:
        read(tmp_path / name)
    assert "a." in str(e.value.where)


def test_more_that_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read(tmp_path / "none.csv")
    (tmp_path / "latin.csv").write_bytes(b"id,outcome\n\xff,1\n")
    with pytest.raises(InputError, match="UTF-8"):
        read(tmp_path / "latin.csv")
    np.save(tmp_path / "o.npy", np.array([{}], object))
    with pytest.raises(InputError, match="arrays cannot be read"):
        read(tmp_path / "o.npy")
    np.savez(tmp_path / "s.npz", id=np.arange(2), right=np.ones(3))
    with pytest.raises(InputError, match="one id"):
        read(tmp_path / "s.npz")
    np.savez(tmp_path / "t.npz", right=np.ones((3, 2)))
    with pytest.raises(InputError, match="one number"):
        read(tmp_path / "t.npz")
    (tmp_path / "c.csv").write_text("id,outcome\nx,1\n")
    with pytest.raises(InputError, match="no column"):
        read(tmp_path / "c.csv", "right")


def test_measurement_records_are_told_from_outcomes(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(json.dumps([{"backend": "whet", "model": {"name": "m"}, "device": 3}]))
    with pytest.raises(InputError, match="not measurements"):
        read(tmp_path / "r.json")


def test_missing_samples_are_refused_dropped_or_wrong() -> None:
    a = Outcomes("a", np.array([1, 1, 0]), ("x", "y", "z"))
    b = Outcomes("b", np.array([1, 1]), ("y", "x"))
    with pytest.raises(InputError, match="only one version"):
        match(a, b)
    x, y = match(a, b, "drop")
    assert x.values.tolist() == y.values.tolist() == [1, 1]
    assert (x.remark, x.changed, y.remark) == ("missing-drop", 1, "")
    x, y = match(a, b, "wrong")
    assert y.values.tolist() == [1, 1, 0]
    assert (x.remark, y.remark, y.changed) == ("", "missing-wrong", 1)
    with pytest.raises(InputError, match="no sample in common"):
        match(a, Outcomes("b", np.ones(1), ("q",)))
    with pytest.raises(InputError, match="ids"):
        match(a, Outcomes("b", np.ones(3)))
    with pytest.raises(InputError, match="without ids"):
        match(Outcomes("a", np.ones(2)), Outcomes("b", np.ones(3)))
    with pytest.raises(InputError, match="cannot count"):
        match(Outcomes("a", np.array([0.5]), ("x",)), Outcomes("b", np.array([0.5, 1]), ("x", "y")), "wrong")


def test_damaged_files_give_outcomes_or_a_sentence(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "seed.npz", id=np.arange(3), right=np.ones(3))
    np.save(tmp_path / "seed.npy", np.ones(3))
    seeds = {".csv": b"id,outcome\nx,1\ny,0\n", ".json": b'{"outcomes": {"x": 1, "y": 0}, "device": "d"}',
             ".npz": (tmp_path / "seed.npz").read_bytes(), ".npy": (tmp_path / "seed.npy").read_bytes()}
    pieces = [b'"', b",", b"\n", b"\x00", b"{", b"1e999", b"null", b"NaN", b"\xff", b""]
    for _ in range(120):
        data = bytearray(seeds[str(rng.choice(list(seeds)))])
        for _ in range(rng.integers(1, 4)):
            at = int(rng.integers(len(data)))
            data[at:at + int(rng.integers(2))] = pieces[int(rng.integers(len(pieces)))]
        file = tmp_path / f"a{rng.choice(list(seeds))}"
        file.write_bytes(bytes(data))
        try:
            found = read(file)
        except InputError:
            continue
        assert isinstance(found, Outcomes)
        assert np.isfinite(found.values).all()
