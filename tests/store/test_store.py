"""The store keeps what it is given, on SQLite and PostgreSQL alike."""

from __future__ import annotations

import json
import multiprocessing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from record_samples import measurement
from whet.errors import InputError
from whet.measure import record, stats
from whet.measure.record import Accuracy, Device, Figure, Measurement, Model, PlanId, Source
from whet.store import Added, Filters, Store

pytest.importorskip("sqlalchemy")
pytest.importorskip("alembic")

WRITERS, EACH = 8, 40


def day(n: int, **fields: Any) -> Measurement:
    """A record of day `n`, whose latency is about `n` milliseconds."""
    return measurement(**{"date": f"2026-01-{n:02d}T12:00:00+00:00",
                          "latency": stats.latency([n / 1e3, n / 1e3 + 1e-4, n / 1e3 + 2e-4]), **fields})


def test_records_come_back_whole(place: str) -> None:
    given = [day(3), day(1, accuracy=Accuracy(metric="top1", value=0.75, samples=400, low=0.7, high=0.8)),
             day(2, plan=PlanId(hash="ab" * 32, bytes=1000), throughput=123.456789012345,
                 device=Device(fingerprint="f", name='a "name" \u4e2d\u6587 \0 \U0001f600', arch="x", cores=None))]
    with Store(place) as store:
        assert store.add(given) == Added(new=3)
    with Store(place, create=False) as store:
        assert list(store.records()) == sorted(given, key=lambda r: r.date)


def test_a_record_is_there_once(place: str) -> None:
    one = day(1)
    (row,) = json.loads(record.encode([one]))
    (same,) = record.decode(json.dumps(dict(reversed(row.items()))).encode())  # another order of fields
    with Store(place) as store:
        assert store.add([one, one, same]) == Added(new=1, known=2)
        assert store.add([one, day(2)]) == Added(new=1, known=1)
        assert len(list(store.records())) == 2


def test_a_series_is_one_metric_of_one_setting(place: str) -> None:
    with Store(place) as store:
        store.add([day(1), day(2), day(2, threads=4), day(3, precision="bf16"), day(3, shapes={"x": (8, 3)}),
                   day(4, model=Model(name="digits", sha256="1" * 64)), day(5, device=msgspec.structs.replace(
                       day(1).device, fingerprint="other")), day(6, load=record.Load(concurrency=4)),
                   day(7, source=Source(tool="asv", benchmark="time_x"))])
        found = store.series(Filters(metric="latency.p50"))
        assert [s.count for s in found].count(2) == 1
        assert len(found) == 8
        assert {s.metric for s in store.series(Filters(threads=4))} == {f"latency.{x}" for x in
                                                                     ("p50", "p90", "p99", "mean")}
        assert store.series(Filters(threads=5)) == []


def test_history_is_in_the_order_of_dates_with_intervals(place: str) -> None:
    samples = [0.001 * i for i in range(1, 101)]
    late = measurement(date="2026-02-01T01:00:00+02:00", latency=stats.latency(samples), versions={"whet": "9.9"})
    with Store(place) as store:
        store.add([late, day(5), day(1), day(3)])
        (series,) = store.series(Filters(metric="latency.p50"))
        points = store.history(series.id)
        assert [p.at.day for p in points] == [1, 3, 5, 31]
        assert points[-1].at == datetime(2026, 1, 31, 23, tzinfo=UTC)
        assert late.latency is not None
        assert (points[-1].low, points[-1].high) == (late.latency.p50.low, late.latency.p50.high)
        assert points[0].low is None
        assert (points[-1].version, points[0].version) == ("9.9", "0.1.0")
        assert [p.at.day for p in store.history(series.id, last=2)] == [5, 31]
        window = Filters(since=datetime(2026, 1, 3, 12, tzinfo=UTC), until=datetime(2026, 1, 5, 12, tzinfo=UTC))
        assert [p.at.day for p in store.history(series.id, window)] == [3]
        assert (series.count, series.first, series.last, series.value) == (
            4, points[0].at, points[-1].at, points[-1].value)


def test_filters_find_by_part_of_a_name(place: str) -> None:
    with Store(place) as store:
        store.add([day(1, model=Model(name=n)) for n in ("resnet50", "ResNet18", "res%net", "bert_base", "bertXbase")])

        def names(**asked: Any) -> set[str]:
            return {r.model.name for r in store.records(Filters(**asked))}

        assert names(model="resnet*") == {"resnet50", "ResNet18"}
        assert names(model="res%*") == {"res%net"}
        assert names(model="bert_*") == {"bert_base"}
        assert names(model="bert?base") == {"bert_base", "bertXbase"}
        assert names(model="resnet50", metric="throughput") == set()
        assert names(device=measurement().device.fingerprint[:5]) == names()
        assert names(sha256="%") == set()


