"""Transformers on the GPU: every family builds, on generated and library kernels alone, and matches ONNX Runtime on the
CPU, in every precision; decoders keep their cache on the device and generate PyTorch's tokens."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("onnxruntime")
pytest.importorskip("triton")
from families import FAMILIES, Family, export
from test_decoders import HEAD, LAYERS, decoder, exported, profile_of

import whet
from onnx_runtime import session
from targets.cuda.on_device import needs_cuda
from whet.measure import relative_l2

pytestmark = [pytest.mark.models, pytest.mark.usefixtures("compilers")]

NAMES = ("bert", "distilbert", "vit", "swin", "gpt2", "llama", "t5_decoder", "whisper_encoder", "detr", "lstm_tagger")
TOLERANCE = {"fp32": 1e-4, "tf32": 5e-3, "fp16": 1e-2, "bf16": 6e-2}  # relative L2 distance


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("transformers")


def family(name: str) -> Family:
    found, = (f for f in FAMILIES if f.name == name)
    return replace(found, exporter="script", opset=17)


@needs_cuda
@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize("name", NAMES)
def test_matches_onnx_runtime_on_the_cpu(name: str, precision: str, folder: Path) -> None:
    f = family(name)
    path = export(f, folder)
    reference = session(path)
    plan = whet.build(path, target="cuda", precision=precision, profiles=[dict(f.ranges)], opt_level=0)
    steps = plan.summary()["steps"]
    assert not steps["reference"], steps
    with whet.load(plan) as engine:
        for i, sizes in enumerate(f.sizes, 1):
            feeds = f.feeds(np.random.default_rng(i), sizes)
            found = engine(feeds)
            for output, want in zip(reference.get_outputs(), reference.run(None, feeds), strict=True):
                assert relative_l2(found[output.name], want) < max(TOLERANCE[precision], f.tolerance), sizes


@needs_cuda
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_prompts_and_tokens_match_onnx_runtime(kind: str, precision: str, tmp_path: Path) -> None:
    model = exported(kind, "sdpa", 17, False, tmp_path)
    plan = whet.build(model, target="cuda", precision=precision, opt_level=0, profiles=[profile_of(model)])
    assert not plan.summary()["steps"]["reference"]
    reference = session(model)
    rng = np.random.default_rng(0)
    with whet.load(plan) as engine:
        for batch, new, past in ((2, 7, 0), (1, 1, 5), (3, 1, 40), (2, 4, 9), (1, 1, 0)):
            feeds: dict[str, np.ndarray] = {}
            for v in reference.get_inputs():
                if v.name == "input_ids":
                    feeds[v.name] = rng.integers(0, 199, (batch, new))
                elif v.name == "attention_mask":
                    feeds[v.name] = np.ones((batch, new + past), np.int64)
                    feeds[v.name][:, :past // 4] = 0
                else:
                    feeds[v.name] = rng.standard_normal((batch, v.shape[1], past, HEAD)).astype(np.float32)
            got = engine(feeds)
            for o, want in zip(reference.get_outputs(), reference.run(None, feeds), strict=True):
                assert relative_l2(got[o.name], want) < TOLERANCE[precision], (o.name, batch, new, past)


@needs_cuda
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_context_holds_the_cache_and_generates_the_tokens_of_pytorch(kind: str, tmp_path: Path) -> None:
    import torch

    torch_model, kv_heads = decoder(kind, "sdpa")
    model = exported(kind, "sdpa", 17, False, tmp_path)
    caches = [f"{i}.{what}" for i in range(LAYERS) for what in ("key", "value")]
    past = {f"past.{c}": ((1, kv_heads, 0, HEAD), (1, kv_heads, 20, HEAD), (1, kv_heads, 40, HEAD)) for c in caches}
    prompts = {"input_ids": ((1, 2), (1, 6), (1, 20)), "attention_mask": ((1, 2), (1, 6), (1, 60)), **past}
    tokens = {"input_ids": ((1, 1), (1, 1), (1, 1)), "attention_mask": ((1, 1), (1, 21), (1, 41)), **past}
    plan = whet.build(model, target="cuda", opt_level=0, profiles=[tokens, prompts],
                      states={f"past.{c}": f"present.{c}" for c in caches})
    prompt = np.random.default_rng(1).integers(0, 199, (1, 6))
    with torch.no_grad():
        want = torch_model.generate(torch.tensor(prompt), max_new_tokens=12, do_sample=False, pad_token_id=0)[0, 6:]
    with whet.load(plan) as engine, engine.context() as context:
        ids, found = prompt, []
        for i in range(12):
            logits = context.run({"input_ids": ids, "attention_mask": np.ones((1, 6 + i), np.int64)})["logits"]
            found.append(int(np.asarray(logits)[0, -1].argmax()))
            ids = np.array([[found[-1]]])
    assert found == want.tolist()
