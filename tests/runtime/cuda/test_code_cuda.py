"""The driver and the units of a plan, on a GPU."""

import numpy as np
import pytest

from targets.cuda.on_device import device, gpu, needs_cuda
from whet import abi_cuda
from whet.errors import DeviceMemoryError, FingerprintError, NoDeviceError
from whet.ir.dtypes import DType
from whet.runtime.cuda.code import Code
from whet.runtime.cuda.driver import Device
from whet.targets.base import In, Out
from whet.targets.cuda.compile import to_object
from whet.targets.cuda.kernel import Source


def scaled(rows: int = 1000, **options: object) -> bytes:
    """The object of y = 2 x."""
    s = Source("scale")
    x, y = s.pointer(In(0), DType.F32), s.pointer(Out(0), DType.F32)
    n = s.integer(rows)
    if options.get("launch_pdl"):
        s.line("tl.extra.cuda.gdc_wait()")
    s.line("i = tl.program_id(0) * 256 + tl.arange(0, 256)")
    s.line(f"tl.store({y} + i, tl.load({x} + i, mask=i < {n}) * 2, mask=i < {n})")
    return to_object(s.step(4, 4, **options).kernel.code, gpu().number)


@needs_cuda
@pytest.mark.parametrize("options", [{}, {"launch_pdl": True}])
def test_a_kernel_runs(options: dict) -> None:
    d = device()
    x = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    a, b = d.allocate(4000, "x"), d.allocate(4000, "y")
    unit = Code(d, scaled(**options)).unit(0)
    y = np.empty_like(x)
    with d.current():
        d.check(d.api.cuMemcpyHtoD(a.address, x.ctypes.data, 4000), "in")
        stream = d.stream()
        unit.launch(int(stream), [a.address, b.address], 4)
        unit.launch(int(stream), [b.address, b.address], 4)
        d.synchronize(stream)
        d.check(d.api.cuMemcpyDtoH(y.ctypes.data, b.address, 4000), "out")
    np.testing.assert_array_equal(y, 4 * x)


@needs_cuda
def test_a_fill_sets_bytes() -> None:
    d = device()
    a = d.allocate(100, "x")
    y = np.zeros(100, np.uint8)
    with d.current():
        stream = d.stream()
        Code(d, abi_cuda.pack(abi_cuda.Fill(100, 7))).unit(0).launch(int(stream), [a.address], 1)
        d.synchronize(stream)
        d.check(d.api.cuMemcpyDtoH(y.ctypes.data, a.address, 100), "out")
    assert (y == 7).all()


@needs_cuda
def test_more_memory_than_there_is_tells_what_is_free() -> None:
    with pytest.raises(DeviceMemoryError, match="free"):
        device().allocate(1 << 45, "the weights")


@needs_cuda
def test_a_gpu_that_is_not_there() -> None:
    with pytest.raises(NoDeviceError, match="GPU 99"):
        Device.open(99)


@needs_cuda
def test_code_for_another_gpu_is_refused() -> None:
    other = 80 if gpu().number != 80 else 90
    s = Source("nothing")
    y = s.pointer(Out(0), DType.F32)
    s.line(f"tl.store({y}, 1.0)")
    raw = to_object(s.step(1).kernel.code, other)
    with pytest.raises(FingerprintError, match="GPU 0"):
        Code(device(), raw).unit(0)


@needs_cuda
def test_pointers_tell_where_they_are() -> None:
    d = device()
    a, b = d.allocate(64, "x"), d.pinned(64)
    assert d.pointer(a.address) == (2, 0)
    assert d.pointer(b.address)[0] == 1
    assert d.pointer(np.zeros(8).ctypes.data)[0] == 0
