"""Energy and carbon: measured where the machine tells, from the table where it does not; which of them is said.

Measured: RAPL's counters (`/sys/class/powercap`, packages of the CPU; Linux documentation "Power Capping Framework"),
NVML's counters of NVIDIA's GPUs. From the table: nominal board power, typed in from data sheets.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from whet.errors import DeviceError, InputError

POWERCAP = Path("/sys/class/powercap")
JOULES_PER_KWH = 3.6e6
SECONDS = 5.0  # of work that a measurement takes


class Device(Struct, frozen=True, forbid_unknown_fields=True):
    """The nominal board power that a device's maker states, in watts."""

    name: str
    watts: float
    source: str


class Grid(Struct, frozen=True, forbid_unknown_fields=True):
    """Grams of CO2 per kWh of a grid, as of a year, and what that was read from."""

    name: str
    grams_per_kwh: float
    year: int
    source: str
    url: str


class _Tables(Struct, frozen=True, forbid_unknown_fields=True):
    schema: int
    devices: tuple[Device, ...]
    grids: tuple[Grid, ...]
    about: str = ""


@cache
def tables() -> _Tables:
    """Power of devices and carbon of grids, as shipped."""
    return msgspec.json.decode(resources.files("whet.decide").joinpath("energy.json").read_bytes(), type=_Tables)


def device(name: str) -> Device | None:
    """The device of that name; None if it is not in the table, or fits several rows (`A100`)."""
    found = [d for d in tables().devices if d.name.lower() == name.lower()]
    found = found or [d for d in tables().devices if d.name.lower().startswith(name.lower() + " ")]
    return found[0] if len(found) == 1 else None


def grid(name: str, where: str = "") -> Grid:
    """The grid of that name. InputError if it is not in the table."""
    for row in tables().grids:
        if row.name == name:
            return row
    raise InputError(f"no grid is named {name!r}", where=where,
                     why=f"there are {', '.join(g.name for g in tables().grids)}",
                     do="give electricity.grams_per_kwh with its source")


@dataclass(frozen=True)
class Used:
    """Joules over seconds, of the whole of what `source` counts, whoever used it."""

    joules: float
    seconds: float
    source: str


class Meter:
    """Counts the energy of this machine's CPU packages and GPUs while work runs.

    Counters are read before and after; RAPL's wrap around, at most once in a run of minutes. DeviceError where the
    machine tells nothing (virtual machines rarely do) or does not let this user read it.
    """

    def __init__(self, powercap: Path = POWERCAP, nvml: Any = None) -> None:
        self._packages = _packages(powercap)
        self._nvml, self._gpus = _gpus(nvml)
        if not self._packages and not self._gpus:
            raise DeviceError("this machine does not tell what energy it uses", where=str(powercap),
                              why="no readable RAPL package (intel-rapl:N/energy_uj), no GPU with an energy counter",
                              do="run on the host as root, or give watts or joules_per_inference with their source")

    @property
    def source(self) -> str:
        """`RAPL package-0, NVML NVIDIA H100`."""
        return ", ".join([*(f"RAPL {name}" for _, name, _ in self._packages), *(f"NVML {n}" for _, n in self._gpus)])

    def measure(self, work: Callable[[], object]) -> Used:
        """Joules and seconds of a call."""
        before, began = self._read(), time.perf_counter()
        work()
        seconds, after = time.perf_counter() - began, self._read()
        spans = [*(span for _, _, span in self._packages), *(None for _ in self._gpus)]
        joules = 0.0
        for a, b, span in zip(before, after, spans):
            joules += b - a if b >= a or span is None else b - a + span
        return Used(joules, seconds, self.source)

    def _read(self) -> list[float]:
        out = [int((folder / "energy_uj").read_text()) / 1e6 for folder, _, _ in self._packages]
        return out + [self._nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3 for handle, _ in self._gpus]


def per_inference(meter: Meter, run: Callable[[], object], inferences: int, seconds: float | None = None,
                  clock: Callable[[], float] = time.perf_counter) -> tuple[float, Used]:
    """Joules of one inference: `run`, which does `inferences`, is repeated for `seconds` (5) at least, and thrice.

    Energy of an idle machine is in it: what else would it be used for. InputError if the counters did not move.
    """
    if inferences < 1:
        raise InputError("a run does at least one inference", why=f"{inferences}")
    run()
    calls = 0

    def work() -> None:
        nonlocal calls
        end = clock() + (SECONDS if seconds is None else seconds)
        while calls < 3 or clock() < end:
            run()
            calls += 1

    used = meter.measure(work)
    if used.joules <= 0:
        raise InputError("the counters of energy did not move", where=used.source, why=f"{used.seconds:.3g} s of work",
                         do="measure for longer")
    return used.joules / (calls * inferences), used


def _packages(powercap: Path) -> list[tuple[Path, str, float]]:
    """Readable packages of RAPL: folder, name, joules at which the counter wraps. Their parts are in them already."""
    out = []
    for folder in sorted(powercap.glob("intel-rapl:[0-9]*")):
        if folder.name.count(":") > 1:
            continue
        try:
            name = (folder / "name").read_text().strip()
            int((folder / "energy_uj").read_text())
            span = int((folder / "max_energy_range_uj").read_text()) / 1e6
        except (OSError, ValueError):
            continue
        if name.startswith("package"):  # psys would count packages twice
            out.append((folder, name, span))
    return out


def _gpus(nvml: Any) -> tuple[Any, list[tuple[Any, str]]]:
    if nvml is None:
        try:
            nvml = importlib.import_module("pynvml")
        except ImportError:
            return None, []
    try:
        nvml.nvmlInit()
        found = []
        for i in range(nvml.nvmlDeviceGetCount()):
            handle = nvml.nvmlDeviceGetHandleByIndex(i)
            nvml.nvmlDeviceGetTotalEnergyConsumption(handle)  # Volta and later have the counter
            name = nvml.nvmlDeviceGetName(handle)
            found.append((handle, name.decode() if isinstance(name, bytes) else name))
        return nvml, found
    except nvml.NVMLError:
        return None, []
