"""`whet forecast` as it is typed: sentences, exit codes, files, the store."""

import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import typer
from typer.testing import CliRunner, Result

from forecast_records import nightly
from record_samples import measurement
from whet.cli.forecast import command
from whet.cli.main import app
from whet.decide.forecast.result import schema
from whet.errors import WhetError
from whet.measure.device import this_device
from whet.measure.record import Accuracy, Judged, Limit, Measurement, Model, encode
from whet.measure.stats import latency

GAINS = ["--gain", "12.15", "--gain", "13.33", "--gain", "14.52", "--remaining", "24"]
ALONE = typer.Typer()  # the other commands take time to be built
ALONE.command()(command)


def whet(*args: object) -> Result:
    return CliRunner().invoke(ALONE, [*map(str, args)])


def refused(*args: object) -> WhetError:
    error = whet(*args).exception
    assert isinstance(error, WhetError), error
    return error


@pytest.fixture
def files(tmp_path: Path) -> Path:
    path = tmp_path / "nightly.json"
    path.write_bytes(encode(nightly()))
    return path


def table(path: Path, rows: str) -> Path:
    path.write_text(rows, "utf-8")
    return path


def test_the_fixture_in_words_that_a_project_lead_understands() -> None:
    found = whet(*GAINS)
    assert found.exit_code == 0
    assert "76 % of the target is reached." in found.output
    assert "About 1.8 more effective optimizations are expected; " in found.output
    assert "2 would be enough with 83 % confidence." in found.output
    assert "Student's t with 2 degrees of freedom" in found.output
    assert "24 / 13.33 = 1.80" in found.output
    chinese = whet(*GAINS, "--lang", "zh")
    assert "预计还需约 1.8 次有效优化;2 次即足够的置信度为 83 %。" in chinese.output
    assert whet(*GAINS, "--within", 2).exit_code == 0
    assert whet(*GAINS, "--within", 2, "--sure", "0.9").exit_code == 3
    assert whet(*GAINS, "--within", 1).exit_code == 1


def test_its_json_keeps_to_the_schema_and_holds_the_figures() -> None:
    body = json.loads(whet(*GAINS, "--json", "-").stdout)
    jsonschema.validate(body, schema())
    (milestone,) = body["milestones"]
    assert milestone["progress"] == pytest.approx(0.76)
    assert milestone["expected"] == pytest.approx(1.8)
    assert round(milestone["confidence"], 4) == 0.8285


def test_the_rule_that_counts_is_labelled_beside_its_probability() -> None:
    found = whet("--ready-count", "8/10")
    assert "Policy (a rule that counts, no probability): 8 of 10 > 80 %: not ready." in found.output
    assert "0.77" in found.output
    assert found.exit_code == 3


def test_measurements_become_milestones_by_date(files: Path, tmp_path: Path) -> None:
    page, notes, body = (tmp_path / n for n in ("f.html", "f.md", "f.json"))
    found = whet(files, "--target", "p99=60ms", "--target", "p99=90ms", "--by", "2030-01-01", "--today", "2026-04-01",
                 "--html", page, "--markdown", notes, "--json", body)
    assert found.exit_code == 0, found.output
    assert "The target is reached" in found.output
    assert "change-point detection finds among 24 measurements" in found.output
    result = json.loads(body.read_text("utf-8"))
    jsonschema.validate(result, schema())
    assert [m["place"] for m in result["milestones"]] == ["ahead", "reached"]
    html = page.read_text("utf-8")
    assert html.count("<polygon") == 3
    assert "http" not in html.replace("http://www.w3.org/2000/svg", "")
    assert "| by | 60.0 ms | 90.0 ms |" in notes.read_text("utf-8")


def test_the_roofline_of_the_records_is_the_floor(tmp_path: Path) -> None:
    path = tmp_path / "limited.json"
    limit = Limit(flops=1e9, flops_per_second=1e11, seconds=0.05, fraction=0.5)
    path.write_bytes(encode(nightly(limit=limit)))
    found = whet(path, "--target", "p99=45ms", "--by", "2030-01-01", "--today", "2026-04-01")
    assert found.exit_code == 1
    assert "cannot be reached on this hardware" in found.output
    assert "roofline of 24 records: 50.0 ms" in found.output
    near = whet(path, "--target", "p99=60ms", "--today", "2026-04-01")
    assert "Below the hardware's limit of 50.0 ms nothing has a probability." in near.output
    stated = whet(path, "--target", "p99=45ms", "--limit", "40ms", "--today", "2026-04-01")
    assert "limit of 40.0 ms" in stated.output


