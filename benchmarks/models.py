"""The benchmark models: ResNet-50, MobileNetV2, BERT-base and ViT-B/16 with random weights, as ONNX.

Random weights hide errors: a default-initialized MobileNetV2 has logits of 1e-22, and any wrong kernel
agrees with that. So weights are drawn, then every layer is scaled in turn, by running random batches
through the network, until its output has unit order (the data-dependent initialization of Mishkin and
Matas, "All you need is a good init", 2016); batch-norm statistics are those of the same batches. As in
trained networks, most rectifiers are open and residual branches are small beside their trunk: without that
a random network is chaotic and multiplies the rounding of bf16 a hundred times.

    python benchmarks/models.py [--cache DIR] [resnet50 mobilenetv2 bert vit]

needs the extra `models` (PyTorch, transformers). Files are kept in `~/.cache/whet/models`.
"""

from __future__ import annotations

import argparse
import os
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from whet.errors import MissingExtraError, OutputError
from whet.measure.accuracy import centred_error, relative_l2

__all__ = ["MODELS", "centred_error", "export_model", "model_inputs", "model_path", "random_images", "relative_l2"]

RECIPE = 1  # part of the file's name: raise it when what is exported changes
SEED = 20
MODELS = ("resnet50", "mobilenetv2", "bert", "vit")
VOCABULARY = 30522


def default_cache() -> Path:
    """`$WHET_CACHE/models`, else `$XDG_CACHE_HOME/whet/models`, else `~/.cache/whet/models`."""
    if root := os.environ.get("WHET_CACHE"):
        return Path(root) / "models"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "whet" / "models"


def random_images(rng: np.random.Generator, batch: int, size: int = 224, channels: int = 3) -> np.ndarray:
    """Images [batch, channels, size, size], float32, of order one, which differ from each other at every scale.

    White noise would not do: all of its samples look alike to a network that averages over space.
    """
    image = np.zeros((batch, channels, size, size), np.float32)
    for cells in (1, 3, 7, 14, 56, size):
        coarse = rng.standard_normal((batch, channels, cells, cells), dtype=np.float32)
        index = np.arange(size) * cells // size
        image += coarse[:, :, index][:, :, :, index]
    return image / np.float32(np.sqrt(6))


def model_inputs(name: str, batch: int, sequence: int = 128, seed: int = 0) -> dict[str, np.ndarray]:
    """Seeded inputs of a model by name: images [batch, 3, 224, 224], or token ids, mask and types [batch, sequence].

    In batches of two and more the later halves of odd BERT samples are masked, as padding would be.
    """
    rng = np.random.default_rng(seed)
    if name != "bert":
        return {"input": random_images(rng, batch)}
    mask = np.ones((batch, sequence), np.int64)
    mask[1::2, max(1, sequence // 2):] = 0
    types = np.zeros((batch, sequence), np.int64)
    types[:, sequence // 2:] = 1
    ids = rng.integers(0, VOCABULARY, (batch, sequence), dtype=np.int64)
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}


def model_path(name: str, cache: Path | None = None) -> Path:
    """Where the model lies, exported first if it does not."""
    path = (cache or default_cache()) / f"{name}-r{RECIPE}.onnx"
    if not path.exists():
        export_model(name, path)
    return path


def export_model(name: str, path: Path) -> None:
    """Exports one of `MODELS` to `path` with a symbolic batch (and, for BERT, sequence)."""
    try:
        import onnxscript  # noqa: F401
        import torch
        import transformers
    except ImportError as error:
        raise MissingExtraError.for_package(error.name or "torch", "models", "exporting benchmark models") from error

    torch.manual_seed(SEED)
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    module = _network(name, transformers)
    sample = {k: torch.from_numpy(v) for k, v in model_inputs(name, 2).items()}
    calibration = {k: torch.from_numpy(v) for k, v in model_inputs(name, 8, seed=SEED).items()}
    _scale_to_unit_order(module, tuple(calibration.values()))

    batch, sequence = torch.export.Dim("batch"), torch.export.Dim("seq")
    dynamic = {0: batch, 1: sequence} if name == "bert" else {0: batch}
    outputs = ["last_hidden_state", "pooler_output"] if name == "bert" else ["logits"]
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.onnx.export(
            module, tuple(sample.values()), str(temporary), dynamo=True, dynamic_shapes=(dynamic,) * len(sample),
            input_names=list(sample), output_names=outputs, external_data=False, verbose=False,
        )
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"cannot write {path}", why=str(error), do="choose another folder with --cache") from error
    finally:
        temporary.unlink(missing_ok=True)


def _network(name: str, transformers: Any) -> Any:
    """The network in evaluation mode, with positional tensor inputs and tensor outputs."""
    import torch

    class Images(torch.nn.Module):
        def __init__(self, model: Any) -> None:
            super().__init__()
            self.model = model

        def forward(self, pixels: Any) -> Any:
            return self.model(pixel_values=pixels).logits

    class Tokens(torch.nn.Module):
        def __init__(self, model: Any) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids: Any, mask: Any, types: Any) -> Any:
            out = self.model(input_ids=ids, attention_mask=mask, token_type_ids=types)
            return out.last_hidden_state, out.pooler_output

    make: dict[str, Callable[[], Any]] = {
        "resnet50": lambda: Images(transformers.ResNetForImageClassification(
            transformers.ResNetConfig(num_labels=1000))),
        "mobilenetv2": lambda: Images(transformers.MobileNetV2ForImageClassification(
            transformers.MobileNetV2Config(num_labels=1001))),
        "vit": lambda: Images(transformers.ViTForImageClassification(transformers.ViTConfig(num_labels=1000))),
        "bert": lambda: Tokens(transformers.BertModel(transformers.BertConfig())),
    }
    return make[name]().eval()


