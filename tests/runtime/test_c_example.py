"""A plan with static shapes runs from C, with the same bits as from Python."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from tiny_plans import chain, expected

import whet
from whet.plan import Plan

SOURCE = Path(__file__).parent.parent.parent / "examples" / "c" / "run_plan.c"
CC = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
pytestmark = pytest.mark.skipif(CC is None, reason="no C compiler")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("c") / "run_plan"
    flags = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([str(CC), *flags, "-o", str(out), str(SOURCE), "-lpthread"],
                   check=True, timeout=60)
    return out


def call(program: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(program), *map(str, arguments)], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_c_and_python_give_the_same_bits(program: Path, tmp_path: Path, threads: int) -> None:
    plan = Plan.from_data(chain(9, 33, rows=17, threads=4))
    plan.save(tmp_path / "a.plan")
    x = np.random.default_rng(3).standard_normal((17, 33), dtype=np.float32)
    (tmp_path / "x").write_bytes(x.tobytes())
    done = call(program, tmp_path / "a.plan", tmp_path / "x", tmp_path / "y", "-t", threads, "-n", 100)
    assert done.returncode == 0, done.stderr
    y = np.fromfile(tmp_path / "y", np.float32).reshape(17, 33)
    with whet.load(plan) as engine:
        assert np.array_equal(y, engine({"x": x})["y"])
    assert np.array_equal(y, expected(x, 9))


def test_what_cannot_be_run_is_one_line_and_exit_2(program: Path, tmp_path: Path) -> None:
    Plan.from_data(chain(rows=4)).save(tmp_path / "a.plan")
    Plan.from_data(chain()).save(tmp_path / "dynamic.plan")
    (tmp_path / "x").write_bytes(bytes(80))
    (tmp_path / "short").write_bytes(bytes(79))
    (tmp_path / "cut.plan").write_bytes((tmp_path / "a.plan").read_bytes()[:5000])
    x, y = tmp_path / "x", tmp_path / "y"
    for arguments, says in (
            ((), "usage"), ((tmp_path / "a.plan", x), "a file for each"), ((x, x, y), "not a plan"),
            ((tmp_path / "dynamic.plan", x, y), "dynamic"), ((tmp_path / "cut.plan", x, y), "ends early"),
            ((tmp_path / "a.plan", tmp_path / "short", y), "80 bytes"), ((tmp_path / "none", x, y), "opened"),
            ((tmp_path / "a.plan", x, y, "-t", 99), "2 threads")):
        done = call(program, *arguments)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert says in done.stderr
    assert not y.exists()


def test_malformed_tables_are_refused_and_never_crash(program: Path, tmp_path: Path) -> None:
    """Every byte of header and tables set to 255: the program checks these itself (it does not check the hash).

    Only what it can see is refused: a number changed within its range is for the hash to find.
    """
    from whet.plan import layout

    plan = Plan.from_data(chain(rows=4))
    plan.save(tmp_path / "a.plan")
    raw = (tmp_path / "a.plan").read_bytes()
    (tmp_path / "x").write_bytes(bytes(80))
    high = []  # the upper bytes of 8-byte fields that are offsets and counts: absurd when set
    for ident, record, fields in ((layout.STEPS_S, layout.STEP, ("entry", "first_arg", "n_args", "value", "grain")),
                                  (layout.RUNTIME_S, layout.RUNTIME, ("arena_bytes", "create", "run", "n_inputs"))):
        start = plan.contents.sections[ident][0]
        high += [start + record.fields[f][1] + 7 for f in fields]
    args = plan.contents.sections[layout.ARGS_S][0]
    high += [8 + 3, 12 + 3, 16 + 7, 64 + 3, 64 + 8 + 7, 64 + 16 + 7, args + 3]
    for at in high:
        bad = bytearray(raw)
        bad[at] = 255
        (tmp_path / "b.plan").write_bytes(bad)
        done = call(program, tmp_path / "b.plan", tmp_path / "x", tmp_path / "y")
        assert done.returncode == 2, (at, done)
