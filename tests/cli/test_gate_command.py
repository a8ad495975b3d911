"""`whet gate`: exit codes, what is kept and sent, and what hostile or broken input gives."""

from __future__ import annotations

import http.server
import json
import re
import sqlite3
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import numpy as np
import pytest

from command_line import Whet, command_line
from record_samples import measurement
from whet.cli import notify
from whet.decide.gate import result
from whet.measure import record, stats
from whet.measure.record import Measurement, Memory, Model, PlanId
from whet.store import Store, spool

pytest.importorskip("sqlalchemy")
pytest.importorskip("alembic")

DAY = datetime(2026, 3, 1, tzinfo=UTC)
GOALS = ("--p99", "50ms", "--throughput", "150")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes], tmp_path: Path) -> Whet:
    monkeypatch.setattr(spool, "folders", lambda: [tmp_path / "spool"])
    call = command_line(monkeypatch, capsysbinary, tmp_path)
    monkeypatch.delenv("WHET_STORE")
    return call


def bench(ms: float, day: int = 60, calls: int = 400, seed: int = 0, **fields: Any) -> Measurement:
    """What `whet bench` measured on a day."""
    latency = stats.latency(ms / 1e3 * np.exp(np.random.default_rng(seed or day).normal(0, 0.02, calls)))
    base: dict[str, Any] = {
        "date": (DAY + timedelta(days=day)).isoformat(), "model": Model(name="resnet50", sha256="0" * 64),
        "latency": latency, "throughput": 8 / latency.p50.value, "plan": PlanId(hash="ab" * 32, bytes=100_000_000),
        "memory": Memory(peak_bytes=500 << 20, idle_bytes=100 << 20)}
    return measurement(**base | fields)


def write(name: str, *records: Measurement) -> str:
    Path(name).write_bytes(record.encode(list(records)))
    return name


def history(place: str = "s.db", days: int = 30, ms: float = 65.0, **fields: Any) -> None:
    rng = np.random.default_rng(7)
    with Store(place) as store:
        store.add([bench(ms * float(np.exp(rng.normal(0, 0.01))), i, **fields) for i in range(days)])


def again(*ms: float) -> str:
    """A command that measures: each time it is called it gives the next of these."""
    files = [write(f"again{i}.json", bench(value, 61 + i)) for i, value in enumerate(ms)]
    Path("again.py").write_text(
        "import pathlib, sys\nn = pathlib.Path('n'); i = int(n.read_text()) if n.exists() else 0\n"
        f"n.write_text(str(i + 1)); sys.stdout.write(pathlib.Path({files!r}[i % {len(files)}]).read_text())\n")
    return f"{sys.executable} -S again.py"


def kept(place: str = "s.db") -> list[dict[str, Any]]:
    with Store(place) as store:
        return [k.body for k in store.kept("gate")]


def test_what_is_held_says_so_in_one_line(run: Whet) -> None:
    history()
    code, out, err = run("gate", write("new.json", bench(40.3)), *GOALS, "--memory", "1GiB", "--plan-size", "120MB",
                         "--store", "s.db", "--json", "gate.json", "--summary", "summary.md", "-o", "report")
    assert (code, err.strip()) == (0, "")
    assert "resnet50: P99 42 ms (down 38 %), 198 QPS, meets the threshold" in out
    found = json.loads(Path("gate.json").read_text())
    jsonschema.validate(found, result.schema())
    assert kept() == [json.loads(json.dumps(result.short(result.of_body(found))))]
    assert "meets the threshold" in Path("summary.md").read_text("utf-8")
    assert sorted(p.name for p in Path("report").iterdir()) == ["gate.csv", "gate.html", "gate.json", "gate.md"]
    page = Path("report/gate.html").read_text("utf-8")
    assert "<svg" in page
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")
    run("gate", "new.json", *GOALS, "--summary", "summary.md", "--lang", "zh")
    summary = Path("summary.md").read_text("utf-8")
    assert "meets the threshold" in summary  # appended, not written anew
    assert "达到阈值" in summary


def test_a_suspicion_is_confirmed_by_reruns_before_it_fails(run: Whet) -> None:
    history()
    bad = write("bad.json", bench(78))
    assert run("gate", bad, "--store", "s.db")[0] == 3
    code, out, _ = run("gate", bad, "--store", "s.db", "--rerun", again(78, 79, 77))
    assert code == 1
    assert "regressed" in out
    assert kept()[-1]["cases"][0]["runs"] == 4
    assert len(kept()[-1]["cases"][0]["trends"][0]["values"]) == 4
    code, out, _ = run("gate", bad, "--store", "s.db", "--rerun", again(65, 65.5, 64.8))
    assert code == 0
    assert "stood out" in out
    Path("n").unlink(missing_ok=True)
    code, out, _ = run("gate", "--measure", again(78, 78, 79, 77), "--store", "s.db", "--record")
    assert code == 1
    with Store("s.db") as store:
        assert len(list(store.records())) == 31
    Path("n").unlink()
    assert run("gate", "--measure", again(65), "--store", "s.db")[0] == 0


