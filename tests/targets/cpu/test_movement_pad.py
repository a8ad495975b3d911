"""Padding: every mode, cropping, every type and size."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from harness import strided
from movement_cases import BYTES, ISAS, check, movement, run, values

from whet.ir.dtypes import DType
from whet.ir.region import Tensor
from whet.ir.symbolic import symbol
from whet.targets.cpu.isa import host

F = DType.F32
MODES = ["constant", "reflect", "edge", "wrap"]


def pad(x: Tensor, pads: tuple[int, ...], isa: Any, mode: str = "constant", value: Any = 0, **more: Any) -> None:
    r = movement("pad", [x], {"pads": pads, "mode": mode, "value": value}, **more)
    check(r, isa, [values(x.dtype, x.shape)])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("d", BYTES)
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_and_type(mode: str, d: DType, isa: Any) -> None:
    pad(Tensor.dense(d, (5, 7, 9)), (1, 0, 2, 0, 3, 4), isa, mode, 3)
    pad(Tensor.dense(d, (2, 3, 40)), (0, 2, 0, 0, 1, 0), isa, mode, 3)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("shape", "pads"), [
    ((), ()), ((1,), (3, 2)), ((4,), (7, 9)), ((4, 5), (-1, 2, 1, -2)), ((4, 5), (-2, -1, 3, 5)),
    ((6, 3), (-3, 0, -2, 0)), ((2, 1, 3), (0, 2, 0, 0, 1, 0)), ((40, 1000), (2, 3, 1, 5)), ((300, 300), (1, 1, 1, 1)),
    ((0, 4), (0, 1, 0, 1)), ((4, 5), (0, 0, 0, 0)), ((30001,), (9, 8))])
def test_shapes_and_crops(shape: tuple[int, ...], pads: tuple[int, ...], mode: str, isa: Any) -> None:
    pad(Tensor.dense(F, shape), pads, isa, mode, -1.5)


@pytest.mark.parametrize("isa", ISAS)
def test_images_grow_by_their_border(isa: Any) -> None:
    pad(Tensor.dense(F, (2, 9, 11, 16)), (0, 1, 2, 0, 0, 3, 1, 0), isa, "constant", -math.inf)
    pad(Tensor.dense(F, (2, 9, 11, 16)), (0, 1, 2, 0, 0, 3, 1, 0), isa, "reflect")
    pad(Tensor.dense(F, (2, 16, 9, 11)), (0, 0, 1, 2, 0, 0, 3, 1), isa, "constant", math.nan)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("mode", MODES)
def test_strided_data_and_results(mode: str, isa: Any) -> None:
    pad(strided(F, (3, 5), 4), (1, 2, 0, 1), isa, mode)
    pad(Tensor(F, (3, 5), (1, 3)), (1, 2, 0, 1), isa, mode)
    pad(Tensor.dense(F, (3, 5)), (1, 2, 0, 1), isa, mode, output=strided(F, (4, 8), 9))


def test_nothing_outside_is_there_to_be_reflected() -> None:
    n = symbol("n")
    for mode in MODES[1:]:
        r = movement("pad", [Tensor.dense(F, (n, 4))], {"pads": (1, 0, 1, 0), "mode": mode}, dims={"n": (0, 1, 8)})
        run(r, host(), [np.zeros((0, 4), np.float32)], {"n": 0})


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("mode", MODES)
def test_symbolic_sizes_and_pads(mode: str, isa: Any) -> None:
    b, s, p = symbol("b"), symbol("s"), symbol("p")
    dims = {"b": (0, 2, 9), "s": (1, 16, 300), "p": (0, 1, 5)}
    x = Tensor.dense(F, (b, s, 8))
    outer = movement("pad", [x], {"pads": (0, 1, 0, 0, p, 0), "mode": mode, "value": 2}, dims=dims)
    inner = movement("pad", [Tensor.dense(F, (b, 3, s))], {"pads": (0, 0, p, 0, 1, 2 - p), "mode": mode}, dims=dims)
    for env in ({"b": 1, "s": 1, "p": 0}, {"b": 0, "s": 9, "p": 1}, {"b": 3, "s": 37, "p": 2}):
        check(outer, isa, [values(F, (env["b"], env["s"], 8))], env)
        check(inner, isa, [values(F, (env["b"], 3, env["s"]))], env)
