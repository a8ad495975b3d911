"""What `whet compare --ab` is asked, and what its parts share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from whet.errors import InputError

_TIMES = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


@dataclass(frozen=True)
class Options:
    """As the options above have it; `output` is a folder for the report, `json` a file or `-`."""

    paths: tuple[Path, ...]
    margin: str
    statistic: str = ""
    higher_better: bool = False
    unpaired: bool | None = None
    missing: str = "refuse"
    column: str = ""
    method: str = "t"
    stopping: str = "once"
    planned: int | None = None
    previous: Path | None = None
    looks: int = 1
    confidence: float = 0.95
    power: float = 0.9
    ratio: float = 1.0
    discordance: float | None = None
    share: float | None = None
    deviation: float | None = None
    expected: float = 0.0
    samples: int | None = None
    mixed_hardware: bool = False
    backend: str = ""
    precision: str = ""
    evaluation: str | None = None
    metric: str = "top1"
    preprocess: str | None = None
    output: Path | None = None
    json: str = ""
    lang: str = "en"


@dataclass(frozen=True)
class Margins:
    """A parsed margin: percent of A's figure if `relative`; `seconds` if a unit of time was given."""

    value: float
    relative: bool
    seconds: bool = False


def parse_margin(text: str) -> Margins:
    """`0.5`, `5%`, `2ms`. InputError for anything else."""
    shown = text.strip().replace(" ", "")
    unit = next((u for u in ("%", *_TIMES) if shown.endswith(u)), "")
    try:
        value = float(shown.removesuffix(unit))
    except ValueError:
        raise InputError("the margin is missing" if not shown else f"{text!r} is no margin",
                         why="what loss would still do decides how many samples are needed",
                         do="give --margin 0.5 (points of a share), 5% (of A's figure) or 2ms") from None
    return Margins(value * _TIMES.get(unit, 1.0), unit == "%", unit in _TIMES)


def plain(margin: Margins) -> None:
    """InputError unless the margin is plain, as one of a share is."""
    if margin.relative or margin.seconds:
        raise InputError("a margin of a share is in points", why="percent of a share is ambiguous",
                         do="give --margin 0.5: half a point")


def same_hardware(devices: set[str], o: Options) -> None:
    """InputError if there are several, unless that was asked for."""
    if len(devices) > 1 and not o.mixed_hardware:
        raise InputError("the versions ran on different hardware", why="; ".join(sorted(devices)) + ": a difference "
                         "would be that of version and hardware together",
                         do="run both on one machine, or say --mixed-hardware (the result is labelled)")


def labels(paths: tuple[Path, ...]) -> tuple[str, str]:
    """What the two versions are called: their files' names, or paths where these are alike."""
    x, y = paths
    if x.name != y.name:
        return x.name, y.name
    return (str(x), str(y)) if x != y else (f"{x} (A)", f"{y} (B)")
