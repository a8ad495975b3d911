"""`whet roi`: exit codes, files, flags, and the examples of docs/roi.md."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest

from decide.roi_scenarios import QUICK, batch_record, worked
from whet.cli import main as cli
from whet.decide import result, speed
from whet.measure.record import encode

DOCS = (Path(__file__).parents[2] / "docs" / "roi.md").read_text("utf-8")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorter simulations: the commands are tested here, not the queues."""
    full = speed.size_fleet
    monkeypatch.setattr(speed, "size_fleet", lambda *given, **named: full(*given, **named | {"requests": QUICK}))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def whet(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["whet", *words])
    with pytest.raises(SystemExit) as e:
        cli.main()
    return int(e.value.code or 0)


def test_the_worked_example(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "s.json").write_text(json.dumps(worked()))
    assert whet(monkeypatch, "roi", "s.json", "-o", "out", "--json", "r.json") == 0
    shown = capsys.readouterr().out
    for figure in ("1,728 USD", "0.3456", "2.894 months", "3.147", "utilization of 1"):
        assert figure in shown
    assert {p.name for p in (here / "out").iterdir()} == {"roi.html", "roi.md", "roi.json", "roi.csv"}
    jsonschema.validate(json.loads((here / "r.json").read_text()), result.schema())


def test_records_and_flags_alone(here: Path, monkeypatch: pytest.MonkeyPatch,
                                 capsys: pytest.CaptureFixture[str]) -> None:
    (here / "old.json").write_bytes(encode([batch_record(1, 0.010)]))
    (here / "new.json").write_bytes(encode([batch_record(1, 0.004)]))
    words = ["roi", "--before", "old.json", "--after", "new.json", "--rate", "400", "--p99", "60", "--labour", "2000",
             "--horizon", "24", "--json", "-"]
    assert whet(monkeypatch, *words, "--price", "0.5") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["horizon"], found["rate"], found["objective"]) == (24, 400, 0.06)
    assert whet(monkeypatch, *words) == 2  # no price
    assert "costs is not known" in capsys.readouterr().err
    assert whet(monkeypatch, *words, "--price", "0.5", "--set", "options[1].network_ms=70") == 1
    assert json.loads(capsys.readouterr().out)["verdict"] == "does not pay"


def test_records_of_several_backends_are_told_apart(here: Path, monkeypatch: pytest.MonkeyPatch,
                                                    capsys: pytest.CaptureFixture[str]) -> None:
    (here / "all.json").write_bytes(encode([batch_record(1, 0.010, backend="onnxruntime"), batch_record(1, 0.004)]))
    words = ["roi", "--before", "all.json", "--after", "all.json", "--rate", "400", "--p99", "60", "--labour", "2000",
             "--price", "0.5"]
    assert whet(monkeypatch, *words) == 2
    assert "differ in their backend" in (told := capsys.readouterr().err)
    assert "--set options[0].select.backend=whet" in told
    assert whet(monkeypatch, *words, "--set", "options[0].select.backend=onnxruntime", "--set",
                "options[1].select.backend=whet") == 0


@pytest.mark.parametrize(("words", "code", "what"), [
    (["roi"], 2, "nothing to decide on"), (["roi", "s.json", "--before", "x.json"], 2, "options in it"),
    (["roi", "s.json", "--set", "load.rate"], 2, "has no value"), (["roi", "s.json", "--set", "x.y=1"], 2, "'x'"),
    (["roi", "s.json", "--price", "1", "--instance", "a"], 2, "exclude"),
    (["roi", "nowhere.yaml"], 2, "cannot be read"),
    (["roi", "s.json", "--lang", "fr"], 2, "no texts in 'fr'"),
    (["roi", "s.json", "--json", "no/such/r.json"], 2, "written"),
    (["roi", "--lint"], 2, "nothing to check"), (["roi", "--energy"], 2, "nothing to measure"),
    (["roi", "s.json", "--p99", "-4"], 2, "p99_ms")])
