"""What is finished stays finished: lines are whole or they are not there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from whet.compare.journal import Journal
from whet.errors import InputError, OutputError


def filled(path: Path) -> None:
    j = Journal(path, {"model": "m"})
    j.add("a", [1, 2])
    j.add("b", {"x": 1.5})
    j.close()


def test_what_was_added_is_there_again(tmp_path: Path) -> None:
    filled(tmp_path / "j")
    j = Journal(tmp_path / "j", {"model": "m"})
    assert "a" in j
    assert j.get("a", list[int]) == [1, 2]
    assert "c" not in j
    with pytest.raises(InputError, match="damaged"):
        j.get("a", dict[str, int])
    j.close()


@pytest.mark.parametrize("cut", [1, 5, 12])
def test_a_line_that_was_cut_short_is_dropped(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "j"
    filled(path)
    path.write_bytes(path.read_bytes()[:-cut])
    j = Journal(path, {"model": "m"})
    assert list(j.found) == ["a"]
    j.add("c", 3)
    j.close()
    assert [json.loads(line).get("key") for line in path.read_text().splitlines()] == [None, "a", "c"]


def test_lines_behind_a_damaged_one_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "j"
    filled(path)
    first, _, b = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([first, b"\x00\xff garbage", b, b""]))
    j = Journal(path, {"model": "m"})
    assert not j.found
    j.close()


def test_another_comparison_is_refused_and_says_what_differs(tmp_path: Path) -> None:
    filled(tmp_path / "j")
    with pytest.raises(InputError, match="another comparison") as e:
        Journal(tmp_path / "j", {"model": "other"})
    assert "model" in e.value.why


@pytest.mark.parametrize("data", [b"hello\n", b"{}\n", b'{"journal": 99, "settings": {}}\n', b"[" * 100000 + b"\n"])
def test_what_is_no_journal_is_left_as_it_is(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "j").write_bytes(data)
    with pytest.raises(InputError):
        Journal(tmp_path / "j", {})
    assert (tmp_path / "j").read_bytes() == data


def test_two_at_once_do_not_write(tmp_path: Path) -> None:
    j = Journal(tmp_path / "j", {})
    with pytest.raises(OutputError, match="another comparison writes here"):
        Journal(tmp_path / "j", {})
    j.close()
    Journal(tmp_path / "j", {}).close()
    with pytest.raises(OutputError):
        Journal(tmp_path / "absent" / "j", {})
