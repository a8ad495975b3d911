"""Random weights for PyTorch modules that keep activations at unit order, so that a wrong kernel shows in the output.

The data-dependent initialization of Mishkin and Matas, "All you need is a good init" (2016), as `benchmarks.models`
does it, for the layers of every family.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn


def scale_to_unit_order(module: nn.Module, batch: tuple[Tensor, ...]) -> None:
    """One forward pass over `batch` in which each layer, when reached first, is scaled so that its output's root mean
    square is one; batch norms get the batch's statistics, norms scales in [0.5, 1.5]."""
    done: set[int] = set()

    def linear(layer: Any, inputs: Any, output: Tensor) -> Tensor | None:
        if id(layer) in done:
            return None
        done.add(id(layer))
        bias = layer.bias
        last = isinstance(layer, nn.Linear) or type(layer).__name__ == "Conv1D"
        shape = (-1,) if last else (-1, *[1] * (output.dim() - 2))
        plain = output if bias is None else output - bias.view(shape)
        factor = 1 / plain.square().mean().sqrt().clamp(min=1e-6)
        layer.weight.mul_(factor)
        if bias is None:
            return plain * factor
        bias.normal_(0, 0.1)
        return plain * factor + bias.view(shape)

    def statistics(layer: Any, inputs: Any) -> None:
        x = inputs[0].transpose(0, 1).flatten(1)
        layer.running_mean.copy_(x.mean(1))
        layer.running_var.copy_(x.var(1, correction=0).clamp(min=0.1))

    handles = []
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if re.search(r"cls_token|position_embeddings|layer_scale|relative_position_bias", name):
                parameter.normal_(0, 0.5)
        for name, layer in module.named_modules():
            norm = "norm" in type(layer).__name__.lower() and isinstance(getattr(layer, "weight", None), nn.Parameter)
            if isinstance(layer, nn.Embedding):
                layer.weight.normal_(0, 1.0 if "word" in name else 0.5)
            elif isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear) or type(layer).__name__ == "Conv1D":
                if not hasattr(layer, "parametrizations"):
                    layer.weight.normal_()
                    handles.append(layer.register_forward_hook(linear))
            elif norm:
                layer.weight.uniform_(0.5, 1.5)
                if getattr(layer, "bias", None) is not None:
                    layer.bias.normal_(0, 0.2)
                if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
                    handles.append(layer.register_forward_pre_hook(statistics))
        module(*batch)
    for handle in handles:
        handle.remove()
