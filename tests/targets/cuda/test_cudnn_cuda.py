"""cuDNN: regions as operation graphs, and on the GPU every form of epilogue against float64."""

from __future__ import annotations

import dataclasses
import functools

import msgspec
import numpy as np
import pytest
from conv_regions import BF16, F16, F32, SM90, Chain, channels_first, check, conv, data, error
from interpreted import run
from on_device import compiled, gpu, needs_cuda
from on_device import run as run_on_device

from whet.errors import DeviceError
from whet.ir.dtypes import DType
from whet.ir.expr import ANCHOR, Apply, Expr, Leaf
from whet.ir.region import Region, Tensor
from whet.ir.symbolic import symbol
from whet.targets.base import Implementation, Out, Packed, Work
from whet.targets.cuda import cudnn_graph
from whet.targets.cuda.cudnn import CudnnConv, CudnnMatmul

TACTIC = CudnnConv()
CONV = functools.partial(conv, (2, 14, 13, 64), 72, (3, 3), pads=(1, 1, 1, 1), bias=True)
EPILOGUES = {
    "bias": lambda r: r,
    "bn, residual, relu": lambda r: Chain(r).per_channel("mul").per_channel("add").residual().unary("relu").done(),
    "residual read with gaps": lambda r: Chain(r).residual(gap=8).unary("relu").done(),
    "relu6": lambda r: Chain(r).number("max", 0.0).number("min", 6.0).done(),
    "silu": lambda r: Chain(r).unary("silu").done(),
    "sigmoid": lambda r: Chain(r).unary("sigmoid").done(),
    "gelu": lambda r: Chain(r).unary("gelu", approximate="none").done(),
    "gelu by tanh": lambda r: Chain(r).unary("gelu", approximate="tanh").done(),
    "hardswish": lambda r: Chain(r).unary("hardswish").done(),
    "f32 result": lambda r: Chain(r).per_channel("add").unary("relu").done(F32),
    "f16 bias": lambda r: Chain(r).per_channel("add", F16).unary("relu").done(),
}


def operations(region: Region) -> list[str]:
    return [n.op for n in TACTIC.graph(region, 0).description.nodes]


def test_a_region_is_one_graph():
    region = EPILOGUES["bn, residual, relu"](CONV())
    made = TACTIC.graph(region, 0)
    assert operations(region) == ["conv_fprop", "add", "mul", "add", "add", "relu"]
    assert made.description.tensors[0].dims == [2, 64, 14, 13]
    assert made.description.tensors[0].strides == [14 * 13 * 64, 1, 13 * 64, 64]
    assert made.description.tensors[2].dims == [1, 72, 1, 1]
    assert made.nodes.args[1] == Packed(0)
    assert msgspec.json.decode(msgspec.json.encode(made.description), type=cudnn_graph.Description) == made.description


def test_clipping_is_one_node_and_numbers_are_operands():
    assert operations(EPILOGUES["relu6"](CONV())) == ["conv_fprop", "add", "relu"]
    relu6 = TACTIC.graph(EPILOGUES["relu6"](CONV()), 0).description.nodes[-1]
    assert relu6.attrs == {"upper_clip": 6.0}
    tenth = TACTIC.graph(Chain(CONV()).number("mul", 0.1).done(), 0)
    fifth = TACTIC.graph(Chain(CONV()).number("mul", 0.2).done(), 0)
    assert tenth.description == fifth.description
    assert tenth.nodes.packs[0].make() == np.float32(0.1)


def test_the_step_has_an_argument_for_each_tensor():
    region = Chain(conv((1, 9, 9, 3), 8, (3, 3), dtype=F32, compute="f16", out=F16,
                        x_tensor=channels_first(F32, (1, 9, 9, 3)))).unary("relu").done()
    assert TACTIC._channels(region) == [8, 4]
    made = TACTIC.implement(region, {"plan": "eng0", "workspace": 100, "channels": 8}, SM90, 1)
    assert made.steps[1].args == (Work(0), Packed(0), Out(0), Work(1536))
    assert made.workspace == 1636


