"""LLVM IR to object code and to callable functions."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from functools import cache

import llvmlite.binding as llvm

from whet.errors import InternalError
from whet.targets.cpu.isa import Isa

_lock = threading.Lock()  # LLVM's own state is not thread-safe; parallel builds use processes


@cache
def _initialize(foreign: bool) -> None:
    if foreign:
        llvm.initialize_all_targets()
        llvm.initialize_all_asmprinters()
    else:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()


def target_machine(isa: Isa) -> llvm.TargetMachine:
    """A fresh target machine: position-independent, small code model. Engines own theirs."""
    _initialize(isa.name == "neon")
    return llvm.Target.from_triple(isa.triple).create_target_machine(
        cpu=isa.cpu, features=isa.feature_string, opt=3, reloc="pic", codemodel="small")


def _module(code: str, isa: Isa, tm: llvm.TargetMachine) -> llvm.ModuleRef:
    try:
        mod = llvm.parse_assembly(code)
        mod.verify()
    except RuntimeError as e:
        raise InternalError("a kernel's LLVM IR is not valid", why=str(e)) from e
    pb = llvm.create_pass_builder(tm, llvm.create_pipeline_tuning_options(speed_level=3))
    pm = llvm.create_new_module_pass_manager()
    pm.add_sroa_pass()
    pm.add_instruction_combine_pass()
    pm.add_simplify_cfg_pass()
    pm.add_loop_simplify_pass()
    pm.add_loop_rotate_pass()
    pm.add_new_gvn_pass()
    pm.add_instruction_combine_pass()
    pm.add_simplify_cfg_pass()
    pm.add_dead_code_elimination_pass()
    pm.run(mod, pb)
    return mod


def to_object(code: str, isa: Isa) -> bytes:
    """Optimized object code (ELF) of a module."""
    with _lock:
        tm = target_machine(isa)
        return tm.emit_object(_module(code, isa, tm))


def to_assembly(code: str, isa: Isa) -> str:
    """The assembly text, for people and for tests of foreign targets."""
    with _lock:
        tm = target_machine(isa)
        return tm.emit_assembly(_module(code, isa, tm))


class Jit:
    """Objects loaded into this process: for tests and benchmarks of single kernels."""

    def __init__(self, isa: Isa, *codes: str) -> None:
        with _lock:
            tm = target_machine(isa)
            self._engine = llvm.create_mcjit_compiler(llvm.parse_assembly(f'target triple = "{isa.triple}"'), tm)
        for code in codes:
            obj = to_object(code, isa)
            with _lock:
                self._engine.add_object_file(llvm.ObjectFileRef.from_data(obj))
        self._engine.finalize_object()

    def function(self, symbol: str) -> Callable[[int, int, int, int], None]:
        """The kernel as a ctypes function (args pointer, begin, end, scratch pointer)."""
        address = self._engine.get_function_address(symbol)
        return ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)(address)