def test_a_store_is_read_and_keeps_what_was_forecast(files: Path, tmp_path: Path) -> None:
    store = tmp_path / "m.db"
    assert CliRunner().invoke(app, ["record", str(files), "--store", str(store)]).exit_code == 0
    found = whet("--model", "digits", "--target", "p99=65ms", "--by", "2030-01-01", "--today", "2026-04-01", "--store",
                 store)
    assert found.exit_code == 0, found.output
    from whet.store import Store

    with Store(store) as opened:
        (kept,) = opened.kept("forecast")
    assert kept.model == "digits"
    jsonschema.validate(kept.body, schema())
    assert refused("--model", "other", "--target", "p99=65ms", "--store", store).exit_code == 2


def test_a_list_of_records_is_read_from_csv(tmp_path: Path) -> None:
    rows = "".join(f"2026-01-{d:02d},{100 * 0.95 ** i:.3f}\n" for i, d in enumerate(range(1, 28, 2)))
    path = table(tmp_path / "race.csv", "date,minutes\n" + rows)
    found = whet(path, "--steps", "each", "--target", "45", "--within", "6", "--today", "2026-01-30")
    assert found.exit_code == 0, found.output
    assert "13 effective optimizations: each of the 14 values" in found.output


@pytest.mark.parametrize(("text", "message"), [
    ("", "empty history"), ("date,value\n", "empty history"), ("day,value\n2026-01-01,1\n", "without dates"),
    ("date,a,b\n2026-01-01,1,2\n", "which column"), ("date,value\n2026-02-01,1\n2026-01-01,2\n", "go back"),
    ("date,value\n2026-01-01,nan\n", "finite"), ("date,value\n2026-01-01,x\n", "finite"),
    ("date,value\n2026-13-01,1\n", "not a date"), ("date,value\n2026-01-01\n", "cells"),
    ('date,value\n"2026-01-01,1\n', "CSV"), ("date,value\n2026-01-01,-5\n2026-01-02,-6\n", "-5"),
    ("date,value\n2026-01-01,0\n2026-01-02,1\n", "value 1 of 0")])
def test_csv_files_that_are_no_history_are_refused(tmp_path: Path, text: str, message: str) -> None:
    error = refused(table(tmp_path / "h.csv", text), "--target", "0.5", "--today", "2026-03-01")
    assert message in str(error)
    assert error.exit_code == 2


def test_too_little_evidence_is_undecided(tmp_path: Path) -> None:
    one = table(tmp_path / "one.csv", "date,value\n2026-01-01,5\n")
    error = refused(one, "--target", "3", "--by", "2030-01-01")
    assert error.exit_code == 3
    assert "no effective optimizations in 1 measurements" in str(error)
    assert refused("--gain", "3", "--remaining", "4").exit_code == 3


@pytest.mark.parametrize("args", [
    [], ["--gain", "1"], ["--remaining", "3"], ["--gain", "nan", "--gain", "1", "--remaining", "2"],
    ["--gain", "-1", "--gain", "1", "--remaining", "2"], [*GAINS, "--by", "2030-01-01"], [*GAINS, "--of", "20"],
    [*GAINS, "--lang", "fr"], [*GAINS, "--sure", "2"], [*GAINS, "--within", "0"], [*GAINS, "--json", "-", "--md", "-"],
    [*GAINS, "--html", "-"], [*GAINS, "--target", "p99=1ms"], ["--ready-count", "8:10"], ["--ready-count", "11/10"],
    ["--ready-count", "8/10", "--share", "0"], [*GAINS, "--steps", "some"], [*GAINS, "--html", "/nowhere/x.html"]])
def test_contradictory_options_are_refused(args: list[str]) -> None:
    assert refused(*args).exit_code == 2


@pytest.mark.parametrize("args", [
    ["p99=20"], ["p99=20kg"], ["p99=nanms"], ["p99=-5ms"], ["p99="], ["=20ms"], ["20ms"], ["nothing=20"],
    ["p99=60ms", "--by", "tomorrow"], ["p99=60ms", "--by", "2020-01-01"], ["p99=60ms", "--today", "2020-01-01"],
    ["p99=60ms", "--limit", "200ms"], ["p99=60ms", "--device", "ffff"]])
