"""The hardware-limit kernels run, and no figure that they give is absurd."""

import time

import numpy as np
import pytest
from harness import Guarded, allow_amx

from whet.targets.base import Kernel
from whet.targets.cpu import isa as isas
from whet.targets.cpu.compile import Jit, to_assembly
from whet.targets.cpu.limits import STREAM, amx_peak, bf16_dot_peak, fma_peak, int8_dot_peak, stream

HOST = isas.host()


def per_second(kernel: Kernel, work: int) -> float:
    """Work per second of one tile, the best of a few runs."""
    jit = Jit(HOST, kernel.code)
    run = jit.function(kernel.symbol)
    memory, scratch = Guarded(2 * STREAM, True, 64), Guarded(max(64, kernel.scratch_bytes), True, 64)
    memory.bytes[:] = 0
    args = np.array([memory.address, memory.address + STREAM], np.int64)
    best = float("inf")
    for _ in range(4):
        start = time.perf_counter()
        run(args.ctypes.data, 0, 1, scratch.address)
        best = min(best, time.perf_counter() - start)
    return work / best


def test_a_core_multiplies_between_a_giga_and_a_teraflop() -> None:
    assert 1e9 < per_second(*fma_peak(HOST)) < 1e12


@pytest.mark.skipif(not HOST.bf16_dot, reason="no vdpbf16ps")
def test_bf16_dot_products_run() -> None:
    assert 1e9 < per_second(*bf16_dot_peak(HOST)) < 2e12


@pytest.mark.skipif(not HOST.amx_bf16, reason="no AMX")
@pytest.mark.alone
def test_tiles_multiply_faster_than_vectors() -> None:
    allow_amx()
    assert per_second(*fma_peak(HOST)) < per_second(*amx_peak(HOST)) < 2e13


@pytest.mark.skipif(not HOST.amx_int8, reason="no AMX for bytes")
@pytest.mark.alone
def test_tiles_of_bytes_multiply_faster_than_tiles_of_bf16() -> None:
    allow_amx()
    assert 1.2 * per_second(*amx_peak(HOST)) < per_second(*amx_peak(HOST, "tdpbusd")) < 4e13


@pytest.mark.skipif(not (HOST.vnni or HOST.avx_vnni), reason="no vpdpbusd")
@pytest.mark.alone
def test_dot_products_of_bytes_run() -> None:
    assert per_second(*fma_peak(HOST)) < per_second(*int8_dot_peak(HOST)) < 4e12


@pytest.mark.parametrize("kind", ["read", "copy", "write"])
def test_memory_streams(kind: str) -> None:
    assert 1e8 < per_second(*stream(HOST, kind)) < 1e13


@pytest.mark.parametrize("isa", [isas.AVX2, isas.NEON], ids=lambda i: i.name)
def test_the_peak_loop_is_nothing_but_multiply_adds(isa: isas.Isa) -> None:
    text = to_assembly(fma_peak(isa)[0].code, isa)
    assert text.count("fmla" if isa is isas.NEON else "vfmadd") >= isa.registers - 4
    assert "Spill" not in text
