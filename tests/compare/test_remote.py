"""Another host's records are taken if they are records of this model and batch, and nothing else is."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from pathlib import Path

import comparing
import msgspec
import pytest

from whet import __version__
from whet.compare import remote
from whet.compare.model import compare_model
from whet.errors import InputError, RemoteError
from whet.frontends import model_hash
from whet.measure.record import encode

SHAPES = {"x": (1, 4)}
SHA = "a" * 64


def record(**change: object) -> object:
    found = comparing.row("whet", "fp32", 0.01).record
    return msgspec.structs.replace(found, **{"model": msgspec.structs.replace(found.model, sha256=SHA),
                                             "device": comparing.THERE, **change})


def says(folder: Path, text: bytes, code: int = 0) -> str:
    (folder / "out.json").write_bytes(text)
    return shlex.join([sys.executable, "-c", f"import sys; sys.stdout.buffer.write(open({str(folder / 'out.json')!r}, "
                                             f"'rb').read()); sys.exit({code})", "{model}"])


def bench(template: str) -> list:
    return remote.bench("jetson", template, Path("m.onnx"), SHA, SHAPES, 1)


def test_records_become_rows_of_that_host(tmp_path: Path) -> None:
    [row] = bench(says(tmp_path, encode([record()]), code=1))
    assert (row.place, row.backend, row.batch, row.record.device.name) == ("jetson", "whet", 1, comparing.THERE.name)
    assert row.key == "whet fp32 on jetson, batch 1, 2 threads"


@pytest.mark.parametrize("text", [
    b"", b"hello", b"[]", b"[1]", b'{"a": 1}', b"[" * 100000, b"\xff\xfe\x00",
    encode([record(model=comparing.row("a", "b", 1).record.model)]),  # another model
    encode([record(shapes={"x": (2, 4)})]), encode([record(latency=None)]), encode([record(), record()]),
    encode([record(backend="a\x1b[31m")]), encode([record(backend="b" * 5000)]), encode([record(date="yesterday")]),
    encode([record()]).replace(b'"schema": 4', b'"schema": 99'), encode([record()]).replace(b'"p99"', b'"p98"'),
    encode([record(throughput=None)]).replace(b'"threads": 2', b'"threads": -1')])
def test_what_is_no_measurement_of_this_model_is_refused(tmp_path: Path, text: bytes) -> None:
    with pytest.raises(RemoteError) as e:
        bench(says(tmp_path, text))
    assert e.value.where == "jetson"
    assert len(e.value.why) <= remote.TAIL


def test_a_command_that_fails_says_why_without_escapes() -> None:
    with pytest.raises(RemoteError, match="ended with 3") as e:
        bench(shlex.join([sys.executable, "-c", "import sys; sys.stderr.write('no \\x1b[31mroute'); sys.exit(3)"]))
    assert "no  [31mroute" in e.value.why
    with pytest.raises(RemoteError, match="cannot be started"):
        bench("/nowhere/ssh jetson")


def test_what_it_says_is_bounded_and_all_of_it_ends(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(remote, "MOST_BYTES", 1 << 16)
    with pytest.raises(RemoteError, match="says too much"):
        bench("yes")
    monkeypatch.setattr(remote, "SECONDS", 0.5)
    child = tmp_path / "child"
    start = time.monotonic()
    with pytest.raises(RemoteError, match="takes too long"):
        bench(f"sh -c 'sleep 60 & echo $! > {child}; wait'")
    assert time.monotonic() - start < 30
    pid = int(child.read_text())
    for _ in range(100):
        state = Path(f"/proc/{pid}/stat")
        if not state.exists() or " Z " in state.read_text():
            break
        time.sleep(0.05)
    else:
        os.kill(pid, 9)
        pytest.fail("the command's child lives on")


def test_values_are_quoted_for_the_shell_that_reads_them() -> None:
    given = {"model": "my model'; rm -rf /.onnx", "shapes": "x:1x3", "batch": "1", "json": "-"}
    assert remote.command("whet bench {model} --shapes {shapes}", given) == [
        "whet", "bench", given["model"], "--shapes", "x:1x3"]
    words = remote.command("ssh jetson 'cd x && whet bench {model} --json -'", given)
    assert words[:2] == ["ssh", "jetson"]
    assert shlex.split(words[2])[4] == "bench"
    assert shlex.split(words[2])[5] == given["model"]


@pytest.mark.parametrize("text", ["", "x", "=y", "a b=c", "j=", "j='", "j=a {other}", "j=a {model.__class__.x}",
                                  "j=a {0}", "j=a {"])
def test_a_template_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        remote.parse(text)


def test_a_host_that_runs_whet_bench_itself(tmp_path: Path) -> None:
    """The command of the other host, on this one: the hardware is the same, so that nothing is refused."""
    path = comparing.model(tmp_path)
    code = ("from whet.cli.main import main; import sys; sys.argv[0] = 'whet'; main()")
    template = shlex.join([sys.executable, "-c", code]) + (
        " bench {model} --shapes {shapes} --backends whet --opt-level 0 --seconds 0.02 --no-memory --threads 1"
        " --json -")
    found = compare_model(comparing.options(tmp_path, backends=("onnxruntime",), remotes={"other": template}))
    assert [r.place for r in found.rows] == ["here", "other"]
    assert not found.mixed_hardware
    there = found.rows[1].record
    assert there.model.sha256 == model_hash(path)
    assert there.versions["whet"] == __version__
    assert json.loads(found.encode())["rows"][1]["place"] == "other"
