"""Kernels that begin while the one before them ends: they wait at their top, and only where a GPU knows how to."""

import pytest

pytest.importorskip("triton")
from whet.abi_cuda import Cubin, unpack
from whet.ir.dtypes import DType
from whet.targets.base import In, Out
from whet.targets.cuda.compile import to_object
from whet.targets.cuda.kernel import Source


def kernel(**options: bool) -> str:
    s = Source("twice")
    x, y = s.pointer(In(0), DType.F32), s.pointer(Out(0), DType.F32)
    s.helper("double", "def double(x):\n    return x * 2")
    s.line("i = tl.program_id(0) * 128 + tl.arange(0, 128)")
    s.line(f"tl.store({y} + i, double(tl.load({x} + i)))")
    return s.step(4, 4, 1, **options).kernel.code


def test_a_dependent_kernel_waits_before_its_first_load() -> None:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from whet.targets.cuda.compile import _waiting, function, recipe_of

    unit, _ = unpack(to_object(kernel(launch_pdl=True), 90))
    assert isinstance(unit, Cubin)
    assert unit.dependent
    fn = function(_waiting(recipe_of(kernel(launch_pdl=True))))
    made = triton.compile(ASTSource(fn=fn, signature=dict.fromkeys(fn.arg_names, "*fp32")),
                          target=GPUTarget("cuda", 90, 32), options={"num_warps": 4})
    ptx = made.asm["ptx"]
    wait, launch = ptx.index("griddepcontrol.wait"), ptx.index("griddepcontrol.launch_dependents")
    assert wait < launch < ptx.index("ld.global")


@pytest.mark.parametrize(("number", "options"), [(80, {"launch_pdl": True}), (90, {"launch_pdl": False})], ids=str)
def test_elsewhere_a_kernel_is_launched_when_the_one_before_is_complete(number: int, options: dict[str, bool]) -> None:
    unit, _ = unpack(to_object(kernel(**options), number))
    assert isinstance(unit, Cubin)
    assert not unit.dependent
