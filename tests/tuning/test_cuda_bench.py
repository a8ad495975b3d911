"""The bench on a GPU of host memory: what it times is what it says, in memory of its own."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tuning.host_device import Api, HostCode, HostDevice
from whet.errors import DeviceMemoryError
from whet.ir.dtypes import DType
from whet.ir.graph import Graph, Value
from whet.ir.region import Region
from whet.lowering.assemble import assemble
from whet.lowering.storage import Launch, schedule
from whet.passes.fuse import form_regions
from whet.targets.base import Implementation, In, Int, Kernel, Out, Pack, Packed, Step, Work
from whet.tuning import cuda_bench, cuda_segment
from whet.tuning.cuda_bench import CudaBench
from whet.tuning.in_place import Placed, Trials, _Names

M, K = 8, 16


def array(address: int, shape: tuple[int, ...]) -> np.ndarray:
    n = int(np.prod(shape))
    return np.ctypeslib.as_array((ctypes.c_float * n).from_address(address)).reshape(shape)


def product(device: HostDevice, values: Sequence[int], tiles: int) -> None:
    """y = x @ w (packed transposed), by way of the workspace."""
    x, w, work, y, n = values
    seen.append(w)
    for address, size in ((x, M * K * 4), (w, K * n * 4), (work, M * n * 4), (y, M * n * 4)):
        device.inside(address, size)
    array(work, (M, n))[:] = array(x, (M, K)) @ array(w, (n, K)).T
    array(y, (M, n))[:] = array(work, (M, n))


seen: list[int] = []


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> CudaBench:
    device = HostDevice()
    monkeypatch.setattr(cuda_bench.Device, "open", staticmethod(lambda index: device))
    for module in (cuda_bench, cuda_segment):
        monkeypatch.setattr(module, "Code", HostCode)
    monkeypatch.setitem(HostCode.doings, "product", product)
    seen.clear()
    return CudaBench(0)


def launches(columns: Sequence[int] = (K, K, 4)) -> list[Launch]:
    g = Graph("chain")
    v = Value("x", DType.F32, (M, K))
    g.inputs = [v]
    for n in columns:
        v = g.add("matmul", [v, Value(g.fresh("w"), DType.F32, (K, n), data=np.ones((K, n), np.float32))])
    g.outputs = [v]
    return schedule(form_regions(g), lambda region: "").launches


def implement(region: Region) -> Implementation:
    n = int(region.output.shape[1])  # type: ignore[arg-type]
    step = Step(Kernel("k", ""), (In(0), Packed(0), Work(64), Out(0), Int(n)), 1)
    return Implementation((step,), (Pack((1,), lambda w: np.ascontiguousarray(w.T)),), 64 + M * n * 4)


def test_a_candidate_runs_on_copies_of_its_constants_beyond_twice_the_cache(bench: CudaBench) -> None:
    region = launches()[0].region
    seconds, (sample,) = bench.time(region, implement(region), {"k": b"product:5"})
    assert seconds == pytest.approx(5e-6)
    x, w = cuda_bench.Operands(region).array(0).reshape(M, K), cuda_bench.Operands(region).array(1).reshape(K, K)
    np.testing.assert_allclose(sample.reshape(M, K), x @ w, rtol=1e-5)
    copies = len(set(seen))
    assert copies == min(cuda_bench.LAUNCHES[1], -(-2 * bench.device.properties.l2_bytes // (K * K * 4)))


def test_what_is_far_slower_is_not_measured_to_the_end(bench: CudaBench) -> None:
    region = launches()[0].region
    bench.time(region, implement(region), {"k": b"product:5"})
    before = len(seen)
    seconds, _ = bench.time(region, implement(region), {"k": b"product:500"})
    assert seconds == pytest.approx(500e-6)
    assert len(seen) - before < 6


def test_memory_is_given_back_and_operands_stay_while_there_is_room(bench: CudaBench) -> None:
    device: Any = bench.device
    first, _, last = (l.region for l in launches())
    for region in (first, last, first):
        bench.time(region, implement(region), {"k": b"product:5"})
    kept = len(device.blocks)
    assert kept > 6, "three operands and results of each of two regions, and what the candidates had"
    for _ in range(3):
        bench.time(last, implement(last), {"k": b"product:5"})
    assert len(device.blocks) == kept, "what one candidate had, the next one gets"
    device.properties.memory_bytes = bench.spare.most = 0
    other = launches((K, 7))[1].region
    bench.time(other, implement(other), {"k": b"product:5"})
    assert len(device.blocks) == 3


def test_memory_that_nobody_has_goes_back_when_more_is_wanted(bench: CudaBench, monkeypatch: pytest.MonkeyPatch
                                                               ) -> None:
    device: Any = bench.device
    region = launches()[0].region
    bench.time(region, implement(region), {"k": b"product:5"})
    allocate, refused = device.allocate, []

    def full(size: int, purpose: str) -> Any:
        if len(device.blocks) > 3:
            refused.append(size)
            raise DeviceMemoryError("no memory", why="others have it", do="end them")
        return allocate(size, purpose)

    monkeypatch.setattr(device, "allocate", full)
    assert bench.spare.take(1 << 20, "more").size == 1 << 20
    assert refused == [1 << 20]


def test_the_last_round_is_in_turns(bench: CudaBench) -> None:
    region = launches()[0].region
    made = implement(region)
    times = bench.playoff(region, [(made, {"k": b"product:5"}), (made, {"k": b"product:4"})])
    assert times == pytest.approx([5e-6, 4e-6])


Choices = tuple[str, dict[str, Any]]


def asked(some: list[Launch], others: list[tuple[str, list[Choices]]], own: dict[str, Choices] | None = None
          ) -> Trials:
    body = assemble(some, [Implementation(()) for _ in some], {}, _Names(), branches=True)
    assert body.place is not None
    assert body.waits is not None
    assert isinstance(body.arena, int)
    names = [l.region.signature() for l in some]
    placed = [Placed(s, w, [body.place(x) for x in l.inputs], [body.place(x) for x in l.outputs])
              for s, w, l in zip(names, body.waits, some)]
    return Trials(placed, dict(zip(names, (l.region for l in some))), {}, body.arena,
                  {s: ("a", {"us": 5}) for s in names}, others, own or {}, False, 60.0)


def test_early_launches_run_the_same_segment_with_other_kernels(bench: CudaBench, monkeypatch: pytest.MonkeyPatch
                                                                ) -> None:
    some = launches()
    device: Any = bench.device

    def compiled(region: Region, tactic: str, params: dict[str, Any]) -> tuple[Implementation, dict[str, bytes]]:
        return implement(region), {"k": b"product:5"}

    def by(name: str, columns: int) -> Any:
        def forms(region: Region, tactic: str, params: dict[str, Any]) -> tuple[Implementation, dict[str, bytes]]:
            made = implement(region)
            if region.output.shape[1] != columns:
                return made, {}
            (step,) = made.steps
            return replace(made, steps=(replace(step, kernel=Kernel("early", "")),)), {"early": name.encode()}

        return forms

    def wrong(device: HostDevice, values: Sequence[int], tiles: int) -> None:
        product(device, values, tiles)
        array(values[3], (M, values[4]))[:] += 1e4

    monkeypatch.setitem(HostCode.doings, "wrong", wrong)
    for name, columns, seconds, why in (("product:3", K, 11e-6, ""), ("product:4", 4, 14e-6, ""),
                                        ("wrong:1", 4, None, "wrong: the results of a matmul")):
        segment = cuda_segment.Segment(bench, asked(some, []), compiled)
        before, after, failed = segment.early(by(name, columns))
        assert before == pytest.approx(15e-6)
        assert after == (None if seconds is None else pytest.approx(seconds))
        assert failed.startswith(why)
        assert bool(failed) == bool(why)
        segment.close()
        assert not device.blocks


def test_in_place_the_faster_ones_are_kept(bench: CudaBench) -> None:
    some = launches()
    names = [l.region.signature() for l in some]
    device: Any = bench.device

    def compiled(region: Region, tactic: str, params: dict[str, Any]) -> tuple[Implementation, dict[str, bytes]]:
        return implement(region), {"k": f"product:{params['us']}".encode()}

    trials = asked(some, [(names[0], [("a", {"us": 5}), ("b", {"us": 6}), ("c", {"us": 3}), ("d", {"us": 2.999})]),
                          (names[2], [("a", {"us": 5}), ("b", {"us": 4})])])
    segment = cuda_segment.Segment(bench, trials, compiled)
    attempts = segment.run()
    assert {s: tactic for a in attempts if a.kept for s, (tactic, _) in a.choices.items()} == {
        names[0]: "c", names[2]: "b"}
    equal = names.count(names[0])
    assert [a.after for a in attempts if a.kept][-1] == pytest.approx(3e-6 * equal + 4e-6 + 5e-6 * (2 - equal))
    assert all(a.kept == (a.after < 0.998 * a.before) for a in attempts)
    assert len(attempts) == 8, "a second time: what is not chosen now, the first winners too"
    segment.close()
    assert not device.blocks


@pytest.mark.parametrize(("us", "kept"), [(4, True), (6, False)])
def test_kernels_of_our_own_are_tried_all_at_once_first(us: int, kept: bool, bench: CudaBench) -> None:
    some = launches()
    names = [l.region.signature() for l in some]

    def compiled(region: Region, tactic: str, params: dict[str, Any]) -> tuple[Implementation, dict[str, bytes]]:
        return implement(region), {"k": f"product:{params['us']}".encode()}

    own = {s: ("own", {"us": us}) for s in names}
    segment = cuda_segment.Segment(bench, asked(some, [(s, [("a", {"us": 5}), own[s]]) for s in own], own), compiled)
    first, *rest = segment.run()
    assert (set(first.choices), first.kept) == (set(names), kept)
    assert {c for a in rest for c, _ in a.choices.values()} == {"a" if kept else "own"}, "then back, one by one"
    assert not any(a.kept for a in rest)
    segment.close()


@pytest.mark.parametrize(("us", "kept"), [(2.0, True), (0.0, False)])
def test_branches_side_by_side_are_given_up_where_waiting_costs_more(us: float, kept: bool, bench: CudaBench,
                                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    """us: what a stream that waits for another costs here, where nothing runs side by side."""
    g = Graph("branches")
    x = Value("x", DType.F32, (M, K))
    g.inputs = [x]
    g.outputs = [g.add("matmul", [x, Value(g.fresh("w"), DType.F32, (K, n), data=np.ones((K, n), np.float32))])
                 for n in (K, 4, 7)]
    some = schedule(form_regions(g), lambda region: "").launches

    def wait(api: Api, *_: Any) -> tuple[int]:
        def tick() -> None:
            api.device.clock += us * 1e-6

        if api.device.captured is not None:
            api.device.captured.append(tick)
        return (0,)

    def compiled(region: Region, tactic: str, params: dict[str, Any]) -> tuple[Implementation, dict[str, bytes]]:
        return implement(region), {"k": b"product:5"}

    monkeypatch.setattr(Api, "cuStreamWaitEvent", wait, raising=False)
    segment = cuda_segment.Segment(bench, asked(some, []), compiled)
    first, *rest = segment.run()
    assert (first.one_stream, first.kept) == (True, kept)
    assert not any(a.one_stream for a in rest) or not kept
    assert first.after == pytest.approx(15e-6)
    segment.close()


def test_a_candidate_without_room_is_passed_over(bench: CudaBench, monkeypatch: pytest.MonkeyPatch) -> None:
    some = launches()
    names = [l.region.signature() for l in some]
    device: Any = bench.device
    allocate = device.allocate

    def compiled(region: Region, tactic: str, params: dict[str, Any]) -> tuple[Implementation, dict[str, bytes]]:
        made = implement(region)
        if tactic == "large":
            made = replace(made, workspace=1 << 40)
        return made, {"k": f"product:{params['us']}".encode()}

    def limited(size: int, purpose: str) -> Any:
        if size > 1 << 30:
            raise DeviceMemoryError("no memory", why="it is too much", do="ask for less")
        return allocate(size, purpose)

    monkeypatch.setattr(device, "allocate", limited)
    trials = asked(some, [(names[0], [("a", {"us": 5}), ("large", {"us": 1}), ("c", {"us": 3})])])
    segment = cuda_segment.Segment(bench, trials, compiled)
    assert {tactic for a in segment.run() for tactic, _ in a.choices.values()} == {"a", "c"}
    segment.close()
    assert not device.blocks
