"""Networks of families that `transformers` has no small class for, as PyTorch modules (so it needs PyTorch)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class SqueezeExcite(nn.Module):
    """Channels scaled by a gate of their means (Hu et al., 2018), with MobileNetV3's hard sigmoid."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, channels // 4, 1), nn.Conv2d(channels // 4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.up(functional.relu(self.down(functional.adaptive_avg_pool2d(x, 1))))
        return x * functional.hardsigmoid(gate)


class InvertedResidual(nn.Module):
    """Expansion, depthwise convolution, gate and projection (Howard et al., "Searching for MobileNetV3", 2019)."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int, gated: bool, act: type[nn.Module]) -> None:
        super().__init__()
        hidden = channels * 4
        self.same = stride == 1 and channels == out
        self.body = nn.Sequential(
            nn.Conv2d(channels, hidden, 1, bias=False), nn.BatchNorm2d(hidden), act(),
            nn.Conv2d(hidden, hidden, kernel, stride, kernel // 2, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden), act(), SqueezeExcite(hidden) if gated else nn.Identity(),
            nn.Conv2d(hidden, out, 1, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.same else self.body(x)


class MobileNetV3(nn.Module):
    """A small MobileNetV3: images [N, 3, H, W] -> logits [N, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.Hardswish(),
            InvertedResidual(8, 8, 3, 1, True, nn.ReLU), InvertedResidual(8, 16, 5, 2, True, nn.Hardswish),
            InvertedResidual(16, 16, 3, 1, False, nn.Hardswish), nn.Conv2d(16, 32, 1), nn.Hardswish())
        self.head = nn.Sequential(nn.Linear(32, 32), nn.Hardswish(), nn.Dropout(0.2), nn.Linear(32, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(functional.adaptive_avg_pool2d(self.features(x), 1).flatten(1))


def conv(i: int, o: int, kernel: int = 1, stride: int = 1) -> nn.Sequential:
    """Convolution, batch norm and SiLU, as YOLO's blocks have it."""
    return nn.Sequential(nn.Conv2d(i, o, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(o), nn.SiLU())


class CrossStage(nn.Module):
    """YOLOv8's C2f: halves, bottlenecks on one of them, and all that was met concatenated."""

    def __init__(self, i: int, o: int, depth: int) -> None:
        super().__init__()
        self.half = o // 2
        self.into, self.out = conv(i, o), conv((2 + depth) * self.half, o)
        self.blocks = nn.ModuleList(
            nn.Sequential(conv(self.half, self.half, 3), conv(self.half, self.half, 3)) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.into(x).split((self.half, self.half), 1))
        for block in self.blocks:
            parts.append(parts[-1] + block(parts[-1]))
        return self.out(torch.cat(parts, 1))


class PyramidPool(nn.Module):
    """SPPF: three max pools in a row, all concatenated."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.into, self.out = conv(channels, channels // 2), conv(channels * 2, channels)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.into(x)]
        for _ in range(3):
            parts.append(functional.max_pool2d(parts[-1], 5, 1, 2))
        return self.out(torch.cat(parts, 1))


class Yolo(nn.Module):
    """A small detector in YOLOv8's manner: images [N, 3, H, W], H and W multiples of 16, to boxes
    [N, anchors, 4] (left, top, right, bottom in pixels) and scores [N, classes, anchors]."""

    BINS = 8

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.classes = classes
        self.stem = nn.Sequential(conv(3, 8, 3, 2), conv(8, 16, 3, 2), CrossStage(16, 16, 1))
        self.deep = nn.Sequential(conv(16, 32, 3, 2), CrossStage(32, 32, 1))
        self.deeper = nn.Sequential(conv(32, 32, 3, 2), CrossStage(32, 32, 1), PyramidPool(32))
        self.top = CrossStage(64, 32, 1)
        self.down, self.bottom = conv(32, 32, 3, 2), CrossStage(64, 32, 1)
        self.heads = nn.ModuleList(
            nn.Sequential(conv(32, 32, 3), nn.Conv2d(32, 4 * self.BINS + classes, 1)) for _ in range(2))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        middle = self.deep(self.stem(x))
        low = self.deeper(middle)
        high = self.top(torch.cat((functional.interpolate(low, scale_factor=2.0), middle), 1))
        levels = [high, self.bottom(torch.cat((self.down(high), low), 1))]
        boxes, scores = zip(*(self.decode(head(level), 8 * 2**i)
                              for i, (head, level) in enumerate(zip(self.heads, levels))))
        return torch.cat(boxes, 1), torch.cat(scores, 2)

    def decode(self, y: Tensor, stride: int) -> tuple[Tensor, Tensor]:
        n, _, h, w = y.shape
        sides, logits = y.split((4 * self.BINS, self.classes), 1)
        bins = torch.arange(self.BINS, dtype=y.dtype).view(1, 1, self.BINS, 1)
        sides = (sides.reshape(n, 4, self.BINS, h * w).softmax(2) * bins).sum(2)  # [n, 4, h*w]
        ys, xs = torch.meshgrid(torch.arange(h, dtype=y.dtype) + 0.5, torch.arange(w, dtype=y.dtype) + 0.5,
                                indexing="ij")
        centre = torch.stack((xs, ys)).reshape(1, 2, h * w)
        boxes = torch.cat((centre - sides[:, :2], centre + sides[:, 2:]), 1) * stride
        return boxes.transpose(1, 2), logits.reshape(n, self.classes, h * w).sigmoid()


class ResBlock(nn.Module):
    """Group norm, SiLU, convolution, twice, with the time embedding added between, as in diffusion U-Nets."""

    def __init__(self, i: int, o: int, time: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(4, i), nn.Conv2d(i, o, 3, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(4, o), nn.Conv2d(o, o, 3, padding=1)
        self.time = nn.Linear(time, o)
        self.skip = nn.Conv2d(i, o, 1) if i != o else nn.Identity()

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        y = self.conv1(functional.silu(self.norm1(x)))
        y = y + self.time(functional.silu(t))[:, :, None, None]
        return self.skip(x) + self.conv2(functional.silu(self.norm2(y)))


class SpatialAttention(nn.Module):
    """Self-attention over the pixels of [N, C, H, W]."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.qkv = nn.GroupNorm(4, channels), nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        y = self.norm(x).reshape(n, c, h * w).transpose(1, 2)
        q, k, v = self.qkv(y).reshape(n, h * w, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        y = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, h * w, c)
        return x + self.out(y).transpose(1, 2).reshape(n, c, h, w)


class UNet(nn.Module):
    """A diffusion U-Net: images [N, 4, H, W], H and W even, and times [N] to images [N, 4, H, W]."""

    def __init__(self) -> None:
        super().__init__()
        time = 32
        self.embed = nn.Sequential(nn.Linear(16, time), nn.SiLU(), nn.Linear(time, time))
        self.into = nn.Conv2d(4, 16, 3, padding=1)
        self.left, self.down = ResBlock(16, 16, time), nn.Conv2d(16, 16, 3, 2, 1)
        self.low, self.attention, self.low2 = ResBlock(16, 32, time), SpatialAttention(32, 4), ResBlock(32, 32, time)
        self.up = nn.Conv2d(32, 32, 3, padding=1)
        self.right = ResBlock(48, 16, time)
        self.norm, self.out = nn.GroupNorm(4, 16), nn.Conv2d(16, 4, 3, padding=1)

    def forward(self, x: Tensor, times: Tensor) -> Tensor:
        rates = torch.exp(torch.arange(8, dtype=torch.float32) * -1.1513)
        angles = times[:, None].float() * rates[None]
        t = self.embed(torch.cat((angles.sin(), angles.cos()), -1))
        x = self.into(x)
        left = self.left(x, t)
        y = self.low2(self.attention(self.low(self.down(left), t)), t)
        y = self.up(functional.interpolate(y, scale_factor=2.0, mode="nearest"))
        y = self.right(torch.cat((y, left), 1), t)
        return self.out(functional.silu(self.norm(y)))


class Tagger(nn.Module):
    """Embedding, bidirectional LSTM, a tag for each token: ids [N, S] -> [N, S, 9]."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(100, 16)
        self.lstm = nn.LSTM(16, 12, num_layers=2, batch_first=True, bidirectional=True)
        self.out = nn.Linear(24, 9)

    def forward(self, ids: Tensor) -> Tensor:
        return self.out(self.lstm(self.embed(ids))[0]).log_softmax(-1)


class Tabular(nn.Module):
    """Embeddings of categories beside numbers, into a multilayer perceptron: [N, 3] ids, [N, 5] -> [N, 2]."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(n, d) for n, d in ((7, 4), (12, 6), (100, 16)))
        self.norm = nn.BatchNorm1d(5)
        self.body = nn.Sequential(nn.Linear(31, 64), nn.ReLU(), nn.BatchNorm1d(64), nn.Linear(64, 32), nn.ELU(),
                                  nn.Linear(32, 2))

    def forward(self, categories: Tensor, numbers: Tensor) -> Tensor:
        known = [table(categories[:, i]) for i, table in enumerate(self.tables)]
        return self.body(torch.cat((*known, self.norm(numbers)), 1)).softmax(-1)