def test_targets_that_are_none_are_refused(files: Path, args: list[str]) -> None:
    assert refused(files, "--target", *args).exit_code == 2


def test_different_hardware_is_refused_unless_asked_for(files: Path, tmp_path: Path) -> None:
    import msgspec

    other = msgspec.structs.replace(this_device(), fingerprint="f" * 16, name="Other CPU")
    mixed = tmp_path / "mixed.json"
    mixed.write_bytes(encode([*nightly()[:16], *nightly((0.04,), begin=50, device=other)]))
    error = refused(mixed, "--target", "p99=30ms", "--today", "2026-04-01")
    assert "different hardware" in str(error)
    found = whet(mixed, "--target", "p99=30ms", "--mixed-hardware", "--today", "2026-04-01")
    assert "Measured on different hardware" in found.output
    several = tmp_path / "several.json"
    several.write_bytes(encode([*nightly()[:9], *nightly(precision="bf16")]))
    assert "they differ in precision: bf16, fp32" in str(refused(several, "--target", "p99=30ms"))


def test_readiness_of_a_set_with_the_policy_beside_it(tmp_path: Path) -> None:
    def model(i: int, slow: bool) -> Measurement:
        x = (0.060 if slow else 0.030) * np.random.default_rng(i).lognormal(0, 0.1, 1500)
        accuracy = Accuracy(metric="top1", value=0.7, samples=7000, judged=Judged(
            reference="fp32", max_drop=0.5, unit="points", loss=0.05, upper=0.25, state="held"))
        return measurement(model=Model(name=f"net{i}"), latency=latency(x), accuracy=accuracy)

    path, page = tmp_path / "set.json", tmp_path / "r.html"
    path.write_bytes(encode([model(i, i in (3, 7)) for i in range(10)]))
    found = whet(path, "--ready", "p99=50ms", "--ready", "loss=0.5", "--html", page)
    assert found.exit_code == 1
    assert "More than 80 % of the 10 models are ready with a probability of < 1 %." in found.output
    assert "8 of 10 > 80 %: not ready." in found.output
    assert "0.77" in found.output
    assert "net3" in page.read_text("utf-8")
    assert whet(path, "--ready", "p99=50ms", "--ready", "loss=0.5", "--share", "70").exit_code == 0
    unknown = whet(path, "--ready", "p99=50ms", "--ready", "memory=1GiB", "--lang", "zh")
    assert unknown.exit_code == 3
    assert "没有 memory.peak" in unknown.output
    one = whet(path, "--ready", "p99=50ms", "--model", "net1")
    assert "net1 is ready with a probability of > 99 %." in one.output
    assert refused(path, "--ready", "p99=50ms", "--model", "none*").exit_code == 2


def test_markup_from_files_is_text_in_every_report(tmp_path: Path) -> None:
    bad = "<script>alert(1)</script>|[x](http://y)"
    rows = "".join(f"2026-01-{d:02d},{100 * 0.9 ** d:.3f}\n" for d in range(1, 20))
    path = table(tmp_path / "race.csv", f'date,"{bad}"\n' + rows)
    page, notes = tmp_path / "f.html", tmp_path / "f.md"
    found = whet(path, "--steps", "each", "--target", "5", "--today", "2026-01-30", "--html", page, "--md", notes)
    assert found.exit_code == 0, found.output
    assert "<script" not in page.read_text("utf-8")
    assert "<script" not in notes.read_text("utf-8")
    assert "\\[x](" in notes.read_text("utf-8")


def test_readiness_reads_the_newest_records_of_a_store(tmp_path: Path) -> None:
    store, file = tmp_path / "m.db", tmp_path / "r.json"
    file.write_bytes(encode([*nightly(each=10), *nightly((0.2,), each=3, model=Model(name="slow"))]))
    assert CliRunner().invoke(app, ["record", str(file), "--store", str(store)]).exit_code == 0
    found = whet("--ready", "p99=85ms", "--share", "40", "--store", store)
    assert found.exit_code == 0, found.output
    assert "10 runs" in found.output  # of thirty: those since the level last changed
    assert "slow" in found.output
    assert refused("--target", "p99=50ms", "--store", store).what == "2 series of latency.p99"
