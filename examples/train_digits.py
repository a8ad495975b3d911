"""Trains the classifier of `whet demo` on scikit-learn's handwritten digits and writes it as ONNX.

    python examples/train_digits.py            (needs PyTorch and scikit-learn; a minute on two cores)

The digits are 8x8 images with 17 shades of grey. 540 of the 1,797 are held out before training and shipped
beside the model, in the order of a seeded shuffle. Same versions, same file.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

SEED = 7
HELD_OUT = 540
EPOCHS = 40
FOLDER = Path(__file__).parents[1] / "src" / "whet" / "demo"


class Separable(nn.Module):
    """A depthwise 3x3 and a pointwise convolution, each normalized, with a residual connection."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False), nn.BatchNorm2d(channels),
            nn.ReLU(), nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.body(x))


def network() -> nn.Module:
    """Images [batch, 1, 8, 8] in 0..1 -> logits [batch, 10]; about 130,000 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU(),
        Separable(64), nn.MaxPool2d(2),
        nn.Conv2d(64, 128, 3, padding=1, bias=False), nn.BatchNorm2d(128), nn.ReLU(),
        Separable(128), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(128, 10))


def data() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Training images and labels, held-out images and labels; float32 [n, 1, 8, 8] in 0..1 and int64 [n]."""
    digits = load_digits()
    images = (digits.images / 16).astype(np.float32)[:, None]
    order = np.random.default_rng(SEED).permutation(len(images))
    test, train = order[:HELD_OUT], order[HELD_OUT:]
    return images[train], digits.target[train].astype(np.int64), images[test], digits.target[test].astype(np.int64)


def train(images: np.ndarray, labels: np.ndarray) -> nn.Module:
    """AdamW with a one-cycle schedule; images are shifted by up to a pixel."""
    torch.manual_seed(SEED)
    torch.use_deterministic_algorithms(True)
    model = network()
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    batch = 64
    steps = -(-len(x) // batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=5e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=EPOCHS * steps)
    for epoch in range(EPOCHS):
        total = 0.0
        for index in torch.randperm(len(x)).split(batch):
            padded = nn.functional.pad(x[index], (1, 1, 1, 1))
            down, right = torch.randint(0, 3, (2,)).tolist()
            loss = nn.functional.cross_entropy(
                model(padded[:, :, down:down + 8, right:right + 8]), y[index], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += float(loss.detach()) * len(index)
        if epoch % 10 == 9:
            print(f"epoch {epoch + 1}: loss {total / len(x):.4f}")
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description="Train and export the demo's classifier.")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where to write digits.onnx and digits_test.npz")
    folder = parser.parse_args().folder

    images, labels, test_images, test_labels = data()
    model = train(images, labels)
    with torch.no_grad():
        correct = (model(torch.from_numpy(test_images)).argmax(1).numpy() == test_labels).mean()
    print(f"held-out accuracy {correct:.2%} of {len(test_labels)}")
    folder.mkdir(parents=True, exist_ok=True)
    program = torch.onnx.export(
        model, (torch.from_numpy(test_images[:2]),), input_names=["image"], output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch")},), dynamo=True, verbose=False)
    proto = program.model_proto
    for holder in (proto, proto.graph, *proto.graph.node, *proto.graph.value_info, *proto.graph.input,
                   *proto.graph.output, *proto.graph.initializer):
        del holder.metadata_props[:]  # where in which file each node came from
    (folder / "digits.onnx").write_bytes(proto.SerializeToString(deterministic=True))
    pixels = np.rint(test_images * 16).astype(np.uint8)
    np.savez_compressed(folder / "digits_test.npz", images=pixels, labels=test_labels.astype(np.uint8))


if __name__ == "__main__":
    main()
