"""Fleets: the worked example, what an objective costs, and what is refused."""

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from record_samples import measurement
from whet.decide.arrivals import read_trace
from whet.decide.fleet import Arrivals, Batching, Service, neighbours, pack, services, size_fleet
from whet.decide.queues import MMc
from whet.errors import InputError, UnreachableError
from whet.measure.record import Device, Gpu, Load, Memory, Source
from whet.measure.stats import latency

NO_BATCHES = Batching()


# The worked example: 45 requests a second on each of 8 instances, and 180 on each of 2, are both exactly the 360 that
# come: utilization 1. From one queue, at random (Poisson), one by one, with P99 under the 320 and 90 ms that are
# claimed, the least fleets are 9 and 3, whether requests all take the same time or vary as an exponential does.
@pytest.mark.parametrize("spread", ["deterministic", "exponential"])
@pytest.mark.parametrize(("per_second", "p99", "claimed", "servers"), [(45, 0.320, 8, 9), (180, 0.090, 2, 3)])
def test_the_worked_example_needs_9_and_3(spread: str, per_second: float, p99: float, claimed: int,
                                          servers: int) -> None:
    service = Service.throughput(per_second) if spread == "deterministic" else Service.exponential(1 / per_second)
    fleet = size_fleet(service, Arrivals.poisson(360), NO_BATCHES, p99)
    assert 360 / (claimed * service.capacity()) == pytest.approx(1.0)
    assert (fleet.servers, fleet.stable, fleet.devices) == (servers, servers, servers)
    assert fleet.chosen.p99.high < p99
    if spread == "exponential":
        theory = MMc(360, 1 / per_second, servers).response_quantile(0.99)
        assert fleet.chosen.p99.value == pytest.approx(theory, rel=0.05)


def test_the_worked_example_hangs_on_its_assumptions() -> None:
    def original(arrivals: Arrivals = Arrivals.poisson(360), **given: object) -> int:  # noqa: B008
        return size_fleet(Service.throughput(45), arrivals, NO_BATCHES, 0.320, **given).servers  # type: ignore[arg-type]

    assert original(dispatch="round-robin") == 9
    assert original(dispatch="random") == 10  # a balancer that throws dice
    assert original(Arrivals.bursty(360, 3.0)) == 10  # requests in bursts
    assert size_fleet(Service.throughput(180), Arrivals.bursty(360, 3.0), NO_BATCHES, 0.090).servers == 4


def test_the_fleet_is_the_least_that_meets_the_objective() -> None:
    service, arrivals = Service.exponential(0.01), Arrivals.poisson(1000)
    twelve, thirteen = (MMc(1000, 0.01, c).response_quantile(0.99) for c in (12, 13))
    objective = (twelve + thirteen) / 2
    fleet = size_fleet(service, arrivals, NO_BATCHES, objective)
    assert (fleet.stable, fleet.servers) == (11, 13)
    less = next(run for run in fleet.tried if run.servers == 12)
    assert less.p99.high > objective


def test_a_harder_objective_more_load_and_more_bursts_never_need_fewer() -> None:
    def needed(rate: float = 500, p99: float = 0.04, cv: float = 1.0) -> int:
        return size_fleet(Service.table({1: 0.01}), Arrivals.bursty(rate, cv), NO_BATCHES, p99, requests=20_000).servers

    assert [needed(p99=p) for p in (0.011, 0.02, 0.04, 0.2)] == sorted(
        (needed(p99=p) for p in (0.011, 0.02, 0.04, 0.2)), reverse=True)
    assert [needed(rate=r) for r in (100, 500, 900)] == sorted(needed(rate=r) for r in (100, 500, 900))
    assert [needed(cv=c) for c in (1, 2, 4)] == sorted(needed(cv=c) for c in (1, 2, 4))


def test_batches_carry_a_load_that_single_requests_cannot() -> None:
    service = Service.linear(0.001, 0.009, 16)
    single = size_fleet(service, Arrivals.poisson(800), NO_BATCHES, 0.1)
    batched = size_fleet(service, Arrivals.poisson(800), Batching(16), 0.1)
    assert (single.stable, batched.stable) == (9, 2)
    assert batched.servers < single.servers


def test_devices_are_bought_whole_and_spares_are_devices() -> None:
    service = Service.table({1: 0.01}, contexts=4)
    fleet = size_fleet(service, Arrivals.poisson(900), NO_BATCHES, 0.05, 2)
    assert fleet.servers == 12
    assert (fleet.devices, fleet.total) == (5, 20)