def test_bad_input(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str],
                   code: int, what: str) -> None:
    (here / "s.json").write_text(json.dumps(worked()))
    assert whet(monkeypatch, *words) == code
    assert what in capsys.readouterr().err


def test_too_little_is_known(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "s.json").write_text(json.dumps(worked(objective={"p99_ms": 200})))
    assert whet(monkeypatch, "roi", "s.json", "--lang", "zh") == 3
    assert "超过目标" in capsys.readouterr().out


def test_lint_of_scenarios_and_texts(here: Path, monkeypatch: pytest.MonkeyPatch,
                                     capsys: pytest.CaptureFixture[str]) -> None:
    (here / "s.json").write_text(json.dumps(worked()))
    (here / "t.md").write_text("Latency went from 800 ms to 200 ms, 60 % less.\n")
    (here / "fine.md").write_text("Latency went from 800 ms to 200 ms, 75 % less.\n")
    assert whet(monkeypatch, "roi", "--lint", "s.json") == 1
    assert whet(monkeypatch, "roi", "--lint", "t.md", "--json", "f.json") == 1
    (found,) = json.loads((here / "f.json").read_text())["findings"]
    assert (found["code"], found["where"]) == ("C103", "t.md, line 1")
    assert whet(monkeypatch, "roi", "--lint", "fine.md") == 0
    assert "nothing to say" in capsys.readouterr().out


def test_prices_are_listed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert whet(monkeypatch, "roi", "--list-prices") == 0
    assert "aws/us-east-1/g4dn.xlarge" in capsys.readouterr().out


def test_measurements_from_a_store(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sqlalchemy")
    pytest.importorskip("alembic")
    from whet.store import Store

    with Store(here / "m.db") as store:
        store.add([batch_record(1, 0.010, precision="fp32"), batch_record(1, 0.004, precision="int8")])
    options = [{"name": p, "measurements": "store:m.db", "select": {"precision": p}, "price_per_hour": 0.5}
               for p in ("fp32", "int8")]
    data = {"load": {"rate": 400}, "objective": {"p99_ms": 60}, "labour": {"cost": 100}, "before": "fp32",
            "after": "int8", "options": options}
    (here / "s.json").write_text(json.dumps(data))
    assert whet(monkeypatch, "roi", "s.json") == 0


def test_energy_of_a_plan(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import whet as package
    from whet.decide import energy

    class Meter:
        def measure(self, work: Callable[[], object]) -> energy.Used:
            work()
            return energy.Used(12.0, 0.5, "RAPL package-0")

    monkeypatch.setattr(energy, "Meter", Meter)
    monkeypatch.setattr(energy, "SECONDS", 0.0)
    model = Path(package.__file__).parent / "demo" / "digits.onnx"
    package.build(model, opt_level=0, threads=1, timing_cache=here / "t.json").save(here / "m.plan")
    assert whet(monkeypatch, "roi", "--energy", "m.plan") == 0
    shown = capsys.readouterr().out
    assert "24.0 W" in shown
    assert 'source: "RAPL package-0"' in shown


def test_what_the_docs_show_works(here: Path, monkeypatch: pytest.MonkeyPatch,
                                  capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("yaml")
    (block,) = re.findall(r"```yaml\n(.*?)```", DOCS, re.DOTALL)
    (here / "scenario.yaml").write_text(block, "utf-8")
    (here / "report.md").write_text("P99 800 -> 200 ms, 60 % less\n", "utf-8")
    (commands,) = re.findall(r"```sh\n(.*?)```", DOCS, re.DOTALL)
    for line in commands.splitlines():
        words = shlex.split(line, comments=True)
        assert whet(monkeypatch, *words[1:]) == (1 if "--lint" in words else 0), line
    shown = capsys.readouterr().out
    for row in re.findall(r"```\n(.*?)```", DOCS, re.DOTALL)[0].splitlines():
        assert " ".join(row.split()) in " ".join(shown.split()), row


def test_the_docs_list_every_code_and_question() -> None:
    from whet.decide.claims import CODES

    for code in CODES:
        assert code in DOCS
