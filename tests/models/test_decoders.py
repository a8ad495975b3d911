"""Small decoders with past keys and values as inputs and present ones as outputs, exported by PyTorch: one plan for
prompts and single tokens agrees with ONNX Runtime, and its graph has the regions that it should."""

from __future__ import annotations

import collections
import io
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import whet
from whet import passes
from whet.frontends import load_model

pytestmark = pytest.mark.models
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

LAYERS, VOCABULARY, HEAD = 2, 199, 16
PROFILE = {"input_ids": ((1, 1), (1, 8), (3, 20)), "attention_mask": ((1, 1), (1, 24), (3, 60))}


def decoder(kind: str, attention: str) -> tuple[Any, int]:
    """(model with random weights, heads of keys and values)."""
    torch.manual_seed(0)
    if kind == "gpt2":
        config = transformers.GPT2Config(vocab_size=VOCABULARY, n_positions=64, n_embd=48, n_layer=LAYERS, n_head=3,
                                         attn_implementation=attention)
        return transformers.GPT2LMHeadModel(config).eval(), 3
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=64, intermediate_size=112, num_hidden_layers=LAYERS, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, attn_implementation=attention)
    return transformers.LlamaForCausalLM(config).eval(), 2


class WithCache(torch.nn.Module):  # type: ignore[misc, name-defined]
    """(ids, mask, past key and value of each layer) -> (logits, present key and value of each layer)."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Any, attention_mask: Any, *past: Any) -> tuple[Any, ...]:
        from transformers.cache_utils import DynamicCache

        cache = DynamicCache([(past[2 * i], past[2 * i + 1]) for i in range(LAYERS)])
        out = self.model(input_ids=input_ids, attention_mask=attention_mask, past_key_values=cache, use_cache=True)
        return (out.logits, *(t for layer in cache.layers for t in (layer.keys, layer.values)))


def exported(kind: str, attention: str, opset: int, dynamo: bool, folder: Path) -> onnx.ModelProto:
    model, kv_heads = decoder(kind, attention)
    past = [torch.randn(2, kv_heads, 5, HEAD) for _ in range(2 * LAYERS)]
    args = (torch.randint(0, VOCABULARY, (2, 3)), torch.ones(2, 8, dtype=torch.int64), *past)
    caches = [f"{i}.{what}" for i in range(LAYERS) for what in ("key", "value")]
    names = ["input_ids", "attention_mask", *(f"past.{c}" for c in caches)]
    results = ["logits", *(f"present.{c}" for c in caches)]
    options: dict[str, Any] = {"input_names": names, "output_names": results, "opset_version": opset}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            if dynamo:
                any_size = torch.export.Dim.DYNAMIC
                shapes = ({0: any_size, 1: any_size}, {0: any_size, 1: any_size},
                          tuple({0: any_size, 2: any_size} for _ in past))
                program = torch.onnx.export(WithCache(model), args, dynamo=True, dynamic_shapes=shapes, verbose=False,
                                            **options)
                return program.model_proto
            axes = {"input_ids": {0: "batch", 1: "seq"}, "attention_mask": {0: "batch", 1: "total"},
                    **{n: {0: "batch", 2: "past"} for n in names[2:]}}
            file = io.BytesIO()
            torch.onnx.export(WithCache(model), args, file, dynamo=False, dynamic_axes=axes, **options)
            return onnx.load_from_string(file.getvalue())
        finally:
            logging.disable(logging.NOTSET)


def profile_of(model: onnx.ModelProto) -> dict[str, Any]:
    heads = {v.name: v.type.tensor_type.shape.dim[1].dim_value for v in model.graph.input}
    return {v.name: PROFILE.get(v.name) or tuple((b, heads[v.name], p, HEAD) for b, p in ((1, 0), (1, 16), (3, 40)))
            for v in model.graph.input}


FORMS = [("gpt2", "sdpa", 17, False), ("llama", "eager", 17, False), ("llama", "sdpa", 17, False),
         ("llama", "sdpa", 18, True)]


@pytest.mark.parametrize(("kind", "attention", "opset", "dynamo"), FORMS)
def test_prompts_and_tokens_agree_with_onnxruntime(kind: str, attention: str, opset: int, dynamo: bool,
                                                   tmp_path: Path) -> None:
    ort = pytest.importorskip("onnxruntime")
    model = exported(kind, attention, opset, dynamo, tmp_path)
    profile = profile_of(model)

    graph = passes.run(load_model(model, profiles=[profile]))
    regions = [n.attrs["region"] for n in graph.nodes if n.op == "region"]
    kinds = collections.Counter(r.kind for r in regions)
    assert kinds["attention"] == LAYERS
    assert kinds["rmsnorm" if kind == "llama" else "layernorm"] == 2 * LAYERS + 1
    assert not kinds["softmax"]
    assert not kinds["reduce"]
    for r in regions:
        if r.kind == "attention":  # keys and values of grouped heads are not repeated
            assert r.inputs[1].shape[1] == r.inputs[2].shape[1] == (2 if kind == "llama" else 3)
            assert r.attrs["causal"] == (attention == "sdpa" and not dynamo)  # else the mask's numbers are finite

    plan = whet.build(model, opt_level=0, threads=1, profiles=[profile])
    steps = plan.summary()["steps"]
    assert not steps["reference"], steps
    assert not steps["host"], steps
    engine = whet.load(plan)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    for batch, new, past in ((2, 7, 0), (1, 1, 5), (3, 1, 40), (2, 4, 9), (1, 1, 0)):
        feeds: dict[str, np.ndarray] = {}
        for v in session.get_inputs():
            if v.name == "input_ids":
                feeds[v.name] = rng.integers(0, VOCABULARY, (batch, new))
            elif v.name == "attention_mask":
                feeds[v.name] = np.ones((batch, new + past), np.int64)
                feeds[v.name][:, :past // 4] = 0
            else:
                feeds[v.name] = rng.standard_normal((batch, v.shape[1], past, HEAD)).astype(np.float32)
        got = engine(feeds)
        for o, want in zip(session.get_outputs(), session.run(None, feeds), strict=True):
            np.testing.assert_allclose(got[o.name], want, rtol=1e-4, atol=2e-6, err_msg=f"{o.name} {batch, new, past}")


def test_greedy_generation_gives_the_tokens_of_pytorch(tmp_path: Path) -> None:
    """A prompt, then token after token, each with the keys and values of those before."""
    torch_model, kv_heads = decoder("llama", "sdpa")
    model = exported("llama", "sdpa", 17, False, tmp_path)
    engine = whet.load(whet.build(model, opt_level=0, threads=1, profiles=[profile_of(model)]))
    prompt = np.random.default_rng(1).integers(0, VOCABULARY, (1, 6))
    with torch.no_grad():
        want = torch_model.generate(torch.tensor(prompt), max_new_tokens=10, do_sample=False, pad_token_id=0)[0, 6:]
    cache = {f"{i}.{what}": np.zeros((1, kv_heads, 0, HEAD), np.float32) for i in range(LAYERS)
             for what in ("key", "value")}
    ids, tokens = prompt, []
    for _ in range(10):
        seen = cache["0.key"].shape[2] + ids.shape[1]
        out = engine({"input_ids": ids, "attention_mask": np.ones((1, seen), np.int64),
                      **{f"past.{c}": a for c, a in cache.items()}})
        tokens.append(int(out["logits"][0, -1].argmax()))
        ids = np.array([[tokens[-1]]])
        cache = {c: np.array(out[f"present.{c}"]) for c in cache}
    assert tokens == want.tolist()


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_context_holds_the_cache_and_generates_the_same_tokens(kind: str, tmp_path: Path) -> None:
    """The cache grows in place: prompts by one profile, tokens by another, ids and mask in, logits out."""
    torch_model, kv_heads = decoder(kind, "sdpa")
    model = exported(kind, "sdpa", 17, False, tmp_path)
    caches = [f"{i}.{what}" for i in range(LAYERS) for what in ("key", "value")]
    past = {f"past.{c}": ((1, kv_heads, 0, HEAD), (1, kv_heads, 20, HEAD), (1, kv_heads, 40, HEAD)) for c in caches}
    prompts = {"input_ids": ((1, 2), (1, 6), (1, 20)), "attention_mask": ((1, 2), (1, 6), (1, 60)), **past}
    tokens = {"input_ids": ((1, 1), (1, 1), (1, 1)), "attention_mask": ((1, 1), (1, 21), (1, 41)), **past}
    plan = whet.build(model, opt_level=0, threads=1, profiles=[tokens, prompts],
                      states={f"past.{c}": f"present.{c}" for c in caches})
    assert all(s.in_place for p in plan.manifest.programs for s in p.states)
    assert plan.summary()["steps"]["host"] == plan.summary()["steps"]["reference"] == 0
    prompt = np.random.default_rng(1).integers(0, VOCABULARY, (1, 6))
    with torch.no_grad():
        want = torch_model.generate(torch.tensor(prompt), max_new_tokens=12, do_sample=False, pad_token_id=0)[0, 6:]
    with whet.load(plan) as engine, engine.context() as ctx:
        assert list(engine.inputs) == ["input_ids", "attention_mask"]
        assert list(engine.outputs) == ["logits"]
        for _ in range(2):
            ids, got, seen = prompt, [], 0
            while len(got) < len(want):
                seen += ids.shape[1]
                out = ctx.run({"input_ids": ids, "attention_mask": np.ones((1, seen), np.int64)})
                got.append(int(out["logits"][0, -1].argmax()))
                ids = np.array([[got[-1]]])
            assert got == want.tolist()
            ctx.reset()
