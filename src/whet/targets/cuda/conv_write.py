"""A tile of pixels by channels: where it lies in every tensor, and the epilogue from its sums to memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from whet.ir.dtypes import DType
from whet.ir.expr import ANCHOR, Leaf
from whet.ir.region import Region, Tensor
from whet.ir.symbolic import Dim, Shape
from whet.targets.base import Arg, In, Out
from whet.targets.cuda.conv_problem import merged
from whet.targets.cuda.expr import emit
from whet.targets.cuda.kernel import REGISTER, Source
from whet.targets.cuda.shapes import broadcast_strides


class Pixels:
    """Pixels `m` (the name of a vector of flat indices over `lead`, all inside), and their coordinates on demand."""

    def __init__(self, s: Source, lead: Shape, m: str, coords: Sequence[str] = ()) -> None:
        """coords: names of the coordinates where the kernel has them already, some of them scalars maybe."""
        self.s, self.lead, self.m = s, lead, m
        self._coords, self._given = list(coords), bool(coords)

    @property
    def coords(self) -> list[str]:
        """Names of the coordinates, one for each of `lead` ("" where that is 1)."""
        if not self._coords:
            left, found = self.m, []
            inner = [i for i, d in enumerate(self.lead) if d != 1]
            for i in reversed(range(len(self.lead))):
                if self.lead[i] == 1:
                    found.append("")
                elif i == inner[0]:
                    found.append(left)
                else:
                    d = self.s.integer(self.lead[i])
                    found.append(self.s.name_of(f"{left} % {d}", "c"))
                    left = self.s.name_of(f"{left} // {d}", "q")
            self._coords = found[::-1]
        return self._coords

    def offset(self, strides: Shape) -> str:
        """Text of the pixels' offsets in a tensor with these strides along `lead`; "" for 0."""
        one = merged(self.lead, strides)
        if one is not None:
            return "" if one == 0 else times(self.s, self.m, one)
        text = plus(*(times(self.s, c, st) for c, st in zip(self.coords, strides) if c and st != 0))
        return f"{text} + {self.m} * 0" if self._given and text else text


class Writer:
    """The epilogue of a region (its bias already inside: `with_bias`) over tiles of pixels x channels.

    offsets: of operands' first elements, in elements (`conv_transpose` writes its pixels in phases).
    """

    def __init__(self, s: Source, region: Region, offsets: Mapping[Arg, Dim] | None = None) -> None:
        self.s, self.region = s, region
        self.offsets = dict(offsets or {})
        leaves = region.epilogue.leaves if region.epilogue is not None else ()
        self.inputs = {k: s.pointer(In(k), region.inputs[k].dtype, region.inputs[k].aligned) for k in leaves}
        self.out = s.pointer(Out(0), region.output.dtype, region.output.aligned)
        self._same: dict[int, str] = {}  # what is loaded already and does not depend on the pixels

    def write(self, pixels: Pixels, column: str, sums: str, rows: str = "", columns: str = "",
              across: bool = False) -> str:
        """Apply the epilogue to `sums` [pixels, channels] and store it; the name of what was stored.

        column: a name of the channels [.]; rows, columns: names of masks over pixels and channels, or "". Tiles that
        one program writes one after the other have the same channels, at the same level of the text.
        across: tiles are [channels, pixels].
        """
        tall, flat = ("[None, :]", "[:, None]") if across else ("[:, None]", "[None, :]")

        def place(pointer: str, arg: Arg, t: Tensor, whole: bool = False) -> tuple[str, str]:
            """Text of the address (of the tile's shape if `whole`) and of its mask."""
            strides = broadcast_strides(t, len(pixels.lead) + 1)
            row, col = pixels.offset(strides[:-1]), times(self.s, column, strides[-1]) if strides[-1] != 0 else ""
            if whole:
                row, col = row or f"{pixels.m} * 0", col or f"{column} * 0"
            first = self.offsets.get(arg, 0)
            start = pointer if first == 0 else f"{pointer} + {self.s.integer(first)}"
            address = plus(start, row and f"({row}){tall}", col and f"({col}){flat}")
            masks = [f"{rows}{tall}" if rows and row else "", f"{columns}{flat}" if columns and col else ""]
            return address, " & ".join(x for x in masks if x)

        def leaf(x: Leaf) -> str:
            if x.source == ANCHOR:
                return sums
            if x.source in self._same:
                return self._same[x.source]
            t = self.region.inputs[x.source]
            address, mask = place(self.inputs[x.source], In(x.source), t)
            value = self.s.name_of(f"tl.load({address}{masked(mask, t.dtype)})", "v")
            value = self.s.name_of(f"{value} != 0", "v") if t.dtype is DType.BOOL else value
            if not pixels.offset(broadcast_strides(t, len(pixels.lead) + 1)[:-1]):
                self._same[x.source] = value
            return value

        e, out = self.region.epilogue, self.region.output
        result = sums if e is None else emit(self.s, e, leaf)
        kind = "uint8" if out.dtype is DType.BOOL else REGISTER.get(out.dtype, "uint8")
        if e is None or out.dtype is DType.BOOL:
            result = self.s.name_of(f"{result}.to(tl.{kind})", "v")
        address, mask = place(self.out, Out(0), out, whole=True)
        self.s.line(f"tl.store({address}, {result}{f', mask={mask}' if mask else ''})")
        return result


def masked(mask: str, dtype: DType) -> str:
    """Text of a load's further arguments: what the mask leaves out is 0."""
    if not mask:
        return ""
    return f", mask={mask}, other={'0' if dtype.is_integer or dtype is DType.BOOL else '0.0'}"


def times(s: Source, text: str, factor: Dim) -> str:
    """Text of a product with a known or symbolic factor."""
    return text if factor == 1 else f"{text} * {s.integer(factor)}"


def plus(*terms: str) -> str:
    """Text of the sum of those terms that are there."""
    return " + ".join(t for t in terms if t)
