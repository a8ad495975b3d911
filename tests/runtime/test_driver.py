"""The native driver under stress: whatever joins, sleeps or is un-asked, each tile is done once and in order."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from tiny_plans import chain, expected

from whet import abi
from whet.plan.data import ArenaArg, InputArg, IntArg, NativeStep, OutputArg, WeightArg
from whet.runtime import Engine, load_data

ROWS, COLUMNS = 23, 3


def mixed(steps: int, threads: int, seed: int) -> Engine:
    """A chain whose steps differ in grain: shared ones, whole ones, stretches of whole ones."""
    data = chain(steps, COLUMNS, rows=ROWS, threads=threads)
    rng = np.random.default_rng(seed)
    data.steps = [NativeStep(s.symbol, s.args, s.tiles, int(rng.choice([1, 2, 5, 22, 23, 100])), s.label)
                  for s in data.steps]
    return load_data(data, threads=threads)


def set_spin(engine: Engine, idle: int, step: int) -> None:
    words = engine._pool._state.bytes[: abi.POOL_BYTES].view(np.int64)
    words[abi.POOL_SPIN_IDLE // 8], words[abi.POOL_SPIN_STEP // 8] = idle, step


@pytest.mark.parametrize("threads", [2, 3, 8])
@pytest.mark.parametrize("spin", [0, 2_000, 1_000_000])
@pytest.mark.parametrize("contexts", [1, 4])
def test_results_hold_with_any_number_of_threads_spins_and_runs(threads: int, spin: int, contexts: int) -> None:
    steps = 40
    x = np.random.default_rng(threads).integers(-3, 4, (ROWS, COLUMNS)).astype(np.float32)
    want = expected(x, steps)
    wrong: list[int] = []
    with mixed(steps, threads, seed=spin + contexts) as engine:
        set_spin(engine, spin // 2, spin)

        def work() -> None:
            y = np.empty_like(x)
            run = engine.context().runner([x], [y])
            for i in range(60):
                y[:] = 0
                run()
                if not np.array_equal(y, want):
                    wrong.append(i)

        runs = [threading.Thread(target=work) for _ in range(contexts)]
        for r in runs:
            r.start()
        for r in runs:
            r.join(60)
            assert not r.is_alive(), "a run hangs"
    assert not wrong


def test_counters_start_over_before_their_epochs_run_out() -> None:
    x = np.ones((ROWS, COLUMNS), np.float32)
    with mixed(30, 2, seed=7) as engine:
        ctx = engine.context()
        ctx.run({"x": x})
        binding = ctx._current
        assert binding is not None
        for epoch in ((1 << 30) - 40, (1 << 30) + 5):
            binding._run[abi.RUN_EPOCH // 8] = epoch
            for _ in range(20):
                assert np.array_equal(ctx.run({"x": x})["y"], expected(x, 30))
        assert binding._run[abi.RUN_EPOCH // 8] < 1 << 29


def test_a_step_without_tiles_is_passed_over() -> None:
    w, n = WeightArg("w"), IntArg(COLUMNS)
    nothing = NativeStep("scale", (ArenaArg(0), w, ArenaArg(0), n), 0)
    steps = [nothing, NativeStep("scale", (InputArg(0), w, OutputArg(0), n), ROWS), nothing, nothing]
    with load_data(chain(steps, COLUMNS, rows=ROWS)) as engine:
        x = np.ones((ROWS, COLUMNS), np.float32)
        for _ in range(50):
            assert np.array_equal(engine({"x": x})["y"], expected(x, 1))
        assert len(engine.context().timed({"x": x})[1]) == 4
