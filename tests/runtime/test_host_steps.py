"""Host steps: they read and write inputs, outputs, arena and weights, and fail with the layer's name."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tiny_plans import BATCH, chain, expected

from whet.errors import PlanFormatError, WhetError
from whet.plan.data import (
    ArenaArg,
    HostStep,
    HostTensor,
    InputArg,
    IntArg,
    NativeStep,
    OutputArg,
    Place,
    PlanData,
    WeightArg,
)
from whet.runtime import load_data


def model(op: str, inputs: list[str], **attributes: object) -> bytes:
    node = helper.make_node(op, inputs, ["out"], **attributes)
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in inputs]
    graph = helper.make_graph([node], op, values, [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]).SerializeToString()


def tensor(place: Place, *shape: object) -> HostTensor:
    return HostTensor("float32", tuple(shape), place)  # type: ignore[arg-type]


def plan(steps: list[HostStep | NativeStep], **blobs: bytes) -> PlanData:
    data = chain(blobs=blobs)
    data.steps = steps
    return data


def test_a_plan_may_be_a_host_step_alone() -> None:
    step = HostStep("onnx", "add", (tensor(InputArg(0), BATCH, 5), tensor(WeightArg("w"), 5)),
                    (tensor(OutputArg(0), BATCH, 5),), "add")
    with load_data(plan([step], add=model("Add", ["a", "b"]))) as e:
        for rows in (1, 64, 1):
            x = np.random.default_rng(rows).standard_normal((rows, 5), dtype=np.float32)
            y = np.empty_like(x)
            assert np.array_equal(e({"x": x})["y"], x + np.arange(5, dtype=np.float32))
            e({"x": x}, out={"y": y})
            assert np.array_equal(y, x + np.arange(5, dtype=np.float32))
        run = e.context().runner([x], [y])
        x[:] = 7
        run()
        assert np.array_equal(y, x + np.arange(5, dtype=np.float32))


def test_offsets_may_depend_on_shapes() -> None:
    """The host step writes behind the first tensor, whose length is symbolic."""
    behind = ArenaArg([[20, ["batch"]]])
    w, n = WeightArg("w"), IntArg(5)
    steps = [NativeStep("scale", (InputArg(0), w, ArenaArg(0), n), BATCH),
             HostStep("onnx", "neg", (tensor(ArenaArg(0), BATCH, 5),), (tensor(behind, BATCH, 5),), "neg"),
             NativeStep("scale", (behind, w, OutputArg(0), n), BATCH)]
    with load_data(plan(steps, neg=model("Neg", ["a"]))) as e:
        for rows in (3, 64, 9):
            x = np.random.default_rng(rows).standard_normal((rows, 5), dtype=np.float32)
            assert np.array_equal(e({"x": x})["y"], expected(-expected(x, 1), 1))


@pytest.mark.parametrize(("kind", "payload", "error", "says"), [
    ("onnx", model("Transpose", ["a"]), WhetError, "another shape"),
    ("onnx", model("Concat", ["a"], axis=7), WhetError, "failed"),
    ("onnx", b"\xff\xff not a model", PlanFormatError, "set up"),
    ("plugin", b"", PlanFormatError, "unknown kind"),
])
def test_what_goes_wrong_is_told_with_the_layer(kind: str, payload: bytes, error: type[WhetError], says: str) -> None:
    step = HostStep(kind, "p", (tensor(InputArg(0), BATCH, 5),), (tensor(OutputArg(0), BATCH, 5),), "layer 7")
    with pytest.raises(error, match=says) as e:
        with load_data(plan([step], p=payload)) as engine:
            engine({"x": np.zeros((3, 5), np.float32)})
    assert e.value.where == "layer 7"


def test_a_host_tensor_outside_the_arena_is_refused() -> None:
    step = HostStep("onnx", "p", (tensor(ArenaArg(2560), BATCH, 5),), (tensor(OutputArg(0), BATCH, 5),), "p")
    with load_data(plan([step], p=model("Neg", ["a"]))) as engine:
        with pytest.raises(PlanFormatError, match="outside"):
            engine({"x": np.zeros((3, 5), np.float32)})


def test_host_operators_may_change_the_number_of_elements() -> None:
    step = HostStep("onnx", "p", (tensor(InputArg(0), BATCH, 5),), (tensor(OutputArg(0), BATCH, 1),), "p")
    data = plan([step], p=model("ReduceSum", ["a"]))
    data.outputs = [type(data.outputs[0])("y", "float32", (BATCH, 1))]
    m = onnx.load_from_string(data.blobs["p"])
    m.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1]), "axes"))
    m.graph.node[0].input.append("axes")
    data.blobs = {"p": m.SerializeToString()}
    with load_data(data) as e:
        x = np.arange(15, dtype=np.float32).reshape(3, 5)
        assert np.array_equal(e({"x": x})["y"], x.sum(1, keepdims=True))
