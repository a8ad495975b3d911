"""The mean of squeeze-and-excitation is a second result of the depthwise convolution before it."""

import pytest
from building import Building, ops, rewritten, weights

from whet.ir.dtypes import DType
from whet.ir.symbolic import symbol
from whet.passes import precision
from whet.passes.fuse import form_regions
from whet.passes.squeeze import attach

N = symbol("n")


def squeezed(group=8, axes=(1, 2), kind="mean", keepdims=True, window=3, twice=False):
    b = Building()
    w = weights(8, 8 // group, window, window)
    x = b.conv(b.input("x", (N, 9, 9, 8)), w, strides=(1, 1), pads=(0,) * 4, dilations=(1, 1), group=group,
               channels_last=True)
    x = b.silu(x)
    m = b.reduce(x, axes=axes, kind=kind, keepdims=keepdims)
    return b.done(x, m, *([b.relu(b.reduce(x, axes=axes, kind="mean", keepdims=True))] if twice else []))


def test_the_convolution_gives_the_mean():
    g = rewritten(squeezed(), form_regions, attach)
    assert ops(g) == {"conv": 1}
    (n,) = g.nodes
    region = n.attrs["region"]
    assert region.attrs["mean"] is True
    assert [t.shape for t in region.extra_outputs] == [(N, 1, 1, 8)]


def test_after_precision_both_results_are_rounded():
    b = Building()
    x = b.conv(b.input("x", (2, 9, 9, 8)), weights(8, 1, 3, 3), strides=(1, 1), pads=(0,) * 4, dilations=(1, 1),
               group=8, channels_last=True)
    m = b.reduce(x, axes=(1, 2), kind="mean", keepdims=True)
    y = b.conv(b.mul(x, m), weights(4, 8, 1, 1), strides=(1, 1), pads=(0,) * 4, dilations=(1, 1), group=1,
               channels_last=True)
    g = precision.assign(form_regions(b.done(y)), "fp16", traits=precision.GPU)
    attach(g)
    region = next(n.attrs["region"] for n in g.nodes if n.attrs["region"].extra_outputs)
    assert region.output.dtype is region.extra_outputs[0].dtype is DType.F16


def test_of_two_means_one_is_read_again():
    assert ops(rewritten(squeezed(twice=True), form_regions, attach)) == {"conv": 1, "reduce": 1}


@pytest.mark.parametrize("how", [{"group": 1}, {"axes": (1,)}, {"axes": (1, 2, 3)}, {"kind": "max"},
                                 {"keepdims": False}, {"window": 9}],
                         ids=["not depthwise", "one axis", "channels", "maximum", "no dimensions", "a large window"])
def test_others_are_reductions(how):
    assert ops(rewritten(squeezed(**how), form_regions, attach)) == {"conv": 1, "reduce": 1}
