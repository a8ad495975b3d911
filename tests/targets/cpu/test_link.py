"""Linking: objects become one blob that runs wherever it is mapped; what cannot be mapped so is refused."""

from __future__ import annotations

import ctypes
import mmap

import llvmlite.binding as llvm
import numpy as np
import pytest

from whet.errors import InternalError
from whet.targets.cpu import driver, isa
from whet.targets.cpu.compile import to_object
from whet.targets.cpu.link import PAGE, link
from whet.targets.cpu.llvm import Fn

HOST = isa.host()


def lookup(name: str, table: np.ndarray, target: isa.Isa = HOST) -> str:
    """out[i] = table[i] for i in [begin, end); the table lies in read-only data."""
    k = Fn(name, target)
    out, t = k.arg_ptr(0), k.table(table)
    for i in k.range(k.begin, k.end):
        k.store(k.load("float", t + i * 4), out + i * 4)
    return k.finish()


def run(code: bytes, offset: int, args: list[int], begin: int, end: int) -> None:
    mapping = mmap.mmap(-1, len(code), prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    mapping.write(code)
    base = np.frombuffer(mapping, np.uint8).ctypes.data
    f = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)(base + offset)
    f(np.array(args, np.int64).ctypes.data, begin, end, None)


def test_code_finds_its_own_data_after_linking() -> None:
    rng = np.random.default_rng(1)
    tables = [rng.random(n, np.float32) for n in (3, 17, 64, 1000)]
    made = link([to_object(lookup(f"f{i}", t), HOST) for i, t in enumerate(tables)])
    assert len(made.code) % PAGE == 0
    for i, t in enumerate(tables):
        out = np.zeros_like(t)
        run(made.code, made.symbols[f"f{i}"], [out.ctypes.data], 0, len(t))
        assert np.array_equal(out, t)


def test_equal_objects_are_linked_once_and_the_result_depends_on_nothing_else() -> None:
    a, b = (to_object(lookup(n, np.ones(9, np.float32)), HOST) for n in "ab")
    assert link([a, b, a]) == link([a, b])


def test_two_definitions_of_a_symbol_are_refused() -> None:
    with pytest.raises(InternalError, match="twice"):
        link([to_object(lookup("a", np.full(4, v, np.float32)), HOST) for v in (1, 2)])


@pytest.mark.parametrize(("name", "text"), [
    ("a call into a library", "declare double @sin(double)\n"
     "define double @f(double %x) {\n %y = call double @sin(double %x)\n ret double %y\n}"),
    ("writable data", "@g = global i32 7\n"
     "define i32 @f() {\n %v = load i32, ptr @g\n store i32 1, ptr @g\n ret i32 %v\n}"),
    ("an absolute address", "@g = constant ptr @f\ndefine ptr @f() {\n %v = load volatile ptr, ptr @g\n ret ptr %v\n}"),
    ("thread-local data", "@g = thread_local global i32 7\ndefine i32 @f() {\n %v = load i32, ptr @g\n ret i32 %v\n}"),
])
def test_what_is_not_self_contained_is_refused(name: str, text: str) -> None:
    with pytest.raises(InternalError):
        link([to_object(f'target triple = "{HOST.triple}"\n{text}', HOST)])


@pytest.mark.parametrize("raw", [b"", b"not ELF", b"\x7fELF" + bytes(100)])
def test_what_is_not_an_object_is_refused(raw: bytes) -> None:
    with pytest.raises(InternalError):
        link([raw])


def test_objects_of_two_machines_are_refused() -> None:
    with pytest.raises(InternalError, match="machines"):
        link([to_object(lookup("a", np.ones(4, np.float32), i), i) for i in (isa.AVX2, isa.NEON)])


def test_arm_addresses_are_page_and_low_parts() -> None:
    """The adrp/add pair of a linked AArch64 function, decoded, gives the table's place."""
    table = np.random.default_rng(2).random(50, np.float32)
    filler = to_object(lookup("first", np.ones(3000, np.float32), isa.NEON), isa.NEON)
    made = link([filler, to_object(lookup("f", table, isa.NEON), isa.NEON)])
    place = made.code.index(table.tobytes())
    words = np.frombuffer(made.code, "<u4")
    found = []
    for i in range(made.symbols["f"] // 4, len(words) - 1):
        w = int(words[i])
        if w & 0x9F000000 == 0x90000000:  # adrp
            pages = (w >> 5 & 0x7FFFF) << 2 | w >> 29 & 3
            pages -= (pages & 1 << 20) << 1
            add = next(int(x) for x in words[i + 1 : i + 12] if x & 0xFF800000 == 0x91000000)
            found.append((i * 4 & -4096) + pages * 4096 + (add >> 10 & 0xFFF))
    assert place in found


@pytest.mark.parametrize("target", [HOST, isa.AVX2, isa.NEON], ids=lambda i: i.name)
def test_the_driver_links_for_every_target(target: isa.Isa) -> None:
    made = link([driver.to_driver_object(target)])
    assert {"whet_pool_create", "whet_pool_destroy", "whet_run"} == set(made.symbols)
    assert len(made.code) <= 2 * PAGE


def test_llvm_is_the_one_that_was_tried() -> None:
    assert llvm.llvm_version_info[0] >= 15  # opaque pointers
