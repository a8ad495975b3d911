"""A build that fails: the error is what it was, a record of it is kept before anybody is told."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from command_line import Whet, command_line
from whet.cli import failures, notify
from whet.store import Store, spool

pytest.importorskip("sqlalchemy")
pytest.importorskip("alembic")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes], tmp_path: Path) -> Whet:
    monkeypatch.setattr(spool, "folders", lambda: [tmp_path / "spool"])
    monkeypatch.setattr(notify, "PAUSE", 0.0)
    call = command_line(monkeypatch, capsysbinary, tmp_path)
    monkeypatch.delenv("WHET_STORE")
    node = helper.make_node("Conv", ["x", "w"], ["y"], name="/layer1/conv")
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [helper.make_tensor("w", TensorProto.FLOAT, [4, 5, 3, 3], [0.0] * 180)])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), tmp_path / "broken.onnx")
    return call


def test_type_node_and_stack_are_kept(run: Whet, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = run("build", "broken.onnx", "-o", "b.plan")
    assert plain[0] == 2
    assert not Path("s.db").exists()
    code, _, err = run("build", "broken.onnx", "-o", "b.plan", "--store", "s.db", "--notify-command", "tee told.txt")
    assert code == 2
    assert err.strip().startswith(plain[2].strip())  # the same error, once, first
    assert err.count("[W102-graph]") == 1
    with Store("s.db") as store:
        (kept,) = store.kept("failure", model="broken")
    body = kept.body
    assert (body["type"], body["code"], body["node"]) == ("GraphError", "W102-graph", "Conv /layer1/conv")
    assert any(line.startswith("whet/frontends/onnx.py:") for line in body["stack"])
    assert body["command"] == ["whet", "build", "broken.onnx", "-o", "b.plan", "--store", "...", "--notify-command",
                               "..."]
    assert "/layer1/conv" in Path("told.txt").read_text()
    monkeypatch.setenv("WHET_STORE", "s.db")
    run("build", "no-such-model.onnx", "-o", "b.plan")
    with Store("s.db") as store:
        assert [k.body["code"] for k in store.kept("failure")] == ["W102-graph", "W101-model-file"]


def test_what_goes_wrong_with_the_record_hides_no_error(run: Whet) -> None:
    code, _, err = run("build", "broken.onnx", "-o", "b.plan", "--store", "postgresql://127.0.0.1:9/none", "--webhook",
                       "http://127.0.0.1:9/secret")
    assert code == 2
    assert "[W102-graph]" in err
    assert "could not be kept in the store" in err
    assert "was not told" in err
    assert "secret" not in err
    assert len(list(Path("spool").iterdir())) == 1
    assert run("build", "broken.onnx", "-o", "b.plan", "--store", "s.db", "--webhook", "no url")[0] == 2


def test_a_locked_store_does_not_hold_a_build_up(run: Whet, monkeypatch: pytest.MonkeyPatch) -> None:
    Store("s.db").close()
    monkeypatch.setattr(failures, "SECONDS", 0.05)
    holder = sqlite3.connect("s.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    code, _, err = run("build", "broken.onnx", "-o", "b.plan", "--store", "s.db")
    holder.execute("ROLLBACK")
    holder.close()
    assert code == 2
    assert "[W102-graph]" in err
    (path,) = Path("spool").iterdir()
    assert json.loads(path.read_text())["results"][0]["body"]["node"] == "Conv /layer1/conv"


def test_faults_of_whet_itself_are_kept_with_what_led_to_them(run: Whet, monkeypatch: pytest.MonkeyPatch) -> None:
    from whet import pipeline

    def fault(*_: object, **__: object) -> None:
        try:
            raise KeyError("tactic")
        except KeyError as e:
            raise RuntimeError("no such tactic \x1b[31m") from e

    monkeypatch.setattr(pipeline, "build", fault)
    with pytest.raises(RuntimeError, match="no such tactic"):
        run("build", "broken.onnx", "-o", "b.plan", "--store", "s.db")
    with Store("s.db") as store:
        (kept,) = store.kept("failure")
    assert (kept.body["type"], kept.body["code"], kept.body["node"]) == ("RuntimeError", "", "")
    assert [c["type"] for c in kept.body["causes"]] == ["KeyError"]