def test_what_other_tools_state_is_followed_too(place: str) -> None:
    stated = {"latency.p95": Figure(value=0.5, unit="s", low=0.4, high=0.6), "layer.p50:conv1 = \0": Figure(value=1.0)}
    one = measurement(threads=None, figures=stated, source=Source(tool="asv", benchmark="b", parameters={"n": "3"}))
    with Store(place) as store:
        store.add([one])
        first, second = store.series()
        assert (first.metric, first.setting.threads, first.setting.source) == ("latency.p95", None, "asv b (n=3)")
        assert second.metric.startswith("layer.p50:conv1")
        (point,) = store.history(first.id)
        assert (point.value, point.low, point.high) == (0.5, 0.4, 0.6)
        assert [r.figures for r in store.records(series=[first.id])] == [stated]
        assert len(store.series(Filters(source="asv"))) == 2


@pytest.mark.parametrize("fields", [
    {"date": "yesterday"}, {"date": ""}, {"threads": 2**40}, {"shapes": {"x": (2**62,)}}, {"schema": 99},
    {"model": Model(name="m" * 1000)}, {"throughput": float("nan")}, {"throughput": -1.0}, {"threads": 0},
    {"figures": {"f" * 1000: Figure(value=1.0)}}])
def test_a_record_that_cannot_be_kept_is_one_clear_error(place: str, fields: dict[str, Any]) -> None:
    with Store(place) as store:
        with pytest.raises(InputError):
            store.add([day(1), day(2, **fields)])
        assert list(store.records()) == []


def test_more_than_a_transaction_holds(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("whet.store.store.CHUNK", 30)
    told: list[int] = []
    with Store(place) as store:
        many = [measurement(date=f"2026-01-01T{h:02d}:{m:02d}:00", throughput=1.0) for h in range(2) for m in range(50)]
        assert store.add(iter(many), progress=told.append) == Added(new=100)
        assert told == [30, 60, 90]
        assert len(list(store.records())) == 100


def _write(place: str, writer: int, start: Any) -> None:
    """One of several processes: makes the store if it is the first, and writes records one by one."""
    start.wait()
    with Store(place) as store:
        for i in range(EACH):
            # Half of the records are of all writers' common setting, and one of each ten is the same for all.
            model = Model(name="shared" if i % 2 else f"m{writer}")
            who = 0 if i % 10 == 1 else writer
            store.add([measurement(date=f"2026-01-01T00:{who:02d}:{i:02d}", model=model, throughput=float(i))])


def test_eight_writers_at_once_lose_nothing(place: str) -> None:
    context = multiprocessing.get_context("fork")  # none of them waits for imports: all are there at once
    start = context.Barrier(WRITERS)
    children = [context.Process(target=_write, args=(place, i, start)) for i in range(WRITERS)]
    for child in children:
        child.start()
    for child in children:
        child.join(120)
    assert [child.exitcode for child in children] == [0] * WRITERS
    same = EACH // 10
    with Store(place, create=False) as store:
        assert len(list(store.records())) == WRITERS * (EACH - same) + same
        found = store.series(Filters(metric="throughput"))
        assert len(found) == WRITERS + 1
        assert sum(s.count for s in found) == WRITERS * (EACH - same) + same


def test_a_store_of_a_newer_whet_is_refused(place: str) -> None:
    from sqlalchemy import text

    from whet.errors import StoreVersionError

    with Store(place) as store:
        store._database.write(lambda c: c.execute(text("UPDATE whet_version SET version_num = '9999'")))
    for create in (True, False):
        with pytest.raises(StoreVersionError, match="newer whet"):
            Store(place, create=create)


def test_the_tables_are_those_of_the_migrations(place: str) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    from whet.store.tables import VERSIONS, metadata

    with Store(place) as store, store._database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSIONS})
        assert compare_metadata(context, metadata) == []


def test_postgresql_reads_points_from_the_index_alone(place: str) -> None:
    if not place.startswith("postgresql"):
        pytest.skip("SQLite keeps the points in the order of their key")
    with Store(place) as store, store._database.reading() as connection:
        found = connection.exec_driver_sql("SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = "
                                           "current_schema() AND indexdef LIKE '%%INCLUDE%%'").all()
    assert {name: text[text.index("INCLUDE"):] for name, text in found} == {
        "whet_point_pkey": "INCLUDE (value, low, high)"}


def test_an_older_store_is_brought_up_to_date(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    import whet.store
    from whet.store import database

    with Store(place) as store:
        store.add([day(1)])
    newer = tmp_path / "migrations"
    shutil.copytree(Path(whet.store.__file__).parent / "migrations", newer)
    (newer / "versions" / "v9999_note.py").write_text(
        "import sqlalchemy as sa\nfrom alembic import op\nrevision, down_revision = '9999', '0003'\n"
        "def upgrade():\n    op.add_column('whet_record', sa.Column('note', sa.Text))\n")
    config = database._config()
    config.set_main_option("script_location", str(newer))
    monkeypatch.setattr(database, "_config", lambda: config)
    for _ in range(2):
        with Store(place) as store:
            with store._database.reading() as connection:
                assert connection.exec_driver_sql("SELECT note FROM whet_record").all() == [(None,)]
            assert list(store.records()) == [day(1)]
