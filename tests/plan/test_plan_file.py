"""The plan file: equal data gives equal bytes, and what is damaged is refused with a typed error."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_plans import chain

from whet.errors import InternalError, OutputError, PlanFormatError, PlanVersionError
from whet.plan import Plan, hashing, layout, write
from whet.plan.data import IntArg, NativeStep
from whet.plan.program import Tensor


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write(chain(blobs={"extra": b"12345"}, trailer={"built": "today"}, info={"note": "x" * 50}),
          tmp_path / "a.plan")
    return tmp_path / "a.plan"


def forge(raw: bytes, at: int, new: bytes) -> bytes:
    """The plan with some bytes replaced and a hash that fits."""
    out = bytearray(raw)
    out[at : at + len(new)] = new
    body = int.from_bytes(raw[16:24], "little")
    fd = os.memfd_create("forged")
    try:
        os.write(fd, out)
        out[32:64] = hashing.root(fd, body, bytes(out[: layout.PAGE]))
    finally:
        os.close(fd)
    return bytes(out)


def section(raw: bytes, ident: int) -> tuple[int, int]:
    table = np.frombuffer(raw, layout.SECTION, len(layout.SECTIONS), layout.HEADER.itemsize)
    row = table[table["id"] == ident][0]
    return int(row["offset"]), int(row["bytes"])


def test_what_is_written_is_read_back(path: Path) -> None:
    plan = Plan.open(path)
    assert [t.name for t in plan.manifest.inputs] == ["x"]
    assert plan.manifest.dims == {"batch": (1, 4, 64)}
    assert np.array_equal(plan.weight("w"), np.arange(5, dtype=np.float32))
    assert plan.blob("extra") == b"12345"
    assert plan.evidence == {"built": "today"}
    assert plan.summary()["steps"]["native"] == 3
    assert plan.summary()["inputs"] == [{"name": "x", "dtype": "float32", "shape": ["batch", 5]}]


def test_equal_data_gives_equal_bytes_outside_the_trailer(tmp_path: Path) -> None:
    for name, day in (("a", "today"), ("b", "today"), ("c", "tomorrow")):
        write(chain(trailer={"built": day}), tmp_path / name)
    a, b, c = ((tmp_path / n).read_bytes() for n in "abc")
    body = int.from_bytes(a[16:24], "little")
    assert a == b
    assert a[:body] == c[:body]
    assert a != c
    assert Plan.open(tmp_path / "a").hash == Plan.open(tmp_path / "c").hash


def test_a_plan_in_memory_and_its_file_are_the_same(path: Path, tmp_path: Path) -> None:
    plan = Plan.from_data(chain(blobs={"extra": b"12345"}, trailer={"built": "today"}, info={"note": "x" * 50}))
    plan.save(tmp_path / "b.plan")
    assert (tmp_path / "b.plan").read_bytes() == path.read_bytes()


FLIPS = """
import os, sys
from whet.errors import PlanError
from whet.plan import Plan
path, raw = sys.argv[1], open(sys.argv[1], "rb").read()
body = int.from_bytes(raw[16:24], "little")
at = sorted({*range(600), *range(0, body, 13), *range(body, len(raw))})
for i in at:
    for bit in (1, 128):
        with open(path, "r+b") as f:
            f.seek(i)
            f.write(bytes([raw[i] ^ bit]))
        try:
            Plan.open(path)
        except PlanError:
            pass
        else:
            sys.exit(f"byte {i} of {len(raw)}, bit {bit}: not noticed")
        with open(path, "r+b") as f:
            f.seek(i)
            f.write(raw[i:i+1])
Plan.open(path)
for n in sorted({*range(0, len(raw), 61), *range(len(raw) - 64, len(raw)), 4095, 4096, body - 1, body}):
    os.truncate(path, n) if n < os.path.getsize(path) else open(path, "wb").write(raw[:n])
    try:
        Plan.open(path)
    except PlanError:
        pass
    else:
        sys.exit(f"cut to {n} of {len(raw)} bytes: not noticed")
open(path, "wb").write(raw + b"x")
try:
    Plan.open(path)