def test_a_level_that_was_turned_down_fails_until_somebody_accepts_it(run: Whet) -> None:
    history()
    for day in range(60, 64):
        write("bad.json", bench(78, day))
        assert run("gate", "bad.json", "--store", "s.db", "--rerun", again(78, 79, 77), "--record")[0] == 1
    assert run("gate", "bad.json", "--store", "s.db", "--accept", "a head for bounding boxes")[0] == 0
    assert kept()[-1]["accepted"] == "a head for bounding boxes"
    code, out, _ = run("gate", write("next.json", bench(78, 80)), "--store", "s.db")
    assert (code, "a head for bounding boxes" in out) == (3, True)
    with Store("s.db") as store:
        store.add([bench(78, i) for i in range(81, 86)])
    assert run("gate", write("next.json", bench(78, 90)), "--store", "s.db")[0] == 0


def test_an_empty_history_is_undecided_and_objectives_are_still_judged(run: Whet) -> None:
    code, out, _ = run("gate", write("new.json", bench(40)), *GOALS, "--store", "none.db")
    assert code == 3
    assert "meets the threshold" in out
    assert "0 earlier values" in out
    assert run("gate", write("slow.json", bench(80)), *GOALS, "--store", "none.db")[0] == 1
    assert run("gate", "new.json", *GOALS)[0] == 0
    assert run("gate", "new.json", *GOALS, "--max-drop", "0.5")[0] == 2


def test_hardware_is_not_mixed_unless_asked_for(run: Whet) -> None:
    other = msgspec.structs.replace(measurement().device, fingerprint="other", name="Another CPU")
    history(device=other)
    new = write("new.json", bench(66))
    code, out, _ = run("gate", new, "--store", "s.db")
    assert (code, "Another CPU" in out) == (3, True)
    code, out, _ = run("gate", new, "--store", "s.db", "--any-device")
    assert (code, "several machines" in out) == (0, True)
    write("mixed.json", bench(66), bench(66, device=other, precision="bf16"))
    assert run("gate", "mixed.json", *GOALS)[0] == 2
    write("again0.json", bench(78, 61, device=other))
    code, out, _ = run("gate", write("bad.json", bench(78)), *GOALS, "--rerun", "cat again0.json")
    assert (code, "another machine" in out) == (1, True)


