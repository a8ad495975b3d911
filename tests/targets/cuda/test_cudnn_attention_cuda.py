"""cuDNN's attention: which regions it takes, and on the GPU against float64."""

from __future__ import annotations

import dataclasses

import pytest
from attention_regions import check, region
from conv_regions import SM90
from on_device import gpu, needs_cuda
from on_device import run as run_on_device

from whet.ir.dtypes import DType
from whet.ir.expr import ANCHOR, Apply, Expr, Leaf
from whet.ir.region import Tensor
from whet.targets.cuda.cudnn_attention import CudnnAttention

TACTIC = CudnnAttention()
F16, BF16, F32 = DType.F16, DType.BF16, DType.F32
ROUND = Expr((Leaf(ANCHOR, F32), Apply("cast", (0,), F16, (("to", F16),))))
REGIONS = {
    "plain": region(2, 4, 4, 40, 72, 64, 64, dtype=F16, compute="f16", epilogue=ROUND),
    "packed": region(2, 3, 3, 128, 128, 64, 64, dtype=F16, packed=True, epilogue=ROUND),
    "causal": region(1, 4, 4, 64, 64, 64, 64, dtype=F16, causal=True, epilogue=ROUND),
    "causal from the end": region(1, 4, 4, 32, 64, 64, 64, dtype=F16, causal=True, offset=32, epilogue=ROUND),
    "window": region(1, 4, 4, 64, 64, 64, 64, dtype=F16, causal=True, window=17, epilogue=ROUND),
    "shared heads": region(2, 8, 2, 40, 56, 128, 128, dtype=BF16, compute="bf16"),
    "bias": region(2, 4, 4, 48, 72, 64, 64, dtype=F16, mask=Tensor.dense(F16, (1, 4, 48, 72)), epilogue=ROUND),
    "mask of a row": region(2, 4, 4, 48, 72, 64, 64, dtype=F16, mask=Tensor.dense(F16, (2, 1, 1, 72)), epilogue=ROUND),
    "mask in f32": region(2, 4, 4, 48, 72, 64, 64, dtype=F16, mask=Tensor.dense(F32, (1, 1, 48, 72)), epilogue=ROUND),
}


def test_a_region_is_one_operation():
    made = TACTIC.graph(REGIONS["causal"])
    (node,) = made.description.nodes
    assert node.op == "sdpa"
    assert node.attrs == {"attn_scale": 0.3, "generate_stats": False, "use_causal_mask": True}
    assert [t.dims for t in made.description.tensors] == [[1, 4, 64, 64]] * 3


@pytest.mark.parametrize(("r", "word"), [
    (region(1, 2, 2, 8, 8, 64, 64), "16-bit"), (region(1, 2, 2, 8, 8, 60, 60, dtype=F16), "multiple of 8"),
    (region(1, 2, 2, 8, 8, 64, 64, dtype=F16, softcap=3.0), "cap"),
    (region(1, 2, 2, 8, 8, 64, 64, dtype=F16, lengths=True), "lengths"),
    (region(1, 2, 2, 8, 9, 64, 64, dtype=F16, causal=True, offset=5), "elsewhere"),
    (region(1, 2, 2, 8, 8, 64, 64, dtype=F16, mask=Tensor.dense(DType.BOOL, (8, 8))), "a mask of bool")])
def test_what_it_does_not_take_it_says(r, word):
    live = dataclasses.replace(SM90, live=True, libraries={"cudnn": "9.19.0"})
    assert word in TACTIC.applies(r, live)


@needs_cuda
@pytest.mark.parametrize("name", REGIONS)
def test_on_the_gpu(name):
    r = REGIONS[name]
    assert not TACTIC.applies(r, gpu())
    space = list(TACTIC.space(r, gpu(), 1))
    if not space and "mask" in name:
        pytest.skip("this cuDNN takes no such mask")
    assert space, "no execution plan"
    for params in space[:3]:
        check(run_on_device, r, TACTIC.implement(r, params, gpu(), 1), tolerance=8e-3 if r.compute == "bf16" else 2e-3)
