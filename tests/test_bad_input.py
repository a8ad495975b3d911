"""Bad input on the command line: one clear error (what, where, why, what to do), exit code 2, nothing half-written."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import resource
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from whet import demo

F32, I64 = TensorProto.FLOAT, TensorProto.INT64
WHET = [sys.executable, "-m", "whet.cli.main"]


def whet(*arguments: object, cwd: Path, start: Sequence[str] = (),
         before: Callable[[], None] | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "WHET_CACHE": str(cwd / "cache"), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run([*start, *WHET, *map(str, arguments)], cwd=cwd, env=environment, capture_output=True,
                          text=True, timeout=120, check=False, preexec_fn=before)


def assert_clear(done: subprocess.CompletedProcess[str], code: str, *words: str) -> None:
    """One message with a code, a why and a do; the words in it; no traceback; exit code 2."""
    text = done.stderr
    assert done.returncode == 2, (done.returncode, done.stdout, text)
    assert "Traceback" not in text
    assert "Traceback" not in done.stdout
    assert len(re.findall(r"^\[W\d", text, re.MULTILINE)) == 1, text
    assert f"[{code}" in text, text
    assert "  do: " in text, text
    for word in words:
        assert word in text, (word, text)


def save(path: Path, nodes: list[onnx.NodeProto], inputs: dict[str, tuple[int, list[object]]], output: str = "y",
         initializers: tuple[TensorProto, ...] = (), opsets: tuple[onnx.OperatorSetIdProto, ...] = ()) -> None:
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info(n, *t) for n, t in inputs.items()],
                              [helper.make_tensor_value_info(output, F32, None)], list(initializers))
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21), *opsets])
    path.write_bytes(made.SerializeToString())


def external(location: str) -> TensorProto:
    t = TensorProto(name="w", data_type=F32, dims=[4, 4], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", "0"), ("length", "64")):
        t.external_data.add(key=key, value=value)
    return t


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a good model, its plan, good inputs, and everything that is wrong."""
    f = tmp_path_factory.mktemp("bad")
    good = demo.model_bytes()
    (f / "good.onnx").write_bytes(good)
    (f / "text.onnx").write_text("hello, this is no model")
    (f / "truncated.onnx").write_bytes(good[:len(good) // 2])
    x = {"x": (F32, [4, 4])}
    product = [helper.make_node("MatMul", ["x", "w"], ["y"], name="product")]
    save(f / "lost.onnx", product, x, initializers=(external("weights.bin"),))
    (f.parent / "outside.bin").write_bytes(bytes(64))
    save(f / "escaping.onnx", product, x, initializers=(external("../outside.bin"),))
    save(f / "cyclic.onnx", [helper.make_node("Add", ["x", "b"], ["a"], name="first"),
                             helper.make_node("Relu", ["a"], ["b"], name="second"),
                             helper.make_node("Relu", ["b"], ["y"])], x)
    save(f / "types.onnx", [helper.make_node("Add", ["x", "i"], ["y"], name="mixed")], x,
         initializers=(numpy_helper.from_array(np.ones(4, np.int64), "i"),))
    save(f / "shapes.onnx", [helper.make_node("Add", ["x", "i"], ["y"], name="misfit")], x,
         initializers=(numpy_helper.from_array(np.ones(3, np.float32), "i"),))
    save(f / "unknown.onnx", [helper.make_node("Frobnicate", ["x"], ["y"], name="odd")], x)
    save(f / "custom.onnx", [helper.make_node("Frobnicate", ["x"], ["y"], name="odd", domain="acme")], x,
         opsets=(helper.make_opsetid("acme", 1),))
    save(f / "other.onnx", [helper.make_node("Relu", ["x"], ["y"])], x)
    image = np.zeros((2, 1, 8, 8), np.float32)
    np.savez(f / "x.npz", image=image)
    np.savez(f / "shape.npz", image=image[:, :, :5])
    np.savez(f / "rank.npz", image=image[0])
    np.savez(f / "type.npz", image=image.astype(np.float64))
    np.savez(f / "name.npz", picture=image)
    np.savez(f / "extra.npz", image=image, mask=image)
    np.savez(f / "large.npz", image=np.zeros((200, 1, 8, 8), np.float32))
    np.savez(f / "objects.npz", image=np.array([{}], dtype=object))
    (f / "text.npz").write_text("not arrays")
    (f / "damaged.json").write_text('{"schema": 1, "entries": ')
    done = whet("build", "good.onnx", "-o", "good.plan", "--opt-level", 0, cwd=f)
    assert done.returncode == 0, done.stderr
    plan = (f / "good.plan").read_bytes()
    (f / "cut.plan").write_bytes(plan[:len(plan) - 1000])
    (f / "flipped.plan").write_bytes(plan[:5000] + bytes([plan[5000] ^ 1]) + plan[5001:])
    (f / "a-folder").mkdir()
    return f


BUILD = ("-o", "new.plan", "--opt-level", 0)
RUN = ("-o", "new.npz")

CASES: dict[str, tuple[tuple[object, ...], str, tuple[str, ...]]] = {
    # models
    "no such file": (("build", "none.onnx", *BUILD), "W101", ("none.onnx", "not there")),
    "a folder": (("build", "a-folder", *BUILD), "W101", ("a-folder", "folder")),
    "not an ONNX file": (("build", "text.onnx", *BUILD), "W101", ("text.onnx", "not an ONNX model")),
    "a truncated one": (("build", "truncated.onnx", *BUILD), "W101", ("truncated.onnx", "truncated")),
    "missing external data": (("build", "lost.onnx", *BUILD), "W101", ("weights.bin",)),
    "a path that escapes its folder": (("build", "escaping.onnx", *BUILD), "W101", ("../outside.bin",)),
    "a cyclic graph": (("build", "cyclic.onnx", *BUILD), "W102", ("cycle", "first")),
    "a type error": (("build", "types.onnx", *BUILD), "W102", ("mixed",)),
    "a shape error": (("build", "shapes.onnx", *BUILD), "W102", ("misfit",)),
    "an unknown operator": (("build", "unknown.onnx", *BUILD), "W103", ("Frobnicate", "odd")),
    "an operator of an unknown domain": (("build", "custom.onnx", *BUILD), "W103", ("Frobnicate", "acme")),
    # options
    "a malformed shape": (("build", "good.onnx", *BUILD, "--shapes", "image:ax3"), "W200", ("image:ax3",)),
    "a shape for no input": (("build", "good.onnx", *BUILD, "--shapes", "img:1x1x8x8"), "W20", ("img", "image")),
    "a shape that cannot be": (("build", "good.onnx", *BUILD, "--shapes", "image:1x1x9x9"), "W20", ("image",)),
    "a profile upside down": (("build", "good.onnx", *BUILD, "--min-shapes", "image:9x1x8x8", "--max-shapes",
                               "image:2x1x8x8"), "W20", ()),
    "an unknown option": (("build", "good.onnx", *BUILD, "--frobnicate"), "W200", ("--frobnicate",)),
    "an unknown target": (("build", "good.onnx", *BUILD, "--target", "toaster"), "W103", ("toaster",)),
    "a damaged timing cache": (("build", "good.onnx", "-o", "new.plan", "--timing-cache", "damaged.json"), "W401",
                               ("damaged.json",)),
    # inputs
    "an input of the wrong shape": (("run", "good.plan", "--inputs", "shape.npz", *RUN), "W20", ("image", "5")),
    "an input of the wrong rank": (("run", "good.plan", "--inputs", "rank.npz", *RUN), "W20", ("image",)),
    "an input of the wrong type": (("run", "good.plan", "--inputs", "type.npz", *RUN), "W20", ("image", "float64")),
    "an input of the wrong name": (("run", "good.plan", "--inputs", "name.npz", *RUN), "W20", ("picture", "image")),
    "an input too many": (("run", "good.plan", "--inputs", "extra.npz", *RUN), "W20", ("mask",)),
    "a batch outside the profile": (("run", "good.plan", "--inputs", "large.npz", *RUN), "W201", ("200", "batch")),
    "inputs that are objects": (("run", "good.plan", "--inputs", "objects.npz", *RUN), "W200", ("objects.npz",)),
    "inputs that are no arrays": (("run", "good.plan", "--inputs", "text.npz", *RUN), "W200", ("text.npz",)),
    "inputs that are not there": (("run", "good.plan", "--inputs", "none.npz", *RUN), "W200", ("none.npz",)),
    # plans
    "not a plan": (("run", "x.npz", "--inputs", "x.npz", *RUN), "W301", ("x.npz",)),
    "a truncated plan": (("run", "cut.plan", "--inputs", "x.npz", *RUN), "W301", ("cut.plan",)),
    "a damaged plan": (("run", "flipped.plan", "--inputs", "x.npz", *RUN), "W301", ("flipped.plan",)),
    "a folder for a plan": (("inspect", "a-folder"), "W301", ("a-folder",)),
    # bench and sign
    "an unknown backend": (("bench", "good.plan", "--backends", "toaster"), "W200", ("toaster", "whet")),
    "a peer without the model": (("bench", "good.plan", "--backends", "onnxruntime"), "W200", ("--model",)),
    "a model that is none": (("bench", "good.plan", "--model", "text.onnx"), "W101", ("text.onnx",)),
    "another model than the plan's": (("bench", "good.plan", "--model", "other.onnx"), "W200", ("other.onnx",)),
    "a key that is none": (("sign", "good.plan", "--key", "x.npz"), "W304", ()),
    "sign without a key": (("sign", "good.plan"), "W200", ("--key",)),
    # outputs
    "a folder that is not there": (("build", "good.onnx", "-o", "none/new.plan", "--opt-level", 0), "W500", ("none",)),
    "a device for an output": (("run", "good.plan", "--inputs", "x.npz", "-o", "/dev/full"), "W500", ("/dev/full",)),
}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def called(arguments: tuple[object, ...], cwd: Path) -> subprocess.CompletedProcess[str]:
    """The command line, in this process, which is for it alone."""
    from whet.cli import main

    os.chdir(cwd)
    os.environ["WHET_CACHE"] = str(cwd / "cache")
    sys.argv = ["whet", *map(str, arguments)]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        sys.stdout, sys.stderr = (os.fdopen(fd, "w", closefd=False) for fd in (1, 2))
        code: Any = 0
        try:
            main.main()
        except SystemExit as e:
            code = e.code or 0
        except BaseException:
            traceback.print_exc()
            code = 1
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        for file in (out, err):
            file.seek(0)
        return subprocess.CompletedProcess(sys.argv, code, out.read().decode(), err.read().decode())


@pytest.fixture(scope="module")
def refusals(folder: Path) -> dict[str, subprocess.CompletedProcess[str]]:
    """Every case's outcome, each of a process forked from one that has imported the command line."""
    before = contents(folder)
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["whet.cli.main", "whet.builder", "onnx"])
    with processes.Pool(2, maxtasksperchild=1) as pool:
        done = dict(zip(CASES, pool.starmap(called, [(case[0], folder) for case in CASES.values()], chunksize=1)))
    assert contents(folder) == before, "something was written or changed"
    return done


@pytest.mark.parametrize("case", CASES)
def test_is_one_clear_error(case: str, refusals: dict[str, subprocess.CompletedProcess[str]]) -> None:
    _, code, words = CASES[case]
    assert_clear(refusals[case], code, *words)


# -- disks and permissions -----------------------------------------------------------------------


def limited(size: int) -> Callable[[], None]:
    """For a child: no file may grow beyond `size` bytes, as if the disk ended there."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.parametrize(("command", "output", "size"), [
    (("build", "good.onnx", "--opt-level", 0), "new.plan", 100_000), (("run", "good.plan", "--inputs", "x.npz"),
                                                                     "new.npz", 100)])
def test_a_write_that_breaks_off_leaves_nothing(command: tuple[object, ...], output: str, size: int, folder: Path,
                                                tmp_path: Path) -> None:
    done = whet(*command, "-o", tmp_path / output, cwd=folder, before=limited(size))
    assert_clear(done, "W500", "File too large")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def small_disk() -> list[str]:
    """A command's beginning that runs a shell where a disk of 64 KiB can be mounted; skips where none can."""
    start = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    try:
        tried = subprocess.run([*start, "mount -t tmpfs -o size=64k tmpfs /mnt"], capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("unshare is not there")
    if tried.returncode != 0:
        pytest.skip("mounting is not permitted here")
    return start


@pytest.mark.parametrize("option", ["size=64k", "ro"])
def test_a_full_or_read_only_disk(option: str, folder: Path, tmp_path: Path, small_disk: list[str]) -> None:
    script = (f"mount -t tmpfs -o {option} tmpfs '{tmp_path}' && {' '.join(WHET)} build good.onnx "
              f"-o '{tmp_path}/new.plan' --opt-level 0; code=$?; ls -A '{tmp_path}'; exit $code")
    done = subprocess.run([*small_disk, script], cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert_clear(done, "W500", "new.plan", "No space" if option == "size=64k" else "Read-only")
    assert done.stdout.strip() == "", "something was left on the disk"


def test_a_full_disk_under_the_cache(folder: Path, tmp_path: Path, small_disk: list[str]) -> None:
    script = (f"mount -t tmpfs -o size=8k tmpfs '{tmp_path}' && {' '.join(WHET)} build good.onnx -o new.plan "
              f"--timing-cache '{tmp_path}/timing.json' --opt-level 1; code=$?; "
              f"cd '{tmp_path}'; cat $(ls -A); exit $code")
    done = subprocess.run([*small_disk, script], cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert_clear(done, "W401", "timing.json", "No space")
    json.loads(done.stdout or "{}")  # what was saved before the disk was full is whole
    assert not (folder / "new.plan").exists()


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[tuple[Path, list[str]]]:
    """A folder that may be read but not written to, and the beginning of a command that this binds (root it would
    not: it becomes an ordinary user of a namespace of its own)."""
    folder = tmp_path / "locked"
    folder.mkdir()
    (folder / "good.onnx").write_bytes(demo.model_bytes())
    folder.chmod(0o555)
    start = ["unshare", "--user", "--map-user=1000", "--map-group=1000"] if os.getuid() == 0 else []
    try:
        tried = subprocess.run([*start, "sh", "-c", f"! touch '{folder}/x'"], capture_output=True, check=False)
        if tried.returncode:
            pytest.skip("permissions do not bind here")
        yield folder, start
    except FileNotFoundError:
        pytest.skip("unshare is not there")
    finally:
        folder.chmod(0o755)


def test_a_read_only_folder(locked: tuple[Path, list[str]]) -> None:
    folder, start = locked
    done = whet("build", "good.onnx", "-o", "new.plan", "--opt-level", 0, cwd=folder, start=start)
    assert_clear(done, "W500", "new.plan", "Permission denied")
    assert [p.name for p in folder.iterdir()] == ["good.onnx"]


def test_no_write_permission_for_the_cache(locked: tuple[Path, list[str]], tmp_path: Path) -> None:
    folder, start = locked
    done = whet("build", "good.onnx", "-o", tmp_path / "new.plan", "--opt-level", 1, cwd=folder, start=start)
    assert_clear(done, "W401", "cache", "Permission denied", "--timing-cache")
    assert not (tmp_path / "new.plan").exists()
    assert [p.name for p in folder.iterdir()] == ["good.onnx"]
