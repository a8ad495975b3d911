"""Throughput of several devices at once: each has a thread, an engine and a context of its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from record_samples import measurement
from runtime.tiny_plans import chain
from whet.cli import bench
from whet.compare import devices
from whet.errors import ProfileError
from whet.measure.record import Gpu
from whet.plan import Plan
from whet.runtime.engine import Engine, load

X = {"x": np.ones((4, 5), np.float32)}


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The devices for which engines were loaded, on the CPU."""
    found: list[int] = []

    def loads(plan: Plan, *, device: int, require_key: Any = None) -> Engine:
        found.append(device)
        return load(plan, threads=1)

    monkeypatch.setattr(devices, "load", loads)
    return found


def test_all_are_fed_at_once_and_each_alone(opened: list[int]) -> None:
    plan = Plan.from_data(chain(), hashed=False)
    found = devices.throughput(plan, X, [0, 3], seconds=0.1)
    assert opened == [0, 3]
    assert found.devices == (0, 3)
    assert all(r > 0 for r in (*found.alone, *found.together))
    assert found.total == pytest.approx(sum(found.together))
    assert found.scaling == pytest.approx(found.total / sum(found.alone))


def test_one_alone_is_not_measured_twice(opened: list[int]) -> None:
    found = devices.throughput(Plan.from_data(chain(), hashed=False), X, [1], seconds=0.05)
    assert found.together == found.alone
    assert found.scaling == 1


def test_an_error_of_one_device_comes_out(opened: list[int]) -> None:
    with pytest.raises(ProfileError):
        devices.throughput(Plan.from_data(chain(), hashed=False), {"x": np.ones((99, 5), np.float32)}, [0, 1],
                           seconds=0.05)


def test_the_record_has_the_sum_and_the_gpus(opened: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "gpus", lambda places: tuple(Gpu(name="NVIDIA H100") for _ in places))
    notes: list[str] = []
    plan = Plan.from_data(chain(), hashed=False)
    records = [measurement(backend="whet"), measurement(backend="onnxruntime")]
    ours, theirs = bench._side_by_side(records, plan, X, [0, 1], bench.Options(plan.path, seconds=0.1), notes)
    assert theirs == records[1]
    assert [g.name for g in ours.device.gpus] == ["NVIDIA H100"] * 2
    assert ours.load.concurrency == 2 * devices.IN_FLIGHT
    assert ours.throughput is not None
    assert len(notes) == 3
    assert "2 GPUs" in notes[-1]
