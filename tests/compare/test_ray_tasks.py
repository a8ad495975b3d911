"""Tasks on a cluster's nodes: who runs beside whom, and what cannot be asked for. No cluster is started here."""

from __future__ import annotations

import importlib.util
import socket
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from comparing import HERE, THERE, compared, options, row

from whet.compare import ray_cluster, ray_sweep
from whet.compare.model import compare_model
from whet.compare.ray_cluster import Cluster, Node, Task
from whet.errors import InputError, MissingExtraError, ServerError


def node(name: str, host: str = "", cpus: int = 4, **fields: object) -> Node:
    return Node(name, host or name, cpus, HERE, ("whet",), **fields)  # type: ignore[arg-type]


def task(key: str, *, cpus: int = 1, alone: bool = False, on: Node | None = None) -> Task:
    return Task(key, key, HERE.fingerprint, cpus, lambda: (print, ()), lambda value: None, alone=alone, node=on)


def test_a_timing_has_its_machine_to_itself() -> None:
    a, b = node("a"), node("b", used=1)
    both = Cluster(False, [a, b])
    timing, tuning = task("timing", alone=True), task("tuning")
    assert both._place(timing, [task("t", on=b)]) is a
    assert both._place(timing, [task("t", on=b), task("u", on=a)]) is None
    assert both._place(tuning, [task("t", alone=True, on=a)]) is b
    assert both._place(tuning, [task("t", alone=True, on=a), task("u", alone=True, on=b)]) is None
    # Two nodes of one machine would disturb each other as two tasks of a node do.
    twins = Cluster(False, [node("a", "machine"), node("b", "machine")])
    assert twins._place(timing, [task("t", on=twins.nodes[0])]) is None
    assert twins._place(tuning, [task("t", alone=True, on=twins.nodes[0])]) is None


def test_builds_run_beside_each_other_while_there_are_cpus() -> None:
    c = Cluster(False, [node("a", used=3), node("b", used=1)])
    assert c._place(task("t", cpus=2), []) is c.nodes[1]
    c.nodes[1].used = 3
    assert c._place(task("t", cpus=2), []) is None
    assert c._place(task("t", cpus=1), []) is not None


def test_a_task_runs_on_its_own_kind_of_hardware() -> None:
    c = Cluster(False, [node("a")])
    assert c._place(replace(task("t"), hardware=THERE.fingerprint), []) is None
    with pytest.raises(ServerError, match="no node left"):
        c._check([replace(task("t"), hardware=THERE.fingerprint)])


@pytest.mark.parametrize("address", ["", "here", "host", "host:", "host:0", "host:99999", "http://host:1", "a b:1",
                                     "ray://host", "host:1;rm"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(InputError, match="--ray"), ray_cluster.joined(address):
        pass


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError) as e, ray_cluster.joined("local"):
        pass
    assert "whet[ray]" in e.value.do


def test_a_token_is_shown_where_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert not ray_cluster._has_token()
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("x")
    assert ray_cluster._has_token()
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "nowhere"))
    assert not ray_cluster._has_token()
    monkeypatch.setenv("RAY_AUTH_TOKEN", "x")
    assert ray_cluster._has_token()


def test_nobody_at_the_address_is_told_at_once() -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'whet[ray]'")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))  # and nobody listens
        port = s.getsockname()[1]
        with pytest.raises(ServerError, match="no Ray cluster answers"), ray_cluster.joined(f"127.0.0.1:{port}"):
            pass


@pytest.mark.parametrize("more", [{"servers": ("http://localhost:8000/v2/models/x",)}, {"remotes": {"a": "b"}}])
def test_servers_and_hosts_are_not_measured_from_a_cluster(tmp_path: Path, more: dict[str, object]) -> None:
    with pytest.raises(InputError, match="servers and other hosts"):
        compare_model(options(tmp_path, ray="local", **more))


def test_data_that_cannot_travel_are_refused() -> None:
    arrays = {"x": np.zeros(3)}
    assert ray_sweep._sendable((arrays, arrays["x"]))[0] == arrays
    assert ray_sweep._sendable("package.module:function") == "package.module:function"
    for data in (iter([1]), lambda: iter([1]), 7, {"x": [1, 2]}):
        with pytest.raises(InputError, match="cannot travel"):
            ray_sweep._sendable(data)


def test_rows_on_different_hardware_are_not_set_against_each_other() -> None:
    rows = []
    for device, place in ((HERE, "CPU <one>"), (THERE, "Another | CPU")):
        for backend, seconds in (("onnxruntime", 2e-3), ("whet", 1e-3)):
            r = row(backend, "fp32", seconds, place=place, device=device)
            rows.append(msgspec.structs.replace(r, key=f"{r.key} on {place}"))
    found = compared(*rows)
    assert {(d.key, d.baseline) for d in found.differences} == {
        (f"whet fp32, batch 1, 2 threads on {p}", f"onnxruntime fp32, batch 1, 2 threads on {p}")
        for p in ("CPU <one>", "Another | CPU")}


def test_servers_take_turns_with_what_is_here() -> None:
    found = compared(row("onnxruntime", "fp32", 2e-3), row("a", "as served", 1e-3, place="http://localhost:1/v2/models/m"),
                     row("b", "as served", 1e-3, place="http://localhost:2/v2/models/m"))
    assert len(found.differences) == 2


def test_hardware_of_one_name_is_told_apart() -> None:
    twin = msgspec.structs.replace(THERE, name=HERE.name)
    assert ray_sweep.labels([HERE]) == {"a" * 12: "CPU <one>"}
    assert ray_sweep.labels([HERE, twin]) == {"a" * 12: "CPU <one> (aaaaaa)", "b" * 12: "CPU <one> (bbbbbb)"}
