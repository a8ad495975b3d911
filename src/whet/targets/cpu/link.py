"""Links the objects of kernels into one blob of position-independent code.

The blob is read-only and executable wherever it is mapped at a page boundary: each object's
read-only data and text, one after another, with the relocations between them resolved. Nothing in
it is ever written, and nothing outside it is referenced: what code needs from outside (threads,
futexes) comes in as pointers. Relocations are those of the System V ABI supplements for x86-64
and AArch64 ("ELF for the Arm 64-bit Architecture").
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable
from typing import Any

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.relocation import RelocationSection
from elftools.elf.sections import SymbolTableSection

from whet.errors import InternalError
from whet.targets.base import Linked

PAGE = 4096
_LINE = 64  # sections start on a cache line, so that loops lie as they did when they were timed alone
_ALLOC, _WRITE, _MAX_ALIGN = 0x2, 0x1, 4096
_FILL = {"EM_X86_64": b"\xcc", "EM_AARCH64": b"\0"}  # int3; an undefined instruction


def link(objects: Iterable[bytes]) -> Linked:
    """One blob (whole pages, to be mapped at a page boundary) from relocatable ELF objects; identical ones are linked
    once.

    InternalError: a section that is written to, an unresolved symbol, a relocation that is not
    PC-relative into the same object, two definitions of one symbol, mixed machines.
    """
    out = bytearray()
    symbols: dict[str, int] = {}
    machine = ""
    for n, raw in enumerate(dict.fromkeys(objects)):
        obj = _Object(raw, n)
        if machine and obj.machine != machine:
            raise InternalError("objects for different machines in one plan", why=f"{machine} and {obj.machine}")
        machine = obj.machine
        obj.place(out)
        obj.relocate(out)
        for name, offset in obj.exports():
            if name in symbols:
                raise InternalError(f"the symbol {name} is defined twice", where="linking a plan's code")
            symbols[name] = offset
    _pad(out, PAGE, _FILL.get(machine, b"\0"))
    return Linked(bytes(out), symbols)


class _Object:
    """One ELF object: its kept sections and where they lie in the blob."""

    def __init__(self, raw: bytes, number: int) -> None:
        try:
            self.elf = ELFFile(io.BytesIO(raw))
            self.sections = list(self.elf.iter_sections())
        except (ELFError, struct.error, ValueError) as e:
            raise InternalError(f"object {number} is not ELF", why=str(e)) from e
        self.machine: str = self.elf["e_machine"]
        if self.elf["e_type"] != "ET_REL" or self.machine not in _FILL:
            raise InternalError(f"object {number} is not a relocatable object of a known machine",
                                why=f"{self.elf['e_type']}, {self.machine}")
        tables = [s for s in self.sections if isinstance(s, SymbolTableSection)]
        self.table: list[Any] = list(tables[0].iter_symbols()) if tables else []
        self.base: dict[int, int] = {}
        names = [s.name for s in self.table if s["st_info"]["bind"] == "STB_GLOBAL"]
        self.name = ", ".join(names[:3]) or f"object {number}"

    def place(self, out: bytearray) -> None:
        """Append the sections that are loaded; unwind tables are not needed (kernels do not throw)."""
        for i, s in enumerate(self.sections):
            if not s["sh_flags"] & _ALLOC or s.name.startswith(".eh_frame") or s["sh_size"] == 0:
                continue
            if s["sh_flags"] & _WRITE or s["sh_type"] == "SHT_NOBITS":
                self._fail(f"the section {s.name} is writable")
            align = max(_LINE, s["sh_addralign"])
            if align > _MAX_ALIGN:
                self._fail(f"the section {s.name} wants an alignment of {align}")
            _pad(out, align, _FILL[self.machine])
            self.base[i] = len(out)
            out += s.data()

    def relocate(self, out: bytearray) -> None:
        """Resolve every relocation of the placed sections."""
        apply = _x86_64 if self.machine == "EM_X86_64" else _aarch64
        for s in self.sections:
            if not isinstance(s, RelocationSection) or s["sh_info"] not in self.base:
                continue
            if not s.is_RELA():
                self._fail("relocations without addends")
            base, size = self.base[s["sh_info"]], self.sections[s["sh_info"]]["sh_size"]
            for r in s.iter_relocations():
                if r["r_offset"] + 4 > size:
                    self._fail("a relocation outside its section")
                at = base + r["r_offset"]
                target = self._address(self.table[r["r_info_sym"]]) + r["r_addend"]
                if not apply(out, r["r_info_type"], at, target):
                    self._fail(f"relocation type {r['r_info_type']} against "
                               f"{self.table[r['r_info_sym']].name or 'a section'} is not PC-relative")

    def exports(self) -> Iterable[tuple[str, int]]:
        """Global functions and their offsets in the blob."""
        for s in self.table:
            info = s["st_info"]
            if info["bind"] == "STB_GLOBAL" and info["type"] == "STT_FUNC" and s["st_shndx"] in self.base:
                yield s.name, self._address(s)

    def _address(self, symbol: Any) -> int:
        index = symbol["st_shndx"]
        if index == "SHN_UNDEF":
            self._fail(f"the symbol {symbol.name} is not defined (a call into a library?)")
        if index not in self.base:
            self._fail(f"the symbol {symbol.name} lies in a section that is not linked")
        return self.base[index] + symbol["st_value"]

    def _fail(self, why: str) -> None:
        raise InternalError("generated code cannot be linked into a plan", where=self.name, why=why)


def _pad(out: bytearray, align: int, fill: bytes) -> None:
    out += fill * (-len(out) % align)


def _x86_64(out: bytearray, kind: int, at: int, target: int) -> bool:
    """R_X86_64_PC32 (2) and R_X86_64_PLT32 (4): 32 bits of target - place."""
    if kind not in (2, 4):
        return False
    struct.pack_into("<i", out, at, target - at)
    return True


def _aarch64(out: bytearray, kind: int, at: int, target: int) -> bool:
    """PREL32, ADR_PREL_PG_HI21 with the LO12 forms that go with it, CALL26 and JUMP26.

    Page-relative forms hold because the blob lies at a page boundary.
    """
    word, = struct.unpack_from("<I", out, at)
    if kind == 261:  # R_AARCH64_PREL32
        struct.pack_into("<i", out, at, target - at)
        return True
    if kind == 275:  # R_AARCH64_ADR_PREL_PG_HI21
        pages = (target >> 12) - (at >> 12)
        if not -(1 << 20) <= pages < 1 << 20:
            return False
        word = word & ~0x60FFFFE0 | (pages & 3) << 29 | (pages >> 2 & 0x7FFFF) << 5
    elif kind in (282, 283):  # R_AARCH64_JUMP26, R_AARCH64_CALL26
        words = (target - at) >> 2
        if not -(1 << 25) <= words < 1 << 25:
            return False
        word = word & ~0x3FFFFFF | words & 0x3FFFFFF
    elif kind in _LO12:
        shift = _LO12[kind]
        word = word & ~(0xFFF << 10) | ((target & 0xFFF) >> shift) << 10
    else:
        return False
    struct.pack_into("<I", out, at, word)
    return True


# R_AARCH64_ADD_ABS_LO12_NC and LDST8/16/32/64/128_ABS_LO12_NC: how far the offset is shifted.
_LO12 = {277: 0, 278: 0, 284: 1, 285: 2, 286: 3, 299: 4}
