"""Several contexts at once: what is timed is what ran."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import whet
from whet.cli.main import app
from whet.compare.contexts import at_once
from whet.decide.service import services
from whet.errors import InputError
from whet.measure.record import read

DIGITS = Path(whet.__file__).parent / "demo" / "digits.onnx"


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plan") / "digits.plan"
    whet.build(DIGITS, threads=1, opt_level=0).save(path)
    return path


def test_calls_of_contexts_that_are_busy_obey_littles_law(plan: Path) -> None:
    opened = whet.Plan.open(plan)
    feeds = {t.name: np.zeros([d if isinstance(d, int) else 1 for d in t.shape], np.float32)
             for t in opened.manifest.inputs}
    samples, rate = at_once(opened, feeds, 3, seconds=0.2)
    assert len(samples) >= 3
    assert (samples > 0).all()
    assert 0 < rate * samples.mean() <= 3 * (1 + 1e-9)
    opened.close()


def test_bench_writes_a_record_that_fleets_are_packed_by(plan: Path, tmp_path: Path) -> None:
    out = tmp_path / "two.json"
    result = CliRunner().invoke(app, ["bench", str(plan), "--contexts", "2", "--seconds", "0.2", "--no-memory",
                                      "--json", str(out)])
    assert result.exit_code == 0, result.output
    assert "2 contexts at once" in result.output
    (record,) = read(out)
    assert record.load.concurrency == 2
    assert record.comparisons == ()
    assert list(services([record])) == [2]
    assert json.loads(out.read_text("utf-8"))[0]["load"] == {"concurrency": 2}
    refused = CliRunner().invoke(app, ["bench", str(plan), "--contexts", "2", "--backends", "whet,onnxruntime"])
    assert isinstance(refused.exception, InputError)
