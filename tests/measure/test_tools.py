"""Every record that whet makes says which tools made it."""

import ast
import hashlib
import platform
import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

import whet
from record_samples import measurement
from whet.errors import InputError
from whet.measure import record
from whet.measure import tools as module
from whet.report import rows

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _forget(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """What is read once in a process is read anew, in an empty folder."""
    monkeypatch.delenv(module.LOCK_VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    module.tools.cache_clear()
    module.lock_hash.cache_clear()
    yield
    module.tools.cache_clear()
    module.lock_hash.cache_clear()


def test_the_tools_are_what_is_installed() -> None:
    found = module.tools()
    assert found["whet"] == whet.__version__
    assert found["python"] == platform.python_version()
    assert {name: metadata.version(name) for name in module.CORE}.items() <= found.items()
    assert list(found) == sorted(found)
    assert all(found.values())


def test_what_whet_always_needs_is_what_the_project_says() -> None:
    asked = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["dependencies"]
    assert set(module.CORE) == {re.split(r"[<>=~ ]", d)[0] for d in asked}
    assert not set(module.CORE) & set(module.EXTRAS)


def test_without_a_lock_its_hash_is_empty() -> None:
    assert module.stamp()["lock"] == ""


def test_a_lock_is_found_in_the_folder_or_by_the_variable(monkeypatch, tmp_path: Path) -> None:
    Path("whet.lock").write_bytes(b"{}")
    assert module.lock_hash() == hashlib.sha256(b"{}").hexdigest()
    other = tmp_path / "other.lock"
    other.write_bytes(b"[]")
    monkeypatch.setenv(module.LOCK_VARIABLE, str(other))
    module.lock_hash.cache_clear()
    assert module.lock_hash() == hashlib.sha256(b"[]").hexdigest()


def test_a_lock_that_was_asked_for_and_is_not_there_is_an_error(monkeypatch) -> None:
    monkeypatch.setenv(module.LOCK_VARIABLE, "gone.lock")
    with pytest.raises(InputError, match=r"gone\.lock"):
        module.stamp()


def test_tools_survive_the_file_and_older_records_have_none() -> None:
    made = measurement(**module.stamp())
    assert record.decode(record.encode([made])) == [made]
    assert record.decode(record.encode([measurement()]))[0].tools == {}


def test_a_report_shows_tools_that_differ() -> None:
    found = [measurement(tools={"numpy": "2.4.6", "onnx": "1.23.2"}, lock="a" * 64), measurement(),
             measurement(tools={"numpy": "2.3.0"}, lock="a" * 64)]
    assert rows.tools(found) == "numpy 2.4.6 / 2.3.0, onnx 1.23.2"
    assert rows.locks(found) == "a" * 16


def test_every_maker_of_records_stamps_them() -> None:
    """A record is either stamped, or says which other tool measured."""
    bare = []
    for path in sorted((ROOT / "src").rglob("*.py")):
        text = path.read_text("utf-8")
        for call in ast.walk(ast.parse(text)) if "Measurement(" in text else ():
            if not isinstance(call, ast.Call) or ast.unparse(call.func) != "Measurement":
                continue
            named = {k.arg for k in call.keywords}
            if not named & {"source", "tools", None}:
                bare.append(f"{path.relative_to(ROOT)}:{call.lineno}")
    assert not bare, "add **stamp() of whet.measure.tools"
