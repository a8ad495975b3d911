"""Micro-kernels of 8-bit products: exact i32 sums, whatever the instruction set.

A micro-kernel adds  acc[r][j] += sum_p A[r, p] * B[p, columns of vector j]  in i32, which wraps. How an instruction set
multiplies bytes is a `Dot`: K is taken in groups of `group` elements, a step of the kernel each.

- `vpdpbusd`: four u8 by four i8 per lane (AVX-512 VNNI, or AVX-VNNI in 256 bits);
- `vpmaddwd`: two i16 by two i16 per lane (AVX2, AVX-512), then an addition; exact, where `vpmaddubsw` saturates;
- `sdot`: four i8 by four i8 per lane (NEON with the dot product extension);
- `smlal`: one i16 by one i16 per lane (NEON).

Operands:

- A by `Row`s, as `microkernel.fma`, its elements as `Dot.stored` says: bytes of the sign that the instruction takes, or
  widened to i16. `Dot.convert` makes such elements of a vector of others. Taking i8 as u8 adds 128 to every element
  (u8 as i8 takes 128 away): the sums are set right by starting from `Dot.correction` times the sums of B's columns.
- B as a packed panel of i8, 64-byte aligned: [ceil(K / group)][NR][group], NR = nv * lanes (`packing_int8`). Zeros fill
  K up, so that A's last step may read any bytes there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from whet.ir.dtypes import DType
from whet.targets.cpu.isa import Isa
from whet.targets.cpu.llvm import Fn, IntLike, Val, vec
from whet.targets.cpu.microkernel import Accumulators, Fetch, Row, _advanced, _blocks


@dataclass(frozen=True)
class Dot:
    """How an instruction set multiplies bytes of A by i8 of B.

    source: the type of A's elements in the model; stored: as the micro-kernel reads them (U8, I8 or I16).
    """

    instruction: str
    group: int
    source: DType
    stored: DType

    @property
    def step(self) -> int:
        """Bytes of a row of A that a step reads."""
        return self.group * self.stored.size

    @property
    def correction(self) -> int:
        """Sums start from this many times the sums of B's columns."""
        return {(DType.I8, DType.U8): -128, (DType.U8, DType.I8): 128}.get((self.source, self.stored), 0)

    def convert(self, k: Fn, v: Val) -> Val:
        """Elements of `source` as elements of `stored`."""
        if self.stored is DType.I16:
            return k.cast("sext" if self.source is DType.I8 else "zext", v, "i16")
        return v ^ -128 if self.correction else v

    def code(self, value: int) -> int:
        """An element's bits in `stored`, as a signed number: what `convert` makes of it."""
        if self.stored is DType.I16:
            return value
        return ((value ^ 0x80 if self.correction else value) + 128) % 256 - 128

    def operand(self, k: Fn, p: Val, lanes: int) -> Val:
        """One step of a row of A, in every lane."""
        if self.instruction == "smlal":
            return k.cast("sext", k.splat(k.load("i16", p), lanes), "i32")
        return k.splat(k.load("i32", p, align=self.stored.size), lanes)

    def panel(self, k: Fn, p: Val, lanes: int) -> Val:
        """One step of a vector of columns of B."""
        v = k.load("i8", p, lanes * self.group, align=min(64, lanes * self.group))
        match self.instruction:
            case "vpmaddwd":
                return k.cast("sext", v, "i16")
            case "smlal":
                return k.cast("sext", v, "i32")
        return k.bitcast(v, vec("i32", lanes))

    def add(self, k: Fn, acc: Val, a: Val, b: Val) -> Val:
        """acc + a . b"""
        lanes, ty = acc.lanes, acc.ty
        match self.instruction:
            case "vpdpbusd":
                return k.call(f"llvm.x86.avx512.vpdpbusd.{32 * lanes}", ty, [acc, a, b])
            case "vpmaddwd":
                name = "llvm.x86.avx512.pmaddw.d.512" if lanes == 16 else "llvm.x86.avx2.pmadd.wd"
                return acc + k.call(name, ty, [k.bitcast(a, b.ty), b])
            case "sdot":
                bytes_ = vec("i8", 4 * lanes)
                return k.call("llvm.aarch64.neon.sdot.v4i32.v16i8", ty, [acc, k.bitcast(a, bytes_),
                                                                       k.bitcast(b, bytes_)])
        return acc + k.op("mul", a, b)


