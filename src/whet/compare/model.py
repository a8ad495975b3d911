"""One model over all backends: the whole comparison, from options to the result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from whet import __version__
from whet.compare import assemble, grid, ray_cluster, ray_sweep, remote, servers
from whet.compare.backends import installed
from whet.compare.citations import read as read_citations
from whet.compare.grid import Cell
from whet.compare.inputs import signature
from whet.compare.journal import Journal
from whet.compare.openers import Progress, Workshop
from whet.compare.result import Constraint, LeftOut, Result, Row
from whet.compare.sweep import Sweep, check, run, scratch
from whet.compare.torch_backend import check as check_torch
from whet.errors import InputError, OutputError
from whet.frontends import model_hash
from whet.measure.device import this_device
from whet.measure.record import Device, Model
from whet.precision.data import Preprocess, open_data

JOURNAL = "journal.jsonl"


@dataclass(frozen=True)
class Options:
    """What is compared, and how. `folder` holds the journal.

    backends:    empty: whet, and what is installed and has a model to run (PyTorch only with `torch`).
    precisions, batches, threads: all combinations that a backend has. Empty batches: the shapes', else 1; empty
                 threads: all cores.
    inputs:      what is timed, in any form that `open_data` takes; else the evaluation's first batch, else the
                 calibration's, else seeded random values.
    evaluation:  labelled samples: accuracy is judged in pairs. `max_drop` scales losses in the ranking, too.
    torch:       `package.module:callable`, or a .pt2 file.
    builds:      of every cell; fresh_builds: without timing caches, so that each build chooses anew.
    gate:        ratios nearer to 1 than this do not matter.
    weights:     of the ranking; empty: `recommend.DEFAULT_WEIGHTS`, of what is known of every cell.
    price:       of an hour of this machine.
    servers:     URLs; remotes: {name: command template}.
    ray:         address of a Ray cluster that measures instead of this machine (`ray_cluster.joined`). Batches, builds
                 and numbers of threads are divided among its nodes; each kind of hardware measures all cells.
    """

    model: Path
    folder: Path
    backends: Sequence[str] = ()
    precisions: Sequence[str] = ("fp32",)
    batches: Sequence[int] = ()
    threads: Sequence[int] = ()
    shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    target: str = "cpu"
    inputs: Any = None
    calibration: Any = None
    calibration_samples: int | None = None
    preprocess: Preprocess | None = None
    evaluation: Any = None
    eval_samples: int | None = None
    metric: str = "divergence"
    max_drop: float = 0.5
    torch: str = ""
    builds: int = 3
    fresh_builds: bool = False
    seconds: float = 3.0
    memory: bool = True
    timing_cache: Path | None = None
    opt_level: int = 3
    baseline: str = ""
    gate: float = 0.02
    weights: Mapping[str, float] = field(default_factory=dict)
    constraints: Sequence[Constraint] = ()
    citations: Path | None = None
    price: float | None = None
    servers: Sequence[str] = ()
    remotes: Mapping[str, str] = field(default_factory=dict)
    allow_mixed: bool = False
    fresh: bool = False
    ray: str = ""


def compare_model(o: Options, progress: Progress = lambda what, done, total: None) -> Result:
    """Measure what the folder's journal does not have yet, and judge.

    InputError for options that contradict each other or the model, and for cells on different hardware unless that is
    asked for; ModelFileError for no model; OutputError if the folder cannot be written to. What fails in one cell
    alone is in its row. With `ray` errors as of `ray_cluster.joined` and `ray_sweep.measure`, too.
    """
    if not o.ray:
        return _compared(o, progress)
    if o.servers or o.remotes:
        raise InputError("servers and other hosts are not measured from a cluster", why="they were given beside --ray",
                         do="compare them in a run without --ray")
    with ray_cluster.joined(o.ray, gpu=o.target != "cpu", progress=progress) as cluster:
        if len(cluster.hardware()) > 1:
            _refuse_mixed(o, "; ".join(ray_sweep.labels(list(cluster.hardware().values())).values()))
        return _compared(o, progress, cluster)


def _compared(o: Options, progress: Progress, cluster: ray_cluster.Cluster | None = None) -> Result:
    if not (0 <= o.gate < 1) or not o.seconds > 0 or (o.price is not None and not 0 < o.price < 1e9):
        raise InputError("the gate is a share below 1, seconds and the price are positive",
                         why=f"{o.gate:g}, {o.seconds:g} and {o.price} were given")
    if not o.max_drop > 0:
        raise InputError(f"--max-drop {o.max_drop:g}", why="a budget is a positive number", do="give 0.5, say")
    of = signature(o.model)
    cited = read_citations(o.citations) if o.citations is not None else ()
    if o.torch:
        check_torch(o.torch)
    pairs, out = grid.kinds(_backends(o, cluster), o.precisions, target=o.target, quantized=of.quantized,
                            calibrated=o.calibration is not None)
    batches = list(o.batches) or [of.batch(o.shapes)]
    threads = list(o.threads) or [cluster.cpus() if cluster is not None else this_device().cores or 1]
    cells = grid.cells(pairs, batches, threads) if pairs else []
    served = [servers.parse(url) for url in o.servers]
    cells += [Cell(s.name, "as served", b, None) for s in served for b in dict.fromkeys(batches)]
    if not cells and not o.remotes:
        raise InputError("there is nothing to compare", why="; ".join(f"{x.kind}: {x.why}" for x in out),
                         do="give other backends or precisions")
    if o.baseline and not o.remotes and o.baseline not in {c.kind for c in cells}:
        there = ", ".join(dict.fromkeys(c.kind for c in cells))
        raise InputError(f"no baseline {o.baseline!r}", why=f"there are {there}",
                         do="choose among these")
    if far_away := [s.url for s in served if not s.local]:
        _refuse_mixed(o, f"{far_away[0]} is on hardware that is not known to be this machine's")
    timed, what = _timed_on(o)
    try:
        o.folder.mkdir(parents=True, exist_ok=True)
        if o.fresh:
            (o.folder / JOURNAL).unlink(missing_ok=True)
    except OSError as e:
        raise OutputError("the folder for the comparison cannot be made", where=str(o.folder),
                          why=e.strerror or str(e), do="name one that can") from e
    with scratch() as folder:
        shop = Workshop(o.model, of, Path(folder), o.target, o.calibration, o.preprocess, o.calibration_samples,
                        o.timing_cache, o.opt_level, o.torch, o.fresh_builds)
        sweep = Sweep(cells, shop, o.shapes, timed, o.evaluation, o.metric, o.max_drop, o.eval_samples, o.preprocess,
                      o.builds, o.seconds, o.memory, {s.name: s.open for s in served})
        check(sweep)
        if o.evaluation is not None:  # what is wrong with its form is known before anything is built
            open_data(o.evaluation, grid_specs(sweep, batches[0]), preprocess=o.preprocess, limit=o.eval_samples)
        sha = model_hash(o.model)
        model = Model(name=o.model.stem, sha256=sha)
        journal = Journal(o.folder / JOURNAL, _identity(o, sha, cells, what, cluster))
        try:
            far = _remote(o, journal, model, batches, sweep, progress)
            found = [(this_device(), run(sweep, journal, progress))] if cluster is None else ray_sweep.measure(
                cluster, sweep, journal, o.timing_cache, progress)
        finally:
            journal.close()
        shapes = {b: of.at(b, o.shapes) for b in batches}
    places = {s.name: (s.url, this_device() if s.local else servers.unknown_device(s)) for s in served}
    settings = assemble.Settings(model, o.target, shapes, what, o.baseline, o.gate, o.weights, o.constraints,
                                 o.max_drop, o.price, False, o.fresh_builds)
    rows = ray_sweep.rows(cells, found, settings) if cluster is not None else \
        assemble.rows(cells, found[0][1], settings, places) + far
    mixed = len(_hardware(rows)) > 1
    if mixed:
        _refuse_mixed(o, "; ".join(_hardware(rows).values()))
    settings = assemble.Settings(**{**vars(settings), "mixed": mixed})
    return assemble.result(rows, settings, citations=cited, left_out=[LeftOut(kind=x.kind, why=x.why) for x in out],
                           notes=[*([ray_sweep.note(found)] if cluster is not None else []),
                                  *(n for _, m in found for n in m.notes), *_notes(o, rows)])


def grid_specs(sweep: Sweep, batch: int) -> Any:
    """The model's inputs at a batch, as data are checked against them."""
    from whet.compare.inputs import specs

    return specs(sweep.shop.signature, sweep.shop.signature.at(batch, sweep.shapes))