def test_a_padded_copy_of_the_input():
    region = conv((2, 5, 7, 3), 8, (3, 3), dtype=F32, compute="f16", out=F16,
                  x_tensor=channels_first(F32, (2, 5, 7, 3)))
    made = TACTIC.implement(region, {"plan": "", "workspace": 0, "channels": 8}, SM90, 1)
    copy = Region("pointwise", {}, region.inputs, 0, Tensor.dense(F16, (2, 5, 7, 8)), Tensor.dense(F16, (2, 5, 7, 8)))
    arrays = data(region)
    step = made.steps[0]
    step = type(step)(step.kernel, (step.args[0], Out(0)), step.tiles)
    got = run(copy, Implementation((step,)), arrays)[0]
    np.testing.assert_array_equal(got[..., :3], arrays[0].astype(np.float16))
    assert not got[..., 3:].any()


@pytest.mark.parametrize(("region", "word"), [
    (conv((symbol("n"), 5, 5, 8), 8, (3, 3), dims={"n": (1, 1, 4)}), "symbolic"),
    (conv((1, 5, 5, 8), 8, (3, 3), const=False), "not constant"),
    (conv((1, 5, 5, 16), 8, (3, 3), pads=(-1, 0, 0, 0)), "negative"),
    (conv((1, 5, 5, 16), 16, (3, 3), dtype=DType.I8, pads=(1, 1, 1, 1), pad_value=3), "not 0"),
    (Chain(conv((1, 5, 5, 16), 16, (3, 3), dtype=DType.I8)).saturated(zero=3), "zero point"),
    (Chain(CONV()).tensor("mul", Tensor.dense(F16, (2, 1, 1, 72))).done(), "each image"),
    (Chain(CONV()).unary("round").done(), "no round")])
def test_what_it_does_not_take_it_says(region, word):
    live = dataclasses.replace(SM90, live=True, libraries={"cudnn": "9.19.0"})
    assert word in TACTIC.applies(region, live)
    assert "cannot be asked" in TACTIC.applies(region, SM90)


def product(m: int, n: int, k: int, **attrs) -> Region:
    a, b = Tensor.dense(F16, (2, m, k)), Tensor.dense(F16, (k, n), const=True)
    out = Tensor.dense(F32, (2, m, n))
    e = Expr((Leaf(ANCHOR, F32), Leaf(2, F32), Apply("add", (0, 1), F32),
              Apply("gelu", (2,), F32, tuple(attrs.items())),
              Leaf(3, F16), Apply("cast", (4,), F32, (("to", F32),)), Apply("add", (3, 5), F32),
              Apply("cast", (6,), F16, (("to", F16),))))
    return Region("matmul", {}, (a, b, Tensor.dense(F32, (n,), const=True), Tensor.dense(F16, (2, m, n))), 2,
                  Tensor.dense(F16, (2, m, n)), out, e, compute="f16")


def test_a_product_is_a_graph_too():
    made = CudnnMatmul().graph(product(64, 96, 32, approximate="none"))
    assert [n.op for n in made.description.nodes] == ["matmul", "add", "gelu", "add"]
    assert [t.dims for t in made.description.tensors] == [[1, 128, 32], [1, 32, 96], [1, 1, 96], [1, 128, 96]]


def test_a_constant_in_f32_is_packed_in_the_type_of_the_products():
    region = product(64, 96, 32, approximate="none")
    wide = dataclasses.replace(region, inputs=(region.inputs[0], Tensor.dense(F32, (32, 96), const=True),
                                               *region.inputs[2:]))
    made = CudnnMatmul().graph(wide)
    assert made.description.tensors[1].strides[1:] == [1, 32]
    assert made.description.tensors[1].type == "HALF"
    (pack,) = made.packs
    w = np.arange(32 * 96, dtype=np.float32).reshape(32, 96)
    np.testing.assert_array_equal(pack.make(w), w.T.astype(np.float16))
    live = dataclasses.replace(SM90, live=True, libraries={"cudnn": "9.19.0"})
    assert not CudnnMatmul().applies(wide, live)


# -- on the GPU --------------------------------------------------------------------------------------------------------


