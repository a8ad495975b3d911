"""A child of the fuzzer: gets a case a line, does it, answers with what came of it."""

from __future__ import annotations

import contextlib
import faulthandler
import json
import math
import random
import resource
import sys
import tempfile
import time
import traceback
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from mutate import of_bytes, of_feeds, of_model, of_plan

import whet
from whet import passes
from whet.errors import InternalError, WhetError
from whet.frontends import load_model
from whet.plan import Plan
from whet.plan.manifest import np_dtype
from whet.tuning.cache import TimingCache

LARGEST_RUN = 1 << 28  # bytes
HARD_LIMIT = 6 << 30  # bytes of data: the machine survives what is reported at 2 GiB


@cache
def files(folder: Path, pattern: str) -> list[Path]:
    return sorted(folder.glob(pattern))


def feeds_of(plan: Plan) -> dict[str, Any]:
    """Inputs that the plan takes."""
    dims = {n: r[1] for n, r in plan.manifest.dims.items()}
    out: dict[str, Any] = {}
    for t in plan.manifest.inputs:
        shape = [n if isinstance(n, int) else dims.get(str(n[0][1][0]), 2) for n in t.shape]
        out[t.name] = (np.full(shape, "a", object) if t.dtype in ("string", "object") else
                       np.ones(shape, np_dtype(t.dtype)))
    return out


def nbytes(plan: Plan) -> int:
    """About what a run touches: a model may well compute with gigabytes, only not here."""
    dims = {n: r[1] for n, r in plan.manifest.dims.items()}
    io = [*plan.manifest.inputs, *plan.manifest.outputs]
    arenas = [s.arena for p in plan.manifest.programs for s in p.segments if isinstance(s.arena, int)]
    return 8 * sum(math.prod(n if isinstance(n, int) else max(dims.values(), default=8) for n in t.shape)
                   for t in io) + sum(arenas)


def do(case: dict[str, Any], corpus: Path, keep: Path) -> None:
    """One case. What is about to be tried lies in `keep`, in case that this process does not outlive it."""
    rng = random.Random(f"{case['kind']} {case['seed']}")
    match case["kind"]:
        case "bytes" | "model":
            pattern = "models/own-*.onnx" if rng.random() < 0.3 else "models/*.onnx"
            raw = rng.choice(files(corpus, pattern)).read_bytes()
            if case["kind"] == "bytes":
                raw = of_bytes(raw, rng)
            else:
                other = onnx.load_from_string(rng.choice(files(corpus, "models/*.onnx")).read_bytes())
                raw = of_model(onnx.load_from_string(raw), other, rng)
            keep.write_bytes(raw)
            if rng.random() < 0.9:
                passes.run(load_model(raw))
            else:
                plan = whet.build(raw, opt_level=0, threads=1, timing_cache=TimingCache())
                if nbytes(plan) < LARGEST_RUN:
                    with whet.load(plan) as engine:
                        engine(feeds_of(plan))
        case "plan":
            path = rng.choice(files(corpus, "plans/*.plan"))
            raw = of_plan(path.read_bytes(), rng)
            keep.write_bytes(raw)
            plan = Plan.open(keep)
            plan.summary()
            if nbytes(plan) < LARGEST_RUN:
                whet.load(plan).close()  # and not run: a plan is machine code with what it is given
        case "feeds":
            path = rng.choice(files(corpus, "plans/*.plan"))
            plan, engine = loaded(path)
            feeds = of_feeds(feeds_of(plan), rng)
            keep.write_text(f"{path}: {({k: told(v) for k, v in feeds.items()})}")
            engine(feeds)


def told(v: Any) -> Any:
    """An input, for people."""
    return (str(v.dtype), v.shape, v.tolist() if v.size < 20 else "...") if isinstance(v, np.ndarray) else v


@cache
def loaded(path: Path) -> tuple[Plan, Any]:
    plan = Plan.open(path)
    return plan, whet.load(plan)


def attempt(case: dict[str, Any], corpus: Path, keep: Path) -> dict[str, Any]:
    """What came of a case: `ok`, a typed error's name, or `untyped`, where `at` says from where."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    start = time.perf_counter()
    out: dict[str, Any] = {"outcome": "ok"}
    try:
        do(case, corpus, keep)
    except InternalError as e:
        out = {"outcome": "untyped", "what": str(e), "at": _place(e)}
    except WhetError as e:
        str(e)
        out = {"outcome": type(e).__name__}
    except Exception as e:
        out = {"outcome": "untyped", "what": f"{type(e).__name__}: {e}"[:300], "at": _place(e)}
    out["seconds"] = time.perf_counter() - start
    out["mib"] = _peak()
    return out


def _place(e: BaseException) -> str:
    frames = [f for f in traceback.extract_tb(e.__traceback__) if "whet" in f.filename]
    return " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in frames[:-5:-1])


def _peak() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) // 1024
    return 0


def main() -> None:
    """Answer until there are no more cases."""
    warnings.simplefilter("ignore")
    np.seterr(all="ignore")
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_DATA, (HARD_LIMIT, HARD_LIMIT))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with tempfile.TemporaryDirectory() as folder:
        for line in sys.stdin:
            case = json.loads(line)
            keep = Path(case.get("keep") or Path(folder) / "case")
            print(json.dumps(attempt(case, Path(sys.argv[1]), keep)), flush=True)


if __name__ == "__main__":
    main()
