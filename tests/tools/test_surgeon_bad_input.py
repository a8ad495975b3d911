"""Damaged models end in a typed error, or in a model, whatever is done with them."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable

import numpy as np
import pytest
from onnx import helper

from tools.detector import detector
from tools.surgery import model, network, tensor
from whet.errors import GraphError, ModelFileError, WhetError
from whet.tools import surgeon
from whet.tools.surgeon import OnnxModel

DEEDS: dict[str, Callable[[OnnxModel], object]] = {
    "sanitize": surgeon.sanitize, "preprocess": surgeon.preprocess, "detect": surgeon.detect,
    "extract": lambda m: surgeon.extract(m, [o.name for o in m.proto.graph.output]),
    "prune": lambda m: surgeon.prune(m, outputs=[o.name for o in m.proto.graph.output][1:]),
    "write": lambda m: (m.to_bytes(), m.to_proto()),
}


@pytest.mark.parametrize("deed", DEEDS)
def test_damage_is_told(deed: str) -> None:
    seeds = [network(np.random.default_rng(0)).SerializeToString(), detector().SerializeToString()]
    rng = random.Random(deed)
    for _ in range(80):
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.choice([1, 2, 4])):
            at = rng.choice([rng.randrange(600), len(data) - 1 - rng.randrange(600)])
            if rng.random() < 0.7:
                data[at] = rng.randrange(256)
            else:
                del data[at: at + rng.randrange(1, 4)]
        with contextlib.suppress(WhetError):
            DEEDS[deed](OnnxModel.open(bytes(data)))


def test_a_file_that_is_no_model_and_types_that_contradict_are_told() -> None:
    with pytest.raises(ModelFileError, match="not an ONNX model"):
        OnnxModel.open(b"not a model at all")
    add = model([helper.make_node("Add", ["x", "w"], ["y"])], [tensor("x", [2, 4])], [tensor("y", [2, 4])],
                {"w": np.ones((2, 4), np.float32)})
    with pytest.raises(GraphError, match="cannot have these shapes"):
        surgeon.set_shapes(OnnxModel.open(add), {"x": (5, 5)})
    odd = model([helper.make_node("Add", ["x", "w"], ["y"])], [tensor("x", [2])], [tensor("y", [2])])
    odd.graph.initializer.add(name="w", data_type=71, dims=[2])
    with pytest.raises(GraphError, match="does not fit it"):
        surgeon.sanitize(OnnxModel.open(odd))
