"""The networks of the GPU benchmark, as PyTorch modules and as ONNX with the same weights.

`MODELS`: those of `benchmarks.models`, EfficientNet-B0, and `gpt2`: one step of decoding by GPT-2 124M over a
key-value cache of 512 places, which is kept by whoever runs it and of which a step writes one row.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import models
from benchmarks.models import RECIPE, SEED, default_cache, random_images

MODELS = ("resnet50", "mobilenetv2", "efficientnet", "bert", "vit", "gpt2")
TITLES = {"resnet50": "ResNet-50", "mobilenetv2": "MobileNetV2", "efficientnet": "EfficientNet-B0",
          "bert": "BERT-base, 128 tokens", "vit": "ViT-B/16", "gpt2": "GPT-2 124M, one step, 512 in the cache"}
LAYERS, HEADS, WIDTH, PLACES, WORDS = 12, 12, 768, 512, 50257


def inputs(name: str, batch: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Seeded inputs by name; for `gpt2` the caches too, which are empty."""
    rng = np.random.default_rng(seed)
    if name == "efficientnet":
        return {"input": random_images(rng, batch)}
    if name != "gpt2":
        return models.model_inputs(name, batch, seed=seed)
    feeds = {"ids": rng.integers(0, WORDS, (batch, 1)), "place": np.full((1,), PLACES - 1, np.int64)}
    for i in range(LAYERS):
        for kind in "kv":
            feeds[f"{kind}{i}"] = np.zeros((batch, HEADS, PLACES, WIDTH // HEADS), np.float16)
    return feeds


def states() -> dict[str, str]:
    """The caches of `gpt2`: input name -> the output that becomes it."""
    return {f"{kind}{i}": f"{kind}{i}_next" for i in range(LAYERS) for kind in "kv"}


def module(name: str) -> Any:
    """The network in fp32 with its weights, in evaluation mode, on the CPU."""
    import torch
    import transformers

    torch.manual_seed(SEED)
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    if name == "gpt2":
        return _gpt2(transformers)
    if name == "efficientnet":
        class Images(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                config = transformers.EfficientNetConfig(
                    width_coefficient=1.0, depth_coefficient=1.0, image_size=224, hidden_dim=1280, dropout_rate=0.2,
                    num_labels=1000)
                self.model = transformers.EfficientNetForImageClassification(config)

            def forward(self, pixels: Any) -> Any:
                return self.model(pixel_values=pixels).logits

        made = Images().eval()
    else:
        made = models._network(name, transformers)
    sample = {k: torch.from_numpy(v) for k, v in inputs(name, 8, seed=SEED).items()}
    models._scale_to_unit_order(made, tuple(sample.values()))
    return made


def onnx_path(name: str, made: Callable[[], Any] | None = None) -> Path:
    """Where the network lies as ONNX with a symbolic batch, written first if it does not. `made`: its module."""
    path = default_cache() / f"{name}-r{RECIPE}.onnx"
    if path.exists():
        return path
    network = (made or (lambda: module(name)))()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        if name == "gpt2":
            from benchmarks.gpt2_step import write

            write(network, temporary)
        else:
            _export(name, network, temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _export(name: str, network: Any, path: Path) -> None:
    import torch

    sample = {k: torch.from_numpy(v) for k, v in inputs(name, 2).items()}
    dynamic = {0: torch.export.Dim("batch")} | ({1: torch.export.Dim("seq")} if name == "bert" else {})
    outputs = ["last_hidden_state", "pooler_output"] if name == "bert" else ["logits"]
    torch.onnx.export(network, tuple(sample.values()), str(path), dynamo=True, verbose=False, external_data=False,
                      dynamic_shapes=(dynamic,) * len(sample), input_names=list(sample), output_names=outputs)


def _gpt2(transformers: Any) -> Any:
    """GPT-2 with a cache of fixed size that a step writes one row of: what `torch.compile` does best with."""
    import torch
    from torch.nn import functional

    class Block(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ln1, self.ln2 = torch.nn.LayerNorm(WIDTH), torch.nn.LayerNorm(WIDTH)
            self.qkv, self.out = torch.nn.Linear(WIDTH, 3 * WIDTH), torch.nn.Linear(WIDTH, WIDTH)
            self.up, self.down = torch.nn.Linear(WIDTH, 4 * WIDTH), torch.nn.Linear(4 * WIDTH, WIDTH)

        def forward(self, x: Any, place: Any, mask: Any, k: Any, v: Any) -> Any:
            b = x.shape[0]
            q, new_k, new_v = self.qkv(self.ln1(x)).view(b, 1, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
            k.index_copy_(2, place, new_k)
            v.index_copy_(2, place, new_v)
            seen = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            x = x + self.out(seen.transpose(1, 2).reshape(b, 1, WIDTH))
            return x + self.down(functional.gelu(self.up(self.ln2(x)), approximate="tanh"))

    class Step(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.places = torch.nn.Embedding(WORDS, WIDTH), torch.nn.Embedding(1024, WIDTH)
            self.blocks = torch.nn.ModuleList(Block() for _ in range(LAYERS))
            self.ln = torch.nn.LayerNorm(WIDTH)

        def forward(self, ids: Any, place: Any, *caches: Any) -> Any:
            x = self.words(ids) + self.places(place)
            mask = (torch.arange(PLACES, device=ids.device) <= place)[None, None, None]
            for i, block in enumerate(self.blocks):
                x = block(x, place, mask, caches[2 * i], caches[2 * i + 1])
            return self.ln(x) @ self.words.weight.T

    made = Step().eval()
    with torch.no_grad():
        for p in made.parameters():
            p.normal_(0, 0.02 if p.dim() > 1 else 0.1)
            if p.dim() == 1:
                p.add_(1.0 if p.shape[0] == WIDTH else 0.0)
    return made
