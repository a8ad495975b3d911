"""ResNet-50 and BERT-base for XLA: the networks of `gpu_networks` in `jax.numpy`, with the same weights.

Batch norms are folded into the convolutions, images are channels last: what XLA does best with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

EPSILON = {"resnet50": 1e-5, "bert": 1e-12}
Weights = Mapping[str, np.ndarray]


def build(name: str, weights: Weights, precision: str) -> Callable[..., Any]:
    """The compiled function of the network's inputs (as NumPy or JAX arrays). KeyError for a network that is not here.

    weights: PyTorch's state dict as arrays. precision: `fp16`, `bf16` or `fp32`.
    """
    import jax
    import jax.numpy as jnp

    kind = {"fp16": jnp.float16, "bf16": jnp.bfloat16, "fp32": jnp.float32}[precision]
    forward, prepare = {"resnet50": (_resnet, _resnet_weights), "bert": (_bert, dict)}[name]
    w = {k: jnp.asarray(v, kind if v.dtype == np.float32 else None) for k, v in prepare(weights).items()}
    return jax.jit(lambda *x: forward(w, *x))


def _resnet_weights(weights: Weights) -> dict[str, np.ndarray]:
    """Convolutions [h, w, in, out] with the batch norm behind them folded in."""
    out = {"fc.w": weights["model.classifier.1.weight"].T, "fc.b": weights["model.classifier.1.bias"]}
    for k, v in weights.items():
        if not k.endswith("convolution.weight"):
            continue
        stem = k.removesuffix("convolution.weight")
        gamma, beta, mean, var = (weights[f"{stem}normalization.{p}"] for p in
                                  ("weight", "bias", "running_mean", "running_var"))
        factor = gamma / np.sqrt(var + EPSILON["resnet50"])
        name = stem.removeprefix("model.resnet.").removesuffix(".")
        out[f"{name}.w"] = (v * factor[:, None, None, None]).transpose(2, 3, 1, 0)
        out[f"{name}.b"] = beta - mean * factor
    return out


def _resnet(w: Mapping[str, Any], image: Any) -> Any:
    import jax
    import jax.numpy as jnp

    def conv(x: Any, name: str, stride: int = 1) -> Any:
        k = w[f"{name}.w"]
        pad = k.shape[0] // 2
        y = jax.lax.conv_general_dilated(x, k, (stride, stride), ((pad, pad), (pad, pad)),
                                         dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return y + w[f"{name}.b"]

    x = jnp.transpose(image, (0, 2, 3, 1)).astype(w["fc.w"].dtype)
    x = jax.nn.relu(conv(x, "embedder.embedder", 2))
    x = jax.lax.reduce_window(x, jnp.array(-jnp.inf, x.dtype), jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1),
                              ((0, 0), (1, 1), (1, 1), (0, 0)))
    for stage, depth in enumerate((3, 4, 6, 3)):
        for i in range(depth):
            at, stride = f"encoder.stages.{stage}.layers.{i}", 2 if stage and not i else 1
            shortcut = conv(x, f"{at}.shortcut", stride) if i == 0 else x
            y = jax.nn.relu(conv(x, f"{at}.layer.0"))
            y = jax.nn.relu(conv(y, f"{at}.layer.1", stride))
            x = jax.nn.relu(conv(y, f"{at}.layer.2") + shortcut)
    return x.mean((1, 2)) @ w["fc.w"] + w["fc.b"]


def _bert(w: Mapping[str, Any], ids: Any, mask: Any, types: Any) -> Any:
    import jax
    import jax.numpy as jnp

    def linear(x: Any, name: str) -> Any:
        return x @ w[f"model.{name}.weight"].T + w[f"model.{name}.bias"]

    def norm(x: Any, name: str) -> Any:
        wide = x.astype(jnp.float32)
        centred = wide - wide.mean(-1, keepdims=True)
        y = centred * jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + EPSILON["bert"])
        return y.astype(x.dtype) * w[f"model.{name}.weight"] + w[f"model.{name}.bias"]

    b, s = ids.shape
    x = (w["model.embeddings.word_embeddings.weight"][ids] + w["model.embeddings.token_type_embeddings.weight"][types]
         + w["model.embeddings.position_embeddings.weight"][:s])
    x = norm(x, "embeddings.LayerNorm")
    for i in range(12):
        at = f"encoder.layer.{i}"
        q, k, v = (linear(x, f"{at}.attention.self.{n}").reshape(b, s, 12, 64) for n in ("query", "key", "value"))
        seen = jax.nn.dot_product_attention(q, k, v, mask=(mask > 0)[:, None, None, :]).reshape(b, s, 768)
        x = norm(x + linear(seen, f"{at}.attention.output.dense"), f"{at}.attention.output.LayerNorm")
        y = linear(jax.nn.gelu(linear(x, f"{at}.intermediate.dense"), approximate=False), f"{at}.output.dense")
        x = norm(x + y, f"{at}.output.LayerNorm")
    return x, jnp.tanh(linear(x[:, 0], "pooler.dense"))
