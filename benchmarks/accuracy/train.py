"""Trains the small models of the accuracy table and writes them as ONNX, with a record of where they come from.

    python benchmarks/accuracy/train.py [glyphs shapes table reviews] [--device cuda]

needs PyTorch and onnxscript; minutes a model on a core that is free. The files lie in `benchmarks/accuracy/models`,
beside `provenance.json`: the recipe, the versions, the accuracy that PyTorch found on the test set, and the digests of
the file and of the test set. On a CPU, same versions and same machine give the same file. A machine that cannot export
trains with `--states FOLDER`; `--states FOLDER --export` makes models of what it left there. The classifier of
`whet demo` is trained by `examples/train_digits.py`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import torch
from torch import nn

from benchmarks.accuracy import networks
from benchmarks.accuracy.data import Samples, Split, digest, glyphs, shapes, table
from benchmarks.accuracy.reviews import reviews

if TYPE_CHECKING:
    import onnx

FOLDER = Path(__file__).parent / "models"
SEED = 11
TEST = 12_000


@dataclass(frozen=True)
class Recipe:
    """How one model is trained: `samples` are drawn once and seen `epochs` times."""

    data: Callable[[Split, int], Samples]
    network: Callable[[np.ndarray], nn.Module]  # from the training inputs
    samples: int
    epochs: int
    rate: float
    batch: int = 128
    decay: float = 0.02
    inputs: str = "image"


RECIPES = {
    "glyphs": Recipe(glyphs, lambda x: networks.convolutional(), 40_000, 8, 8e-3),
    "shapes": Recipe(shapes, lambda x: networks.depthwise(), 40_000, 10, 8e-3),
    "table": Recipe(table, lambda x: networks.Tabular(*_moments(x)), 60_000, 10, 4e-3, inputs="features"),
    "reviews": Recipe(reviews, lambda x: networks.Transformer(), 50_000, 12, 3e-3, inputs="ids"),
}


def _moments(features: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(features.mean(0)), torch.from_numpy(features.std(0))


def train(recipe: Recipe, device: str = "cpu") -> nn.Module:
    """AdamW with a one-cycle schedule; the model in evaluation mode, on the CPU."""
    torch.manual_seed(SEED)
    torch.use_deterministic_algorithms(True, warn_only=device != "cpu")
    torch.set_num_threads(1)  # two that share a core with others take ten times as long
    images, labels = recipe.data("train", recipe.samples)
    model = recipe.network(images).to(device)
    x, y = torch.from_numpy(images).to(device), torch.from_numpy(labels).to(device)
    steps = -(-len(x) // recipe.batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.rate, weight_decay=recipe.decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.rate, total_steps=recipe.epochs * steps)
    for epoch in range(recipe.epochs):
        start, total = time.perf_counter(), 0.0
        for index in torch.randperm(len(x)).to(device).split(recipe.batch):
            loss = nn.functional.cross_entropy(model(x[index]), y[index], label_smoothing=0.02)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += float(loss.detach()) * len(index)
        print(f"  epoch {epoch + 1}: loss {total / len(x):.4f}, {time.perf_counter() - start:.0f} s", flush=True)
    return model.eval().cpu()


def predict(model: nn.Module, inputs: np.ndarray) -> np.ndarray:
    """The class of each sample."""
    with torch.no_grad():
        return torch.cat([model(part).argmax(1) for part in torch.from_numpy(inputs).split(500)]).numpy()


def export(model: nn.Module, sample: np.ndarray, name: str) -> onnx.ModelProto:
    """The model as ONNX with a symbolic batch, without the notes on where in which file each node came from."""
    program = torch.onnx.export(
        model, (torch.from_numpy(sample[:2]),), input_names=[name],
        output_names=["logits"], dynamic_shapes=({0: torch.export.Dim("batch")},), dynamo=True, verbose=False)
    assert program is not None
    return stripped(program.model_proto)


def stripped(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The same model with no `metadata_props` and no `doc_string`s."""
    for holder in (proto, proto.graph, *proto.graph.node, *proto.graph.value_info, *proto.graph.input,
                   *proto.graph.output, *proto.graph.initializer):
        del holder.metadata_props[:]
        holder.doc_string = ""
    return proto


def _keep(name: str, folder: Path, device: str) -> None:
    """Train a model and write its weights and how they came about, for `--export`."""
    print(name, flush=True)
    recipe = RECIPES[name]
    model = train(recipe, device)
    inputs, labels = recipe.data("test", TEST)
    print(f"  {(predict(model, inputs) == labels).mean():.2%} of {TEST}", flush=True)
    how = {"device": device, "torch": str(torch.__version__).split("+")[0], "numpy": np.__version__}
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"state": model.state_dict(), "how": how}, folder / f"{name}.pt")


def main() -> int:
    """Train, export, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=list(RECIPES))
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--states", type=Path, help="folder of <name>.pt: written, or with --export read")
    parser.add_argument("--export", action="store_true", help="do not train, export what lies in --states")
    o = parser.parse_args()
    if o.states and not o.export:
        for name in o.models:
            _keep(name, o.states, o.device)
        return 0
    o.folder.mkdir(parents=True, exist_ok=True)
    record = o.folder / "provenance.json"
    known = json.loads(record.read_text()) if record.exists() else {}
    for name in o.models:
        recipe = RECIPES[name]
        print(name, flush=True)
        start = time.perf_counter()
        how = {"device": o.device, "torch": torch.__version__.split("+")[0], "numpy": np.__version__}
        if o.export:
            kept = torch.load(o.states / f"{name}.pt", weights_only=True)
            how = kept["how"]
            model = recipe.network(recipe.data("train", recipe.samples)[0]).eval()
            model.load_state_dict(kept["state"])
        else:
            model = train(recipe, o.device)
        inputs, labels = recipe.data("test", TEST)
        accuracy = float((predict(model, inputs) == labels).mean())
        file = export(model, inputs, recipe.inputs).SerializeToString(deterministic=True)
        (o.folder / f"{name}.onnx").write_bytes(file)
        known[name] = {
            "sha256": hashlib.sha256(file).hexdigest(), "parameters": sum(p.numel() for p in model.parameters()),
            "test_samples": TEST, "test_digest": digest(inputs, labels), "test_accuracy": accuracy,
            "trained_by": "benchmarks/accuracy/train.py", "seed": SEED, "train_samples": recipe.samples,
            "epochs": recipe.epochs, **how}
        record.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
        print(f"  {accuracy:.2%} of {TEST}; {len(file) >> 10} KiB; {time.perf_counter() - start:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
