"""whet record and whet history, as a person uses them; and what docs/store.md shows works."""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import jsonschema
import pytest

from command_line import Whet, command_line
from record_samples import measurement
from store import tool_outputs as tools
from whet.measure import record, stats
from whet.measure.record import Measurement, Model
from whet.report import history, spreadsheet
from whet.report.history_chart import sparkline
from whet.store import Store, spool

pytest.importorskip("sqlalchemy")
pytest.importorskip("alembic")

DOCS = (Path(__file__).parents[2] / "docs" / "store.md").read_text("utf-8")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes], tmp_path: Path) -> Whet:
    """The command line in this process: exit code, what it printed, what it complained about."""
    return command_line(monkeypatch, capsysbinary, tmp_path)


def month(name: str = "resnet50") -> list[Measurement]:
    """Thirty days of a model that became faster on the 16th."""
    return [measurement(date=f"2026-01-{d:02d}T00:00:00+00:00", model=Model(name=name), throughput=100.0 + d,
                        latency=stats.latency([(0.012 if d < 16 else 0.009) + i * 1e-5 for i in range(-20, 20)]))
            for d in range(1, 31)]


def test_what_is_recorded_is_in_the_history(run: Whet, place: str, tmp_path: Path) -> None:
    Path("out.json").write_bytes(record.encode(month()))
    code, out, err = run("record", "out.json", "--store", place)
    assert (code, err.strip()) == (0, "")
    assert out.startswith("30 measurements recorded in ")
    code, out, _ = run("record", "out.json", "--store", place)
    assert "0 measurements recorded" in out
    assert "30 were there already" in out
    code, out, _ = run("history", "--store", place)
    assert code == 0
    assert out.count("resnet50") == 5
    code, out, _ = run("history", "--store", place, "--metric", "latency.p50", "--last", 3)
    assert code == 0
    assert "█" * 10 in out
    assert "8.99 ms" in out
    assert "The last 3 of 30 points" in out
    assert len(re.findall(r"^2026-01", out, re.MULTILINE)) == 3


def test_stdin_and_the_records_back(run: Whet) -> None:
    given = record.encode(month())
    assert run("record", "-", stdin=given)[0] == 0
    code, out, _ = run("history", "--metric", "throughput", "--records", "-")
    assert code == 0
    assert out.encode() == given
    assert run("record", stdin=b"{}")[0] == 2


def test_points_as_json_csv_and_parquet(run: Whet) -> None:
    Path("out.json").write_bytes(record.encode(month('=HYPERLINK("http://x","y")')))
    run("record", "out.json")
    code, out, _ = run("history", "--metric", "latency.*", "--json", "-")
    document = json.loads(out)
    jsonschema.Draft202012Validator.check_schema(history.schema())
    jsonschema.validate(document, history.schema())
    assert code == 0
    assert [len(s["points"]) for s in document["series"]] == [30] * 4
    code, out, _ = run("history", "--csv", "-", "--since", "2026-01-10", "--until", "2026-01-12")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert (code, len(rows)) == (0, 10)
    assert tuple(rows[0]) == history.COLUMNS
    assert {r["model"] for r in rows} == {'\'=HYPERLINK("http://x","y")'}
    assert float(next(r for r in rows if r["metric"] == "throughput")["value"]) == 110.0
    parquet = pytest.importorskip("pyarrow.parquet", reason="no pyarrow here: pip install 'whet[parquet]'")
    assert run("history", "--metric", "throughput", "--parquet", "out.parquet")[0] == 0
    table = parquet.read_table("out.parquet").to_pylist()
    assert [row["value"] for row in table] == [100.0 + d for d in range(1, 31)]
    assert table[0]["date"].isoformat() == "2026-01-01T00:00:00+00:00"


