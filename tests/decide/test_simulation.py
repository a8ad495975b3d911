"""The simulation against theory, against an independent simulator, and against what must hold of any queue."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whet.decide.arrivals import Arrivals
from whet.decide.queues import BatchService, MDc, MMc
from whet.decide.service import Service
from whet.decide.simulation import Batching, enough_requests, quantile_interval, simulate
from whet.errors import InputError


@pytest.mark.parametrize("servers", [2, 4, 10, 30])
@pytest.mark.parametrize("load", [0.5, 0.8])
def test_p99_of_m_m_c_is_theorys_within_three_percent(servers: int, load: float) -> None:
    theory = MMc(servers * load, 1.0, servers)
    run = simulate(Service.exponential(1.0), Arrivals.poisson(servers * load), servers=servers, requests=500_000)
    assert run.p99.value == pytest.approx(theory.response_quantile(0.99), rel=0.03)
    assert run.mean == pytest.approx(theory.mean_response, rel=0.02)
    assert run.utilization == pytest.approx(load, rel=0.01)
    assert run.waited == pytest.approx(theory.waiting, rel=0.05, abs=0.005)


def test_p99_of_a_single_server_is_theorys_too() -> None:
    run = simulate(Service.exponential(1.0), Arrivals.poisson(0.8), requests=4_000_000)
    assert run.p99.value == pytest.approx(MMc(0.8, 1.0, 1).response_quantile(0.99), rel=0.03)


@pytest.mark.parametrize(("servers", "load"), [(1, 0.8), (5, 0.9), (40, 0.9)])
def test_deterministic_service_is_the_exact_m_d_c(servers: int, load: float) -> None:
    theory = MDc(servers * load, 1.0, servers)
    run = simulate(Service.table({1: 1.0}), Arrivals.poisson(servers * load), servers=servers, requests=2_000_000)
    assert run.p99.value == pytest.approx(theory.response_quantile(0.99), rel=0.03)
    assert run.mean == pytest.approx(1 + theory.mean_wait, rel=0.01)


@pytest.mark.parametrize(("rate", "tau0"), [(0.05, 2.0), (0.5, 2.0), (0.8, 2.0), (0.5, 20.0)])
def test_batch_service_keeps_inoues_bound_and_meets_the_exact_mean(rate: float, tau0: float) -> None:
    theory = BatchService(rate, 1.0, tau0)
    run = simulate(Service.linear(1.0, tau0, 4000), Arrivals.poisson(rate), Batching(4000), requests=600_000)
    assert run.mean == pytest.approx(theory.mean_latency, rel=0.01)
    assert run.mean <= theory.mean_bound * 1.005


def _by_ciw(service: Service, rate: float, servers: int, customers: int, seed: int) -> np.ndarray:
    ciw = pytest.importorskip("ciw", reason="ciw is in the test extra")
    kind = ciw.dists.Exponential(1 / service.mean(1)) if service.spread == "exponential" else \
        ciw.dists.Deterministic(service.mean(1))
    network = ciw.create_network(arrival_distributions=[ciw.dists.Exponential(rate)], service_distributions=[kind],
                                 number_of_servers=[servers])
    ciw.seed(seed)
    run = ciw.Simulation(network)
    run.simulate_until_max_customers(customers, method="Complete")
    records = sorted(run.get_all_records(), key=lambda r: r.arrival_date)[customers // 10:]
    return np.array([r.exit_date - r.arrival_date for r in records])


@pytest.mark.parametrize(("service", "rate", "servers"), [
    (Service.exponential(1.0), 2.1, 3), (Service.table({1: 1.0}), 2.4, 3), (Service.exponential(0.5), 1.0, 1)])
def test_an_independent_simulator_says_the_same(service: Service, rate: float, servers: int) -> None:
    theirs = _by_ciw(service, rate, servers, 25_000, 1)
    ours = simulate(service, Arrivals.poisson(rate), servers=servers, requests=300_000)
    for q, name in ((0.5, ours.p50), (0.9, ours.p90), (0.99, ours.p99.value)):
        interval = quantile_interval(theirs, q)
        slack = 0.5 * (interval.high - interval.low)  # ours is uncertain, too
        assert interval.low - slack <= name <= interval.high + slack


def _by_events(times: list[float], seconds: dict[int, float], batching: Batching, servers: int) -> list[float]:
    """A plain simulation by a clock that stops at each arrival, deadline and completion: slow and obvious."""
    free, queue, done = [0.0] * servers, [], {}
    pending, now = list(enumerate(times)), 0.0
    while pending or queue:
        moments = [t for t in free if t > now]
        if pending:
            moments.append(pending[0][1])
        moments += [times[n] + batching.max_delay for n in queue if times[n] + batching.max_delay > now]
        now = min(moments) if moments else now
        while pending and pending[0][1] <= now:
            queue.append(pending.pop(0)[0])
        while queue and min(free) <= now and (len(queue) >= batching.max_size
                                              or times[queue[0]] + batching.max_delay <= now):
            batch, queue = queue[:batching.max_size], queue[batching.max_size:]
            server = free.index(min(free))
            free[server] = now + seconds[len(batch)]
            done |= dict.fromkeys(batch, free[server])
    return [done[n] for n in range(len(times))]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), servers=st.integers(1, 4), size=st.integers(1, 5), delay=st.sampled_from([0, 1, 3]),
       load=st.floats(0.1, 0.95))
def test_batches_form_as_a_clock_would_form_them(seed: int, servers: int, size: int, delay: int, load: float) -> None:
    seconds = {b: 1.0 + 0.25 * b for b in range(1, size + 1)}
    rate = load * servers * size / seconds[size]
    times = np.sort(np.random.default_rng(seed).uniform(0, 300 / rate, 300))
    arrivals = Arrivals.trace(times)
    if arrivals.rate >= 0.99 * servers * size / seconds[size]:
        return
    run = simulate(Service.table(seconds), arrivals, Batching(size, float(delay)), servers, requests=2000)
    slow = np.array(_by_events(list(arrivals.times), seconds, Batching(size, float(delay)), servers))
    np.testing.assert_allclose(run.latencies, slow - np.array(arrivals.times), atol=1e-9)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), servers=st.integers(1, 6), load=st.floats(0.3, 0.95),
       cv=st.sampled_from([1.0, 3.0]), exponential=st.booleans())
def test_one_more_server_makes_no_request_later(seed: int, servers: int, load: float, cv: float,
                                                exponential: bool) -> None:
    service = Service.exponential(1.0) if exponential else Service.table({1: 1.0})
    arrivals = Arrivals.bursty(servers * load, cv)
    few, more = (simulate(service, arrivals, servers=n, requests=2000, seed=seed) for n in (servers, servers + 1))
    assert (more.latencies <= few.latencies + 1e-9).all()


@pytest.mark.parametrize("delay", [0.0, 0.5])
def test_with_batches_more_servers_do_not_raise_p99_either(delay: float) -> None:
    service = Service.linear(0.1, 1.0, 8)
    p99 = [simulate(service, Arrivals.poisson(12.0), Batching(8, delay), n, 100_000).p99.value for n in range(3, 12)]
    assert all(few >= 0.995 * more for few, more in pairwise(p99))


def test_burstier_requests_wait_longer() -> None:
    p99 = [simulate(Service.table({1: 1.0}), Arrivals.bursty(2.1, cv), servers=3).p99.value for cv in (0.5, 1, 2, 4)]
    assert p99 == sorted(p99)
    assert p99[-1] > 3 * p99[1]


def test_gaps_have_the_variation_that_was_asked_for() -> None:
    gaps = np.diff(Arrivals.bursty(50.0, 2.5).drawn(np.random.default_rng(0), 400_000))
    assert gaps.mean() == pytest.approx(1 / 50, rel=0.02)
    assert gaps.std() / gaps.mean() == pytest.approx(2.5, rel=0.02)


def test_queues_of_their_own_are_worse_than_one_shared() -> None:
    shared, random, turns = (simulate(Service.exponential(1.0), Arrivals.poisson(3.2), servers=4, requests=400_000,
                                      dispatch=how) for how in ("shared", "random", "round-robin"))
    assert shared.p99.value < turns.p99.value < random.p99.value
    assert random.p99.value == pytest.approx(MMc(0.8, 1.0, 1).response_quantile(0.99), rel=0.06)


def test_measured_samples_keep_the_mean_and_their_tail() -> None:
    samples = (0.9,) * 95 + (2.9,) * 5
    service = Service((1, 4), (1.0, 2.0), "measured", (samples, tuple(2 * s for s in samples)))
    run = simulate(service, Arrivals.poisson(0.01), requests=50_000)
    assert run.mean == pytest.approx(1.0, rel=0.03)
    assert run.p90 == pytest.approx(0.9, rel=2e-3)
    assert run.p99.value == pytest.approx(2.9, rel=2e-3)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    theory = MMc(6.0, 1.0, 10).response_quantile(0.99)
    length = enough_requests(Service.exponential(1.0), Arrivals.poisson(6.0), 0.6)
    runs = [simulate(Service.exponential(1.0), Arrivals.poisson(6.0), servers=10, requests=length, seed=seed).p99
            for seed in range(20)]
    assert sum(i.low <= theory <= i.high for i in runs) >= 16  # of 95 %, fewer than 16 of 20 come once in 400
    assert len({i.value for i in runs}) == 20


def test_a_seed_gives_the_same_run() -> None:
    one, two = (simulate(Service.linear(0.1, 1.0, 8), Arrivals.poisson(9.0), Batching(8, 0.5), 3, 20_000, seed=7)
                for _ in range(2))
    assert one == two
    assert (one.latencies == two.latencies).all()


@pytest.mark.parametrize(("servers", "requests"), [(0, 10_000), (2_000_000, 10_000), (1, 10), (1, 10**9)])
def test_absurd_runs_are_refused(servers: int, requests: int) -> None:
    with pytest.raises(InputError):
        simulate(Service.table({1: 1.0}), Arrivals.poisson(0.5), servers=servers, requests=requests)


def test_a_fleet_that_cannot_keep_up_is_refused() -> None:
    with pytest.raises(InputError, match="cannot keep up") as e:
        simulate(Service.throughput(45), Arrivals.poisson(360), servers=8)
    assert "grows without bound" in str(e.value)
