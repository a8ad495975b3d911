"""Recurrent layers on GPUs against float64: every option, odd sizes, lengths, NaN, symbolic dims."""

import pytest

pytest.importorskip("triton")
from interpreted import run
from recurrent_regions import BOTH, OPTIONS, check, region

from targets.cuda import on_device
from targets.cuda.on_device import needs_cuda
from whet.abi_cuda import unpack
from whet.ir.dtypes import DType
from whet.ir.ops_recurrent import ACTIVATIONS, GATES
from whet.ir.symbolic import symbol
from whet.targets.cuda.compile import to_object
from whet.targets.cuda.gpu import typical
from whet.targets.cuda.recurrent import Recurrent, RecurrentSteps

H100 = typical((9, 0))
ONE, STEPS = Recurrent(), RecurrentSteps()
SMALL = {"rows": 16, "columns": 16, "depth": 16, "warps": 4}
SINGLE = {**SMALL, "rows": 1}


@pytest.mark.parametrize("layout", [0, 1])
@pytest.mark.parametrize("option", OPTIONS, ids=str)
def test_every_option_in_both_directions(option: tuple, layout: int) -> None:
    kind, given, more = option
    r = region(kind, 2, 3, 9, *given, reverse=BOTH, layout=layout, **more)
    check(run, STEPS if layout else ONE, r, H100, params=SMALL)


@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 1, 19), (0, 2, 5), (3, 0, 5), (2, 17, 16)], ids=str)
def test_odd_sizes(kind: str, sizes: tuple[int, int, int]) -> None:
    r = region(kind, *sizes, "h", reverse=(True,))
    for tactic in (ONE, STEPS):
        if sizes[0] or tactic is ONE:
            check(run, tactic, r, H100, params=SINGLE if sizes[1] == 1 else SMALL)


@pytest.mark.parametrize("kind", GATES)
def test_any_batch_and_length_in_one_kernel(kind: str) -> None:
    r = region(kind, symbol("t"), symbol("b"), 9, "lengths", "h", reverse=BOTH, lengths=DType.I64,
               dims={"t": (0, 4, 30), "b": (0, 4, 30)})
    for t, b in ((0, 3), (3, 0), (2, 3)):
        check(run, ONE, r, H100, {"t": t, "b": b}, params=SMALL)
    assert "unknown" in STEPS.applies(r, H100)


@pytest.mark.parametrize("b", [0, 3, 18])
def test_any_batch_in_a_launch_for_each_step(b: int) -> None:
    r = region("lstm", 2, symbol("b"), 9, "h", reverse=BOTH, dims={"b": (0, 4, 30)})
    check(run, STEPS, r, H100, {"b": b}, params=SMALL)


@pytest.mark.parametrize("kind", GATES)
def test_nan_and_infinities_go_where_the_equations_send_them(kind: str) -> None:
    for clip in (None, 1.5):
        check(run, ONE, region(kind, 2, 4, 9, "h", clip=clip), H100, spoil=True, params=SMALL)


@pytest.mark.parametrize("function", ACTIVATIONS)
def test_every_activation(function: str) -> None:
    r = region("rnn", 1, 2, 9, reverse=BOTH, activations=(((function, 0.7, 0.3),), (("tanh", 0.0, 0.0),)))
    check(run, ONE, r, H100, params=SMALL)


@pytest.mark.parametrize(("kind", "number", "params"), [("lstm", 90, SMALL), ("gru", 80, SINGLE)], ids=str)
def test_it_compiles(kind: str, number: int, params: dict[str, int]) -> None:
    r = region(kind, 20, 4, 64, "h", "lengths", reverse=BOTH)
    for tactic in (ONE, STEPS):
        assert list(tactic.space(r, H100, 1))
        for code in {s.kernel.code for s in tactic.implement(r, params, H100, 1).steps}:
            unpack(to_object(code, number))


@needs_cuda
@pytest.mark.parametrize("tactic", [ONE, STEPS], ids=lambda t: t.name)
@pytest.mark.parametrize("option", OPTIONS, ids=str)
def test_every_option_on_the_gpu(tactic: Recurrent | RecurrentSteps, option: tuple) -> None:
    kind, given, more = option
    check(on_device.run, tactic, region(kind, 5, 3, 17, *given, reverse=BOTH, layout=1, **more), on_device.gpu())


@needs_cuda
@pytest.mark.parametrize("tactic", [ONE, STEPS], ids=lambda t: t.name)
@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize("batch", [1, 33])
def test_wide_layers_on_the_gpu(tactic: Recurrent | RecurrentSteps, kind: str, batch: int) -> None:
    r = region(kind, 12, batch, 300, "h", "lengths", reverse=BOTH)
    check(on_device.run, tactic, r, on_device.gpu(), some=3)
