"""What `whet gate` reads: measurements from files and commands, objectives, and the history in the store."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from whet.cli import notify
from whet.decide.gate import Objectives, anomaly
from whet.decide.gate.judge import Past, metrics_of
from whet.decide.gate.objectives import of_texts
from whet.decide.gate.result import Note
from whet.errors import InputError, OutputError, StoreError
from whet.measure import Measurement
from whet.measure.record import decode
from whet.measure.series import Setting, setting, when

if TYPE_CHECKING:
    from whet.store import Series, Store

MOST_BYTES = 64 << 20  # of a file of measurements, and of a summary
MOST_GATES = 1000  # earlier gates that are asked which runs they turned down
LEAST_NAMES = 3  # other machines that are named
UNQUANTIZED = ("fp32", "bf16", "fp16", "tf32")


@dataclass(frozen=True)
class Choice:
    """Which of several records are meant; empty: any."""

    backend: str
    precision: str
    model: str

    def of(self, records: Sequence[Measurement], where: str) -> list[Measurement]:
        """The records that are meant, each of a setting of its own and all of one machine. InputError."""
        found = [r for r in records if self.backend in ("", r.backend) and self.precision in ("", r.precision)
                 and self.model in ("", r.model.name)]
        if not found:
            there = ", ".join(dict.fromkeys(f"{r.model.name} by {r.backend} in {r.precision}" for r in records))
            raise InputError("no measurement to judge", where=where, why=f"there are {there[:500] or 'none'}",
                             do="choose with --backend, --precision and --model")
        settings = [_anywhere(setting(r)) for r in found]
        if len(set(settings)) < len(settings):
            raise InputError("two measurements of one setting", where=where, why="which of them is meant is not said",
                             do="give one run; reruns are made by --measure or --rerun")
        if len({r.device.fingerprint for r in found}) > 1:
            raise InputError("measurements of several machines", where=where,
                             why=", ".join(dict.fromkeys(r.device.name for r in found)),
                             do="judge those of one machine at a time")
        for r in found:
            when(r)
        return found


@dataclass(frozen=True)
class Measure:
    """Where the new measurement is from, and how it is made again."""

    file: str
    measure: str
    again_by: str
    timeout: float
    choice: Choice

    def __post_init__(self) -> None:
        if bool(self.file) == bool(self.measure):
            raise InputError("a gate judges one measurement" if self.file else "nothing to judge",
                             do="name a file of whet bench --json (- is stdin), or --measure COMMAND")
        if self.measure and self.again_by:
            raise InputError("--measure and --rerun are two commands for one thing", do="leave --rerun out")
        if self.command or self.again_by:
            notify.words(self.command or self.again_by)

    @property
    def command(self) -> str:
        """What measures now; empty where a file is read."""
        return self.measure

    @property
    def again(self) -> str:
        """What makes reruns; empty where none can be made."""
        return self.measure or self.again_by

    def first(self) -> list[Measurement]:
        """The measurement that is judged. InputError, RemoteError."""
        if self.measure:
            return self.choice.of(_run(self.measure, self.timeout), self.measure)
        return self.choice.of(_file(self.file), self.file)

    def rerun(self, first: Sequence[Measurement]) -> list[Measurement]:
        """The same once more, in the order of `first`. InputError where it is not the same."""
        found = {_anywhere(setting(r)): r for r in self.choice.of(_run(self.again, self.timeout), self.again)}
        out = []
        for one in first:
            same = found.get(_anywhere(setting(one)))
            if same is None:
                raise InputError("a rerun of another setting", where=self.again,
                                 why=f"none of {one.model.name} in {one.precision} with the same shapes and threads",
                                 do="let the command measure what is judged")
            if same.device.fingerprint != one.device.fingerprint:
                raise InputError("a rerun on another machine", where=self.again,
                                 why=f"{same.device.name}, not {one.device.name}", do="rerun where it was measured")
            if same.model.sha256 != one.model.sha256:
                raise InputError("a rerun of another model", where=self.again, why="its SHA-256 differs",
                                 do="let the command measure what is judged")
            out.append(same)
        return out


@dataclass(frozen=True)
class Found:
    """The history of one setting: by metric, and what is to be said of it."""

    past: Mapping[str, Past]
    notes: tuple[Note, ...]


@dataclass(frozen=True)
class History:
    """The store, and which of its measurements are compared with."""

    place: str
    metrics: tuple[str, ...]
    any_device: bool = False
    same_weights: bool = False
    _cache: dict[str, list[Series]] = field(default_factory=dict)

    def of(self, record: Measurement) -> Found:
        """The history of a record's setting, without the record itself. StoreError."""
        wanted = metrics_of(record, self.metrics)
        notes: list[Note] = []
        empty = dict.fromkeys(wanted, Past((), (), ()))
        with self._store() as store:
            if store is None:
                return Found(empty, ())
            ours = setting(record)
            alike = [s for s in self._series(store, record.model.name) if s.metric in wanted
                     and wanted[s.metric] == s.unit and _anywhere(s.setting) == _anywhere(ours)
                     and (not self.same_weights or s.setting.sha256 == ours.sha256)]
            here = [s for s in alike if s.setting.device == ours.device]
            elsewhere = [s for s in alike if s.setting.device != ours.device]
            if self.any_device and elsewhere:
                here = alike
                notes.append(Note(code="mixed"))
            elif elsewhere and not here:
                names = list(dict.fromkeys(s.device_name for s in elsewhere))[:LEAST_NAMES]
                notes.append(Note(code="other-device", values={
                    "count": max(s.count for s in elsewhere), "names": ", ".join(n[:60] for n in names)}))
            other = sum({s.setting.sha256: s.count for s in here if s.setting.sha256 != ours.sha256}.values())
            if other:
                notes.append(Note(code="new-weights", values={"count": other}))
            turned_down, anew = self._gates(store, record)
            if anew is not None:
                notes.append(Note(code="anew", values={"date": anew[0].date().isoformat(), "reason": anew[1]}))
            out = dict(empty)
            for metric in wanted:
                points = store.history([s.id for s in here if s.metric == metric]) if here else []
                date, value = when(record), _value(record, metric)
                kept = [p for p in points if not (p.at == date and p.value == value)
                        and (anew is None or p.at >= anew[0])]
                out[metric] = Past([p.at for p in kept], [p.value for p in kept],
                                   [(metric, p.at) in turned_down for p in kept])
            return Found(out, tuple(notes))

    def gains(self, records: Sequence[Measurement], plan: Path | None) -> list[Note]:
        """A note for each quantized record that gains far less than it did, with what the plan says of it. What it
        gains is against the unquantized record beside it, else against the last of the store."""
        out: list[Note] = []
        with self._store() as store:
            for r in records if store is not None else ():
                if r.precision not in anomaly.CODES or r.latency is None:
                    continue
                assert store is not None
                ours = setting(r)
                quantized = self._latencies(store, ours, (r.precision,))
                real = self._latencies(store, ours, UNQUANTIZED)
                now = r.latency.p50.value
                before = [p for p in quantized if p[0] < when(r)]
                near = [x.latency.p50.value for x in records if x.latency is not None and x.precision in UNQUANTIZED
                        and replace(_anywhere(setting(x)), precision="") == replace(_anywhere(ours), precision="")]
                base = near[0] if near else real[-1][1] if real else None
                if base is None:
                    continue
                note = anomaly.atypical(anomaly.gains(real, before), anomaly.gain(base, now), r.precision)
                if note is not None:
                    out += [note, *(_causes(plan, r.precision) if plan else [Note(code="no-plan-given")])]
        return out

    def _latencies(self, store: Store, of: Setting, precisions: Sequence[str]) -> list[tuple[datetime, float]]:
        """Median latencies of a setting in the first of these precisions that the store has, oldest first."""
        for precision in precisions:
            ids = [s.id for s in self._series(store, of.model) if s.metric == "latency.p50"
                   and replace(s.setting, sha256="") == replace(of, sha256="", precision=precision)]
            if ids:
                return [(p.at, p.value) for p in store.history(ids)]
        return []

    def _series(self, store: Store, model: str) -> list[Series]:
        from whet.store import Filters

        if model not in self._cache:  # a name with * or ? stands for several: what is not alike is left out later
            self._cache[model] = store.series(Filters(model=model))
        return self._cache[model]

    def _gates(self, store: Store,
               record: Measurement) -> tuple[set[tuple[str, datetime]], tuple[datetime, str] | None]:
        """The runs that earlier gates turned down, as metric and date; and the last run that was accepted in spite of
        it, with the reason."""
        ours = setting(record)
        turned_down: set[tuple[str, datetime]] = set()
        anew: tuple[datetime, str] | None = None
        for kept in store.kept("gate", last=MOST_GATES):
            body = kept.body
            cases = body.get("cases")
            for case in cases if isinstance(cases, list) else ():
                if not isinstance(case, dict) or any(case.get(k) != getattr(ours, k) for k in
                                                     ("model", "backend", "precision", "shapes", "load", "threads")):
                    continue
                try:
                    at = datetime.fromisoformat(str(case.get("date")))
                except ValueError:
                    continue
                if body.get("accepted"):
                    anew, turned_down = (at, str(body["accepted"])), set()
                    continue
                turned_down |= {(str(t.get("metric")), at) for t in case.get("trends") or ()
                                if isinstance(t, dict) and t.get("state") == "regressed"}
        return turned_down, anew

    def _store(self) -> Any:
        from contextlib import nullcontext

        from whet.store import Store

        try:
            return Store(self.place, create=False)
        except StoreError as e:
            if "no measurement store yet" in e.what:
                return nullcontext(None)
            raise