@pytest.mark.parametrize(("arguments", "what"), [
    (GOALS, "nothing to judge"), (("new.json",), "nothing to hold"), (("none.json", *GOALS), "cannot be read"),
    (("new.json", "--p99", "quick"), "positive number"), (("new.json", *GOALS, "--lang", "fr"), "fr"),
    (("new.json", *GOALS, "--precision", "int8"), "no measurement to judge"),
    (("new.json", *GOALS, "--measure", "true"), "one measurement"), (("--measure", "false", *GOALS), "ended with 1"),
    (("--measure", "no-such-command-here", *GOALS), "cannot be started"), (("--measure", "echo {", *GOALS), "not meas"),
    (("--measure", "'", *GOALS), "not a command"), (("new.json", *GOALS, "--record"), "without a store"),
    (("new.json", *GOALS, "--min-effect", "nan"), "least effect"), (("twice.json", *GOALS), "two measurements"),
    (("damaged.json", *GOALS), "not measurements"), (("nan.json", *GOALS), "not measurements"),
    (("new.json", "--objectives", "bad.yaml"), "bad.yaml:2"), (("new.json", *GOALS, "--webhook", "ftp://x"), "http"),
    (("new.json", *GOALS, "--webhook", "https://me:word@x/"), "user"), (("new.json", *GOALS, "--store", "."), "folder"),
    (("new.json", *GOALS, "--json", "-", "--summary", "-"), "stdout"),
])
def test_bad_input_is_one_clear_error(run: Whet, arguments: tuple[str, ...], what: str) -> None:
    new = Path(write("new.json", bench(40))).read_bytes()
    write("twice.json", bench(40), bench(41, 61))
    Path("damaged.json").write_bytes(new[:len(new) // 2])
    Path("nan.json").write_bytes(new.replace(b'"throughput": ', b'"throughput": NaN, "x": ', 1))
    Path("bad.yaml").write_text("p99: 50ms\nspeed: 3\n")
    code, _, err = run("gate", *arguments)
    assert code == 2, err
    assert what in err


def test_objectives_of_a_file_and_of_options(run: Whet) -> None:
    Path("goals.yaml").write_text("p99: 30ms\nplan_size: 120MB\n")
    new = write("new.json", bench(40))
    assert run("gate", new, "--objectives", "goals.yaml")[0] == 1
    assert run("gate", new, "--objectives", "goals.yaml", "--p99", "50ms")[0] == 0


HOSTILE = ("<script>alert(1)</script>", "[x](https://evil.example)", "|a|b|\n# heading", "@everyone ![i](http://evil/x)",
           "`whoami`", "a*b?", "\x1b[31mred", "\u202eright to left")


def test_hostile_names_are_text(run: Whet) -> None:
    models = [Model(name=name, sha256="0" * 64) for name in HOSTILE]
    for model in models[:3]:
        history(model=model, days=6)
    code, out, _ = run("gate", write("new.json", *(bench(40, model=m) for m in models)), *GOALS, "--store", "s.db",
                       "-o", "report", "--summary", "summary.md")
    assert code == 3  # five of them have no history
    markdown, page = Path("summary.md").read_text("utf-8"), Path("report/gate.html").read_text("utf-8")
    unmarked = re.sub(r"\\.", "", markdown)  # without what is escaped
    for bad in ("<script", "](", "\n# ", "@everyone", "![", "`", "\x1b", "\u202e", "https://", "http://"):
        assert bad not in unmarked
    for bad in ("<script", "\x1b", "\u202e"):
        assert bad not in page
    assert "\x1b" not in out
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in rows} == {6, 11}


def test_wrong_outputs_are_not_let_through(run: Whet) -> None:
    wrong = record.OutputError(reference="onnxruntime", measure="relative-l2", value=0.5, limit=1e-3)
    code, out, _ = run("gate", write("new.json", bench(40, error=wrong)), *GOALS)
    assert (code, "WRONG" in out) == (1, True)


def test_a_clock_that_went_back(run: Whet) -> None:
    history()
    code, out, _ = run("gate", write("new.json", bench(65, 20)), "--store", "s.db")
    assert (code, "a clock went back" in out) == (3, True)


def test_a_locked_store_keeps_the_verdict_and_loses_nothing(run: Whet) -> None:
    history()
    holder = sqlite3.connect("s.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    notify_seconds = pytest.MonkeyPatch()
    notify_seconds.setattr("whet.cli.gate.SECONDS", 0.05)
    code, _, err = run("gate", write("new.json", bench(40)), *GOALS, "--store", "s.db")
    notify_seconds.undo()
    holder.execute("ROLLBACK")
    holder.close()
    assert code == 0
    (path,) = Path("spool").iterdir()
    assert f"whet record {path.resolve()}" in err
    assert run("record", path, "--store", "s.db")[0] == 0
    assert [k["state"] for k in kept()] == ["held"]


class _Hook(http.server.BaseHTTPRequestHandler):
    answers: list[int] = []
    got: list[dict[str, Any]] = []

    def do_POST(self) -> None:
        self.got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(self.answers.pop(0) if self.answers else 200)
        self.send_header("Location", "http://127.0.0.1:9/elsewhere")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(notify, "PAUSE", 0.0)
    _Hook.answers, _Hook.got = [], []
    server = http.server.HTTPServer(("127.0.0.1", 0), _Hook)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/hooks/secret"
    server.shutdown()
    server.server_close()


def test_who_is_to_know_is_told_after_it_was_stored(run: Whet, hook: str) -> None:
    history()
    slow = write("slow.json", bench(80))
    assert run("gate", slow, *GOALS, "--store", "s.db", "--webhook", hook, "--notify-command", "tee told.txt")[0] == 1
    (got,) = _Hook.got
    assert got["kind"] == "gate"
    assert got["gate"] == kept()[-1]
    assert "does not meet the threshold" in got["text"]
    assert "does not meet the threshold" in Path("told.txt").read_text()
    run("gate", write("new.json", bench(40)), *GOALS, "--webhook", hook)
    assert len(_Hook.got) == 1  # what is held is told when asked for
    run("gate", "new.json", *GOALS, "--webhook", hook, "--notify-always")
    assert len(_Hook.got) == 2


@pytest.mark.parametrize(("answers", "tries", "said"), [
    ([500, 503, 200], 3, ""), ([500] * 3, 3, "it answers 500 (3 tries)"), ([404], 1, "it answers 404"),
    ([302], 1, "it answers 302")])
def test_a_webhook_that_fails_changes_no_verdict(run: Whet, hook: str, answers: list[int], tries: int,
                                                 said: str) -> None:
    _Hook.answers = answers
    code, _, err = run("gate", write("slow.json", bench(80)), *GOALS, "--store", "s.db", "--webhook", hook)
    assert (code, len(_Hook.got)) == (1, tries)
    assert (said in err) if said else not err.strip()
    assert "secret" not in err
    assert len(kept()) == 1


def test_nobody_listens(run: Whet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "PAUSE", 0.0)
    monkeypatch.setenv("WHET_WEBHOOK", "http://127.0.0.1:9/secret")
    code, _, err = run("gate", write("slow.json", bench(80)), *GOALS, "--store", "s.db", "--notify-command", "false")
    assert code == 1
    assert "the webhook at 127.0.0.1 was not told: Connection refused" in err
    assert "'false' did not tell: it ended with 1" in err
    assert "secret" not in err
    assert [k["state"] for k in kept()] == ["not held"]


def test_quantization_that_gains_little_is_noted_with_causes(run: Whet) -> None:
    with Store("s.db") as store:
        store.add([bench(ms, day, precision=p) for day in range(20) for p, ms in (("fp32", 50.0), ("int8", 44.0))])
    new = write("new.json", bench(50, precision="fp32"), bench(47, precision="int8"))
    code, out, _ = run("gate", new, "--store", "s.db", "--min-effect", "10")
    assert "Atypical: int8 takes 6% off the latency; before it was 12% on average (of 20)." in out
    assert "--plan" in out
    assert code == 0