def _backends(o: Options, cluster: ray_cluster.Cluster | None) -> list[str]:
    if o.backends:
        return list(o.backends)
    have = installed() if cluster is None else cluster.installed()
    if o.servers or o.remotes:
        there = ["whet"]
    else:
        there = [name for name in have if o.target == "cpu" or name != "openvino"]
    return there + (["torch"] if o.torch else [])


def _timed_on(o: Options) -> tuple[Any, str]:
    """The data that cells are timed and checked on, and what to call them."""
    for data, name in ((o.inputs, "the inputs that were given"), (o.evaluation, "the first samples of the evaluation"),
                       (o.calibration, "the first samples of the calibration")):
        if data is not None:
            return data, name
    return None, "seeded random values"


def _identity(o: Options, sha: str, cells: Sequence[Cell], what: str,
              cluster: ray_cluster.Cluster | None) -> dict[str, Any]:
    """What must be equal for finished cells to count: what is measured, on what, by which versions. Nodes of a cluster
    come and go; of their hardware there is one kind, unless any is allowed."""
    machine = this_device().fingerprint
    if cluster is not None:
        machine = "any node of a cluster" if o.allow_mixed else f"nodes like {next(iter(cluster.hardware()))}"
    return {
        "model": sha, "cells": [c.key for c in cells], "shapes": {n: list(s) for n, s in o.shapes.items()},
        "target": o.target, "inputs": what, "data": [str(o.inputs), str(o.evaluation), str(o.calibration)],
        "samples": [o.calibration_samples, o.eval_samples], "metric": [o.metric, o.max_drop],
        "preprocess": o.preprocess.key() if o.preprocess else "", "torch": o.torch, "builds": o.builds,
        "fresh builds": o.fresh_builds, "seconds": o.seconds, "memory": o.memory, "opt level": o.opt_level,
        "servers": list(o.servers), "remotes": dict(o.remotes), "machine": machine,
        "whet": __version__}