def objectives(file: Path | None, given: Mapping[str, str]) -> Objectives:
    """The objectives of a file and of options, which win. InputError with the line."""
    own = {name: value for name, value in given.items() if value}
    if file is None:
        return of_texts(own, "the command line")
    from whet import data_file

    document = data_file.load(file, "objectives", "docs/gate.md")
    if not isinstance(document.data, dict):
        raise InputError("objectives are names with values", where=str(file), do="see docs/gate.md")
    found = of_texts(document.data, str(file), document.lines)
    mine = of_texts(own, "the command line")
    return Objectives(**{name: getattr(mine, name) if name in own else getattr(found, name)
                         for name in Objectives.__dataclass_fields__})


def earlier(file: Path, records: Sequence[Measurement]) -> list[Measurement | None]:
    """Of each record, the one of a file that is of the same setting, whatever the model's weights; else of the same
    model in another precision (its accuracy is what is lost against). InputError if the machine is another."""
    there = _file(str(file))
    out: list[Measurement | None] = []
    for r in records:
        same = [b for b in there if _anywhere(setting(b)) == _anywhere(setting(r))]
        found = next(iter(same), None)
        if found is not None and found.device.fingerprint != r.device.fingerprint:
            raise InputError("the earlier measurement is of another machine", where=str(file),
                             why=f"{found.device.name}, not {r.device.name}", do="measure both on one machine")
        if found is None:
            other = next((b for b in there if b.model.name == r.model.name and b.accuracy is not None), None)
            found = msgspec.structs.replace(other, latency=None, throughput=None) if other is not None else None
        out.append(found)
    return out


