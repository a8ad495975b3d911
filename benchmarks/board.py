"""How soon the board shows something, over a store of a million records.

    python benchmarks/board.py                          makes the store first, which takes a while
    python benchmarks/board.py --store FILE             one that is there; it is made there if it is not
    python benchmarks/board.py --records 20000          a small one

Nine tenths of the records are those of `benchmarks/store.py`: 1,000 settings of 50 models, a day apart. The last tenth
is one setting measured every five minutes, with three changes of level in it: a long history. Then `whet board` is
started anew for each load of a page, and a headless Chromium without a cache says when it first painted something.
Results go to `benchmarks/results/board-<fingerprint>.json` and `.md`.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from itertools import chain
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import msgspec
import numpy as np
from rich.progress import Progress

from benchmarks import browser
from benchmarks.store import records as of_the_store
from whet.measure import stats, this_device
from whet.measure.record import Measurement, Model
from whet.store import Store

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
START = datetime(2022, 1, 1, tzinfo=UTC)
LONG = "nightly"  # the model with the long history
PAGES = {"list of models": "/", "a model": "/model?model=model003", "a long history": f"/model?model={LONG}",
         "a search": "/?q=model04", "returns": "/returns?model=model003"}
LEVELS = (0.0125, 0.0110, 0.0117, 0.0074)  # seconds; the history changes from one to the next


def long_history(count: int) -> Iterator[Measurement]:
    """One setting, every five minutes."""
    rng = np.random.default_rng(2)
    samples = 0.01 * rng.lognormal(0, 0.04, 32)
    latency, levels = stats.latency(samples), np.repeat(LEVELS, -(-count // len(LEVELS)))
    base = Measurement(date="", model=Model(name=LONG, sha256="5" * 64), backend="whet", precision="bf16", threads=2,
                       shapes={"input": (8, 3, 224, 224)}, device=this_device(), versions={"whet": "0.1.0"})
    for i in range(count):
        factor = float(levels[i] / 0.01 * rng.lognormal(0, 0.03))
        moved = msgspec.structs.replace(
            latency, mean=latency.mean * factor, minimum=latency.minimum * factor, samples=(),
            **{name: _times(getattr(latency, name), factor) for name in ("p50", "p90", "p99")})
        yield msgspec.structs.replace(base, latency=moved, throughput=8 / moved.p50.value,
                                      date=(START + timedelta(minutes=5 * i)).isoformat())


def _times(quantile: msgspec.Struct, factor: float) -> msgspec.Struct:
    return msgspec.structs.replace(quantile, **{name: getattr(quantile, name) * factor
                                                for name in ("value", "low", "high")
                                                if getattr(quantile, name) is not None})


def fill(place: str, count: int) -> None:
    """A store of `count` records."""
    long = count // 10
    with Store(place) as store, Progress() as bar:
        task = bar.add_task("filling the store", total=count)
        store.add(chain(of_the_store(count - long), long_history(long)),
                  progress=lambda done: bar.update(task, completed=done))


def measure(place: str, loads: int) -> dict[str, Any]:
    """First contentful paint of pages, each load in a browser profile of its own, on a server that was just started."""
    program = browser.find()
    if program is None:
        sys.exit("no Chromium here: apt-get install chromium, or $WHET_CHROMIUM")
    with Store(place, create=False) as store:
        models, (settings, count) = store.models(limit=1)[1], store.size()
    result: dict[str, Any] = {"records": count, "settings": settings, "models": models, "loads": loads,
                              "bytes": os.stat(place).st_size, "pages": {}}
    with browser.chromium(program) as chromium, Progress() as bar:
        result["browser"] = chromium.call("Browser.getVersion")["product"]
        task = bar.add_task("loading pages", total=len(PAGES) * loads)
        for name, path in PAGES.items():
            found = []
            for _ in range(loads):
                with _server(place) as base:
                    found.append(_load(chromium, base, path))
                bar.advance(task)
            result["pages"][name] = {"path": path, **{key: _spread([f[key] for f in found]) for key in found[0]}}
    return result


@contextmanager
def _server(place: str) -> Iterator[str]:
    """`whet board` in a process of its own; the address that it prints."""
    command = [sys.executable, "-c", "from whet.cli.main import main; main()", "board", "--store", place, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env={
            **os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONUNBUFFERED": "1"}) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        try:
            yield said.split(" on ")[1].split("/ ")[0]
        finally:
            process.send_signal(signal.SIGINT)
            process.wait()


def _load(chromium: browser.Chromium, base: str, path: str) -> dict[str, float]:
    page = chromium.page()
    page.open(base + path)
    page.until("performance.getEntriesByName('first-contentful-paint').length > 0")
    found = page.run("""(() => { const n = performance.getEntriesByType('navigation')[0];
        return {paint: performance.getEntriesByName('first-contentful-paint')[0].startTime,
                answer: n.responseEnd, loaded: n.loadEventEnd, kilobytes: n.encodedBodySize / 1024}; })()""")
    elsewhere = [u for u in page.requests() if not u.startswith(base)]
    page.close()
    assert not elsewhere, f"a request left the machine: {elsewhere}"
    return found


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": float(np.median(values)), "least": min(values), "most": max(values)}


def table(result: dict[str, Any]) -> str:
    """The figures as Markdown."""
    return "\n".join([
        f"# The board over a store of {result['records']:,} records", "",
        f"{result['machine']}, {result['cores']} cores (load average {result['busy']:.1f} when it began, niceness "
        f"{result['niceness']}), "
        f"{result['date'][:10]}, {result['browser']}. {result['models']} models, {result['settings']:,} settings, "
        f"{result['bytes'] / 2**30:.1f} GiB in SQLite. First contentful paint in milliseconds from the start of the "
        f"navigation; {result['loads']} loads of each page, each by a server that was just started and in a browser "
        "profile without a cache: median (least to most). No request left the machine. "
        f"Made by `{result['command']}`.", "",
        "| page | first paint | answer complete | HTML |", "|---|---:|---:|---:|",
        *(f"| {name}: `{p['path']}` | {_ms(p['paint'])} | {_ms(p['answer'])} | {p['kilobytes']['median']:.0f} KiB |"
          for name, p in result["pages"].items())]) + "\n"


def _ms(found: dict[str, float]) -> str:
    return f"{found['median']:,.0f} ms ({found['least']:,.0f} to {found['most']:,.0f})"


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description="How soon the board shows something.")
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--store", type=Path, help="a store that `--records` made; made there where it is not")
    parser.add_argument("--loads", type=int, default=7, help="of each page")
    parser.add_argument("--output", type=Path, default=RESULTS)
    asked = parser.parse_args()
    device = this_device()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="whet-board-")))
        place = asked.store or folder / "store.db"
        if not place.exists():
            fill(str(place), asked.records)
        result = {"machine": device.name, "cores": device.cores, "date": datetime.now(UTC).isoformat(),
                  "busy": os.getloadavg()[0], "niceness": os.nice(0), "command": "python benchmarks/board.py"}
        result |= measure(str(place), asked.loads)
    asked.output.mkdir(parents=True, exist_ok=True)
    (asked.output / f"board-{device.fingerprint}.json").write_text(json.dumps(result, indent=1) + "\n")
    (asked.output / f"board-{device.fingerprint}.md").write_text(table(result))
    print(table(result))


if __name__ == "__main__":
    main()
