"""The micro-kernels against float64, for every tile shape that the register file allows."""

import ctypes

import ml_dtypes
import numpy as np
import pytest
from harness import Guarded, allow_amx

from whet.targets.cpu import isa as isas
from whet.targets.cpu.compile import Jit, to_assembly
from whet.targets.cpu.llvm import Fn
from whet.targets.cpu.microkernel import Accumulators, Amx, dot_bf16, fma, packed_rows, shapes, strided_rows
from whet.targets.cpu.packing import pack_amx, pack_pairs, pack_panels

HOST = isas.host()
rng = np.random.default_rng(3)


def guarded(a: np.ndarray) -> Guarded:
    g = Guarded(a.nbytes, True, 64)
    g.bytes[:a.nbytes] = a.reshape(-1).view(np.uint8)
    return g


def call(k: Fn, isa: isas.Isa, *args: int) -> None:
    jit = Jit(isa, k.finish())
    table = (ctypes.c_int64 * len(args))(*args)
    jit.function(k.name)(ctypes.addressof(table), 0, 1, 0)


def kernel(isa: isas.Isa, mr: int, nv: int, product: object, name: str = "mk") -> Fn:
    k = Fn(name, isa)
    acc = Accumulators(k, mr, nv)
    acc.zero()
    product(k, acc)
    for r, j, v in acc.each():
        k.store(v, k.arg_ptr(2) + (r * nv + j) * isa.width)
    return k


@pytest.mark.parametrize("isa", {HOST.name: HOST, "avx2": isas.AVX2}.values(), ids=lambda i: i.name)
@pytest.mark.parametrize("depth", [1, 13])
def test_fma_is_exact_to_float32_rounding_for_best_shapes(isa: isas.Isa, depth: int) -> None:
    for mr, nv in shapes(isa)[:4]:
        a = rng.standard_normal((mr, depth)).astype(np.float32)
        b = rng.standard_normal((depth, nv * isa.lanes)).astype(np.float32)
        c = Guarded(mr * nv * isa.width, True, 64)
        for stride in ("static", "dynamic", "packed"):
            def product(k: Fn, acc: Accumulators, mr: int = mr, stride: str = stride) -> None:
                n = k.arg_int(3)
                if stride == "packed":
                    fma(k, acc, packed_rows(k.arg_ptr(0), mr), k.arg_ptr(1), n, a_step=4 * mr, unroll=3)
                else:
                    rows = strided_rows(k, k.arg_ptr(0), depth * 4 if stride == "static" else n * 4, mr)
                    fma(k, acc, rows, k.arg_ptr(1), depth if stride == "static" else n)
            am = guarded(np.ascontiguousarray(a.T) if stride == "packed" else a)
            bm = guarded(pack_panels(b, nv * isa.lanes))
            call(kernel(isa, mr, nv, product), isa, am.address, bm.address, c.address, depth)
            got = c.bytes.view(np.float32)[:mr * nv * isa.lanes].reshape(mr, nv * isa.lanes)
            np.testing.assert_allclose(got, a.astype(float) @ b, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(not HOST.bf16_dot, reason="no vdpbf16ps")
def test_bf16_dot_adds_pairs_in_float32() -> None:
    mr, nv, depth = 5, 3, 14
    a = rng.standard_normal((mr, depth)).astype(ml_dtypes.bfloat16)
    b = rng.standard_normal((depth, nv * 16)).astype(ml_dtypes.bfloat16)
    am, bm, c = guarded(a), guarded(pack_pairs(b, nv * 16)), Guarded(mr * nv * 64, True, 64)
    call(kernel(HOST, mr, nv, lambda k, acc: dot_bf16(
        k, acc, strided_rows(k, k.arg_ptr(0), depth * 2, mr), k.arg_ptr(1), k.arg_int(3))), HOST,
        am.address, bm.address, c.address, depth // 2)
    got = c.bytes.view(np.float32).reshape(mr, nv * 16)
    np.testing.assert_allclose(got, a.astype(float) @ b.astype(float), atol=1e-5)


@pytest.mark.skipif(not HOST.amx_bf16, reason="no AMX")
def test_amx_block_is_a_32_by_32_product() -> None:
    allow_amx()
    depth = 96
    a = rng.standard_normal((32, depth)).astype(ml_dtypes.bfloat16)
    b = rng.standard_normal((depth, 32)).astype(ml_dtypes.bfloat16)
    am, bm, c = guarded(a), guarded(pack_amx(b)), Guarded(32 * 32 * 4, True, 64)
    k = Fn("amx", HOST)
    amx = Amx(k)
    amx.zero()
    pa, pb, pc = k.arg_ptr(0), k.arg_ptr(1), k.arg_ptr(2)
    amx.block([pa, pa + 16 * depth * 2], depth * 2, [pb, pb + k.arg_int(3) * 1024], k.arg_int(3), unroll=2)
    for i in range(2):
        for j in range(2):
            amx.store(i * 2 + j, pc + (i * 16 * 128 + j * 64), 128)
    amx.release()
    call(k, HOST, am.address, bm.address, c.address, depth // 32)
    np.testing.assert_allclose(c.bytes.view(np.float32).reshape(32, 32), a.astype(float) @ b.astype(float), atol=1e-4)


def test_neon_multiplies_by_lane_with_no_spills() -> None:
    k = kernel(isas.NEON, 8, 2, lambda k, acc: fma(
        k, acc, strided_rows(k, k.arg_ptr(0), 4096, 8), k.arg_ptr(1), k.arg_int(3)))
    text = to_assembly(k.finish(), isas.NEON)
    assert "fmla" in text
    assert "Spill" not in text


def test_shapes_fit_the_registers_and_start_with_the_squarest() -> None:
    for isa in (isas.AVX512, isas.AVX2, isas.NEON):
        for mr, nv in shapes(isa):
            assert mr * nv + nv + 1 <= isa.registers
        mr, nv = shapes(isa)[0]
        assert mr * nv >= isa.registers * 0.6
