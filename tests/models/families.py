"""The families of networks that whet must build, as data: how each is made, at which sizes it runs, how near it comes.

Weights are random, from small configurations of `transformers` or the modules in `networks`, and scaled layer by layer
so that activations have unit order (`benchmarks.models`). Nothing here imports PyTorch until a family is exported.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, compose, helper

from benchmarks.models import random_images

Feeds = dict[str, np.ndarray]
Sizes = Mapping[str, int]

BATCH = {"batch": (1, 2, 4)}
TEXT = {**BATCH, "seq": (1, 16, 48)}
VOCABULARY = 100


@dataclass(frozen=True)
class Family:
    """One family.

    module:     makes the network: positional tensors in, a tensor or tuple of tensors out.
    feeds:      (generator, sizes) -> inputs by name.
    sizes:      the sizes that it is run at; the first is the one that it is exported at.
    dynamic:    {input: its dimensions}, an int for fixed ones, else an expression over the names of `ranges`.
    ranges:     the optimization profile: {name: (min, opt, max)}.
    exporter:   "dynamo", or "script" with `opset`.
    tolerance:  greatest relative L2 distance from ONNX Runtime.
    reference:  how many steps run by reference kernels, and `why` if any do.
    order:      an output whose rows the others follow, where their order is open: boxes of nearly equal scores.
    finish:     changes the exported model.
    """

    name: str
    module: Callable[[], Any]
    feeds: Callable[[np.random.Generator, Sizes], Feeds]
    sizes: tuple[Sizes, ...]
    dynamic: Mapping[str, tuple[str | int, ...]]
    ranges: Mapping[str, tuple[int, int, int]]
    exporter: str = "dynamo"
    opset: int | None = None
    tolerance: float = 1e-4
    reference: int = 0
    why: str = ""
    order: str = ""
    finish: Callable[[onnx.ModelProto], onnx.ModelProto] = lambda m: m


def export(family: Family, folder: Path) -> Path:
    """The family's model in `folder`, exported if it is not there."""
    path = folder / f"{family.name}.onnx"
    if path.exists():
        return path
    import torch
    import transformers
    from scaling import scale_to_unit_order

    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    example = family.feeds(np.random.default_rng(0), family.sizes[0])
    tensors = tuple(torch.from_numpy(v) for v in example.values())
    net = family.module().eval()
    with torch.no_grad():
        many = family.feeds(np.random.default_rng(1), {**family.sizes[0], "batch": 16})
        scale_to_unit_order(net, tuple(torch.from_numpy(v) for v in many.values()))
        outputs = net(*tensors)
    names = [f"y{i}" for i in range(len(outputs))] if isinstance(outputs, tuple) else ["y"]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    if family.exporter == "dynamo":
        dims: dict[str, Any] = {n: torch.export.Dim(n, min=r[0], max=r[2]) for n, r in family.ranges.items()}
        shapes = tuple({i: eval(d, {}, dims) for i, d in enumerate(family.dynamic[n]) if isinstance(d, str)}
                       for n in example)
        if type(net).__name__ == "Wrapped":
            shapes = (shapes,)  # of *tensors
        torch.onnx.export(net, tensors, str(temporary), dynamo=True, dynamic_shapes=shapes, input_names=list(example),
                          output_names=names, external_data=False, verbose=False, opset_version=family.opset)
    else:
        axes = {n: {i: d for i, d in enumerate(family.dynamic[n]) if isinstance(d, str)} for n in example}
        torch.onnx.export(net, tensors, str(temporary), dynamo=False, dynamic_axes=axes, input_names=list(example),
                          output_names=names, opset_version=family.opset)
    model = family.finish(onnx.load(temporary))
    temporary.unlink()
    onnx.save(model, path)
    return path


