"""`whet lock` writes what is here, and says what differs and what restores it."""

import json
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import msgspec
import pytest

from command_line import Whet, command_line
from whet.errors import InputError
from whet.lock import Lock, Machine, check, here, matrix, read
from whet.measure import tools

BASE = Lock(python="3.12.4", packages={"numpy": "2.4.6", "onnx": "1.23.2"}, libraries={"llvm": "22.1.0"},
            machine=Machine(cpu="A", kernel="6.1"))
PAGE = Path(__file__).parents[1] / "docs" / "lock.md"


@pytest.fixture
def whet(monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes], tmp_path: Path) -> Whet:
    return command_line(monkeypatch, capsysbinary, tmp_path)


def changed(**fields: object) -> Lock:
    return msgspec.structs.replace(BASE, **fields)


def test_packaged_schema_equals_the_types() -> None:
    assert matrix.schema() == matrix.generate_schema(), "python -m whet.lock.matrix writes it"


def test_a_lock_is_the_same_bytes_again_and_keeps_its_schema(tmp_path: Path) -> None:
    first, second = here(), here()
    assert first.encode() == second.encode()
    jsonschema.validate(json.loads(first.encode()), matrix.schema())
    (tmp_path / "whet.lock").write_bytes(first.encode())
    assert read(tmp_path / "whet.lock") == first


def test_it_locks_what_records_carry_and_llvm() -> None:
    found = here()
    carried = dict(tools.tools())
    assert found.python == carried.pop("python")
    carried.pop("nvidia-driver", None)
    assert found.packages == carried
    assert re.fullmatch(r"\d+\.\d+\.\d+", found.libraries["llvm"])


def test_the_same_environment_holds() -> None:
    assert check(BASE, BASE) == check(BASE, BASE, machine=True)
    assert check(BASE, BASE).held


@pytest.mark.parametrize(("found", "kind", "name"), [
    (changed(python="3.12.5"), "python", "python"), (changed(libraries={"llvm": "22.1.1"}), "library", "llvm"),
    (changed(libraries={}), "library", "llvm"),
    (changed(packages={"numpy": "2.4.5", "onnx": "1.23.2"}), "package", "numpy"),
])
def test_any_version_that_differs_is_found(found: Lock, kind: str, name: str) -> None:
    result = check(BASE, found)
    assert not result.held
    assert [(d.kind, d.name) for d in result.differences] == [(kind, name)]


def test_pip_lines_restore_what_differs() -> None:
    result = check(BASE, changed(packages={"numpy": "2.4.5", "torch": "2.9.0", "openvino": "2026.1"}))
    assert result.restore == ("pip install 'numpy==2.4.6' 'onnx==1.23.2'", "pip uninstall --yes openvino torch")


def test_the_machine_counts_only_if_asked() -> None:
    other = changed(machine=Machine(cpu="B", kernel="6.1"))
    assert check(BASE, other).held
    assert [d.name for d in check(BASE, other).differences] == ["cpu"]
    assert not check(BASE, other, machine=True).held


@pytest.mark.parametrize("data", [
    b"", b"{", b"[]", b"\xff", b"[" * 100_000, b'{"schema": 1}', b'{"schema": 9, "python": "3"}', b'{"schema": "x"}',
    b'{"python": "3.12", "packages": {"numpy": 2}}', b'{"python": "3.12", "packages": {}, "more": 1}',
    b'{"python": "3.12", "packages": {"x\'; rm -rf .": "1"}}', b'{"python": "3.12", "packages": {"x": "1\'; ls"}}',
    b'{"python": "3.12", "packages": {"--index-url": "1"}}', b" " * (matrix.MOST_BYTES + 1),
])
def test_what_is_no_lock_is_one_clear_error(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "whet.lock"
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"whet\.lock"):
        read(path)


def test_the_command_writes_checks_and_tells(whet: Whet) -> None:
    assert whet("lock", "--constraints", "c.txt")[0] == 0
    assert "numpy==" in Path("c.txt").read_text()
    code, out, _ = whet("lock", "--check")
    assert (code, "as it is locked" in out) == (0, True)
    lock = json.loads(Path("whet.lock").read_bytes())
    right, lock["packages"]["numpy"] = lock["packages"]["numpy"], "1.0"
    Path("whet.lock").write_text(json.dumps(lock))
    code, out, _ = whet("lock", "--check")
    assert code == 1
    assert "pip install 'numpy==1.0'" in out
    code, out, _ = whet("lock", "--check", "--json")
    assert code == 1
    assert json.loads(out)["differences"] == [{"kind": "package", "name": "numpy", "locked": "1.0", "found": right}]


def test_stdout_gets_the_lock_alone(whet: Whet) -> None:
    code, out, _ = whet("lock", "-o", "-")
    assert code == 0
    assert out.encode() == here().encode()
    assert not Path("whet.lock").exists()


@pytest.mark.parametrize("arguments", [("--check",), ("-o", "-", "--check"), ("--machine",), ("-o", "no/such/x")])
def test_bad_input_ends_with_2(whet: Whet, arguments: tuple[str, ...]) -> None:
    code, _, err = whet("lock", *arguments)
    assert code == 2
    assert err.strip()


def test_the_page_does_what_it_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    exec(compile(block, "docs/lock.md", "exec"), {})
    assert Path("whet.lock").is_file()


def test_records_do_not_import_what_they_name() -> None:
    """Versions come from metadata: a record costs no import of a heavy package."""
    code = ("import sys; from whet.measure import tools; tools.stamp(); "
            "print([m for m in ('llvmlite', 'onnxruntime', 'torch', 'openvino', 'triton') if m in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
