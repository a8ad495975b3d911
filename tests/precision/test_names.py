"""What the names of precisions mean on each target."""

import numpy as np
import pytest

from precision.test_methods import seen
from whet.errors import UnsupportedError
from whet.precision.cache import Calibration, Tensor
from whet.precision.names import NAMES, choose
from whet.precision.overflow import layers_beyond
from whet.targets.cpu.target import CpuTarget
from whet.targets.cuda.gpu import typical
from whet.targets.cuda.target import CudaTarget

H100, A100, T4 = (CudaTarget(typical(c)) for c in ((9, 0), (8, 0), (7, 5)))


@pytest.mark.parametrize(("asked", "compute", "wide", "codes"), [
    ({"fp32"}, "fp32", "fp32", ()), ({"tf32"}, "tf32", "fp32", ()), ({"fp16"}, "fp16", "fp32", ()),
    ({"bf16"}, "bf16", "fp32", ()), ({"fp16", "bf16"}, "fp16", "bf16", ()), ({"fp16", "tf32"}, "fp16", "tf32", ()),
    ({"int8"}, "fp32", "fp32", ("int8",)), ({"fp8", "fp16"}, "fp16", "fp32", ("fp8",)),
    ({"best"}, "fp16", "tf32", ("int8", "fp8"))])
def test_on_a_gpu(asked, compute, wide, codes):
    chosen = choose(asked, H100)
    assert (chosen.compute, chosen.wide, chosen.codes, chosen.note) == (compute, wide, codes, "")
    assert chosen.allowed >= {"fp32"}


def test_what_the_hardware_lacks_is_a_note_or_where_it_is_forced_an_error():
    chosen = choose({"fp8", "fp16"}, A100)
    assert (chosen.compute, chosen.codes) == ("fp16", ())
    assert "fp8 was allowed but not used: sm_80" in chosen.note
    assert "sm_89" in chosen.note
    with pytest.raises(UnsupportedError, match="no fp8 products on sm_80"):
        choose({"fp8"}, A100, force=True)
    assert choose({"bf16"}, T4).compute == "fp32"
    assert choose({"best"}, T4, force=True).compute == "fp16"
    with pytest.raises(UnsupportedError, match="bf16"):
        choose({"bf16"}, T4, force=True)


def test_on_a_cpu():
    cpu = CpuTarget.of_host(1)
    chosen = choose({"tf32", "fp8"}, cpu)
    assert (chosen.compute, chosen.codes) == ("fp32", ())
    assert "fp8 and tf32 was allowed but not used" in chosen.note
    with pytest.raises(UnsupportedError, match="tf32"):
        choose({"tf32"}, cpu, force=True)
    assert choose({"best"}, cpu).codes == ("int8",)


@pytest.mark.parametrize("target", [H100, CpuTarget.of_host(1)])
def test_a_name_that_there_is_not(target):
    with pytest.raises(UnsupportedError, match="no precision fp4"):
        choose({"fp4"}, target)
    assert set(NAMES) >= choose({"best"}, target).allowed


def test_layers_that_read_what_fp16_cannot_hold_are_named_with_the_reason():
    tensors = {"a": Tensor("first", seen(np.linspace(-1, 1, 99))), "b": Tensor("second, third#2", seen([1.0, 1e5])),
               "c": Tensor("fourth", seen([-3e4, 2.0]))}
    found = layers_beyond(Calibration(tensors, 1, 1))
    assert set(found) == {"second", "third", "fourth"}
    assert "beyond" in found["second"]
    assert "within a factor" in found["fourth"]