def every_plan(tactic, region: Region, tolerance: float | None = None, most: int = 6) -> None:
    """The first execution plans, and one that is compiled at run time."""
    reason = tactic.applies(region, gpu())
    assert not reason, reason
    space = list(tactic.space(region, gpu(), 1))
    assert space, "no execution plan"
    late = [p for p in space if p["plan"].startswith("eng4_")][:1]
    built = 0
    for params in [*space[:most], *late]:
        made = tactic.implement(region, params, gpu(), 1)
        try:
            for step in made.steps:
                compiled(step.kernel.code)
        except DeviceError:  # an engine that refuses what its heuristics proposed: the tuner goes on without it
            continue
        built += 1
        if tactic is TACTIC:
            check(run_on_device, tactic, region, params, machine=gpu(), tolerance=tolerance)
    assert built, "none can be built"


@needs_cuda
@pytest.mark.parametrize("name", EPILOGUES)
def test_epilogues_on_the_gpu(name):
    every_plan(TACTIC, EPILOGUES[name](CONV()), 2e-3)


@needs_cuda
@pytest.mark.parametrize("region", [
    conv((1, 30, 30, 3), 16, (7, 7), strides=(2, 2), pads=(3, 3, 3, 3), dtype=F32, compute="f16", out=F16,
         x_tensor=channels_first(F32, (1, 30, 30, 3))),
    conv((2, 9, 10, 20), 24, (3, 3), pads=(0, 1, 1, 2)), conv((2, 9, 10, 32), 24, (1, 1), strides=(2, 2)),
    conv((2, 19, 32), 24, (3,), pads=(1, 1)), conv((1, 5, 6, 7, 16), 24, (3, 3, 3), pads=(1,) * 6),
    conv((2, 9, 10, 64), 64, (3, 3), group=64, pads=(1,) * 4), conv((2, 9, 10, 64), 64, (3, 3), group=4),
    conv((2, 9, 10, 32), 24, (3, 3), dtype=BF16), conv((2, 9, 10, 32), 24, (3, 3), dtype=F32, compute="tf32"),
    conv((2, 9, 10, 32), 24, (3, 3), dtype=F32), conv((2, 9, 10, 32), 24, (3, 3), dtype=F32, dilations=(2, 1))],
    ids=["first layer", "padded channels", "1x1 stride 2", "1-D", "3-D", "depthwise", "groups", "bf16", "tf32", "f32",
         "dilated"])
def test_windows_and_types_on_the_gpu(region):
    every_plan(TACTIC, region, {BF16: 8e-3, F16: 2e-3}.get(region.output.dtype))


@needs_cuda
@pytest.mark.parametrize("out", [DType.I8, F16, F32], ids=lambda d: d.value)
def test_codes_on_the_gpu(out):
    region = Chain(conv((2, 9, 10, 32), 48, (3, 3), pads=(1,) * 4, dtype=DType.I8)).per_channel("mul").number(
        "mul", 0.002)
    region = region.unary("relu").saturated(zero=0) if out is DType.I8 else region.unary("relu").done(out)
    every_plan(TACTIC, region, 2e-3)


@needs_cuda
def test_f8_on_the_gpu():
    region = Chain(conv((2, 9, 10, 32), 48, (3, 3), pads=(1,) * 4, dtype=DType.F8E4M3FN)).number("mul", 0.1).done(F16)
    if TACTIC.applies(region, gpu()) or not list(TACTIC.space(region, gpu(), 1)):
        pytest.skip("this cuDNN has no convolution of 8-bit floats here")
    every_plan(TACTIC, region, 2e-3)


@needs_cuda
def test_products_of_matrices_on_the_gpu():
    region = product(128, 96, 64, approximate="none")
    tactic = CudnnMatmul()
    assert not tactic.applies(region, gpu())
    arrays = data(region)
    a, b = (x.astype(np.float64) for x in arrays[:2])
    want = region.epilogue.evaluate({ANCHOR: (a @ b).astype(np.float32), **dict(enumerate(arrays))})
    space = list(tactic.space(region, gpu(), 1))
    assert space
    for params in space[:4]:
        got = run_on_device(region, tactic.implement(region, params, gpu(), 1), arrays)[0]
        assert error(got, want) < 2e-3, params


@needs_cuda
def test_a_plan_by_another_name_is_refused():
    made = TACTIC.implement(CONV(), {"plan": "eng9999", "workspace": 0, "channels": 0}, gpu(), 1)
    with pytest.raises(DeviceError, match="execution plan"):
        compiled(made.steps[0].kernel.code)



