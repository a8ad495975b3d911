"""Choosing for a GPU: candidates are enumerated and compiled by children on all cores, timed by one of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from whet.errors import InternalError, TuningError
from whet.ir.region import Region
from whet.targets.base import Candidate
from whet.targets.cuda.target import CudaTarget
from whet.tuning import store
from whet.tuning.cache import TimingCache
from whet.tuning.found import Choice, Progress, Tuned, describe
from whet.tuning.pool import Crew, WorkerDied

COMPILE_TIMEOUT = 180.0
WORKER = "whet.tuning.cuda_worker"


def choose(regions: Sequence[Region], target: CudaTarget, cache: TimingCache, opt_level: int, out: Tuned,
           progress: Callable[[Progress], None]) -> None:
    """Choose for regions that the cache does not know, each unlike the others. TuningError where nothing works."""
    if not regions:
        return
    with Crew(cores(), WORKER) as crew:
        found = _candidates(regions, target, crew, progress)
        _settle(found, target, crew, out, progress)


def compile_all(codes: Mapping[str, str], target: CudaTarget) -> dict[str, bytes]:
    """Objects of kernels (by symbol) that have compiled before, or ought to: from the disk, or by children."""
    out = {symbol: raw for symbol, code in codes.items() if (raw := store.get(target, code)) is not None}
    missing = {s: c for s, c in codes.items() if s not in out}
    if missing:
        with Crew(min(cores(), len(missing)), WORKER) as crew:
            jobs = {s: crew.submit(COMPILE_TIMEOUT, "assemble", target, c) for s, c in missing.items()}
            for symbol, job in jobs.items():
                raw, failed = _result(job)
                if failed:
                    raise InternalError("a kernel does not compile", where=symbol, why=failed,
                                        do="report this model; another --opt-level may choose other kernels")
                out[symbol] = raw
        store.prune()
    return out


def cores() -> int:
    """Processes to compile in."""
    return len(os.sched_getaffinity(0))


def _candidates(regions: Sequence[Region], target: CudaTarget, crew: Crew, progress: Callable[[Progress], None]
                ) -> list[tuple[Region, list[Candidate]]]:
    """Each region's candidates. Libraries are asked on the GPU, in children; without one nothing needs to be opened."""
    progress(Progress(0, len(regions), "candidates"))
    if not target.gpu.live:
        found: list[tuple[list[Candidate], str]] = [(target.candidates(r), "") for r in regions]
    else:
        jobs = [crew.submit(COMPILE_TIMEOUT, "candidates", target, r) for r in regions]
        found = [(given or [], failed) for given, failed in map(_result, jobs)]
    for region, (candidates, failed) in zip(regions, found):
        if not candidates:
            raise TuningError(f"no tactic runs this {region.kind}", where=describe(region),
                              why=failed or target.accepts(region) or "none of its tactics has a candidate",
                              do="report this model: every region must have a tactic")
    return [(r, c) for r, (c, _) in zip(regions, found)]


def _settle(todo: Sequence[tuple[Region, list[Candidate]]], target: CudaTarget, crew: Crew, out: Tuned,
            progress: Callable[[Progress], None]) -> None:
    """For each region the first candidate that compiles: the cost model's word, as far as the compiler agrees."""
    left = [(region, list(candidates), list[str]()) for region, candidates in todo]
    while left:
        jobs = [crew.submit(COMPILE_TIMEOUT, "compile", target, r, c[0].tactic, c[0].params) for r, c, _ in left]
        again = []
        for (region, candidates, reasons), job in zip(left, jobs):
            objects, failed = _result(job)
            first = candidates.pop(0)
            if not failed:
                out.choices[region.signature()] = Choice(first.tactic, first.params, "model")
                out.objects.update(objects)
                progress(Progress(len(out.choices), len(todo), describe(region)))
                continue
            reasons.append(f"{first.tactic}: {failed}")
            if not candidates:
                raise TuningError(f"every candidate for a {region.kind} failed", where=describe(region),
                                  why="; ".join(reasons[:4]), do="report this model")
            again.append((region, candidates, reasons))
        left = again


def _result(job: Future[Any]) -> tuple[Any, str]:
    """What a child answered, and how it failed if it did."""
    try:
        return job.result(), ""
    except (RuntimeError, WorkerDied) as e:
        return None, str(e)
