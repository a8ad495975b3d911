"""`whet plan-fleet`: what it says, what it writes, what it refuses."""

import csv
import json
from html.parser import HTMLParser
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from record_samples import measurement
from whet.cli.main import app
from whet.decide import fleet_plan
from whet.errors import WhetError
from whet.measure.record import Load, Memory, encode
from whet.measure.stats import latency
from whet.report.fleet_words import WORDS


def run(*args: object) -> Result:
    return CliRunner().invoke(app, ["plan-fleet", *map(str, args)])


def refused(*args: object) -> WhetError:
    result = run(*args)
    assert isinstance(result.exception, WhetError), result.output
    assert result.exception.exit_code == 2
    return result.exception


def test_the_worked_example_is_told_with_what_it_rests_on() -> None:
    original = run("--rate", 360, "--p99", 320, "--throughput", 45)
    assert original.exit_code == 0
    assert "9 devices: 9 servers" in original.output
    assert "8 cannot keep up: at a load of 100.0% their queue grows without bound." in original.output
    assert "Bursts need more servers" in original.output
    optimized = run("--rate", 360, "--p99", 90, "--throughput", 180)
    assert "3 devices: 3 servers" in optimized.output
    assert "2 cannot keep up" in optimized.output


def test_the_report_has_four_files_in_each_language(tmp_path: Path) -> None:
    args = ("--rate", 2000, "--p99", 40, "--service", "1:4,8:11,16:19", "--max-batch", 16, "--max-delay", 5, "--spares",
            1, "--growth", 30)
    for lang, says in (("en", "2,000 today, and 30% more"), ("zh", "今天 2,000,再加 30%")):
        result = run(*args, "--lang", lang, "-o", tmp_path / lang)
        assert result.exit_code == 0, result.output
        assert says in result.output
        page = (tmp_path / lang / "fleet.html").read_text("utf-8")
        HTMLParser().feed(page)
        assert page.count("<svg") == 2
        assert "http" not in page.replace("http://www.w3.org/2000/svg", "")
        assert says in page
        assert says in (tmp_path / lang / "fleet.md").read_text("utf-8")
    made = json.loads((tmp_path / "en" / "fleet.json").read_text("utf-8"))
    jsonschema.validate(made, fleet_plan.schema())
    assert (made["servers"], made["devices"], made["rate"]) == (4, 5, 2600.0)
    with (tmp_path / "en" / "fleet.csv").open(encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    assert [float(r["p99"]) for r in rows] == [r["p99"] for r in made["runs"]]
    again = json.loads(run(*args, "--json", "-").stdout)
    assert {**again, "date": made["date"]} == made


def test_the_packaged_schema_is_what_the_types_say() -> None:
    assert fleet_plan.schema() == fleet_plan.generate_schema()


def test_every_text_takes_the_same_figures_in_both_languages() -> None:
    import string

    for name, texts in WORDS.items():
        fields = [{f for _, f, _, _ in string.Formatter().parse(t) if f} for t in texts]
        assert fields[0] == fields[1], name


def test_records_of_several_batches_and_concurrencies_are_packed(tmp_path: Path) -> None:
    def record(batch: int, mean: float, contexts: int = 1, backend: str = "whet") -> object:
        samples = mean * np.random.default_rng(batch).uniform(0.9, 1.1, 400)
        return measurement(backend=backend, shapes={"input": (batch, 3)}, latency=latency(samples),
                           load=Load(concurrency=contexts), memory=Memory(peak_bytes=2 << 30, idle_bytes=0))

    files = [tmp_path / "one.json", tmp_path / "four.json"]
    files[0].write_bytes(encode([record(1, 0.010), record(8, 0.030), record(1, 0.011, backend="onnxruntime")]))
    files[1].write_bytes(encode([record(1, 0.020, 4), record(8, 0.070, 4)]))
    args = ("--rate", 900, "--p99", 100, *(a for f in files for a in ("--records", f)))
    assert "differ in their backend" in str(refused(*args))
    result = run(*args, "--backend", "whet", "--device-memory", 24)
    assert result.exit_code == 0, result.output
    assert "Times are those of 4 contexts" in result.output
    assert "By memory 12 contexts fit on a device; more than 4 were not measured together" in result.output
    assert "no record is of that kind" in str(refused(*args, "--backend", "tensorrt"))


def test_a_trace_is_replayed(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    times = np.cumsum(np.random.default_rng(0).exponential(0.01, 5000))
    trace.write_text("time,user\n" + "\n".join(f"{t:.6f},x" for t in times), "utf-8")
    result = run("--trace", trace, "--p99", 50, "--service", "1:15")
    assert result.exit_code == 0, result.output
    assert "Requests come as in the trace: 5,000" in result.output
    assert "only 50 of its requests lie above its P99" in result.output
    trace.write_text("1\n2\n3\n", "utf-8")
    assert "the trace is too short" in str(refused("--trace", trace, "--p99", 50, "--service", "1:15"))


@pytest.mark.parametrize(("args", "says"), [
    (("--p99", 20, "--rate", 360, "--service", "1:22"), "no fleet keeps P99 under 20 ms"),
    (("--p99", 20, "--throughput", 45), "neither --rate nor --trace"),
    (("--p99", 20, "--rate", 1), "service times are not clear"),
    (("--p99", 20, "--rate", 1, "--throughput", 1, "--service", "1:2"), "service times are not clear"),
    (("--p99", -1, "--rate", 1, "--throughput", 1000), "positive"),
    (("--p99", "nan", "--rate", 1, "--throughput", 1000), "positive"),
    (("--p99", 20, "--rate", "inf", "--throughput", 1000), "positive"),
    (("--p99", 20, "--rate", 1, "--throughput", 0), "positive"),
    (("--p99", 20, "--rate", 1, "--service", "1:2,x"), "not understood"),
    (("--p99", 20, "--rate", 1, "--service", "1:2,1:3"), "not understood"),
    (("--p99", 20, "--rate", 1, "--service", "1:nan"), "positive"),
    (("--p99", 20, "--rate", 1, "--service", "8:2", "--max-batch", 16), "a batch of 16"),
    (("--p99", 20, "--rate", 1, "--service", "1:2", "--backend", "whet"), "choose among records"),
    (("--p99", 20, "--rate", 1, "--service", "1:2", "--growth", -100), "positive load"),
    (("--p99", 20, "--rate", 1, "--service", "1:2", "--dispatch", "magic"), "no dispatch"),
    (("--p99", 20, "--rate", 1, "--service", "1:2", "--spread", "wide"), "no spread"),
    (("--p99", 20, "--rate", 1, "--service", "1:2", "--lang", "xx"), "no texts"),
    (("--p99", 20, "--rate", 1, "--service", "1:2", "--burst", -2), "variation"),
    (("--p99", 20, "--rate", 1, "--records", "missing.json"), "cannot be read"),
    (("--p99", 20, "--rate", 1, "--records", "missing.json", "--contexts", 4), "typed times"),
    (("--p99", 20, "--rate", 1, "--trace", "missing.csv", "--service", "1:2"), "both --rate and --trace"),
    (("--p99", 20, "--trace", "missing.csv", "--service", "1:2"), "cannot be read"),
    (("--p99", 20, "--trace", "missing.csv", "--service", "1:2", "--burst", 2), "exclude each other"),
    (("--p99", 20, "--rate", 1, "--service", "1:2", "--context-memory", 4, "--device-memory", 2), "no context fits"),
])
def test_bad_input_is_a_sentence(args: tuple[object, ...], says: str) -> None:
    assert says in str(refused(*args))