class Only:
    """A `transformers` model as a module of positional tensors: `Only(model, "pixel_values", outputs=("logits",))`."""

    def __new__(cls, model: Any, *inputs: str, outputs: tuple[str, ...], **constant: Any) -> Any:
        import torch

        class Wrapped(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.model = model

            def forward(self, *tensors: Any) -> Any:
                found = self.model(**dict(zip(inputs, tensors)), **constant)
                parts = tuple(found[o] for o in outputs)
                return parts if len(parts) > 1 else parts[0]

        return Wrapped()


def _hf(kind: str, inputs: tuple[str, ...], outputs: tuple[str, ...], settings: dict[str, Any],
        attention: str = "", **constant: Any) -> Callable[[], Any]:
    """Makes `transformers.<kind>` of its configuration class with these settings."""
    def make() -> Any:
        import transformers

        cls = getattr(transformers, kind)
        config = cls.config_class(**{k: v() if callable(v) else v for k, v in settings.items()})
        if attention:
            config._attn_implementation = attention
        return Only(cls(config), *inputs, outputs=outputs, **constant)
    return make


def _ours(kind: str) -> Callable[[], Any]:
    def make() -> Any:
        import networks

        return getattr(networks, kind)()
    return make


def _t5_decoder() -> Any:
    """The decoder's states for all of its ids, beside the encoder's states and mask."""
    import transformers

    config = transformers.T5Config(**GATED)
    config._attn_implementation = "eager"
    model = transformers.T5ForConditionalGeneration(config)
    return Only(model.decoder, "input_ids", "encoder_hidden_states", "encoder_attention_mask", outputs=STATES,
                use_cache=False)


def _whisper() -> Any:
    import transformers

    config = transformers.WhisperConfig(
        d_model=32, encoder_layers=2, encoder_attention_heads=4, encoder_ffn_dim=64, decoder_layers=1,
        decoder_attention_heads=4, decoder_ffn_dim=64, vocab_size=VOCABULARY, pad_token_id=0, bos_token_id=1,
        eos_token_id=2, decoder_start_token_id=1, num_mel_bins=16, max_source_positions=32)
    return Only(transformers.WhisperModel(config).encoder, "input_features", outputs=STATES)


# -- inputs -------------------------------------------------------------------------------------


def images(channels: int = 3) -> Callable[[np.random.Generator, Sizes], Feeds]:
    def feeds(rng: np.random.Generator, s: Sizes) -> Feeds:
        height, width = s.get("height", s.get("size", 32)), s.get("width", s.get("size", 32))
        whole = random_images(rng, s["batch"], max(height, width), channels)
        return {"x": np.ascontiguousarray(whole[:, :, :height, :width])}
    return feeds


def tokens(rng: np.random.Generator, s: Sizes) -> Feeds:
    """Ids and a mask [batch, seq]; the ends of odd samples are padding."""
    ids = rng.integers(0, VOCABULARY, (s["batch"], s["seq"]))
    mask = np.ones_like(ids)
    mask[1::2, s["seq"] // 2 + 1:] = 0
    return {"ids": ids, "mask": mask}


def _ids(rng: np.random.Generator, s: Sizes) -> Feeds:
    return {"ids": tokens(rng, s)["ids"]}


def _decoder(rng: np.random.Generator, s: Sizes) -> Feeds:
    """A decoder's ids [batch, seq], and the encoder's states [batch, source, 32] with their mask."""
    source = tokens(rng, {"batch": s["batch"], "seq": s["source"]})
    states = rng.standard_normal((s["batch"], s["source"], 32), dtype=np.float32)
    return {"ids": rng.integers(0, VOCABULARY, (s["batch"], s["seq"])), "states": states, "mask": source["mask"]}


def _diffusion(rng: np.random.Generator, s: Sizes) -> Feeds:
    return {**images(4)(rng, s), "times": rng.integers(0, 1000, s["batch"])}


def _table(rng: np.random.Generator, s: Sizes) -> Feeds:
    n = s["batch"]
    return {"categories": np.stack([rng.integers(0, k, n) for k in (7, 12, 100)], 1),
            "numbers": rng.standard_normal((n, 5), dtype=np.float32)}


def _waves(rng: np.random.Generator, s: Sizes) -> Feeds:
    return {"x": rng.standard_normal((s["batch"], s["samples"]), dtype=np.float32)}


def _mel(rng: np.random.Generator, s: Sizes) -> Feeds:
    return {"x": rng.standard_normal((s["batch"], 16, 64), dtype=np.float32)}


def with_nms(model: onnx.ModelProto) -> onnx.ModelProto:
    """The detector with NonMaxSuppression behind it: outputs `selected` [n, 3] and `found` [n, 4], the boxes kept."""
    (opset,) = [o.version for o in model.opset_import if not o.domain]
    boxes, scores = (o.name for o in model.graph.output)
    numbers = [helper.make_tensor("most", TensorProto.INT64, [1], [20]),
               helper.make_tensor("overlap", TensorProto.FLOAT, [1], [0.5]),
               helper.make_tensor("least", TensorProto.FLOAT, [1], [0.6]),
               helper.make_tensor("image", TensorProto.INT64, [2], [0, 2])]
    nodes = [helper.make_node("NonMaxSuppression", ["boxes", "scores", "most", "overlap", "least"], ["selected"]),
             helper.make_node("Gather", ["selected", "image"], ["place"], axis=1),
             helper.make_node("GatherND", ["boxes", "place"], ["found"])]
    tail = helper.make_model(helper.make_graph(
        nodes, "nms",
        [helper.make_tensor_value_info("boxes", TensorProto.FLOAT, ["batch", None, 4]),
         helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", None, None])],
        [helper.make_tensor_value_info("selected", TensorProto.INT64, [None, 3]),
         helper.make_tensor_value_info("found", TensorProto.FLOAT, [None, 4])], numbers),
        opset_imports=[helper.make_opsetid("", opset)], ir_version=model.ir_version)
    return compose.merge_models(model, tail, [(boxes, "boxes"), (scores, "scores")])


# -- the table ----------------------------------------------------------------------------------

LOGITS, STATES = ("logits",), ("last_hidden_state",)
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
WORDS = {**SMALL, "vocab_size": VOCABULARY, "max_position_embeddings": 64}
PICTURES = {**SMALL, "image_size": 32, "patch_size": 8, "num_labels": 10}
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "vocab_size": VOCABULARY}
GATED = {**T5, "feed_forward_proj": "gated-gelu"}


def _backbone() -> Any:
    import transformers

    return transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic",
                                     out_features=["stage2"])


def fixed(name: str, module: Callable[[], Any], **more: Any) -> Family:
    """Images of one size, any batch."""
    sizes = ({"batch": 2}, {"batch": 1}, {"batch": 3})
    return Family(name, module, images(), sizes, {"x": ("batch", 3, 32, 32)}, BATCH, **more)


def any_size(name: str, module: Callable[[], Any], multiple: int = 1, channels: int = 3, **more: Any) -> Family:
    """Images of any size that is a multiple of `multiple`, any batch."""
    k = multiple
    heights, widths = ((3 * k, 2 * k, 4 * k), (2 * k, 2 * k, 3 * k)) if k > 1 else ((64, 37, 96), (56, 53, 41))
    sizes = tuple({"batch": b, "height": h, "width": w} for b, h, w in zip((2, 1, 3), heights, widths))
    ranges = {**BATCH, "h": (2, 4, 6), "w": (2, 4, 6)} if k > 1 else {**BATCH, "h": (32, 64, 96), "w": (32, 64, 96)}
    dims = ("batch", channels, f"{k}*h" if k > 1 else "h", f"{k}*w" if k > 1 else "w")
    return Family(name, module, images(channels), sizes, {"x": dims}, ranges, **more)


def text(name: str, module: Callable[[], Any], **more: Any) -> Family:
    """Token ids and mask of any batch and length."""
    sizes = ({"batch": 2, "seq": 9}, {"batch": 1, "seq": 16}, {"batch": 3, "seq": 1}, {"batch": 4, "seq": 48})
    shape = ("batch", "seq")
    return Family(name, module, tokens, sizes, {"ids": shape, "mask": shape}, TEXT, **more)


IMAGE, TOKENS = ("pixel_values",), ("input_ids", "attention_mask")

FAMILIES: tuple[Family, ...] = (
    any_size("resnet", _hf("ResNetForImageClassification", IMAGE, LOGITS, {
        "embedding_size": 8, "hidden_sizes": [16, 32], "depths": [1, 2], "num_labels": 10})),
    any_size("convnext", _hf("ConvNextForImageClassification", IMAGE, LOGITS, {
        "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1], "num_labels": 10})),
    any_size("efficientnet", _hf("EfficientNetForImageClassification", IMAGE, LOGITS, {
        "width_coefficient": 0.25, "depth_coefficient": 0.3, "hidden_dim": 320, "num_labels": 10,
        "image_size": 64})),
    fixed("mobilenetv2", _hf("MobileNetV2ForImageClassification", IMAGE, LOGITS, {
        "depth_multiplier": 0.25, "num_labels": 10, "image_size": 32})),
    any_size("mobilenetv3", _ours("MobileNetV3")),
    any_size("regnet", _hf("RegNetForImageClassification", IMAGE, LOGITS, {
        "embedding_size": 8, "hidden_sizes": [16, 32, 32, 48], "depths": [1, 1, 2, 1], "groups_width": 8,
        "num_labels": 10})),
    fixed("vit", _hf("ViTForImageClassification", IMAGE, LOGITS, PICTURES)),
    fixed("deit", _hf("DeiTForImageClassificationWithTeacher", IMAGE, LOGITS, PICTURES)),
    fixed("swin", _hf("SwinForImageClassification", IMAGE, LOGITS, {
        "image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4],
        "window_size": 4, "num_labels": 10}, attention="eager")),
    any_size("segformer", _hf("SegformerForSemanticSegmentation", IMAGE, LOGITS, {
        "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 2, 4],
        "decoder_hidden_size": 32, "num_labels": 6}), multiple=32),
    any_size("detr", _hf("DetrForObjectDetection", IMAGE, ("logits", "pred_boxes"), {
        "use_timm_backbone": False, "use_pretrained_backbone": False, "backbone_config": _backbone, "backbone": None,
        "num_queries": 10, "encoder_layers": 1, "decoder_layers": 2, "d_model": 32, "encoder_ffn_dim": 64,
        "decoder_ffn_dim": 64, "encoder_attention_heads": 4, "decoder_attention_heads": 4, "num_labels": 5}),
        multiple=32),
    fixed("yolos", _hf("YolosForObjectDetection", IMAGE, ("logits", "pred_boxes"), {
        **SMALL, "image_size": [32, 32], "patch_size": 8, "num_detection_tokens": 7, "num_labels": 5})),
    any_size("yolo", _ours("Yolo"), multiple=16),
    any_size("yolo_nms", _ours("Yolo"), multiple=16, finish=with_nms, order="selected"),
    Family("unet", _ours("UNet"), _diffusion, tuple(
        {"batch": b, "height": h, "width": w} for b, h, w in ((2, 16, 12), (1, 8, 8), (3, 20, 24))),
        {"x": ("batch", 4, "2*h", "2*w"), "times": ("batch",)}, {**BATCH, "h": (2, 8, 12), "w": (2, 8, 12)}),
    text("bert", _hf("BertModel", TOKENS, ("last_hidden_state", "pooler_output"), WORDS)),
    text("distilbert", _hf("DistilBertForSequenceClassification", TOKENS, LOGITS, {
        "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "vocab_size": VOCABULARY,
        "max_position_embeddings": 64, "num_labels": 3})),
    text("roberta", _hf("RobertaForTokenClassification", TOKENS, LOGITS, {
        **WORDS, "num_labels": 4, "pad_token_id": 1, "type_vocab_size": 1})),
    text("t5_encoder", _hf("T5EncoderModel", TOKENS, STATES, T5, attention="eager")),
    Family("t5_decoder", _t5_decoder, _decoder, tuple(
        {"batch": b, "seq": s, "source": e} for b, s, e in ((2, 9, 5), (1, 1, 16), (3, 12, 7))),
        {"ids": ("batch", "seq"), "states": ("batch", "source", 32), "mask": ("batch", "source")},
        {**TEXT, "source": (1, 16, 48)}),
    text("gpt2", _hf("GPT2LMHeadModel", TOKENS, LOGITS, {
        "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "vocab_size": VOCABULARY}, use_cache=False)),
    text("llama", _hf("LlamaForCausalLM", TOKENS, LOGITS, {**WORDS, "num_key_value_heads": 2}, use_cache=False)),
    Family("whisper_encoder", _whisper, _mel,
           ({"batch": 2}, {"batch": 1}, {"batch": 3}), {"x": ("batch", 16, 64)}, BATCH),
    Family("wav2vec2", _hf("Wav2Vec2ForCTC", ("input_values",), LOGITS, {
        **SMALL, "vocab_size": 20, "conv_dim": [16, 16, 16], "conv_stride": [5, 2, 2], "conv_kernel": [10, 3, 3],
        "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}), _waves,
        ({"batch": 2, "samples": 1000}, {"batch": 1, "samples": 700}, {"batch": 3, "samples": 1413}),
        {"x": ("batch", "samples")}, {**BATCH, "samples": (400, 1000, 2000)}),
    Family("lstm_tagger", _ours("Tagger"), _ids, tuple(
        {"batch": b, "seq": s} for b, s in ((2, 9), (1, 1), (3, 20))),
           {"ids": ("batch", "seq")}, TEXT),
    Family("tabular", _ours("Tabular"), _table, ({"batch": 4}, {"batch": 1}, {"batch": 33}),
           {"categories": ("batch", 3), "numbers": ("batch", 5)}, {"batch": (1, 8, 64)}),
)


def variant(name: str, exporter: str, opset: int) -> Family:
    """A family by another exporter or for another opset."""
    (family,) = (f for f in FAMILIES if f.name == name)
    return replace(family, name=f"{name}-{exporter}-{opset}", exporter=exporter, opset=opset)


VARIANTS: tuple[Family, ...] = (
    variant("resnet", "script", 13), variant("bert", "script", 17), variant("llama", "script", 20),
    variant("gpt2", "dynamo", 23), variant("lstm_tagger", "script", 15),
)
