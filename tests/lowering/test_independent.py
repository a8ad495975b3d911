"""Independent dimensions: what is claimed holds for garbage behind the real elements; what couples elements refuses."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from passes.random_graphs import RandomGraph
from whet.frontends import load_model
from whet.ir.dtypes import DType
from whet.ir.graph import Check, Graph, Size, Value
from whet.ir.interpreter import interpret
from whet.ir.symbolic import symbol
from whet.lowering.independent import independent
from whet.passes import manager

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
N, M = symbol("n"), symbol("m")
REAL, PADDED = 3, 8


def padded(x: np.ndarray, rng: np.random.Generator, n: int = PADDED) -> np.ndarray:
    """x with garbage behind its rows: NaN, infinities and large numbers; for integers any that occur in x."""
    out = np.empty((n, *x.shape[1:]), x.dtype)
    if x.dtype.kind == "f":
        out[...] = rng.choice(np.array([np.nan, np.inf, -np.inf, 1e30, 0], x.dtype), out.shape)
    else:
        out[...] = rng.choice(x.reshape(-1), out.shape)
    out[: len(x)] = x
    return out


def agree(g: Graph, feeds: dict[str, np.ndarray], seed: int = 0) -> None:
    """Outputs at the real size are the first rows of those at a padded one."""
    rng = np.random.default_rng(seed)
    with np.errstate(all="ignore"):
        want = interpret(g, feeds)
        got = interpret(g, {k: padded(x, rng) for k, x in feeds.items()})
    for name, y in want.items():
        np.testing.assert_allclose(got[name][: len(y)], y, rtol=1e-4, atol=1e-5, err_msg=name)


def rows_of(g: Graph, n: int, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {v.name: rng.standard_normal([n if d == N else int(d) for d in v.shape]).astype(np.float32)  # type: ignore[call-overload]
            for v in g.inputs}


def test_what_is_claimed_of_random_graphs_holds() -> None:
    claimed = 0
    for seed in range(90):
        g = manager.run(RandomGraph(seed, steps=5, dynamic=True).g)
        if independent(g):
            claimed += 1
            agree(g, rows_of(g, REAL, seed), seed)
    assert claimed >= 25, "most of these graphs move or reduce the batch, but not all"


def test_a_network_of_convolutions_runs_images_one_by_one() -> None:
    g = manager.run(dynamic(LIGHT / "light_squeezenet.onnx"))
    assert independent(g) == ["n"]


def dynamic(path: Path) -> Graph:
    """A light model whose batch is symbolic."""
    model = onnx.load(path)
    constants = {t.name for t in model.graph.initializer}
    for v in (*(i for i in model.graph.input if i.name not in constants), *model.graph.output):
        v.type.tensor_type.shape.dim[0].dim_param = "n"
    del model.graph.value_info[:]
    return load_model(model, profiles=[{"n": (1, 4, 16)}])


def graph(*shapes: tuple[Any, ...], dtypes: tuple[DType, ...] = ()) -> tuple[Graph, list[Value]]:
    g = Graph("g")
    g.dims.update(n=(1, 4, 16), m=(1, 4, 16))
    for i, s in enumerate(shapes):
        g.inputs.append(Value(f"x{i}", dtypes[i] if dtypes else DType.F32, s))
    return g, g.inputs


def claims(g: Graph, *outputs: Value) -> list[str]:
    g.outputs, g.output_names = list(outputs), [f"y{i}" for i in range(len(outputs))]
    return independent(manager.run(g))


def weights(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def block(g: Graph, x: Value, width: int, heads: int = 2) -> Value:
    """Self-attention as a transformer has it."""
    seq = x.shape[1]

    def project(v: Value) -> Value:
        return g.add("matmul", [v, g.const(weights(width, width))])

    def split(v: Value) -> Value:
        v = g.add("reshape", [v], {"shape": (*v.shape[:2], heads, width // heads)})
        return g.add("transpose", [v], {"perm": (0, 2, 1, 3)})

    q, k, v = (split(project(x)) for _ in range(3))
    y = g.add("attention", [q, k, v], {"scale": 0.5})
    y = g.add("transpose", [y], {"perm": (0, 2, 1, 3)})
    y = g.add("reshape", [y], {"shape": (x.shape[0], seq, width)})
    y = g.add("add", [x, project(y)])
    return g.add("layernorm", [y, g.const(weights(width)), g.const(weights(width))], {"axis": 2, "epsilon": 1e-5})


def test_the_batch_of_a_transformer_is_independent_and_its_sequence_is_not() -> None:
    g, (x,) = graph((N, M, 8))
    assert claims(g, block(g, x, 8)) == ["n"]
    g, (x,) = graph((N, 5, 8))
    y = block(g, x, 8)
    g.outputs, g.output_names = [g.add("reshape", [y], {"shape": (N * 5, 8)})], ["y"]
    made = manager.run(g)
    assert independent(made) == ["n"]
    rng = np.random.default_rng(2)
    real = weights(REAL, 5, 8)
    with np.errstate(all="ignore"):
        want, got = (interpret(made, {"x0": x})["y"] for x in (real, padded(real, rng)))
    np.testing.assert_allclose(got[: REAL * 5], want, rtol=1e-4, atol=1e-5)
    g, (x,) = graph((1, M, 8))
    assert claims(g, block(g, x, 8)) == []


def test_embeddings_masks_and_positions_are_looked_up_row_by_row() -> None:
    g, (ids, x) = graph((N, 6), (N, 6, 4), dtypes=(DType.I64, DType.F32))
    e = g.add("gather", [g.const(weights(10, 4)), ids], {"axis": 0})
    y = g.add("add", [g.add("mul", [e, x]), g.const(weights(6, 4))])
    count = g.add("iota", [], {"start": 0, "step": 1, "size": N, "dtype": DType.F32})
    y = g.add("mul", [y, g.add("reshape", [count], {"shape": (N, 1, 1)})])
    top = g.add_node("topk", [y], {"k": 2, "axis": 2})
    g.outputs, g.output_names = list(top.outputs), ["values", "places"]
    made = manager.run(g)
    assert independent(made) == ["n"]
    rng = np.random.default_rng(1)
    agree(made, {"x0": rng.integers(0, 10, (REAL, 6)), "x1": weights(REAL, 6, 4)})


def test_movement_inside_rows_keeps_them_apart() -> None:
    g, (x, i, j) = graph((N, 3, 4), (N, 3, 2), (N, 5, 1), dtypes=(DType.F32, DType.I64, DType.I64))
    wide = g.add("resize", [x], {"shape": (N, 6, 4), "scales": (None, 2.0, None), "mode": "linear"})
    wide = g.add("pad", [wide], {"pads": (0, 1, 0, 0, 1, 0), "mode": "edge", "value": 0.0})
    some = g.add("gather_elements", [x, i], {"axis": 2})
    rows = g.add("gather_nd", [x, j], {"batch_dims": 1})
    y = g.add("concat", [g.add("slice", [wide], {"starts": (0, 1, 0), "sizes": (N, 3, 4), "steps": (1, 2, 1)}), some],
              {"axis": 2})
    y = g.add("cumsum", [y], {"axis": 1})
    first = g.add("reshape", [g.add("transpose", [y], {"perm": (0, 2, 1)})], {"shape": (N, 18)})
    g.outputs, g.output_names = [first, rows], ["first", "rows"]
    made = manager.run(g)
    assert independent(made) == ["n"]
    rng = np.random.default_rng(3)
    agree(made, {"x0": weights(REAL, 3, 4), "x1": rng.integers(0, 4, (REAL, 3, 2)),
                 "x2": rng.integers(0, 3, (REAL, 5, 1))})


def test_two_dimensions_of_their_own_are_both_independent() -> None:
    g, (x, y) = graph((N, 4), (M, 4))
    assert claims(g, g.add("relu", [x]), g.add("softmax", [y], {"axis": 1, "log": False})) == ["m", "n"]


REFUSED = {
    "a mean over the batch": lambda g, x: g.add("sub", [x, g.add(
        "reduce", [x], {"kind": "mean", "axes": (0,), "keepdims": True})]),
    "a softmax along it": lambda g, x: g.add("softmax", [x], {"axis": 0, "log": False}),
    "a running sum along it": lambda g, x: g.add("cumsum", [x], {"axis": 0}),
    "the largest of it": lambda g, x: g.add_node("topk", [x], {"k": 1, "axis": 0}).outputs[0],
    "a contraction": lambda g, x: g.add("matmul", [g.add("transpose", [x], {"perm": (1, 0)}), x]),
    "rows with rows": lambda g, x: g.add("matmul", [x, g.add("transpose", [x], {"perm": (1, 0)})]),
    "rows picked from it": lambda g, x: g.add("gather", [x, g.const(np.array([0, 0]))], {"axis": 0}),
    "its size as a number": lambda g, x: g.add("mul", [x, g.add("cast", [g.add(
        "dims", [], {"values": (N,), "shape": ()})], {"to": DType.F32})]),
    "a part of it": lambda g, x: g.add("slice", [x], {"starts": (1, 0), "sizes": (N - 1, 4), "steps": (1, 1)}),
    "its end first": lambda g, x: g.add("slice", [x], {"starts": (N - 1, 0), "sizes": (N, 4), "steps": (-1, 1)}),
    "more behind it": lambda g, x: g.add("concat", [x, x], {"axis": 0}),
    "rows around it": lambda g, x: g.add("pad", [x], {"pads": (1, 0, 0, 0), "mode": "constant", "value": 0.0}),
    "a transposed output": lambda g, x: g.add("transpose", [x], {"perm": (1, 0)}),
    "folded inside": lambda g, x: g.add("reshape", [g.add("transpose", [x], {"perm": (1, 0)})], {"shape": (4 * N,)}),
    "normalized over all": lambda g, x: g.add("layernorm", [x, g.add("expand", [g.const(weights(1, 4))], {
        "shape": (N, 4)})], {"axis": 0, "epsilon": 1e-5}),
    "scattered": lambda g, x: g.add("scatter_elements", [x, g.const(np.array([[0]])), g.const(weights(1, 1))],
                                    {"axis": 0}),
    "windows along it": lambda g, x: g.add("pool", [g.add("reshape", [x], {"shape": (1, 4, N)})], {
        "kind": "max", "kernel": (1,), "strides": (1,), "dilations": (1,), "pads": (0, 0), "channels_last": False}),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_couples_elements_is_refused(what: str) -> None:
    g, (x,) = graph((N, 4))
    assert claims(g, REFUSED[what](g, x)) == []


def test_checks_and_learnt_sizes_refuse() -> None:
    g, (x,) = graph((N, 4))
    g.checks.append(Check(N, 16, "somebody", True))
    assert claims(g, g.add("relu", [x])) == []
    g, (x, count) = graph((N, 4), (1,), dtypes=(DType.F32, DType.I64))
    g.sizes["m"] = Size(count, 0, False)
    y = g.add("expand", [g.const(weights(1))], {"shape": (M,)})
    assert claims(g, g.add("relu", [x]), y) == []


def test_a_dimension_of_one_size_is_no_dimension() -> None:
    g, (x,) = graph((N, 4))
    g.dims["n"] = (4, 4, 4)
    assert claims(g, g.add("relu", [x])) == []
