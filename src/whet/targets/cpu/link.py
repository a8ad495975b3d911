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
from functools import lru_cache
from typing import Any, NamedTuple

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


class _Section(NamedTuple):
    name: str
    kind: str
    flags: int
    align: int
    size: int
    data: bytes  # of the sections that are loaded


class _Symbol(NamedTuple):
    name: str
    bind: str
    kind: str
    section: Any  # its number, or SHN_UNDEF and the like
    value: int


class _Relocations(NamedTuple):
    section: int
    addends: bool
    entries: tuple[tuple[int, int, int, int], ...]  # offset, type, symbol, addend


class _Elf(NamedTuple):
    kind: str
    machine: str
    sections: tuple[_Section, ...]
    symbols: tuple[_Symbol, ...]
    relocated: tuple[_Relocations, ...]


@lru_cache(256)  # every plan has the driver, and plans that are built one after another have kernels in common
def _read(raw: bytes) -> _Elf:
    """What linking needs of an ELF file."""
    elf = ELFFile(io.BytesIO(raw))
    sections: list[_Section] = []
    symbols: list[_Symbol] | None = None
    relocated: list[_Relocations] = []
    for s in elf.iter_sections():
        loaded = s["sh_flags"] & _ALLOC and s["sh_type"] != "SHT_NOBITS"
        sections.append(_Section(s.name, s["sh_type"], s["sh_flags"], s["sh_addralign"], s["sh_size"],
                                 s.data() if loaded else b""))
        if isinstance(s, SymbolTableSection) and symbols is None:
            symbols = [_Symbol(t.name, t["st_info"]["bind"], t["st_info"]["type"], t["st_shndx"], t["st_value"])
                       for t in s.iter_symbols()]
        if isinstance(s, RelocationSection):
            addends = s.is_RELA()
            entries = [(r["r_offset"], r["r_info_type"], r["r_info_sym"], r["r_addend"] if addends else 0)
                       for r in s.iter_relocations()]
            relocated.append(_Relocations(s["sh_info"], addends, tuple(entries)))
    return _Elf(elf["e_type"], elf["e_machine"], tuple(sections), tuple(symbols or ()), tuple(relocated))


class _Object:
    """One ELF object: its kept sections and where they lie in the blob."""

    def __init__(self, raw: bytes, number: int) -> None:
        try:
            self.elf = _read(raw)
        except (ELFError, struct.error, ValueError) as e:
            raise InternalError(f"object {number} is not ELF", why=str(e)) from e
        self.machine = self.elf.machine
        if self.elf.kind != "ET_REL" or self.machine not in _FILL:
            raise InternalError(f"object {number} is not a relocatable object of a known machine",
                                why=f"{self.elf.kind}, {self.machine}")
        self.base: dict[int, int] = {}
        names = [s.name for s in self.elf.symbols if s.bind == "STB_GLOBAL"]
        self.name = ", ".join(names[:3]) or f"object {number}"

    def place(self, out: bytearray) -> None:
        """Append the sections that are loaded; unwind tables are not needed (kernels do not throw)."""
        for i, s in enumerate(self.elf.sections):
            if not s.flags & _ALLOC or s.name.startswith(".eh_frame") or s.size == 0:
                continue
            if s.flags & _WRITE or s.kind == "SHT_NOBITS":
                self._fail(f"the section {s.name} is writable")
            align = max(_LINE, s.align)
            if align > _MAX_ALIGN:
                self._fail(f"the section {s.name} wants an alignment of {align}")
            _pad(out, align, _FILL[self.machine])
            self.base[i] = len(out)
            out += s.data

    def relocate(self, out: bytearray) -> None:
        """Resolve every relocation of the placed sections."""
        apply = _x86_64 if self.machine == "EM_X86_64" else _aarch64
        for s in self.elf.relocated:
            if s.section not in self.base:
                continue
            if not s.addends:
                self._fail("relocations without addends")
            base, size = self.base[s.section], self.elf.sections[s.section].size
            for offset, kind, index, addend in s.entries:
                if offset + 4 > size:
                    self._fail("a relocation outside its section")
                at = base + offset
                target = self._address(self.elf.symbols[index]) + addend
                if not apply(out, kind, at, target):
                    self._fail(f"relocation type {kind} against "
                               f"{self.elf.symbols[index].name or 'a section'} is not PC-relative")

    def exports(self) -> Iterable[tuple[str, int]]:
        """Global functions and their offsets in the blob."""
        for s in self.elf.symbols:
            if s.bind == "STB_GLOBAL" and s.kind == "STT_FUNC" and s.section in self.base:
                yield s.name, self._address(s)

    def _address(self, symbol: _Symbol) -> int:
        if symbol.section == "SHN_UNDEF":
            self._fail(f"the symbol {symbol.name} is not defined (a call into a library?)")
        if symbol.section not in self.base:
            self._fail(f"the symbol {symbol.name} lies in a section that is not linked")
        return self.base[symbol.section] + symbol.value

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