def _remote(o: Options, journal: Journal, model: Model, batches: Sequence[int], sweep: Sweep,
            progress: Progress) -> list[Row]:
    """Other hosts first: what they are decides whether anything is compared at all."""
    rows: list[Row] = []
    for name, template in o.remotes.items():
        for batch in dict.fromkeys(batches):
            key = f"remote/{name}/{batch}"
            if key not in journal:
                progress(f"{name}, batch {batch}", 0, 0)
                shapes = sweep.shop.signature.at(batch, o.shapes)
                journal.add(key, remote.bench(name, template, o.model, model.sha256, shapes, batch))
            rows += journal.get(key, list[Row])
    devices = {**({this_device().fingerprint: ""} if sweep.cells else {}), **_hardware(rows)}
    if len(devices) > 1:
        _refuse_mixed(o, "; ".join(filter(None, _hardware(rows).values())))
    return rows


def _hardware(rows: Sequence[Row]) -> dict[str, str]:
    """The machines of what was measured: fingerprint -> name."""
    out = {}
    for r in rows:
        if r.record is not None:
            d: Device = r.record.device
            out[d.fingerprint] = ", ".join((d.name, *(g.name for g in d.gpus)))
    return out


def _refuse_mixed(o: Options, what: str) -> None:
    if not o.allow_mixed:
        raise InputError("different hardware in one comparison", why=what[:500],
                         do="compare on one machine, or say that it is meant: --allow-mixed-hardware")


def _notes(o: Options, rows: Sequence[Row]) -> list[str]:
    out = []
    ours = [r for r in rows if r.backend == "whet" and len(r.builds) > 1]
    if ours and not o.fresh_builds and all(len({b.plan for b in r.builds}) == 1 for r in ours):
        out.append("whet's builds read one timing cache and are the same plan: they vary as loading and the machine "
                   "do. --fresh-builds tunes each anew.")
    if o.builds < 3:
        out.append(f"{o.builds} builds: how builds differ is not known from fewer than three.")
    if o.price is not None:
        out.append("Cost is that of a machine that does nothing else and is never idle: whet roi sizes fleets.")
    return out
