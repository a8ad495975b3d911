"""The light models of the `onnx` package, refilled with random weights of unit order.

The package bundles nine image classifiers whose large weights are all the constant 0.02 (made by
`ConstantOfShape`), so their bundled outputs are nearly uniform. `refill` draws the weights anew and scales
them so that a wrong kernel shows in the output.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from benchmarks.models import random_images
from whet.errors import MissingExtraError

FOLDER = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
LIGHT_MODELS = tuple(sorted(p.stem for p in FOLDER.glob("light_*.onnx")))


def light_path(name: str) -> Path:
    """Path of one of `LIGHT_MODELS`; its expected outputs lie beside it in `<name>_output_0.pb`."""
    return FOLDER / f"{name}.onnx"


def light_input(name: str, seed: int = 0) -> dict[str, np.ndarray]:
    """A seeded random input of a light model, float32 [1, 3, 224, 224], by its name."""
    graph = onnx.load(light_path(name)).graph
    known = {i.name for i in graph.initializer}
    (data,) = [i.name for i in graph.input if i.name not in known]
    return {data: random_images(np.random.default_rng(seed), 1)}


def refill(name: str, seed: int = 0, hidden: int | None = None) -> ModelProto:
    """The light model `name` with seeded random weights in initializers instead of `ConstantOfShape`.

    Nodes are run in order on a random image; each constant is drawn when its first reader is reached.
    Convolutions and Gemm get weights so that their output has a standard deviation of one; batch-norm
    statistics are those of the batch; scales lie in [0.5, 1.5], shifts around one before a rectifier.

    hidden: the most outputs of a Gemm before the last (nine tenths of a model's weights may be theirs).
    """
    model = onnx.load(light_path(name))
    last = [node.output[0] for node in model.graph.node if node.op_type == "Gemm"][-1:]
    rng = np.random.default_rng(seed)
    values = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    weights = {k for k, v in values.items() if v.dtype == np.float32}
    values.update(light_input(name, seed + 1))
    kept: list[NodeProto] = []
    drawn: dict[str, np.ndarray] = {}
    source: dict[str, str] = {}  # reshaped constant -> the constant itself

    def draw(value: str, array: np.ndarray) -> None:
        if value in source:
            draw(source[value], array.reshape(values[source[value]].shape))
            values[value] = array.astype(np.float32)
        elif value in weights:
            values[value] = drawn[value] = array.astype(np.float32)

    for node in model.graph.node:
        if node.op_type == "ConstantOfShape":
            shape = values[node.input[0]]
            values[node.output[0]] = np.zeros(shape, np.float32)
            weights.add(node.output[0])
            continue
        kept.append(node)
        if node.op_type in ("Unsqueeze", "Reshape") and node.input[0] in weights:
            source[node.output[0]] = node.input[0]
        if node.op_type == "Gemm" and hidden is not None:
            outputs = len(values[node.input[2]])
            outputs = outputs if node.output[0] in last else min(outputs, hidden)
            values[node.input[1]] = np.zeros((outputs, values[node.input[0]].shape[1]), np.float32)
            values[node.input[2]] = np.zeros(outputs, np.float32)
        inputs = [values.get(i, np.empty(0)) for i in node.input]
        if node.op_type in ("Conv", "Gemm"):
            draw(node.input[1], rng.standard_normal(inputs[1].shape) / np.sqrt(inputs[1][0].size))
            if len(node.input) > 2:
                draw(node.input[2], np.zeros(inputs[2].shape))
            scale = 1 / max(float(_evaluate(node, values, model)[0].std()), 1e-20)
            draw(node.input[1], values[node.input[1]] * scale)
            if len(node.input) > 2:
                draw(node.input[2], 0.1 * rng.standard_normal(inputs[2].shape))
        elif node.op_type == "BatchNormalization":
            x = np.moveaxis(inputs[0], 1, 0).reshape(inputs[0].shape[1], -1)
            shape = inputs[1].shape
            for i, array in ((1, rng.uniform(0.5, 1.5, shape)), (2, rng.normal(1, 0.2, shape)),
                             (3, x.mean(1)), (4, x.var(1) + 1e-3)):
                draw(node.input[i], array)
        elif node.op_type in ("Mul", "Add") and node.input[1] in source:
            shape = inputs[1].shape
            draw(node.input[1], rng.uniform(0.5, 1.5, shape) if node.op_type == "Mul" else rng.normal(0, 0.2, shape))
        for output, array in zip(node.output, _evaluate(node, values, model)):
            values[output] = array

    initializers = [i for i in model.graph.initializer if i.name not in drawn and not i.name.endswith("__SHAPE")]
    initializers += [numpy_helper.from_array(array, key) for key, array in drawn.items()]
    present = {i.name for i in initializers} - drawn.keys()
    inputs_kept = [i for i in model.graph.input if i.name in present or not any(
        i.name == j.name for j in model.graph.initializer)]
    inputs_kept += [helper.make_tensor_value_info(k, TensorProto.FLOAT, v.shape)  # IR version 3 wants them as inputs
                    for k, v in drawn.items()]
    graph = helper.make_graph(kept, model.graph.name, inputs_kept, list(model.graph.output), initializers)
    refilled = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    onnx.checker.check_model(refilled)
    return refilled


def _evaluate(node: NodeProto, values: dict[str, np.ndarray], model: ModelProto) -> list[np.ndarray]:
    """The outputs of one node, by ONNX Runtime."""
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError.for_package("onnxruntime", "onnxruntime", "refilling the light models") from error
    names = list(dict.fromkeys(i for i in node.input if i))
    inputs = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(values[n].dtype), values[n].shape)
              for n in names]
    outputs = [helper.make_empty_tensor_value_info(o) for o in node.output if o]
    graph = helper.make_graph([node], "node", inputs, outputs)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        helper.make_model(graph, opset_imports=model.opset_import, ir_version=8).SerializeToString(),
        options, providers=["CPUExecutionProvider"])
    return list(session.run(None, {n: values[n] for n in names}))
