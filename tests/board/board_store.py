"""A store as a team has one, made in a second: histories with changes, two ways to serve a model, results, and names
that mean harm."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from record_samples import measurement
from whet.cli import failures
from whet.decide import roi, scenario
from whet.decide.forecast.result import ByDate, Fan, Forecast, Milestone, encode
from whet.decide.forecast.result import Point as Past
from whet.decide.gate.result import Case, Gate, Objective, Trend, short
from whet.errors import UnsupportedError
from whet.measure import stats, this_device
from whet.measure.record import Measurement, Model
from whet.store import Store

START = datetime(2026, 5, 1, 6, tzinfo=UTC)
HOSTILE = ('<script>document.title="owned"</script>', '"><img src=x onerror=alert(1)>', "left\u202etfel", "{{ 7*7 }}",
           "'; DROP TABLE whet_setting; --", "</title><b>bold</b>", "javascript:alert(1)")


def history(model: str, levels: list[tuple[int, float]], *, precision: str = "fp32", batch: int = 1, seed: int = 0,
            every: timedelta = timedelta(days=1), calls: int = 0) -> list[Measurement]:
    """A record a day: `levels` are how many and their latency in seconds. `calls`: of the last record, which holds its
    samples."""
    rng = np.random.default_rng(seed)
    values = [level * rng.lognormal(0, 0.02) for count, level in levels for _ in range(count)]
    out = []
    for i, value in enumerate(values):
        last = i == len(values) - 1 and calls
        latency = stats.latency(value * rng.lognormal(0, 0.04, calls if last else 24))
        out.append(measurement(
            model=Model(name=model, sha256=hashlib.sha256(model.encode()).hexdigest()), precision=precision,
            shapes={"image": (batch, 3, 224, 224)}, date=(START + i * every).isoformat(),
            latency=latency, throughput=batch / latency.p50.value,
            versions={"whet": f"0.{1 + i // 40}.0"}))
    return out


def fill(place: Path | str) -> None:
    """Records and results."""
    with Store(place) as store:
        store.add([
            *history("resnet50", [(40, 0.0214), (35, 0.0187), (45, 0.0118)], seed=1, calls=500),
            *history("resnet50", [(30, 0.0095), (20, 0.0061)], precision="bf16", seed=2, calls=500),
            *history("resnet50", [(50, 0.051)], batch=8, seed=3, calls=500),
            *history("bert-base", [(60, 0.043), (20, 0.0465)], seed=4),
            *history("yolo-nano", [(90, 0.0072)], seed=5),
            *history("one-point", [(1, 0.01)], seed=6),
            *(r for i, name in enumerate(HOSTILE) for r in history(name, [(3, 0.01)], precision=name, seed=10 + i))])
        at = START + timedelta(days=119)
        for kind, body in results().items():
            store.keep(kind, body, model="resnet50", at=at)
        store.keep("failure", {"type": HOSTILE[0], "message": HOSTILE[1], "stack": list(HOSTILE)}, model=HOSTILE[0],
                   at=at)
        store.keep("gate", {"schema": 99, "state": "held", "message": "of a whet to come", "deep": [[{"a": [1]}]]},
                   model="yolo-nano", at=at)


def results() -> dict[str, dict[str, Any]]:
    """What commands keep of a model, one of each kind."""
    setting = {"model": "resnet50", "sha256": "", "backend": "whet", "precision": "fp32", "threads": 2,
               "shapes": "image:1x3x224x224", "device": this_device().fingerprint, "device_name": "a machine",
               "load": "closed-loop 1"}
    trend = Trend(metric="latency.p50", unit="s", higher_is_worse=True, state="regressed", values=(0.0142, 0.0141),
                  count=9, level=0.0118, effect=0.2, low=0.17, high=0.23, p=1e-6, spread=0.02, detectable=0.03)
    gate = Gate(date="2026-08-28T00:00:00+00:00", state="not held", min_effect=0.05, alpha=0.01, reruns=2, cases=(Case(
        **setting, date="2026-08-28T00:00:00+00:00", runs=2, state="not held", p99=0.042, throughput=70.0, change=0.2,
        against="history", objectives=(Objective(goal="p99", limit=0.02, unit="s", state="not held", value=0.042,
                                                 low=0.04, high=0.044, judged="interval"),), trends=(trend,)),))
    ends = [f"2026-{m:02d}-01" for m in (9, 10, 11, 12)]
    milestone = Milestone(
        metric="latency.p50", state="undecided", place="ahead", scale="log", method="drawn", unit="s", target=0.010,
        limit=0.006, base=0.0214, now=0.0118, progress=0.76, remaining=0.17, expected=1.8, confidence=0.83, gain=0.09,
        spread=0.4, rate=0.02, series="resnet50 latency.p50", how="changes",
        by_date=tuple(ByDate(date=d, probability=p, asked=d == ends[3]) for d, p in zip(ends, (0.05, 0.31, 0.6, 0.78))),
        fan=Fan(dates=("2026-08-29", *ends), levels=(0.025, 0.25, 0.5, 0.75, 0.975), values=tuple(
            tuple(0.0118 - slope * i for i in range(5)) for slope in (0.0011, 0.0008, 0.0005, 0.0002, 0.0))),
        history=tuple(Past(date=f"2026-07-{i + 1:02d}", value=0.0118) for i in range(28)))
    options = [{"name": n, "throughput": q, "p99_ms": p, "price_per_hour": 0.4}
               for n, q, p in (("PyTorch", 45, 320), ("optimized", 180, 90))]
    returned = roi.evaluate(scenario.build({
        "load": {"rate": 30}, "objective": {"p99_ms": 350}, "labour": {"cost": 500}, "before": "PyTorch",
        "after": "optimized", "options": options}), roi.Settings(draws=100, requests=2_000))
    try:
        raise UnsupportedError("NonMaxSuppression of rank 5", where="NonMaxSuppression_4", do="give rank 3")
    except UnsupportedError as e:
        failure = failures.of(e, "resnet50", START)
    comparison = {"schema": 1, "rows": [{"key": k, "record": {"latency": {"p50": {"value": v}}}}
                                        for k, v in (("whet bf16", 0.006), ("ONNX Runtime fp32", 0.019))],
                  "differences": [{"key": "whet bf16", "baseline": "ONNX Runtime fp32", "ratio": 3.1, "low": 3.0,
                                   "high": 3.2, "verdict": "faster"}],
                  "recommendation": {"state": "recommended", "chosen": "whet bf16"}}
    return {"gate": short(gate), "forecast": json.loads(encode(Forecast(date="2026-08-28", sure=0.95,
                                                                       milestones=(milestone,)))),
            "roi": json.loads(returned.encode()), "failure": failure, "comparison": comparison}