def dot_of(isa: Isa, source: DType) -> Dot:
    """The best way of an instruction set to multiply elements of `source` (U8 or I8) by i8."""
    if isa.vnni or isa.avx_vnni:
        return Dot("vpdpbusd", 4, source, DType.U8)
    if isa.name == "neon":
        return Dot("sdot", 4, source, DType.I8) if "dotprod" in isa.features else Dot("smlal", 1, source, DType.I16)
    return Dot("vpmaddwd", 2, source, DType.I16)


def dot_int8(k: Fn, dot: Dot, acc: Accumulators, rows: Sequence[Row], panel: Val, steps: IntLike, *, unroll: int = 4,
             fetch: Fetch | None = None) -> None:
    """acc += A[rows] @ panel over `steps` groups of K.

    rows:  acc.mr addresses; step p of a row lies `p * dot.step` bytes on, each step readable as a whole.
    panel: [steps][nv * lanes][group] i8, 64-byte aligned.
    fetch: what else to bring in on the way.
    """
    lanes, nv = acc.lanes, acc.nv
    vector = lanes * dot.group
    for p, count in _blocks(k, steps, unroll):
        here = _advanced(rows, p * dot.step)
        b_here = panel + p * (nv * vector)
        if fetch and count == unroll:
            fetch.lines(k, p // unroll)
        at = [disp + u * dot.step for u in range(count) for _, disp in here]
        shared = len(set(at)) < len(at) and len({id(base) for base, _ in here}) == 1
        for u in range(count):
            if shared and u:  # windows overlap: to keep what was loaded for other rows takes more registers than exist
                here = [(base, disp) for base in [_hidden(here[0][0])] for _, disp in here]
            b = [dot.panel(k, b_here + (u * nv + j) * vector, lanes) for j in range(nv)]
            for r, (base, disp) in enumerate(here):
                a = dot.operand(k, base + (disp + u * dot.step), lanes)
                for j in range(nv):
                    acc.set(r, j, dot.add(k, acc.get(r, j), a, b[j]))


def _hidden(p: Val) -> Val:
    """The same address, through an empty assembly statement that the optimizer cannot see into."""
    return p.fn.emit("ptr", f'call ptr asm sideeffect "", "=r,0"(ptr {p.ref})')


def copy_elements(k: Fn, dot: Dot, src: Val, dst: Val, count: IntLike) -> None:
    """`count` elements of A from `dot.source` to `dot.stored`: exactly these are read and written."""
    def one(i: IntLike, lanes: int) -> None:
        k.store(dot.convert(k, k.load("i8", src + i, lanes)), dst + i * dot.stored.size, align=1)

    _exactly(k, count, k.isa.width // dot.stored.size, one)


def fill_elements(k: Fn, dot: Dot, value: int, dst: Val, count: IntLike) -> None:
    """`count` elements of `dot.stored` that stand for the code `value`."""
    size = dot.stored.size

    def one(i: IntLike, lanes: int) -> None:
        k.store(k.const(vec(f"i{8 * size}", lanes), dot.code(value)), dst + i * size, align=1)

    _exactly(k, count, k.isa.width // size, one)


def _exactly(k: Fn, count: IntLike, width: int, one: Callable[[IntLike, int], None]) -> None:
    """one(first, lanes) over `count` elements by vectors, some twice rather than masked."""
    if isinstance(count, Val):
        whole = count - count % width
        for i in k.range(0, whole, width):
            one(i, width)
        for i in k.range(whole, count):
            one(i, 1)
        return
    lanes = width if count >= width else 1 << count.bit_length() >> 1
    if lanes:
        for i in k.range(0, count - lanes + 1, lanes):
            one(i, lanes)
        if count % lanes:
            one(count - lanes, lanes)
