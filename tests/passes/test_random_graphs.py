"""Every pass, and all of them together, keep what random graphs compute."""

import numpy as np
import pytest
from random_graphs import RandomGraph

from whet.ir.interpreter import interpret
from whet.passes import manager, precision

PASSES = {p.name: p for p in manager.PASSES}
SEEDS = range(12)


def check(before: dict[str, np.ndarray], after: dict[str, np.ndarray], tolerance: float = 2e-4) -> None:
    assert before.keys() == after.keys()
    for name, want in before.items():
        got = after[name]
        assert got.dtype == want.dtype
        assert got.shape == want.shape
        bad = ~np.isfinite(want)
        np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
        scale = np.abs(want[~bad]).max(initial=1.0)
        np.testing.assert_allclose(np.where(bad, 0, got), np.where(bad, 0, want), atol=tolerance * scale)


@pytest.mark.parametrize("name", PASSES)
def test_a_pass_on_its_own_keeps_what_random_graphs_compute(name: str) -> None:
    for seed in SEEDS:
        r = RandomGraph(seed)
        want = interpret(r.g, r.feeds)
        got = manager.apply(r.g, [PASSES[name]], verify=True)
        check(want, interpret(got, r.feeds))


@pytest.mark.parametrize("seed", range(40))
def test_all_passes_together_keep_what_a_random_graph_computes(seed: int) -> None:
    r = RandomGraph(1000 + seed, steps=20)
    want = interpret(r.g, r.feeds)
    for p in manager.PASSES:
        got = manager.apply(r.g, [p], verify=True)
        check(want, interpret(got, r.feeds))
    check(want, interpret(manager.regions(got, verify=True), r.feeds))


@pytest.mark.parametrize(("compute", "tolerance"), [("fp32", 2e-4), ("tf32", 0.02), ("fp16", 0.02), ("bf16", 0.15)])
def test_precisions_of_a_gpu_keep_what_random_graphs_compute(compute: str, tolerance: float) -> None:
    for seed in range(24):
        r = RandomGraph(1000 + seed, steps=20)
        want = interpret(r.g, r.feeds)
        check(want, interpret(manager.run(r.g, compute, verify=True, traits=precision.GPU), r.feeds), tolerance)
