"""The bundled networks of the onnx package come out as one would write them by hand: no batch norms or biases left
over, transposes at the input (and the channel shuffles), pointwise regions only where a concat is in the way."""

from pathlib import Path

import onnx
import pytest
from building import ops

from whet.frontends import load_model
from whet.passes import manager

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"

EXPECTED = {  # name: (convolutions, transposes, pointwise regions, concats)
    "bvlc_alexnet": (5, 1, 0, 0), "densenet121": (121, 1, 61, 58), "inception_v1": (57, 1, 0, 9),
    "resnet50": (53, 1, 0, 0), "shufflenet": (49, 17, 0, 3), "squeezenet": (26, 1, 0, 8), "vgg19": (16, 1, 0, 0),
    "zfnet512": (5, 1, 0, 0),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_light_model(name: str) -> None:
    found = ops(manager.run(load_model(LIGHT / f"light_{name}.onnx"), verify=True))
    assert (found["conv"], found["transpose"], found["pointwise"], found["concat"]) == EXPECTED[name]
    assert found["lrn"] <= 2
    assert set(found) <= {"conv", "transpose", "pointwise", "concat", "pool", "reduce", "reshape", "matmul", "softmax",
                          "lrn"}