except PlanError:
    print("done")
"""


def test_every_flipped_byte_and_every_cut_is_a_typed_error(path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FLIPS, str(path)], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout.strip()) == (0, "done"), done.stderr


FORGED = """
import sys
from whet.errors import WhetError
from whet.plan import Plan
for path in sys.stdin.read().split():
    try:
        Plan.open(path)
    except WhetError as e:
        str(e)
print("done")
"""


def test_absurd_numbers_under_a_fitting_hash_never_crash(path: Path, tmp_path: Path) -> None:
    """Each number of each table, replaced by each of these, is refused or harmless; most are refused."""
    raw = path.read_bytes()
    spots = [(i, 4) for i in (8, 12, 24, 28)] + [(16, 8)]
    spots += [(64 + i * 24 + f, 8 if f else 4) for i in range(9) for f in (0, 8, 16)]
    for ident, dtype in ((layout.RUNTIME_S, layout.RUNTIME), (layout.IO_S, layout.IO), (layout.STEPS_S, layout.STEP),
                         (layout.ARGS_S, layout.ARG)):
        start, _ = section(raw, ident)
        spots += [(start + off, t.itemsize) for t, off in (v[:2] for v in dtype.fields.values())]
    names = []
    for at, size in spots:
        for value in (0, 1, 63, 4097, 1 << 31, (1 << 32) - 1, (1 << 63) + 8, (1 << 64) - 1):
            name = tmp_path / f"{at}-{value}"
            try:
                name.write_bytes(forge(raw, at, (value % (1 << 8 * size)).to_bytes(size, "little")))
            except (PlanFormatError, OSError, OverflowError):
                continue  # a body beyond the file: nothing to hash
            names.append(str(name))
    done = subprocess.run([sys.executable, "-c", FORGED], input="\n".join(names), capture_output=True, text=True,
                          timeout=100)
    assert (done.returncode, done.stdout.strip()) == (0, "done"), done.stderr


@pytest.mark.parametrize(("ident", "field", "value"), [
    (layout.STEPS_S, "entry", 1 << 40), (layout.STEPS_S, "entry", 17),
    (layout.STEPS_S, "first_arg", 1 << 63), (layout.STEPS_S, "n_args", 1 << 20),
    (layout.STEPS_S, "expr", 77), (layout.STEPS_S, "grain", 0), (layout.STEPS_S, "reserved", 5),
    (layout.ARGS_S, "kind", 9), (layout.ARGS_S, "index", 3), (layout.ARGS_S, "expr", 5),
    (layout.RUNTIME_S, "run", 1 << 33), (layout.RUNTIME_S, "threads", 0), (layout.RUNTIME_S, "arena_bytes", 1 << 60),
    (layout.RUNTIME_S, "n_inputs", 2), (layout.IO_S, "bytes", 8),
])
def test_a_number_out_of_range_is_refused(path: Path, ident: int, field: str, value: int) -> None:
    raw = path.read_bytes()
    dtype = {layout.STEPS_S: layout.STEP, layout.ARGS_S: layout.ARG, layout.RUNTIME_S: layout.RUNTIME,
             layout.IO_S: layout.IO}[ident]
    t, off = dtype.fields[field][:2]
    path.write_bytes(forge(raw, section(raw, ident)[0] + off, value.to_bytes(t.itemsize, "little")))
    with pytest.raises(PlanFormatError):
        Plan.open(path)


def rewrite_manifest(path: Path, change: dict[str, object]) -> None:
    """The plan with fields of its manifest, or of its program, changed, hash and all (not to a longer text)."""
    raw = path.read_bytes()
    at, size = section(raw, layout.MANIFEST)
    old = json.loads(raw[at : at + size])
    old["programs"][0] |= {k: v for k, v in change.items() if k in old["programs"][0]}
    own = {k: v for k, v in change.items() if k not in old["programs"][0]}
    text = json.dumps(old | {"info": {}} | own, separators=(",", ":")).encode()
    assert len(text) <= size
    path.write_bytes(forge(raw, at, text.ljust(size)))


def test_a_newer_schema_and_a_newer_format_are_version_errors(path: Path) -> None:
    raw = path.read_bytes()
    path.write_bytes(forge(raw, 8, (2).to_bytes(4, "little")))
    with pytest.raises(PlanVersionError, match="format 2"):
        Plan.open(path)
    path.write_bytes(raw)
    rewrite_manifest(path, {"schema": 9})
    with pytest.raises(PlanVersionError, match="schema 9"):
        Plan.open(path)


@pytest.mark.parametrize("change", [
    {"inputs": []}, {"segments": []}, {"blocks": []}, {"programs": []}, {"dims": {}},
    {"dims": {"batch": [5, 4, 3]}}, {"weights": 3},
    {"outputs": [{"name": "y", "dtype": "complex", "shape": []}]},
    {"outputs": [{"name": "y", "dtype": "float32", "shape": [-1]}]},
    {"inputs": [{"name": "x", "dtype": "float32", "shape": [1 << 40, 1 << 40]}]},
    {"blobs": {"extra": {"offset": 3, "bytes": 5}}},
    {"independent": ["nobody"]}, {"independent": ["batch", "batch"]},
    {"independent": ["batch"], "outputs": [{"name": "y", "dtype": "float32", "shape": [5, [[1, ["batch"]]]]}]},
])
def test_a_manifest_that_cannot_be_is_refused(path: Path, change: dict[str, object]) -> None:
    rewrite_manifest(path, change)
    with pytest.raises(PlanFormatError):
        Plan.open(path)


def test_deeply_nested_json_is_refused(tmp_path: Path) -> None:
    write(chain(info={"padding": "x" * 50_000}), tmp_path / "a")
    raw = (tmp_path / "a").read_bytes()
    at, size = section(raw, layout.MANIFEST)
    (tmp_path / "a").write_bytes(forge(raw, at, (b"[" * 25_000 + b"]" * 25_000).ljust(size)))
    with pytest.raises(PlanFormatError):
        Plan.open(tmp_path / "a")


@pytest.mark.parametrize("content", [b"", b"x", b"WHETPLAN", b"\x7fELF" + bytes(5000), b"WHETPLAN" + bytes(5000)])
def test_other_files_are_not_plans(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises((PlanFormatError, PlanVersionError)) as e:
        Plan.open(tmp_path / "a")
    assert str(tmp_path / "a") in str(e.value)


def test_a_missing_file_and_a_folder_are_plan_errors(tmp_path: Path) -> None:
    for p in (tmp_path / "none", tmp_path, Path("/dev/null")):
        with pytest.raises(PlanFormatError):
            Plan.open(p)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO])
def test_a_file_that_cannot_be_written_is_an_output_error_and_leaves_nothing(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    (tmp_path / "a.plan").write_bytes(b"what was there")

    def full(fd: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=os.strerror(code)):
        write(chain(), tmp_path / "a.plan")
    assert [p.name for p in tmp_path.iterdir()] == ["a.plan"]
    assert (tmp_path / "a.plan").read_bytes() == b"what was there"


def test_a_folder_that_is_not_there_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for p in (tmp_path / "none" / "a.plan", tmp_path / "file" / "a.plan"):
        with pytest.raises(OutputError):
            write(chain(), p)


def test_a_step_that_refers_to_nothing_is_an_internal_error(tmp_path: Path) -> None:
    for steps in ([NativeStep("nowhere", (), 1)], [NativeStep("scale", (IntArg([[1, ["unknown"]]]),), 1)]):
        with pytest.raises(InternalError):
            write(chain(steps), tmp_path / "a")


def test_a_dimension_that_no_input_tells_is_refused(tmp_path: Path) -> None:
    inputs = [Tensor("x", "float32", [[[1, [["floordiv", [[1, ["batch"]]], 2]]]], 5])]
    with pytest.raises(PlanFormatError, match="batch"):
        Plan.from_data(chain(inputs=inputs))
    Plan.from_data(chain(inputs=inputs, dims={"batch": (4, 4, 4)}))