def _scale_to_unit_order(module: Any, batch: tuple[Any, ...]) -> None:
    """One forward pass over `batch` in which each layer, when reached, is drawn anew and scaled to unit order.

    Convolutions and linear layers: weights so that the output's standard deviation is one, small biases.
    Query and key projections 1.5, so that attention prefers some positions. Layer norms: scale in
    [0.5, 1.5], small shifts. Batch norms: statistics of the batch, scale in [0.5, 1.5] (0.3 of that at the end
    of a ResNet branch), shifts around one.
    """
    import torch

    def linear_hook(gain: float) -> Callable[..., Any]:
        def hook(layer: Any, inputs: Any, output: Any) -> Any:
            if layer.bias is None:
                layer.weight.mul_(gain / output.std())
                return output * (gain / output.std())
            channels = (-1, 1, 1) if output.dim() == 4 else (-1,)
            output = output - layer.bias.view(channels)
            factor = gain / output.std()
            layer.weight.mul_(factor)
            layer.bias.normal_(0, 0.1)
            return output * factor + layer.bias.view(channels)
        return hook

    def batchnorm_hook(layer: Any, inputs: Any) -> None:
        x = inputs[0].transpose(0, 1).flatten(1)
        layer.running_mean.copy_(x.mean(1))
        layer.running_var.copy_(x.var(1))

    handles = []
    layers = [(n, m) for n, m in module.named_modules()
              if isinstance(m, torch.nn.Conv2d | torch.nn.Linear | torch.nn.BatchNorm2d | torch.nn.LayerNorm
                            | torch.nn.Embedding)]
    with torch.no_grad():
        for parameter_name, parameter in module.named_parameters():
            if re.search(r"cls_token|position_embeddings", parameter_name):
                parameter.normal_(0, 0.5)
        for name, layer in layers:
            if isinstance(layer, torch.nn.Embedding):
                layer.weight.normal_(0, 1.0 if "word" in name else 0.5)
            elif isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
                layer.weight.normal_()
                gain = 1.5 if re.search(r"query|key|[qk]_proj", name) else 1.0
                handles.append(layer.register_forward_hook(linear_hook(gain)))
            elif isinstance(layer, torch.nn.LayerNorm):
                layer.weight.uniform_(0.5, 1.5)
                layer.bias.normal_(0, 0.2)
            else:
                branch = 0.3 if re.search(r"layer\.2\.normalization", name) else 1.0
                layer.weight.uniform_(0.5 * branch, 1.5 * branch)
                layer.bias.normal_(1.0, 0.2)
                handles.append(layer.register_forward_pre_hook(batchnorm_hook))
        module(*batch)
    for handle in handles:
        handle.remove()


def main() -> None:
    parser = argparse.ArgumentParser(description="Export the benchmark models.")
    parser.add_argument("models", nargs="*", default=list(MODELS), help=f"of {', '.join(MODELS)} (all)")
    parser.add_argument("--cache", type=Path, default=None, help=f"folder (default {default_cache()})")
    options = parser.parse_args()
    for name in options.models:
        if name not in MODELS:
            parser.error(f"no model {name!r}; there are {', '.join(MODELS)}")
        print(model_path(name, options.cache))


if __name__ == "__main__":
    main()
