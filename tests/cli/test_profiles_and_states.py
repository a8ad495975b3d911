"""--profile and --state of `whet build`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import whet
from whet.cli.shapes import parse_profiles, parse_states
from whet.errors import InputError

F = TensorProto.FLOAT


def test_profiles_are_read_whole() -> None:
    assert parse_profiles(["x:1x3..2x3..8x3,in:0:1..1..4", "x:9x3..9x3..9x3"]) == [
        {"x": ((1, 3), (2, 3), (8, 3)), "in:0": ((1,), (1,), (4,))}, {"x": ((9, 3), (9, 3), (9, 3))}]


@pytest.mark.parametrize("text", ["", "x", "x:1x3", "x:1..2", "x:1..2..3..4", "x:1..a..3", ":1..1..1"])
def test_other_texts_are_no_profiles(text: str) -> None:
    with pytest.raises(InputError):
        parse_profiles([text])


def test_states_are_found_by_their_pattern() -> None:
    inputs, outputs = ["ids", "past.0.key", "past.0.value", "h"], ["y", "present.0.key", "present.0.value", "h2"]
    assert parse_states(["past.*=present.*", "h=h2"], inputs, outputs) == {
        "past.0.key": "present.0.key", "past.0.value": "present.0.value", "h": "h2"}


@pytest.mark.parametrize("text", ["h", "*=y", "none=y", "h=none", "past.*=y.*", "p*s*=y**"])
def test_states_that_fit_nothing_are_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse_states([text], ["h", "past.0"], ["y"])


def test_a_plan_built_so_keeps_its_state_and_takes_both_profiles(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from whet.cli.main import app

    graph = helper.make_graph([helper.make_node("Concat", ["past", "x"], ["present"], axis=0),
                               helper.make_node("ReduceSum", ["present"], ["y"], keepdims=0)], "sums",
                              [helper.make_tensor_value_info("x", F, ["n", 4]),
                               helper.make_tensor_value_info("past", F, ["p", 4])],
                              [helper.make_tensor_value_info("y", F, []),
                               helper.make_tensor_value_info("present", F, ["t", 4])])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), tmp_path / "m.onnx")
    result = CliRunner().invoke(app, ["build", str(tmp_path / "m.onnx"), "-o", str(tmp_path / "m.plan"),
                                      "--opt-level", "0", "--state", "past=present",
                                      "--profile", "x:1x4..1x4..1x4,past:0x4..8x4..64x4",
                                      "--profile", "x:2x4..4x4..9x4,past:0x4..0x4..1x4"])
    assert result.exit_code == 0, result.output
    with whet.load(tmp_path / "m.plan") as engine, engine.context() as ctx:
        assert len(engine.profiles) == 2
        total = 0.0
        for n in (5, 1, 1):
            x = np.full((n, 4), 0.5, np.float32)
            total += x.sum()
            assert ctx.run({"x": x})["y"] == pytest.approx(total)


def test_a_plan_with_states_is_run_timed_and_inspected_with_empty_ones(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from whet.cli.main import app

    graph = helper.make_graph([helper.make_node("Concat", ["past", "x"], ["present"], axis=0),
                               helper.make_node("ReduceSum", ["present"], ["y"], keepdims=0)], "sums",
                              [helper.make_tensor_value_info("x", F, ["n", 4]),
                               helper.make_tensor_value_info("past", F, ["p", 4])],
                              [helper.make_tensor_value_info("y", F, []),
                               helper.make_tensor_value_info("present", F, ["t", 4])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    plan = tmp_path / "m.plan"
    whet.build(model, opt_level=0, threads=1, states={"past": "present"}).save(plan)
    np.savez(tmp_path / "x.npz", x=np.ones((3, 4), np.float32))
    for args in (["run", str(plan), "--inputs", str(tmp_path / "x.npz"), "-o", str(tmp_path / "y.npz")],
                 ["bench", str(plan), "--seconds", "0.05", "--backends", "whet"], ["inspect", str(plan), "--time"]):
        result = CliRunner().invoke(app, args)
        assert result.exit_code == 0, (args, result.output, result.exception)
    assert "present is the next run's past, in place" in result.output
    with np.load(tmp_path / "y.npz") as f:
        assert {k: float(f[k]) for k in f} == {"y": 12.0}


def test_strings_and_sequences_come_out_as_arrays(tmp_path: Path) -> None:
    from whet.cli.files import write_npz

    write_npz(tmp_path / "y.npz", {"s": np.array(["a", "bc"], object), "l": [np.ones(2), np.zeros(3)], "n": None})
    with np.load(tmp_path / "y.npz", allow_pickle=False) as f:
        assert {k: f[k].tolist() for k in f} == {"s": ["a", "bc"], "l[0]": [1, 1], "l[1]": [0, 0, 0]}
    with pytest.raises(InputError):
        write_npz(tmp_path / "z.npz", {"o": np.array([{}], object)})
