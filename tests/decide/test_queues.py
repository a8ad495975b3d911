"""Closed forms against each other, textbook values, and what they must do in the limit."""

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import t as scipy_t

from whet.decide.queues import BatchService, MDc, MMc, erlang_b, erlang_c
from whet.decide.student import student
from whet.errors import InputError


def test_erlang_b_and_c_are_the_sums_that_define_them() -> None:
    for servers, offered in ((1, 0.3), (5, 3.0), (10, 8.0), (20, 25.0)):
        terms = [offered ** k / math.factorial(k) for k in range(servers + 1)]
        assert erlang_b(servers, offered) == pytest.approx(terms[-1] / sum(terms), rel=1e-12)
        if offered < servers:
            last = terms[-1] / (1 - offered / servers)
            assert erlang_c(servers, offered) == pytest.approx(last / (sum(terms[:-1]) + last), rel=1e-12)
    assert erlang_c(10, 8.0) == pytest.approx(0.409180, abs=1e-6)  # the textbooks' table
    assert erlang_c(2, 2.5) == 1.0
    assert 0 < erlang_b(100_000, 99_000.0) < 1e-2  # no overflow


def test_one_server_is_the_m_m_1_queue() -> None:
    queue = MMc(0.8, 1.0, 1)
    assert queue.mean_response == pytest.approx(5.0)
    assert queue.response_quantile(0.99) == pytest.approx(math.log(100) / 0.2)
    assert queue.wait_quantile(0.99) == pytest.approx(math.log(0.8 / 0.01) / 0.2)
    assert queue.wait_quantile(0.1) == 0.0


def test_the_response_is_right_where_its_formula_divides_by_nothing() -> None:
    exact, near = MMc(2.0, 1.0, 3), MMc(2.0 + 1e-6, 1.0, 3)  # c mu - lambda = mu
    assert exact.response_quantile(0.99) == pytest.approx(near.response_quantile(0.99), rel=1e-5)


def test_deterministic_service_gives_pollaczek_and_khinchine() -> None:
    for load in (0.1, 0.5, 0.9, 0.98):
        queue = MDc(load, 1.0)
        assert queue.mean_wait == pytest.approx(load / (2 * (1 - load)), rel=1e-6)
        assert queue.wait_cdf(0.0) == pytest.approx(1 - load, abs=1e-9)
    # Erlang's own sum, where it does not cancel: P(W <= t) = (1 - rho) sum (-l (t - k))^k / k! e^(l (t - k))
    t, load = 2.5, 0.5
    erlang = (1 - load) * sum((-load * (t - k)) ** k / math.factorial(k) * math.exp(load * (t - k)) for k in range(3))
    assert MDc(load, 1.0).wait_cdf(t) == pytest.approx(erlang, abs=1e-9)


def test_a_wait_quantile_is_where_its_distribution_reaches_the_level() -> None:
    queue = MDc(3.6, 1.0, 4)
    at = queue.wait_quantile(0.99)
    assert queue.wait_cdf(at) == pytest.approx(0.99, abs=1e-6)
    cdf = [queue.wait_cdf(t) for t in np.linspace(0, 8, 200)]
    assert all(a <= b + 1e-12 for a, b in pairwise(cdf))
    assert MMc(3.6, 1.0, 4).mean_wait / 3 < queue.mean_wait < MMc(3.6, 1.0, 4).mean_wait  # half of it in heavy traffic


@pytest.mark.parametrize("tau0", [0.5, 2.0, 20.0])
@pytest.mark.parametrize("rate", [0.01, 0.2, 0.5, 0.8, 0.95])
def test_inoues_bound_lies_above_the_exact_mean_and_near_it(rate: float, tau0: float) -> None:
    queue = BatchService(rate, 1.0, tau0)
    assert queue.mean_latency <= queue.mean_bound * (1 + 1e-9)
    assert queue.mean_bound < 1.1 * queue.mean_latency


def test_without_load_a_batch_is_a_request_alone() -> None:
    assert BatchService(1e-6, 1.0, 2.0).mean_latency == pytest.approx(3.0, rel=1e-4)


@pytest.mark.parametrize("make", [
    lambda: MMc(2.0, 1.0, 2), lambda: MMc(-1.0, 1.0, 2), lambda: MDc(1.0, 1.0, 1), lambda: MMc(1.0, math.nan, 2),
    lambda: BatchService(1.0, 1.0, 1.0), lambda: BatchService(1.0, 0.5, -1.0), lambda: erlang_b(-1, 2.0),
    lambda: erlang_c(0, 2.0), lambda: erlang_b(3, math.inf), lambda: MMc(1.0, 1.0, 2).response_quantile(1.0),
    lambda: MDc(9999.0, 1.0, 10_000).mean_wait])
def test_what_is_no_queue_is_refused(make: object) -> None:
    with pytest.raises(InputError):
        make()  # type: ignore[operator]


def test_students_t_is_scipys() -> None:
    for degrees in (1, 2, 3, 9, 10, 40):
        for level in (0.9, 0.975, 0.999):
            assert student(level, degrees) == pytest.approx(scipy_t.ppf(level, degrees), rel=1e-9)
