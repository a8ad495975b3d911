"""Recurrent layers against their definition in float64: every option, odd sizes, lengths, NaN, symbolic dims."""

import numpy as np
import pytest
from harness import run_region, strided

from whet.ir.dtypes import DType
from whet.ir.ops_recurrent import ACTIVATIONS, FUNCTIONS, GATES, OPERANDS, RECURRENT
from whet.ir.region import Region, Tensor
from whet.ir.symbolic import Dim, evaluate, symbol
from whet.targets.cpu import isa as isas
from whet.targets.cpu.compile import to_assembly
from whet.targets.cpu.recurrent import Recurrent

HOST = isas.host()
ISAS = list({HOST.name: HOST, "avx2": isas.AVX2}.values())
TACTIC = Recurrent()
F32 = DType.F32
USUAL = {"lstm": ("sigmoid", "tanh", "tanh"), "gru": ("sigmoid", "tanh"), "rnn": ("tanh",)}


def region(kind: str, t: Dim, b: Dim, h: int, *given: str, reverse: tuple[bool, ...] = (False,), layout: int = 0,
           dims: dict | None = None, const: bool = True, activations: tuple | None = None, lengths: DType = DType.I32,
           **more: object) -> Region:
    n, g = len(reverse), GATES[kind]
    outer, inner = (b, t) if layout else (t, b)
    state = strided(F32, (b, n, h) if layout else (n, b, h), 2)
    tensors = {"x": strided(F32, (outer, inner, n, g * h), 1), "r": Tensor.dense(F32, (n, g * h, h), const),
               "lengths": Tensor.dense(lengths, (b,)), "h": state, "c": state, "p": strided(F32, (n, 3 * h), 1),
               "rb": strided(F32, (n, h), 1)}
    names = [name for name in OPERANDS if name in ("x", "r", *given)]
    attrs = {"kind": kind, "reverse": reverse, "layout": layout, "clip": None, "coupled": False,
             "linear_before_reset": False, **more,
             "activations": activations or tuple(tuple((f, 0.0, 0.0) for f in USUAL[kind]) for _ in reverse),
             "absent": tuple(i for i, name in enumerate(OPERANDS) if name not in names)}
    y = strided(F32, (b, t, n, h) if layout else (t, n, b, h), 3)
    ins = tuple(tensors[name] for name in names)
    return Region("recurrent", attrs, ins, len(ins), y, Tensor.dense(F32, y.shape),
                  extra_outputs=(state,) * (2 if kind == "lstm" else 1), dims=dims or {})


def check(r: Region, isa: isas.Isa = HOST, env: dict[str, int] | None = None, tolerance: float = 2e-5,
          spoil: bool = False, some: int = 3) -> None:
    rng = np.random.default_rng(1)
    shapes = [[evaluate(d, env or {}) for d in t.shape] for t in r.inputs]
    steps = shapes[0][1 if r.attrs["layout"] else 0]
    scale = 1 / np.sqrt(max(1, shapes[1][2]))
    arrays = [rng.integers(0, steps + 1, s).astype(t.dtype.np) if t.dtype.is_integer else
              (rng.standard_normal(s) * (scale if i == 1 else 1)).astype(np.float32)
              for i, (t, s) in enumerate(zip(r.inputs, shapes, strict=True))]
    if spoil:
        arrays[0].reshape(-1)[::7] = np.nan
        arrays[0].reshape(-1)[3::11] = np.inf
        arrays[0].reshape(-1)[5::13] = -np.inf
    wide = [a.astype(np.float64) if a.dtype == np.float32 else a for a in arrays]
    for i in r.attrs["absent"]:
        wide.insert(i, None)
    attrs = {k: v for k, v in r.attrs.items() if k != "absent"}
    with np.errstate(all="ignore"):
        want = RECURRENT.reference(wide, attrs)
    for params in list(TACTIC.space(r, isa, 2))[:some]:
        got = run_region(r, TACTIC, params, isa, arrays, env)
        for x, y in zip(got, want, strict=True):
            np.testing.assert_allclose(x, y, rtol=tolerance * 10, atol=tolerance, err_msg=str(params))