def append(path: Path, text: str) -> None:
    """Add a text to a file, as jobs' summaries are. OutputError."""
    try:
        with path.open("a", encoding="utf-8") as f:
            f.write(text)
    except OSError as e:
        raise OutputError("the summary cannot be written", where=str(path), why=e.strerror or str(e),
                          do="name a file that can be written") from e


def _anywhere(of: Setting) -> Setting:
    """A setting whatever the machine and the model's weights."""
    return replace(of, device="", sha256="")


def _value(record: Measurement, metric: str) -> float | None:
    from whet.measure.series import values

    return next((v.value for v in values(record) if v.metric == metric), None)


def _causes(plan: Path, precision: str) -> list[Note]:
    from whet.plan import Plan

    opened = Plan.open(plan)
    try:
        return anomaly.causes(opened.manifest.info, precision)
    finally:
        opened.close()


def _file(name: str) -> list[Measurement]:
    if name == "-":
        data = sys.stdin.buffer.read(MOST_BYTES + 1)
    else:
        try:
            with Path(name).open("rb") as f:
                data = f.read(MOST_BYTES + 1)
        except OSError as e:
            raise InputError("the measurements cannot be read", where=name, why=e.strerror or str(e),
                             do="check the path") from e
    if len(data) > MOST_BYTES:
        raise InputError("too many measurements", where=name, why=f"over {MOST_BYTES >> 20} MiB", do="give one run")
    return decode(data, name)


def _run(command: str, timeout: float) -> list[Measurement]:
    """The records that a command writes; RemoteError where it fails, says too much, or takes too long."""
    from whet.compare.remote import output

    return decode(output(command, notify.words(command), timeout), command)