def test_the_chart_has_the_chosen_fleet_and_its_neighbours() -> None:
    fleet = size_fleet(Service.exponential(0.01), Arrivals.poisson(1000), NO_BATCHES, 0.050)
    runs = neighbours(fleet)
    assert fleet.chosen in runs
    assert [r.servers for r in runs] == sorted(r.servers for r in runs)
    assert runs[0].servers == fleet.stable
    assert runs[-1].servers > fleet.servers
    assert all(a.p99.value >= b.p99.value * 0.99 for a, b in pairwise(runs))


def test_a_fleet_too_near_its_limit_is_not_judged() -> None:
    fleet = size_fleet(Service.table({1: 1.0}), Arrivals.poisson(99.9), NO_BATCHES, 30.0)
    assert fleet.stable == 100
    assert fleet.unjudged[0] == 100
    assert fleet.servers > max(fleet.unjudged)


# What is refused.


def test_an_objective_below_the_service_itself_is_told() -> None:
    with pytest.raises(UnreachableError, match="no fleet keeps P99 under 20 ms") as e:
        size_fleet(Service.throughput(45), Arrivals.poisson(360), NO_BATCHES, 0.020)
    assert "22.22 ms on an idle server" in str(e.value)
    assert e.value.exit_code == 2


def test_a_delay_that_eats_the_objective_is_told() -> None:
    with pytest.raises(UnreachableError, match="no fleet") as e:
        size_fleet(Service.linear(0.001, 0.004, 8), Arrivals.poisson(20), Batching(8, 0.050), 0.030)
    assert "no request waits for one" in str(e.value)
    assert "less delay" in str(e.value)


@pytest.mark.parametrize("p99", [0.0, -1.0, math.nan, math.inf])
def test_objectives_that_are_none(p99: float) -> None:
    with pytest.raises(InputError):
        size_fleet(Service.throughput(45), Arrivals.poisson(360), NO_BATCHES, p99)


@pytest.mark.parametrize("make", [
    lambda: Arrivals.poisson(0), lambda: Arrivals.poisson(math.nan), lambda: Arrivals.bursty(1, -1),
    lambda: Arrivals.bursty(1, 1e9), lambda: Service.throughput(-3), lambda: Service.table({}),
    lambda: Service.table({0: 1.0}), lambda: Service.table({1: math.inf}), lambda: Service.table({1: 1.0}, contexts=0),
    lambda: Service.table({1: 1.0}, memory_bytes=-1), lambda: Batching(0), lambda: Batching(2, -1.0),
    lambda: Batching(10**9),
    lambda: Service((1,), (1.0,), "measured"), lambda: Arrivals.poisson(3).scaled(-1),
    lambda: size_fleet(Service.throughput(1), Arrivals.poisson(1e9), NO_BATCHES, 5.0),
    lambda: size_fleet(Service.throughput(1), Arrivals.poisson(1), NO_BATCHES, 5.0, -1)])
def test_figures_that_make_no_sense(make: object) -> None:
    with pytest.raises(InputError):
        make()  # type: ignore[operator]


def test_nothing_is_extrapolated_beyond_the_largest_measured_batch() -> None:
    with pytest.raises(InputError, match="how long a batch of 16 takes"):
        size_fleet(Service.table({1: 0.01, 8: 0.03}), Arrivals.poisson(100), Batching(16), 0.1)


# Records.


def _record(batch: int, mean: float, contexts: int = 1, **fields: object) -> object:
    rng = np.random.default_rng(batch)
    base = {"shapes": {"input": (batch, 3)}, "load": Load(concurrency=contexts),
            "latency": latency(mean * rng.uniform(0.9, 1.1, 200)), "memory": Memory(peak_bytes=2 << 30, idle_bytes=0)}
    return measurement(**base | fields)


def test_service_times_come_from_records_by_concurrency() -> None:
    made = services([_record(1, 0.010), _record(8, 0.030), _record(1, 0.025, 4), _record(8, 0.080, 4)])
    assert sorted(made) == [1, 4]
    assert made[1].batches == (1, 8)
    assert made[1].mean(8) == pytest.approx(0.030, rel=0.02)
    assert made[1].mean(4) == pytest.approx(0.010 + 0.020 * 3 / 7, rel=0.03)
    assert made[4].contexts == 4
    assert made[4].spread == "measured"
    assert made[1].memory_bytes == 2 << 30
    assert 0.0105 < made[1].quantile(0.99) < 0.0111


