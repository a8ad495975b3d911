"""Which codes a model gets on a GPU, and what becomes of fp16 where outputs break."""

from types import SimpleNamespace

import numpy as np
import pytest

from precision.test_insert import built, residual, transformer
from whet import quantizing
from whet.ir.dtypes import DType
from whet.quantizing import Quantization, checked, code_type


def builder(target: str = "cuda", codes=("int8", "fp8")):
    return SimpleNamespace(target=SimpleNamespace(name=target), codes=codes)


@pytest.mark.parametrize(("network", "codes", "asked", "want"), [
    (residual, ("int8", "fp8"), "", DType.I8), (transformer, ("int8", "fp8"), "", DType.F8E4M3FN),
    (residual, ("fp8",), "", DType.F8E4M3FN), (transformer, ("int8",), "", DType.I8),
    (residual, ("int8",), "u8", DType.U8)])
def test_codes_on_a_gpu(network, codes, asked, want):
    assert code_type(builder(codes=codes), built(network), Quantization(activations=asked)) is want


def test_codes_on_a_cpu_have_a_zero_point():
    assert code_type(builder("cpu", ("int8",)), built(residual), Quantization()) is DType.U8
    assert code_type(builder("cpu", ()), built(residual), Quantization(activations="i8")) is DType.I8


class Building:
    """Plans are the precisions that they are of."""

    def __init__(self, compute: str, wide: str, here: bool = True) -> None:
        self.compute, self.wide, self.runs_here, self.note = compute, wide, here, ""
        self.stages: list[str] = []

    def ran(self, name, **facts):
        self.stages.append(name)

    def plan(self, graphs, compute="", opt_level=None):
        return compute or self.compute


@pytest.fixture
def outputs(monkeypatch):
    """By precision, what the evaluated outputs are."""
    found: dict[str, np.ndarray] = {}

    class Evaluation:
        def __init__(self, *args):
            pass

        def outputs(self, plan):
            return found[plan]

    monkeypatch.setattr(quantizing, "Evaluation", Evaluation)
    monkeypatch.setattr(quantizing, "open_data", lambda *args, **more: None)
    return found


def test_fp16_that_makes_infinities_gives_way_to_the_next_precision(outputs):
    outputs |= {"fp16": np.array([[1.0, np.inf], [np.nan, 2.0], [3.0, 4.0]]),
                "fp32": np.array([[1.0, np.inf], [1.0, 2.0], [3.0, 4.0]])}
    b = Building("fp16", "tf32")
    assert checked(b, [built(residual)], Quantization(evaluation="data")) == "tf32"
    assert b.note == "fp16 gives NaN or infinity for 1 of 3 samples: tf32 is used"


def test_infinities_that_fp32_has_too_are_the_models_own(outputs):
    outputs |= {"fp16": np.array([[np.inf]]), "fp32": np.array([[np.inf]])}
    b = Building("fp16", "fp32")
    assert checked(b, [built(residual)], Quantization(evaluation="data")) == "fp16"
    assert b.note == ""


def test_without_data_or_a_machine_nothing_is_run():
    assert checked(Building("fp16", "fp32"), [built(residual)], Quantization()) == "fp16"
    assert checked(Building("fp16", "fp32", here=False), [built(residual)], Quantization(evaluation="d")) == "fp16"
