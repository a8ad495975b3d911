"""PyTorch modules become graphs by way of ONNX; networks of the four benchmark families match ONNX Runtime."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx_cases import by_onnxruntime, distance

from whet.errors import InputError, MissingExtraError, UnsupportedError
from whet.frontends import load_model
from whet.frontends.torch import export
from whet.ir import interpret, symbol, verify


def test_without_pytorch_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError) as e:
        export(object(), (1,))
    assert "whet[models]" in e.value.do


@pytest.fixture
def torch() -> Any:
    pytest.importorskip("onnxscript")
    warnings.simplefilter("ignore")
    return pytest.importorskip("torch")


@pytest.mark.models
def test_a_module_is_exported_in_inference_mode_and_left_in_its_own(torch: Any) -> None:
    net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Dropout(0.5), torch.nn.ReLU())
    x = torch.randn(2, 4)
    graph = load_model(export(net, x))
    (name,) = (v.name for v in graph.inputs)
    (y,) = interpret(graph, {name: x.numpy()}).values()
    assert net.training
    np.testing.assert_allclose(y, net.eval()(x).detach().numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.models
def test_example_inputs_are_needed(torch: Any) -> None:
    with pytest.raises(InputError, match="example inputs"):
        export(torch.nn.ReLU(), None)


@pytest.mark.models
def test_a_module_that_cannot_be_traced_is_unsupported(torch: Any) -> None:
    class Odd(torch.nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, x: Any) -> Any:
            return x * 2 if float(x.sum()) > 0 else x

    with pytest.raises(UnsupportedError, match="cannot export"):
        export(Odd(), torch.randn(2))


def family(name: str, torch: Any) -> tuple[Any, tuple[Any, ...], Any, list[str], list[str]]:
    """A small network of a benchmark family: (module, example inputs, dynamic shapes, input and output names)."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    dim = torch.export.Dim
    if name == "bert":
        config = transformers.BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
                                         intermediate_size=64, vocab_size=100, max_position_embeddings=64)
        net = transformers.BertModel(config)

        class Text(torch.nn.Module):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                super().__init__()
                self.net = net

            def forward(self, ids: Any, mask: Any) -> Any:
                return self.net(input_ids=ids, attention_mask=mask).last_hidden_state

        ids = torch.randint(0, 100, (2, 8))
        shape = {0: dim("batch"), 1: dim("seq", max=64)}
        return Text(), (ids, torch.ones_like(ids)), (shape, shape), ["ids", "mask"], ["hidden"]
    if name == "vit":
        net = transformers.ViTForImageClassification(transformers.ViTConfig(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, image_size=32,
            patch_size=8, num_labels=10))
    elif name == "resnet":
        net = transformers.ResNetForImageClassification(transformers.ResNetConfig(
            embedding_size=8, hidden_sizes=[16, 32], depths=[1, 1], num_labels=10))
    else:
        net = transformers.MobileNetV2ForImageClassification(transformers.MobileNetV2Config(
            depth_multiplier=0.25, num_labels=10, image_size=32))
    for m in net.modules():  # default statistics hide errors
        if isinstance(m, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(m.running_mean, -0.1, 0.1)
            torch.nn.init.uniform_(m.running_var, 0.5, 1.5)

    class Image(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Any) -> Any:
            return self.net(pixel_values=x).logits

    return Image(), (torch.randn(2, 3, 32, 32),), ({0: dim("batch")},), ["x"], ["logits"]


@pytest.mark.models
@pytest.mark.parametrize("name", ["bert", "vit", "resnet", "mobilenet"])
def test_families_match_onnx_runtime_at_several_sizes(name: str, torch: Any, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    net, example, dynamic, inputs, outputs = family(name, torch)
    path = tmp_path / "model.onnx"
    path.write_bytes(export(net, example, dynamic_shapes=dynamic, input_names=inputs,
                            output_names=outputs).SerializeToString())
    graph = load_model(path)
    verify(graph)
    assert not any(n.op in ("onnx", "dims") for n in graph.nodes)
    rng = np.random.default_rng(0)
    for batch, length in ((1, 8), (3, 13)):
        if name == "bert":
            mask = (rng.random((batch, length)) < 0.8).astype(np.int64)
            mask[:, 0] = 1
            feeds = {"ids": rng.integers(0, 100, (batch, length)), "mask": mask}
            assert graph.outputs[0].shape == (symbol("batch"), symbol("seq"), 32)
        else:
            feeds = {"x": rng.standard_normal((batch, 3, 32, 32)).astype(np.float32)}
        (got,), (want,) = interpret(graph, feeds).values(), by_onnxruntime(str(path), feeds)
        assert distance(got, want) < 1e-5
