"""What the fuzzer starts from: ONNX's own test models, small models of every part of whet, and plans built of them."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

sys.path.append(str(Path(__file__).parents[1] / "frontends"))

import whet
from whet import demo
from whet.errors import WhetError

F32, I64, BOOL, STRING = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL, TensorProto.STRING
LARGEST = 40_000  # bytes of a model: larger ones are mostly weights
node = helper.make_node


def _model(nodes: list[NodeProto], inputs: dict[str, tuple[int, list[object]]], outputs: dict[str, int],
           **weights: object) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info(n, *t) for n, t in inputs.items()],
                              [helper.make_tensor_value_info(n, t, None) for n, t in outputs.items()],
                              [numpy_helper.from_array(np.asarray(v), k) for k, v in weights.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def own() -> Iterator[tuple[str, onnx.ModelProto]]:
    """Small models; each is also built, and its plan is mutated."""
    from random_control_flow import Model
    from test_inline import Random

    rng = np.random.default_rng(0)
    w = rng.standard_normal((8, 8)).astype(np.float32)
    x = {"x": (F32, ["n", 8])}
    yield "demo", onnx.load_from_string(demo.model_bytes())
    yield "mlp", _model([node("MatMul", ["x", "w"], ["h"]), node("Relu", ["h"], ["r"]),
                         node("MatMul", ["r", "w"], ["s"]), node("Softmax", ["s"], ["y"])], x, {"y": F32}, w=w)
    k = rng.standard_normal((4, 3, 3, 3)).astype(np.float32)
    yield "conv", _model([node("Conv", ["x", "k"], ["h"], pads=[1, 1, 1, 1]),
                          node("MaxPool", ["h"], ["p"], kernel_shape=[2, 2]), node("GlobalAveragePool", ["p"], ["y"])],
                         {"x": (F32, ["n", 3, 9, 9])}, {"y": F32}, k=k)
    yield "sizes", _model([
        node("Shape", ["x"], ["s"]), node("ConstantOfShape", ["s"], ["z"]), node("Add", ["x", "z"], ["a"]),
        node("Expand", ["a", "e"], ["b"]), node("Tile", ["b", "t"], ["c"]), node("Pad", ["c", "p"], ["y"])], x,
        {"y": F32}, e=[3, 1, 8], t=[1, 2, 1], p=[0, 1, 0, 0, 0, 2])
    yield "computed sizes", _model([
        node("ConstantOfShape", ["s"], ["z"]), node("NonZero", ["x"], ["i"]), node("Range", ["o", "n", "o"], ["r"]),
        node("Expand", ["f", "s"], ["e"]), node("Shape", ["i"], ["j"])],
        {"x": (F32, ["m", 8]), "s": (I64, [2]), "n": (I64, [])}, {"z": F32, "i": I64, "r": I64, "e": F32, "j": I64},
        o=np.asarray(1), f=np.ones((1, 1), np.float32))
    yield "resize", _model([node("Resize", ["x", "", "s"], ["y"], mode="linear")], {"x": (F32, ["n", 2, 5, 6])},
                           {"y": F32}, s=np.asarray([1, 1, 2, 1.5], np.float32))
    yield "chosen", _model([node("Gather", ["x", "i"], ["g"], axis=1), node("TopK", ["g", "k"], ["y", "j"]),
                            node("Slice", ["x", "a", "b"], ["z"])], {**x, "i": (I64, [3])},
                           {"y": F32, "j": I64, "z": F32}, k=[2], a=[0, 1], b=[1 << 40, -1])
    yield "normal", _model([node("LayerNormalization", ["x", "v", "v"], ["h"]), node("ReduceMean", ["h"], ["y"])], x,
                           {"y": F32}, v=np.ones(8, np.float32))
    yield "lstm", _model([node("LSTM", ["x", "w", "r"], ["", "y"], hidden_size=4)], {"x": (F32, [5, 1, 8])}, {"y": F32},
                         w=w.reshape(1, 8, 8).repeat(2, 1), r=w[:, :4].reshape(1, 8, 4).repeat(2, 1))
    yield "bytes", _model([node("QuantizeLinear", ["x", "s", "z"], ["q"]), node("MatMulInteger", ["q", "w"], ["y"])], x,
                          {"y": TensorProto.INT32}, s=np.float32(0.1), z=np.uint8(3),
                          w=rng.integers(0, 9, (8, 4), np.uint8))
    yield "words", _model([node("StringNormalizer", ["x"], ["y"], case_change_action="LOWER")], {"x": (STRING, [3])},
                          {"y": STRING})
    for seed in range(6):
        yield f"control{seed}", Model(seed).model
    for seed in range(6):
        yield f"functions{seed}", Random(seed).model


def write(folder: Path, small: bool) -> None:
    """Write the corpus: `models/*.onnx` and `plans/*.plan` (with their models' names). `small`: own models alone."""
    import os

    os.environ["WHET_CACHE"] = str(folder / "cache")
    (folder / "models").mkdir(parents=True)
    (folder / "plans").mkdir()
    for name, m in own():
        (folder / "models" / f"own-{name}.onnx").write_bytes(m.SerializeToString())
        try:
            whet.build(m, opt_level=0, threads=1).save(folder / "plans" / f"{name}.plan")
        except WhetError as e:
            raise SystemExit(f"{name} cannot be built: {e}") from e
    if small:
        return
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for case in collect_testcases(None):
            if case.model is not None and case.model.ByteSize() < LARGEST:
                (folder / "models" / f"{case.name}.onnx").write_bytes(case.model.SerializeToString())


if __name__ == "__main__":
    write(Path(sys.argv[1]), "--small" in sys.argv)
