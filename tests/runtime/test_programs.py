"""Programs: native segments, host steps and control flow over registers, and the dimensions they learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tiny_plans import BATCH, chain, expected

from whet.errors import PlanFormatError, ProfileError, WhetError
from whet.plan import Plan
from whet.plan.data import InputArg, IntArg, NativeStep, OutputArg, PlanData, WeightArg
from whet.plan.program import Block, Host, If, Learn, Loop, Native, Program, Segment, Tensor
from whet.runtime import load_data

ROWS = [BATCH, 5]
N: list[Any] = [[[1, ["n"]]], 5]


def model(op: str, inputs: list[str], **attributes: object) -> bytes:
    node = helper.make_node(op, inputs, ["out"], **attributes)
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in inputs]
    graph = helper.make_graph([node], op, values, [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]).SerializeToString()


def scaled(shape: list[Any]) -> Segment:
    """x -> x * 2 + w."""
    return Segment([Tensor("a", "float32", shape)], [Tensor("b", "float32", shape)], [shape[0][0][1][0]], 0,
                   ["scale"], 0, 1)


STEP = NativeStep("scale", (InputArg(0), WeightArg("w"), OutputArg(0), IntArg(5)), BATCH, 1, "scale")
STEP_N = NativeStep("scale", (InputArg(0), WeightArg("w"), OutputArg(0), IntArg(5)), N[0], 1, "scale")


def plan(blocks: list[Block], segments: list[Segment], *, steps: list[NativeStep] | None = None,
         inputs: list[Tensor] | None = None, outputs: list[Tensor] | None = None,
         dims: dict[str, tuple[int, int, int]] | None = None, **blobs: bytes) -> PlanData:
    data = chain([STEP] if steps is None else steps, blobs=blobs)
    data.programs = [Program(inputs or [Tensor("x", "float32", ROWS)], outputs or [Tensor("y", "float32", ROWS)],
                             {"batch": (0, 4, 64), **(dims or {})}, segments, blocks)]
    return data


def host(payload: str, inputs: list[int], outputs: list[int], shape: list[Any] = ROWS, **more: Any) -> Host:
    return Host(kind="onnx", payload=payload, label="layer 7", inputs=inputs, outputs=outputs,
                results=[Tensor("r", "float32", shape)] * len(outputs), **more)


def sample(rows: int) -> np.ndarray:
    return np.random.default_rng(rows).standard_normal((rows, 5), dtype=np.float32)


def test_a_plan_may_be_a_host_step_alone() -> None:
    block = Block(3, [0], [2], [host("add", [0, 1], [2])], [(1, "w")])
    with load_data(plan([block], [], add=model("Add", ["a", "b"]))) as e:
        for rows in (1, 64, 1):
            x = sample(rows)
            y = np.empty_like(x)
            assert np.array_equal(e({"x": x})["y"], x + np.arange(5, dtype=np.float32))
            assert e({"x": x}, out={"y": y})["y"] is y
            assert np.array_equal(y, x + np.arange(5, dtype=np.float32))
        run = e.context().runner([x], [y])
        x[:] = 7
        run()
        assert np.array_equal(y, x + np.arange(5, dtype=np.float32))


def test_host_steps_run_between_native_ones() -> None:
    block = Block(4, [0], [3], [Native(segment=0, inputs=[0], outputs=[1]), host("neg", [1], [2], free=[1]),
                                Native(segment=0, inputs=[2], outputs=[3])])
    with load_data(plan([block], [scaled(ROWS)], neg=model("Neg", ["a"]))) as e:
        for rows in (1, 64, 3):
            x = sample(rows)
            assert np.array_equal(e({"x": x})["y"], expected(-expected(x, 1), 1))
        assert [t.label for t in e.context().timed({"x": x})[1]] == ["scale", "layer 7"]


def test_what_a_plan_returns_is_the_callers() -> None:
    """An output that is an input or a constant is a copy."""
    block = Block(2, [0], [0, 1], [], [(1, "w")])
    outputs = [Tensor("y", "float32", ROWS), Tensor("z", "float32", [5])]
    with load_data(plan([block], [], outputs=outputs)) as e:
        x = sample(3)
        for _ in range(2):
            got = e({"x": x})
            assert np.array_equal(got["y"], x)
            assert np.array_equal(got["z"], np.arange(5, dtype=np.float32))
            assert not np.shares_memory(got["y"], x)
            got["z"][:] = 9


def test_a_size_that_data_tells_is_learnt_before_what_uses_it() -> None:
    """Compress on the host gives n rows, which the segment after it is bound to."""
    compress = model("Compress", ["a", "c"], axis=0)
    m = onnx.load_from_string(compress)
    m.graph.input[1].type.tensor_type.elem_type = TensorProto.BOOL
    block = Block(4, [0, 1], [3], [host("c", [0, 1], [2], N, learn=[Learn("n", 2, 0, True)]),
                                   Native(segment=0, inputs=[2], outputs=[3])])
    inputs = [Tensor("x", "float32", ROWS), Tensor("keep", "bool", [BATCH])]
    data = plan([block], [scaled(N)], steps=[STEP_N], inputs=inputs, outputs=[Tensor("y", "float32", N)],
                dims={"n": (0, 1, 8)}, c=m.SerializeToString())
    with load_data(data) as e:
        assert e.profile == {"batch": (0, 4, 64)}
        for rows, kept in ((5, 2), (9, 8), (9, 0), (0, 0), (5, 5)):
            x, keep = sample(rows), np.arange(rows) < kept
            assert np.array_equal(e({"x": x, "keep": keep})["y"], expected(x[keep], 1))
        with pytest.raises(ProfileError, match="n is 9") as error:
            e({"x": sample(12), "keep": np.arange(12) < 9})
        assert "0 to 8" in error.value.why
        assert error.value.where == "layer 7"


def test_a_size_may_be_an_element_of_an_input() -> None:
    slice_ = model("Slice", ["a", "zero", "n"])
    m = onnx.load_from_string(slice_)
    for i in (1, 2):
        m.graph.input[i].type.tensor_type.elem_type = TensorProto.INT64
    block = Block(5, [0, 1], [4], [host("s", [0, 2, 1], [3], N), Native(segment=0, inputs=[3], outputs=[4])],
                  [(2, "zero")], [Learn("n", 1, 0)])
    inputs = [Tensor("x", "float32", ROWS), Tensor("count", "int64", [1])]
    data = plan([block], [scaled(N)], steps=[STEP_N], inputs=inputs, outputs=[Tensor("y", "float32", N)],
                dims={"n": (0, 1, 8)}, s=m.SerializeToString())
    data.weights = {**data.weights, "zero": np.zeros(1, np.int64)}
    with load_data(data) as e:
        x = sample(10)
        for n in (3, 8, 0):
            assert np.array_equal(e({"x": x, "count": np.array([n])})["y"], expected(x[:n], 1))


def test_if_runs_one_branch() -> None:
    branches = [Block(2, [0], [1], [Native(segment=0, inputs=[0], outputs=[1])]),
                Block(2, [0], [1], [host("neg", [0], [1])])]
    main = Block(3, [0, 1], [2], [If(label="choice", condition=1, captures=[0], then=1, other=2, outputs=[2])])
    inputs = [Tensor("x", "float32", ROWS), Tensor("c", "bool", [])]
    with load_data(plan([main, *branches], [scaled(ROWS)], inputs=inputs, neg=model("Neg", ["a"]))) as e:
        x = sample(3)
        assert np.array_equal(e({"x": x, "c": np.array(True)})["y"], expected(x, 1))
        assert np.array_equal(e({"x": x, "c": np.array(False)})["y"], -x)
        assert e.plan.summary()["steps"]["reference"] == 1


def loop_plan() -> PlanData:
    """x = x * 2 + w, `count` times; every x is kept."""
    body = Block(4, [0, 1, 2], [1, 3, 3], [Native(segment=0, inputs=[2], outputs=[3])])
    loop = Loop(label="loop", count=1, condition=None, states=[0], sliced=[], captures=[], scans=[],
                stacks=[(0, False)], body=1, outputs=[2, 3],
                results=[Tensor("y", "float32", ROWS), Tensor("all", "float32", [N[0], *ROWS])],
                learn=[Learn("n", 3, 0, True)])
    inputs = [Tensor("x", "float32", ROWS), Tensor("count", "int64", [])]
    outputs = [Tensor("y", "float32", ROWS), Tensor("all", "float32", [N[0], *ROWS])]
    return plan([Block(4, [0, 1], [2, 3], [loop]), body], [scaled(ROWS)], inputs=inputs, outputs=outputs,
                dims={"n": (0, 1, 1 << 20)})


def test_loop_carries_states_and_stacks_slices() -> None:
    with load_data(loop_plan()) as e:
        x = sample(3)
        for count in (0, 1, 5):
            got = e({"x": x, "count": np.array(count)})
            assert np.array_equal(got["y"], expected(x, count))
            assert got["all"].shape == (count, 3, 5)
            for i, y in enumerate(got["all"]):
                assert np.array_equal(y, expected(x, i + 1))


def test_loop_over_slices_may_run_backwards() -> None:
    body = Block(4, [0, 1, 2, 3], [1, 3], [])
    loop = Loop(label="loop", count=None, condition=None, states=[], sliced=[0, 0], captures=[],
                scans=[(0, True), (0, False)], stacks=[(1, True)], body=1, outputs=[1],
                results=[Tensor("y", "float32", [5, BATCH])])
    data = plan([Block(2, [0], [1], [loop]), body], [], outputs=[Tensor("y", "float32", [5, BATCH])])
    with load_data(data) as e:
        x = sample(3)
        assert np.array_equal(e({"x": x})["y"], x[::-1].T)


@pytest.mark.parametrize(("kind", "payload", "error", "says"), [
    ("onnx", model("Transpose", ["a"]), WhetError, "another shape"),
    ("onnx", model("Concat", ["a"], axis=7), WhetError, "failed"),
    ("onnx", b"\xff\xff not a model", PlanFormatError, "set up"),
    ("strings", b"[1, 2", PlanFormatError, "damaged"),
    ("strings", b'{"shape": [2], "values": ["a"]}', PlanFormatError, "damaged"),
    ("nobody's", b"", PlanFormatError, "unknown kind"),
])
def test_what_goes_wrong_is_told_with_the_layer(kind: str, payload: bytes, error: type[WhetError], says: str) -> None:
    step = Host(kind=kind, payload="p", label="layer 7", inputs=[0], outputs=[1],
                results=[Tensor("y", "float32", ROWS)])
    with pytest.raises(error, match=says) as e:
        with load_data(plan([Block(2, [0], [1], [step])], [], p=payload)) as engine:
            engine({"x": np.zeros((3, 5), np.float32)})
    assert e.value.where == "layer 7"


def test_results_that_do_not_fit_the_segment_after_them_are_refused() -> None:
    """The host gives one row per row, but says that there are n: nothing native runs."""
    block = Block(3, [0], [2], [host("t", [0], [1], N, learn=[Learn("n", 1, 1, True)]),
                                Native(segment=0, inputs=[1], outputs=[2])])
    data = plan([block], [scaled(N)], steps=[STEP_N], outputs=[Tensor("y", "float32", N)], dims={"n": (0, 1, 64)},
                t=model("Identity", ["a"]))
    with load_data(data) as e, pytest.raises(WhetError, match="shape"):
        e({"x": sample(3)})


NATIVE = Native(segment=0, inputs=[0], outputs=[1])
IF = If(label="c", condition=0, captures=[0], then=1, other=2, outputs=[1])
BODY = Block(1, [0], [0], [])


@pytest.mark.parametrize("blocks", [
    [Block(2, [0], [1], [])],  # an output that nobody writes
    [Block(1, [0], [1], [NATIVE])],  # a register too few
    [Block(2, [0], [1], [Native(segment=1, inputs=[0], outputs=[1])])],
    [Block(2, [0], [1], [Native(segment=0, inputs=[1], outputs=[1])])],
    [Block(2, [0], [1], [Native(segment=0, inputs=[0, 0], outputs=[1])])],
    [Block(2, [0], [1], [Native(segment=0, inputs=[0], outputs=[1], free=[1])])],
    [Block(2, [0], [1], [NATIVE], [(5, "w")])],
    [Block(2, [0], [1], [NATIVE], [(1, "nowhere")])],
    [Block(2, [0], [1], [NATIVE], [], [Learn("nobody", 0, 0)])],
    [Block(-1, [0], [1], [NATIVE])],
    [Block(2, [0], [1], [IF])],  # no bodies
    [Block(2, [0], [1], [IF]), BODY],
    [Block(2, [0], [1], [IF]), BODY, Block(2, [0, 1], [0], [])],
    [Block(2, [0], [1], [If(label="c", condition=0, captures=[0], then=1, other=1, outputs=[1])]), BODY],
    [Block(2, [0], [1], [If(label="c", condition=0, captures=[0], then=0, other=1, outputs=[1])]), BODY],
    [Block(2, [0], [1], [Host(kind="onnx", payload="none", label="", inputs=[0], outputs=[1], results=[])])],
    [],
])
def test_a_program_that_names_what_is_not_there_is_refused(blocks: list[Block]) -> None:
    with pytest.raises(PlanFormatError):
        Plan.from_data(plan(blocks, [scaled(ROWS)]))