class _Page(HTMLParser):
    """What a page would fetch, and whether its tags close."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.fetched += [v or "" for k, v in attrs if k in ("src", "href")]
        if tag not in ("meta", "circle", "path"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("circle", "path"):
            assert self.open.pop() == tag


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_a_page_that_fetches_nothing(run: Whet, lang: str) -> None:
    Path("out.json").write_bytes(record.encode(month("<script>alert(1)</script>|[x](y)")))
    run("record", "out.json")
    code, _, err = run("history", "--html", "h.html", "--md", "h.md", "--lang", lang)
    assert (code, err.strip()) == (0, "")
    text = Path("h.html").read_text("utf-8")
    page = _Page()
    page.feed(text)
    assert (page.fetched, page.open) == ([], [])
    assert "<script" not in text
    drawings = re.findall(r"<svg.*?</svg>", text)
    assert len(drawings) == 5
    for drawing in drawings:
        ElementTree.fromstring(drawing)
    lines = Path("h.md").read_text("utf-8").splitlines()
    assert ("测量历史" in lines[0]) == (lang == "zh")
    assert not any("<script" in line or "](y)" in line.replace("\\[x](y)", "") for line in lines)


def test_a_model_that_was_trained_anew(run: Whet) -> None:
    given = [measurement(date=f"2026-01-0{d}T00:00:00+00:00", model=Model(name="net", sha256=f"{d:064x}"),
                         throughput=float(d)) for d in (1, 2, 3)]
    Path("out.json").write_bytes(record.encode([*given, measurement(threads=7, throughput=1.0)]))
    run("record", "out.json")
    assert "4 series" in run("history")[1]
    assert "2 series" in run("history", "--across-models")[1]
    code, out, _ = run("history", "--across-models", "--model", "net", "--json", "-")
    (series,) = json.loads(out)["series"]
    assert (code, series["sha256"], [p["value"] for p in series["points"]]) == (0, "", [1.0, 2.0, 3.0])


def test_the_model_that_another_tool_measured(run: Whet) -> None:
    from whet import demo

    Path("digits.onnx").write_bytes(demo.model_bytes())
    Path("times.json").write_text(json.dumps(tools.times(20)))
    assert run("record", "times.json", "--onnx", "digits.onnx", "--date", "file", "--threads", 2)[0] == 0
    (found,) = record.decode(run("history", "--metric", "latency.p50", "--records", "-")[1].encode())
    assert (found.model.name, len(found.model.sha256), found.threads) == ("digits", 64, 2)


def test_what_cannot_be_done_is_one_clear_error(run: Whet, tmp_path: Path) -> None:
    for arguments, what in (
            (("history",), "no measurement store yet"), (("record", "none.json"), "cannot be read"),
            (("record", "out.json", "--store", "mysql://x/y"), "no store by mysql"),
            (("record", "out.json", "--from", "jmeter"), "no tool"),
            (("record", "out.json", "--model", "m"), "--model"),
            (("history", "--since", "soon"), "--since"), (("history", "--lang", "fr"), "no language"),
            (("history", "--html", "-"), "stdout"), (("history", "--csv", "no/folder/x.csv"), "cannot be written")):
        Path("out.json").write_bytes(record.encode(month()))
        code, _, err = run(*arguments)
        assert code == 2, arguments
        assert what in err
    assert not (tmp_path / "store.db").exists()
    run("record", "out.json")
    for arguments in (("--model", "bert"), ("99",), ("--metric", "latency.p50", "1")):
        assert run("history", *arguments)[0] == 2
    assert run("history", 2)[0] == 0


def test_a_bad_file_keeps_those_before_it(run: Whet) -> None:
    Path("good.json").write_bytes(record.encode(month()))
    Path("bad.json").write_text("{}")
    code, out, err = run("record", "good.json", "bad.json")
    assert code == 2
    assert "30 measurements recorded" in out
    assert "bad.json" in err
    assert run("record", "good.json", "--dry-run")[1] == "30 measurements could be stored\n"


def test_a_store_that_takes_nothing_loses_nothing(run: Whet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sqlite3

    given = record.encode(month())
    with Store(tmp_path / "store.db"):
        pass
    holder = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    monkeypatch.setattr("whet.store.store.Store.__init__.__kwdefaults__", {"create": True, "timeout": 0.1})
    code, _, err = run("record", "-", stdin=given)
    assert code == 2
    assert "busy" in err
    kept = re.search(r"whet record (\S+)$", err, re.MULTILINE)
    assert kept is not None
    assert Path(kept[1]).parent == spool.folders()[0]
    holder.close()
    assert "30 measurements recorded" in run("record", kept[1])[1]


def test_cells_are_no_formulas() -> None:
    table = b"".join(spreadsheet.lines(["a", "b"], [["=1+1", -1.5], ["@x", None], ["\tx", "ok"], ["a,\"b\"", 3]]))
    assert list(csv.reader(io.StringIO(table.decode()))) == [
        ["a", "b"], ["'=1+1", "-1.5"], ["'@x", ""], ["'\tx", "ok"], ['a,"b"', "3"]]


def test_a_sparkline_goes_from_the_least_to_the_greatest() -> None:
    assert sparkline([]) == ""
    assert sparkline([5.0]) == "▄"
    assert sparkline(range(8)) == "▁▂▃▄▅▆▇█"
    assert sparkline([1.0] * 500 + [2.0] * 500, 4) == "▁▁██"


def test_the_commands_of_the_docs_run(run: Whet, postgres: Callable[[], str]) -> None:
    Path("out.json").write_bytes(record.encode(month()))
    Path("times.json").write_text(json.dumps(tools.times()))
    Path("trtexec.log").write_text(tools.LOG)
    Path("perf.csv").write_text(tools.CSV)
    Path("benchmarks.json").write_text(json.dumps(tools.PYTEST))
    results = Path(".asv/results/mini")
    results.mkdir(parents=True)
    (results / "e5e6e7-py.json").write_text(json.dumps(tools.ASV))
    url = postgres()
    lines = [line for block in re.findall(r"```sh\n(.*?)```", DOCS, re.DOTALL) for line in block.splitlines()]
    assert len(lines) > 9
    for line in lines:
        words = shlex.split(line.replace("postgresql://me@db.example/measurements", url), comments=True)
        if words[1] == "bench" or ("--parquet" in words and not _has_pyarrow()):
            continue
        code, _, err = run(*words[1:])
        assert code == 0, f"{line}: {err}"


def test_the_python_of_the_docs_runs(run: Whet) -> None:
    Path("out.json").write_bytes(record.encode(month()))
    for block in re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL):
        exec(compile(block, "docs/store.md", "exec"), {})


def _has_pyarrow() -> bool:
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        return False
    return True
