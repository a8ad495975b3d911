"""On GPUs convolutions compute their input on load where that pays: single pixels, and first ones over codes."""

import numpy as np
import pytest
from building import Building, ops, rewritten, weights

from whet.ir.dtypes import DType
from whet.ir.symbolic import symbol
from whet.passes import halves, precision
from whet.passes.fuse import form_regions
from whet.passes.on_load import OnLoad
from whet.targets.cuda.conv_first import ConvFirst
from whet.targets.cuda.gpu import typical

N = symbol("n")


def conv(b, x, columns, kernel=1, pads=(), strides=()):
    w = weights(columns, x.shape[-1], kernel, kernel).astype(x.dtype.np)
    return b.conv(x, w, strides=tuple(strides) or (1, 1), pads=tuple(pads) or (0,) * 4, dilations=(1, 1), group=1,
                  channels_last=True)


def excited(columns=16, shape=(2, 5, 7, 8), dtype=DType.F32, **how):
    """A convolution of silu(x) * s, and the mean of silu(x), which is another reader."""
    b = Building()
    x = conv(b, b.input("x", shape, dtype), shape[-1])
    x = b.silu(x)
    s = b.sigmoid(b.reduce(x, axes=(1, 2), kind="mean", keepdims=True))
    return b.done(conv(b, b.mul(x, s), columns, **how))


def formed(graph, compute="fp16"):
    return rewritten(graph, lambda g: form_regions(g, OnLoad(compute)))


def prologues(graph):
    return [str(n.attrs["region"].prologue[0]) for n in graph.nodes
            if n.op == "region" and n.attrs["region"].kind == "conv" and n.attrs["region"].prologue]


def test_a_factor_of_each_image_and_channel_is_applied_on_load():
    g = formed(excited())
    assert ops(g) == {"conv": 2, "reduce": 1}
    assert prologues(g) == ["mul(in0, in2)"]


def test_batch_norm_and_relu_are_applied_on_load():
    b = Building()
    x = b.input("x", (N, 8, 8, 6))
    y = b.relu(b.add_(b.mul(x, weights(6)), weights(6, seed=1)))
    g = formed(b.done(conv(b, y, 12)))
    assert ops(g) == {"conv": 1}
    assert prologues(g) == ["relu(add(mul(in0, in2), in3))"]


def test_other_targets_have_a_step_for_it():
    assert ops(rewritten(excited(), form_regions)) == {"conv": 2, "reduce": 1, "pointwise": 1}


@pytest.mark.parametrize("graph", [excited(pads=(1, 1, 1, 1)), excited(kernel=3), excited(strides=(2, 2)),
                                   excited(shape=(2, 2, 3, 8))],
                         ids=["padding", "a window", "strides", "few pixels"])
def test_what_is_no_product_of_matrices_reads_what_was_computed(graph):
    assert prologues(formed(graph)) == []


def test_what_others_read_is_computed_once():
    b = Building()
    x = b.input("x", (2, 5, 5, 8))
    y = b.relu(b.mul(x, weights(8)))
    assert prologues(formed(b.done(conv(b, y, 8), conv(b, y, 9)))) == []
    b = Building()
    y = b.mul(b.input("x", (2, 5, 5, 8)), b.input("y", (2, 5, 5, 8)))
    assert prologues(formed(b.done(conv(b, y, 8)))) == [], "two tensors would be read for every tile of columns"


def rule(columns, compute, rows=2**16, depth=64, dtype=DType.F32):
    b = Building()
    x = b.input("x", (N, rows // 2, 1, depth), dtype)  # n is 2 at the optimum
    return OnLoad(compute).takes(conv(b, x, columns).producer, b.dims)


def test_many_columns_are_left_to_libraries_unless_the_product_is_small():
    assert rule(512, "fp16")
    assert rule(512, "tf32")
    assert rule(512, "fp32", dtype=DType.F16)
    assert not rule(520, "fp16")
    assert rule(64, "fp32")
    assert not rule(72, "fp32"), "without tensor cores a product takes long"
    assert rule(1024, "fp16", rows=64, depth=2048)
    assert not rule(1024, "fp32", rows=64, depth=2048)


def test_the_product_is_taken_in_16_bits():
    g = precision.assign(formed(excited()), "fp16", traits=precision.GPU)
    last = next(n for n in g.nodes if n.op == "region" and n.attrs["region"].prologue)
    assert last.attrs["region"].compute == "f16"
    assert {t.dtype for t in last.attrs["region"].inputs} == {DType.F16}
    g = rewritten(excited(dtype=DType.F16), lambda g: form_regions(g, OnLoad("fp32")), rtol=1e-2, atol=1e-2)
    halves.widen(g)
    last = next(n for n in g.nodes if n.op == "region" and n.attrs["region"].prologue)
    assert last.attrs["region"].compute == "f16", "the model's own 16-bit floats"


def test_what_fp16_may_not_hold_stays_in_fp32():
    b = Building()
    x = b.input("x", (2, 5, 7, 8))
    g = formed(b.done(conv(b, b.exp(b.mul(x, np.float32(3.0))), 16)))
    assert prologues(g)
    g = precision.assign(g, "fp16", traits=precision.GPU)
    assert [n.attrs["region"].compute for n in g.nodes] == ["f32"]


def first(channels=3, kernel=(3, 3), codes=DType.I8, **attrs):
    """A network's first convolution, over codes of its input."""
    b = Building()
    x = b.input("x", (2, *(9,) * len(kernel), channels))
    y = b.mul(x, np.float32(0.2 if codes is DType.F8E4M3FN else 20.0))
    y = b.cast(y, to=codes) if codes is DType.F8E4M3FN else b.saturate(y, zero=np.int64(5), to=codes)
    r, group = len(kernel), attrs.pop("group", 1)
    kind = codes if codes is DType.F8E4M3FN else DType.I8
    w = (5 * weights(8, channels // group, *kernel)).astype(kind.np)
    more = {} if kind is codes and kind is not DType.I8 else {"pad_value": 5}
    usual = {"strides": (1,) * r, "dilations": (1,) * r, "pads": (1,) * 2 * r, **more}
    return b.done(b.conv(y, w, group=group, channels_last=True, **{**usual, **attrs}))


@pytest.mark.parametrize("graph", [first(), first(1, (5, 5)), first(4, (7,), DType.U8), first(codes=DType.F8E4M3FN),
                                   first(kernel=(7, 7), strides=(2, 2)), first(kernel=(2, 3), dilations=(2, 1))],
                         ids=["3x3", "one channel", "one dimension", "8-bit floats", "7x7", "rows apart"])
def test_a_first_convolution_makes_codes_of_its_image(graph):
    g = formed(graph, "int8")
    assert ops(g) == {"conv": 1}
    (node,) = g.nodes
    assert not ConvFirst().applies(node.attrs["region"], typical((9, 0))), "what the rule takes must have a kernel"


@pytest.mark.parametrize("graph", [first(5), first(4, group=2), first(kernel=(1, 1)),
                                   first(kernel=(3, 2), dilations=(1, 2)), first(kernel=(2, 3, 3)),
                                   first(1, (7, 33), pads=(3, 20, 3, 20))],
                         ids=["channels", "groups", "single pixels", "taps apart", "three dimensions", "large windows"])
def test_other_convolutions_read_codes(graph):
    assert ops(formed(graph, "int8")) == {"conv": 1, "pointwise": 1}
