"""docs/fleets.md does what it says, and the prediction of MLPerf's ratios fits what it should."""

import csv
import math
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks import fleet_mlperf
from whet.cli.main import app
from whet.errors import InputError

PAGE = (Path(__file__).parents[2] / "docs" / "fleets.md").read_text("utf-8")


def test_the_python_on_the_page_runs() -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, "docs/fleets.md", "exec"), {})


def test_the_commands_on_the_page_run() -> None:
    lines = re.findall(r"^    whet (plan-fleet .*)$", PAGE, re.MULTILINE)
    outputs = [CliRunner().invoke(app, shlex.split(line)) for line in lines]
    assert [o.exit_code for o in outputs] == [0, 0, 0]
    assert "9 devices" in outputs[0].output
    assert "3 devices" in outputs[1].output


@pytest.mark.parametrize(("system", "count"), [
    ("T4x20_TRT", 20), ("A30-MIG_32x1g.6gb_TRT_Triton", 32), ("1-node-2S-ICX-OpenVINO-INT8", 2), ("8x1g", 8),
    ("SYS-220HE-FTNR_4_A2_TRT", 4), ("ND96asr_v4_TRT", None), ("GIGABYTE_G292-Z43_16xT4", 16)])
def test_accelerators_are_read_from_names(system: str, count: int | None) -> None:
    assert fleet_mlperf.accelerators(system) == count


def _table(path: Path, ratio: float) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(fleet_mlperf.COLUMNS)
        for i, round_ in enumerate(["v0.7", "v1.0", "v1.1", "v2.0"] * 12):
            rate = 10.0 ** (3 + i % 4)
            true = ratio * (1 - 1 / math.sqrt(rate * 0.015))
            for scenario, value, limit in (("Offline", rate, ""), ("Server", rate * true, 15e6)):
                writer.writerow([round_, f"maker {i % 5}", f"T4x1_{i}", "resnet50", scenario, value, limit])
        writer.writerow(["v1.0", "maker 0", "T4x1_x", "resnet50", "Offline", "", ""])
    return path


def test_a_square_root_in_the_data_is_found_and_beats_the_constant(tmp_path: Path,
                                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_mlperf, "highest_load", lambda n, fixed: max(0.0, 1 - (1 + fixed) / math.sqrt(n)))
    pairs = fleet_mlperf.read(_table(tmp_path / "results.csv", 0.9))
    assert len(pairs) == 48
    found = {r["predictor"]: r for r in fleet_mlperf.judge(pairs)["predictors"]}
    assert found["square root"]["mean_error"] == pytest.approx(0, abs=1e-6)
    assert found["square root"]["fitted"]["all"] == {"shape": "beta = 1", "eta": {"all": 0.9}}
    assert found["queue"]["mean_error"] < 0.02
    assert found["queue"]["gain_low"] > 0
    assert found["constant 0.85"]["gain"] == 0


def test_the_simulated_ratio_rises_with_the_samples_that_fit_the_limit() -> None:
    loads = [fleet_mlperf.highest_load(n, 2, 4000) for n in (10, 40, 160, 640)]
    assert loads == sorted(loads)
    assert loads[0] < 0.4
    assert loads[-1] > 0.9
    assert fleet_mlperf.highest_load(160, 8, 4000) < loads[2]
    assert np.isclose(fleet_mlperf.highest_load(0.5, 1, 4000), 0, atol=0.01)


def test_a_table_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="not a table"):
        fleet_mlperf.read(path)
    lines = _table(path, 0.9).read_text("utf-8").splitlines()
    path.write_text("\n".join([lines[0], lines[1].replace("1000.0", "nan")]), "utf-8")
    with pytest.raises(InputError, match="no result"):
        fleet_mlperf.read(path)