def test_contexts_share_a_device_where_they_fit_and_were_measured() -> None:
    made = services([_record(1, 0.010), _record(1, 0.020, 4), _record(1, 0.150, 16)])
    roomy = pack(made, Arrivals.poisson(900), NO_BATCHES, 0.1, 1, device_memory=24 << 30)
    assert roomy.best.contexts == 4  # 4 / 20 ms is more than 1 / 10 ms
    assert roomy.best.devices == min(f.devices for f in roomy.fleets)
    assert roomy.refused == {16: "memory"}  # 16 contexts of 2 GiB do not fit into 24
    assert (roomy.fits, roomy.measured) == (12, 16)
    tight = pack(made, Arrivals.poisson(900), NO_BATCHES, 0.1, 1, device_memory=3 << 30)
    assert tight.best.contexts == 1
    anywhere = pack(made, Arrivals.poisson(900), NO_BATCHES, 0.1)
    assert anywhere.refused == {16: "objective"}
    with pytest.raises(InputError, match="no context fits"):
        pack(made, Arrivals.poisson(900), NO_BATCHES, 0.1, device_memory=1 << 30)
    with pytest.raises(UnreachableError):
        pack(made, Arrivals.poisson(900), NO_BATCHES, 0.001)


@pytest.mark.parametrize("fields", [
    {"backend": "onnxruntime"}, {"precision": "bf16"}, {"threads": 1},
    {"device": Device(fingerprint="x", name="another", arch="x86_64", cores=2)}])
def test_records_of_different_things_are_not_mixed(fields: dict[str, object]) -> None:
    with pytest.raises(InputError, match="differ"):
        services([_record(1, 0.01), _record(8, 0.03, **fields)])


def test_latencies_that_hold_waits_are_no_service_times() -> None:
    for fields in ({"load": Load(pattern="open-loop", rate=10.0)}, {"load": Load(concurrency=4),
                                                                   "source": Source(tool="perf_analyzer")}):
        with pytest.raises(InputError, match="hold waits"):
            services([_record(1, 0.01, **fields)])
    two = Device(fingerprint="x", name="two", arch="", cores=1, gpus=(Gpu(name="g"), Gpu(name="g")))
    for fields in ({"load": Load(concurrency=4), "throughput": 100.0}, {"device": two}):
        with pytest.raises(InputError, match="not of contexts that share a device"):
            services([_record(1, 0.01, **fields)])
    assert sorted(services([_record(1, 0.01, load=Load(concurrency=4), throughput=390.0)])) == [4]
    with pytest.raises(InputError, match="no record has a latency"):
        services([measurement()])
    with pytest.raises(InputError, match="batch size"):
        services([_record(1, 0.01, shapes={"a": (2, 3), "b": (4, 3)})])


# Traces.


@pytest.mark.parametrize("text", [
    "0\n0.5\n0.5\n2\n", "time\n10\n10.5\n10.5\n12\n", "user,time\nann,0\nbob,0.5\nann,0.5\nzed,2\n",
    "\ufeff0\r\n0.5\r\n0.5\r\n2\r\n\r\n",
    "2026-01-01T00:00:00Z\n2026-01-01T00:00:00.5Z\n2026-01-01T00:00:00.5Z\n2026-01-01T00:00:02Z\n"])
def test_a_trace_is_read_from_lines_or_csv(tmp_path: Path, text: str) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(text, "utf-8")
    trace = read_trace(path)
    assert trace.times == (0.0, 0.5, 0.5, 2.0)
    assert trace.rate == pytest.approx(1.5)
    assert trace.scaled(2).times[-1] == 1.0


@pytest.mark.parametrize(("data", "says"), [
    (b"", "two times"), (b"1\n", "two times"), (b"1\n1\n1\n", "two times"), (b"2\n1\n", "fall"),
    (b"1\nnan\n", "line 2"), (b"1\ninf\n", "line 2"), (b"1\n\n=cmd()\n", "line 3"), (b"\x00\xff\xfe\n1\n", "line 1"),
    (b"1\n" + b"9" * 5000 + b"\n", "too long"), (b"a,time\n1\n", "no column 2"),
    (b"1\n2026-01-01T00:00:00Z\n", "mixes"), (b"1\n1e999\n", "line 2")])
def test_hostile_traces_are_refused_with_their_line(tmp_path: Path, data: bytes, says: str) -> None:
    path = tmp_path / "trace.csv"
    path.write_bytes(data)
    with pytest.raises(InputError) as e:
        read_trace(path)
    assert says in str(e.value)


def test_a_trace_that_is_not_there_or_is_a_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(InputError, match="cannot be read"):
            read_trace(path)


def test_a_trace_sizes_a_fleet_for_its_busy_hour() -> None:
    rng = np.random.default_rng(0)
    quiet, busy = np.sort(rng.uniform(0, 100, 2000)), np.sort(rng.uniform(100, 110, 2000))
    fleet = size_fleet(Service.table({1: 0.02}), Arrivals.trace(np.r_[quiet, busy]), NO_BATCHES, 0.2)
    assert fleet.stable == 1  # on average
    assert fleet.servers >= 4  # 200 a second for ten seconds
