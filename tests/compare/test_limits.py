"""The hardware's limits are rates of the machine: positive, and products of less precision are no slower."""

from whet.compare.limits import measured_limits


def test_limits_are_rates() -> None:
    found = measured_limits(2, seconds=0.02)
    assert found.fp32 > 1e8
    assert found.bf16 >= found.fp32
    assert found.copy > 1e7
    assert found.flops("bf16") == found.bf16
    assert found.flops("int8") == found.int8 >= found.vnni >= found.fp32
    assert found.flops("fp32") == found.fp32