BOTH = (False, True)
OPTIONS = [
    ("lstm", ("h", "c"), {}), ("lstm", ("h", "c", "p"), {}), ("lstm", ("p",), {"clip": 0.4}),
    ("lstm", ("lengths", "h", "c"), {}), ("lstm", ("c",), {"coupled": True}),
    ("gru", (), {}), ("gru", ("h", "lengths"), {}), ("gru", ("h", "rb"), {"linear_before_reset": True}),
    ("gru", ("lengths",), {"linear_before_reset": True, "clip": 0.3}), ("gru", (), {"clip": 0.3}),
    ("rnn", (), {}), ("rnn", ("h", "lengths"), {"clip": 0.5}),
]


@pytest.mark.parametrize("layout", [0, 1])
@pytest.mark.parametrize("option", OPTIONS, ids=str)
def test_every_option_in_both_directions(option: tuple, layout: int) -> None:
    kind, given, more = option
    check(region(kind, 5, 3, 17, *given, reverse=BOTH, layout=layout, **more), some=1 + layout)


@pytest.mark.parametrize("isa", ISAS, ids=lambda i: i.name)
@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize("reverse", [(False,), (True,)], ids=str)
def test_one_direction(kind: str, reverse: tuple, isa: isas.Isa) -> None:
    check(region(kind, 4, 5, 33, "h", "lengths", reverse=reverse), isa, some=2)


@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize("sizes", [(1, 1, 1), (7, 1, 3), (0, 2, 5), (3, 0, 5), (7, 5, 64), (2, 9, 40)], ids=str)
def test_odd_sizes(kind: str, sizes: tuple[int, int, int]) -> None:
    check(region(kind, *sizes, "h", reverse=BOTH), some=12 if sizes == (2, 9, 40) else 2)


@pytest.mark.parametrize("kind", GATES)
def test_any_batch_and_length_in_one_plan(kind: str) -> None:
    r = region(kind, symbol("t"), symbol("b"), 19, "lengths", "h", reverse=BOTH, lengths=DType.I64,
               dims={"t": (0, 4, 30), "b": (0, 4, 30)})
    for t, b in ((0, 3), (3, 0), (1, 1), (6, 11)):
        check(r, env={"t": t, "b": b}, some=1)


@pytest.mark.parametrize("kind", GATES)
def test_computed_weights_are_packed_while_it_runs(kind: str) -> None:
    check(region(kind, 3, 2, 21, reverse=BOTH, const=False))


@pytest.mark.parametrize("kind", GATES)
def test_nan_and_infinities_go_where_the_equations_send_them(kind: str) -> None:
    check(region(kind, 3, 4, 18, "h", reverse=BOTH), spoil=True)
    check(region(kind, 3, 4, 18, "h", reverse=BOTH, clip=1.5), spoil=True)


@pytest.mark.parametrize("function", ACTIVATIONS)
def test_every_activation(function: str) -> None:
    check(region("rnn", 3, 2, 9, reverse=BOTH, activations=(((function, 0.7, 0.3),), (("tanh", 0.0, 0.0),))), some=1)


def test_directions_may_have_activations_of_their_own() -> None:
    functions = tuple(tuple((f, 0.6, 0.2) for f in fs) for fs in (("hardsigmoid", "softsign", "relu"),
                                                                  ("sigmoid", "scaledtanh", "elu")))
    assert all(len(fs) == FUNCTIONS["lstm"] for fs in functions)
    check(region("lstm", 4, 5, 17, "p", "lengths", reverse=BOTH, activations=functions))


def test_lengths_beyond_the_tensor_read_nothing_outside() -> None:
    r = region("lstm", 3, 3, 5, "lengths", reverse=BOTH)
    x = np.random.default_rng(2).standard_normal((3, 3, 2, 20)).astype(np.float32)
    w = np.random.default_rng(3).standard_normal((2, 20, 5)).astype(np.float32)
    params = next(iter(TACTIC.space(r, HOST, 1)))
    far = run_region(r, TACTIC, params, HOST, [x, w, np.array([-7, 1 << 30, 3], np.int32)])
    near = run_region(r, TACTIC, params, HOST, [x, w, np.array([0, 3, 3], np.int32)])
    assert all(np.array_equal(a, b) for a, b in zip(far, near, strict=True))


def test_the_same_kernel_compiles_for_neon() -> None:
    r = region("lstm", 5, 4, 20, reverse=BOTH)
    params = next(iter(TACTIC.space(r, isas.NEON, 4)))
    assert "fmla" in to_assembly(TACTIC.implement(r, params, isas.NEON, 4).steps[0].kernel.code, isas.NEON)
