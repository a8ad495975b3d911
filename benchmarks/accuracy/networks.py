"""The networks that are trained, small enough to be committed: PyTorch modules in the forms that real models have."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.accuracy.data import CATEGORIES, FEATURES, GLYPHS, SHAPES
from benchmarks.accuracy.reviews import CLASSES, LENGTH, WORDS


def _conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1,
          activation: type[nn.Module] | None = nn.ReLU) -> nn.Sequential:
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(outputs)]
    return nn.Sequential(*layers, *([activation()] if activation else []))


class Residual(nn.Module):
    """Two 3x3 convolutions beside a way around."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(_conv(channels, channels), _conv(channels, channels, activation=None))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.body(x))


def convolutional() -> nn.Module:
    """Glyphs [batch, 1, 32, 32] -> logits [batch, 20]: plain 3x3 convolutions and one residual block."""
    return nn.Sequential(
        _conv(1, 16), nn.MaxPool2d(2), _conv(16, 32), nn.MaxPool2d(2), Residual(32), _conv(32, 56), nn.MaxPool2d(2),
        _conv(56, 56, kernel=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.1), nn.Linear(56, len(GLYPHS)))


class Excitation(nn.Module):
    """Squeeze and excitation (Hu et al., 2018), with a hard sigmoid as in MobileNetV3."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, channels // 4, 1), nn.ReLU(),
                                  nn.Conv2d(channels // 4, channels, 1), nn.Hardsigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)


class Inverted(nn.Module):
    """The inverted residual of MobileNetV3 (Howard et al., 2019): wide, depthwise, excited, narrow."""

    def __init__(self, inputs: int, outputs: int, stride: int, activation: type[nn.Module]) -> None:
        super().__init__()
        wide = inputs * 3
        self.around = stride == 1 and inputs == outputs
        self.body = nn.Sequential(
            _conv(inputs, wide, kernel=1, activation=activation),
            _conv(wide, wide, kernel=3, stride=stride, groups=wide, activation=activation), Excitation(wide),
            _conv(wide, outputs, kernel=1, activation=None))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.around else self.body(x)


def depthwise() -> nn.Module:
    """Shapes [batch, 3, 32, 32] -> logits [batch, 12]: inverted residuals with ReLU6, then hard swish."""
    return nn.Sequential(
        _conv(3, 16, stride=2, activation=nn.Hardswish),
        Inverted(16, 16, 1, nn.ReLU6), Inverted(16, 24, 2, nn.ReLU6), Inverted(24, 24, 1, nn.ReLU6),
        Inverted(24, 40, 2, nn.Hardswish), Inverted(40, 40, 1, nn.Hardswish),
        _conv(40, 120, kernel=1, activation=nn.Hardswish), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.1),
        nn.Linear(120, len(SHAPES)))


class Tabular(nn.Module):
    """Features [batch, 24], as they are, -> logits [batch, 8]: standardized inside, then a multi-layer perceptron."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, mean: Tensor, deviation: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)
        self.body = nn.Sequential(
            nn.Linear(FEATURES, 160), nn.ReLU(), nn.Linear(160, 160), nn.ReLU(), nn.Linear(160, 64), nn.GELU(),
            nn.Linear(64, CATEGORIES))

    def forward(self, x: Tensor) -> Tensor:
        return self.body((x - self.mean) / self.deviation)


class Block(nn.Module):
    """A pre-norm transformer block (attention without causality, GELU)."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_hidden = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.hidden = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        batch, length, width = x.shape
        q, k, v = (t.reshape(batch, length, self.heads, -1).transpose(1, 2)
                   for t in self.qkv(self.before_attention(x)).chunk(3, -1))
        scores = q @ k.transpose(-1, -2) * (width // self.heads) ** -0.5
        mixed = torch.softmax(scores + mask[:, None, None, :], -1) @ v
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        return x + self.hidden(self.before_hidden(x))


class Transformer(nn.Module):
    """Token ids [batch, 32] -> logits [batch, 3]: two blocks, the mean over what is not padding, a linear layer."""

    def __init__(self, width: int = 64, hidden: int = 96) -> None:
        super().__init__()
        self.words = nn.Embedding(len(WORDS), width)
        self.places = nn.Parameter(0.1 * torch.randn(LENGTH, width))
        self.blocks = nn.ModuleList([Block(width, 4, hidden) for _ in range(2)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, ids: Tensor) -> Tensor:
        present = (ids != 0).to(torch.float32)
        x = self.words(ids) + self.places
        for block in self.blocks:
            x = block(x, (1 - present) * -1e4)
        present = present[:, :, None]
        return self.head((self.norm(x) * present).sum(1) / present.sum(1))
