"""The tables that come with whet have sources and dates; counters of energy are read as the kernel has them."""

from __future__ import annotations

import datetime
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from whet.decide import energy, prices
from whet.errors import DeviceError, InputError


def test_every_price_has_its_source_and_date() -> None:
    for row in prices.shipped():
        assert re.search("^https://.*/[0-9a-f]{40}/", row.url), "what was read, at a commit where it stays"
        assert row.official.startswith("https://")
        assert row.price_per_hour > 0
        assert row.currency == "USD"
        assert datetime.date(2025, 1, 1) <= row.as_of <= datetime.date.today()
    assert len({row.key for row in prices.shipped()}) == len(prices.shipped())


def own(folder: Path, **fields: Any) -> Path:
    row = {"provider": "aws", "region": "us-east-1", "instance": "g4dn.xlarge", "price_per_hour": 0.31,
           "currency": "USD", "as_of": "2026-11-01", "url": "contract 7"} | fields
    path = folder / "prices.json"
    path.write_text(json.dumps({"schema": 1, "prices": [row]}, indent=1))
    return path


def test_a_users_price_comes_first(tmp_path: Path) -> None:
    found = prices.table(own(tmp_path)).find("aws/us-east-1/g4dn.xlarge")
    assert (found.price_per_hour, found.url) == (0.31, "contract 7")
    assert prices.table().find("g4dn.xlarge").price_per_hour == 0.526


@pytest.mark.parametrize(("fields", "what"), [
    ({"price_per_hour": -1}, "line 8, prices[0].price_per_hour"), ({"as_of": "yesterday"}, "line 10, prices[0].as_of"),
    ({"currency": "$"}, "prices[0].currency"), ({"as_of": "2999-01-01"}, "of the future"),
    ({"url": ""}, "prices[0].url"),
    ({"discount": 1}, "discount"), ({"price_per_hour": "cheap"}, "line 8")])
def test_prices_that_make_no_sense(tmp_path: Path, fields: dict[str, Any], what: str) -> None:
    with pytest.raises(InputError) as e:
        prices.read(own(tmp_path, **fields))
    assert what in str(e.value)


def test_two_prices_of_one_instance_are_refused(tmp_path: Path) -> None:
    path = own(tmp_path)
    data = json.loads(path.read_text())
    path.write_text(json.dumps({"schema": 1, "prices": data["prices"] * 2}))
    with pytest.raises(InputError, match="two prices"):
        prices.read(path)


def test_an_instance_of_several_regions_must_be_named_whole(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="several regions"):
        prices.table(own(tmp_path, region="eu-west-1")).find("g4dn.xlarge")


def test_power_of_known_devices() -> None:
    watts = {name: found.watts for name in ("T4", "L4", "A10G", "A100 SXM", "L40S", "H100")
             if (found := energy.device(name)) is not None}
    assert watts == {"T4": 70, "L4": 72, "A10G": 150, "A100 SXM": 400, "L40S": 350, "H100": 700}
    assert energy.device("A100") is None  # 250 or 400 W: which of them is not known
    assert energy.device("") is None


def test_power_is_said_to_be_typed_in() -> None:
    assert all("nominal board power, typed in" in d.source for d in energy.tables().devices)


def test_grids_have_year_and_source() -> None:
    assert all(g.year >= 2020 and g.source and g.url.startswith("https://") for g in energy.tables().grids)
    with pytest.raises(InputError, match="no grid"):
        energy.grid("Atlantis")


# -- counters ---------------------------------------------------------------------------------------


def package(folder: Path, number: str, name: str, joules: float, span: float = 262_143.0) -> Path:
    made = folder / f"intel-rapl:{number}"
    made.mkdir(parents=True)
    (made / "name").write_text(f"{name}\n")
    (made / "energy_uj").write_text(f"{round(joules * 1e6)}\n")
    (made / "max_energy_range_uj").write_text(f"{round(span * 1e6)}\n")
    return made


class NoGpu:
    class NVMLError(Exception):
        pass

    def nvmlInit(self) -> None:
        raise self.NVMLError


def test_packages_are_added_up_and_parts_are_not_counted_twice(tmp_path: Path) -> None:
    a, b = package(tmp_path, "0", "package-0", 100), package(tmp_path, "1", "package-1", 50)
    package(tmp_path, "0:0", "core", 10)
    package(tmp_path, "2", "psys", 900)
    meter = energy.Meter(tmp_path, NoGpu())
    assert meter.source == "RAPL package-0, RAPL package-1"

    def work() -> None:
        (a / "energy_uj").write_text("107000000")
        (b / "energy_uj").write_text("53000000")

    assert meter.measure(work).joules == pytest.approx(10)


def test_a_counter_that_wraps(tmp_path: Path) -> None:
    a = package(tmp_path, "0", "package-0", 990, span=1000)
    used = energy.Meter(tmp_path, NoGpu()).measure(lambda: (a / "energy_uj").write_text("15000000"))
    assert used.joules == pytest.approx(25)


def test_a_gpus_counter() -> None:
    state = {"mj": 5_000_000}
    nvml = SimpleNamespace(
        NVMLError=RuntimeError, nvmlInit=lambda: None, nvmlDeviceGetCount=lambda: 1,
        nvmlDeviceGetHandleByIndex=lambda i: i, nvmlDeviceGetName=lambda h: b"NVIDIA T4",
        nvmlDeviceGetTotalEnergyConsumption=lambda h: state["mj"])
    meter = energy.Meter(Path("/nowhere"), nvml)

    def run() -> None:
        state["mj"] += 2000

    clock = iter(range(100))
    joules, used = energy.per_inference(meter, run, 4, seconds=10, clock=lambda: float(next(clock)))
    assert meter.source == "NVML NVIDIA T4"
    assert joules == pytest.approx(2 / 4)
    assert used.joules >= 6


def test_a_machine_that_tells_nothing(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="does not tell"):
        energy.Meter(tmp_path, NoGpu())


def test_a_counter_that_stands_still(tmp_path: Path) -> None:
    package(tmp_path, "0", "package-0", 1)
    with pytest.raises(InputError, match="did not move"):
        energy.per_inference(energy.Meter(tmp_path, NoGpu()), lambda: None, 1, seconds=0)
